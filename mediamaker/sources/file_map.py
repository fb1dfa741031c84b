# SPDX-License-Identifier: GPL-3.0-or-later
"""Where the files of a volume lie: what the readers of file systems give, and nothing mounted.

Made for looking at disks of others, in whatever state they are: a reader maps what it can and
puts into ``problems`` what it can't; only a volume that makes no sense at all is an error.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from enum import StrEnum

PRead = Callable[[int, int], bytes]
"""The bytes of ``[offset, offset + size)`` of a volume or disk; fewer past its end."""

FILE_COUNT_MAX = 2_000_000
RECORD_PREFIX = "file record of "
"""How NTFS's own entry for a file is called; a small file lies in it."""


class Kind(StrEnum):
    """What a name stands for."""

    FILE = "file"
    DIRECTORY = "directory"
    STRUCTURE = "structure"


@dataclass(frozen=True, slots=True)
class MappedFile:
    r"""A file, directory or structure: ``\efi\boot\bootx64.efi``, ``FAT 1``.

    ``pieces`` are (start, size) in the volume, in the order of the content; they may be more
    than ``size`` by the rest of a last cluster, never by more. A file with less of them, or
    none, lies partly elsewhere (in its own file record, or in holes).
    """

    name: str
    kind: Kind
    size: int
    pieces: tuple[tuple[int, int], ...]


@dataclass(frozen=True, slots=True)
class VolumeMap:
    """Everything that has a name in one volume; ``aliases`` are further names of a file."""

    file_system: str
    items: tuple[MappedFile, ...]
    problems: tuple[str, ...] = ()
    aliases: Mapping[str, str] = field(default_factory=dict)
    _index: dict[str, MappedFile] = field(init=False, repr=False, compare=False)

    def __post_init__(self) -> None:
        index: dict[str, MappedFile] = {}
        for item in self.items:
            if item.kind is not Kind.STRUCTURE:
                index.setdefault(item.name.casefold(), item)
        for alias, name in self.aliases.items():
            if name.casefold() in index:
                index.setdefault(alias.casefold(), index[name.casefold()])
        object.__setattr__(self, "_index", index)

    def find(self, path: str) -> MappedFile | None:
        r"""The file or directory at ``path`` (``\boot\bcd``), upper and lower case being equal."""
        return self._index.get(path.casefold())

    def read(self, pread: PRead, item: MappedFile, size_max: int) -> bytes:
        """The first ``size_max`` bytes of ``item``, ``pread`` being that of the volume."""
        parts: list[bytes] = []
        left = min(item.size, size_max)
        for start, size in item.pieces:
            if left <= 0:
                break
            parts.append(pread(start, min(size, left)))
            left -= size
        return b"".join(parts)


def cut_pieces(pieces: Iterable[tuple[int, int]], size: int) -> tuple[tuple[int, int], ...]:
    """The first ``size`` bytes of ``pieces``, adjoining ones become one."""
    cut: list[tuple[int, int]] = []
    for start, piece_size in pieces:
        take = min(piece_size, size)
        if take <= 0:
            break
        if cut and sum(cut[-1]) == start:
            cut[-1] = (cut[-1][0], cut[-1][1] + take)
        else:
            cut.append((start, take))
        size -= take
    return tuple(cut)
