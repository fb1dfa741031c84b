# SPDX-License-Identifier: GPL-3.0-or-later
"""Names for the bytes of a plan's disk: its extents have them already.

What the plan takes as a whole (a hybrid ISO, a prepared volume) is looked into by the readers of
file systems, through the disk that the plan makes.
"""

from __future__ import annotations

from collections.abc import Iterator

from mediamaker.extents import Extent, FileRange, Unwritten
from mediamaker.plan.model import Plan, PlannedPartition
from mediamaker.sources.disk_map import DiskMap, MappedVolume, map_disk, table_map
from mediamaker.sources.disk_table import DiskPartition, read_disk_table
from mediamaker.sources.file_map import Kind, MappedFile, PRead, VolumeMap

_DIRECTORY = "directory "
_NAMELESS = ("padding of ", "free ", "zeros ")


def map_plan(plan: Plan, pread: PRead) -> DiskMap:
    """The map of the plan's disk, which ``pread`` reads."""
    size, sector_size = plan.geometry.size, plan.geometry.logical_sector_size
    table = read_disk_table(pread, size, sector_size=sector_size)
    by_start = {partition.start: partition for partition in table.partitions}
    volumes: list[MappedVolume] = []
    has_opaque = not plan.partitions
    for planned in plan.partitions:
        extents = [item.shifted(-planned.start) for item in _extents(plan, planned)]
        if any(isinstance(e.source, FileRange) and not e.name.startswith("\\") for e in extents):
            has_opaque = True
            continue
        partition = by_start.get(planned.start) or DiskPartition(
            number=planned.number, start=planned.start, size=planned.size
        )
        items = tuple(_items(extents))
        volumes.append(MappedVolume(partition, VolumeMap(planned.file_system, items)))
    if not has_opaque:
        whole = DiskPartition(number=0, start=0, size=size)
        return DiskMap(table, [*volumes, MappedVolume(whole, table_map(table))])
    known = {volume.partition.start for volume in volumes}
    inside = map_disk(pread, size, "the planned disk", sector_size=sector_size)
    volumes += [
        volume
        for volume in inside.volumes
        if volume.number == 0 or volume.partition.start not in known
    ]
    return DiskMap(inside.table, volumes, unread=inside.unread, problems=inside.problems)


def _extents(plan: Plan, planned: PlannedPartition) -> Iterator[Extent]:
    return plan.extents.within(planned.start, planned.end)


def _items(extents: list[Extent]) -> Iterator[MappedFile]:
    """Extents of one name are one file, in the order in which they lie."""
    pieces: dict[str, list[tuple[int, int]]] = {}
    for extent in extents:
        if not isinstance(extent.source, Unwritten) and not extent.name.startswith(_NAMELESS):
            pieces.setdefault(extent.name, []).append((extent.start, extent.size))
    for name, found in pieces.items():
        size = sum(piece_size for _, piece_size in found)
        if name.startswith("\\"):
            yield MappedFile(name, Kind.FILE, size, tuple(found))
        elif name.startswith(_DIRECTORY):
            yield MappedFile(name.removeprefix(_DIRECTORY), Kind.DIRECTORY, size, tuple(found))
        else:
            yield MappedFile(name, Kind.STRUCTURE, size, tuple(found))
