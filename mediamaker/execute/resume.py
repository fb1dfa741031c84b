# SPDX-License-Identifier: GPL-3.0-or-later
"""Before a write goes on: is the medium what the journal says it is? Nothing is written here.

Three looks, all at the medium itself (caches are dropped first):

- the commit ranges hold, sector by sector, zeros or what is planned, as an interrupted run leaves
  them: anything else means that the disk was in use since, or is another one;
- the beginning and samples spread over all that is claimed are equal to the plan;
- so is the tail, the last that was claimed. Where it is not, the medium said "flushed" and had
  not: then all that is claimed is compared, and the write goes on at the first difference.

A resumed write is read back whole in the end, so this is about time, and about not touching a
disk that is somebody else's by now; it is not the proof.
"""

from __future__ import annotations

import threading
from collections.abc import Iterator, Sequence

from mediamaker.errors import TargetRefusedError
from mediamaker.execute.interrupts import check_cancelled
from mediamaker.execute.journal import JournalWriter
from mediamaker.execute.pipeline import SourceFiller, aligned_buffer
from mediamaker.execute.progress import Notice, OnEvent, Phase, ProgressMeter
from mediamaker.execute.runs import subtract_runs
from mediamaker.execute.steps import (
    FILL_SIZE,
    Fill,
    Run,
    check_commit,
    cut_done,
    iter_steps,
    merge_runs,
    runs_size,
)
from mediamaker.execute.target import ReadableTarget, describe_target_error
from mediamaker.extents import ExtentMap, check_sector_aligned
from mediamaker.sources.reader import SourceReader
from mediamaker.units import MIB, align_down, format_range, format_size

TAIL_SIZE = 64 * MIB
"""More than the caches of sticks and cards hold, and a few seconds' reading."""
HEAD_SIZE = FILL_SIZE
SAMPLE_SIZE = MIB
SAMPLE_COUNT = 16

_HINT = "leave out --resume to write it from the beginning"


def check_claim(
    *,
    extents: ExtentMap,
    commit: tuple[Run, ...],
    reader: SourceReader,
    target: ReadableTarget,
    journal: JournalWriter,
    meter: ProgressMeter,
    on_event: OnEvent,
    tail_size: int = TAIL_SIZE,
    cancel: threading.Event | None = None,
) -> None:
    """Compare ``target`` with what ``journal`` claims; the claim is lowered where it is wrong.

    Raises:
        TargetRefusedError: the disk was changed since, or is another one.
        TargetIOError: it can't be read; SourceError: a source can't, or it changed.
    """
    if journal.end == 0:
        return
    sector_size = target.logical_sector_size
    check_sector_aligned(extents, sector_size)
    check_commit(extents, commit, sector_size)
    check = _Comparison(extents, reader, target, meter, cancel)
    check.drop_caches()
    claimed = _claimed_runs(extents, commit, journal.end)
    tail = _last_bytes(claimed, tail_size, sector_size)
    tail_start = tail[0][0] if tail else 0
    samples = _spread_samples([run for run in claimed if run[0] < tail_start], sector_size)
    meter.start(Phase.VERIFY, runs_size(commit) + runs_size(samples) + runs_size(tail))
    check.check_commit_ranges(commit, sector_size)
    difference = check.find_difference(samples)
    if difference is not None:
        raise TargetRefusedError(
            f"{target.name} does not hold what the interrupted run wrote ({difference:#x}, in "
            f"{extents.find(difference)}): it was written to since, or it is another disk",
            hint=_HINT,
        )
    if check.find_difference(tail) is not None:
        meter.start(Phase.VERIFY, runs_size(claimed))
        difference = check.find_difference(claimed)
        end = journal.end if difference is None else align_down(difference, FILL_SIZE)
        on_event(
            Notice(
                f"{target.name}: the last bytes that were said to be on it are not; going on "
                f"at {format_size(end)} instead of {format_size(journal.end)}",
                hint="it may not keep what it confirms: all is read back in the end",
            )
        )
        journal.record(end)
        journal.end = end
    meter.finish()


class _Comparison:
    def __init__(
        self,
        extents: ExtentMap,
        reader: SourceReader,
        target: ReadableTarget,
        meter: ProgressMeter,
        cancel: threading.Event | None,
    ) -> None:
        self._extents = extents
        self._target = target
        self._meter = meter
        self._cancel = cancel
        self._filler = SourceFiller(reader, meter)
        self._expected, self._actual = aligned_buffer(FILL_SIZE), aligned_buffer(FILL_SIZE)
        self._done = 0

    def drop_caches(self) -> None:
        try:
            self._target.drop_caches()
        except OSError as error:
            raise describe_target_error(
                error, target=self._target, doing="dropping its caches", offset=None, extents=None
            ) from error

    def check_commit_ranges(self, commit: Sequence[Run], sector_size: int) -> None:
        for offset, expected, actual in self._windows(commit):
            for at in range(0, len(actual), sector_size):
                sector = actual[at : at + sector_size]
                if sector not in {bytes(sector_size), expected[at : at + sector_size]}:
                    where = format_range(offset + at, offset + at + sector_size)
                    raise TargetRefusedError(
                        f"{self._target.name} is not as the interrupted run left it: {where} is "
                        "neither blank nor planned: it was written to since, or is another disk",
                        hint=_HINT,
                    )

    def find_difference(self, runs: Sequence[Run]) -> int | None:
        """The first byte at which the target is not as planned."""
        for offset, expected, actual in self._windows(runs):
            if expected == actual:
                continue
            pairs = zip(expected, actual, strict=True)
            return offset + next(at for at, (wanted, got) in enumerate(pairs) if wanted != got)
        return None

    def _windows(self, runs: Sequence[Run]) -> Iterator[tuple[int, bytes, bytes]]:
        for step in iter_steps(self._extents, runs):
            assert isinstance(step, Fill)
            check_cancelled(self._cancel)
            expected, actual = self._expected[: step.size], self._actual[: step.size]
            self._filler.fill(step, expected)
            try:
                self._target.preadinto(step.start, actual)
            except OSError as error:
                raise describe_target_error(
                    error,
                    target=self._target,
                    doing="reading back",
                    offset=step.start,
                    extents=self._extents,
                ) from error
            self._done += step.size
            self._meter.update(self._done)
            yield step.start, bytes(expected), bytes(actual)


def _claimed_runs(extents: ExtentMap, commit: tuple[Run, ...], end: int) -> list[Run]:
    written = list(extents.written_runs(extents.start, extents.end))
    # What ``cut_done`` leaves of the written runs, and the commit ranges, are not claimed.
    rest = merge_runs(cut_done(written, commit, end), commit)
    return subtract_runs(written, rest)


def _last_bytes(runs: Sequence[Run], size: int, sector_size: int) -> list[Run]:
    tail: list[Run] = []
    for start, end in reversed(runs):
        if size <= 0:
            break
        low = max(start, align_down(max(0, end - size), sector_size))
        tail.append((low, end))
        size -= end - low
    return tail[::-1]


def _spread_samples(runs: Sequence[Run], sector_size: int) -> list[Run]:
    if not runs:
        return []
    first_start, first_end = runs[0]
    samples = [(first_start, min(first_end, first_start + HEAD_SIZE))]
    total = runs_size(runs)
    for number in range(1, SAMPLE_COUNT + 1):
        # The sample at so many claimed bytes from the first one, whichever run that is in.
        position = total * number // (SAMPLE_COUNT + 1)
        for start, end in runs:
            if position < end - start:
                low = align_down(start + position, sector_size)
                samples.append((low, min(end, low + SAMPLE_SIZE)))
                break
            position -= end - start
    return merge_runs(samples)
