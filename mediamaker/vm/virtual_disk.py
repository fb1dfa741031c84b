# SPDX-License-Identifier: GPL-3.0-or-later
"""Disks to serve: a plan that was never written, or the bytes of a device or image file.

Of a plan every byte is fetched from its sources when it is asked for; what a write would leave
as it is reads as zeros, as on a fresh stick. Nothing is copied.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from mediamaker.errors import TargetIOError, TargetRefusedError
from mediamaker.extents import Piece
from mediamaker.plan.model import Plan
from mediamaker.sources.reader import SourceReader
from mediamaker.units import format_range


@dataclass(frozen=True, slots=True)
class PlanDisk:
    """The disk that a plan would make; threads may read at once."""

    plan: Plan
    reader: SourceReader

    @property
    def size(self) -> int:
        """Bytes."""
        return self.plan.geometry.size

    def read(self, offset: int, size: int) -> bytes:
        """Exactly ``size`` bytes from ``offset`` on.

        Raises:
            SourceError: a source can't be read; SourceChangedError: it is not the planned one.
        """
        extents = self.plan.extents.within(offset, offset + size)
        return b"".join(
            self.reader.read_pieces([Piece(item.size, item.source)], 0, item.size)
            for item in extents
        )


@dataclass(frozen=True, slots=True)
class FileDisk:
    """A device or image file; ``fd`` is read-only."""

    path: Path
    fd: int
    size: int

    def read(self, offset: int, size: int) -> bytes:
        """Exactly ``size`` bytes from ``offset`` on.

        Raises:
            TargetIOError: the medium fails.
        """
        parts: list[bytes] = []
        end = offset + size
        while offset < end:
            try:
                part = os.pread(self.fd, end - offset, offset)
            except OSError as error:
                where = format_range(offset, end)
                raise TargetIOError(
                    f"{self.path}: reading {where} failed: {error.strerror}"
                ) from error
            if not part:
                raise TargetIOError(f"{self.path}: it ends at {offset:#x}, it was {self.size:#x}")
            parts.append(part)
            offset += len(part)
        return b"".join(parts)


@contextmanager
def open_plan_disk(plan: Plan) -> Iterator[PlanDisk]:
    """The disk of ``plan``; its sources are open until the block ends.

    Raises:
        SourceChangedError: a source is not what was planned with; SourceError: it is gone.
    """
    with SourceReader(plan.sources) as reader:
        reader.check_all()
        yield PlanDisk(plan, reader)


@contextmanager
def open_file_disk(path: Path) -> Iterator[FileDisk]:
    """The bytes at ``path``, open for reading until the block ends.

    Raises:
        TargetRefusedError: it can't be read.
    """
    try:
        fd = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    except OSError as error:
        raise TargetRefusedError(f"{path} can't be opened as a disk: {error.strerror}") from error
    try:
        yield FileDisk(path, fd, os.lseek(fd, 0, os.SEEK_END))
    finally:
        os.close(fd)
