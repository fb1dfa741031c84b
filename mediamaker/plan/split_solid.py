# SPDX-License-Identifier: GPL-3.0-or-later
"""Splits a WIM that holds solid resources, at the borders of their chunks, recompressing nothing.

The rules are those of :mod:`mediamaker.plan.split`; plain resources are moved as there. Of a solid
resource, a part gets the chunks that its blobs lie in, as a solid resource of its own. A chunk that
holds blobs of two parts is in both: one such chunk a cut at most. wimlib 1.13.6 and 7-Zip read
such parts; Windows Setup was not seen to, so callers must call this experimental.
"""

from __future__ import annotations

from array import array
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import NoReturn

from mediamaker.errors import NotRepresentableError
from mediamaker.extents import Piece
from mediamaker.formats.wim import SIZE_IN_WIM_MAX
from mediamaker.formats.wim_chunks import ChunkTable
from mediamaker.formats.wim_file import WimFile
from mediamaker.plan.assemble import PlainRows, SolidBlobs, WimAssembler, WimContents
from mediamaker.plan.split import (
    WimPart,
    check_metadata_fits,
    check_part_count,
    check_whole,
    part_header,
    part_name,
)

_SMALLER_HINT = (
    "make it non-solid first, so that nothing but a single file's data must fit: "
    "mediamaker wim optimize SOURCE OUT.wim --for fat32"
)


def split_solid_wim(
    wim: WimFile,
    tables: Sequence[ChunkTable],
    pieces: Sequence[Piece],
    guid: bytes,
    part_size_max: int,
    *,
    stem: str = "install",
    alignment: int = 1,
) -> tuple[WimPart, ...]:
    """The parts of ``wim``, whose bytes are ``pieces``; none is over ``part_size_max`` bytes.

    ``tables`` are the chunks of its solid resources (``sources.wim_solid.read_solid_tables``).
    With ``alignment``, zeros before a resource give its data the same remainder as in the source,
    so that a file system can share the blocks.

    Raises:
        NotRepresentableError: it can't be split, or not into such small parts.
        FormatError: its solid blobs do not lie in its solid resources.
    """
    check_whole(wim, stem)
    contents = WimContents(wim, pieces, tables, stem)
    filler = _Filler(contents, part_size_max, stem, alignment)
    for unit in contents.in_file_order():
        match unit:
            case PlainRows():
                filler.add_plain(unit)
            case SolidBlobs():
                filler.add_solid(unit)
    parts = filler.finish()
    return tuple(
        part.finish(
            part_header(wim.header, guid, number, len(parts)), part_name(stem, number, len(parts))
        )
        for number, part in enumerate(parts, 1)
    )


@dataclass(slots=True)
class _Slice:
    """Chunks of a solid resource that go into the part at hand; more may still join them."""

    solid: SolidBlobs
    first: int
    end: int
    blobs: array[int] = field(default_factory=lambda: array("I"))


class _Filler:
    """Fills parts greedily in the order of the source."""

    def __init__(
        self, contents: WimContents, part_size_max: int, stem: str, alignment: int
    ) -> None:
        self._contents = contents
        self._part_size_max = part_size_max
        self._stem = stem
        self._alignment = alignment
        self._part = WimAssembler(contents.wim.xml, 1, alignment)
        self._parts = [self._part]
        self._slice: _Slice | None = None
        for unit in contents.metadata:
            self._part.add_plain(contents, unit)
        check_metadata_fits(contents.wim, self._part.size, part_size_max, stem)

    def finish(self) -> list[WimAssembler]:
        """The parts."""
        self._end_slice()
        return self._parts

    def add_plain(self, unit: PlainRows) -> None:
        """Put a plain resource into this part, or else into the next."""
        self._end_slice()
        if self._part.size_with_plain(unit) > self._part_size_max:
            self._next_part()
            if self._part.size_with_plain(unit) > self._part_size_max:
                self._refuse(unit.rows[0], unit.size, "its resource")
        self._part.add_plain(self._contents, unit)

    def add_solid(self, solid: SolidBlobs) -> None:
        """Put the blobs of a solid resource, with the chunks they lie in, into as many parts."""
        table, chunk_size = self._contents.wim.blobs, solid.header.chunk_size
        for index in solid.blobs:
            size_and_flags, offset, *_ = table.row(index)
            start = offset - solid.base
            first = start // chunk_size
            end = (start + (size_and_flags & SIZE_IN_WIM_MAX) - 1) // chunk_size + 1
            self._add_blob(solid, index, first, end)

    def _add_blob(self, solid: SolidBlobs, index: int, first: int, end: int) -> None:
        current = self._slice
        # Chunks that nobody needs are left out: what lies beyond them begins a resource anew.
        if current and current.solid is solid and first <= current.end:
            end_with = max(end, current.end)
            size = self._part.size_with_chunks(
                solid, current.first, end_with, len(current.blobs) + 1
            )
            if size <= self._part_size_max:
                current.end = end_with
                current.blobs.append(index)
                return
            self._next_part()
        else:
            self._end_slice()
            if self._part.size_with_chunks(solid, first, end, 1) > self._part_size_max:
                self._next_part()
        if self._part.size_with_chunks(solid, first, end, 1) > self._part_size_max:
            stored_size = solid.bounds[end] - solid.bounds[first]
            self._refuse(index, stored_size, f"the {end - first} chunks that it lies in")
        self._slice = _Slice(solid, first, end, array("I", [index]))

    def _end_slice(self) -> None:
        taken, self._slice = self._slice, None
        if taken:
            self._part.add_chunks(self._contents, taken.solid, taken.first, taken.end, taken.blobs)

    def _next_part(self) -> None:
        self._end_slice()
        if not self._part.row_count:
            return  # nothing is in this one yet, so the next would have no more room
        check_part_count(len(self._parts) + 1, self._part_size_max, self._stem)
        self._part = WimAssembler(self._contents.wim.xml, len(self._parts) + 1, self._alignment)
        self._parts.append(self._part)

    def _refuse(self, index: int, stored_size: int, what: str) -> NoReturn:
        blob = self._contents.wim.blobs[index]
        raise NotRepresentableError(
            f"{self._stem}: the blob {blob.sha1.hex()}: {what} take {stored_size} bytes; a part "
            f"may have {self._part_size_max}, of which {self._part_size_max - self._part.size} "
            "are for resources and their table, and a chunk can't be divided",
            hint=_SMALLER_HINT,
        )
