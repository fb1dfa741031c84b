# SPDX-License-Identifier: GPL-3.0-or-later
"""What was read of a disk: block reads become files, in order, how much of each, and when.

A read says that bytes went to the machine, not who wanted them. Drivers read more than they are
asked for: OVMF's FAT driver takes whole pages of 64 KiB, so that a small file comes with its
neighbours. A file of which no byte was read without those of another one was therefore read
"in passing": perhaps wanted, perhaps not, and verdicts know the difference.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field

from mediamaker.sources.disk_map import DiskMap, MappedVolume, NamedPart
from mediamaker.sources.file_map import Kind, MappedFile
from mediamaker.vm.nbd import BlockRead, ReadLog

_BURST_GAP = 0.25
"""Reads of one file with less time (seconds) between them are one bar of the picture."""
UNNAMED = "(padding or free space)"


@dataclass(frozen=True, slots=True)
class Burst:
    """Reads of one file without a pause; ``first`` and ``last`` are seconds."""

    first: float
    last: float
    size: int


@dataclass(frozen=True, slots=True)
class TracedItem:
    """A file, directory or structure of which something was read; ``order`` counts from 1.

    ``read_size`` are different bytes of it, ``own_size`` those that came in reads of this file
    alone; ``request_size`` counts repeated bytes too. ``volume_number`` is its partition's, 0 for
    the disk itself. ``kind`` is None for bytes without a name.
    """

    order: int
    name: str
    kind: Kind | None
    volume_number: int
    size: int
    read_size: int
    own_size: int
    request_size: int
    request_count: int
    bursts: tuple[Burst, ...]

    @property
    def first(self) -> float:
        """Seconds at which it was first read."""
        return self.bursts[0].first

    @property
    def last(self) -> float:
        """Seconds at which it was last read."""
        return self.bursts[-1].last

    @property
    def percent(self) -> float:
        """How much of it was read; 100 only when it was all of it."""
        if self.read_size >= self.size:
            return 100.0
        return min(99.9, 100 * self.read_size / self.size)

    @property
    def is_whole(self) -> bool:
        """Whether every byte was read."""
        return self.read_size >= self.size

    @property
    def is_in_passing(self) -> bool:
        """Whether it was only ever read together with other files."""
        return self.kind is Kind.FILE and self.own_size == 0


@dataclass(frozen=True, slots=True)
class Trace:
    """Everything that was read, in the order of the first byte; times are seconds."""

    items: tuple[TracedItem, ...]
    seconds: float
    request_count: int
    request_size: int
    lost_count: int
    volume_count: int

    def find(self, volume_number: int, path: str) -> TracedItem | None:
        """What was read of a file; None when nothing was."""
        folded = path.casefold()
        for item in self.items:
            if item.volume_number == volume_number and item.name.casefold() == folded:
                return item
        return None

    def files(self) -> Iterator[TracedItem]:
        """Files alone."""
        return (item for item in self.items if item.kind is Kind.FILE)


class _Coverage:
    """Which bytes: disjoint ranges, merged as soon as there are many."""

    __slots__ = ("_ranges", "_sorted_count")

    def __init__(self) -> None:
        self._ranges: list[tuple[int, int]] = []
        self._sorted_count = 64

    def add(self, start: int, end: int) -> None:
        if self._ranges and self._ranges[-1][1] == start:
            self._ranges[-1] = (self._ranges[-1][0], end)
            return
        self._ranges.append((start, end))
        if len(self._ranges) > self._sorted_count:
            self._merge()
            self._sorted_count = 2 * len(self._ranges) + 64

    def size(self) -> int:
        self._merge()
        return sum(end - start for start, end in self._ranges)

    def _merge(self) -> None:
        merged: list[tuple[int, int]] = []
        for start, end in sorted(self._ranges):
            if merged and start <= merged[-1][1]:
                merged[-1] = (merged[-1][0], max(end, merged[-1][1]))
            else:
                merged.append((start, end))
        self._ranges = merged


@dataclass(slots=True)
class _Tally:
    volume: MappedVolume | None
    item: MappedFile | None
    all: _Coverage = field(default_factory=_Coverage)
    own: _Coverage = field(default_factory=_Coverage)
    request_size: int = 0
    request_count: int = 0
    bursts: list[list[float]] = field(default_factory=list)

    def add(self, read: BlockRead, parts: list[NamedPart], *, is_alone: bool) -> None:
        size = sum(part.end - part.start for part in parts)
        for part in parts:
            self.all.add(part.start, part.end)
            if is_alone:
                self.own.add(part.start, part.end)
        self.request_size += size
        self.request_count += 1
        if self.bursts and read.seconds - self.bursts[-1][1] <= _BURST_GAP:
            self.bursts[-1][1] = read.seconds
            self.bursts[-1][2] += size
        else:
            self.bursts.append([read.seconds, read.seconds, size])


def build_trace(log: ReadLog, disk_map: DiskMap) -> Trace:
    """Name every read of ``log`` by ``disk_map``."""
    tallies: dict[tuple[int, str], _Tally] = {}
    seconds, count, total = 0.0, 0, 0
    for read in log:
        seconds = max(seconds, read.seconds)
        count += 1
        total += read.size
        by_item: dict[tuple[int, str], list[NamedPart]] = {}
        for part in disk_map.locate(read.start, read.end):
            by_item.setdefault(_key(part), []).append(part)
        file_count = sum(_is_file(parts[0]) for parts in by_item.values())
        for key, parts in by_item.items():
            tally = tallies.get(key)
            if tally is None:
                tally = tallies[key] = _Tally(parts[0].volume, parts[0].item)
            tally.add(read, parts, is_alone=file_count <= 1)
    items = tuple(
        _finish(order, key, tally) for order, (key, tally) in enumerate(tallies.items(), 1)
    )
    return Trace(
        items=items,
        seconds=seconds,
        request_count=count,
        request_size=total,
        lost_count=log.lost_count,
        volume_count=sum(volume.number > 0 for volume in disk_map.volumes),
    )


def _key(part: NamedPart) -> tuple[int, str]:
    if part.volume is None or part.item is None:
        return -1, UNNAMED
    return part.volume.number, f"{part.item.kind}:{part.item.name}"


def _is_file(part: NamedPart) -> bool:
    return part.item is not None and part.item.kind is Kind.FILE


def _finish(order: int, key: tuple[int, str], tally: _Tally) -> TracedItem:
    read_size = tally.all.size()
    item = tally.item
    return TracedItem(
        order=order,
        name=UNNAMED if item is None else item.name,
        kind=None if item is None else item.kind,
        volume_number=max(0, key[0]),
        size=read_size if item is None else sum(size for _, size in item.pieces),
        read_size=read_size,
        own_size=tally.own.size(),
        request_size=tally.request_size,
        request_count=tally.request_count,
        bursts=tuple(Burst(first, last, int(size)) for first, last, size in tally.bursts),
    )
