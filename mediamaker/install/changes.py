# SPDX-License-Identifier: GPL-3.0-or-later
"""What is to be different on a disk: ranges of bytes, and the order in which they are written.

The order is what makes an interruption bearable. First what lies where the old layout has nothing
(free clusters): it changes nothing that anybody sees. Then the file system's own records, the new
partition's contents, the boot store, and the partition table last. Each step is on the medium
before the next begins. Between the first byte of the second step and the last byte of the last,
``mediamaker undo`` is the way back; the undo file is complete and flushed before any of it.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from enum import IntEnum
from functools import partial
from typing import Protocol

from mediamaker.errors import MediaError, PlanError, TargetIOError, VerifyError
from mediamaker.execute.interrupts import check_cancelled
from mediamaker.execute.pipeline import aligned_buffer
from mediamaker.execute.progress import Phase, ProgressMeter
from mediamaker.install.disk_file import ChangeableDisk
from mediamaker.units import MIB, format_range

WRITE_SIZE = MIB


class Step(IntEnum):
    """Ascending: the order of writing. Going back is descending."""

    FREE_SPACE = 1
    FILE_SYSTEM = 2
    NEW_VOLUME = 3
    BOOT_STORE = 4
    TABLE = 5


STEP_WORDS = {
    Step.FREE_SPACE: "into free clusters",
    Step.FILE_SYSTEM: "records of the Windows volume",
    Step.NEW_VOLUME: "the new recovery volume",
    Step.BOOT_STORE: "the boot store",
    Step.TABLE: "the partition table",
}


@dataclass(frozen=True, slots=True)
class Change:
    """``size`` bytes at ``offset`` of the disk get other contents in ``step``."""

    offset: int
    size: int
    name: str
    step: Step

    @property
    def end(self) -> int:
        """One past the last byte."""
        return self.offset + self.size


@dataclass(frozen=True, slots=True)
class Region:
    """A range that may be changed at all; ``is_free`` says whether a byte is in unused space."""

    start: int
    end: int
    name: str
    step: Step
    is_free: Callable[[int], bool] | None = None


class NewBytes(Protocol):
    """Where both states of a disk can be read; an ``Overlay``."""

    def pread(self, offset: int, size: int) -> bytes:
        """The new bytes."""

    def pread_old(self, offset: int, size: int) -> bytes:
        """The old bytes."""

    def written_blocks(self) -> Iterator[tuple[int, int]]:
        """Ranges in which something may be different."""


def find_changes(
    overlay: NewBytes, regions: Sequence[Region], *, sector_size: int
) -> tuple[Change, ...]:
    """Every sector that differs, merged, in the order of writing.

    Raises:
        PlanError: something differs outside the regions: it would not have been meant.
    """
    changes: list[Change] = []
    for start, end in overlay.written_blocks():
        old, new = overlay.pread_old(start, end - start), overlay.pread(start, end - start)
        if old == new:
            continue
        for at in range(0, end - start, sector_size):
            if old[at : at + sector_size] == new[at : at + sector_size]:
                continue
            offset = start + at
            region = _region(regions, offset, sector_size)
            is_free = region.is_free is not None and region.is_free(offset)
            step = Step.FREE_SPACE if is_free else region.step
            last = changes[-1] if changes else None
            if last and last.end == offset and (last.step, last.name) == (step, region.name):
                changes[-1] = Change(last.offset, last.size + sector_size, last.name, step)
            else:
                changes.append(Change(offset, sector_size, region.name, step))
    return tuple(sorted(changes, key=lambda change: (change.step, change.offset)))


def split_changes(changes: Sequence[Change], size_max: int = WRITE_SIZE) -> Iterator[Change]:
    """The same, in pieces that one write takes."""
    for change in changes:
        for offset in range(change.offset, change.end, size_max):
            size = min(size_max, change.end - offset)
            yield Change(offset, size, change.name, change.step)


def changes_size(changes: Sequence[Change]) -> int:
    """Bytes."""
    return sum(change.size for change in changes)


def write_changes(
    changes: Sequence[Change],
    new: Callable[[int, int], bytes],
    disk: ChangeableDisk,
    *,
    meter: ProgressMeter,
    cancel: threading.Event | None = None,
) -> None:
    """Write ``changes``, a step at a time, and compare what is there then.

    Raises:
        TargetIOError: the disk failed; VerifyError: it does not hold what was written.
        KeyboardInterrupt: ``cancel`` was set. After each of them the disk is neither old nor new,
        and a note of the exception says so.
    """
    buffer = aligned_buffer(WRITE_SIZE)
    done = 0
    meter.start(Phase.WRITE, changes_size(changes))
    try:
        step: Step | None = None
        for piece in split_changes(changes):
            if step is not None and piece.step != step:
                _do(disk.flush, disk, "flushing", piece)
            step = piece.step
            check_cancelled(cancel)
            data = buffer[: piece.size]
            data[:] = new(piece.offset, piece.size)
            _do(partial(_write, disk, piece, data), disk, "writing", piece)
            done += piece.size
            meter.update(done)
        if changes:
            _do(disk.flush, disk, "flushing", changes[-1])
        verify_changes(changes, new, disk, meter=meter)
    except (MediaError, KeyboardInterrupt) as error:
        if done:
            error.add_note(f"{disk.name} is neither as it was nor as it shall be: undo it")
        raise
    meter.finish()


def verify_changes(
    changes: Sequence[Change],
    expected: Callable[[int, int], bytes],
    disk: ChangeableDisk,
    *,
    meter: ProgressMeter,
) -> None:
    """Read ``changes`` back from the medium.

    Raises:
        VerifyError: names the first range that differs.
    """
    buffer = aligned_buffer(WRITE_SIZE)
    done = 0
    meter.start(Phase.VERIFY, changes_size(changes))
    disk.drop_caches()
    for piece in split_changes(changes):
        data = buffer[: piece.size]
        _do(partial(disk.preadinto, piece.offset, data), disk, "reading back", piece)
        if bytes(data) != expected(piece.offset, piece.size):
            raise VerifyError(
                f'{disk.name}: "{piece.name}" {format_range(piece.offset, piece.end)} does not '
                "hold what was written",
                hint="the disk may be failing; put the old bytes back with mediamaker undo",
            )
        done += piece.size
        meter.update(done)
    meter.finish()


def _write(disk: ChangeableDisk, piece: Change, data: memoryview) -> None:
    offset = piece.offset
    while data:
        count = disk.pwrite(offset, data)
        data = data[count:]
        offset += count


def _do(action: Callable[[], None], disk: ChangeableDisk, doing: str, piece: Change) -> None:
    try:
        action()
    except OSError as error:
        place = format_range(piece.offset, piece.end)
        raise TargetIOError(
            f'{disk.name}: {doing} "{piece.name}" {place} failed: {error.strerror or error}',
            hint="put the old bytes back with mediamaker undo, once the disk works again",
        ) from error


def _region(regions: Sequence[Region], offset: int, size: int) -> Region:
    for region in regions:
        if region.start <= offset and offset + size <= region.end:
            return region
    raise PlanError(
        f"{format_range(offset, offset + size)} would change, and is in no part of the disk that "
        "may: nothing was written",
        hint="this is a bug in mediamaker; please report it",
    )
