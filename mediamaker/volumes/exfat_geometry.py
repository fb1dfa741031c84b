# SPDX-License-Identifier: GPL-3.0-or-later
"""Where the parts of an exFAT volume lie: boot regions, FAT, cluster heap.

References:
- Microsoft, "exFAT file system specification", 2 "Volume Structure", 3.1.5 to 3.1.9.
- Microsoft, "Default cluster size for NTFS, FAT, and exFAT" (KB 140365).

::

    0      12      24       fat_offset        heap_offset (aligned)                          size
    | boot | backup | zeros | FAT | zeros     | cluster 2 | 3 | 4 | ...  | rest < 1 cluster |
"""

from __future__ import annotations

from dataclasses import dataclass

from mediamaker.errors import PlanError, UsageError
from mediamaker.formats.exfat import (
    CLUSTER_COUNT_MAX,
    CLUSTER_SIZE_MAX,
    FAT_ENTRY_SIZE,
    FAT_SECTOR_NUMBER_MIN,
    FIRST_CLUSTER,
    SECTOR_SIZES,
)
from mediamaker.units import GIB, KIB, MIB, align_down, align_up
from mediamaker.volumes.fat_search import choose_fat_size

FAT_ALIGNMENT = 64 * KIB
HEAP_ALIGNMENT_MAX = 1 * GIB
_DEFAULT_CLUSTER_SIZES = ((32 * GIB, 128 * KIB), (256 * MIB, 32 * KIB), (0, 4 * KIB))
"""Volumes bigger than this many bytes get clusters of so many bytes."""


@dataclass(frozen=True, slots=True)
class ExfatGeometry:
    """The numbers of one volume; offsets are bytes from the start of the volume."""

    sector_size: int
    cluster_size: int
    fat_offset: int
    fat_sectors: int
    heap_offset: int
    cluster_count: int
    volume_sectors: int

    @property
    def heap_end(self) -> int:
        """One past the last whole cluster."""
        return self.heap_offset + self.cluster_count * self.cluster_size

    @property
    def bitmap_size(self) -> int:
        """Bytes of the allocation bitmap."""
        return -(-self.cluster_count // 8)

    def find_cluster_offset(self, cluster_number: int) -> int:
        """Where ``cluster_number`` (the first is 2) begins."""
        return self.heap_offset + (cluster_number - FIRST_CLUSTER) * self.cluster_size


def check_sizes(sector_size: int, cluster_size: int | None, heap_alignment: int) -> None:
    """Refuse sizes that no exFAT volume has.

    Raises:
        UsageError: the cluster size.
        PlanError: the sector size or the alignment.
    """
    if sector_size not in SECTOR_SIZES:
        raise PlanError(f"sector size {sector_size}: exFAT has only {SECTOR_SIZES}")
    if (
        not sector_size <= heap_alignment <= HEAP_ALIGNMENT_MAX
        or heap_alignment & (heap_alignment - 1)
    ):  # fmt: skip
        raise PlanError(
            f"heap alignment {heap_alignment}: expected a power of two from the sector size "
            f"{sector_size} to {HEAP_ALIGNMENT_MAX}"
        )
    legal = _list_cluster_sizes(sector_size)
    if cluster_size is not None and cluster_size not in legal:
        raise UsageError(
            f"exFAT with {sector_size}-byte sectors can't have clusters of {cluster_size} bytes",
            hint=f"choose one of {', '.join(map(str, legal))}",
        )


def list_candidates(size: int, sector_size: int, cluster_size: int | None) -> tuple[int, ...]:
    """The cluster sizes to try for a volume of ``size`` bytes, the best first.

    That is the one asked for; else what Windows would take, then smaller ones, for trees of
    many small files that would not fit otherwise.
    """
    if cluster_size is not None:
        return (cluster_size,)
    sizes = _list_cluster_sizes(sector_size)
    return tuple(c for c in reversed(sizes) if measure_default_floor(c) <= size)


def measure_default_floor(cluster_size: int) -> int:
    """The smallest volume size for which ``list_candidates`` has ``cluster_size``."""
    for threshold, size in reversed(_DEFAULT_CLUSTER_SIZES):
        if cluster_size <= size:
            return threshold + 1 if threshold else 0
    # Beyond the defaults only where half of it would give too many clusters.
    return cluster_size // 2 * (CLUSTER_COUNT_MAX + 1)


def fit_geometry(
    size: int, sector_size: int, cluster_size: int, heap_alignment: int
) -> ExfatGeometry | None:
    """The geometry with the most clusters in ``size`` bytes, or None when not one fits.

    The cluster count never falls when ``size`` grows: where one more FAT sector would push the
    aligned heap away and cost more clusters than it adds, the FAT stays as it is, and the file
    system ends (VolumeLength) before the volume does.
    """
    available = align_down(size, sector_size)

    def count_space(fat_sectors: int) -> int:
        start = find_heap_offset(fat_sectors, sector_size, heap_alignment)
        return max(0, available - start) // cluster_size

    cluster_count, fat_sectors = choose_fat_size(
        entries_per_sector=sector_size // FAT_ENTRY_SIZE,
        first_cluster=FIRST_CLUSTER,
        space=count_space,
    )
    if cluster_count < 1:
        return None
    heap_offset = find_heap_offset(fat_sectors, sector_size, heap_alignment)
    is_covered = cluster_count == count_space(fat_sectors)
    end = available if is_covered else heap_offset + cluster_count * cluster_size
    return ExfatGeometry(
        sector_size=sector_size,
        cluster_size=cluster_size,
        fat_offset=find_fat_offset(sector_size),
        fat_sectors=fat_sectors,
        heap_offset=heap_offset,
        cluster_count=cluster_count,
        volume_sectors=end // sector_size,
    )


def measure_size(
    cluster_count: int, sector_size: int, cluster_size: int, heap_alignment: int
) -> int:
    """The smallest volume size with at least ``cluster_count`` clusters."""
    fat_sectors = -(-(cluster_count + FIRST_CLUSTER) * FAT_ENTRY_SIZE // sector_size)
    start = find_heap_offset(fat_sectors, sector_size, heap_alignment)
    return start + cluster_count * cluster_size


def find_fat_offset(sector_size: int) -> int:
    """Where the FAT begins: behind both boot regions."""
    return align_up(FAT_SECTOR_NUMBER_MIN * sector_size, FAT_ALIGNMENT)


def find_heap_offset(fat_sectors: int, sector_size: int, heap_alignment: int) -> int:
    """Where cluster 2 begins behind a FAT of ``fat_sectors``."""
    return align_up(find_fat_offset(sector_size) + fat_sectors * sector_size, heap_alignment)


def _list_cluster_sizes(sector_size: int) -> tuple[int, ...]:
    count = (CLUSTER_SIZE_MAX // sector_size).bit_length()
    return tuple(sector_size << shift for shift in range(count))
