# SPDX-License-Identifier: GPL-3.0-or-later
"""Finds a disk that says it holds more than it does, before anything is streamed onto it.

Counterfeit sticks answer any size; past their real one they write over their beginning (their
address wraps), or drop what they are given. f3probe showed that a few blocks tell it. Here:

1. every sector of a *region* near the beginning, and the disk's last sector, get a mark that
   says which sector it is. The region comes last and is larger than the caches of sticks, so that
   the mark at the end has left the controller's;
2. sectors a region's length apart are read, over all the disk: where one shows a mark of the
   region, the address has wrapped, whatever the real size is, and the distance is that size;
3. the mark at the end is read: if it is not there, writes are dropped. The real size is searched
   for, 64 places at a time.

It comes after the disk was blanked. Marks are only put where the plan writes, and the mark at the
end is taken away again; other places are marked only in the search, on a disk that is proven
false, and get back what was read there. When a disk is found false all marks are taken back in
reverse order, which is right on a disk that wraps, too.

A disk is called false only by a second mark that shows up in the wrong place, or by a mark that is
lost. What slips through (a cache of more than 4 MiB) meets the verification.
"""

from __future__ import annotations

import contextlib
import hashlib
from collections.abc import Callable, Iterator, Sequence

from mediamaker.errors import FakeCapacityError
from mediamaker.execute.medium import Medium
from mediamaker.execute.pipeline import aligned_buffer
from mediamaker.execute.progress import Phase, ProgressMeter
from mediamaker.execute.steps import Run
from mediamaker.execute.target import Target
from mediamaker.extents import ExtentMap
from mediamaker.plan.probe_region import probe_region_size
from mediamaker.units import MIB, align_down, align_up, format_size

_READ_ERROR_COUNT_MAX = 3
_SEARCH_WIDTH = 64
_MARK_SIZE = 64
_DOING = "checking its size"
_HINT = (
    "it is a counterfeit or broken: do not use it, return it. `mediamaker undo` brings back what "
    "can be of what was on it"
)


def check_capacity(
    *,
    extents: ExtentMap,
    commit: Sequence[Run],
    target: Target,
    medium: Medium,
    key: bytes,
    meter: ProgressMeter,
    check: Callable[[], None],
) -> int:
    """Probe ``target``, whose commit ranges are zeroes now; returns how many bytes were written.

    ``key`` makes the marks of this run its own; ``check`` raises when the person gave up.

    Raises:
        FakeCapacityError: names the real size; the marks are taken back.
        TargetIOError: the target failed, and where; marks may be left.
    """
    region = _choose_region(extents, commit, target)
    last = align_down(extents.end, target.logical_sector_size) - target.logical_sector_size
    if region is None or not any(start <= last < end for start, end in commit):
        return 0
    probe = _Probe(
        target=target,
        medium=medium,
        region=region,
        last=last,
        key=key,
        meter=meter,
        check=check,
    )
    return probe.run()


def _choose_region(extents: ExtentMap, commit: Sequence[Run], target: Target) -> Run | None:
    """The beginning of what is written first; None on a disk too small to be worth it."""
    if not commit or commit[0][0] != 0:
        return None
    wanted = probe_region_size(extents.end)
    limit = commit[1][0] if len(commit) > 1 else extents.end
    runs = list(extents.written_runs(commit[0][1], limit))
    if not runs:
        return None
    start, end = runs[0]
    size = align_down(min(wanted, end - start), target.logical_sector_size)
    return (start, start + size) if size >= MIB else None


class _Probe:
    def __init__(
        self,
        *,
        target: Target,
        medium: Medium,
        region: Run,
        last: int,
        key: bytes,
        meter: ProgressMeter,
        check: Callable[[], None],
    ) -> None:
        self._target = target
        self._medium = medium
        self._start, self._end = region
        self._last = last
        self._key = key
        self._meter = meter
        self._check = check
        self._sector_size = target.logical_sector_size
        self._written_size = 0
        self._kept: list[tuple[int, bytes]] = []
        self._sector = aligned_buffer(max(self._sector_size, 4096))[: self._sector_size]

    def run(self) -> int:
        self._meter.start(Phase.PROBE, self._last)
        self._keep(self._last, self._sector_size)
        self._keep(self._start, self._end - self._start)
        self._write(self._last, self._mark(self._last))
        self._mark_region()
        real_size, what = self._find_wrap(), "writes past that overwrite its beginning"
        with self._naming(self._last):
            at_end = self._read(self._last)
        if real_size is None and at_end != self._mark(self._last):
            seen = self._find_mark(at_end, self._key)
            if seen is not None:  # its place is the region's, which was written later
                real_size = self._last - seen
            else:
                real_size, what = self._search(), "writes past that are lost"
        if real_size is not None:
            self._take_back()
            claimed = self._target.size
            raise FakeCapacityError(
                f"{self._target.name} has a fake capacity: it claims {format_size(claimed)} "
                f"({claimed} bytes), but holds {format_size(real_size)} ({real_size} bytes, "
                f"{real_size:#x}): {what}",
                claimed_size=claimed,
                real_size=real_size,
                hint=_HINT,
            )
        self._write(self._last, self._kept[0][1])
        self._meter.finish()
        return self._written_size

    def _find_wrap(self) -> int | None:
        """The size at which the address wraps."""
        error_count = 0
        for offset in range(self._end, self._last, self._end - self._start):
            self._check()
            self._meter.update(offset)
            try:
                seen = self._find_mark(self._read(offset), self._key)
                if seen is not None and self._is_same(seen, offset):
                    return offset - seen
            except OSError as error:
                # A bad spot in what may never be written is no reason to refuse the disk.
                error_count += 1
                if error_count >= _READ_ERROR_COUNT_MAX or not self._target.is_present():
                    raise self._medium.describe(error, _DOING, offset) from error
        return self._find_wrap_into_head()

    def _find_wrap_into_head(self) -> int | None:
        """Where the last sector's mark shows up ahead of the region, which is blank otherwise."""
        head = aligned_buffer(self._start)
        with self._naming(0):
            self._target.preadinto(0, head)
        for offset in range(0, self._start, self._sector_size):
            if head[offset : offset + self._sector_size] == self._mark(self._last):
                return self._last - offset
        return None

    def _is_same(self, low: int, high: int) -> bool:
        """Whether what is written beside ``low`` shows up beside ``high``: one place, two names."""
        step = self._sector_size if low + self._sector_size < self._end else -self._sector_size
        key = self._key + b" again"
        self._write(low + step, self._mark(low + step, key))
        self._settle()
        return self._find_mark(self._read(high + step), key) == low + step

    def _search(self) -> int:
        """The first byte that is not kept, on a disk that drops what lies past its end."""
        low, high = self._end - self._sector_size, self._last
        while high - low > self._sector_size:
            self._check()
            places = _spread(low, high, self._sector_size)
            old = [(place, self._read_or_none(place)) for place in places]
            for place in places:
                # It may refuse what is past its end; then it is not kept either.
                with contextlib.suppress(OSError):
                    self._write_once(place, self._mark(place))
            self._mark_region()
            for place in places:
                if self._read_or_none(place) != self._mark(place):
                    high = place
                    break
                low = place
            for place, data in reversed(old):
                if data is not None:
                    with contextlib.suppress(OSError):
                        self._write_once(place, data)
        return high

    def _take_back(self) -> None:
        """Later ones first: where two names are one place, the oldest content is what stays."""
        for offset, data in reversed(self._kept):
            self._write(offset, data)
        self._settle()

    def _keep(self, offset: int, size: int) -> None:
        """What can't be read is no loss: it is written soon, and the disk's end is blank now."""
        buffer = aligned_buffer(size)
        with contextlib.suppress(OSError):
            self._target.preadinto(offset, buffer)
        self._kept.append((offset, bytes(buffer)))

    def _mark_region(self) -> None:
        marks = (self._mark(offset) for offset in range(self._start, self._end, self._sector_size))
        self._write(self._start, b"".join(marks))
        self._settle()

    def _settle(self) -> None:
        self._medium.flush()
        with self._naming(None):
            self._target.drop_caches()

    def _mark(self, offset: int, key: bytes | None = None) -> bytes:
        name = offset.to_bytes(8, "big")
        digest = hashlib.blake2b(
            (key or self._key) + name,
            digest_size=_MARK_SIZE - len(name),
            person=b"mediamaker probe",
        ).digest()
        return (name + digest) * (self._sector_size // _MARK_SIZE)

    def _find_mark(self, sector: bytes, key: bytes) -> int | None:
        """Which sector of the region this says it is."""
        offset = int.from_bytes(sector[:8], "big")
        is_ours = self._start <= offset < self._end and sector == self._mark(offset, key)
        return offset if is_ours else None

    def _read(self, offset: int) -> bytes:
        self._target.preadinto(offset, self._sector)
        return bytes(self._sector)

    def _read_or_none(self, offset: int) -> bytes | None:
        try:
            return self._read(offset)
        except OSError:
            return None

    def _write(self, offset: int, data: bytes) -> None:
        self._medium.write(offset, _aligned(data), doing=_DOING, is_counted=False)
        self._written_size += len(data)

    def _write_once(self, place: int, mark: bytes) -> None:
        """Where it is not known whether there is anything: neither retried nor described."""
        self._written_size += self._target.pwrite(place, _aligned(mark))

    @contextlib.contextmanager
    def _naming(self, offset: int | None) -> Iterator[None]:
        try:
            yield
        except OSError as error:
            raise self._medium.describe(error, _DOING, offset) from error


def _aligned(data: bytes) -> memoryview:
    buffer = aligned_buffer(align_up(len(data), 4096))[: len(data)]
    buffer[:] = data
    return buffer


def _spread(low: int, high: int, sector_size: int) -> list[int]:
    """At most 63 whole sectors between ``low`` and ``high``, neither of them, ascending."""
    sectors = (high - low) // sector_size
    count = min(_SEARCH_WIDTH, sectors)
    return [low + sectors * index // count * sector_size for index in range(1, count)]
