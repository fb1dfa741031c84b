# SPDX-License-Identifier: GPL-3.0-or-later
"""What the engine asks of a target, and how a failing one is described.

A target speaks in ``OSError``: it knows a descriptor and nothing of plans. The engine knows the
extents, so it is the engine that turns an error number into a message that names the file the
bytes belong to (:func:`describe_target_error`).

``devices/target.py`` holds the two real ones; they match these protocols by their shape.
"""

from __future__ import annotations

import errno
import os
from collections.abc import Iterator
from typing import Protocol

from mediamaker.errors import TargetIOError
from mediamaker.extents import ExtentMap
from mediamaker.units import format_size

VANISHED_ERRNOS = frozenset({errno.ENODEV, errno.ENXIO, errno.ENOMEDIUM, errno.ESHUTDOWN})
FULL_ERRNOS = frozenset({errno.ENOSPC, errno.EDQUOT, errno.EFBIG})


class ReadableTarget(Protocol):
    """A target that is read back; every method raises ``OSError`` when the medium fails."""

    @property
    def name(self) -> str:
        """What a person calls it: a device path or a file path."""

    @property
    def size(self) -> int:
        """Bytes that it holds."""

    @property
    def logical_sector_size(self) -> int:
        """The smallest unit of a read or write, in bytes."""

    def pread(self, offset: int, size: int) -> bytes:
        """Exactly ``size`` bytes; any alignment."""

    def preadinto(self, offset: int, buffer: memoryview) -> None:
        """Fill a page-aligned ``buffer``; whole sectors on a device."""

    def data_runs(self, start: int, end: int) -> Iterator[tuple[int, int]]:
        """Ranges of ``[start, end)``, ascending; what lies between them reads as zeros."""

    def drop_caches(self) -> None:
        """Make the next reads come from the medium."""

    def is_present(self) -> bool:
        """Whether it is still there; asked after an error only."""

    def close(self) -> None:
        """Let go of it; closing twice is harmless."""


class Target(ReadableTarget, Protocol):
    """A target that is written. One thread writes; ``flush_data`` may run beside it."""

    @property
    def starts_zeroed(self) -> bool:
        """Every byte not written yet reads as zero, and nobody sees it before ``finish``."""

    @property
    def is_durable(self) -> bool:
        """Whether bytes are on the device (not in the page cache) once ``pwrite`` returns."""

    def pwrite(self, offset: int, buffer: memoryview) -> int:
        """Write from a page-aligned ``buffer``; the count may be short, never 0."""

    def copy_from(self, descriptor: int, source_offset: int, offset: int, size: int) -> int:
        """Have the kernel copy (or reflink) from another file; 0 at that file's end."""

    def flush_data(self) -> None:
        """Put what was written on the medium, so that progress can count it."""

    def flush(self) -> None:
        """Put everything on the medium, the device's own cache included."""

    def reread_partition_table(self) -> str | None:
        """Have the kernel look at the new partition table; a warning if it would not."""

    def finish(self) -> None:
        """All is well: give it its name (an image file), then close it."""

    def abort(self) -> str | None:
        """It is not to be used: remove it (an image file), then close it.

        Says what is left, if there is more to say than the writer did; aborting twice is harmless.
        """


def describe_target_error(
    error: OSError,
    *,
    target: ReadableTarget,
    doing: str,
    offset: int | None,
    extents: ExtentMap | None,
    needed_size: int | None = None,
) -> TargetIOError:
    """The error that says what failed, where, and in whose bytes.

    ``doing`` is what was tried ("writing", "reading back", "flushing"); ``needed_size`` is given
    for an image file: the bytes that it takes in all.
    """
    reason = error.strerror or (os.strerror(error.errno) if error.errno else str(error))
    where = "" if offset is None else f" at {offset:#x} (sector {_sector(target, offset)})"
    if offset is not None and extents is not None and extents.start <= offset < extents.end:
        where += f", in {extents.find(offset)}"
    if error.errno in VANISHED_ERRNOS or not target.is_present():
        return TargetIOError(
            f"{target.name} vanished while {doing}{where} ({reason})",
            hint="was it unplugged? Another port or cable may help; then run it again",
        )
    if error.errno in FULL_ERRNOS and needed_size is not None:
        return TargetIOError(
            f"{target.name}: no room on its file system: {doing} failed{where}: {reason}; "
            f"the image takes {format_size(needed_size)}",
            hint="free some space, or put the image on another file system",
        )
    return TargetIOError(
        f"{target.name}: {doing} failed{where}: {reason}",
        hint="the medium, its port or cable may be failing; the kernel log (dmesg) says more",
    )


def _sector(target: ReadableTarget, offset: int) -> int:
    return offset // target.logical_sector_size
