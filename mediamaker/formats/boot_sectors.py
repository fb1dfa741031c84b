# SPDX-License-Identifier: GPL-3.0-or-later
"""Boot code put into the boot sectors of a volume, around what describes the volume.

Every function takes what a volume holds and gives what it is to hold: parameter block, label,
serial and files stay; the code, and the one field that says where the partition starts, change.

References:
- NTFS: the Linux-NTFS project's documentation of ``$Boot`` (8192 bytes, whatever the sector size).
- exFAT: Microsoft, "exFAT file system specification" 1.00, section 3.
- FAT32: Microsoft FAT32 File System Specification 1.03.
- What our own code wants of its place: ``bootfiles/README.md``.
"""

from __future__ import annotations

import struct

from mediamaker.errors import FormatError
from mediamaker.formats.exfat import (
    BOOT_REGION_SECTORS,
    EXTENDED_BOOT_SECTOR_COUNT,
    ExfatBootSector,
    compute_boot_checksum,
)
from mediamaker.formats.fat import parse_fat32_boot_sector
from mediamaker.formats.ntfs import parse_ntfs_boot
from mediamaker.formats.record import parse_record

NTFS_BOOT_SIZE = 8192
"""The file ``$Boot``: the first 8192 bytes of every NTFS volume."""
VBR_SIZE = 512
"""The first 512 bytes of a volume; in a bigger sector the rest belongs to what follows."""
LBA_MAX = 0xFFFFFFFF

_JUMP = slice(0, 3)
_SIGNATURE_OFFSET = 510
_SIGNATURE = b"\x55\xaa"
_HIDDEN_SECTORS_OFFSET = 0x1C
_NTFS_CODE_OFFSET = 0x54
_FAT32_CODE_OFFSET = 0x5A
_EXFAT_CODE_OFFSET = 120
_EXFAT_PARTITION_OFFSET = 64
_EXFAT_NAME = b"EXFAT   "
_EXFAT_SECTOR_SHIFTS = range(9, 13)
_EXTENDED_SIGNATURE = b"\x00\x00\x55\xaa"


def install_ntfs_boot(head: bytes, code: bytes, *, hidden_sectors: int) -> bytes:
    """The first 8192 bytes of an NTFS volume with ``code`` in them.

    ``code`` is what :func:`mediamaker.sources.bootcode.load_ntfs_boot_code` gives: the whole of
    ``$Boot``, its parameter block left zero. ``hidden_sectors`` is the partition's first LBA.
    The volume's last sector holds a copy of sector 0: the caller writes it there too.

    Raises:
        FormatError: not NTFS, not 8192 bytes, code that does not fit, or an LBA over 32 bits.
    """
    _check_size(head, NTFS_BOOT_SIZE, "NTFS $Boot")
    parse_ntfs_boot(head[:VBR_SIZE], what="volume")
    _check_code(code, VBR_SIZE, NTFS_BOOT_SIZE, "NTFS")
    _check_lba(hidden_sectors)
    installed = bytearray(code.ljust(NTFS_BOOT_SIZE, b"\0"))
    installed[_JUMP.stop : _NTFS_CODE_OFFSET] = head[_JUMP.stop : _NTFS_CODE_OFFSET]
    struct.pack_into("<I", installed, _HIDDEN_SECTORS_OFFSET, hidden_sectors)
    return bytes(installed)


def install_exfat_boot(region: bytes, code: bytes, *, partition_offset_lba: int) -> bytes:
    """The first 24 sectors of an exFAT volume, main and backup boot region, with ``code``.

    ``code`` is what :func:`mediamaker.sources.bootcode.load_exfat_boot_code` gives: 512 bytes for
    sector 0, then what goes into the extended boot sectors, between their signatures. Both
    regions are made from the main one, OEM parameters included, and get its new checksum.

    Raises:
        FormatError: not exFAT, not 24 sectors, or code that does not fit.
    """
    boot = parse_record(ExfatBootSector, region, what="volume: exFAT boot sector")
    shift = boot.bytes_per_sector_shift
    if boot.file_system_name != _EXFAT_NAME or shift not in _EXFAT_SECTOR_SHIFTS:
        raise FormatError(
            f"volume is not exFAT: expected {_EXFAT_NAME!r} and a sector shift of 9 to 12, got "
            f"{boot.file_system_name!r} and {shift}"
        )
    sector_size = 1 << shift
    _check_size(region, 2 * BOOT_REGION_SECTORS * sector_size, "exFAT boot regions")
    room = sector_size - len(_EXTENDED_SIGNATURE)
    _check_code(code, VBR_SIZE, VBR_SIZE + EXTENDED_BOOT_SECTOR_COUNT * room, "exFAT")
    installed = bytearray(region[: (BOOT_REGION_SECTORS - 1) * sector_size])
    installed[_JUMP] = code[_JUMP]
    installed[_EXFAT_CODE_OFFSET:VBR_SIZE] = code[_EXFAT_CODE_OFFSET:VBR_SIZE]
    struct.pack_into("<Q", installed, _EXFAT_PARTITION_OFFSET, partition_offset_lba)
    stage2 = code[VBR_SIZE:].ljust(EXTENDED_BOOT_SECTOR_COUNT * room, b"\0")
    for index in range(EXTENDED_BOOT_SECTOR_COUNT):
        piece = stage2[index * room : (index + 1) * room] + _EXTENDED_SIGNATURE
        installed[(1 + index) * sector_size : (2 + index) * sector_size] = piece
    checksum = compute_boot_checksum(bytes(installed)).to_bytes(4, "little")
    return (bytes(installed) + checksum * (sector_size // len(checksum))) * 2


def install_fat32_boot(
    reserved: bytes,
    sector0: bytes,
    stage2: bytes,
    *,
    stage2_sector_number: int,
    hidden_sectors: int,
) -> bytes:
    """The reserved area of a FAT32 volume with boot code: sector 0, its backup, and stage 2.

    The three parts of the code are what
    :func:`mediamaker.sources.bootcode.load_fat32_boot_code` gives.

    Raises:
        FormatError: not FAT32, not its reserved area, code that does not fit, an LBA over 32 bits.
    """
    boot = parse_fat32_boot_sector(reserved, what="volume")
    sector_size = boot.bytes_per_sector
    _check_size(reserved, boot.reserved_sectors * sector_size, "FAT32 reserved area")
    _check_code(sector0, VBR_SIZE, VBR_SIZE, "FAT32")
    _check_lba(hidden_sectors)
    start = stage2_sector_number * sector_size
    if start + len(stage2) > len(reserved):
        raise FormatError(
            f"volume: FAT32 boot code wants sectors {stage2_sector_number} to "
            f"{-(-(start + len(stage2)) // sector_size) - 1} of the reserved area, which has "
            f"{boot.reserved_sectors}",
            hint="format it with 32 reserved sectors, which is what mkfs.fat and Windows do",
        )
    installed = bytearray(reserved)
    installed[_JUMP] = sector0[_JUMP]
    installed[_FAT32_CODE_OFFSET:VBR_SIZE] = sector0[_FAT32_CODE_OFFSET:VBR_SIZE]
    struct.pack_into("<I", installed, _HIDDEN_SECTORS_OFFSET, hidden_sectors)
    installed[start : start + len(stage2)] = stage2
    backup = boot.backup_boot_sector_number
    if 0 < backup < min(boot.reserved_sectors, stage2_sector_number):
        installed[backup * sector_size : backup * sector_size + VBR_SIZE] = installed[:VBR_SIZE]
    return bytes(installed)


def _check_size(data: bytes, size: int, what: str) -> None:
    if len(data) != size:
        raise FormatError(f"{what}: expected {size} bytes, got {len(data)}")


def _check_code(code: bytes, size_min: int, size_max: int, what: str) -> None:
    if not size_min <= len(code) <= size_max:
        raise FormatError(
            f"{what} boot code: expected {size_min} to {size_max} bytes, got {len(code)}"
        )
    if code[_SIGNATURE_OFFSET:VBR_SIZE] != _SIGNATURE:
        raise FormatError(f"{what} boot code: expected 55 AA at {_SIGNATURE_OFFSET}")


def _check_lba(hidden_sectors: int) -> None:
    if not 0 <= hidden_sectors <= LBA_MAX:
        raise FormatError(
            f"partition starts at sector {hidden_sectors}; its boot sector can say {LBA_MAX}"
        )
