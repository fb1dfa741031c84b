# SPDX-License-Identifier: GPL-3.0-or-later
"""Reads a target back and compares it with what was planned. Nothing is written here.

Two ways, for two needs:

- :func:`verify_digests`: against the digests of the stream that was written (or of a receipt).
  Only the target is read; on a difference the source is read again to name the first wrong byte.
- :func:`verify_content`: against the plan and its sources themselves.

Both drop caches first, so that the medium answers and not our own memory.
"""

from __future__ import annotations

import threading
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import NoReturn

from mediamaker.errors import VerifyError
from mediamaker.execute.digests import PIECE_SIZE, PieceDigest, PieceHasher
from mediamaker.execute.pipeline import Pipeline, SourceFiller, aligned_buffer
from mediamaker.execute.progress import Phase, ProgressMeter
from mediamaker.execute.steps import (
    FILL_SIZE,
    Fill,
    Run,
    find_data_runs,
    iter_steps,
    iter_windows,
    merge_runs,
    runs_size,
)
from mediamaker.execute.target import ReadableTarget, describe_target_error
from mediamaker.extents import ExtentMap, check_sector_aligned
from mediamaker.sources.reader import SourceReader
from mediamaker.units import align_down, align_up, format_range

_HINT = (
    "the medium may be failing or smaller than it claims, or something wrote to it since; "
    "write it again, or try another one"
)

_BLOCK_SIZE = 4096


@dataclass(frozen=True, slots=True)
class VerifyResult:
    """All was as planned. ``bytes_read`` are the target's; ``digests`` only if asked for."""

    bytes_read: int
    seconds: float
    digests: tuple[PieceDigest, ...]


def verify_content(
    *,
    extents: ExtentMap,
    reader: SourceReader,
    target: ReadableTarget,
    meter: ProgressMeter,
    has_digests: bool = False,
    cancel: threading.Event | None = None,
) -> VerifyResult:
    """Compare every written byte with the plan; sources are read again.

    Where both the plan and the target have a hole there is nothing to read.

    Raises:
        VerifyError: names the extent and the first byte that differs.
        TargetIOError: the target can't be read; SourceError: a source can't, or it changed.
    """
    began = meter.clock()
    check_target_size(extents.end, target)
    check_sector_aligned(extents, target.logical_sector_size)
    _drop_caches(target)
    written = list(extents.written_runs(extents.start, extents.end))
    runs = written
    if not has_digests:
        on_target = [run for start, end in written for run in target.data_runs(start, end)]
        data = merge_runs(find_data_runs(extents, reader), on_target)
        runs = list(_widen(data, written))
    hasher = PieceHasher() if has_digests else None
    filler = SourceFiller(reader, meter)
    back = _TargetReader(target, extents, meter)
    actual = aligned_buffer(FILL_SIZE)
    comparer = _Comparer()
    meter.start(Phase.VERIFY, runs_size(runs))
    with Pipeline(
        iter_steps(extents, runs),
        filler.fill,
        meter=meter,
        hasher=hasher,
        cancel=cancel,
    ) as pipeline:
        for filled in pipeline:
            step = filled.step
            back.read(step.start, actual[: step.size])
            if not comparer.is_equal(actual[: step.size], filled.data):
                piece_end = min(extents.end, align_down(step.start, PIECE_SIZE) + PIECE_SIZE)
                _raise_difference(extents, reader, back, step.start, piece_end)
            meter.update(back.bytes_read)
    reader.check_all()
    meter.finish()
    return VerifyResult(
        bytes_read=back.bytes_read,
        seconds=meter.clock() - began,
        digests=tuple(hasher.digests) if hasher else (),
    )


def verify_digests(
    *,
    runs: Sequence[Run],
    digests: Sequence[PieceDigest],
    target: ReadableTarget,
    meter: ProgressMeter,
    extents: ExtentMap | None = None,
    reader: SourceReader | None = None,
    piece_size: int = PIECE_SIZE,
    cancel: threading.Event | None = None,
) -> VerifyResult:
    """Compare the bytes of ``runs`` with their digests.

    With ``extents`` and ``reader`` a difference is traced to its byte; without, to its piece.

    Raises:
        VerifyError: the first piece that differs; TargetIOError: the target can't be read.
    """
    began = meter.clock()
    end = max((end for _, end in runs), default=0)
    check_target_size(end, target)
    _drop_caches(target)
    hasher = PieceHasher(piece_size)
    back = _TargetReader(target, extents, meter)
    comparison = _DigestComparison(digests, hasher)
    meter.start(Phase.VERIFY, runs_size(runs))
    with Pipeline(
        iter_windows(runs),
        lambda step, data: back.read(step.start, data),
        meter=meter,
        hasher=hasher,
        cancel=cancel,
    ) as pipeline:
        for _ in pipeline:
            meter.update(back.bytes_read)
            if comparison.find_difference() is not None:
                break
    piece_index = comparison.find_difference()
    if piece_index is not None:
        start = piece_index * piece_size
        piece_end = min(end, start + piece_size)
        if extents is not None and reader is not None:
            _raise_difference(extents, reader, back, start, piece_end)
        raise VerifyError(
            f"{target.name}: piece {piece_index} {format_range(start, piece_end)} "
            "does not hold what was written",
            hint=_HINT,
        )
    meter.finish()
    return VerifyResult(
        bytes_read=back.bytes_read, seconds=meter.clock() - began, digests=tuple(hasher.digests)
    )


def _widen(data: Sequence[Run], written: Sequence[Run]) -> Iterator[Run]:
    """``data`` widened to whole blocks, as O_DIRECT reads them, within what was written."""
    blocks = merge_runs(
        (align_down(start, _BLOCK_SIZE), align_up(end, _BLOCK_SIZE)) for start, end in data
    )
    index = 0
    for start, end in blocks:
        while index < len(written) and written[index][1] <= start:
            index += 1
        for low, high in written[index:]:
            if low >= end:
                break
            yield max(start, low), min(end, high)


class _DigestComparison:
    """Compares digests while they come in."""

    def __init__(self, expected: Sequence[PieceDigest], hasher: PieceHasher) -> None:
        self._expected = expected
        self._hasher = hasher
        self._equal_count = 0

    def find_difference(self) -> int | None:
        """The index of the first piece that differs, among those hashed by now."""
        got = self._hasher.digests
        while self._equal_count < len(got):
            piece = got[self._equal_count]
            if self._equal_count >= len(self._expected):
                return piece.piece_index
            if piece != self._expected[self._equal_count]:
                return piece.piece_index
            self._equal_count += 1
        return None


class _TargetReader:
    """Reads the target; an error names the extent, and the reading time is counted."""

    def __init__(
        self, target: ReadableTarget, extents: ExtentMap | None, meter: ProgressMeter
    ) -> None:
        self.bytes_read = 0
        self.name = target.name
        self._target = target
        self._extents = extents
        self.meter = meter

    def read(self, offset: int, data: memoryview) -> None:
        began = self.meter.clock()
        try:
            self._target.preadinto(offset, data)
        except OSError as error:
            raise describe_target_error(
                error,
                target=self._target,
                doing="reading back",
                offset=offset,
                extents=self._extents,
            ) from error
        self.bytes_read += len(data)
        self.meter.busy.target += self.meter.clock() - began


def check_target_size(needed_size: int, target: ReadableTarget) -> None:
    """What is to be compared must be there.

    Raises:
        VerifyError: the target is smaller.
    """
    if target.size < needed_size:
        raise VerifyError(
            f"{target.name} holds {target.size} bytes, the plan covers {needed_size}",
            hint="is it the right target, and was its image copied whole?",
        )


def _drop_caches(target: ReadableTarget) -> None:
    try:
        target.drop_caches()
    except OSError as error:
        raise describe_target_error(
            error, target=target, doing="dropping its caches", offset=None, extents=None
        ) from error


class _Comparer:
    """Compares buffers by memcmp; two memoryviews would be compared item by item.

    That takes a bytearray on one side. It is kept, as the page faults of a new one for every
    buffer were seen to cost more than the comparison.
    """

    def __init__(self) -> None:
        self._scratch = bytearray(FILL_SIZE)

    def is_equal(self, left: memoryview, right: memoryview) -> bool:
        if len(left) != FILL_SIZE:
            return bytearray(left) == right
        self._scratch[:] = left
        return self._scratch == right


def _raise_difference(
    extents: ExtentMap, reader: SourceReader, back: _TargetReader, start: int, end: int
) -> NoReturn:
    """Read ``[start, end)`` of target and plan once more; name the first byte that differs."""
    filler = SourceFiller(reader, back.meter)
    expected_buffer, actual_buffer = aligned_buffer(FILL_SIZE), aligned_buffer(FILL_SIZE)
    first: tuple[int, int, int] | None = None
    difference_count = 0
    for step in iter_steps(extents, extents.written_runs(start, end)):
        assert isinstance(step, Fill)
        expected, actual = expected_buffer[: step.size], actual_buffer[: step.size]
        filler.fill(step, expected)
        back.read(step.start, actual)
        position, count = _count_differences(expected, actual)
        difference_count += count
        if count and first is None:
            first = (step.start + position, expected[position], actual[position])
    if first is None:
        raise VerifyError(
            f"{back.name}: {format_range(start, end)} was wrong when first read back, but is "
            "right when read again: the medium (or this computer's memory) is not to be relied on",
            hint=_HINT,
        )
    offset, wanted, got = first
    extent = extents.find(offset)
    raise VerifyError(
        f"{back.name}: extent {extent}: first difference at {offset:#x} (byte "
        f"{offset - extent.start} of the extent): expected {wanted:02x}, got {got:02x}; "
        f"{difference_count} bytes differ in {format_range(start, end)}",
        hint=_HINT,
    )


def _count_differences(expected: memoryview, actual: memoryview) -> tuple[int, int]:
    """Index of the first byte that differs, and how many do; ``(0, 0)`` if none."""
    if bytearray(actual) == expected:
        return 0, 0
    size = len(expected)
    # One big exclusive or: a loop over 4 MiB of bytes would take a second.
    difference = int.from_bytes(expected, "big") ^ int.from_bytes(actual, "big")
    bits = difference.to_bytes(size, "big")
    return size - len(bits.lstrip(b"\0")), size - bits.count(0)
