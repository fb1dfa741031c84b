# SPDX-License-Identifier: GPL-3.0-or-later
"""FAT32 geometry: hand-worked numbers, and the rules of fatgen103 as properties."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mediamaker.errors import PlanError, UsageError
from mediamaker.units import GIB, KIB, MIB, TIB
from mediamaker.volumes.fat32_geometry import (
    Fat32Geometry,
    check_sizes,
    fit_geometry,
    list_candidates,
    measure_default_floor,
    measure_size,
)

SECTOR_SIZES = st.sampled_from([512, 1024, 2048, 4096])


@pytest.mark.parametrize(
    ("size", "sector_size", "cluster_size", "alignment", "expected"),
    [
        # 16 GiB, 8 KiB clusters: 33,554,432 sectors. 16,368 FAT sectors hold 2,095,102 clusters
        # and put the data at 32 + 32,736 = 32,768 sectors, 16 MiB, with room for 2,095,104. One
        # more FAT sector would put it at 17 MiB, with room for 2,094,976: so two clusters of room
        # are left over, and the file system ends at 32,768 + 16 * 2,095,102 sectors.
        (16 * GIB, 512, 8 * KIB, MIB, Fat32Geometry(512, 8192, 32, 16368, 2095102, 33554400)),
        # 16 MiB less: 33,521,664 sectors, room for 2,093,056 of those 2,095,102: covered, with
        # FATs of ceil(2,093,058 / 128) = 16,353 sectors, and 62 reserved to reach 16 MiB.
        (
            16 * GIB - 16 * MIB,
            512,
            8 * KIB,
            MIB,
            Fat32Geometry(512, 8192, 62, 16353, 2093056, 33521664),
        ),
        # 1 GiB, 4 KiB sectors: 262,144. Data at 2 MiB (512): 261,632 clusters, 261,634 entries
        # at 1,024 a sector: 256 FAT sectors; 32 + 512 = 544 > 512, so the data is at 3 MiB (768):
        # 261,376 clusters, 261,378 entries: still 256; 768 - 512 = 256 reserved.
        (GIB, 4096, 4096, MIB, Fat32Geometry(4096, 4096, 256, 256, 261376, 262144)),
        # No alignment to speak of: 65,536 clusters of 512: 65,538 entries at 128: 513 sectors;
        # 32 + 1,026 + 65,536 = 66,594
        (66_594 * 512, 512, 512, 512, Fat32Geometry(512, 512, 32, 513, 65536, 66594)),
    ],
)
def test_hand_worked_geometries(size, sector_size, cluster_size, alignment, expected):
    assert fit_geometry(size, sector_size, cluster_size, alignment) == expected


def test_a_volume_of_exactly_two_tib_leaves_its_last_sector():
    geometry = fit_geometry(2 * TIB, 512, 32 * KIB, MIB)
    assert geometry is not None
    assert geometry.total_sectors == 0xFFFFFFFF
    assert geometry.data_offset % MIB == 0
    with pytest.raises(PlanError, match="FAT32 counts to 4294967295"):
        fit_geometry(2 * TIB + 512, 512, 32 * KIB, MIB)


@pytest.mark.parametrize(
    ("size", "cluster_size"),
    [
        (64 * MIB, 512),
        (128 * MIB, KIB),
        (260 * MIB, 2 * KIB),
        (260 * MIB + 512, 4 * KIB),
        (8 * GIB, 4 * KIB),
        (8 * GIB + 512, 8 * KIB),
        (16 * GIB, 8 * KIB),
        (32 * GIB, 16 * KIB),
        (32 * GIB + 512, 32 * KIB),
        (2 * TIB, 32 * KIB),
    ],
)
def test_default_cluster_sizes_are_those_of_windows(size, cluster_size):
    assert list_candidates(size, 512, None)[0] == cluster_size
    assert list_candidates(size, 4096, None)[0] == max(4096, cluster_size)
    assert list_candidates(size, 512, 64 * KIB) == (64 * KIB,)


def test_default_floor_is_where_a_cluster_size_begins():
    for sector_size in (512, 4096):
        for cluster_size in list_candidates(TIB, sector_size, None):
            floor = measure_default_floor(sector_size, cluster_size)
            assert cluster_size in list_candidates(floor, sector_size, None)
            if floor:
                below = list_candidates(floor - sector_size, sector_size, None)
                assert cluster_size not in below


@pytest.mark.parametrize(
    ("sector_size", "cluster_size", "alignment", "error"),
    [
        (256, None, MIB, PlanError),
        (520, None, MIB, PlanError),
        (512, None, 0, PlanError),
        (512, None, 3 * MIB, PlanError),
        (512, None, 32 * MIB, PlanError),
        (4096, None, 512, PlanError),
        (512, 0, MIB, UsageError),
        (512, 256, MIB, UsageError),
        (512, 3 * 512, MIB, UsageError),
        (512, 128 * KIB, MIB, UsageError),
        (4096, 2048, MIB, UsageError),
        (4096, 128 * KIB, MIB, UsageError),
    ],
)
def test_sizes_that_fat32_does_not_have(sector_size, cluster_size, alignment, error):
    with pytest.raises(error):
        check_sizes(sector_size, cluster_size, alignment)


@given(SECTOR_SIZES, st.integers(0, 7), st.integers(0, 5), st.integers(1, 10**6), st.data())
def test_geometry_obeys_the_specification(sector_size, spread, steps, sectors, data):
    cluster_size = min(sector_size << spread, 64 * KIB)
    alignment = sector_size << steps
    size = sectors * sector_size
    geometry = fit_geometry(size, sector_size, cluster_size, alignment)
    if geometry is None:
        assert size < (32 + 2) * sector_size + cluster_size + alignment
        return
    assert geometry.reserved_sectors >= 32
    assert geometry.data_offset % alignment == 0
    assert geometry.total_sectors * sector_size <= size
    assert geometry.data_end <= geometry.total_sectors * sector_size
    # What every driver computes from the BPB must be our count, and the FAT must hold it.
    space = geometry.total_sectors - geometry.data_offset // sector_size
    assert space // (cluster_size // sector_size) == geometry.cluster_count
    assert geometry.fat_sectors * sector_size >= (geometry.cluster_count + 2) * 4
    # More room never means fewer clusters.
    more = data.draw(st.integers(1, 10**4)) * sector_size
    bigger = fit_geometry(size + more, sector_size, cluster_size, alignment)
    assert bigger is not None
    assert bigger.cluster_count >= geometry.cluster_count


@given(SECTOR_SIZES, st.integers(0, 7), st.integers(0, 5), st.integers(1, 10**6))
def test_measured_size_is_the_smallest(sector_size, spread, steps, clusters):
    cluster_size = min(sector_size << spread, 64 * KIB)
    alignment = sector_size << steps
    size = measure_size(clusters, sector_size, cluster_size, alignment)
    geometry = fit_geometry(size, sector_size, cluster_size, alignment)
    assert geometry is not None
    assert geometry.cluster_count == clusters
    smaller = fit_geometry(size - sector_size, sector_size, cluster_size, alignment)
    assert smaller is None or smaller.cluster_count < clusters


@pytest.mark.parametrize("alignment", [512, MIB])
def test_the_cluster_count_never_falls_near_where_the_fat_grows(alignment):
    # 8-sector clusters: the FAT needs another sector at every 1,024 sectors of the volume.
    counts = [
        fit_geometry(sectors * 512, 512, 4096, alignment).cluster_count
        for sectors in range(1_048_576, 1_048_576 + 4 * 2048, 3)
    ]
    assert counts == sorted(counts)
