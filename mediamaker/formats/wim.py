# SPDX-License-Identifier: GPL-3.0-or-later
"""The header of a WIM file, resource headers and the integrity table.

References: Microsoft, "Windows Imaging File Format (WIM)" (2007 white paper) for the header, the
resource header and the tables; the rules that readers apply were learned from observing wimlib
1.13.6 and 1.14.5. The field names in quotes are the white paper's.

A *resource* is a run of bytes in the file; a *blob* is what a resource holds once decompressed,
known by its SHA-1. Nothing in a resource depends on where it lies, so it can be moved whole.
"""

from __future__ import annotations

import struct
from dataclasses import dataclass
from enum import IntFlag
from typing import Literal, NamedTuple, cast

from mediamaker.errors import FormatError
from mediamaker.formats.record import pack_record, parse_record, raw, record, u16, u32
from mediamaker.units import KIB, MIB, format_range

HEADER_SIZE = 208
MAGIC = b"MSWIM\0\0\0"
PIPABLE_MAGIC = b"WLPWM\0\0\0"
VERSION_DEFAULT = 0x10D00
VERSION_SOLID = 0xE00
"""Marks a file that may hold solid resources or LZMS, which older readers can't read."""

BLOB_ENTRY_SIZE = 50
BLOB_TABLE_SIZE_MAX = 24 * MIB
"""503,316 entries; Windows media have about 130,000. Held in memory, so it has a limit."""

XML_SIZE_MAX = 4 * MIB
CHUNK_SIZE_DEFAULT = 32 * KIB

PART_COUNT_MAX = 0xFFFF
SIZE_IN_WIM_MAX = (1 << 56) - 1
SHA1_SIZE = 20

Compression = Literal["none", "XPRESS", "LZX", "LZMS", "unknown"]


class HeaderFlag(IntFlag):
    """ "dwFlags" of the header."""

    COMPRESSION = 0x02
    READONLY = 0x04
    SPANNED = 0x08
    RESOURCE_ONLY = 0x10
    METADATA_ONLY = 0x20
    WRITE_IN_PROGRESS = 0x40
    RP_FIX = 0x80
    XPRESS = 0x20000
    LZX = 0x40000
    LZMS = 0x80000


class ResourceFlag(IntFlag):
    """ "bFlags" of a resource header."""

    FREE = 0x01
    METADATA = 0x02
    COMPRESSED = 0x04
    SPANNED = 0x08
    SOLID = 0x10


class ResourceHeader(NamedTuple):
    """Where a resource lies in the file, and how many bytes it becomes."""

    size_in_wim: int
    flags: int
    offset: int
    uncompressed_size: int

    @property
    def end(self) -> int:
        """One past the resource's last byte."""
        return self.offset + self.size_in_wim


NO_RESOURCE = ResourceHeader(0, 0, 0, 0)


@record(size=HEADER_SIZE)
class _HeaderOnDisk:
    magic: bytes = raw(0x00, 8, "ImageTag")
    header_size: int = u32(0x08, "cbSize")
    version: int = u32(0x0C, "dwVersion")
    flags: int = u32(0x10, "dwFlags")
    chunk_size: int = u32(0x14, "dwCompressionSize")
    guid: bytes = raw(0x18, 16, "gWIMGuid")
    part_number: int = u16(0x28, "usPartNumber")
    part_count: int = u16(0x2A, "usTotalParts")
    image_count: int = u32(0x2C, "dwImageCount")
    blob_table: bytes = raw(0x30, 24, "rhOffsetTable")
    xml: bytes = raw(0x48, 24, "rhXmlData")
    boot_metadata: bytes = raw(0x60, 24, "rhBootMetadata")
    boot_index: int = u32(0x78, "dwBootIndex")
    integrity: bytes = raw(0x7C, 24, "rhIntegrity")


@dataclass(frozen=True, slots=True, kw_only=True)
class WimHeader:
    """The 208 bytes at the start of a WIM."""

    version: int = VERSION_DEFAULT
    flags: int
    chunk_size: int
    guid: bytes
    part_number: int = 1
    part_count: int = 1
    image_count: int
    blob_table: ResourceHeader
    xml: ResourceHeader
    boot_metadata: ResourceHeader = NO_RESOURCE
    boot_index: int = 0
    integrity: ResourceHeader = NO_RESOURCE

    @property
    def compression(self) -> Compression:
        """The codec that the header names for non-solid resources."""
        if not self.flags & HeaderFlag.COMPRESSION:
            return "none"
        for flag in (HeaderFlag.XPRESS, HeaderFlag.LZX, HeaderFlag.LZMS):
            if self.flags & flag:
                return cast("Compression", flag.name)
        return "unknown"

    def tables(self) -> tuple[tuple[str, ResourceHeader], ...]:
        """The resources that only the header points at, with their names for people."""
        return (("blob table", self.blob_table), ("XML", self.xml), ("integrity", self.integrity))


def parse_resource_header(data: bytes | memoryview) -> ResourceHeader:
    """The 24 bytes of a resource header.

    Raises:
        FormatError: not 24 bytes.
    """
    if len(data) != _RESOURCE.size:
        raise FormatError(f"WIM resource header: expected {_RESOURCE.size} bytes, got {len(data)}")
    size_and_flags, offset, uncompressed_size = _RESOURCE.unpack(data)
    return ResourceHeader(
        size_and_flags & SIZE_IN_WIM_MAX, size_and_flags >> 56, offset, uncompressed_size
    )


def pack_resource_header(resource: ResourceHeader) -> bytes:
    """The 24 bytes of ``resource``.

    Raises:
        FormatError: a value that does not fit its field.
    """
    if not 0 <= resource.size_in_wim <= SIZE_IN_WIM_MAX or not 0 <= resource.flags <= 0xFF:
        raise FormatError(f"{resource} does not fit a WIM resource header")
    try:
        return _RESOURCE.pack(
            resource.size_in_wim | resource.flags << 56,
            resource.offset,
            resource.uncompressed_size,
        )
    except struct.error as error:
        raise FormatError(f"{resource} does not fit a WIM resource header") from error


_RESOURCE = struct.Struct("<QQQ")


def parse_wim_header(data: bytes | memoryview, *, what: str = "WIM") -> WimHeader:
    """The header in the first 208 bytes of ``data``; ``what`` names the file in messages.

    Raises:
        FormatError: not a WIM, or one of a kind or version that we don't read.
    """
    disk = parse_record(_HeaderOnDisk, data, what=f"{what}: WIM header")
    _check_magic(disk.magic, what)
    _check(disk.header_size == HEADER_SIZE, what, "header size", HEADER_SIZE, disk.header_size)
    if disk.version not in (VERSION_DEFAULT, VERSION_SOLID):
        raise FormatError(
            f"{what}: WIM version: expected {VERSION_DEFAULT:#x} or {VERSION_SOLID:#x}, "
            f"got {disk.version:#x}"
        )
    if not 1 <= disk.part_number <= disk.part_count:
        raise FormatError(
            f"{what}: WIM part number: expected 1 to the part count, "
            f"got part {disk.part_number} of {disk.part_count}"
        )
    if disk.chunk_size & (disk.chunk_size - 1):
        raise FormatError(f"{what}: WIM chunk size: expected a power of two, got {disk.chunk_size}")
    if disk.boot_index > disk.image_count:
        raise FormatError(
            f"{what}: WIM boot index: expected at most the image count {disk.image_count}, "
            f"got {disk.boot_index}"
        )
    return WimHeader(
        version=disk.version,
        flags=disk.flags,
        chunk_size=disk.chunk_size,
        guid=disk.guid,
        part_number=disk.part_number,
        part_count=disk.part_count,
        image_count=disk.image_count,
        blob_table=parse_resource_header(disk.blob_table),
        xml=parse_resource_header(disk.xml),
        boot_metadata=parse_resource_header(disk.boot_metadata),
        boot_index=disk.boot_index,
        integrity=parse_resource_header(disk.integrity),
    )


def pack_wim_header(header: WimHeader) -> bytes:
    """The 208 bytes of ``header``; the 60 that nothing uses are zero.

    Raises:
        FormatError: a value that does not fit its field.
    """
    return pack_record(
        _HeaderOnDisk(
            magic=MAGIC,
            header_size=HEADER_SIZE,
            version=header.version,
            flags=header.flags,
            chunk_size=header.chunk_size,
            guid=header.guid,
            part_number=header.part_number,
            part_count=header.part_count,
            image_count=header.image_count,
            blob_table=pack_resource_header(header.blob_table),
            xml=pack_resource_header(header.xml),
            boot_metadata=pack_resource_header(header.boot_metadata),
            boot_index=header.boot_index,
            integrity=pack_resource_header(header.integrity),
        )
    )


def check_wim_header(header: WimHeader, size: int, *, what: str = "WIM") -> None:
    """What the header points at must lie in the file's ``size`` bytes and be readable by us.

    Raises:
        FormatError: a table past the end, compressed, too big, or with a size that makes no sense.
    """
    for name, table in (*header.tables(), ("boot metadata", header.boot_metadata)):
        if table.size_in_wim and (table.offset < HEADER_SIZE or table.end > size):
            raise FormatError(
                f"{what}: WIM {name}: expected inside {format_range(HEADER_SIZE, size)}, "
                f"got {format_range(table.offset, table.end)}"
            )
    for name, table, size_max in (
        ("blob table", header.blob_table, BLOB_TABLE_SIZE_MAX),
        ("XML", header.xml, XML_SIZE_MAX),
    ):
        if (
            table.flags & (ResourceFlag.COMPRESSED | ResourceFlag.SOLID)
            or table.size_in_wim != table.uncompressed_size
        ):
            raise FormatError(
                f"{what}: WIM {name}: expected it uncompressed, got {table.size_in_wim} bytes "
                f"for {table.uncompressed_size}, flags {table.flags:#x}"
            )
        if table.size_in_wim > size_max:
            raise FormatError(
                f"{what}: WIM {name}: expected at most {size_max} bytes, got {table.size_in_wim}"
            )
    entry_count_max = header.blob_table.size_in_wim // BLOB_ENTRY_SIZE
    if header.part_number == 1 and header.image_count > entry_count_max:
        raise FormatError(
            f"{what}: WIM image count: expected at most the {entry_count_max} entries "
            f"of the blob table, got {header.image_count}"
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class IntegrityTable:
    """SHA-1s of the bytes from the end of the header to the end of the blob table, in chunks."""

    chunk_size: int
    sha1s: tuple[bytes, ...]


def parse_integrity_table(data: bytes, *, what: str = "WIM") -> IntegrityTable:
    """The integrity table in ``data``.

    Raises:
        FormatError: its sizes contradict each other.
    """
    if len(data) < _INTEGRITY.size:
        raise FormatError(
            f"{what}: WIM integrity table: expected at least {_INTEGRITY.size} bytes, "
            f"got {len(data)}"
        )
    size, count, chunk_size = _INTEGRITY.unpack_from(data)
    _check(size == len(data), what, "integrity table size", len(data), size)
    expected, rest = divmod(size - _INTEGRITY.size, SHA1_SIZE)
    _check(rest == 0 and count == expected, what, "integrity table entries", expected, count)
    _check(chunk_size > 0, what, "integrity chunk size", "more than 0", chunk_size)
    return IntegrityTable(
        chunk_size=chunk_size,
        sha1s=tuple(data[at : at + 20] for at in range(_INTEGRITY.size, len(data), 20)),
    )


def pack_integrity_table(table: IntegrityTable) -> bytes:
    """The bytes of an integrity table."""
    hashes = b"".join(table.sha1s)
    return (
        _INTEGRITY.pack(_INTEGRITY.size + len(hashes), len(table.sha1s), table.chunk_size) + hashes
    )


_INTEGRITY = struct.Struct("<III")


def _check(is_right: bool, what: str, field: str, expected: object, got: object) -> None:  # noqa: FBT001 - the condition itself
    if not is_right:
        raise FormatError(f"{what}: WIM {field}: expected {expected}, got {got}")


def _check_magic(magic: bytes, what: str) -> None:
    if magic == PIPABLE_MAGIC:
        raise FormatError(
            f"{what} is a pipable WIM, a format of wimlib's own that Windows Setup can't read: "
            f"expected {MAGIC!r}, got {magic!r}",
            hint="make it a normal one: wimlib-imagex optimize FILE --not-pipable",
        )
    if magic != MAGIC:
        raise FormatError(f"{what} is not a WIM file: expected {MAGIC!r}, got {magic!r}")
