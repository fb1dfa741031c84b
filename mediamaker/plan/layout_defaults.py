# SPDX-License-Identifier: GPL-3.0-or-later
"""What a layout file need not say: types, names and sizes that follow from a partition's role.

References: boot-facts 5 and wim-deployment 5 (type GUIDs and codes, attributes, the sizes that
Microsoft documents); UEFI 2.10, table 5.7 (the ESP's type).
"""

from __future__ import annotations

from dataclasses import dataclass
from uuid import UUID

from mediamaker.formats.gpt import TYPE_BASIC_DATA, TYPE_ESP
from mediamaker.formats.mbr import TYPE_FAT32_LBA
from mediamaker.plan.disk_layout import Attribute, FileSystem, Role, Table
from mediamaker.units import MIB

TYPE_MSR = UUID("e3c9e316-0b5c-4db8-817d-f92df00215ae")
TYPE_RECOVERY = UUID("de94bba4-06d1-4d40-a16a-bfd50179d6ac")
TYPE_CODE_NTFS = 0x07
TYPE_CODE_RECOVERY = 0x27
RECOVERY_ATTRIBUTES = Attribute.PLATFORM_REQUIRED.mask | Attribute.NO_DRIVE_LETTER.mask
"""0x8000000000000001."""

SIZE_ESP = 260 * MIB
"""The smallest FAT32 volume of 4096-byte sectors, for every disk alike."""
SIZE_BIOS_SYSTEM = 100 * MIB
SIZE_MSR = 16 * MIB
SIZE_RECOVERY = 1024 * MIB


@dataclass(frozen=True, slots=True)
class RoleDefaults:
    """The values of the keys that a file left out; ``size`` None is the rest."""

    name: str
    size: int | None
    file_system: FileSystem | None
    volume_label: str
    attributes: int
    is_active: bool


def find_defaults(table: Table, role: Role) -> RoleDefaults:
    """What a partition of ``role`` gets on a disk with ``table``."""
    is_gpt = table == "gpt"
    match role:
        case Role.SYSTEM:
            if is_gpt:
                return RoleDefaults(
                    "EFI system partition", SIZE_ESP, "fat32", "SYSTEM", 0, is_active=False
                )
            return RoleDefaults("System", SIZE_BIOS_SYSTEM, "ntfs", "System", 0, is_active=True)
        case Role.MSR:
            return RoleDefaults(
                "Microsoft reserved partition", SIZE_MSR, None, "", 0, is_active=False
            )
        case Role.WINDOWS:
            return RoleDefaults("Basic data partition", None, "ntfs", "Windows", 0, is_active=False)
        case Role.RECOVERY:
            attributes = RECOVERY_ATTRIBUTES if is_gpt else 0
            return RoleDefaults(
                "Recovery", SIZE_RECOVERY, "ntfs", "Recovery", attributes, is_active=False
            )
        case Role.DATA:
            return RoleDefaults("Basic data partition", None, "ntfs", "Data", 0, is_active=False)


def default_type_guid(role: Role) -> UUID:
    """The GPT type of a partition of ``role``."""
    match role:
        case Role.SYSTEM:
            return TYPE_ESP
        case Role.MSR:
            return TYPE_MSR
        case Role.RECOVERY:
            return TYPE_RECOVERY
        case Role.WINDOWS | Role.DATA:
            return TYPE_BASIC_DATA


def default_type_code(role: Role, file_system: FileSystem | None) -> int:
    """The MBR type of a partition of ``role`` with ``file_system``."""
    if role is Role.RECOVERY:
        return TYPE_CODE_RECOVERY
    return TYPE_FAT32_LBA if file_system == "fat32" else TYPE_CODE_NTFS
