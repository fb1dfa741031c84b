# SPDX-License-Identifier: GPL-3.0-or-later
"""The blob table of a WIM, and the header of a solid resource.

References: Microsoft, "Windows Imaging File Format (WIM)" (2007 white paper) for the rows; solid
("packed") resources were learned from observing what wimlib 1.13.6 writes and reads.

Rows with ``SOLID`` come in runs. A row of the run that describes a resource has the uncompressed
size :data:`SOLID_RESOURCE_MARK` and a true place in the file; a row that describes a blob has as
its ``offset`` the blob's place in what the run's resources decompress to, one after the other.
"""

from __future__ import annotations

import struct
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import NamedTuple

from mediamaker.errors import FormatError
from mediamaker.formats.record import pack_record, parse_record, record, u32, u64
from mediamaker.formats.wim import (
    BLOB_ENTRY_SIZE,
    BLOB_TABLE_SIZE_MAX,
    SHA1_SIZE,
    SIZE_IN_WIM_MAX,
    ResourceHeader,
    pack_resource_header,
)

SOLID_HEADER_SIZE = 16
SOLID_RESOURCE_MARK = 1 << 32
"""The uncompressed size that a solid resource's own row has in the blob table."""

ZERO_SHA1 = bytes(SHA1_SIZE)


class BlobEntry(NamedTuple):
    """One row of the blob table."""

    size_in_wim: int
    flags: int
    offset: int
    uncompressed_size: int
    part_number: int
    reference_count: int
    sha1: bytes

    @property
    def resource(self) -> ResourceHeader:
        """Where the blob's resource lies."""
        return ResourceHeader(*self[:4])


BlobRow = tuple[int, int, int, int, int, bytes]
"""As on disk: size | flags << 56, offset, uncompressed size, part, references, SHA-1."""

BLOB_ROW = struct.Struct("<QQQHI20s")
_unpack_row = BLOB_ROW.unpack_from


@dataclass(frozen=True, slots=True)
class BlobTable:
    """The rows in table order, kept as the bytes that they are on disk: 50 bytes a row.

    A row is made into an object only when it is looked at, because a list of 130,000 of them
    would take ten times the memory.
    """

    data: bytes

    def __len__(self) -> int:
        return len(self.data) // BLOB_ENTRY_SIZE

    def __getitem__(self, index: int) -> BlobEntry:
        if not 0 <= index < len(self):
            raise IndexError(index)
        return _entry_from_row(self.row(index))

    def __iter__(self) -> Iterator[BlobEntry]:
        return map(_entry_from_row, self.rows())

    def rows(self) -> Iterator[BlobRow]:
        """Every row as a plain tuple: what loops over the whole table should use."""
        return BLOB_ROW.iter_unpack(self.data)

    def row(self, index: int) -> BlobRow:
        """One row as a plain tuple."""
        return _unpack_row(self.data, index * BLOB_ENTRY_SIZE)


def _entry_from_row(row: BlobRow) -> BlobEntry:
    return BlobEntry(row[0] & SIZE_IN_WIM_MAX, row[0] >> 56, *row[1:])


def parse_blob_table(data: bytes, *, what: str = "WIM") -> BlobTable:
    """The blob table in ``data``; the rows' contents are checked by ``wim_file``.

    Raises:
        FormatError: not a whole number of rows, or too many.
    """
    if len(data) % BLOB_ENTRY_SIZE:
        raise FormatError(
            f"{what}: WIM blob table size: expected a multiple of {BLOB_ENTRY_SIZE}, "
            f"got {len(data)}"
        )
    if len(data) > BLOB_TABLE_SIZE_MAX:
        raise FormatError(
            f"{what}: WIM blob table: expected at most {BLOB_TABLE_SIZE_MAX} bytes, got {len(data)}"
        )
    return BlobTable(bytes(data))


def pack_blob_table(entries: Iterable[BlobEntry]) -> bytes:
    """The bytes of a blob table.

    Raises:
        FormatError: a value that does not fit its field.
    """
    packed = bytearray()
    for entry in entries:
        resource = pack_resource_header(entry.resource)
        if len(entry.sha1) != SHA1_SIZE:
            raise FormatError(f"a SHA-1 has 20 bytes, got {len(entry.sha1)}")
        try:
            packed += resource + struct.pack("<HI", entry.part_number, entry.reference_count)
        except struct.error as error:
            raise FormatError(f"{entry} does not fit a WIM blob table entry") from error
        packed += entry.sha1
    return bytes(packed)


@record(size=SOLID_HEADER_SIZE)
class SolidHeader:
    """The start of a solid resource; a u32 for each chunk's compressed size follows."""

    uncompressed_size: int = u64(0x00, "uncompressed size")
    chunk_size: int = u32(0x08, "chunk size")
    compression_type: int = u32(0x0C, "compression type: 1 XPRESS, 2 LZX, 3 LZMS")

    @property
    def chunk_count(self) -> int:
        """How many chunks the resource has."""
        return -(-self.uncompressed_size // self.chunk_size)


def parse_solid_header(data: bytes, resource_size: int, *, what: str = "WIM") -> SolidHeader:
    """The header of a solid resource that takes ``resource_size`` bytes of the file.

    Raises:
        FormatError: too short, no chunk size, or more chunks than the resource has room for.
    """
    header = parse_record(SolidHeader, data, what=f"{what}: WIM solid resource header")
    if header.chunk_size == 0 or header.chunk_size & (header.chunk_size - 1):
        raise FormatError(
            f"{what}: WIM solid chunk size: expected a power of two, got {header.chunk_size}"
        )
    # A chunk takes four bytes of table and at least one of data.
    chunk_count_max = max(0, resource_size - SOLID_HEADER_SIZE) // 5
    if header.chunk_count > chunk_count_max:
        raise FormatError(
            f"{what}: WIM solid resource of {resource_size} bytes: expected at most "
            f"{chunk_count_max} chunks, got {header.chunk_count}"
        )
    return header


def pack_solid_header(header: SolidHeader) -> bytes:
    """The 16 bytes of ``header``."""
    return pack_record(header)
