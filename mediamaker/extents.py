# SPDX-License-Identifier: GPL-3.0-or-later
"""Named byte extents over a target, and the gapless map that holds them.

An :class:`Extent` owns the half-open range ``[start, end)``. Its ``source`` says where the
bytes come from; the union of sources is closed, match on it with ``assert_never``.

The map is gapless by construction (an idea learned from nbdkit's regions and genimage):
:class:`ExtentMapBuilder` refuses an extent that does not start where the last one ended,
so that overlap, completeness, progress totals and read-back are each one short function.
"""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, replace

from mediamaker.errors import PlanError
from mediamaker.units import MIB, align_up, format_range

LITERAL_SIZE_MAX = 64 * MIB
"""A literal is held in memory: file tables and directories, never contents."""


@dataclass(frozen=True, slots=True)
class Literal:
    """Bytes that the plan itself holds."""

    data: bytes

    def __post_init__(self) -> None:
        if len(self.data) > LITERAL_SIZE_MAX:
            raise PlanError(
                f"a literal of {len(self.data)} bytes is over the limit of {LITERAL_SIZE_MAX}"
            )


@dataclass(frozen=True, slots=True)
class Zeros:
    """Zero bytes, written and verified like any other."""


@dataclass(frozen=True, slots=True)
class FileRange:
    """A range of an input file, from ``offset`` (bytes) on; its length is the extent's."""

    source_id: str
    offset: int


@dataclass(frozen=True, slots=True)
class Unwritten:
    """Left as it is: neither written nor verified (free clusters)."""


Source = Literal | Zeros | FileRange | Unwritten


@dataclass(frozen=True, slots=True)
class Piece:
    """``size`` bytes from ``source``: a run of a file's content that has no address yet."""

    size: int
    source: Source

    def __post_init__(self) -> None:
        _check_size(self.size, self.source, "a piece")


@dataclass(frozen=True, slots=True)
class Extent:
    """``size`` bytes at ``start`` of the target (or of the volume, before it is shifted)."""

    start: int
    size: int
    name: str
    source: Source

    @property
    def end(self) -> int:
        """One past the last byte."""
        return self.start + self.size

    def shifted(self, offset: int) -> Extent:
        """The same extent, ``offset`` bytes further on."""
        return replace(self, start=self.start + offset)

    def __str__(self) -> str:
        return f'"{self.name}" {format_range(self.start, self.end)}'


def slice_source(source: Source, offset: int, size: int) -> Source:
    """The source of ``size`` bytes that begin ``offset`` bytes into ``source``."""
    match source:
        case Literal(data):
            return Literal(data[offset : offset + size])
        case FileRange(source_id, base):
            return FileRange(source_id, base + offset)
        case Zeros() | Unwritten():
            return source


def slice_pieces(pieces: Iterable[Piece], offset: int, size: int) -> tuple[Piece, ...]:
    """The pieces that make up ``[offset, offset + size)`` of what ``pieces`` make up.

    Raises:
        PlanError: the range goes past the end.
    """
    end = offset + size
    position = 0
    taken: list[Piece] = []
    for piece in pieces:
        low, high = max(offset, position), min(end, position + piece.size)
        if low < high:
            taken.append(Piece(high - low, slice_source(piece.source, low - position, high - low)))
        position += piece.size
        if position >= end:
            break
    if position < end:
        raise PlanError(f"range {format_range(offset, end)} goes past the end at {position:#x}")
    return tuple(taken)


def coalesce_pieces(pieces: Iterable[Piece]) -> tuple[Piece, ...]:
    """The same bytes in the fewest pieces: adjoining file ranges and zeros become one."""
    merged: list[Piece] = []
    for piece in pieces:
        if piece.size == 0:
            continue
        if merged:
            last = merged[-1]
            match last.source, piece.source:
                case (FileRange(a, base), FileRange(b, offset)) if (
                    a == b and base + last.size == offset
                ):
                    merged[-1] = Piece(last.size + piece.size, last.source)
                    continue
                case (Zeros(), Zeros()) | (Unwritten(), Unwritten()):
                    merged[-1] = Piece(last.size + piece.size, last.source)
                    continue
                case _:
                    pass
        merged.append(piece)
    return tuple(merged)


class ExtentMapBuilder:
    """Appends extents in ascending order; every append is checked."""

    def __init__(self, *, start: int = 0) -> None:
        self._extents: list[Extent] = []
        self._start = start
        self._position = start

    @property
    def position(self) -> int:
        """Where the next extent must start."""
        return self._position

    def append(self, extent: Extent, *, alignment: int = 1) -> None:
        """Add ``extent``; its start must be the current position, aligned to ``alignment``.

        Raises:
            PlanError: it overlaps the last one, leaves a gap, is misaligned or has no size.
        """
        _check_size(extent.size, extent.source, str(extent))
        if extent.start < self._position:
            other = self._extents[-1] if self._extents else f"the start at {self._start:#x}"
            for earlier in reversed(self._extents):
                if earlier.start <= extent.start:
                    other = earlier
                    break
            raise PlanError(f"{extent} overlaps {other}")
        if extent.start > self._position:
            after = self._extents[-1] if self._extents else "the start"
            gap = format_range(self._position, extent.start)
            raise PlanError(f"nothing owns {gap} between {after} and {extent}")
        if extent.start % alignment:
            raise PlanError(
                f"{extent} starts {extent.start % alignment} bytes past a multiple of {alignment}"
            )
        self._extents.append(extent)
        self._position = extent.end

    def add(self, name: str, size: int, source: Source, *, alignment: int = 1) -> None:
        """Append ``size`` bytes at the current position; no bytes add no extent."""
        if size:
            self.append(Extent(self._position, size, name, source), alignment=alignment)

    def add_pieces(self, name: str, pieces: Iterable[Piece], *, alignment: int = 1) -> None:
        """Append ``pieces`` one after the other under one name; the first is ``alignment``-ed."""
        for piece in pieces:
            self.add(name, piece.size, piece.source, alignment=alignment)
            alignment = 1

    def pad_to(self, end: int, name: str, source: Source) -> None:
        """Fill up to ``end`` with ``source``.

        Raises:
            PlanError: the position is already past ``end``.
        """
        if end < self._position:
            last = self._extents[-1] if self._extents else "the start"
            raise PlanError(f'"{name}" would end at {end:#x}, but {last} is already there')
        self.add(name, end - self._position, source)

    def build(self) -> ExtentMap:
        """The finished map."""
        return ExtentMap(tuple(self._extents), start=self._start)


class ExtentMap:
    """An immutable, gapless, ascending list of extents."""

    __slots__ = ("_extents", "_start", "_starts")

    def __init__(self, extents: tuple[Extent, ...], *, start: int = 0) -> None:
        position = start
        for index, extent in enumerate(extents):
            if extent.start != position:
                before = extents[index - 1] if index else f"the start at {start:#x}"
                raise PlanError(f"{extent} does not begin where {before} ends ({position:#x})")
            position = extent.end
        self._extents = extents
        self._start = start
        self._starts = [extent.start for extent in extents]

    def __iter__(self) -> Iterator[Extent]:
        return iter(self._extents)

    def __len__(self) -> int:
        return len(self._extents)

    def __eq__(self, other: object) -> bool:
        return isinstance(other, ExtentMap) and self._extents == other._extents

    def __hash__(self) -> int:
        return hash(self._extents)

    @property
    def start(self) -> int:
        """The first byte that the map covers."""
        return self._start

    @property
    def end(self) -> int:
        """One past the last byte that the map covers."""
        return self._extents[-1].end if self._extents else self._start

    @property
    def written_size(self) -> int:
        """Bytes that a write puts on the target."""
        return sum(e.size for e in self._extents if not isinstance(e.source, Unwritten))

    def find(self, offset: int) -> Extent:
        """The extent that owns the byte at ``offset``.

        Raises:
            PlanError: no extent does.
        """
        if not self.start <= offset < self.end:
            raise PlanError(f"{offset:#x} is outside {format_range(self.start, self.end)}")
        return self._extents[bisect_right(self._starts, offset) - 1]

    def within(self, start: int, end: int) -> Iterator[Extent]:
        """The extents of ``[start, end)``, cut to it."""
        if start >= end or not self._extents:
            return
        first = max(0, bisect_right(self._starts, start) - 1)
        for index in range(first, len(self._extents)):
            extent = self._extents[index]
            if extent.start >= end:
                return
            low, high = max(start, extent.start), min(end, extent.end)
            if low < high:
                source = slice_source(extent.source, low - extent.start, high - low)
                yield Extent(low, high - low, extent.name, source)

    def written_runs(self, start: int, end: int) -> Iterator[tuple[int, int]]:
        """The longest ranges ``[start, end)`` in which every byte is written, ascending."""
        run_start: int | None = None
        run_end = start
        for extent in self.within(start, end):
            if isinstance(extent.source, Unwritten):
                if run_start is not None:
                    yield run_start, run_end
                    run_start = None
            else:
                if run_start is None:
                    run_start = extent.start
                run_end = extent.end
        if run_start is not None:
            yield run_start, run_end


def check_sector_aligned(extents: ExtentMap, sector_size: int) -> None:
    """Written runs must be whole sectors, or a device could not be written without reading.

    Raises:
        PlanError: names the extent whose border is misaligned.
    """
    for start, end in extents.written_runs(extents.start, extents.end):
        for offset in (start, end):
            if offset % sector_size:
                owner = extents.find(min(offset, extents.end - 1))
                raise PlanError(
                    f"{owner}: a written run borders unwritten bytes at {offset:#x}, "
                    f"which is not a multiple of the sector size {sector_size}"
                    f" (next is {align_up(offset, sector_size):#x})"
                )


def _check_size(size: int, source: Source, who: str) -> None:
    if size <= 0:
        raise PlanError(f"{who} has a size of {size}, expected at least 1")
    if isinstance(source, Literal) and len(source.data) != size:
        raise PlanError(f"{who} has a size of {size}, but its literal holds {len(source.data)}")
    if isinstance(source, FileRange) and source.offset < 0:
        raise PlanError(f"{who} begins at {source.offset} of its source")
