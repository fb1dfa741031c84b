# SPDX-License-Identifier: GPL-3.0-or-later
"""A text file that a person names for a result (a plan, a receipt): whole or not at all.

Checked before the long work begins, so that a slip of the keyboard costs neither the source nor
the image that was just made, and that an hour of writing does not end without its receipt.
"""

from __future__ import annotations

import os
import secrets
from collections.abc import Iterable
from pathlib import Path

from mediamaker.errors import UsageError
from mediamaker.sources.identity import SourceFile


def find_source_at(path: Path, files: Iterable[SourceFile]) -> SourceFile | None:
    """The source file that ``path`` is another name of."""
    try:
        status = path.stat()
    except OSError:
        return None
    found = (status.st_dev, status.st_ino)
    return next((file for file in files if (file.device, file.inode) == found), None)


def check_text_file(
    path: Path, *, option: str, sources: Iterable[SourceFile], target: Path | None
) -> None:
    """``path`` may be written or replaced: it is neither a source nor the target nor a disk.

    Raises:
        UsageError: it is one of them, or is not writable; names ``option``.
    """
    who = f"{option} {path}"
    source = find_source_at(path, sources)
    if source is not None:
        raise UsageError(f"{who} is the source itself", hint="name another file")
    if target is not None and os.path.realpath(path) == os.path.realpath(target):
        raise UsageError(f"{who} is the target itself", hint="name another file")
    if path.is_dir() or path.is_block_device():
        kind = "a folder" if path.is_dir() else "a block device"
        raise UsageError(f"{who} is {kind}", hint="name a file")
    folder = Path(os.path.realpath(path)).parent
    if not _is_stream(path) and not folder.is_dir():
        raise UsageError(f"{who}: there is no such folder")
    if not os.access(path if _is_stream(path) else folder, os.W_OK):
        raise UsageError(f"{who} can't be written: no permission, or read-only")


def write_text_file(path: Path, text: str) -> None:
    """Write ``text``; a file that is there is replaced, a pipe or terminal is written to.

    Raises:
        OSError: nothing changed, unless it is a pipe or the like.
    """
    if _is_stream(path):
        path.write_text(text, encoding="utf-8")
        return
    # A link is followed: it stays, and what it leads to is replaced.
    path = Path(os.path.realpath(path))
    partial = path.with_name(f".mediamaker-{secrets.token_hex(4)}.partial")
    try:
        with partial.open("x", encoding="utf-8") as file:
            file.write(text)
            file.flush()
            os.fsync(file.fileno())
        partial.replace(path)
    finally:
        partial.unlink(missing_ok=True)


def _is_stream(path: Path) -> bool:
    """A pipe, a terminal and the like (/dev/stdout): there, but not to be replaced."""
    return path.exists() and not path.is_file()


def flush_folder(folder: Path) -> None:
    """Make the names in ``folder`` survive a power cut (fsync(2)).

    Raises:
        OSError: it can't be opened or flushed.
    """
    descriptor = os.open(folder, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
