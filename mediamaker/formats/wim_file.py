# SPDX-License-Identifier: GPL-3.0-or-later
"""What a WIM's tables say together, and whether they agree with each other and with the file.

The rules for rows that count for nothing are those that wimlib 1.13.6 was seen to apply: another
part's number, no content, no hash, or (metadata) no reference. ``FREE`` rows describe unused room.
A data row without references still counts: reference counts in real files are often wrong.
"""

from __future__ import annotations

from array import array
from bisect import bisect_left
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from itertools import compress, islice
from operator import gt, itemgetter
from typing import NoReturn

from mediamaker.errors import FormatError
from mediamaker.formats.wim import (
    BLOB_ENTRY_SIZE,
    CHUNK_SIZE_DEFAULT,
    HEADER_SIZE,
    SIZE_IN_WIM_MAX,
    Compression,
    ResourceFlag,
    ResourceHeader,
    WimHeader,
    check_wim_header,
)
from mediamaker.formats.wim_blobs import (
    SOLID_RESOURCE_MARK,
    ZERO_SHA1,
    BlobEntry,
    BlobRow,
    BlobTable,
    SolidHeader,
    parse_blob_table,
)
from mediamaker.formats.wim_xml import WimImageInfo, parse_wim_xml
from mediamaker.units import GIB, format_range

SOLID_RESOURCE_COUNT_MAX = 4096
"""Their headers lie all over the file and are read one by one; real files have one to ten."""

_COMPRESSED = ResourceFlag.COMPRESSED << 56
_METADATA = ResourceFlag.METADATA << 56
_SOLID = ResourceFlag.SOLID << 56
_FREE = ResourceFlag.FREE << 56
_FREE_OR_SOLID = _FREE | _SOLID


@dataclass(frozen=True, slots=True, kw_only=True)
class SolidResource:
    """A solid resource: where it lies, and what its own header says."""

    resource: ResourceHeader
    header: SolidHeader


@dataclass(frozen=True, slots=True)
class DataRows:
    """The plain data rows in the order in which their resources lie in the file, as columns.

    ``rows`` are indexes of the table; the resource of each takes ``[start, end)`` of the file.
    Columns, because a loop over 100,000 rows takes longer than all else that a split does.
    """

    rows: array[int] = field(default_factory=lambda: array("I"))
    starts: array[int] = field(default_factory=lambda: array("Q"))
    ends: array[int] = field(default_factory=lambda: array("Q"))


@dataclass(frozen=True, slots=True, kw_only=True)
class WimFile:
    """A WIM (or one part of a split one) as its tables describe it; ``size`` in bytes."""

    header: WimHeader
    blobs: BlobTable
    metadata: tuple[BlobEntry, ...]
    images: tuple[WimImageInfo, ...]
    xml: bytes
    size: int
    solid_resources: tuple[SolidResource, ...] = ()
    data: DataRows = field(default_factory=DataRows)

    @property
    def is_solid(self) -> bool:
        """Whether any blob shares its compression with others."""
        return bool(self.solid_resources)

    @property
    def compression(self) -> Compression:
        """The codec of the non-solid resources."""
        return self.header.compression

    @property
    def chunk_size(self) -> int:
        """Bytes that the non-solid resources were compressed at a time."""
        return self.header.chunk_size

    @property
    def part_number(self) -> int:
        """Which part of a split WIM this is, from 1 on."""
        return self.header.part_number

    @property
    def part_count(self) -> int:
        """How many parts there are; 1 when it is not split."""
        return self.header.part_count

    @property
    def boot_index(self) -> int:
        """The number of the image that boots, or 0."""
        return self.header.boot_index


def parse_wim_tables(
    header: WimHeader,
    *,
    blob_table: bytes,
    xml: bytes,
    size: int,
    solid_headers: Sequence[SolidHeader] = (),
    what: str = "WIM",
) -> WimFile:
    """Everything about a WIM of ``size`` bytes; ``solid_headers`` as :func:`find_solid_resources`.

    Raises:
        FormatError: the tables contradict each other or the file's size.
    """
    check_wim_header(header, size, what=what)
    table = parse_blob_table(blob_table, what=what)
    images = parse_wim_xml(xml, what=what)
    if len(images) != header.image_count:
        raise FormatError(
            f"{what}: WIM image count: expected {header.image_count} as in the header, "
            f"got {len(images)} in the XML"
        )
    metadata, data = _check_blobs(table, header, size, what)
    expected_count = header.image_count if header.part_number == 1 else 0
    if len(metadata) != expected_count:
        raise FormatError(
            f"{what}: WIM metadata resources: expected {expected_count} in part "
            f"{header.part_number}, got {len(metadata)}"
        )
    resources = find_solid_resources(table, header.part_number, what=what)
    if len(resources) != len(solid_headers):
        raise FormatError(
            f"{what}: WIM solid resources: expected {len(resources)} headers, "
            f"got {len(solid_headers)}"
        )
    _check_solid_runs(table, header.part_number, solid_headers, what)
    return WimFile(
        header=header,
        blobs=table,
        metadata=metadata,
        images=images,
        xml=xml,
        size=size,
        solid_resources=tuple(
            SolidResource(resource=resource, header=solid_header)
            for resource, solid_header in zip(resources, solid_headers, strict=True)
        ),
        data=data,
    )


def live_rows(table: BlobTable, part_number: int) -> Iterator[tuple[int, BlobRow]]:
    """The rows that name a non-solid resource of this part, with their indexes."""
    for index, row in enumerate(table.rows()):
        size_and_flags, _, uncompressed_size, part, reference_count, sha1 = row
        if (
            part == part_number
            and uncompressed_size
            and not size_and_flags & _FREE_OR_SOLID
            and sha1 != ZERO_SHA1
            and (reference_count or not size_and_flags & _METADATA)
        ):
            yield index, row


def find_solid_resources(
    table: BlobTable, part_number: int, *, what: str = "WIM"
) -> tuple[ResourceHeader, ...]:
    """The solid resources of this part, in table order.

    Raises:
        FormatError: more than :data:`SOLID_RESOURCE_COUNT_MAX`.
    """
    found: list[ResourceHeader] = []
    for row in table.rows() if _has_solid_rows(table) else ():
        if row[0] & _SOLID and _is_solid_resource(row, part_number):
            if len(found) == SOLID_RESOURCE_COUNT_MAX:
                raise FormatError(
                    f"{what}: WIM solid resources: expected at most {SOLID_RESOURCE_COUNT_MAX}, "
                    "got more"
                )
            found.append(ResourceHeader(row[0] & SIZE_IN_WIM_MAX, row[0] >> 56, row[1], row[2]))
    return tuple(found)


def sorted_by_offset(table: BlobTable, indexes: Iterable[int]) -> array[int]:
    """``indexes`` in the order in which their resources lie in the file."""
    ordered = array("I", indexes)
    offsets = array("Q", map(itemgetter(1), table.rows()))
    in_turn = array("Q", map(offsets.__getitem__, ordered))
    if any(map(gt, in_turn, islice(in_turn, 1, None))):
        # Ties in table order: sorted() is stable, so the result is always the same.
        ordered = array("I", sorted(ordered, key=offsets.__getitem__))
    return ordered


def _has_solid_rows(table: BlobTable) -> bool:
    """Answered from the flag bytes alone: most tables have none, and need no look at each row."""
    flags_offset = 7  # the top byte of the first field, which is little-endian
    return any(
        flags & ResourceFlag.SOLID for flags in set(table.data[flags_offset::BLOB_ENTRY_SIZE])
    )


def _is_solid_resource(row: BlobRow, part_number: int) -> bool:
    return bool(
        row[0] & _SOLID
        and row[2] == SOLID_RESOURCE_MARK
        and row[3] == part_number
        and not row[0] & _FREE
        and row[0] & SIZE_IN_WIM_MAX
    )


def _check_blobs(
    table: BlobTable, header: WimHeader, size: int, what: str
) -> tuple[tuple[BlobEntry, ...], DataRows]:
    """Ranges inside the file and apart from each other, sizes that are possible.

    Returns the metadata rows, and the data rows in the order of the file.
    """
    chunk_size = header.chunk_size or CHUNK_SIZE_DEFAULT
    rows, starts, ends = array("I"), array("Q"), array("Q")
    metadata: list[int] = []
    for index, row in live_rows(table, header.part_number):
        size_and_flags, offset, uncompressed_size, _, _, sha1 = row
        size_in_wim = size_and_flags & SIZE_IN_WIM_MAX
        end = offset + size_in_wim
        if offset < HEADER_SIZE or end > size:
            _raise_outside(what, f"resource {sha1.hex()}", table[index].resource, size)
        if size_and_flags & _COMPRESSED:
            # Nine bytes a chunk are more than the bound ever is, and quicker to tell.
            if size_in_wim * chunk_size >= 9 * (uncompressed_size + chunk_size):
                size_min = 0
            else:
                size_min = _compressed_size_min(uncompressed_size, chunk_size)
            is_possible, bound = size_in_wim >= size_min, "at least "
        else:
            size_min = uncompressed_size
            is_possible, bound = size_in_wim == size_min, ""
        if not is_possible:
            raise FormatError(
                f"{what}: WIM resource {sha1.hex()} of {uncompressed_size} bytes: "
                f"expected {bound}{size_min} bytes in the file, got {size_in_wim}"
            )
        if size_and_flags & _METADATA:
            metadata.append(index)
        rows.append(index)
        starts.append(offset)
        ends.append(end)
    others = set(metadata)
    for index, row in enumerate(table.rows() if _has_solid_rows(table) else ()):
        if row[0] & _SOLID and _is_solid_resource(row, header.part_number):
            resource = table[index].resource
            if resource.offset < HEADER_SIZE or resource.end > size:
                _raise_outside(what, "solid resource", resource, size)
            others.add(index)
            rows.append(index)
            starts.append(resource.offset)
            ends.append(resource.end)
    stored = _in_file_order(rows, starts, ends)
    _check_apart(table, header, stored, what)
    is_data = [index not in others for index in stored.rows]
    data = DataRows(
        array("I", compress(stored.rows, is_data)),
        array("Q", compress(stored.starts, is_data)),
        array("Q", compress(stored.ends, is_data)),
    )
    return tuple(table[index] for index in metadata), data


def _in_file_order(rows: array[int], starts: array[int], ends: array[int]) -> DataRows:
    if any(map(gt, starts, islice(starts, 1, None))):
        # Ties in table order: sorted() is stable, so the result is always the same.
        order = array("I", sorted(range(len(rows)), key=starts.__getitem__))
        rows = array("I", map(rows.__getitem__, order))
        starts = array("Q", map(starts.__getitem__, order))
        ends = array("Q", map(ends.__getitem__, order))
    return DataRows(rows, starts, ends)


def _compressed_size_min(uncompressed_size: int, chunk_size: int) -> int:
    """What the table of chunk offsets and one byte a chunk take: a bound on lies about sizes."""
    chunk_count = -(-uncompressed_size // chunk_size)
    return (chunk_count - 1) * (8 if uncompressed_size > 4 * GIB else 4) + chunk_count


def _check_apart(table: BlobTable, header: WimHeader, stored: DataRows, what: str) -> None:
    """Two resources are the same bytes or share none; nor do they share any with a table."""
    starts, ends = stored.starts, stored.ends
    if any(map(gt, ends, islice(starts, 1, None))):
        for at in range(1, len(starts)):
            before, now = (starts[at - 1], ends[at - 1]), (starts[at], ends[at])
            if now[0] < before[1] and now != before:
                raise FormatError(
                    f"{what}: WIM resource {table[stored.rows[at]].sha1.hex()} "
                    f"{format_range(*now)} overlaps {table[stored.rows[at - 1]].sha1.hex()} "
                    f"{format_range(*before)}"
                )
    for name, resource in header.tables():
        last = bisect_left(starts, resource.end) - 1
        if last >= 0 and resource.size_in_wim and ends[last] > resource.offset:
            raise FormatError(
                f"{what}: WIM resource {table[stored.rows[last]].sha1.hex()} "
                f"{format_range(starts[last], ends[last])} overlaps the {name} "
                f"{format_range(resource.offset, resource.end)}"
            )


def _check_solid_runs(
    table: BlobTable, part_number: int, headers: Sequence[SolidHeader], what: str
) -> None:
    """The blobs of a run must lie inside what the run's resources decompress to."""
    if not _has_solid_rows(table):
        return
    remaining = iter(headers)
    available, furthest, furthest_sha1 = 0, 0, ZERO_SHA1

    def check_run() -> None:
        if furthest > available:
            raise FormatError(
                f"{what}: WIM blob {furthest_sha1.hex()} ends {furthest} bytes into its solid "
                f"resources: expected at most {available}"
            )

    for row in table.rows():
        if row[3] != part_number or row[0] & _FREE:
            continue
        if not row[0] & _SOLID:
            if furthest:
                check_run()
            available, furthest = 0, 0
        elif _is_solid_resource(row, part_number):
            available += next(remaining).uncompressed_size
        elif row[2] != SOLID_RESOURCE_MARK:
            end = row[1] + (row[0] & SIZE_IN_WIM_MAX)
            if end > furthest:
                furthest, furthest_sha1 = end, row[5]
    check_run()


def _raise_outside(what: str, name: str, resource: ResourceHeader, size: int) -> NoReturn:
    raise FormatError(
        f"{what}: WIM {name}: expected inside {format_range(HEADER_SIZE, size)}, "
        f"got {format_range(resource.offset, resource.end)}"
    )
