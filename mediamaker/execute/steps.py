# SPDX-License-Identifier: GPL-3.0-or-later
"""Cuts a plan into the steps of one ascending pass.

A step is a window of the target: :class:`Fill` (put together in a buffer, then written or
compared) or :class:`Copy` (the kernel copies from the source file, nothing passes through us).
Windows are cut where their size says, at the borders of commit ranges, and nowhere else, so
that a device gets few and big writes.

Of an image file only the *data runs* are written: what the plan fills with zeros and what is a
hole in a source stays a hole.
"""

from __future__ import annotations

import errno
import os
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from typing import assert_never

from mediamaker.errors import PlanError
from mediamaker.extents import (
    Extent,
    ExtentMap,
    FileRange,
    Literal,
    Unwritten,
    Zeros,
    slice_source,
)
from mediamaker.sources.reader import SourceReader
from mediamaker.units import KIB, MIB, align_down, format_range

FILL_SIZE = 4 * MIB
"""Of one buffer and one write: past 1 MiB a stick gets no faster, and a write of 4 MiB still
ends within a second on a slow one, so that Ctrl-C is prompt."""
COPY_SIZE = 16 * MIB
"""Of one copy_file_range call; it can't be interrupted, so it must not be long."""
COPY_SIZE_MIN = 64 * KIB
"""Below this a system call for each costs more than going through the buffer."""
HOLE_SIZE_MIN = 64 * KIB
"""Shorter zeros are written: a hole for each would break the pass into pieces."""
COMMIT_SIZE_MAX = 16 * MIB
"""Commit bytes wait in memory until the end. A GPT takes 34 KiB."""

Run = tuple[int, int]


@dataclass(frozen=True, slots=True)
class Fill:
    """``size`` bytes at ``start``, at most one buffer full.

    ``parts`` say what they are made of; there are none where only the target is read.
    """

    start: int
    size: int
    parts: tuple[Extent, ...]
    is_commit: bool

    @property
    def is_zero(self) -> bool:
        """Whether every byte is known to be zero without looking."""
        return bool(self.parts) and all(isinstance(part.source, Zeros) for part in self.parts)


@dataclass(frozen=True, slots=True)
class Copy:
    """``size`` bytes at ``start``, to be copied from ``source_offset`` of a source file."""

    start: int
    size: int
    source_id: str
    source_offset: int


Step = Fill | Copy


def check_commit(extents: ExtentMap, commit: Iterable[Run], sector_size: int) -> None:
    """Commit ranges must be whole sectors, ascending, written by the plan, and small.

    Raises:
        PlanError: says which range is wrong, and how.
    """
    position, total = extents.start, 0
    for start, end in commit:
        what = f"commit range {format_range(start, end)}"
        if start % sector_size or end % sector_size:
            raise PlanError(f"{what} is not whole sectors of {sector_size} bytes")
        if start >= end or start < position or end > extents.end:
            raise PlanError(
                f"{what} is empty, out of order, or not within {format_range(0, extents.end)}"
            )
        if list(extents.written_runs(start, end)) != [(start, end)]:
            raise PlanError(f"{what} holds bytes that the plan does not write")
        position, total = end, total + end - start
    if total > COMMIT_SIZE_MAX:
        raise PlanError(f"commit ranges of {total} bytes are over the limit of {COMMIT_SIZE_MAX}")


def iter_steps(
    extents: ExtentMap,
    runs: Iterable[Run],
    *,
    commit: Iterable[Run] = (),
    is_copying: Callable[[], bool] = lambda: False,
) -> Iterator[Step]:
    """The steps that cover ``runs``, which ascend and hold written bytes only.

    ``is_copying`` is asked before each large part from a file, as the answer may turn to no.
    """
    parts = _Parts(extents)
    for start, end, is_commit in _cut_at_commit(runs, tuple(commit)):
        pending: list[Extent] = []
        for part in parts.within(start, end):
            if (
                isinstance(part.source, FileRange)
                and part.size >= COPY_SIZE_MIN
                and not is_commit
                and is_copying()
            ):
                if pending:
                    yield _fill(pending, is_commit=False)
                    pending = []
                yield from _copies(part, part.source)
                continue
            for piece in _cut(part, FILL_SIZE):
                pending.append(piece)
                if piece.end % FILL_SIZE == 0:
                    yield _fill(pending, is_commit=is_commit)
                    pending = []
        if pending:
            yield _fill(pending, is_commit=is_commit)


def iter_windows(runs: Iterable[Run]) -> Iterator[Fill]:
    """Steps without parts that cover ``runs``: to read, not to put together."""
    for start, end in runs:
        position = start
        while position < end:
            next_position = min(end, align_down(position, FILL_SIZE) + FILL_SIZE)
            yield Fill(position, next_position - position, (), is_commit=False)
            position = next_position


def find_data_runs(extents: ExtentMap, reader: SourceReader) -> list[Run]:
    """The ranges of the target that hold data; every other byte is zero or unwritten.

    Raises:
        SourceError: a source can't be opened, or is not the planned file.
    """
    return merge_runs(_iter_data_runs(extents, reader))


def merge_runs(*lists: Iterable[Run]) -> list[Run]:
    """The union of ranges from several lists, ascending; those that touch become one."""
    merged: list[Run] = []
    for start, end in sorted(run for runs in lists for run in runs):
        if merged and start <= merged[-1][1]:
            merged[-1] = (merged[-1][0], max(end, merged[-1][1]))
        else:
            merged.append((start, end))
    return merged


def runs_size(runs: Iterable[Run]) -> int:
    """Bytes in all the ranges together."""
    return sum(end - start for start, end in runs)


def stream_size(runs: Iterable[Run], commit: Iterable[Run]) -> int:
    """Bytes of ``runs`` outside of ``commit``."""
    cut = _cut_at_commit(runs, tuple(commit))
    return sum(end - start for start, end, is_commit in cut if not is_commit)


def cut_done(runs: Iterable[Run], commit: tuple[Run, ...], done_end: int) -> list[Run]:
    """``runs`` without what lies below ``done_end``; commit ranges stay, as they come last."""
    cut = [
        (start if is_commit else max(start, done_end), end)
        for start, end, is_commit in _cut_at_commit(runs, commit)
    ]
    return merge_runs((start, end) for start, end in cut if start < end)


def find_file_data(descriptor: int, start: int, end: int) -> Iterator[Run]:
    """Ranges of a file's ``[start, end)`` that are no holes of at least ``HOLE_SIZE_MIN``.

    A file system that knows no holes (lseek(2): SEEK_DATA) says that all is data.
    """
    position, data_start = start, start
    while position < end:
        try:
            next_data = min(end, os.lseek(descriptor, position, os.SEEK_DATA))
            next_hole = min(end, os.lseek(descriptor, next_data, os.SEEK_HOLE))
        except OSError as error:
            # ENXIO: no data from here on. Anything else: not known here, so it is data.
            next_data, next_hole = (end, end) if error.errno == errno.ENXIO else (position, end)
        if next_data - position >= HOLE_SIZE_MIN:
            if data_start < position:
                yield data_start, position
            data_start = next_data
        position = max(next_hole, next_data)
    if data_start < end:
        yield data_start, end


class _Parts:
    """Extents cut to ascending ranges, in one walk over the map however many ranges there are."""

    def __init__(self, extents: ExtentMap) -> None:
        self._rest = iter(extents)
        self._current = next(self._rest, None)

    def within(self, start: int, end: int) -> Iterator[Extent]:
        while self._current is not None and self._current.start < end:
            extent = self._current
            low, high = max(start, extent.start), min(end, extent.end)
            if low < high:
                source = slice_source(extent.source, low - extent.start, high - low)
                yield Extent(low, high - low, extent.name, source)
            if extent.end > end:
                return
            self._current = next(self._rest, None)


def _cut_at_commit(runs: Iterable[Run], commit: tuple[Run, ...]) -> Iterator[tuple[int, int, bool]]:
    index = 0
    for run_start, run_end in runs:
        position = run_start
        while position < run_end:
            while index < len(commit) and commit[index][1] <= position:
                index += 1
            start, end = commit[index] if index < len(commit) else (run_end, run_end)
            if start <= position < end:
                next_position, is_commit = min(end, run_end), True
            else:
                next_position, is_commit = min(start, run_end), False
            yield position, next_position, is_commit
            position = next_position


def _cut(extent: Extent, window_size: int) -> Iterator[Extent]:
    """``extent`` cut at the multiples of ``window_size``."""
    position = extent.start
    while position < extent.end:
        end = min(extent.end, align_down(position, window_size) + window_size)
        source = slice_source(extent.source, position - extent.start, end - position)
        yield Extent(position, end - position, extent.name, source)
        position = end


def _copies(extent: Extent, source: FileRange) -> Iterator[Copy]:
    for part in _cut(extent, COPY_SIZE):
        source_offset = source.offset + part.start - extent.start
        yield Copy(part.start, part.size, source.source_id, source_offset)


def _fill(parts: list[Extent], *, is_commit: bool) -> Fill:
    start = parts[0].start
    return Fill(start, parts[-1].end - start, tuple(parts), is_commit)


def _iter_data_runs(extents: ExtentMap, reader: SourceReader) -> Iterator[Run]:
    for extent in extents:
        match extent.source:
            case Unwritten():
                continue
            case Zeros() if extent.size >= HOLE_SIZE_MIN:
                continue
            case FileRange(source_id, offset) if extent.size >= HOLE_SIZE_MIN:
                with reader.opened(source_id) as descriptor:
                    for start, end in find_file_data(descriptor, offset, offset + extent.size):
                        yield start - offset + extent.start, end - offset + extent.start
            case Literal() | Zeros() | FileRange():
                yield extent.start, extent.end
            case _:
                assert_never(extent.source)
