# SPDX-License-Identifier: GPL-3.0-or-later
"""A plan: every byte that a disk will hold, and what people want to know about it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from mediamaker.extents import ExtentMap
from mediamaker.plan.geometry import Geometry
from mediamaker.plan.request import PlanLayout
from mediamaker.sources.identity import SourceFile


@dataclass(frozen=True, slots=True)
class PlannedPartition:
    """One partition and the volume in it; ``start``, ``size`` and the others in bytes."""

    number: int
    type_name: str
    start: int
    size: int
    is_active: bool
    file_system: str
    volume_label: str
    cluster_size: int
    free_size: int

    @property
    def end(self) -> int:
        """One past the last byte."""
        return self.start + self.size


@dataclass(frozen=True, slots=True)
class Plan:
    """What ``execute`` carries out; immutable. To change it, build another.

    ``commit`` are ascending byte ranges, whole sectors, that make the disk valid: zeroed first,
    written last. ``boots`` names the firmware that has something to boot, ``notes`` say what was
    decided, ``warnings`` what the person should know. Only ``geometry``, ``layout``, ``extents``,
    ``commit`` and the sources' ids, sizes and times make the ``plan_id``.
    """

    plan_id: str
    geometry: Geometry
    layout: PlanLayout
    extents: ExtentMap
    commit: tuple[tuple[int, int], ...]
    sources: tuple[SourceFile, ...]
    identities: Mapping[str, str]
    partitions: tuple[PlannedPartition, ...]
    boots: tuple[str, ...]
    notes: tuple[str, ...]
    warnings: tuple[str, ...]
