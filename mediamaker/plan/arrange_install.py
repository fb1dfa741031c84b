# SPDX-License-Identifier: GPL-3.0-or-later
"""The extents of a disk with several partitions, and what of it must be zeros.

::

    gpt                                mbr
    protective MBR, header, entries    MBR with boot code
    zeros to 1 MiB                     zeros to 1 MiB
    -- partitions, one behind the other --
    unwritten, if no partition has the rest, or where an MBR does not reach
    -- last MiB: zeros, and on a GPT its second copy --

No volume may show what an earlier life of the disk left under it. NTFS and FAT read nothing
that they have not written, so free clusters stay ``Unwritten``; but whoever probes a volume
(firmware, the kernel, udev, Windows) looks for signatures near its ends: superblocks of ext4,
XFS and btrfs (to 68 KiB), LVM and swap headers, ZFS labels (512 KiB at both ends), RAID members
(the last 64 KiB and more). So the first and the last MiB of every volume are written: what a
volume leaves unwritten there becomes zeros. An MSR partition, which nothing else would ever
write, is zeros as a whole, and so are both ends of a partition without a file system.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping

from mediamaker.errors import PlanError
from mediamaker.extents import Extent, ExtentMap, ExtentMapBuilder, Literal, Unwritten, Zeros
from mediamaker.formats.gpt import Gpt, GptBytes, GptPartition, pack_gpt
from mediamaker.formats.mbr import MBR_SIZE, Mbr, MbrPartition, pack_mbr, pack_protective_mbr
from mediamaker.plan.disk_layout import Role
from mediamaker.plan.geometry import PARTITION_ALIGNMENT
from mediamaker.plan.layouts import TABLE_SIZE
from mediamaker.plan.place_disk import PlacedDisk, PlacedPartition
from mediamaker.units import MIB, align_down, format_size

WIPE_SIZE = MIB
"""At both ends of every volume."""

Range = tuple[int, int]


def wipe_ranges(partition: PlacedPartition) -> tuple[Range, ...]:
    """Where, on the disk, nothing of an earlier life may stay; ascending, apart."""
    if partition.size <= 2 * WIPE_SIZE or partition.role is Role.MSR:
        return ((partition.start, partition.end),)
    return (
        (partition.start, partition.start + WIPE_SIZE),
        (partition.end - WIPE_SIZE, partition.end),
    )


def arrange_partitions(
    placed: PlacedDisk, volumes: Mapping[int, ExtentMap | None], mbr_code: bytes
) -> tuple[ExtentMap, tuple[Range, ...]]:
    """The extents of the whole disk, and the ranges that are written last.

    Raises:
        PlanError: a volume is missing, too large, or may not be None.
    """
    _check_volumes(placed, volumes)
    size, sector_size = placed.geometry.size, placed.geometry.logical_sector_size
    gpt = _pack_gpt(placed) if placed.layout.table == "gpt" else None
    builder = ExtentMapBuilder()
    if gpt is None:
        mbr = _pack_mbr(placed, mbr_code).ljust(sector_size, b"\0")
        builder.add("MBR", sector_size, Literal(mbr))
    else:
        protective = pack_protective_mbr(placed.geometry.sectors).ljust(sector_size, b"\0")
        builder.add("protective MBR", sector_size, Literal(protective))
        builder.add("GPT header", sector_size, Literal(gpt.primary_header))
        builder.add("GPT entries", len(gpt.entry_array), Literal(gpt.entry_array))
    builder.pad_to(TABLE_SIZE, "zeros before partition 1", Zeros())
    for partition in placed.partitions:
        for extent in _iter_partition(partition, volumes.get(partition.number)):
            builder.append(extent)
    tail_start = align_down(size - TABLE_SIZE, PARTITION_ALIGNMENT)
    builder.pad_to(tail_start, "no partition", Unwritten())
    if gpt is None:
        builder.pad_to(size, "zeros at the end", Zeros())
    else:
        builder.pad_to(gpt.backup_array_lba * sector_size, "zeros at the end", Zeros())
        builder.add("GPT backup entries", len(gpt.entry_array), Literal(gpt.entry_array))
        builder.add("GPT backup header", sector_size, Literal(gpt.backup_header))
    return builder.build(), ((0, TABLE_SIZE), (tail_start, size))


def _check_volumes(placed: PlacedDisk, volumes: Mapping[int, ExtentMap | None]) -> None:
    for number in volumes:
        if not 1 <= number <= len(placed.partitions):
            raise PlanError(f"a volume for partition {number}, but there is no such partition")
    for partition in placed.partitions:
        who = f"partition {partition.number} ({partition.role.value})"
        volume = volumes.get(partition.number)
        if partition.spec.file_system is None:
            if volume is not None:
                raise PlanError(f"{who} has no file system, but a volume is given")
        elif volume is None:
            is_given = partition.number in volumes
            if partition.role is not Role.WINDOWS or not is_given:
                raise PlanError(f"{who} has no volume; only that of Windows may be a step's")
        elif volume.start != 0 or volume.end > partition.size:
            raise PlanError(
                f"{who}: its volume is [{volume.start:#x},{volume.end:#x}), "
                f"the partition holds {partition.size} bytes ({format_size(partition.size)})"
            )


def _iter_partition(partition: PlacedPartition, volume: ExtentMap | None) -> Iterator[Extent]:
    number, start, end = partition.number, partition.start, partition.end
    wiped = wipe_ranges(partition)
    if volume is None and partition.spec.file_system is not None:
        yield Extent(start, end - start, f"partition {number}, filled by a step", Unwritten())
        return
    position = start
    for extent in volume or ():
        moved = extent.shifted(start)
        position = moved.end
        if isinstance(moved.source, Unwritten):
            yield from _seal(moved, wiped, number)
        else:
            yield moved
    if position < end:
        rest = Extent(position, end - position, f"rest of partition {number}", Unwritten())
        yield from _seal(rest, wiped, number)


def _seal(extent: Extent, wiped: tuple[Range, ...], number: int) -> Iterator[Extent]:
    """``extent``, which is not written, with zeros where ``wiped`` says so."""
    position = extent.start
    for low, high in wiped:
        start, end = max(low, position), min(high, extent.end)
        if start >= end:
            continue
        if position < start:
            yield Extent(position, start - position, extent.name, Unwritten())
        yield Extent(start, end - start, f"zeros in partition {number}", Zeros())
        position = end
    if position < extent.end:
        yield Extent(position, extent.end - position, extent.name, Unwritten())


def _pack_gpt(placed: PlacedDisk) -> GptBytes:
    sector_size = placed.geometry.logical_sector_size
    partitions = []
    for partition in placed.partitions:
        spec = partition.spec
        if spec.type_guid is None or partition.unique_guid is None:
            raise PlanError(f"partition {partition.number} has no GUIDs, but lies on a GPT")
        partitions.append(
            GptPartition(
                type_guid=spec.type_guid,
                unique_guid=partition.unique_guid,
                first_lba=partition.start // sector_size,
                last_lba=partition.end // sector_size - 1,
                partition_name=spec.name,
                attributes=spec.attributes,
            )
        )
    gpt = Gpt(placed.disk_guid, tuple(partitions))
    return pack_gpt(gpt, disk_sectors=placed.geometry.sectors, sector_size=sector_size)


def _pack_mbr(placed: PlacedDisk, mbr_code: bytes) -> bytes:
    sector_size = placed.geometry.logical_sector_size
    return pack_mbr(
        Mbr(
            disk_signature=placed.disk_signature,
            partitions=tuple(
                MbrPartition(
                    type_code=partition.spec.type_code or 0,
                    start_lba=partition.start // sector_size,
                    sectors=partition.size // sector_size,
                    is_active=partition.spec.is_active,
                )
                for partition in placed.partitions
            ),
            # The code is for sectors of 512 bytes.
            boot_code=mbr_code if sector_size == MBR_SIZE else b"",
        )
    )
