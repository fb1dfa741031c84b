# SPDX-License-Identifier: GPL-3.0-or-later
"""The size of a FAT, against trying every one."""

import pytest

from mediamaker.volumes.fat_search import choose_fat_size


@pytest.mark.parametrize("alignment", [1, 8, 64])
@pytest.mark.parametrize("per_cluster", [1, 8])
@pytest.mark.parametrize("fat_count", [1, 2])
def test_it_is_the_best_of_all(alignment, per_cluster, fat_count):
    last = 0
    for available in range(0, 3000, 7):

        def space(fat_sectors, available=available):
            start = -(-(32 + fat_count * fat_sectors) // alignment) * alignment
            return max(0, available - start) // per_cluster

        count, fat_sectors = choose_fat_size(entries_per_sector=8, first_cluster=2, space=space)
        best = max(min(space(n), n * 8 - 2) for n in range(1, available // 8 + 2))
        assert count == best
        assert count <= min(space(fat_sectors), fat_sectors * 8 - 2)
        assert count >= last
        last = count
