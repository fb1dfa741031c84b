# SPDX-License-Identifier: GPL-3.0-or-later
"""What the plan of an install tells people: identities, partitions, notes, warnings."""

from __future__ import annotations

from collections.abc import Mapping

from mediamaker.extents import ExtentMap, Unwritten
from mediamaker.formats.gpt import TYPE_BASIC_DATA, TYPE_ESP
from mediamaker.formats.mbr import MBR_SIZE, TYPE_FAT32_LBA
from mediamaker.plan.disk_layout import PartitionSpec, find_oddities
from mediamaker.plan.geometry import PARTITION_ALIGNMENT
from mediamaker.plan.layout_defaults import (
    TYPE_CODE_NTFS,
    TYPE_CODE_RECOVERY,
    TYPE_MSR,
    TYPE_RECOVERY,
)
from mediamaker.plan.layouts import TABLE_SIZE
from mediamaker.plan.model import PlannedPartition
from mediamaker.plan.place_disk import PlacedDisk, PlacedPartition
from mediamaker.units import align_down, format_size

WINDOWS_SIZE_DOCUMENTED = 20 * 10**9
"""What Microsoft asks for a 64-bit Windows at least; smaller ones do boot."""

_TYPE_NAMES = {
    TYPE_ESP: "EFI system",
    TYPE_MSR: "Microsoft reserved",
    TYPE_BASIC_DATA: "basic data",
    TYPE_RECOVERY: "Windows recovery",
}
_CODE_NAMES = {
    TYPE_CODE_NTFS: "NTFS",
    TYPE_CODE_RECOVERY: "Windows recovery",
    TYPE_FAT32_LBA: "FAT32 LBA",
}


def type_name(spec: PartitionSpec) -> str:
    """The partition's type as people say it."""
    if spec.type_guid is not None:
        return _TYPE_NAMES.get(spec.type_guid, str(spec.type_guid))
    code = spec.type_code or 0
    return f"{_CODE_NAMES.get(code, 'type')} ({code:#04x})"


def file_system_name(spec: PartitionSpec) -> str:
    """The file system as people write it."""
    return {"fat32": "FAT32", "ntfs": "NTFS", None: "none"}[spec.file_system]


def format_volume_serial(partition: PlacedPartition) -> str:
    """As Windows shows it: 16 digits for NTFS, two groups of four for FAT."""
    serial = partition.volume_serial
    if partition.spec.file_system == "ntfs":
        return f"{serial:016X}"
    return f"{serial >> 16:04X}-{serial & 0xFFFF:04X}"


def describe_identities(placed: PlacedDisk) -> dict[str, str]:
    """Those that the disk will carry."""
    identities = {}
    if placed.layout.table == "gpt":
        identities["disk_guid"] = str(placed.disk_guid)
    else:
        identities["disk_signature"] = f"{placed.disk_signature:08x}"
    for partition in placed.partitions:
        if partition.unique_guid is not None:
            identities[f"partition_{partition.number}"] = str(partition.unique_guid)
        if partition.spec.file_system is not None:
            identities[f"volume_{partition.number}"] = format_volume_serial(partition)
    return identities


def describe_partitions(
    placed: PlacedDisk, volumes: Mapping[int, ExtentMap | None]
) -> tuple[PlannedPartition, ...]:
    """One each; a cluster size of 0 is: as the file system's maker has it."""
    return tuple(
        PlannedPartition(
            number=partition.number,
            type_name=type_name(partition.spec),
            start=partition.start,
            size=partition.size,
            is_active=partition.spec.is_active,
            file_system=file_system_name(partition.spec),
            volume_label=partition.spec.volume_label,
            cluster_size=partition.spec.cluster_size or 0,
            free_size=sum(
                extent.size
                for extent in volumes.get(partition.number) or ()
                if isinstance(extent.source, Unwritten)
            ),
        )
        for partition in placed.partitions
    )


def describe_boots(placed: PlacedDisk, *, has_mbr_code: bool) -> tuple[str, ...]:
    """The firmware that finds something to start on such a disk."""
    if placed.layout.table == "gpt":
        return ("UEFI",)
    boots = []
    if has_mbr_code and placed.geometry.logical_sector_size == MBR_SIZE:
        boots.append("BIOS")
    if placed.system.spec.file_system == "fat32":
        boots.append("UEFI")
    return tuple(boots)


def describe_notes(placed: PlacedDisk, volumes: Mapping[int, ExtentMap | None]) -> tuple[str, ...]:
    """What was decided."""
    notes = [f"layout {placed.layout.name}: {placed.layout.summary}".rstrip(": ")]
    for partition in placed.partitions:
        who = f"partition {partition.number} ({partition.role.value})"
        wanted = partition.spec.size
        if wanted is not None and partition.size > wanted:
            notes.append(
                f"{who} gets {format_size(partition.size)}, not the layout's "
                f"{format_size(wanted)}: what goes into it, or its file system, needs more"
            )
        if partition.number in volumes and volumes[partition.number] is None:
            notes.append(f"{who} is made and filled by a step of its own, before the tables")
    return tuple(notes)


def describe_warnings(placed: PlacedDisk) -> tuple[str, ...]:
    """What the person should know before anything is written."""
    warnings = []
    if placed.layout.table == "mbr":
        if placed.geometry.logical_sector_size != MBR_SIZE:
            warnings.append(
                f"no BIOS boot: the boot code is for sectors of {MBR_SIZE} bytes, "
                f"the disk's have {placed.geometry.logical_sector_size}"
            )
        warnings += _unreached(placed)
    windows_size = placed.windows.size
    if windows_size < WINDOWS_SIZE_DOCUMENTED:
        warnings.append(
            f"the Windows partition has {format_size(windows_size)}; Microsoft asks for "
            f"{format_size(WINDOWS_SIZE_DOCUMENTED)} at least"
        )
    is_togo = placed.layout.table == "mbr" and placed.system.spec.file_system == "fat32"
    if not is_togo:
        warnings += find_oddities(placed.layout)
    return tuple(warnings)


def _unreached(placed: PlacedDisk) -> list[str]:
    """The end of a disk that 32-bit LBAs do not reach."""
    has_rest = any(partition.spec.size is None for partition in placed.partitions)
    end = align_down(placed.geometry.size - TABLE_SIZE, PARTITION_ALIGNMENT)
    left_size = end - placed.partitions[-1].end
    if not has_rest or left_size <= 0:
        return []
    return [f"an MBR does not reach the last {format_size(left_size)} of this disk"]
