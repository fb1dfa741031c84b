# SPDX-License-Identifier: GPL-3.0-or-later
"""Compresses resources of a WIM again as LZX in chunks of 32 KiB, on all cores.

A chunk that does not get smaller than it is in the WIM stays as it is there, so no resource that
was LZX grows. What is read is compared with its SHA-1: a damaged blob is never packed anew.
"""

from __future__ import annotations

import hashlib
import os
import sys
import threading
from array import array
from collections import deque
from collections.abc import Callable, Generator, Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any, Final

from mediamaker.errors import FormatError
from mediamaker.execute.interrupts import check_cancelled
from mediamaker.extents import FileRange, Piece
from mediamaker.formats.wim import ResourceFlag
from mediamaker.formats.wim_chunks import chunk_table_size
from mediamaker.plan.repack import LZX_CHUNK_SIZE, PackedResource
from mediamaker.sources.wim_blobs import BlobReader, ChunkedResource
from mediamaker.wimlib.codec import Compressor

OnGain = Callable[[PackedResource, int], None]
"""Is told, window by window, how many bytes smaller the begin of a resource got."""

_U32_MAX: Final = (1 << 32) - 1
_WINDOWS_PER_THREAD: Final = 2


@dataclass(frozen=True, slots=True)
class _Packed:
    """A window as it is now and as its chunks are to be stored."""

    raw: bytearray
    chunks: list[bytes]


class Recompressor:
    """Packs resources of ``blobs``'s WIM into the open file ``scratch``; a context manager.

    Raises (from its methods):
        FormatError: a resource can't be decoded or is not what its SHA-1 says.
        KeyboardInterrupt: ``cancel`` was set.
    """

    def __init__(
        self,
        blobs: BlobReader,
        scratch: int,
        scratch_id: str,
        *,
        threads: int = 0,
        on_gain: OnGain,
        cancel: threading.Event | None = None,
    ) -> None:
        self._blobs = blobs
        self._on_gain = on_gain
        self._scratch = scratch
        self._scratch_id = scratch_id
        self._end = 0
        self._cancel = cancel
        self._thread_count = threads or os.cpu_count() or 1
        self._pool = ThreadPoolExecutor(self._thread_count, thread_name_prefix="wim-recompress")
        self._compressors = _Compressors()

    def __enter__(self) -> Recompressor:
        return self

    def __exit__(self, *_: object) -> None:
        self._pool.shutdown(cancel_futures=True)
        self._compressors.close()

    def pack(
        self, resources: Iterable[PackedResource], level: int
    ) -> Generator[tuple[PackedResource, Piece]]:
        """Each of ``resources`` in turn, and where it is packed now, smaller or not.

        What is not kept is to be told by :meth:`forget` before the next one is asked for.
        """
        pending: deque[tuple[PackedResource, ChunkedResource, int, Future[_Packed]]] = deque()
        window_count_max = self._thread_count * _WINDOWS_PER_THREAD
        work = _Work(self._scratch, self._end)
        try:
            for resource, opened, index in self._windows(resources):
                future = self._pool.submit(self._pack_window, resource, opened, index, level)
                pending.append((resource, opened, index, future))
                if len(pending) >= window_count_max:
                    yield from self._take(pending, work)
            while pending:
                yield from self._take(pending, work)
        finally:
            for _, _, _, future in pending:
                future.cancel()

    def forget(self, piece: Piece) -> None:
        """The last piece that came is not wanted: its room is used again."""
        self._end -= piece.size

    def _windows(
        self, resources: Iterable[PackedResource]
    ) -> Iterator[tuple[PackedResource, ChunkedResource, int]]:
        for resource in resources:
            opened = self._blobs.open_resource(resource.resource, f"blob {resource.sha1.hex()}")
            for index in range(opened.window_count):
                yield resource, opened, index

    def _take(
        self,
        pending: deque[tuple[PackedResource, ChunkedResource, int, Future[_Packed]]],
        work: _Work,
    ) -> Iterator[tuple[PackedResource, Piece]]:
        check_cancelled(self._cancel)
        resource, opened, index, future = pending.popleft()
        if index == 0:
            work.start(resource, self._end)
        work.add(future.result())
        last = opened.chunks[min((index + 1) * opened.window_chunk_count, len(opened.chunks)) - 1]
        size_before = last.offset + last.stored_size
        self._on_gain(resource, max(0, size_before - (work.position - work.start_offset)))
        if index == opened.window_count - 1:
            size = work.finish(resource, self._blobs.what)
            piece = Piece(size, FileRange(self._scratch_id, self._end))
            self._end += size
            yield resource, piece

    def _pack_window(
        self, resource: PackedResource, opened: ChunkedResource, index: int, level: int
    ) -> _Packed:
        check_cancelled(self._cancel)
        window = self._blobs.decode_window(opened, index)
        if window.failures:
            raise FormatError(
                f"{self._blobs.what}: blob {resource.sha1.hex()} is damaged: "
                f"{window.failures[0].message}"
            )
        chunks = []
        with memoryview(window.data) as view, self._compressors.borrow(level) as compressor:
            for at in range(0, len(view), LZX_CHUNK_SIZE):
                raw = view[at : at + LZX_CHUNK_SIZE]
                stored = self._stored(opened, index * opened.window_size + at)
                packed = compressor.compress(raw)
                best = [item for item in (stored, packed) if item is not None]
                chunks.append(min(best, key=len) if best else bytes(raw))
        return _Packed(window.data, chunks)

    def _stored(self, opened: ChunkedResource, position: int) -> bytes | None:
        """The chunk at ``position`` as it is in the WIM, if it can stay so."""
        table = opened.chunks
        if table.compression != "LZX" or table.chunk_size != LZX_CHUNK_SIZE:
            return None
        chunk = table[position // LZX_CHUNK_SIZE]
        return self._blobs.read_stored(opened.offset + chunk.offset, chunk.stored_size)


@dataclass(slots=True)
class _Work:
    """The resource that is being put together in the scratch file."""

    scratch: int
    start_offset: int
    position: int = 0
    table_size: int = 0
    sizes: array[int] = field(default_factory=lambda: array("Q"))
    digest: Any = None

    def start(self, resource: PackedResource, offset: int) -> None:
        plain = resource.resource
        as_packed = plain._replace(flags=plain.flags | ResourceFlag.COMPRESSED)
        self.start_offset = offset
        self.table_size = chunk_table_size(as_packed, LZX_CHUNK_SIZE)
        self.position = offset + self.table_size
        self.sizes = array("Q")
        self.digest = hashlib.sha1(usedforsecurity=False)

    def add(self, packed: _Packed) -> None:
        self.digest.update(packed.raw)
        self.sizes.extend(map(len, packed.chunks))
        _write_all(self.scratch, b"".join(packed.chunks), self.position)
        self.position += sum(map(len, packed.chunks))

    def finish(self, resource: PackedResource, what: str) -> int:
        """Write the chunk table; bytes that the resource takes."""
        got = self.digest.digest()
        if got != resource.sha1:
            raise FormatError(
                f"{what}: blob {resource.sha1.hex()} is damaged: its SHA-1 is {got.hex()}",
                hint="mediamaker wim verify names its files",
            )
        is_large = resource.resource.uncompressed_size > _U32_MAX
        places, place = array("Q" if is_large else "I"), 0
        for size in self.sizes[:-1]:
            place += size
            places.append(place)
        if sys.byteorder == "big":
            places.byteswap()
        _write_all(self.scratch, places.tobytes(), self.start_offset)
        return self.position - self.start_offset


class _Compressors:
    """Compressors that nobody uses at the moment. Any thread may use them."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._free: dict[int, list[Compressor]] = {}

    @contextmanager
    def borrow(self, level: int) -> Iterator[Compressor]:
        with self._lock:
            free = self._free.setdefault(level, [])
            compressor = free.pop() if free else None
        if compressor is None:
            compressor = Compressor("LZX", LZX_CHUNK_SIZE, level)
        try:
            yield compressor
        finally:
            with self._lock:
                free.append(compressor)

    def close(self) -> None:
        with self._lock:
            for free in self._free.values():
                for compressor in free:
                    compressor.close()
            self._free.clear()


def _write_all(descriptor: int, data: bytes, position: int) -> None:
    view = memoryview(data)
    while view:
        count = os.pwrite(descriptor, view, position)
        view, position = view[count:], position + count
