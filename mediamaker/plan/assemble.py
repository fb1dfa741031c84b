# SPDX-License-Identifier: GPL-3.0-or-later
"""Puts a WIM together from resources of others, as extents: nothing is recompressed.

A plain resource is moved whole; of a solid one a run of chunks is taken, which becomes a solid
resource of its own with a new header and table, its chunks verbatim. Sizes are exact at every
step, so that a caller can ask what something would take before it is added.
"""

from __future__ import annotations

import sys
from array import array
from bisect import bisect_right
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from heapq import merge

from mediamaker.errors import FormatError, NotRepresentableError
from mediamaker.extents import Literal, Piece, Zeros, coalesce_pieces
from mediamaker.formats.wim import (
    BLOB_ENTRY_SIZE,
    HEADER_SIZE,
    SIZE_IN_WIM_MAX,
    ResourceFlag,
    ResourceHeader,
    WimHeader,
    pack_wim_header,
)
from mediamaker.formats.wim_blobs import (
    BLOB_ROW,
    SOLID_HEADER_SIZE,
    SOLID_RESOURCE_MARK,
    ZERO_SHA1,
    SolidHeader,
    pack_solid_header,
)
from mediamaker.formats.wim_chunks import ChunkTable
from mediamaker.formats.wim_file import WimFile, live_rows, sorted_by_offset
from mediamaker.formats.wim_solid import find_solid_runs
from mediamaker.plan.split import PieceSlicer, WimPart, group_rows

_METADATA = ResourceFlag.METADATA << 56
_SPANNED = ResourceFlag.SPANNED << 56


@dataclass(slots=True, kw_only=True)
class SolidBlobs:
    """A solid resource: its place, its chunks, and the rows of its blobs in their order inside."""

    resource: ResourceHeader
    header: SolidHeader
    chunks: ChunkTable
    bounds: array[int]
    base: int
    """Where it begins in what the resources of its run decompress to, one after the other."""
    blobs: array[int] = field(default_factory=lambda: array("I"))

    @property
    def start(self) -> int:
        """Its place in the source."""
        return self.resource.offset


@dataclass(frozen=True, slots=True, kw_only=True)
class PlainRows:
    """A plain resource and the rows that name it."""

    start: int
    size: int
    rows: array[int]


class WimContents:
    """A WIM to take resources from: its rows sorted into metadata, plain and solid.

    Raises:
        FormatError: a solid blob that lies in no resource of its run.
        NotRepresentableError: contents that can't be moved one by one.
    """

    def __init__(
        self, wim: WimFile, pieces: Sequence[Piece], tables: Sequence[ChunkTable], what: str
    ) -> None:
        self.wim = wim
        self.slicer = PieceSlicer(pieces)
        self.solids = _find_solid_blobs(wim, tables, what)
        metadata, self._data = array("I"), array("I")
        for index, row in live_rows(wim.blobs, wim.part_number):
            if row[0] & _SPANNED:
                raise NotRepresentableError(
                    f"{what}: the resource {row[5].hex()} is marked as spread over several parts"
                )
            (metadata if row[0] & _METADATA else self._data).append(index)
        # Metadata stays in table order: that is what says which image it belongs to.
        self.metadata = [
            PlainRows(start=s, size=n, rows=r) for r, s, n in group_rows(wim, metadata)
        ]

    def in_file_order(self) -> Iterator[PlainRows | SolidBlobs]:
        """Every data resource, in the order in which they lie in the source."""
        ordered = sorted_by_offset(self.wim.blobs, self._data)
        plain = (PlainRows(start=s, size=n, rows=r) for r, s, n in group_rows(self.wim, ordered))
        return merge(
            plain, sorted(self.solids, key=lambda solid: solid.start), key=lambda unit: unit.start
        )


def _find_solid_blobs(
    wim: WimFile, tables: Sequence[ChunkTable], what: str
) -> tuple[SolidBlobs, ...]:
    """Every solid resource with the blobs that lie in it."""
    found: list[SolidBlobs] = []
    for run in find_solid_runs(wim):
        of_run = [
            SolidBlobs(
                resource=wim.solid_resources[index].resource,
                header=wim.solid_resources[index].header,
                chunks=tables[index],
                # Never None: only resources that are not solid have no bounds.
                bounds=tables[index].bounds or array("Q", [0]),
                base=base,
            )
            for index, base in zip(run.resource_indexes, run.starts, strict=True)
        ]
        for index in run.rows:
            size_and_flags, offset, _, _, _, sha1 = wim.blobs.row(index)
            if size_and_flags & (_METADATA | _SPANNED):
                raise NotRepresentableError(
                    f"{what}: the blob {sha1.hex()} is metadata or spread over parts, yet lies in "
                    "a solid resource"
                )
            end = offset + (size_and_flags & SIZE_IN_WIM_MAX)
            at = bisect_right(run.starts, offset) - 1
            if at < 0 or end > of_run[at].base + of_run[at].chunks.size:
                raise FormatError(
                    f"{what}: WIM blob {sha1.hex()}: expected inside one solid resource, "
                    f"got {offset:#x} to {end:#x} of its run"
                )
            of_run[at].blobs.append(index)
        for solid in of_run:
            solid.blobs = sorted_by_offset(wim.blobs, solid.blobs)
        found += of_run
    return tuple(found)


@dataclass(slots=True)
class WimAssembler:
    """One WIM that is being put together; resources follow each other in the order of calls."""

    xml: bytes
    part_number: int = 1
    alignment: int = 1
    row_count: int = 0
    _position: int = HEADER_SIZE
    _table: bytearray = field(default_factory=bytearray)
    _pieces: list[Piece] = field(default_factory=list)
    _pending: tuple[PieceSlicer, int, int] | None = None
    _run_size: int = 0

    @property
    def size(self) -> int:
        """Bytes of the whole file if nothing is added."""
        return self._position + self.row_count * BLOB_ENTRY_SIZE + len(self.xml)

    def size_with_plain(self, unit: PlainRows) -> int:
        """Bytes of the whole file with ``unit``."""
        padding = (unit.start - self._position) % self.alignment
        return self.size + padding + unit.size + BLOB_ENTRY_SIZE * len(unit.rows)

    def size_with_chunks(self, solid: SolidBlobs, first: int, end: int, blob_count: int) -> int:
        """Bytes of the whole file with the chunks ``[first, end)`` and so many blobs of them."""
        head_size = SOLID_HEADER_SIZE + 4 * (end - first)
        start = solid.start + solid.bounds[first]
        padding = (start - self._position - head_size) % self.alignment
        stored_size = solid.bounds[end] - solid.bounds[first]
        return self.size + padding + head_size + stored_size + BLOB_ENTRY_SIZE * (1 + blob_count)

    def add_plain(self, contents: WimContents, unit: PlainRows) -> None:
        """Append a plain resource and its rows."""
        self._pad((unit.start - self._position) % self.alignment)
        place = self._position
        self._move(contents.slicer, unit.start, unit.start + unit.size)
        for index in unit.rows:
            size_and_flags, _, uncompressed_size, _, references, sha1 = contents.wim.blobs.row(
                index
            )
            self._add_row(size_and_flags, place, uncompressed_size, references, sha1)
        self._run_size = 0

    def add_chunks(
        self, contents: WimContents, solid: SolidBlobs, first: int, end: int, blobs: Iterable[int]
    ) -> None:
        """Append the chunks ``[first, end)`` as a solid resource, and the rows ``blobs`` in them.

        Rows of solid resources that follow each other are one run, in which blobs count their
        offsets from the start of what the run's first resource decompresses to.
        """
        chunk_size = solid.header.chunk_size
        raw_start = first * chunk_size
        raw_size = min(end * chunk_size, solid.chunks.size) - raw_start
        sizes = array("I", (solid.bounds[n + 1] - solid.bounds[n] for n in range(first, end)))
        if sys.byteorder == "big":
            sizes.byteswap()
        head = pack_solid_header(replace(solid.header, uncompressed_size=raw_size))
        head += sizes.tobytes()
        start = solid.start + solid.bounds[first]
        self._pad((start - self._position - len(head)) % self.alignment)
        place = self._position
        self._flush()
        self._pieces.append(Piece(len(head), Literal(head)))
        self._position += len(head)
        self._move(contents.slicer, start, solid.start + solid.bounds[end])
        size_and_flags = solid.resource.flags << 56 | self._position - place
        self._add_row(size_and_flags, place, SOLID_RESOURCE_MARK, 1, ZERO_SHA1)
        shift = self._run_size - solid.base - raw_start
        for index in blobs:
            size_and_flags, offset, mark, _, references, sha1 = contents.wim.blobs.row(index)
            self._add_row(size_and_flags, offset + shift, mark, references, sha1)
        self._run_size += raw_size

    def finish(self, header: WimHeader, name: str) -> WimPart:
        """The file, with ``header``, whose tables get their places now."""
        self._flush()
        table = bytes(self._table)
        table_place = header.blob_table._replace(
            offset=self._position, size_in_wim=len(table), uncompressed_size=len(table)
        )
        xml_place = header.xml._replace(
            offset=table_place.end, size_in_wim=len(self.xml), uncompressed_size=len(self.xml)
        )
        header = replace(header, blob_table=table_place, xml=xml_place)
        pieces = [Piece(HEADER_SIZE, Literal(pack_wim_header(header))), *self._pieces]
        if tail := table + self.xml:
            pieces.append(Piece(len(tail), Literal(tail)))
        return WimPart(name, self.size, coalesce_pieces(pieces))

    def _add_row(
        self, size_and_flags: int, offset: int, uncompressed_size: int, references: int, sha1: bytes
    ) -> None:
        self._table += BLOB_ROW.pack(
            size_and_flags, offset, uncompressed_size, self.part_number, references, sha1
        )
        self.row_count += 1

    def _pad(self, padding: int) -> None:
        if padding:
            self._flush()
            self._pieces.append(Piece(padding, Zeros()))
            self._position += padding

    def _move(self, slicer: PieceSlicer, start: int, end: int) -> None:
        pending = self._pending
        if pending and pending[0] is slicer and pending[2] == start:
            self._pending = (slicer, pending[1], end)
        else:
            self._flush()
            self._pending = (slicer, start, end)
        self._position += end - start

    def _flush(self) -> None:
        if self._pending:
            slicer, start, end = self._pending
            self._pieces.extend(slicer.slice(start, end))
            self._pending = None
