# SPDX-License-Identifier: GPL-3.0-or-later
"""The one place that decides: from a request and a source to a plan."""

from __future__ import annotations

from dataclasses import dataclass

from mediamaker.errors import SourceError, UsageError
from mediamaker.extents import ExtentMap, check_sector_aligned
from mediamaker.formats.exfat import exfat_label
from mediamaker.formats.fat_names import fat_label
from mediamaker.formats.mbr import MBR_SIZE
from mediamaker.plan.codec import compute_plan_id
from mediamaker.plan.geometry import Geometry
from mediamaker.plan.identity import Identities
from mediamaker.plan.layouts import (
    Arrangement,
    Slot,
    arrange_gpt,
    arrange_mbr,
    arrange_mbr_two_volumes,
    arrange_raw,
    disk_size_for,
    partition_slot,
)
from mediamaker.plan.media import build_media
from mediamaker.plan.model import Plan, PlannedPartition
from mediamaker.plan.request import Layout, MediaRequest
from mediamaker.plan.two_volumes import (
    EXPERIMENTAL,
    build_two_media,
    build_whole_volume,
    partition_two_slots,
)
from mediamaker.sources.iso import IsoSource
from mediamaker.sources.kinds import Inspection
from mediamaker.units import MIB, align_up
from mediamaker.volumes.fat32 import (
    Fat32BootCode,
    Fat32Request,
    Fat32Volume,
    build_fat32,
    measure_fat32,
)

_DEFAULT_LABEL = "MEDIAMAKER"


@dataclass(frozen=True, slots=True)
class BootCode:
    """Our own boot programs, for disks with sectors of 512 bytes."""

    mbr: bytes
    fat32: Fat32BootCode


def choose_layout(inspection: Inspection, request: MediaRequest) -> Layout:
    """The layout asked for, or the one that suits the source.

    Raises:
        SourceError: nothing on the source boots.
        UsageError: a raw copy of what is no ISO.
    """
    if request.layout is Layout.RAW and inspection.iso is None:
        raise UsageError(
            f"{inspection.path} is a folder; only an ISO can be copied as it is",
            hint=f"leave out --layout {Layout.RAW.value}",
        )
    if request.layout is not None:
        return request.layout
    if inspection.layout is None:
        raise SourceError(
            f"{inspection.path} would not boot: {'; '.join(inspection.reasons)}",
            hint="give --layout to make a disk of it all the same",
        )
    return Layout(inspection.layout)


def measure_disk(
    inspection: Inspection, request: MediaRequest, identities: Identities, sector_size: int
) -> int:
    """The smallest disk for the request, in bytes, whole MiB: what ``--size auto`` means.

    Raises:
        SourceError, UsageError: as :func:`build_plan` does.
    """
    layout = choose_layout(inspection, request)
    if layout is Layout.RAW:
        return align_up(_iso(inspection).file.size, MIB)
    if layout is Layout.MBR_FAT32_EXFAT:
        two = build_two_media(inspection.tree, request, identities, sector_size)
        return disk_size_for(two.size_needed)
    media = build_media(inspection.tree, inspection.install_wims, request, identities)
    return disk_size_for(measure_fat32(media.tree, sector_size, request.cluster_size))


def build_plan(
    inspection: Inspection,
    request: MediaRequest,
    geometry: Geometry,
    identities: Identities,
    boot_code: BootCode,
) -> Plan:
    """Every byte of the disk. The same arguments give the same plan.

    Raises:
        SourceError: nothing on the source boots, or FAT32 can't hold something of it.
        TargetTooSmallError: the geometry is too small; says how much is needed.
        UsageError: options that don't go together.
    """
    layout = choose_layout(inspection, request)
    if layout is Layout.RAW:
        return _build_raw(inspection, geometry)
    if layout is Layout.MBR_FAT32_EXFAT:
        return _build_two_volumes(inspection, request, geometry, identities, boot_code)
    media = build_media(inspection.tree, inspection.install_wims, request, identities)
    sector_size = geometry.logical_sector_size
    needed = measure_fat32(media.tree, sector_size, request.cluster_size)
    slot = partition_slot(geometry, layout, volume_size_needed=needed)
    label = fat_label(request.volume_label or inspection.label) or _DEFAULT_LABEL
    is_bios = layout is Layout.MBR_FAT32 and sector_size == MBR_SIZE
    volume = build_fat32(
        Fat32Request(
            size=slot.size,
            sector_size=sector_size,
            hidden_sectors=slot.start // sector_size,
            volume_label=label,
            volume_serial=identities.volume_serial,
            tree=media.tree,
            cluster_size=request.cluster_size,
            boot_code=boot_code.fat32 if is_bios else None,
        )
    )
    if layout is Layout.MBR_FAT32:
        arrangement = arrange_mbr(geometry, identities, slot, volume.extents, boot_code.mbr)
    else:
        arrangement = arrange_gpt(geometry, identities, slot, volume.extents, label)
    return _finish(
        inspection,
        geometry,
        layout,
        arrangement,
        identities=_shown_identities(layout, identities),
        partitions=(_partition(layout, slot, volume, label),),
        notes=(*inspection.notes, *media.notes, *_label_notes(request, label)),
        warnings=(*inspection.warnings, *_warnings(inspection, layout, sector_size)),
        is_bios=is_bios,
    )


def _build_two_volumes(
    inspection: Inspection,
    request: MediaRequest,
    geometry: Geometry,
    identities: Identities,
    boot_code: BootCode,
) -> Plan:
    layout = Layout.MBR_FAT32_EXFAT
    sector_size = geometry.logical_sector_size
    media = build_two_media(inspection.tree, request, identities, sector_size)
    first, second = partition_two_slots(geometry, media)
    wanted_label = request.volume_label or inspection.label
    label = fat_label(wanted_label) or _DEFAULT_LABEL
    is_bios = sector_size == MBR_SIZE
    boot_volume = build_fat32(
        Fat32Request(
            size=first.size,
            sector_size=sector_size,
            hidden_sectors=first.start // sector_size,
            volume_label=label,
            volume_serial=identities.volume_serial,
            tree=media.boot_tree,
            boot_code=boot_code.fat32 if is_bios else None,
        )
    )
    whole_label = exfat_label(wanted_label) or _DEFAULT_LABEL
    whole_volume = build_whole_volume(
        media, second, request, identities, sector_size=sector_size, label=whole_label
    )
    arrangement = arrange_mbr_two_volumes(
        geometry,
        identities,
        (first, second),
        (boot_volume.extents, whole_volume.extents),
        boot_code.mbr,
    )
    whole_partition = PlannedPartition(
        number=2,
        type_name="exFAT (0x07)",
        start=second.start,
        size=second.size,
        is_active=False,
        file_system="exFAT",
        volume_label=whole_label,
        cluster_size=whole_volume.cluster_size,
        free_size=whole_volume.free_size,
    )
    return _finish(
        inspection,
        geometry,
        layout,
        arrangement,
        identities=_shown_identities(layout, identities),
        partitions=(_partition(layout, first, boot_volume, label), whole_partition),
        notes=(*inspection.notes, *media.notes, *_label_notes(request, label)),
        warnings=(
            EXPERIMENTAL,
            *inspection.warnings,
            *_warnings(inspection, layout, sector_size),
        ),
        is_bios=is_bios,
    )


def _build_raw(inspection: Inspection, geometry: Geometry) -> Plan:
    file = _iso(inspection).file
    warnings = list(inspection.warnings)
    if inspection.kind != "hybrid":
        warnings.append("this ISO is no hybrid: copied as it is, a disk of it may not boot")
    if geometry.logical_sector_size != MBR_SIZE:
        warnings.append(
            f"the ISO's partition table is for sectors of {MBR_SIZE} bytes, the disk's have "
            f"{geometry.logical_sector_size}: it may not boot"
        )
    return _finish(
        inspection,
        geometry,
        Layout.RAW,
        arrange_raw(geometry, file.source_id, file.size),
        identities={},
        partitions=(),
        notes=("the ISO goes as it is, byte for byte",),
        warnings=tuple(warnings),
        is_bios=True,
    )


def _finish(
    inspection: Inspection,
    geometry: Geometry,
    layout: Layout,
    arrangement: Arrangement,
    *,
    identities: dict[str, str],
    partitions: tuple[PlannedPartition, ...],
    notes: tuple[str, ...],
    warnings: tuple[str, ...],
    is_bios: bool,
) -> Plan:
    extents: ExtentMap = arrangement.extents
    check_sector_aligned(extents, geometry.logical_sector_size)
    sources = inspection.tree.files
    return Plan(
        plan_id=compute_plan_id(geometry, layout, extents, arrangement.commit, sources),
        geometry=geometry,
        layout=layout,
        extents=extents,
        commit=arrangement.commit,
        sources=sources,
        identities=identities,
        partitions=partitions,
        boots=tuple(
            path.serves for path in inspection.boot_paths if path.firmware != "bios" or is_bios
        ),
        notes=notes,
        warnings=warnings,
    )


def _partition(layout: Layout, slot: Slot, volume: Fat32Volume, label: str) -> PlannedPartition:
    is_mbr = layout is not Layout.GPT_FAT32
    return PlannedPartition(
        number=1,
        type_name="FAT32 LBA (0x0c)" if is_mbr else "basic data",
        start=slot.start,
        size=slot.size,
        is_active=is_mbr,
        file_system="FAT32",
        volume_label=label,
        cluster_size=volume.cluster_size,
        free_size=volume.free_size,
    )


def _shown_identities(layout: Layout, identities: Identities) -> dict[str, str]:
    """Those that the disk really carries."""
    is_gpt = layout is Layout.GPT_FAT32
    carried = {"disk_guid", "partition_guid"} if is_gpt else {"disk_signature"}
    carried.add("volume_serial")
    return {key: value for key, value in identities.to_json().items() if key in carried}


def _label_notes(request: MediaRequest, label: str) -> list[str]:
    if request.volume_label in {None, label}:
        return []
    return [f'the volume label "{request.volume_label}" becomes "{label}", which FAT can hold']


def _warnings(inspection: Inspection, layout: Layout, sector_size: int) -> list[str]:
    warnings = []
    has_bios = any(path.firmware == "bios" for path in inspection.boot_paths)
    if layout is Layout.GPT_FAT32 and has_bios and sector_size == MBR_SIZE:
        warnings.append("a GPT disk does not boot under BIOS; --layout mbr-fat32 boots under both")
    if layout is not Layout.GPT_FAT32 and sector_size != MBR_SIZE:
        warnings.append(
            f"no BIOS boot: the boot code is for sectors of {MBR_SIZE} bytes, "
            f"the disk's have {sector_size}"
        )
    if inspection.kind == "hybrid":
        warnings.append(
            "this hybrid ISO is unpacked instead of copied: what its loaders look for may be gone"
        )
    return warnings


def _iso(inspection: Inspection) -> IsoSource:
    if inspection.iso is None:
        raise UsageError(f"{inspection.path} is a folder; only an ISO can be copied as it is")
    return inspection.iso
