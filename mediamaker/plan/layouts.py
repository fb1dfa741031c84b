# SPDX-License-Identifier: GPL-3.0-or-later
"""Where things lie on a disk: partition tables around one volume, or a raw copy.

``mbr-fat32``            ``gpt-fat32``             ``raw``

    MBR                      protective MBR            the ISO, from byte 0
    zeros                    GPT header, entries       zeros to its MiB's end
    -- 1 MiB --              zeros                     unwritten
    FAT32 partition          -- 1 MiB --               zeros: the last MiB
    -- last MiB --           FAT32 partition
    zeros                    zeros, GPT entries,
                             GPT header

``mbr-fat32-exfat`` is as ``mbr-fat32``, with an exFAT partition right behind the first one.

The zeros before and behind the partition are written: they cover what an earlier life of the
disk left there (GPT backups, superblocks and RAID members at either end).
"""

from __future__ import annotations

from dataclasses import dataclass

from mediamaker.errors import FormatError, TargetTooSmallError
from mediamaker.extents import Extent, ExtentMap, ExtentMapBuilder, FileRange, Literal, Unwritten
from mediamaker.extents import Zeros as Zero
from mediamaker.formats.gpt import TYPE_BASIC_DATA, Gpt, GptPartition, pack_gpt
from mediamaker.formats.mbr import (
    LBA_MAX,
    MBR_SIZE,
    TYPE_EXFAT,
    TYPE_FAT32_LBA,
    Mbr,
    MbrPartition,
    pack_mbr,
    pack_protective_mbr,
)
from mediamaker.plan.geometry import PARTITION_ALIGNMENT, Geometry
from mediamaker.plan.identity import Identities
from mediamaker.plan.request import Layout
from mediamaker.units import MIB, align_down, align_up, format_size

TABLE_SIZE = MIB
"""Kept for tables at either end; the backup GPT and old metadata of most RAIDs fit."""
_RAW_COMMIT_SIZE = MIB
"""Of a hybrid ISO: the MBR, a GPT, the volume descriptors (32 KiB) and UDF's anchor (512 KiB)."""


@dataclass(frozen=True, slots=True)
class Slot:
    """The byte range ``[start, end)`` of the disk that a partition takes."""

    start: int
    end: int

    @property
    def size(self) -> int:
        """Bytes."""
        return self.end - self.start


@dataclass(frozen=True, slots=True)
class Arrangement:
    """A whole disk: its extents, and the ranges that are written last."""

    extents: ExtentMap
    commit: tuple[tuple[int, int], ...]


def disk_size_for(volume_size: int) -> int:
    """The smallest disk, in whole MiB, that leaves ``volume_size`` bytes to the partition."""
    return TABLE_SIZE + align_up(volume_size, PARTITION_ALIGNMENT) + TABLE_SIZE


def partition_slot(geometry: Geometry, layout: Layout, *, volume_size_needed: int) -> Slot:
    """The range that partitions get: all of the disk, as far as 32-bit LBAs reach.

    Raises:
        TargetTooSmallError: ``volume_size_needed`` bytes don't fit; says how much does.
    """
    end = align_down(geometry.size - TABLE_SIZE, PARTITION_ALIGNMENT)
    if layout is not Layout.RAW:
        # FAT32 counts sectors in 32 bits, an MBR its partitions' starts and sizes as well.
        reach = align_down(LBA_MAX * geometry.logical_sector_size, PARTITION_ALIGNMENT)
        end = min(end, reach)
    slot = Slot(TABLE_SIZE, end)
    if slot.size < volume_size_needed:
        needed = disk_size_for(volume_size_needed)
        raise TargetTooSmallError(
            f"the target has {format_size(geometry.size)} ({geometry.size} bytes), "
            f"this needs {format_size(needed)} ({needed} bytes)",
            needed_size=needed,
            available_size=geometry.size,
            hint="take a larger target, or --size auto for an image file",
        )
    return slot


def arrange_mbr(
    geometry: Geometry, identities: Identities, slot: Slot, volume: ExtentMap, mbr_code: bytes
) -> Arrangement:
    """An MBR with one active FAT32 partition. Boot code needs sectors of 512 bytes."""
    return _arrange_mbr(geometry, identities, ((TYPE_FAT32_LBA, slot, volume),), mbr_code)


def arrange_mbr_two_volumes(
    geometry: Geometry,
    identities: Identities,
    slots: tuple[Slot, Slot],
    volumes: tuple[ExtentMap, ExtentMap],
    mbr_code: bytes,
) -> Arrangement:
    """An MBR with an active FAT32 partition and an exFAT one right behind it."""
    types = (TYPE_FAT32_LBA, TYPE_EXFAT)
    partitions = tuple(zip(types, slots, volumes, strict=True))
    return _arrange_mbr(geometry, identities, partitions, mbr_code)


def _arrange_mbr(
    geometry: Geometry,
    identities: Identities,
    partitions: tuple[tuple[int, Slot, ExtentMap], ...],
    mbr_code: bytes,
) -> Arrangement:
    sector_size = geometry.logical_sector_size
    mbr = pack_mbr(
        Mbr(
            disk_signature=identities.disk_signature,
            partitions=tuple(
                MbrPartition(
                    type_code,
                    slot.start // sector_size,
                    slot.size // sector_size,
                    is_active=index == 0,
                )
                for index, (type_code, slot, _) in enumerate(partitions)
            ),
            boot_code=mbr_code if sector_size == MBR_SIZE else b"",
        )
    )
    builder = ExtentMapBuilder()
    _add_sector(builder, "MBR", mbr, sector_size)
    first_start = partitions[0][1].start
    for number, (_, slot, volume) in enumerate(partitions, start=1):
        builder.pad_to(slot.start, f"zeros before partition {number}", Zero())
        _add_volume(builder, volume)
    tail_start = align_down(geometry.size - TABLE_SIZE, PARTITION_ALIGNMENT)
    builder.pad_to(tail_start, "beyond what an MBR reaches", Unwritten())
    builder.pad_to(geometry.size, "zeros at the end", Zero())
    return Arrangement(builder.build(), ((0, first_start), (tail_start, geometry.size)))


def arrange_gpt(
    geometry: Geometry, identities: Identities, slot: Slot, volume: ExtentMap, partition_name: str
) -> Arrangement:
    """A GPT with one partition of basic data.

    Not of ESP type, as one may expect: Windows PE gives an ESP no drive letter, and Setup then
    can't find its own media; firmware boots a removable disk's FAT volume of either type.
    """
    sector_size = geometry.logical_sector_size
    gpt = Gpt(
        identities.disk_guid,
        (
            GptPartition(
                type_guid=TYPE_BASIC_DATA,
                unique_guid=identities.partition_guid,
                first_lba=slot.start // sector_size,
                last_lba=slot.end // sector_size - 1,
                partition_name=partition_name,
            ),
        ),
    )
    packed = pack_gpt(gpt, disk_sectors=geometry.sectors, sector_size=sector_size)
    builder = ExtentMapBuilder()
    _add_sector(builder, "protective MBR", pack_protective_mbr(geometry.sectors), sector_size)
    builder.add("GPT header", sector_size, Literal(packed.primary_header))
    builder.add("GPT entries", len(packed.entry_array), Literal(packed.entry_array))
    builder.pad_to(slot.start, "zeros before partition 1", Zero())
    _add_volume(builder, volume)
    tail_start = align_down(geometry.size - TABLE_SIZE, PARTITION_ALIGNMENT)
    builder.pad_to(tail_start, "beyond what FAT32 reaches", Unwritten())
    builder.pad_to(packed.backup_array_lba * sector_size, "zeros at the end", Zero())
    builder.add("GPT backup entries", len(packed.entry_array), Literal(packed.entry_array))
    builder.add("GPT backup header", sector_size, Literal(packed.backup_header))
    return Arrangement(builder.build(), ((0, slot.start), (tail_start, geometry.size)))


def arrange_raw(geometry: Geometry, source_id: str, source_size: int) -> Arrangement:
    """A copy of one source file from byte 0 on; the rest of the disk stays, but for its end.

    Raises:
        TargetTooSmallError: the source is larger than the disk.
    """
    if source_size > geometry.size:
        needed = align_up(source_size, MIB)
        raise TargetTooSmallError(
            f"the target has {format_size(geometry.size)} ({geometry.size} bytes), "
            f"this needs {format_size(source_size)} ({source_size} bytes)",
            needed_size=needed,
            available_size=geometry.size,
            hint="take a larger target, or --size auto for an image file",
        )
    if source_size == 0:
        raise FormatError("the source is empty")
    builder = ExtentMapBuilder()
    head_end = min(_RAW_COMMIT_SIZE, geometry.size)
    copied_head = min(source_size, head_end)
    builder.add("head of the ISO", copied_head, FileRange(source_id, 0))
    if source_size > copied_head:
        rest = source_size - copied_head
        builder.add("rest of the ISO", rest, FileRange(source_id, copied_head))
    content_end = min(align_up(source_size, MIB), geometry.size)
    builder.pad_to(content_end, "zeros behind the ISO", Zero())
    tail_start = max(content_end, align_down(geometry.size - TABLE_SIZE, MIB))
    builder.pad_to(tail_start, "unused", Unwritten())
    builder.pad_to(geometry.size, "zeros at the end", Zero())
    commit = [(0, head_end)]
    if tail_start < geometry.size:
        commit.append((tail_start, geometry.size))
    return Arrangement(builder.build(), tuple(commit))


def _add_sector(builder: ExtentMapBuilder, name: str, data: bytes, sector_size: int) -> None:
    builder.add(name, sector_size, Literal(data.ljust(sector_size, b"\0")))


def _add_volume(builder: ExtentMapBuilder, volume: ExtentMap) -> None:
    offset = builder.position
    for index, extent in enumerate(volume):
        alignment = PARTITION_ALIGNMENT if index == 0 else 1
        moved: Extent = extent.shifted(offset)
        builder.append(moved, alignment=alignment)
