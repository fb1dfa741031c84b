# SPDX-License-Identifier: GPL-3.0-or-later
"""Adds, deletes and renames files of an image without mounting it: all commands, or none."""

from __future__ import annotations

import threading
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final, assert_never

from mediamaker.errors import MediaError, SourceError, UsageError
from mediamaker.execute.progress import OnEvent
from mediamaker.wim.changing import changed_wim
from mediamaker.wim.images import resolve_image
from mediamaker.wim.meter import NotCarried, WimMeter
from mediamaker.wim.update_commands import AddFile, DeletePath, RenamePath, UpdateLine
from mediamaker.wimlib.events import UpdateProgress, WimEvent
from mediamaker.wimlib.flags import AddFlags, DeleteFlags
from mediamaker.wimlib.update import Add, Delete, Rename, UpdateCommand

_ADD_FLAGS: Final = {
    "--no-replace": AddFlags.NO_REPLACE,
    "--dereference": AddFlags.DEREFERENCE,
    "--unix-data": AddFlags.UNIX_DATA,
    "--no-acls": AddFlags.NO_ACLS,
    "--strict-acls": AddFlags.STRICT_ACLS,
}


@dataclass(frozen=True, slots=True, kw_only=True)
class UpdateResult:
    """What was done to the image ``number``; sizes of the file, in bytes."""

    path: Path
    number: int
    added: int
    deleted: int
    renamed: int
    size_before: int
    size_after: int
    not_carried: tuple[NotCarried, ...] = ()
    warnings: tuple[str, ...] = ()


class _UpdateMeter(WimMeter):
    """Also knows how many commands are done, so that an error can name the line."""

    commands_done = 0

    def __call__(self, event: WimEvent) -> None:
        if isinstance(event, UpdateProgress):
            self.commands_done = event.commands_done
        super().__call__(event)


def update_image(
    path: Path,
    image: str | int | None,
    commands: Sequence[UpdateLine],
    *,
    config_path: Path | None = None,
    rebuild: bool = False,
    threads: int = 0,
    on_event: OnEvent,
    cancel: threading.Event | None = None,
    what: str = "standard input",
) -> UpdateResult:
    """Carry out ``commands``; ``what`` names where they come from in messages.

    Without ``rebuild`` room that files leave may stay unused in the file.

    Raises:
        UsageError: no commands, no such image, or a command that can't be done (names its line).
        SourceError: what is to be added can't be read.
    """
    if not commands:
        raise UsageError(f"{what}: has no commands", hint="the commands are add, delete and rename")
    for command in commands:
        _check_source(command, what)
    meter = _UpdateMeter(on_event, cancel=cancel)
    size_before = path.stat().st_size if path.is_file() else 0
    with changed_wim(path, meter, threads=threads, rebuild=rebuild) as wim:
        number = resolve_image(wim, image, path)
        made = [_make_command(command, config_path) for command in commands]
        meter.commands_done = 0
        try:
            wim.update_image(number, made)
        except (UsageError, SourceError) as error:
            _name_line(error, commands, meter.commands_done, what)
            raise
    kinds = [type(command) for command in commands]
    return UpdateResult(
        path=path,
        number=number,
        added=kinds.count(AddFile),
        deleted=kinds.count(DeletePath),
        renamed=kinds.count(RenamePath),
        size_before=size_before,
        size_after=path.stat().st_size,
        not_carried=meter.not_carried(),
        warnings=tuple(meter.warnings),
    )


def _check_source(command: UpdateLine, what: str) -> None:
    """Said before anything is begun: libwim would say it without the line."""
    if isinstance(command, AddFile):
        source = Path(command.source)
        if not source.exists() and not source.is_symlink():
            raise SourceError(f"{what}, line {command.line_number}: {source}: no such file")


def _name_line(error: MediaError, commands: Sequence[UpdateLine], done: int, what: str) -> None:
    if done < len(commands):
        error.message = f"{what}, line {commands[done].line_number}: {error.message}"


def _make_command(command: UpdateLine, config_path: Path | None) -> UpdateCommand:
    match command:
        case AddFile(source=source, target=target, options=options):
            flags = AddFlags.NONE
            for option in options:
                flags |= _ADD_FLAGS[option]
            return Add(source, target, config_path, flags)
        case DeletePath(path=path, is_recursive=is_recursive, may_be_missing=may_be_missing):
            delete_flags = DeleteFlags.RECURSIVE if is_recursive else DeleteFlags.NONE
            if may_be_missing:
                delete_flags |= DeleteFlags.FORCE
            return Delete(path, delete_flags)
        case RenamePath(source=source, target=target):
            return Rename(source, target)
        case _:
            assert_never(command)
