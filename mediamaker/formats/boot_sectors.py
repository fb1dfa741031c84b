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
from dataclasses import dataclass
from typing import Literal

from mediamaker.errors import FormatError
from mediamaker.formats.exfat import (
    BOOT_REGION_SECTORS,
    EXTENDED_BOOT_SECTOR_COUNT,
    ExfatBootSector,
    compute_boot_checksum,
)
from mediamaker.formats.fat import parse_fat32_boot_sector
from mediamaker.formats.mbr import BOOT_CODE_SIZE_MAX
from mediamaker.formats.ntfs import parse_ntfs_boot
from mediamaker.formats.record import parse_record

FileSystem = Literal["ntfs", "exfat", "fat32"]
Owner = Literal["mediamaker", "grub", "syslinux", "windows-like", "none", "unknown"]

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
_NTFS_NAME = b"NTFS    "
_FAT32_NAME = b"FAT32   "
_HANDS_BACK = b"\xcd\x18\xf4\xeb\xfd"
"""INT 18h, then hlt and a jump back to it: has the firmware try what comes next."""
_NOT_BOOTABLE_TEXTS = (b"not a bootable disk", b"not bootable")
"""What mkfs.fat, mkntfs and others store where boot code would be."""
_SYSLINUX_TEXTS = (b"Operating system load error", b"Missing OS", b"Multiple active partitions")

# What describes the volume within sector 0, thus is not boot code's; and what of it tells one
# volume from another. Hidden sectors and PartitionOffset belong to the code's installer.
_OWNED: dict[FileSystem, tuple[slice, ...]] = {
    "ntfs": (slice(3, 0x1C), slice(0x20, 0x54)),
    "fat32": (slice(3, 0x1C), slice(0x20, 0x5A)),
    "exfat": (slice(3, 64), slice(72, 120)),
}
_IDENTITY: dict[FileSystem, tuple[slice, ...]] = {
    "ntfs": (slice(0x28, 0x30), slice(0x48, 0x50)),
    "fat32": (slice(0x20, 0x24), slice(0x43, 0x47)),
    "exfat": (slice(72, 80), slice(100, 104)),
}


@dataclass(frozen=True, slots=True, kw_only=True)
class OurBootCode:
    """All boot programs of ours, as :mod:`mediamaker.sources.bootcode` loads them."""

    mbr: bytes
    ntfs: bytes
    exfat: bytes
    fat32_sector0: bytes
    fat32_stage2: bytes
    fat32_stage2_sector_number: int


@dataclass(frozen=True, slots=True)
class BootCodeIdentity:
    """Whose boot code it is, as far as bytes can say, and what it would load."""

    owner: Owner
    words: str
    loads: str | None = None


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


def find_file_system(sector0: bytes) -> FileSystem | None:
    """Which file system's boot sector it is, of those that boot code of ours knows."""
    if len(sector0) < VBR_SIZE or sector0[_SIGNATURE_OFFSET:VBR_SIZE] != _SIGNATURE:
        return None
    if sector0[3:11] == _NTFS_NAME:
        return "ntfs"
    if sector0[3:11] == _EXFAT_NAME:
        return "exfat"
    try:
        parse_fat32_boot_sector(sector0[:VBR_SIZE], what="volume")
    except FormatError:
        return None
    return "fat32" if sector0[0x52:0x5A] == _FAT32_NAME else None


def measure_boot_area(sector0: bytes) -> int:
    """Bytes at a volume's start that the installers take; 0 for a file system they don't know."""
    match find_file_system(sector0):
        case "ntfs":
            return NTFS_BOOT_SIZE
        case "exfat":
            shift = sector0[108]
            return 2 * BOOT_REGION_SECTORS << shift if shift in _EXFAT_SECTOR_SHIFTS else 0
        case "fat32":
            boot = parse_fat32_boot_sector(sector0[:VBR_SIZE], what="volume")
            return boot.reserved_sectors * boot.bytes_per_sector
        case None:
            return 0


def install_boot(head: bytes, ours: OurBootCode, *, start_lba: int) -> bytes:
    """``head``, a volume's boot area, with our code for its file system.

    Raises:
        FormatError: no boot code for it, or one of the installers' reasons.
    """
    match find_file_system(head):
        case "ntfs":
            return install_ntfs_boot(head, ours.ntfs, hidden_sectors=start_lba)
        case "exfat":
            return install_exfat_boot(head, ours.exfat, partition_offset_lba=start_lba)
        case "fat32":
            return install_fat32_boot(
                head,
                ours.fat32_sector0,
                ours.fat32_stage2,
                stage2_sector_number=ours.fat32_stage2_sector_number,
                hidden_sectors=start_lba,
            )
        case None:
            raise FormatError(
                "no NTFS, exFAT or FAT32 volume: there is boot code for these alone",
                hint="make the volume first; boot code does not make one",
            )


def read_start_lba(sector0: bytes) -> int | None:
    """Where the volume's boot sector says that its partition starts."""
    match find_file_system(sector0):
        case "ntfs" | "fat32":
            return int.from_bytes(
                sector0[_HIDDEN_SECTORS_OFFSET : _HIDDEN_SECTORS_OFFSET + 4], "little"
            )
        case "exfat":
            field = sector0[_EXFAT_PARTITION_OFFSET : _EXFAT_PARTITION_OFFSET + 8]
            return int.from_bytes(field, "little")
        case None:
            return None


def restore_boot(head: bytes, saved: bytes) -> bytes:
    """``head`` with the boot code of ``saved``, an older state of the same volume's boot area.

    Raises:
        FormatError: they are not of the same volume.
    """
    kind = find_file_system(head)
    if kind is None or kind != find_file_system(saved) or len(head) != len(saved):
        raise FormatError(
            f"the volume is {kind or 'of no known file system'} now, the backup is of "
            f"{find_file_system(saved) or 'another one'}"
        )
    if any(head[part] != saved[part] for part in _IDENTITY[kind]):
        raise FormatError("the backup is of another volume: size or serial number differ")
    restored = bytearray(head)
    _graft(restored, saved, kind, 0)
    match kind:
        case "ntfs":
            restored[VBR_SIZE:] = saved[VBR_SIZE:]
        case "fat32":
            _graft_fat32(restored, saved)
        case "exfat":
            size = BOOT_REGION_SECTORS << saved[108]
            _graft(restored, saved, kind, size)
            for start in (0, size):
                _graft_exfat_region(restored, saved, start)
    return bytes(restored)


def identify_mbr(data: bytes, *, ours: OurBootCode | None = None) -> BootCodeIdentity:
    """Whose code the first sector of a disk holds; ``data`` is 440 bytes or more."""
    code = data[:BOOT_CODE_SIZE_MAX]
    if not any(code):
        return BootCodeIdentity("none", "no boot code")
    if ours is not None and code == ours.mbr:
        return BootCodeIdentity("mediamaker", "mediamaker's", "the active partition")
    if b"GRUB " in code:
        return BootCodeIdentity("grub", "GRUB's", "GRUB, from sectors that it knows")
    if any(text in code for text in _SYSLINUX_TEXTS):
        return BootCodeIdentity("syslinux", "syslinux's", "the active partition")
    if b"Invalid partition table" in code and b"Error loading operating system" in code:
        words = "Windows-like, by its messages"
        return BootCodeIdentity("windows-like", words, "the active partition")
    return BootCodeIdentity("unknown", "unknown boot code")


def identify_vbr(head: bytes, *, ours: OurBootCode | None = None) -> BootCodeIdentity:
    """Whose code a volume's boot area holds; ``head`` as long as :func:`measure_boot_area` says."""
    kind = find_file_system(head)
    start_lba = read_start_lba(head)
    if ours is not None and start_lba is not None:
        try:
            is_ours = install_boot(head, ours, start_lba=start_lba) == head
        except FormatError:
            is_ours = False
        if is_ours:
            return BootCodeIdentity("mediamaker", "mediamaker's", "\\BOOTMGR")
    code = head[_code_offset(kind) : _SIGNATURE_OFFSET]
    hands_back = code.rstrip(b"\0") == _HANDS_BACK
    if len(set(code)) <= 1 or hands_back or any(text in code for text in _NOT_BOOTABLE_TEXTS):
        return BootCodeIdentity("none", "no boot code")
    if head[3:11] == b"SYSLINUX":
        return BootCodeIdentity("syslinux", "syslinux's", "\\ldlinux.sys")
    if b"GRUB " in code:
        return BootCodeIdentity("grub", "GRUB's", "GRUB, from sectors that it knows")
    # NTFS boot code names what it loads in UTF-16, further on than sector 0.
    near = head[: max(NTFS_BOOT_SIZE, VBR_SIZE)]
    for name in ("BOOTMGR", "NTLDR"):
        if name.encode("ascii") in near or name.encode("utf-16-le") in near:
            words = f"Windows-like (names {name})"
            return BootCodeIdentity("windows-like", words, f"\\{name}")
    return BootCodeIdentity("unknown", "unknown boot code")


def _code_offset(kind: FileSystem | None) -> int:
    match kind:
        case "ntfs":
            return _NTFS_CODE_OFFSET
        case "fat32":
            return _FAT32_CODE_OFFSET
        case "exfat":
            return _EXFAT_CODE_OFFSET
        case None:
            return _JUMP.stop


def _graft(target: bytearray, saved: bytes, kind: FileSystem, at: int) -> None:
    """Sector 0 (or its copy at ``at``) of ``saved``, but what describes the volume."""
    sector = bytearray(saved[at : at + VBR_SIZE])
    for part in _OWNED[kind]:
        sector[part] = target[at + part.start : at + part.stop]
    target[at : at + VBR_SIZE] = sector


def _graft_fat32(target: bytearray, saved: bytes) -> None:
    """The copy of sector 0, and all that no file system keeps anything in."""
    boot = parse_fat32_boot_sector(bytes(target), what="volume")
    size = boot.bytes_per_sector
    kept = {0, boot.fsinfo_sector_number}
    backup = boot.backup_boot_sector_number
    if 0 < backup < boot.reserved_sectors:
        _graft(target, saved, "fat32", backup * size)
        kept |= {backup, backup + 1}
    for number in range(boot.reserved_sectors):
        if number not in kept:
            target[number * size : (number + 1) * size] = saved[number * size : (number + 1) * size]


def _graft_exfat_region(target: bytearray, saved: bytes, start: int) -> None:
    """The extended boot sectors, and the checksum unless all it covers is as it was."""
    size = 1 << saved[108]
    extended = slice(start + size, start + (1 + EXTENDED_BOOT_SECTOR_COUNT) * size)
    target[extended] = saved[extended]
    end = start + (BOOT_REGION_SECTORS - 1) * size
    was = compute_boot_checksum(saved[start:end])
    now = compute_boot_checksum(bytes(target[start:end]))
    checksum = saved[end : end + size] if was == now else now.to_bytes(4, "little") * (size // 4)
    target[end : end + size] = checksum


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
