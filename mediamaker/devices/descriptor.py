# SPDX-License-Identifier: GPL-3.0-or-later
"""What an image file and a block device do alike with their descriptor.

Reads, writes and flushes raise plain ``OSError``: the engine describes them, as it knows what
the bytes at an offset are.
"""

from __future__ import annotations

import errno
import mmap
import os
from types import TracebackType
from typing import Self

from mediamaker.units import align_down, align_up


class Descriptor:
    """What both kinds of target do alike with their descriptor."""

    def __init__(self, descriptor: int, name: str, size: int, logical_sector_size: int) -> None:
        self._descriptor = descriptor
        self.name = name
        self.size = size
        self.logical_sector_size = logical_sector_size

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self.close()

    @property
    def is_closed(self) -> bool:
        """Whether it was let go of."""
        return self._descriptor < 0

    def fileno(self) -> int:
        """The descriptor, for ioctl(2); it stays ours."""
        return self._descriptor

    def close(self) -> None:
        """Let go of it; closing twice is harmless."""
        descriptor, self._descriptor = self._descriptor, -1
        if descriptor >= 0:
            os.close(descriptor)

    def preadinto(self, offset: int, buffer: memoryview) -> None:
        """Fill ``buffer``; a file that ends before is an error."""
        while buffer:
            count = self._read_some(offset, buffer)
            if count == 0:
                raise OSError(errno.EIO, f"it ends at {offset:#x}")
            offset += count
            buffer = buffer[count:]

    def pread(self, offset: int, size: int) -> bytes:
        """Exactly ``size`` bytes; any alignment, at the cost of a copy."""
        if size == 0:
            return b""
        start = align_down(offset, self.logical_sector_size)
        end = min(align_up(offset + size, self.logical_sector_size), max(self.size, offset + size))
        buffer = memoryview(mmap.mmap(-1, end - start))
        self.preadinto(start, buffer)
        return bytes(buffer[offset - start : offset - start + size])

    def flush_data(self) -> None:
        """fdatasync(2)."""
        os.fdatasync(self._descriptor)

    def flush(self) -> None:
        """fsync(2): the data, what the file system knows of it, and the device's own cache."""
        os.fsync(self._descriptor)

    def _read_some(self, offset: int, buffer: memoryview) -> int:
        return os.preadv(self._descriptor, [buffer], offset)
