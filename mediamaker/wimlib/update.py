# SPDX-License-Identifier: GPL-3.0-or-later
"""The commands of an update of an image, and how libwim wants them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, assert_never

from mediamaker.wimlib.flags import VERBOSE_ADD, AddFlags, DeleteFlags, UpdateOp
from mediamaker.wimlib.text import PathLike, encode_path, encode_text


@dataclass(frozen=True, slots=True)
class Add:
    """Put ``source``, a file or tree here, at ``target`` in the image; directories merge.

    ``config`` is a capture configuration file, which says what is left out.
    """

    source: PathLike
    target: str
    config: PathLike | None = None
    flags: AddFlags = AddFlags.NONE


@dataclass(frozen=True, slots=True)
class Delete:
    """Delete ``path`` of the image."""

    path: str
    flags: DeleteFlags = DeleteFlags.NONE


@dataclass(frozen=True, slots=True)
class Rename:
    """Move ``source`` of the image to ``target``, replacing what is there as rename(2) does."""

    source: str
    target: str


UpdateCommand = Add | Delete | Rename


class CCommands:
    """The commands as a C array, which lives as long as this object."""

    def __init__(self, ffi: Any, commands: Sequence[UpdateCommand]) -> None:
        self._ffi = ffi
        self._kept: list[Any] = []
        self.count = len(commands)
        self.array = ffi.new("mm_command[]", self.count)
        for index, command in enumerate(commands):
            self._fill(self.array[index], command)

    def _fill(self, c: Any, command: UpdateCommand) -> None:
        match command:
            case Add(source, target, config, flags):
                c.op = UpdateOp.ADD
                c.u.add.source = self._keep(encode_path(source))
                c.u.add.target = self._keep(encode_text(target))
                c.u.add.flags = flags | VERBOSE_ADD
                if config is not None:
                    c.u.add.config = self._keep(encode_path(config))
            case Delete(path, delete_flags):
                c.op = UpdateOp.DELETE
                c.u.deletion.path = self._keep(encode_text(path))
                c.u.deletion.flags = delete_flags
            case Rename(source, target):
                c.op = UpdateOp.RENAME
                c.u.rename.source = self._keep(encode_text(source))
                c.u.rename.target = self._keep(encode_text(target))
            case _:
                assert_never(command)

    def _keep(self, data: bytes) -> Any:
        text = self._ffi.new("char[]", data)
        self._kept.append(text)
        return text
