# SPDX-License-Identifier: GPL-3.0-or-later
"""How much of a disk's beginning is marked to find out whether it holds what it claims.

The plan sees to it that what is marked is written afterwards; ``execute/capacity.py`` marks it.
"""

from __future__ import annotations

from mediamaker.units import MIB, align_up

PROBE_SIZE_MIN = 4 * MIB
PROBE_SIZE_MAX = 64 * MIB
PROBE_READ_COUNT = 4096
"""Sectors that are read of a disk for which the region can grow: a few seconds on a stick."""


def probe_region_size(disk_size: int) -> int:
    """Bytes to mark, whole MiB: one sector is read in each such stretch of the disk."""
    wanted = align_up(disk_size // PROBE_READ_COUNT, MIB)
    return min(max(PROBE_SIZE_MIN, wanted), PROBE_SIZE_MAX)
