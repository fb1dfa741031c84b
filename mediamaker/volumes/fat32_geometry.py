# SPDX-License-Identifier: GPL-3.0-or-later
"""Where the parts of a FAT32 volume lie: reserved sectors, FATs, clusters.

References:
- fatgen103, "FAT Volume Initialization" and "FAT Data Structure".
- Microsoft, "Default cluster size for NTFS, FAT, and exFAT" (KB 140365).

::

    0          reserved            data_offset (aligned)                    total_sectors   size
    | VBR FSInfo ... |  FAT 1  |  FAT 2  | cluster 2 | 3 | 4 | ...   | rest < 1 cluster | slack |
"""

from __future__ import annotations

from dataclasses import dataclass

from mediamaker.errors import PlanError, UsageError
from mediamaker.formats.fat import (
    CLUSTER_COUNT_MAX,
    CLUSTER_SIZE_MAX,
    FAT_ENTRY_SIZE,
    FIRST_CLUSTER,
    SECTOR_SIZES,
    SECTORS_PER_CLUSTER_MAX,
)
from mediamaker.units import GIB, KIB, MIB, align_up, format_size
from mediamaker.volumes.fat_search import choose_fat_size

FAT_COUNT = 2
RESERVED_SECTORS_MIN = 32
"""What mkfs.fat and Windows leave at least; boot code counts on sectors 8 to 31."""
DATA_ALIGNMENT_MAX = 16 * MIB
"""The reserved area grows to align the data, and its size in sectors is a u16."""
CLUSTER_COUNT_AIM = 65_536
"""We stay clear of 65,525, where drivers disagree by a few clusters about what is FAT16."""
_TOTAL_SECTORS_MAX = 0xFFFFFFFF

_DEFAULT_CLUSTER_SIZES = (
    (32 * GIB, 32 * KIB),
    (16 * GIB, 16 * KIB),
    (8 * GIB, 8 * KIB),
    (260 * MIB, 4 * KIB),
    (130 * MIB, 2 * KIB),
    (65 * MIB, 1 * KIB),
    (0, 512),
)
"""Volumes bigger than this many bytes get clusters of so many bytes."""


@dataclass(frozen=True, slots=True)
class Fat32Geometry:
    """The numbers of one volume, in the units that the BPB has them in."""

    sector_size: int
    cluster_size: int
    reserved_sectors: int
    fat_sectors: int
    cluster_count: int
    total_sectors: int

    @property
    def data_offset(self) -> int:
        """Where cluster 2 begins."""
        return (self.reserved_sectors + FAT_COUNT * self.fat_sectors) * self.sector_size

    @property
    def data_end(self) -> int:
        """One past the last whole cluster."""
        return self.data_offset + self.cluster_count * self.cluster_size

    @property
    def has_too_many_clusters(self) -> bool:
        """Whether FAT entries of 28 bits are too short."""
        return self.cluster_count > CLUSTER_COUNT_MAX

    def find_cluster_offset(self, cluster_number: int) -> int:
        """Where ``cluster_number`` (the first is 2) begins."""
        return self.data_offset + (cluster_number - FIRST_CLUSTER) * self.cluster_size


def check_sizes(sector_size: int, cluster_size: int | None, data_alignment: int) -> None:
    """Refuse sizes that no FAT32 volume has.

    Raises:
        UsageError: the cluster size.
        PlanError: the sector size or the alignment.
    """
    if sector_size not in SECTOR_SIZES:
        raise PlanError(f"sector size {sector_size}: FAT32 has only {SECTOR_SIZES}")
    if (
        data_alignment < sector_size
        or data_alignment > DATA_ALIGNMENT_MAX
        or data_alignment & (data_alignment - 1)
    ):
        raise PlanError(
            f"data alignment {data_alignment}: expected a power of two from the sector size "
            f"{sector_size} to {DATA_ALIGNMENT_MAX}"
        )
    legal = _list_cluster_sizes(sector_size, CLUSTER_SIZE_MAX)
    if cluster_size is not None and cluster_size not in legal:
        raise UsageError(
            f"FAT32 with {sector_size}-byte sectors can't have clusters of {cluster_size} bytes",
            hint=f"choose one of {', '.join(map(str, legal))}",
        )


def list_candidates(size: int, sector_size: int, cluster_size: int | None) -> tuple[int, ...]:
    """The cluster sizes to try for a volume of ``size`` bytes, the best first.

    That is the one asked for; else what Windows would take, then smaller ones, for trees of
    many small files that would not fit otherwise.
    """
    if cluster_size is not None:
        return (cluster_size,)
    default = next((c for threshold, c in _DEFAULT_CLUSTER_SIZES if size > threshold), 512)
    return _list_cluster_sizes(sector_size, max(default, sector_size))[::-1]


def fit_geometry(
    size: int, sector_size: int, cluster_size: int, data_alignment: int
) -> Fat32Geometry | None:
    """The geometry with the most clusters in ``size`` bytes, or None when not one fits.

    The cluster count never falls when ``size`` grows: where one more FAT sector would push the
    aligned data area away and cost more clusters than it adds, the FAT stays as it is, and the
    file system ends (``total_sectors``) before the volume does.
    """
    available = size // sector_size
    if available > _TOTAL_SECTORS_MAX + 1:
        raise PlanError(
            f"a volume of {format_size(size)} has {available} sectors of {sector_size} bytes, "
            f"FAT32 counts to {_TOTAL_SECTORS_MAX}",
            hint="make the partition smaller",
        )
    available = min(available, _TOTAL_SECTORS_MAX)
    per_cluster = cluster_size // sector_size

    def count_space(fat_sectors: int) -> int:
        start = _find_data_start(fat_sectors, sector_size, data_alignment)
        return max(0, available - start) // per_cluster

    cluster_count, fat_sectors = choose_fat_size(
        entries_per_sector=sector_size // FAT_ENTRY_SIZE,
        first_cluster=FIRST_CLUSTER,
        space=count_space,
    )
    if cluster_count < 1:
        return None
    data_start = _find_data_start(fat_sectors, sector_size, data_alignment)
    is_covered = cluster_count == count_space(fat_sectors)
    return Fat32Geometry(
        sector_size=sector_size,
        cluster_size=cluster_size,
        reserved_sectors=data_start - FAT_COUNT * fat_sectors,
        fat_sectors=fat_sectors,
        cluster_count=cluster_count,
        total_sectors=available if is_covered else data_start + cluster_count * per_cluster,
    )


def measure_size(
    cluster_count: int, sector_size: int, cluster_size: int, data_alignment: int
) -> int:
    """The smallest volume size with at least ``cluster_count`` clusters."""
    fat_sectors = -(-(cluster_count + FIRST_CLUSTER) * FAT_ENTRY_SIZE // sector_size)
    start = _find_data_start(fat_sectors, sector_size, data_alignment)
    return start * sector_size + cluster_count * cluster_size


def measure_default_floor(sector_size: int, cluster_size: int) -> int:
    """The smallest volume size for which ``list_candidates`` has ``cluster_size``."""
    if cluster_size == sector_size:
        return 0
    threshold = next(t for t, size in _DEFAULT_CLUSTER_SIZES if size == cluster_size)
    return align_up(threshold + 1, sector_size)


def _list_cluster_sizes(sector_size: int, largest: int) -> tuple[int, ...]:
    largest = min(largest, sector_size * SECTORS_PER_CLUSTER_MAX)
    return tuple(
        sector_size << shift
        for shift in range(SECTORS_PER_CLUSTER_MAX.bit_length())
        if sector_size << shift <= largest
    )


def _find_data_start(fat_sectors: int, sector_size: int, data_alignment: int) -> int:
    used = RESERVED_SECTORS_MIN + FAT_COUNT * fat_sectors
    return align_up(used, data_alignment // sector_size)
