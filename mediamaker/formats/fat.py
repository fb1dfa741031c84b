# SPDX-License-Identifier: GPL-3.0-or-later
"""FAT32 on-disk records: boot sector, FSInfo, directory entries, long names, time stamps.

References:
- Microsoft Extensible Firmware Initiative FAT32 File System Specification, version 1.03
  (fatgen103): boot sector and BPB, FSInfo, FAT entries, directory entries, long names.
- ECMA-107 for the parts that FAT12 and FAT16 share.
- ``DIR_NTRes`` (0x0C) is reserved in fatgen103; Windows NT and later keep two flags there that
  say "the base name / the extension is all lower case", so that such a name needs no long name.
"""

from __future__ import annotations

from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from functools import lru_cache

from mediamaker.errors import FormatError
from mediamaker.formats.record import pack_record, parse_record, raw, record, u8, u16, u32

SECTOR_SIZES = (512, 1024, 2048, 4096)
SECTORS_PER_CLUSTER_MAX = 128
CLUSTER_SIZE_MAX = 64 * 1024
"""32 KiB is what fatgen103 allows; Windows NT and later, Linux and UEFI read 64 KiB."""

CLUSTER_COUNT_MIN = 65_525
"""With fewer, fatgen103's rule makes every driver take the volume for FAT16."""
CLUSTER_COUNT_MAX = 0x0FFFFFF5 - 2
FIRST_CLUSTER = 2

FAT_ENTRY_SIZE = 4
FAT_ENTRY_FREE = 0x00000000
FAT_ENTRY_END = 0x0FFFFFFF
MEDIA_FIXED = 0xF8
FAT_ENTRY_0 = 0x0FFFFF00 | MEDIA_FIXED
FAT_ENTRY_1 = 0x0FFFFFFF
"""End mark, with the two highest bits (0x0C000000) set: unmounted cleanly, no I/O errors."""

DIRECTORY_ENTRY_SIZE = 32
DIRECTORY_ENTRY_COUNT_MAX = 65_536
"""A directory may take 2 MiB; long-name slots count."""
FILE_SIZE_MAX = 0xFFFFFFFF
FILE_SIZE_SAFE_MAX = FILE_SIZE_MAX + 1 - CLUSTER_SIZE_MAX
"""What a file we make ourselves should not exceed: fsck.fat 4.2 (in every distribution of 2026)
takes a file whose clusters add up to exactly 4 GiB for one without any, and "repairs" it to 0
bytes (dosfstools issue 208)."""
LONG_NAME_UNITS_MAX = 255
LONG_NAME_UNITS_PER_ENTRY = 13

ATTR_VOLUME_ID = 0x08
ATTR_DIRECTORY = 0x10
ATTR_ARCHIVE = 0x20
ATTR_LONG_NAME = 0x0F
CASE_LOWER_BASE = 0x08
CASE_LOWER_EXTENSION = 0x10
LAST_LONG_ENTRY = 0x40

BOOT_SIGNATURE = b"\x55\xaa"
FSINFO_SECTOR_NUMBER = 1
BACKUP_BOOT_SECTOR_NUMBER = 6
FSINFO_UNKNOWN = 0xFFFFFFFF

BOOT_CODE_OFFSET = 0x5A
BOOT_CODE_SIZE = 0x1FE - BOOT_CODE_OFFSET
BOOT_SECTOR_SIZE = 512
"""The record's size; in a bigger sector zeros follow, and 55 AA stays at 510."""


@record(size=BOOT_SECTOR_SIZE)
class Fat32BootSector:
    """Sector 0 of a FAT32 volume (VBR with its BPB)."""

    jump: bytes = raw(0x00, 3, "BS_jmpBoot", default=b"\xeb\x58\x90")
    oem_name: bytes = raw(0x03, 8, "BS_OEMName", default=b"MSDOS5.0")
    bytes_per_sector: int = u16(0x0B, "BPB_BytsPerSec")
    sectors_per_cluster: int = u8(0x0D, "BPB_SecPerClus")
    reserved_sectors: int = u16(0x0E, "BPB_RsvdSecCnt")
    fat_count: int = u8(0x10, "BPB_NumFATs", default=2)
    root_entry_count: int = u16(0x11, "BPB_RootEntCnt", default=0)
    total_sectors_16: int = u16(0x13, "BPB_TotSec16", default=0)
    media: int = u8(0x15, "BPB_Media", default=MEDIA_FIXED)
    fat_sectors_16: int = u16(0x16, "BPB_FATSz16", default=0)
    sectors_per_track: int = u16(0x18, "BPB_SecPerTrk", default=63)
    head_count: int = u16(0x1A, "BPB_NumHeads", default=255)
    hidden_sectors: int = u32(0x1C, "BPB_HiddSec")
    total_sectors: int = u32(0x20, "BPB_TotSec32")
    fat_sectors: int = u32(0x24, "BPB_FATSz32")
    ext_flags: int = u16(0x28, "BPB_ExtFlags", default=0)
    fs_version: int = u16(0x2A, "BPB_FSVer", default=0)
    root_cluster: int = u32(0x2C, "BPB_RootClus", default=FIRST_CLUSTER)
    fsinfo_sector_number: int = u16(0x30, "BPB_FSInfo", default=FSINFO_SECTOR_NUMBER)
    backup_boot_sector_number: int = u16(0x32, "BPB_BkBootSec", default=BACKUP_BOOT_SECTOR_NUMBER)
    drive_number: int = u8(0x40, "BS_DrvNum", default=0x80)
    extended_signature: int = u8(0x42, "BS_BootSig", default=0x29)
    volume_serial: int = u32(0x43, "BS_VolID")
    volume_label: bytes = raw(0x47, 11, "BS_VolLab", default=b"NO NAME    ")
    file_system_type: bytes = raw(0x52, 8, "BS_FilSysType", default=b"FAT32   ")
    boot_code: bytes = raw(BOOT_CODE_OFFSET, BOOT_CODE_SIZE, "boot code")
    signature: bytes = raw(0x1FE, 2, "Signature_word", default=BOOT_SIGNATURE)


@record(size=512)
class FsInfo:
    """The FSInfo sector: hints that spare a driver the count of free clusters."""

    lead_signature: int = u32(0, "FSI_LeadSig", default=0x41615252)
    structure_signature: int = u32(484, "FSI_StrucSig", default=0x61417272)
    free_cluster_count: int = u32(488, "FSI_Free_Count")
    next_free_cluster: int = u32(492, "FSI_Nxt_Free")
    trail_signature: int = u32(508, "FSI_TrailSig", default=0xAA550000)


@record(size=DIRECTORY_ENTRY_SIZE)
class DirectoryEntry:
    """A short (8.3) directory entry."""

    name: bytes = raw(0, 11, "DIR_Name")
    attributes: int = u8(11, "DIR_Attr")
    case_flags: int = u8(12, "DIR_NTRes", default=0)
    creation_centiseconds: int = u8(13, "DIR_CrtTimeTenth", default=0)
    creation_time: int = u16(14, "DIR_CrtTime", default=0)
    creation_date: int = u16(16, "DIR_CrtDate", default=0)
    access_date: int = u16(18, "DIR_LstAccDate", default=0)
    first_cluster_high: int = u16(20, "DIR_FstClusHI", default=0)
    write_time: int = u16(22, "DIR_WrtTime", default=0)
    write_date: int = u16(24, "DIR_WrtDate", default=0)
    first_cluster_low: int = u16(26, "DIR_FstClusLO", default=0)
    file_size: int = u32(28, "DIR_FileSize", default=0)


@record(size=DIRECTORY_ENTRY_SIZE)
class LongNameEntry:
    """One slot of a long name: 13 UTF-16 units, in three places."""

    order: int = u8(0, "LDIR_Ord")
    units_1: bytes = raw(1, 10, "LDIR_Name1")
    attributes: int = u8(11, "LDIR_Attr", default=ATTR_LONG_NAME)
    entry_type: int = u8(12, "LDIR_Type", default=0)
    checksum: int = u8(13, "LDIR_Chksum")
    units_2: bytes = raw(14, 12, "LDIR_Name2")
    first_cluster_low: int = u16(26, "LDIR_FstClusLO", default=0)
    units_3: bytes = raw(28, 4, "LDIR_Name3")


@dataclass(frozen=True, slots=True)
class FatTimestamp:
    """A date, a time (2-second steps) and the 0..199 hundredths of a second beyond it."""

    date: int
    time: int
    centiseconds: int


_UNIX_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
_NS_PER_CENTISECOND = 10_000_000
_EARLIEST_CS = int(datetime(1980, 1, 1, tzinfo=UTC).timestamp()) * 100
_LATEST_CS = int(datetime(2108, 1, 1, tzinfo=UTC).timestamp()) * 100 - 1


def parse_fat32_boot_sector(data: bytes | memoryview, *, what: str) -> Fat32BootSector:
    """Sector 0 of a FAT32 volume.

    Raises:
        FormatError: no boot signature, or a BPB that no FAT32 volume has.
    """
    boot = parse_record(Fat32BootSector, data, what=what)
    if boot.signature != BOOT_SIGNATURE:
        raise FormatError(f"{what}: expected 55aa at 510, got {boot.signature.hex()}")
    if boot.bytes_per_sector not in SECTOR_SIZES:
        raise FormatError(
            f"{what}: BPB_BytsPerSec: expected one of {SECTOR_SIZES}, got {boot.bytes_per_sector}"
        )
    if boot.fat_sectors_16 or not boot.fat_sectors or boot.root_entry_count:
        raise FormatError(
            f"{what}: not FAT32: BPB_FATSz16 {boot.fat_sectors_16}, BPB_FATSz32 "
            f"{boot.fat_sectors}, BPB_RootEntCnt {boot.root_entry_count}"
        )
    return boot


@lru_cache(maxsize=4096)
def encode_timestamp(time_ns: int | None) -> FatTimestamp:
    """The FAT form of ``time_ns`` (UTC since 1970), clamped to 1980..2107; None is the earliest.

    FAT holds local time without a zone; we say it is UTC, as no zone of ours would be the
    reader's, and as a plan must not depend on the place it is made in.
    """
    centiseconds = _EARLIEST_CS if time_ns is None else time_ns // _NS_PER_CENTISECOND
    centiseconds = min(max(centiseconds, _EARLIEST_CS), _LATEST_CS)
    when = _UNIX_EPOCH + timedelta(seconds=centiseconds // 100)
    return FatTimestamp(
        date=(when.year - 1980) << 9 | when.month << 5 | when.day,
        time=when.hour << 11 | when.minute << 5 | when.second >> 1,
        centiseconds=when.second % 2 * 100 + centiseconds % 100,
    )


def pack_directory_entry(
    name: bytes,
    attributes: int,
    *,
    first_cluster: int,
    modified: FatTimestamp,
    size: int = 0,
    case_flags: int = 0,
) -> bytes:
    """A short entry that was created, written and read at ``modified``."""
    return pack_record(
        DirectoryEntry(
            name=name,
            attributes=attributes,
            case_flags=case_flags,
            creation_centiseconds=modified.centiseconds,
            creation_time=modified.time,
            creation_date=modified.date,
            access_date=modified.date,
            first_cluster_high=first_cluster >> 16,
            write_time=modified.time,
            write_date=modified.date,
            first_cluster_low=first_cluster & 0xFFFF,
            file_size=size,
        )
    )


def compute_short_name_checksum(name: bytes) -> int:
    """The checksum that ties long-name slots to their 11-byte short name."""
    total = 0
    for byte in name:
        total = ((total >> 1) + ((total & 1) << 7) + byte) & 0xFF
    return total


def count_long_name_entries(name: str) -> int:
    """How many slots ``name`` takes."""
    units = len(name.encode("utf-16-le")) // 2
    return -(-units // LONG_NAME_UNITS_PER_ENTRY)


def pack_long_name(name: str, checksum: int) -> bytes:
    """The slots of ``name`` as they lie on disk: the last part first."""
    encoded = name.encode("utf-16-le")
    part_size = LONG_NAME_UNITS_PER_ENTRY * 2
    if len(encoded) % part_size:
        # One terminator, then filler; a name that fills its last slot has neither.
        encoded += b"\x00\x00"
        encoded += b"\xff" * (-len(encoded) % part_size)
    count = len(encoded) // part_size
    slots: list[bytes] = []
    for number in range(count, 0, -1):
        part = encoded[(number - 1) * part_size : number * part_size]
        entry = LongNameEntry(
            order=number | (LAST_LONG_ENTRY if number == count else 0),
            checksum=checksum,
            units_1=part[:10],
            units_2=part[10:22],
            units_3=part[22:],
        )
        slots.append(pack_record(entry))
    return b"".join(slots)
