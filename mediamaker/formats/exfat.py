# SPDX-License-Identifier: GPL-3.0-or-later
"""exFAT on-disk records: boot region, directory entry sets, checksums, time stamps, names.

References:
- Microsoft, "exFAT file system specification" (revision 1.00, published 2019): 3 "Main and Backup
  Boot Regions", 4 "File Allocation Table Region", 6 and 7 "Directory Entry Definitions"; the
  names of fields are the specification's.
- Linux ``fs/exfat`` and exfatprogs 1.2 accept what is made here; the tests say so on every run.
"""

from __future__ import annotations

from mediamaker.formats.fat import FatTimestamp
from mediamaker.formats.record import pack_record, raw, record, u8, u16, u32, u64

SECTOR_SIZES = (512, 1024, 2048, 4096)
CLUSTER_SIZE_MAX = 32 * 1024 * 1024
CLUSTER_COUNT_MAX = 0xFFFFFFF5
FIRST_CLUSTER = 2
VOLUME_SIZE_MIN = 1024 * 1024

FAT_ENTRY_SIZE = 4
FAT_ENTRY_0 = 0xFFFFFFF8
"""Media type F8 and ones, as the specification has it."""
FAT_ENTRY_1 = 0xFFFFFFFF
FAT_ENTRY_END = 0xFFFFFFFF

BOOT_REGION_SECTORS = 12
"""Boot sector, 8 extended boot sectors, OEM parameters, a reserved sector, checksums."""
FAT_SECTOR_NUMBER_MIN = 2 * BOOT_REGION_SECTORS
EXTENDED_BOOT_SECTOR_COUNT = 8
BOOT_SECTOR_SIZE = 512
"""The record's size; in a bigger sector zeros follow, and 55 AA stays at 510."""
BOOT_CODE_SIZE = 390
_NO_BOOT_CODE = b"\xf4" * BOOT_CODE_SIZE
"""hlt, which is what the specification wants of a volume that boots nothing."""
_EXTENDED_SIGNATURE = b"\x00\x00\x55\xaa"
_UNSUMMED_OFFSETS = frozenset((106, 107, 112))
"""VolumeFlags and PercentInUse change without a new checksum."""

DIRECTORY_ENTRY_SIZE = 32
DIRECTORY_SIZE_MAX = 256 * 1024 * 1024
NAME_UNITS_MAX = 255
NAME_UNITS_PER_ENTRY = 15
LABEL_UNITS_MAX = 11

TYPE_ALLOCATION_BITMAP = 0x81
TYPE_UPCASE_TABLE = 0x82
TYPE_VOLUME_LABEL = 0x83
TYPE_NO_VOLUME_LABEL = 0x03
"""The label's entry with its InUse bit clear; some readers look for either."""
TYPE_FILE = 0x85
TYPE_STREAM_EXTENSION = 0xC0
TYPE_FILE_NAME = 0xC1

ATTR_DIRECTORY = 0x10
ATTR_ARCHIVE = 0x20
FLAG_ALLOCATION_POSSIBLE = 0x01
FLAG_NO_FAT_CHAIN = 0x02
UTC_OFFSET_ZERO = 0x80
"""The OffsetValid bit, and no offset: the time stamp is in UTC."""

_LABEL_FORBIDDEN = frozenset('"*/:<>?\\|') | {chr(code) for code in range(32)}


@record(size=BOOT_SECTOR_SIZE)
class ExfatBootSector:
    """Sector 0 of an exFAT volume; offsets, lengths and ``volume_length`` are in sectors."""

    jump: bytes = raw(0, 3, "JumpBoot", default=b"\xeb\x76\x90")
    file_system_name: bytes = raw(3, 8, "FileSystemName", default=b"EXFAT   ")
    must_be_zero: bytes = raw(11, 53, "MustBeZero", default=bytes(53))
    partition_offset: int = u64(64, "PartitionOffset")
    volume_length: int = u64(72, "VolumeLength")
    fat_offset: int = u32(80, "FatOffset")
    fat_length: int = u32(84, "FatLength")
    cluster_heap_offset: int = u32(88, "ClusterHeapOffset")
    cluster_count: int = u32(92, "ClusterCount")
    root_cluster: int = u32(96, "FirstClusterOfRootDirectory")
    volume_serial: int = u32(100, "VolumeSerialNumber")
    revision: int = u16(104, "FileSystemRevision", default=0x0100)
    volume_flags: int = u16(106, "VolumeFlags", default=0)
    bytes_per_sector_shift: int = u8(108, "BytesPerSectorShift")
    sectors_per_cluster_shift: int = u8(109, "SectorsPerClusterShift")
    fat_count: int = u8(110, "NumberOfFats", default=1)
    drive_select: int = u8(111, "DriveSelect", default=0x80)
    percent_in_use: int = u8(112, "PercentInUse")
    boot_code: bytes = raw(120, BOOT_CODE_SIZE, "BootCode", default=_NO_BOOT_CODE)
    signature: bytes = raw(510, 2, "BootSignature", default=b"\x55\xaa")


@record(size=DIRECTORY_ENTRY_SIZE)
class AllocationBitmapEntry:
    """Where the bitmap is."""

    entry_type: int = u8(0, "EntryType", default=TYPE_ALLOCATION_BITMAP)
    bitmap_flags: int = u8(1, "BitmapFlags", default=0)
    first_cluster: int = u32(20, "FirstCluster")
    data_length: int = u64(24, "DataLength")


@record(size=DIRECTORY_ENTRY_SIZE)
class UpcaseTableEntry:
    """Where the up-case table is."""

    entry_type: int = u8(0, "EntryType", default=TYPE_UPCASE_TABLE)
    table_checksum: int = u32(4, "TableChecksum")
    first_cluster: int = u32(20, "FirstCluster")
    data_length: int = u64(24, "DataLength")


@record(size=DIRECTORY_ENTRY_SIZE)
class VolumeLabelEntry:
    """The label, up to 11 UTF-16 units."""

    entry_type: int = u8(0, "EntryType", default=TYPE_VOLUME_LABEL)
    character_count: int = u8(1, "CharacterCount")
    volume_label: bytes = raw(2, 2 * LABEL_UNITS_MAX, "VolumeLabel")


@record(size=DIRECTORY_ENTRY_SIZE)
class FileEntry:
    """The first entry of a file's set."""

    entry_type: int = u8(0, "EntryType", default=TYPE_FILE)
    secondary_count: int = u8(1, "SecondaryCount")
    set_checksum: int = u16(2, "SetChecksum", default=0)
    file_attributes: int = u16(4, "FileAttributes")
    create_time: int = u16(8, "CreateTimestamp (time)")
    create_date: int = u16(10, "CreateTimestamp (date)")
    modified_time: int = u16(12, "LastModifiedTimestamp (time)")
    modified_date: int = u16(14, "LastModifiedTimestamp (date)")
    accessed_time: int = u16(16, "LastAccessedTimestamp (time)")
    accessed_date: int = u16(18, "LastAccessedTimestamp (date)")
    create_centiseconds: int = u8(20, "Create10msIncrement")
    modified_centiseconds: int = u8(21, "LastModified10msIncrement")
    create_utc_offset: int = u8(22, "CreateUtcOffset", default=UTC_OFFSET_ZERO)
    modified_utc_offset: int = u8(23, "LastModifiedUtcOffset", default=UTC_OFFSET_ZERO)
    accessed_utc_offset: int = u8(24, "LastAccessedUtcOffset", default=UTC_OFFSET_ZERO)


@record(size=DIRECTORY_ENTRY_SIZE)
class StreamExtensionEntry:
    """The second entry of a file's set: where its content is."""

    entry_type: int = u8(0, "EntryType", default=TYPE_STREAM_EXTENSION)
    flags: int = u8(1, "GeneralSecondaryFlags")
    name_length: int = u8(3, "NameLength")
    name_hash: int = u16(4, "NameHash")
    valid_data_length: int = u64(8, "ValidDataLength")
    first_cluster: int = u32(20, "FirstCluster")
    data_length: int = u64(24, "DataLength")


def pack_boot_region(boot: ExfatBootSector) -> bytes:
    """The 12 sectors of a boot region; the main one and the backup are equal."""
    sector_size = 1 << boot.bytes_per_sector_shift
    extended = bytes(sector_size - len(_EXTENDED_SIGNATURE)) + _EXTENDED_SIGNATURE
    summed = (
        pack_record(boot).ljust(sector_size, b"\0")
        + extended * EXTENDED_BOOT_SECTOR_COUNT
        + bytes(2 * sector_size)
    )
    checksum = compute_boot_checksum(summed).to_bytes(4, "little")
    return summed + checksum * (sector_size // len(checksum))


def compute_boot_checksum(sectors: bytes) -> int:
    """The 32-bit checksum over the first 11 sectors of a boot region."""
    return compute_table_checksum(
        bytes(byte for offset, byte in enumerate(sectors) if offset not in _UNSUMMED_OFFSETS)
    )


def compute_table_checksum(data: bytes) -> int:
    """The 32-bit checksum of an up-case table: rotate right by one, add, for each byte."""
    total = 0
    for byte in data:
        total = ((total >> 1) + ((total & 1) << 31) + byte) & 0xFFFFFFFF
    return total


def compute_name_hash(upcased_name: str) -> int:
    """The 16-bit hash over the UTF-16 of a name that went through the up-case table."""
    return _sum_16(upcased_name.encode("utf-16-le"))


def count_name_entries(name: str) -> int:
    """File Name entries that ``name`` takes."""
    return -(-count_units(name) // NAME_UNITS_PER_ENTRY)


def count_set_entries(name: str) -> int:
    """Directory entries that a file or directory called ``name`` takes."""
    return 2 + count_name_entries(name)


def count_units(text: str) -> int:
    """UTF-16 units."""
    return len(text.encode("utf-16-le")) // 2


def pack_entry_set(
    name: str,
    upcased_name: str,
    *,
    attributes: int,
    flags: int,
    first_cluster: int,
    size: int,
    modified: FatTimestamp,
) -> bytes:
    """The entries of a file or directory that was created, written and read at ``modified``."""
    encoded = name.encode("utf-16-le")
    part_size = 2 * NAME_UNITS_PER_ENTRY
    parts = [encoded[at : at + part_size] for at in range(0, len(encoded), part_size)]
    file = FileEntry(
        secondary_count=1 + len(parts),
        file_attributes=attributes,
        create_time=modified.time,
        create_date=modified.date,
        modified_time=modified.time,
        modified_date=modified.date,
        accessed_time=modified.time,
        accessed_date=modified.date,
        create_centiseconds=modified.centiseconds,
        modified_centiseconds=modified.centiseconds,
    )
    stream = StreamExtensionEntry(
        flags=flags,
        name_length=len(encoded) // 2,
        name_hash=compute_name_hash(upcased_name),
        valid_data_length=size,
        first_cluster=first_cluster,
        data_length=size,
    )
    packed = bytearray(pack_record(file) + pack_record(stream))
    for part in parts:
        packed += bytes((TYPE_FILE_NAME, 0)) + part.ljust(part_size, b"\0")
    # The set's checksum leaves out the field that holds it.
    packed[2:4] = _sum_16(packed[4:], _sum_16(packed[:2])).to_bytes(2, "little")
    return bytes(packed)


def pack_volume_label(label: str) -> bytes:
    """The label's entry, not in use when there is no label."""
    return pack_record(
        VolumeLabelEntry(
            entry_type=TYPE_VOLUME_LABEL if label else TYPE_NO_VOLUME_LABEL,
            character_count=count_units(label),
            volume_label=label.encode("utf-16-le").ljust(2 * LABEL_UNITS_MAX, b"\0"),
        )
    )


def exfat_label(text: str) -> str:
    """A volume label made from any text: at most 11 UTF-16 units, as in file names."""
    label = ""
    for char in text.strip(" "):
        is_bad = char in _LABEL_FORBIDDEN or "\ud800" <= char <= "\udfff"
        longer = label + ("_" if is_bad else char)
        if count_units(longer) > LABEL_UNITS_MAX:
            break
        label = longer
    return label.rstrip(" ")


def _sum_16(data: bytes | bytearray, total: int = 0) -> int:
    for byte in data:
        total = ((total >> 1) + ((total & 1) << 15) + byte) & 0xFFFF
    return total
