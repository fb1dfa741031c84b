# SPDX-License-Identifier: GPL-3.0-or-later
"""Splits a WIM into parts as extents of the source: nothing is read, copied or recompressed.

The rules are those of wimlib's split, whose parts Windows Setup takes: data resources in the order
of the source, none divided; every metadata resource in part 1; one new GUID for all parts; the XML
in each; a blob table of only the part's own rows. Unlike wimlib's, the sizes are exact: header,
tables and XML count, so a part may have every byte that FAT32 allows a file.
"""

from __future__ import annotations

from array import array
from bisect import bisect_right
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from itertools import compress, count, islice, repeat
from operator import ne

from mediamaker.errors import NotRepresentableError
from mediamaker.extents import Literal, Piece, Zeros, coalesce_pieces, slice_source
from mediamaker.formats.wim import (
    BLOB_ENTRY_SIZE,
    HEADER_SIZE,
    NO_RESOURCE,
    PART_COUNT_MAX,
    SIZE_IN_WIM_MAX,
    HeaderFlag,
    ResourceFlag,
    WimHeader,
    pack_wim_header,
)
from mediamaker.formats.wim_blobs import BLOB_ROW, BlobEntry
from mediamaker.formats.wim_file import WimFile, live_rows

_ROWS_AT_ONCE = 4096
"""Columns of this many are as fast as all at once, and take no memory to speak of."""
_SPANNED = ResourceFlag.SPANNED << 56


@dataclass(frozen=True, slots=True)
class WimPart:
    """One file of a split WIM."""

    name: str
    size: int
    pieces: tuple[Piece, ...]


def split_wim(
    wim: WimFile,
    pieces: Sequence[Piece],
    guid: bytes,
    part_size_max: int,
    *,
    stem: str = "install",
    alignment: int = 1,
) -> tuple[WimPart, ...]:
    """The parts of ``wim``, whose bytes are ``pieces``; none is over ``part_size_max`` bytes.

    No part has a boot index, as in every split WIM. Should one part hold everything (the
    source had unused room), it is a whole WIM and is called so. With ``alignment``, zeros before
    a resource that does not follow the last one give it the same remainder as in the source, so
    that a file system can share the blocks.

    Raises:
        NotRepresentableError: it can't be split, or not into such small parts.
    """
    _check_splittable(wim, stem)
    contents = _assign(wim, part_size_max, stem, alignment)
    slicer = PieceSlicer(pieces)
    return tuple(
        _render(
            wim,
            content,
            slicer,
            name=part_name(stem, number, len(contents)),
            header=part_header(wim.header, guid, number, len(contents)),
            alignment=alignment,
        )
        for number, content in enumerate(contents, 1)
    )


def part_name(stem: str, number: int, count: int) -> str:
    """``install.swm``, ``install2.swm``, ...: the names by which Setup finds the parts."""
    if count == 1:
        return f"{stem}.wim"
    return f"{stem}.swm" if number == 1 else f"{stem}{number}.swm"


def _check_splittable(wim: WimFile, stem: str) -> None:
    if wim.is_solid:
        raise NotRepresentableError(
            f"{stem}: its blobs are compressed together (solid, as in an ESD), "
            "so it can't be split between them",
            hint=f"make it non-solid first: mediamaker wim optimize SOURCE {stem}.wim",
        )
    check_whole(wim, stem)


def check_whole(wim: WimFile, stem: str) -> None:
    """A part of a split WIM can't be split once more.

    Raises:
        NotRepresentableError: it is one.
    """
    if wim.part_count != 1 or wim.header.flags & HeaderFlag.SPANNED:
        raise NotRepresentableError(
            f"{stem}: it is already split: part {wim.part_number} of {wim.part_count}",
            hint="join the parts first: mediamaker wim join",
        )


@dataclass(slots=True)
class _Content:
    """What goes into one part: metadata rows in table order, and slices of the data rows.

    ``size`` is with tables; ``position`` is where the next resource would go.
    """

    size: int
    metadata: tuple[BlobEntry, ...] = ()
    slices: list[tuple[int, int]] = field(default_factory=list)
    position: int = HEADER_SIZE


def _assign(wim: WimFile, part_size_max: int, stem: str, alignment: int) -> list[_Content]:
    """Fill parts greedily in the order of the source.

    Not resource by resource but run by run: most files are one run, in which every resource
    follows the one before, and where a part ends in it is found by bisection.
    """
    _check_no_spanned(wim, stem)
    fixed_size = HEADER_SIZE + len(wim.xml)
    # Metadata stays in table order: that is what says which image it belongs to.
    part = _Content(fixed_size, wim.metadata)
    last_offset = -1
    for blob in wim.metadata:
        part.size += BLOB_ENTRY_SIZE
        if blob.offset != last_offset:
            taken = (blob.offset - part.position) % alignment + blob.size_in_wim
            part.position += taken
            part.size += taken
            last_offset = blob.offset
    check_metadata_fits(wim, part.size, part_size_max, stem)
    parts = [part]
    starts, ends = wim.data.starts, wim.data.ends
    for run_start, run_end in _find_runs(wim):
        at = run_start
        while at < run_end:
            start = starts[at]
            padding = (start - part.position) % alignment
            # What part.size becomes with the rows from ``at`` to ``last``, less ends and rows.
            base = part.size + padding - start - BLOB_ENTRY_SIZE * (at - 1)
            last = run_end - 1
            if base + ends[last] + BLOB_ENTRY_SIZE * last > part_size_max:
                last = _last_that_fits(wim, at, run_end, part_size_max - base)
            if last < at:
                if not part.slices and not part.metadata:
                    raise _too_large(wim, at, part_size_max, fixed_size, stem)
                check_part_count(len(parts) + 1, part_size_max, stem)
                part = _Content(fixed_size)
                parts.append(part)
                continue
            part.slices.append((at, last + 1))
            part.size = base + ends[last] + BLOB_ENTRY_SIZE * last
            part.position += padding + ends[last] - start
            at = last + 1
    return parts


def _find_runs(wim: WimFile) -> Iterator[tuple[int, int]]:
    """Slices of the data rows in which each resource follows the last one, or is the same."""
    starts = wim.data.starts
    run_start = 0
    for at in compress(count(1), map(ne, islice(starts, 1, None), wim.data.ends)):
        if starts[at] != starts[at - 1]:
            yield run_start, at
            run_start = at
    if run_start < len(starts):
        yield run_start, len(starts)


def _last_that_fits(wim: WimFile, first: int, end: int, size_max: int) -> int:
    """The last of the data rows ``[first, end)`` to which they fit; ``first - 1`` if none does."""
    starts, ends = wim.data.starts, wim.data.ends
    fitting = bisect_right(
        range(first, end), size_max, key=lambda at: ends[at] + BLOB_ENTRY_SIZE * at
    )
    last = first + fitting - 1
    # Rows of the same bytes stay together.
    while first <= last < end - 1 and starts[last + 1] == starts[last]:
        last -= 1
    return last


def _too_large(
    wim: WimFile, at: int, part_size_max: int, fixed_size: int, stem: str
) -> NotRepresentableError:
    stored_size = wim.data.ends[at] - wim.data.starts[at]
    return NotRepresentableError(
        f"{stem}: the resource {wim.blobs[wim.data.rows[at]].sha1.hex()} has {stored_size} bytes; "
        f"a part may have {part_size_max}, of which {part_size_max - fixed_size} "
        "are for resources and their table, and a resource can't be divided",
        hint="if it compresses better it may fit: mediamaker wim optimize SOURCE "
        f"{stem}.wim --for network",
    )


def _check_no_spanned(wim: WimFile, stem: str) -> None:
    # From the flag bytes alone: no real file has such a row.
    flags_offset = 7  # the top byte of the first field, which is little-endian
    flags = set(wim.blobs.data[flags_offset::BLOB_ENTRY_SIZE])
    if not any(value & ResourceFlag.SPANNED for value in flags):
        return
    for _, row in live_rows(wim.blobs, wim.part_number):
        if row[0] & _SPANNED:
            raise NotRepresentableError(
                f"{stem}: the resource {row[5].hex()} is marked as spread over "
                "several parts already"
            )


def check_metadata_fits(wim: WimFile, size: int, part_size_max: int, stem: str) -> None:
    """Part 1 takes ``size`` bytes with nothing but what it must have.

    Raises:
        NotRepresentableError: more than it may have.
    """
    if size > part_size_max:
        raise NotRepresentableError(
            f"{stem}: the first part must hold the metadata of all {len(wim.images)} images, "
            f"which takes {size} bytes; a part may have {part_size_max}",
            hint=f"keep fewer images: mediamaker wim optimize SOURCE {stem}.wim --images 1,6",
        )


def check_part_count(count: int, part_size_max: int, stem: str) -> None:
    """A header counts parts with 16 bits.

    Raises:
        NotRepresentableError: ``count`` is more.
    """
    if count > PART_COUNT_MAX:
        raise NotRepresentableError(
            f"{stem}: parts of {part_size_max} bytes would be more than the "
            f"{PART_COUNT_MAX} that a split WIM can have",
            hint="allow larger parts",
        )


def group_rows(wim: WimFile, ordered: Iterable[int]) -> Iterator[tuple[array[int], int, int]]:
    """Neighbouring rows that name the same stored bytes, where those begin, and how many."""
    rows, offset, size = array("I"), -1, 0
    data, unpack = wim.blobs.data, BLOB_ROW.unpack_from
    for index in ordered:
        size_and_flags, start, _, _, _, _ = unpack(data, index * BLOB_ENTRY_SIZE)
        if start != offset and rows:
            yield rows, offset, size
            rows = array("I", (index,))
        else:
            rows.append(index)
        offset, size = start, size_and_flags & SIZE_IN_WIM_MAX
    if rows:
        yield rows, offset, size


def _render(
    wim: WimFile,
    content: _Content,
    slicer: PieceSlicer,
    *,
    name: str,
    header: WimHeader,
    alignment: int,
) -> WimPart:
    position, part_number = HEADER_SIZE, header.part_number
    blob_table = bytearray()
    # Padding before a run, and where in the source the run begins and ends.
    runs: list[tuple[int, int, int]] = []

    def place(start: int, end: int) -> int:
        """Where ``[start, end)`` of the source goes, behind all that came before."""
        nonlocal position
        padding = (start - position) % alignment
        if runs and start == runs[-1][2]:
            runs[-1] = (*runs[-1][:2], end)
        else:
            runs.append((padding, start, end))
        placed = position + padding
        position = placed + end - start
        return placed

    data, unpack, pack = wim.blobs.data, BLOB_ROW.unpack_from, BLOB_ROW.pack
    last_offset, placed = -1, 0
    for blob in content.metadata:
        if blob.offset != last_offset:
            placed = place(blob.offset, blob.resource.end)
            last_offset = blob.offset
        word = blob.size_in_wim | blob.flags << 56
        blob_table += pack(
            word, placed, blob.uncompressed_size, part_number, blob.reference_count, blob.sha1
        )
    starts, ends = wim.data.starts, wim.data.ends
    for first, end in content.slices:
        moved = place(starts[first], ends[end - 1]) - starts[first]
        for low in range(first, end, _ROWS_AT_ONCE):
            high = min(low + _ROWS_AT_ONCE, end)
            rows = [unpack(data, index * BLOB_ENTRY_SIZE) for index in wim.data.rows[low:high]]
            words, _, sizes, _, references, sha1s = zip(*rows, strict=True)
            offsets = map(moved.__add__, starts[low:high])
            blob_table += b"".join(
                map(pack, words, offsets, sizes, repeat(part_number), references, sha1s)
            )
    table_place = header.blob_table._replace(
        offset=position, size_in_wim=len(blob_table), uncompressed_size=len(blob_table)
    )
    xml_place = header.xml._replace(offset=table_place.end)
    header = replace(header, blob_table=table_place, xml=xml_place)
    tail = bytes(blob_table) + wim.xml
    made = [Piece(HEADER_SIZE, Literal(pack_wim_header(header)))]
    for padding, start, end in runs:
        if padding:
            made.append(Piece(padding, Zeros()))
        made.extend(slicer.slice(start, end))
    if tail:
        made.append(Piece(len(tail), Literal(tail)))
    size = position + len(tail)
    assert size == content.size
    return WimPart(name, size, coalesce_pieces(made))


def part_header(header: WimHeader, guid: bytes, number: int, count: int) -> WimHeader:
    """``header`` as a part has it, before its tables have a place.

    Nothing boots from a split WIM, and the hashes of the whole say nothing about a part.
    """
    cleared = (
        HeaderFlag.SPANNED
        | HeaderFlag.RESOURCE_ONLY
        | HeaderFlag.METADATA_ONLY
        | HeaderFlag.WRITE_IN_PROGRESS
    )
    return replace(
        header,
        flags=header.flags & ~cleared | (HeaderFlag.SPANNED if count > 1 else 0),
        guid=guid,
        part_number=number,
        part_count=count,
        boot_metadata=NO_RESOURCE,
        boot_index=0,
        integrity=NO_RESOURCE,
    )


class PieceSlicer:
    """``slice_pieces`` by binary search, for many slices of a source in many pieces."""

    def __init__(self, pieces: Sequence[Piece]) -> None:
        self._pieces = pieces
        self._starts = array("Q")
        position = 0
        for piece in pieces:
            self._starts.append(position)
            position += piece.size

    def slice(self, start: int, end: int) -> Iterator[Piece]:
        """The pieces of ``[start, end)``."""
        index = bisect_right(self._starts, start) - 1
        while start < end:
            piece = self._pieces[index]
            offset = start - self._starts[index]
            size = min(end - start, piece.size - offset)
            yield Piece(size, slice_source(piece.source, offset, size))
            start += size
            index += 1
