# SPDX-License-Identifier: GPL-3.0-or-later
"""Sets of bytes as ascending lists of half-open ranges that do not touch."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from mediamaker.execute.steps import Run, merge_runs


def intersect_runs(left: Iterable[Run], right: Iterable[Run]) -> list[Run]:
    """The bytes that are in both."""
    rights = merge_runs(right)
    common = [
        (max(start, other_start), min(end, other_end))
        for start, end in merge_runs(left)
        for other_start, other_end in rights
    ]
    return [(start, end) for start, end in common if start < end]


def subtract_runs(left: Iterable[Run], right: Iterable[Run]) -> list[Run]:
    """The bytes of ``left`` that are not in ``right``."""
    rights = merge_runs(right)
    rest: list[Run] = []
    for start, end in merge_runs(left):
        position = start
        for other_start, other_end in rights:
            if other_end <= position or other_start >= end:
                continue
            if position < other_start:
                rest.append((position, other_start))
            position = max(position, other_end)
        if position < end:
            rest.append((position, end))
    return rest


def is_within(runs: Sequence[Run], offset: int) -> bool:
    """Whether the byte at ``offset`` is in ``runs``."""
    return any(start <= offset < end for start, end in runs)
