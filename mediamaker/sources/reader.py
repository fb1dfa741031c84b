# SPDX-License-Identifier: GPL-3.0-or-later
"""Reads byte ranges of the source files, and notices when a file is no longer the planned one.

Descriptors are opened when first needed and at most ``descriptor_count_max`` are kept, so that
a folder of 10,000 files does not run into the process's limit. A descriptor that is in use by
a thread is never closed under it.
"""

from __future__ import annotations

import os
import threading
from collections import OrderedDict
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType

from mediamaker.errors import SourceChangedError, SourceError
from mediamaker.extents import FileRange, Literal, Piece, Unwritten, Zeros, slice_pieces
from mediamaker.sources.identity import (
    SourceFile,
    check_path_unchanged,
    check_unchanged,
    open_source,
)
from mediamaker.units import format_range

DESCRIPTOR_COUNT_MAX = 64


@dataclass(slots=True)
class _Handle:
    descriptor: int
    user_count: int = 0


class SourceReader:
    """Read-only access to source files by id; a context manager.

    Every method may be called from several threads at once.
    """

    def __init__(
        self, files: Iterable[SourceFile], *, descriptor_count_max: int = DESCRIPTOR_COUNT_MAX
    ) -> None:
        self._files = {file.source_id: file for file in files}
        self._handles: OrderedDict[str, _Handle] = OrderedDict()
        self._descriptor_count_max = max(1, descriptor_count_max)
        self._lock = threading.Lock()

    def __enter__(self) -> SourceReader:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self.close()

    @property
    def files(self) -> tuple[SourceFile, ...]:
        """What it reads from."""
        return tuple(self._files.values())

    def close(self) -> None:
        """Close every descriptor; the reader opens them again if it is used once more."""
        with self._lock:
            for handle in self._handles.values():
                os.close(handle.descriptor)
            self._handles.clear()

    @contextmanager
    def opened(self, source_id: str) -> Iterator[int]:
        """A descriptor of the source that stays open for the length of the block.

        Raises:
            SourceError: it can't be opened; SourceChangedError: it is not the planned file.
        """
        handle = self._acquire(source_id)
        try:
            yield handle.descriptor
        finally:
            with self._lock:
                handle.user_count -= 1

    def fileno(self, source_id: str) -> int:
        """A descriptor for copy_file_range or reflink, its identity checked when opened.

        It is good until ``descriptor_count_max`` other sources were used; :meth:`opened`
        holds it for longer.
        """
        with self.opened(source_id) as descriptor:
            return descriptor

    def pread(self, source_id: str, offset: int, size: int) -> bytes:
        """Exactly ``size`` bytes from ``offset`` on.

        Raises:
            SourceChangedError: the file is shorter than planned; SourceError: it can't be read.
        """
        with self.opened(source_id) as descriptor:
            try:
                data = os.pread(descriptor, size, offset)
            except OSError:
                data = b""  # what went wrong is told below
        if len(data) == size:
            return data
        buffer = bytearray(size)
        self.preadinto(source_id, offset, memoryview(buffer))
        return bytes(buffer)

    def preadinto(self, source_id: str, offset: int, buffer: memoryview) -> None:
        """Fill ``buffer`` from ``offset`` on, without a copy in between.

        Raises:
            SourceChangedError: the file is shorter than planned; SourceError: it can't be read.
        """
        file = self._file(source_id)
        done, size = 0, buffer.nbytes
        with self.opened(source_id) as descriptor:
            while done < size:
                try:
                    count = os.preadv(descriptor, [buffer[done:]], offset + done)
                except OSError as error:
                    where = format_range(offset + done, offset + size)
                    raise SourceError(
                        f"{file.path}: reading {where} failed: {error.strerror}",
                        hint="the disk, disc or network share that holds it may be failing",
                    ) from error
                if count == 0:
                    self._raise_short(file, descriptor, offset, offset + size)
                done += count

    def read_pieces(self, pieces: Iterable[Piece], offset: int, size: int) -> bytes:
        """The bytes ``[offset, offset + size)`` of the content that ``pieces`` make up."""
        if size == 0:
            return b""
        parts: list[bytes] = []
        for piece in slice_pieces(pieces, offset, size):
            match piece.source:
                case Literal(data):
                    parts.append(data)
                case Zeros() | Unwritten():
                    parts.append(bytes(piece.size))
                case FileRange(source_id, start):
                    parts.append(self.pread(source_id, start, piece.size))
        return b"".join(parts)

    def check_all(self) -> None:
        """Ask again, of every source's path and open descriptor, whether it is unchanged.

        Raises:
            SourceChangedError: says which file and what changed.
        """
        for source_id, file in self._files.items():
            stat = check_path_unchanged(file)
            with self._lock:
                handle = self._handles.get(source_id)
                stat = os.fstat(handle.descriptor) if handle else stat
            check_unchanged(file, stat)

    def _file(self, source_id: str) -> SourceFile:
        try:
            return self._files[source_id]
        except KeyError:
            raise SourceError(f"the source {source_id!r} is not one of the plan's") from None

    def _acquire(self, source_id: str) -> _Handle:
        file = self._file(source_id)
        with self._lock:
            handle = self._handles.get(source_id)
            if handle is None:
                descriptor = open_source(Path(file.path))
                try:
                    check_unchanged(file, os.fstat(descriptor))
                except SourceChangedError:
                    os.close(descriptor)
                    raise
                handle = self._handles[source_id] = _Handle(descriptor)
            handle.user_count += 1
            self._handles.move_to_end(source_id)
            self._evict()
            return handle

    def _evict(self) -> None:
        """Close the longest unused descriptors that are over the limit."""
        excess = len(self._handles) - self._descriptor_count_max
        for source_id, handle in list(self._handles.items()) if excess > 0 else ():
            if excess <= 0:
                return
            if handle.user_count == 0:
                os.close(handle.descriptor)
                del self._handles[source_id]
                excess -= 1

    @staticmethod
    def _raise_short(file: SourceFile, descriptor: int, start: int, end: int) -> None:
        size_now = os.fstat(descriptor).st_size
        if end > file.size:
            raise SourceError(
                f"{file.path}: {format_range(start, end)} goes past its end at {file.size:#x}"
            )
        raise SourceChangedError(
            f"{file.path}: shrank while being read: expected {file.size} bytes, "
            f"got {size_now} (while reading {format_range(start, end)})",
            hint="let its download or copy finish, then start again",
        )
