# SPDX-License-Identifier: GPL-3.0-or-later
"""Writes files that are made of ranges of others: shared blocks where possible, else one copy.

References: ioctl_ficlonerange(2), copy_file_range(2), open(2) (O_TMPFILE). Zeros become holes.
"""

from __future__ import annotations

import contextlib
import errno
import fcntl
import os
import struct
import threading
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from mediamaker.errors import TargetIOError, TargetTooSmallError
from mediamaker.execute.interrupts import check_cancelled
from mediamaker.execute.progress import Clock, OnEvent, Phase, ProgressMeter
from mediamaker.extents import FileRange, Literal, Piece, Unwritten, Zeros
from mediamaker.sources.reader import SourceReader
from mediamaker.units import GIB, KIB, MIB, align_down, align_up, format_size

COPY_SIZE = 8 * MIB
"""Bytes a system call: how long Ctrl-C may wait, and how often progress is told."""

_CLONE_SIZE = GIB
_FICLONERANGE = 0x4020940D
_CLONE_RANGE = struct.Struct("=qQQQ")
_NO_SPACE = {errno.ENOSPC, errno.EDQUOT, errno.EFBIG}


@dataclass(frozen=True, slots=True)
class Content:
    """A file to write: its partial path, its name for messages, and its bytes."""

    path: Path
    name: str
    size: int
    pieces: Sequence[Piece]


@dataclass(frozen=True, slots=True)
class Written:
    """How bytes of the sources came to be in the outputs."""

    shared_size: int
    copied_size: int


def find_share_alignment(reader: SourceReader, source_id: str, directory: Path) -> int | None:
    """The block size at which files in ``directory`` can share the source's blocks, if they can.

    Asked of the file system by doing it, to a file without a name.
    """
    try:
        descriptor = os.open(directory, os.O_TMPFILE | os.O_RDWR | os.O_CLOEXEC, 0o600)
    except OSError:
        return None
    try:
        with reader.opened(source_id) as source:
            block_size = os.fstatvfs(source).f_bsize
            if not 512 <= block_size <= 64 * KIB or block_size & (block_size - 1):
                return None
            size = os.fstat(source).st_size
            if size < block_size or not _clone(source, 0, block_size, descriptor, 0):
                return None
            return block_size
    finally:
        os.close(descriptor)


def check_room(contents_size: int, directory: Path) -> None:
    """The file system must have room for a copy.

    Raises:
        TargetTooSmallError: it does not.
    """
    status = os.statvfs(directory)
    available = status.f_bavail * status.f_frsize
    # Some file systems (network shares, /proc) tell no size at all.
    if status.f_blocks and contents_size > available:
        raise TargetTooSmallError(
            f"{directory}: {format_size(contents_size)} are needed, "
            f"{format_size(available)} are free",
            needed_size=contents_size,
            available_size=available,
            hint="name an output on another file system, or make room",
        )


def write_contents(
    contents: Sequence[Content],
    reader: SourceReader,
    *,
    share_alignment: int | None,
    on_event: OnEvent,
    cancel: threading.Event | None = None,
    clock: Clock = time.monotonic,
) -> Written:
    """Write and flush every file of ``contents``; blocks are shared where the alignment allows.

    Raises:
        TargetIOError, TargetTooSmallError: a file can't be written; SourceError: a source can't
            be read or changed meanwhile; KeyboardInterrupt: ``cancel`` was set.
    """
    writer = _Writer(reader, share_alignment, ProgressMeter(on_event, clock), cancel)
    writer.meter.start(Phase.WRITE, sum(content.size for content in contents))
    for content in contents:
        writer.write(content)
    writer.meter.finish()
    writer.meter.start(Phase.FLUSH, 0)
    for content in contents:
        check_cancelled(cancel)
        _flush(content)
    writer.meter.finish()
    reader.check_all()
    return Written(writer.shared_size, writer.copied_size)


class _Writer:
    def __init__(
        self,
        reader: SourceReader,
        share_alignment: int | None,
        meter: ProgressMeter,
        cancel: threading.Event | None,
    ) -> None:
        self.meter = meter
        self.shared_size = 0
        self.copied_size = 0
        self._done_size = 0
        self._reader = reader
        self._share_alignment = share_alignment
        self._cancel = cancel
        self._can_copy_range = True

    def write(self, content: Content) -> None:
        with contextlib.ExitStack() as stack:
            try:
                descriptor = os.open(content.path, os.O_WRONLY | os.O_CLOEXEC)
                stack.callback(os.close, descriptor)
                # Room for what holes and the end need not write; a size no file can have ends here.
                os.ftruncate(descriptor, content.size)
                self._write_pieces(content, descriptor)
            except OSError as error:
                raise _target_error(content, error) from error

    def _write_pieces(self, content: Content, descriptor: int) -> None:
        position = 0
        for piece in content.pieces:
            match piece.source:
                case Literal(data):
                    _write_all(descriptor, memoryview(data), position)
                    self._advance(piece.size)
                case Zeros() | Unwritten():
                    self._advance(piece.size)
                case FileRange(source_id, offset):
                    self._write_range(source_id, offset, piece.size, descriptor, position)
            position += piece.size

    def _write_range(
        self, source_id: str, offset: int, size: int, descriptor: int, position: int
    ) -> None:
        """Share the whole blocks of a range and copy what is before and after them."""
        end, shift = offset + size, position - offset
        alignment = self._share_alignment
        if alignment and shift % alignment == 0:
            first, last = align_up(offset, alignment), align_down(end, alignment)
            if first < last:
                self._copy(source_id, offset, first, descriptor, shift)
                offset = self._share(source_id, first, last, descriptor, shift)
        self._copy(source_id, offset, end, descriptor, shift)

    def _share(self, source_id: str, start: int, end: int, descriptor: int, shift: int) -> int:
        """Returns up to where it went: on refusal the rest is to be copied."""
        with self._reader.opened(source_id) as source:
            while start < end:
                check_cancelled(self._cancel)
                size = min(_CLONE_SIZE, end - start)
                if not _clone(source, start, size, descriptor, start + shift):
                    self._share_alignment = None
                    break
                start += size
                self.shared_size += size
                self._advance(size)
        return start

    def _copy(self, source_id: str, start: int, end: int, descriptor: int, shift: int) -> None:
        while start < end:
            check_cancelled(self._cancel)
            size = min(COPY_SIZE, end - start)
            count = self._copy_in_kernel(source_id, start, size, descriptor, start + shift)
            if not count:
                data = self._reader.pread(source_id, start, size)
                _write_all(descriptor, memoryview(data), start + shift)
                count = size
            start += count
            self.copied_size += count
            self._advance(count)

    def _copy_in_kernel(
        self, source_id: str, offset: int, size: int, descriptor: int, position: int
    ) -> int:
        """Bytes that the kernel copied; 0 when it can't, and reading will tell why."""
        if not self._can_copy_range:
            return 0
        with self._reader.opened(source_id) as source:
            try:
                return os.copy_file_range(source, descriptor, size, offset, position)
            except OSError as error:
                if error.errno in _NO_SPACE:
                    raise
                # Other file systems, a failing source: reading and writing say which it is.
                self._can_copy_range = error.errno == errno.EIO
                return 0

    def _advance(self, size: int) -> None:
        self._done_size += size
        self.meter.update(self._done_size)


def _clone(source: int, offset: int, size: int, descriptor: int, position: int) -> bool:
    try:
        fcntl.ioctl(descriptor, _FICLONERANGE, _CLONE_RANGE.pack(source, offset, size, position))
    except OSError as error:
        if error.errno in _NO_SPACE:
            raise
        return False
    return True


def _write_all(descriptor: int, data: memoryview, position: int) -> None:
    while data:
        count = os.pwrite(descriptor, data[:COPY_SIZE], position)
        data, position = data[count:], position + count


def _flush(content: Content) -> None:
    try:
        descriptor = os.open(content.path, os.O_RDONLY | os.O_CLOEXEC)
        try:
            os.fsync(descriptor)
        finally:
            os.close(descriptor)
    except OSError as error:
        raise _target_error(content, error) from error


def _target_error(content: Content, error: OSError) -> TargetIOError | TargetTooSmallError:
    if error.errno in _NO_SPACE:
        return TargetTooSmallError(
            f"{content.name}: no room for {format_size(content.size)}: {error.strerror}",
            needed_size=content.size,
            available_size=0,
            hint="name an output on another file system (a file on FAT ends at 4 GiB)",
        )
    return TargetIOError(f"{content.name}: writing failed: {error.strerror}")
