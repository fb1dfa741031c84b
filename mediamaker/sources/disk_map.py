# SPDX-License-Identifier: GPL-3.0-or-later
"""Names for every byte of a disk that has one: through a plan's extents, or its file systems.

Layers: a name of the innermost thing wins. ``boot/grub/efi.img`` of a hybrid ISO is a FAT volume
at the same time, and what is read there is a file of that volume.
"""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from mediamaker.errors import FormatError
from mediamaker.sources.disk_table import DiskPartition, DiskTable, read_disk_table
from mediamaker.sources.exfat_map import is_exfat, map_exfat
from mediamaker.sources.fat_map import is_fat, map_fat
from mediamaker.sources.file_map import Kind, MappedFile, PRead, VolumeMap
from mediamaker.sources.iso_map import is_iso9660, map_iso9660
from mediamaker.sources.ntfs_map import is_ntfs, map_ntfs

_HEAD_SIZE = 512


@dataclass(frozen=True, slots=True)
class MappedVolume:
    """A volume of the disk; partition 0 is the disk itself."""

    partition: DiskPartition
    files: VolumeMap

    @property
    def number(self) -> int:
        """Of its partition."""
        return self.partition.number


@dataclass(frozen=True, slots=True)
class NamedPart:
    """``[start, end)`` of the disk is in ``item``; without one, nobody knows what it is."""

    start: int
    end: int
    volume: MappedVolume | None
    item: MappedFile | None


@dataclass(frozen=True, slots=True)
class _Region:
    start: int
    end: int
    volume: MappedVolume
    item: MappedFile


class DiskMap:
    """``volumes`` are innermost first, ``unread`` are partitions without a known file system."""

    def __init__(
        self,
        table: DiskTable,
        volumes: Sequence[MappedVolume],
        *,
        unread: Sequence[DiskPartition] = (),
        problems: Sequence[str] = (),
    ) -> None:
        self.table = table
        self.volumes = tuple(volumes)
        self.unread = tuple(unread)
        self.problems = tuple(problems)
        self._layers = [_regions(volume) for volume in volumes]
        self._starts = [[region.start for region in layer] for layer in self._layers]

    def locate(self, start: int, end: int) -> Iterator[NamedPart]:
        """Names for ``[start, end)``, ascending and without gaps."""
        yield from self._locate(start, end, 0)

    def _locate(self, start: int, end: int, index: int) -> Iterator[NamedPart]:
        if index == len(self._layers):
            yield NamedPart(start, end, None, None)
            return
        layer = self._layers[index]
        position = start
        at = max(0, bisect_right(self._starts[index], start) - 1)
        while at < len(layer) and layer[at].start < end:
            region = layer[at]
            low, high = max(region.start, position), min(region.end, end)
            if low < high:
                if position < low:
                    yield from self._locate(position, low, index + 1)
                yield NamedPart(low, high, region.volume, region.item)
                position = high
            at += 1
        if position < end:
            yield from self._locate(position, end, index + 1)


def map_disk(pread: PRead, disk_size: int, what: str, *, sector_size: int = 512) -> DiskMap:
    """The map of the disk that ``pread`` reads; damaged volumes become problems."""
    table = read_disk_table(pread, disk_size, sector_size=sector_size)
    volumes: list[MappedVolume] = []
    unread: list[DiskPartition] = []
    problems: list[str] = []
    whole = DiskPartition(number=0, start=0, size=disk_size)
    seen: set[int] = set()
    for partition in table.partitions:
        if partition.start in seen or partition.size < _HEAD_SIZE:
            continue
        seen.add(partition.start)
        volume = _map_volume(pread, partition, f"{what}, partition {partition.number}", problems)
        if volume is not None:
            volumes.append(volume)
        elif not _covers_start(partition):
            unread.append(partition)
    if 0 not in seen and not volumes and disk_size >= _HEAD_SIZE:
        volume = _map_volume(pread, whole, what, problems)
        if volume is not None:
            volumes.append(volume)
    if is_iso9660(pread, disk_size):
        try:
            volumes.append(MappedVolume(whole, map_iso9660(_clipped(pread, whole), what)))
        except FormatError as error:
            problems.append(error.message)
    volumes.append(MappedVolume(whole, table_map(table)))
    for volume in volumes:
        problems += volume.files.problems
    return DiskMap(table, volumes, unread=unread, problems=problems)


def table_map(table: DiskTable) -> VolumeMap:
    """The partition table as structures of the disk."""
    items = tuple(
        MappedFile(name, Kind.STRUCTURE, size, ((start, size),))
        for name, start, size in table.structures
    )
    return VolumeMap("", items)


def volume_pread(pread: PRead, volume: MappedVolume) -> PRead:
    """The bytes of the volume, from those of the disk."""
    return _clipped(pread, volume.partition)


def _covers_start(partition: DiskPartition) -> bool:
    """As the partitions of hybrid ISOs do that make the whole image one."""
    return partition.start < _HEAD_SIZE


def _map_volume(
    pread: PRead, partition: DiskPartition, what: str, problems: list[str]
) -> MappedVolume | None:
    of_volume = _clipped(pread, partition)
    head = of_volume(0, _HEAD_SIZE)
    try:
        if is_ntfs(head):
            return MappedVolume(partition, map_ntfs(of_volume, what))
        if is_exfat(head):
            return MappedVolume(partition, map_exfat(of_volume, what))
        if is_fat(head):
            return MappedVolume(partition, map_fat(of_volume, what))
    except FormatError as error:
        problems.append(error.message)
    return None


def _clipped(pread: PRead, partition: DiskPartition) -> PRead:
    """Reads inside of the partition; of what damaged structures want beyond, nothing comes."""

    def read(offset: int, size: int) -> bytes:
        inside = max(0, min(size, partition.size - offset))
        return pread(partition.start + offset, inside) if inside else b""

    return read


def _regions(volume: MappedVolume) -> list[_Region]:
    """Ascending and disjoint: of what overlaps, the first in order keeps its place."""
    base, limit = volume.partition.start, volume.partition.start + volume.partition.size
    found = [
        _Region(base + start, min(base + start + size, limit), volume, item)
        for item in volume.files.items
        for start, size in item.pieces
        if size > 0 and base + start < limit
    ]
    found.sort(key=lambda region: (region.start, region.end))
    disjoint: list[_Region] = []
    position = -1
    for region in found:
        start = max(region.start, position)
        if start < region.end:
            disjoint.append(_Region(start, region.end, volume, region.item))
            position = region.end
    return disjoint
