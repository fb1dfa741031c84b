# SPDX-License-Identifier: GPL-3.0-or-later
"""The layout of a disk that gets Windows: which partitions, in which order, how large.

A layout is data: a TOML file, of the package (``mediamaker/layouts``) or of the person. It says
what is wanted; ``place_disk.py`` says where that lies on a disk of a given size. What a file
leaves out follows from the partition's role and the kind of table (``layout_defaults.py``).

References: Microsoft Learn, "UEFI/GPT-based hard drive partitions" and "BIOS/MBR-based hard
drive partitions" (roles, order, smallest sizes), "PARTITION_INFORMATION_GPT" (attributes).
"""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass
from enum import StrEnum
from typing import Literal
from uuid import UUID

from mediamaker.errors import FormatError
from mediamaker.formats.fat_names import fat_label
from mediamaker.formats.gpt import ENTRY_COUNT as GPT_PARTITIONS_MAX
from mediamaker.formats.gpt import NAME_UNITS_MAX
from mediamaker.formats.mbr import ENTRY_COUNT as MBR_PARTITIONS_MAX
from mediamaker.formats.mbr import TYPE_EMPTY, TYPE_GPT_PROTECTIVE
from mediamaker.units import KIB, MIB, format_size

_TEXT_MAX = 120

Table = Literal["gpt", "mbr"]
FileSystem = Literal["fat32", "ntfs"]

NTFS_LABEL_UNITS_MAX = 32
CLUSTER_SIZE_MIN = 512
CLUSTER_SIZE_MAX = 64 * KIB
"""Above it, boot managers do not read NTFS, and FAT has no way to say it."""


class Role(StrEnum):
    """What a partition is for."""

    SYSTEM = "system"
    MSR = "msr"
    WINDOWS = "windows"
    RECOVERY = "recovery"
    DATA = "data"


class Attribute(StrEnum):
    """The GPT attributes that have a meaning, by the name that layout files have for them."""

    PLATFORM_REQUIRED = "platform-required"
    NO_BLOCK_IO = "no-block-io"
    LEGACY_BOOTABLE = "legacy-bootable"
    READ_ONLY = "read-only"
    SHADOW_COPY = "shadow-copy"
    HIDDEN = "hidden"
    NO_DRIVE_LETTER = "no-drive-letter"

    @property
    def mask(self) -> int:
        """The one bit of the entry's Attributes."""
        return 1 << _ATTRIBUTE_BITS[self]


_ATTRIBUTE_BITS = {
    Attribute.PLATFORM_REQUIRED: 0,
    Attribute.NO_BLOCK_IO: 1,
    Attribute.LEGACY_BOOTABLE: 2,
    Attribute.READ_ONLY: 60,
    Attribute.SHADOW_COPY: 61,
    Attribute.HIDDEN: 62,
    Attribute.NO_DRIVE_LETTER: 63,
}


@dataclass(frozen=True, slots=True)
class PartitionSpec:
    """One partition, as a layout wants it.

    ``size`` is bytes, None is the rest of the disk; a partition is made larger where what goes
    into it needs more. ``size_min`` is the least of a rest. ``type_guid`` and ``attributes``
    are for a GPT, ``type_code`` and ``is_active`` for an MBR. ``cluster_size`` None: as the
    file system's maker has it.
    """

    role: Role
    name: str
    size: int | None
    size_min: int
    file_system: FileSystem | None
    volume_label: str
    type_guid: UUID | None
    type_code: int | None
    attributes: int = 0
    cluster_size: int | None = None
    is_active: bool = False

    def __post_init__(self) -> None:
        for key, value in (("size", self.size), ("size_min", self.size_min)):
            if value is not None and (value % MIB or value < 0 or (value == 0 and key == "size")):
                raise FormatError(f"{key}: {value} bytes are not one or more whole MiB")
        if self.size is not None and self.size < self.size_min:
            raise FormatError(
                f"size: {format_size(self.size)} is below size_min {format_size(self.size_min)}"
            )
        _check_name(self.name)
        _check_file_system(self)


@dataclass(frozen=True, slots=True)
class DiskLayout:
    """A whole disk: ``partitions`` in the order in which they lie on it."""

    name: str
    table: Table
    summary: str
    partitions: tuple[PartitionSpec, ...]

    def __post_init__(self) -> None:
        for key, text in (("name", self.name), ("summary", self.summary)):
            if len(text) > _TEXT_MAX or not text.isprintable():
                raise FormatError(f"{key}: {text[:_TEXT_MAX]!r} is not one short line")
        _check_counts(self)
        for number, spec in enumerate(self.partitions, start=1):
            _check_for_table(self.table, number, spec)
        _check_active(self)

    def find(self, role: Role) -> tuple[int, PartitionSpec] | None:
        """The first partition of ``role`` and its number."""
        for number, spec in enumerate(self.partitions, start=1):
            if spec.role is role:
                return number, spec
        return None


def find_oddities(layout: DiskLayout) -> tuple[str, ...]:
    """What works, but is not as Microsoft recommends it."""
    roles = [spec.role for spec in layout.partitions]
    found = []
    windows_index = roles.index(Role.WINDOWS)
    if Role.RECOVERY not in roles:
        found.append("no recovery partition: Windows keeps WinRE on its own volume, if it has it")
    elif roles.index(Role.RECOVERY) != windows_index + 1:
        found.append(
            "the recovery partition is not right behind Windows: Windows can't enlarge it "
            "when a later WinRE needs more room"
        )
    if layout.table == "gpt":
        if Role.MSR not in roles:
            found.append("no MSR partition: Windows wants one on each GPT disk")
        elif roles.index(Role.MSR) > windows_index:
            found.append("the MSR partition lies behind Windows, not before it")
    return tuple(found)


def _check_name(name: str) -> None:
    units = len(name.encode("utf-16-le", "surrogatepass")) // 2
    if units > NAME_UNITS_MAX:
        raise FormatError(f"name: {name!r} has {units} UTF-16 units, at most {NAME_UNITS_MAX} fit")
    if any(not char.isprintable() for char in name):
        raise FormatError(f"name: {name!r} holds a character that is not printable")


def _check_file_system(spec: PartitionSpec) -> None:
    allowed: dict[Role, tuple[FileSystem | None, ...]] = {
        Role.SYSTEM: ("fat32", "ntfs"),
        Role.MSR: (None,),
        Role.WINDOWS: ("ntfs",),
        Role.RECOVERY: ("ntfs",),
        Role.DATA: ("fat32", "ntfs", None),
    }
    if spec.file_system not in allowed[spec.role]:
        can_be = " or ".join(item or "none" for item in allowed[spec.role])
        raise FormatError(
            f"file_system: a {spec.role.value} partition has {can_be}, "
            f"not {spec.file_system or 'none'}"
        )
    _check_label(spec)
    cluster_size = spec.cluster_size
    if cluster_size is None:
        return
    if spec.file_system is None:
        raise FormatError("cluster_size: a partition without a file system has no clusters")
    is_power = cluster_size > 0 and cluster_size & (cluster_size - 1) == 0
    if not is_power or not CLUSTER_SIZE_MIN <= cluster_size <= CLUSTER_SIZE_MAX:
        raise FormatError(
            f"cluster_size: {cluster_size} is not a power of two from {CLUSTER_SIZE_MIN} "
            f"to {CLUSTER_SIZE_MAX}"
        )


def _check_label(spec: PartitionSpec) -> None:
    label = spec.volume_label
    if spec.file_system == "fat32":
        fits = not label or fat_label(label) == label
    elif spec.file_system == "ntfs":
        units = len(label.encode("utf-16-le", "surrogatepass")) // 2
        fits = units <= NTFS_LABEL_UNITS_MAX and all(char.isprintable() for char in label)
    else:
        fits = not label
    if not fits:
        what = spec.file_system.upper() if spec.file_system else "a partition without file system"
        raise FormatError(f"volume_label: {what} can't hold {label!r}")


def _check_counts(layout: DiskLayout) -> None:
    limit = GPT_PARTITIONS_MAX if layout.table == "gpt" else MBR_PARTITIONS_MAX
    if len(layout.partitions) > limit:
        raise FormatError(
            f"{len(layout.partitions)} partitions: "
            + (f"a GPT holds {limit}" if layout.table == "gpt" else "an MBR holds 4 primary ones")
        )
    counts = Counter(spec.role for spec in layout.partitions)
    for role in Role:
        least = 1 if role in {Role.SYSTEM, Role.WINDOWS} else 0
        most = limit if role is Role.DATA else 1
        if not least <= counts[role] <= most:
            wanted = "one" if least else "at most one"
            raise FormatError(
                f"expected {wanted} partition of the role {role.value}, got {counts[role]}"
            )
    rests = [number for number, spec in enumerate(layout.partitions, 1) if spec.size is None]
    if len(rests) > 1:
        raise FormatError(f"partitions {rests} all want the rest of the disk; one can have it")


def _check_for_table(table: Table, number: int, spec: PartitionSpec) -> None:
    who = f"partition {number} ({spec.role.value})"
    if table == "gpt":
        if spec.type_guid is None or spec.type_guid.int == 0:
            raise FormatError(f"{who}: type_guid: a GPT needs one that is not zero")
        if spec.type_code is not None or spec.is_active:
            raise FormatError(f"{who}: type_code and active are for an MBR, this is a GPT")
        if spec.role is Role.SYSTEM and spec.file_system != "fat32":
            raise FormatError(f"{who}: file_system: UEFI firmware reads fat32 only")
        return
    if spec.role is Role.MSR:
        raise FormatError(f"{who}: an MSR partition is for a GPT, this is an MBR")
    if spec.type_guid is not None or spec.attributes:
        raise FormatError(f"{who}: type_guid and attributes are for a GPT, this is an MBR")
    if spec.type_code is None or not 0 < spec.type_code <= 0xFF:
        raise FormatError(f"{who}: type_code: an MBR needs one from 0x01 to 0xff")
    if spec.type_code in {TYPE_EMPTY, TYPE_GPT_PROTECTIVE, *_EXTENDED_TYPES}:
        raise FormatError(
            f"{who}: type_code: {spec.type_code:#04x} is a container, not a partition"
        )


_EXTENDED_TYPES = frozenset({0x05, 0x0F, 0x85})


def _check_active(layout: DiskLayout) -> None:
    if layout.table != "mbr":
        return
    active = [spec.role for spec in layout.partitions if spec.is_active]
    if active != [Role.SYSTEM]:
        names = ", ".join(role.value for role in active) or "none"
        raise FormatError(f"active: BIOS starts the one active partition, system; it is {names}")
