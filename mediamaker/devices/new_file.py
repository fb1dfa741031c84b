# SPDX-License-Identifier: GPL-3.0-or-later
"""How a new file gets its place and its name; for image files and for WIMs alike.

Until it is complete it has no name, or is ``.NAME.mediamaker-XXXXXXXX.partial`` in the same
directory, so that giving it its name is atomic. References: open(2), link(2), rename(2).
"""

from __future__ import annotations

import os
import secrets
import stat
from pathlib import Path

from mediamaker.errors import TargetRefusedError

_NAME_SIZE_MAX = 255
"""NAME_MAX of every Linux file system that matters, in bytes."""


def name_beside(target: Path) -> Path:
    """A name for what becomes ``target``, beside it; another one each time."""
    suffix = f".mediamaker-{secrets.token_hex(4)}.partial"
    room = _NAME_SIZE_MAX - len(suffix) - 1
    return target.with_name("." + os.fsdecode(os.fsencode(target.name)[:room]) + suffix)


def names_to_resume(target: Path) -> tuple[Path, Path]:
    """The partial file and the journal of a write to ``target`` that can be gone on with.

    They are the same each time, and no names that anybody would take for a finished file's.
    """
    folder, name = target.parent, os.fsencode(target.name)
    suffixes = (".mediamaker-partial", ".mediamaker-journal")
    room = _NAME_SIZE_MAX - max(map(len, suffixes))
    partial, journal = (folder / (os.fsdecode(name[:room]) + suffix) for suffix in suffixes)
    return partial, journal


def check_place(target: Path, *, replace: bool) -> int | None:
    """Whether a file may be put at ``target``; the mode of the one that it replaces.

    Raises:
        TargetRefusedError: the name is taken (without ``replace``, or not by a regular file).
    """
    try:
        status = target.stat()
    except FileNotFoundError:
        return None
    except (OSError, ValueError) as error:
        raise TargetRefusedError(f"{target}: {error}") from error
    if not stat.S_ISREG(status.st_mode):
        raise TargetRefusedError(f"{target}: exists and is not a regular file")
    if not replace:
        raise name_taken(target)
    return stat.S_IMODE(status.st_mode)


def check_new_file(path: Path, *, replace: bool) -> None:
    """Refuse early what making a file at ``path`` would meet, before anything long is begun.

    Raises:
        TargetRefusedError: the name is taken, or there is no such directory that lets us.
    """
    target = Path(os.path.realpath(path))
    check_place(target, replace=replace)
    hint = "name a file in an existing directory that you may write to"
    if not target.parent.is_dir():
        raise TargetRefusedError(f"{path}: there is no directory {target.parent}", hint=hint)
    if not os.access(target.parent, os.W_OK | os.X_OK):
        raise TargetRefusedError(
            f"{path}: can't create a file in {target.parent}: no permission, or read-only",
            hint=hint,
        )


def give_name(partial: Path, target: Path) -> None:
    """Let the file at ``partial`` be ``target``, which must be free; ``partial`` may stay.

    Raises:
        TargetRefusedError: the name was taken meanwhile; OSError: it can't be named.
    """
    try:
        # link(2), unlike rename(2), fails if the name was taken meanwhile.
        target.hardlink_to(partial)
    except FileExistsError:
        raise name_taken(target) from None
    except OSError:
        # FAT and some network file systems know no links; ask, then rename.
        if target.exists():
            raise name_taken(target) from None
        partial.rename(target)


def name_taken(path: Path) -> TargetRefusedError:
    """The refusal that ``--force`` lifts."""
    return TargetRefusedError(
        f"{path}: exists already", hint="name another file, or replace it with --force"
    )
