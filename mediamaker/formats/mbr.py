# SPDX-License-Identifier: GPL-3.0-or-later
"""Master boot record: boot code, disk signature, four partition entries.

References:
    - UEFI Specification 2.10, section 5.2 "LBA 0 Format" (field names, protective MBR).
    - Microsoft Learn, "Disk signature" (the u32 at 0x1B8 that BCD device elements refer to).
    - Phoenix Enhanced Disk Drive Specification 3.0 (why CHS fields stay at 255 heads of 63
      sectors: every BIOS translation of disks over 8 GiB uses it).
"""

from __future__ import annotations

from dataclasses import dataclass

from mediamaker.errors import FormatError
from mediamaker.formats.record import pack_record, parse_record, raw, record, u8, u16, u32

MBR_SIZE = 512
"""The record itself; on disks with larger sectors the rest of LBA 0 is zero."""
BOOT_CODE_SIZE_MAX = 440
SIGNATURE = 0xAA55
ENTRY_COUNT = 4
LBA_MAX = 0xFFFFFFFF

TYPE_EMPTY = 0x00
TYPE_EXFAT = 0x07
"""Shared with NTFS."""
TYPE_FAT32_LBA = 0x0C
TYPE_GPT_PROTECTIVE = 0xEE
ACTIVE = 0x80

_HEADS = 255
_SECTORS_PER_TRACK = 63
_CYLINDER_MAX = 1023
_CHS_BEYOND = bytes((0xFE, 0xFF, 0xFF))


@record(size=16)
class PartitionEntryRecord:
    """One of the four partition entries, as it lies on disk."""

    boot_indicator: int = u8(0x00, "BootIndicator")
    starting_chs: bytes = raw(0x01, 3, "StartingCHS")
    os_type: int = u8(0x04, "OSType")
    ending_chs: bytes = raw(0x05, 3, "EndingCHS")
    starting_lba: int = u32(0x08, "StartingLBA")
    size_in_lba: int = u32(0x0C, "SizeInLBA")


@record(size=MBR_SIZE)
class MbrRecord:
    """LBA 0, as it lies on disk."""

    boot_code: bytes = raw(0x000, BOOT_CODE_SIZE_MAX, "BootCode")
    disk_signature: int = u32(0x1B8, "UniqueMBRDiskSignature")
    unknown: int = u16(0x1BC, "Unknown", default=0)
    partition_records: bytes = raw(0x1BE, 16 * ENTRY_COUNT, "PartitionRecord")
    signature: int = u16(0x1FE, "Signature", default=SIGNATURE)


@dataclass(frozen=True, slots=True)
class MbrPartition:
    """A partition as an MBR knows it; ``start_lba`` and ``sectors`` in logical sectors."""

    type_code: int
    start_lba: int
    sectors: int
    is_active: bool = False


@dataclass(frozen=True, slots=True)
class Mbr:
    """A master boot record; ``partitions`` holds one item a slot, empty slots are None."""

    disk_signature: int
    partitions: tuple[MbrPartition | None, ...]
    boot_code: bytes = b""


def pack_chs(lba: int) -> bytes:
    """The three CHS bytes of ``lba``; addresses that CHS can't express are ``FE FF FF``."""
    cylinder, rest = divmod(lba, _HEADS * _SECTORS_PER_TRACK)
    if cylinder > _CYLINDER_MAX:
        return _CHS_BEYOND
    head, sector_index = divmod(rest, _SECTORS_PER_TRACK)
    return bytes((head, (cylinder >> 8) << 6 | (sector_index + 1), cylinder & 0xFF))


def pack_mbr(mbr: Mbr) -> bytes:
    """The 512 bytes of ``mbr``.

    Raises:
        FormatError: boot code over 440 bytes, more than four partitions, or an LBA over 32 bits.
    """
    if len(mbr.boot_code) > BOOT_CODE_SIZE_MAX:
        raise FormatError(
            f"MBR boot code has {len(mbr.boot_code)} bytes, at most {BOOT_CODE_SIZE_MAX} fit"
        )
    if len(mbr.partitions) > ENTRY_COUNT:
        raise FormatError(f"an MBR holds {ENTRY_COUNT} partitions, not {len(mbr.partitions)}")
    entries = b"".join(_pack_entry(partition) for partition in mbr.partitions)
    return pack_record(
        MbrRecord(
            boot_code=mbr.boot_code.ljust(BOOT_CODE_SIZE_MAX, b"\0"),
            disk_signature=mbr.disk_signature,
            partition_records=entries.ljust(16 * ENTRY_COUNT, b"\0"),
        )
    )


def parse_mbr(data: bytes) -> Mbr:
    """The MBR in the first 512 bytes of a disk.

    Raises:
        FormatError: too few bytes, or no 55 AA at their end.
    """
    found = parse_record(MbrRecord, data, what="MBR")
    if found.signature != SIGNATURE:
        raise FormatError(f"MBR: expected signature {SIGNATURE:#06x}, got {found.signature:#06x}")
    return Mbr(
        disk_signature=found.disk_signature,
        partitions=tuple(
            _parse_entry(found.partition_records[16 * index : 16 * index + 16])
            for index in range(ENTRY_COUNT)
        ),
        boot_code=found.boot_code,
    )


def pack_protective_mbr(disk_sectors: int) -> bytes:
    """The protective MBR of a GPT disk of ``disk_sectors`` (UEFI 2.10, 5.2.3).

    CHS end is the true one where it fits; the size is capped at 32 bits, both as required there.
    """
    sectors = min(disk_sectors - 1, LBA_MAX)
    return pack_mbr(
        Mbr(disk_signature=0, partitions=(MbrPartition(TYPE_GPT_PROTECTIVE, 1, sectors),))
    )


def _pack_entry(partition: MbrPartition | None) -> bytes:
    if partition is None:
        return bytes(16)
    return pack_record(
        PartitionEntryRecord(
            boot_indicator=ACTIVE if partition.is_active else 0,
            starting_chs=pack_chs(partition.start_lba),
            os_type=partition.type_code,
            ending_chs=pack_chs(partition.start_lba + max(partition.sectors, 1) - 1),
            starting_lba=partition.start_lba,
            size_in_lba=partition.sectors,
        )
    )


def _parse_entry(data: bytes) -> MbrPartition | None:
    found = parse_record(PartitionEntryRecord, data, what="MBR partition entry")
    if found.os_type == TYPE_EMPTY and found.size_in_lba == 0:
        return None
    return MbrPartition(
        type_code=found.os_type,
        start_lba=found.starting_lba,
        sectors=found.size_in_lba,
        is_active=found.boot_indicator == ACTIVE,
    )
