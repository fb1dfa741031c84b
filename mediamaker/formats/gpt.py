# SPDX-License-Identifier: GPL-3.0-or-later
"""GUID partition table: header, entry array, both copies.

Reference: UEFI Specification 2.10, section 5.3 "GUID Partition Table (GPT) Disk Layout".
GUIDs lie mixed-endian on disk (``uuid.UUID.bytes_le``). ``last_lba`` is inclusive, as the
specification has it; everything above this module uses half-open byte ranges.
"""

from __future__ import annotations

import zlib
from dataclasses import dataclass, replace
from uuid import UUID

from mediamaker.errors import FormatError
from mediamaker.formats.record import pack_record, parse_record, raw, record, u32, u64
from mediamaker.units import align_up

SIGNATURE = b"EFI PART"
REVISION = 0x00010000
HEADER_SIZE = 92
ENTRY_SIZE = 128
ENTRY_COUNT = 128
NAME_UNITS_MAX = 36

TYPE_BASIC_DATA = UUID("ebd0a0a2-b9e5-4433-87c0-68b6b72699c7")
TYPE_ESP = UUID("c12a7328-f81f-11d2-ba4b-00a0c93ec93b")


@record(size=HEADER_SIZE)
class HeaderRecord:
    """A GPT header, as it lies on disk."""

    signature: bytes = raw(0x00, 8, "Signature", default=SIGNATURE)
    revision: int = u32(0x08, "Revision", default=REVISION)
    header_size: int = u32(0x0C, "HeaderSize", default=HEADER_SIZE)
    header_crc32: int = u32(0x10, "HeaderCRC32", default=0)
    my_lba: int = u64(0x18, "MyLBA")
    alternate_lba: int = u64(0x20, "AlternateLBA")
    first_usable_lba: int = u64(0x28, "FirstUsableLBA")
    last_usable_lba: int = u64(0x30, "LastUsableLBA")
    disk_guid: bytes = raw(0x38, 16, "DiskGUID")
    partition_entry_lba: int = u64(0x48, "PartitionEntryLBA")
    number_of_entries: int = u32(0x50, "NumberOfPartitionEntries", default=ENTRY_COUNT)
    size_of_entry: int = u32(0x54, "SizeOfPartitionEntry", default=ENTRY_SIZE)
    array_crc32: int = u32(0x58, "PartitionEntryArrayCRC32")


@record(size=ENTRY_SIZE)
class EntryRecord:
    """One partition entry, as it lies on disk."""

    type_guid: bytes = raw(0x00, 16, "PartitionTypeGUID")
    unique_guid: bytes = raw(0x10, 16, "UniquePartitionGUID")
    starting_lba: int = u64(0x20, "StartingLBA")
    ending_lba: int = u64(0x28, "EndingLBA")
    attributes: int = u64(0x30, "Attributes", default=0)
    name: bytes = raw(0x38, 72, "PartitionName")


@dataclass(frozen=True, slots=True)
class GptPartition:
    """A partition as a GPT knows it; ``last_lba`` is inclusive."""

    type_guid: UUID
    unique_guid: UUID
    first_lba: int
    last_lba: int
    partition_name: str
    attributes: int = 0


@dataclass(frozen=True, slots=True)
class Gpt:
    """A GPT, without the addresses that follow from the disk's size."""

    disk_guid: UUID
    partitions: tuple[GptPartition, ...]


@dataclass(frozen=True, slots=True)
class GptBytes:
    """What a disk holds of a GPT: each ``bytes`` is a whole number of sectors."""

    primary_header: bytes
    entry_array: bytes
    backup_header: bytes
    backup_array_lba: int
    backup_header_lba: int


def array_sectors(sector_size: int) -> int:
    """Sectors that the entry array takes."""
    return align_up(ENTRY_COUNT * ENTRY_SIZE, sector_size) // sector_size


def first_usable_lba(sector_size: int) -> int:
    """The first LBA that a partition may own: behind the MBR, the header and the array."""
    return 2 + array_sectors(sector_size)


def pack_gpt(gpt: Gpt, *, disk_sectors: int, sector_size: int) -> GptBytes:
    """Both copies of ``gpt`` for a disk of ``disk_sectors``.

    Raises:
        FormatError: too many partitions, a name over 36 UTF-16 units, or a partition
            outside the usable range.
    """
    if len(gpt.partitions) > ENTRY_COUNT:
        raise FormatError(f"GPT: {len(gpt.partitions)} partitions, at most {ENTRY_COUNT} fit")
    backup_header_lba = disk_sectors - 1
    backup_array_lba = backup_header_lba - array_sectors(sector_size)
    first, last = first_usable_lba(sector_size), backup_array_lba - 1
    for number, partition in enumerate(gpt.partitions, 1):
        if not first <= partition.first_lba <= partition.last_lba <= last:
            raise FormatError(
                f'GPT partition {number} "{partition.partition_name}": LBA '
                f"{partition.first_lba}..{partition.last_lba} is not within {first}..{last}"
            )
    entries = b"".join(_pack_entry(partition) for partition in gpt.partitions)
    array = entries.ljust(ENTRY_COUNT * ENTRY_SIZE, b"\0")
    primary = HeaderRecord(
        my_lba=1,
        alternate_lba=backup_header_lba,
        first_usable_lba=first,
        last_usable_lba=last,
        disk_guid=gpt.disk_guid.bytes_le,
        partition_entry_lba=2,
        array_crc32=zlib.crc32(array),
    )
    backup = replace(
        primary,
        my_lba=backup_header_lba,
        alternate_lba=1,
        partition_entry_lba=backup_array_lba,
    )
    return GptBytes(
        primary_header=_pack_header(primary).ljust(sector_size, b"\0"),
        entry_array=array.ljust(array_sectors(sector_size) * sector_size, b"\0"),
        backup_header=_pack_header(backup).ljust(sector_size, b"\0"),
        backup_array_lba=backup_array_lba,
        backup_header_lba=backup_header_lba,
    )


def parse_gpt_header(data: bytes) -> HeaderRecord:
    """The header in ``data``, its CRC checked.

    Raises:
        FormatError: signature, size or CRC is not what it must be.
    """
    header = parse_record(HeaderRecord, data, what="GPT header")
    if header.signature != SIGNATURE:
        raise FormatError(f"GPT header: expected {SIGNATURE!r}, got {header.signature!r}")
    if header.header_size != HEADER_SIZE:
        raise FormatError(f"GPT header: expected size {HEADER_SIZE}, got {header.header_size}")
    expected = zlib.crc32(pack_record(replace(header, header_crc32=0)))
    if header.header_crc32 != expected:
        raise FormatError(
            f"GPT header: expected CRC {expected:#010x}, got {header.header_crc32:#010x}"
        )
    return header


def parse_gpt_entries(header: HeaderRecord, array: bytes) -> Gpt:
    """The partitions in ``array``, its CRC checked against ``header``.

    Raises:
        FormatError: entries of another size, too many of them, or a wrong CRC.
    """
    if header.size_of_entry != ENTRY_SIZE or header.number_of_entries > ENTRY_COUNT:
        raise FormatError(
            f"GPT: {header.number_of_entries} entries of {header.size_of_entry} bytes, "
            f"expected at most {ENTRY_COUNT} of {ENTRY_SIZE}"
        )
    used = array[: header.number_of_entries * ENTRY_SIZE]
    if zlib.crc32(used) != header.array_crc32:
        raise FormatError("GPT: the entry array does not match its CRC")
    partitions = []
    for offset in range(0, len(used), ENTRY_SIZE):
        entry = parse_record(EntryRecord, used[offset:], what="GPT entry")
        if entry.type_guid != bytes(16):
            partitions.append(_partition(entry))
    return Gpt(disk_guid=UUID(bytes_le=header.disk_guid), partitions=tuple(partitions))


def _partition(entry: EntryRecord) -> GptPartition:
    return GptPartition(
        type_guid=UUID(bytes_le=entry.type_guid),
        unique_guid=UUID(bytes_le=entry.unique_guid),
        first_lba=entry.starting_lba,
        last_lba=entry.ending_lba,
        partition_name=entry.name.decode("utf-16-le", "replace").split("\0", 1)[0],
        attributes=entry.attributes,
    )


def _pack_header(header: HeaderRecord) -> bytes:
    crc = zlib.crc32(pack_record(replace(header, header_crc32=0)))
    return pack_record(replace(header, header_crc32=crc))


def _pack_entry(partition: GptPartition) -> bytes:
    name = partition.partition_name.encode("utf-16-le")
    if len(name) > 2 * NAME_UNITS_MAX:
        raise FormatError(
            f"GPT partition name {partition.partition_name!r} has {len(name) // 2} UTF-16 units, "
            f"at most {NAME_UNITS_MAX} fit"
        )
    return pack_record(
        EntryRecord(
            type_guid=partition.type_guid.bytes_le,
            unique_guid=partition.unique_guid.bytes_le,
            starting_lba=partition.first_lba,
            ending_lba=partition.last_lba,
            attributes=partition.attributes,
            name=name.ljust(2 * NAME_UNITS_MAX, b"\0"),
        )
    )
