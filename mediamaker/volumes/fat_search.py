# SPDX-License-Identifier: GPL-3.0-or-later
"""How large a FAT has to be, when it takes its room from the clusters that it counts."""

from __future__ import annotations

from collections.abc import Callable


def choose_fat_size(
    *, entries_per_sector: int, first_cluster: int, space: Callable[[int], int]
) -> tuple[int, int]:
    """The most clusters that a volume can have, and the sectors of FAT that it has then.

    ``space`` says how many clusters there is room for behind a FAT of so many sectors; it never
    grows with them. The smallest FAT that covers all the room it leaves is best, unless its last
    sector pushes the aligned clusters away and costs more of them than it adds: then the FAT stays
    one sector shorter, and counts less than there is room for. So the count never falls when the
    volume grows.
    """

    def count_entries(fat_sectors: int) -> int:
        return fat_sectors * entries_per_sector - first_cluster

    low, high = 1, (space(1) + first_cluster) // entries_per_sector + 1
    while low < high:
        middle = (low + high) // 2
        if count_entries(middle) >= space(middle):
            high = middle
        else:
            low = middle + 1
    choices = [(space(low), low)]
    if low > 1:
        choices.append((count_entries(low - 1), low - 1))
    return max(choices)
