# SPDX-License-Identifier: GPL-3.0-or-later
"""A disk that may be written without being changed: old bytes below, new ones in a sparse file.

The side file has every new block at its own address; a map has a bit for each block that is there.
Both are files, so that two processes share them; only one of them may use them at a time.
"""

from __future__ import annotations

import errno
import mmap
import os
from collections.abc import Iterator

from mediamaker.units import MIB, align_down, align_up

BLOCK_SIZE = 4096
_SCAN_SIZE = 64 * 1024


class OverlayStore:
    """``base``, ``side`` and ``block_map`` are descriptors; ``size`` is the disk's, in bytes."""

    def __init__(self, base: int, side: int, block_map: int, size: int) -> None:
        self._base = base
        self._side = side
        self.size = size
        self._block_count = align_up(size, BLOCK_SIZE) // BLOCK_SIZE
        map_size = max(1, align_up(self._block_count, 8) // 8)
        if os.fstat(block_map).st_size < map_size:
            os.ftruncate(block_map, map_size)
        self._map = mmap.mmap(block_map, map_size)
        self._map_descriptor = block_map

    def pread(self, offset: int, size: int) -> bytes:
        """What the disk would hold there."""
        self._check(offset, size)
        pieces: list[bytes] = []
        position, end = offset, offset + size
        while position < end:
            is_new, run_end = self._run(position, end)
            descriptor = self._side if is_new else self._base
            pieces.append(self._read(descriptor, position, run_end - position))
            position = run_end
        return b"".join(pieces)

    def pread_old(self, offset: int, size: int) -> bytes:
        """What the disk holds there."""
        self._check(offset, size)
        return self._read(self._base, offset, size)

    def pwrite(self, offset: int, data: bytes) -> None:
        """Change it, here only."""
        if not data:
            return
        self._check(offset, len(data))
        start = align_down(offset, BLOCK_SIZE)
        end = min(align_up(offset + len(data), BLOCK_SIZE), self.size)
        if start != offset or end != offset + len(data):
            # The ends of the first and the last block come from below.
            head = self.pread(start, offset - start)
            tail = self.pread(offset + len(data), end - offset - len(data))
            data = head + data + tail
        _write_all(self._side, data, start)
        for block_index in range(start // BLOCK_SIZE, -(-end // BLOCK_SIZE)):
            self._map[block_index >> 3] |= 1 << (block_index & 7)

    def written_blocks(self) -> Iterator[tuple[int, int]]:
        """The ranges ``[start, end)`` of bytes that were written to, ascending, at most 1 MiB."""
        run_start: int | None = None
        run_end = 0
        for block_index in self._set_bits():
            start = block_index * BLOCK_SIZE
            if run_start is not None and (start != run_end or run_end - run_start >= MIB):
                yield run_start, min(run_end, self.size)
                run_start = None
            if run_start is None:
                run_start = start
            run_end = start + BLOCK_SIZE
        if run_start is not None:
            yield run_start, min(run_end, self.size)

    def close(self) -> None:
        """Let go of the map; the descriptors are the caller's."""
        self._map.close()

    def _set_bits(self) -> Iterator[int]:
        for at in range(0, len(self._map), _SCAN_SIZE):
            chunk = self._map[at : at + _SCAN_SIZE]
            if chunk.count(0) == len(chunk):
                continue
            for index, byte in enumerate(chunk, at):
                if byte:
                    yield from (index * 8 + bit for bit in range(8) if byte & (1 << bit))

    def _run(self, position: int, end: int) -> tuple[bool, int]:
        """Whether the block at ``position`` is new, and where what is alike ends."""
        block_index = position // BLOCK_SIZE
        is_new = self._is_new(block_index)
        last_index = -(-end // BLOCK_SIZE)
        block_index += 1
        while block_index < last_index and self._is_new(block_index) == is_new:
            block_index += 1
        return is_new, min(end, block_index * BLOCK_SIZE)

    def _is_new(self, block_index: int) -> bool:
        return bool(self._map[block_index >> 3] & (1 << (block_index & 7)))

    def _check(self, offset: int, size: int) -> None:
        if offset < 0 or size < 0 or offset + size > self.size:
            raise OSError(errno.EINVAL, f"outside the disk: {size} bytes at {offset:#x}")

    def _read(self, descriptor: int, offset: int, size: int) -> bytes:
        pieces: list[bytes] = []
        while size:
            data = os.pread(descriptor, size, offset)
            if not data:
                raise OSError(errno.EIO, f"it ends at {offset:#x}")
            pieces.append(data)
            offset += len(data)
            size -= len(data)
        return b"".join(pieces)


def _write_all(descriptor: int, data: bytes, offset: int) -> None:
    view = memoryview(data)
    while view:
        count = os.pwrite(descriptor, view, offset)
        view = view[count:]
        offset += count
