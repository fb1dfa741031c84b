# SPDX-License-Identifier: GPL-3.0-or-later
"""What a source file was when the plan was made, so that a change is noticed later.

Size, modification time, inode and device are compared: cheap enough to be asked again while
writing. A digest would see more, but needs the whole file read first; the receipt keeps one.
"""

from __future__ import annotations

import os
import stat as stat_module
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from mediamaker.errors import SourceChangedError, SourceError

_KINDS = {
    stat_module.S_IFDIR: "a directory",
    stat_module.S_IFBLK: "a block device",
    stat_module.S_IFCHR: "a character device",
    stat_module.S_IFIFO: "a named pipe",
    stat_module.S_IFSOCK: "a socket",
    stat_module.S_IFLNK: "a symbolic link",
}


@dataclass(frozen=True, slots=True)
class SourceFile:
    """One input file; ``path`` is absolute, ``size`` in bytes, ``mtime_ns`` since the epoch."""

    source_id: str
    path: str
    size: int
    mtime_ns: int
    inode: int
    device: int


def identify(source_id: str, path: Path) -> SourceFile:
    """The identity of the regular, readable file at ``path`` (links are followed).

    Raises:
        SourceError: it is missing, not a regular file, or can't be read.
    """
    try:
        descriptor = open_source(path)
    except ValueError as error:
        raise SourceError(f"{str(path)!r} is not a path: {error}") from error
    try:
        return source_file(source_id, path, os.fstat(descriptor))
    finally:
        os.close(descriptor)


def open_source(path: Path) -> int:
    """A read-only descriptor of a regular file; the caller closes it.

    Raises:
        SourceError: it is missing, not a regular file, or can't be read.
    """
    try:
        # Without O_NONBLOCK, opening a named pipe would wait for a writer for ever.
        descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC | os.O_NONBLOCK)
    except FileNotFoundError as error:
        raise SourceError(f"{path}: no such file", hint="check the path") from error
    except OSError as error:
        raise SourceError(f"{path}: can't be read: {error.strerror}") from error
    mode = os.fstat(descriptor).st_mode
    if not stat_module.S_ISREG(mode):
        os.close(descriptor)
        raise SourceError(
            f"{path}: expected a regular file, got {describe_file_kind(mode)}",
            hint="copy a disc or a device into a file first (dd if=/dev/sr0 of=disc.iso bs=1M)"
            if stat_module.S_ISBLK(mode)
            else None,
        )
    return descriptor


def source_file(source_id: str, path: Path, stat: os.stat_result) -> SourceFile:
    """The identity that ``stat`` of the file at ``path`` gives."""
    return SourceFile(
        source_id=source_id,
        path=os.path.abspath(path),  # noqa: PTH100  (Path.absolute keeps "..")
        size=stat.st_size,
        mtime_ns=stat.st_mtime_ns,
        inode=stat.st_ino,
        device=stat.st_dev,
    )


def check_unchanged(source: SourceFile, stat: os.stat_result) -> None:
    """Compare what a file is now with what it was.

    Raises:
        SourceChangedError: says which of size, modification time and inode differ.
    """
    changes = [
        f"{name} was {expected}, is {got}"
        for name, expected, got in (
            ("size", f"{source.size} bytes", f"{stat.st_size} bytes"),
            ("modification time", f"{source.mtime_ns} ns", f"{stat.st_mtime_ns} ns"),
            ("device and inode", (source.device, source.inode), (stat.st_dev, stat.st_ino)),
        )
        if expected != got
    ]
    if changes:
        raise SourceChangedError(
            f"{source.path}: changed since it was planned with: {'; '.join(changes)}",
            hint="let its download or copy finish, then start again",
        )


def describe_file_kind(mode: int) -> str:
    """What a ``st_mode`` that is not a regular file's stands for, in words."""
    return _KINDS.get(stat_module.S_IFMT(mode), "a special file")


@contextmanager
def unchanged_sources(files: Sequence[SourceFile]) -> Iterator[None]:
    """What the block makes of ``files`` counts only if none of them changed meanwhile.

    A library that reads by itself copies what it finds; and its message about a source that was
    cut short meanwhile names neither the file nor the reason.

    Raises:
        SourceChangedError: one did; in place of a ``SourceError`` of the block too.
    """
    try:
        yield
    except SourceError as error:
        try:
            _check_files(files)
        except SourceChangedError as change:
            raise change from error
        raise
    _check_files(files)


def _check_files(files: Sequence[SourceFile]) -> None:
    for file in files:
        check_path_unchanged(file)


def check_path_unchanged(file: SourceFile) -> os.stat_result:
    """Ask of the path of a source, and give what its ``stat`` says.

    Raises:
        SourceChangedError: it is gone, or another file; says what differs.
    """
    try:
        status = os.stat(file.path)  # noqa: PTH116  (a str path, 10,000 times)
    except OSError as error:
        raise SourceChangedError(
            f"{file.path}: was planned with, but is gone: {error.strerror}",
            hint="keep the source where it is until the write is done",
        ) from error
    check_unchanged(file, status)
    return status
