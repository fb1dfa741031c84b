# SPDX-License-Identifier: GPL-3.0-or-later
"""The plan of an install: the engine's plan for the whole disk, and the steps in their order.

A Windows volume comes to the disk in one of two ways. As extents, like everything else, of a
prepared sparse file (image files, no root). Or by a step of its own: libwim applies into the
partition while the disk has no table yet; then the plan leaves that partition ``Unwritten``.

The order that is safe with the second way:

1. ``WriteExtents`` "clear": both ends of the disk and of each such partition become zeros;
2. ``ApplyImage``: the volume is made and filled;
3. ``WriteExtents`` of the plan: everything else, then the tables, last of all sector 0.

Interrupted before the end, the disk looks blank.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from mediamaker.extents import ExtentMap
from mediamaker.plan.model import Plan
from mediamaker.plan.place_disk import PlacedDisk, PlacedPartition
from mediamaker.plan.request import ExtraFile
from mediamaker.sources.identity import SourceFile
from mediamaker.units import MIB

WIPE_SIZE = MIB
"""At both ends of a volume: superblocks and labels of other file systems, RAID, LVM and ZFS."""


@dataclass(frozen=True, slots=True)
class ImageToApply:
    """An image of a WIM (with all its parts), and the files that are added to it in memory."""

    files: tuple[SourceFile, ...]
    image_number: int
    image_name: str
    extras: tuple[ExtraFile, ...] = ()


@dataclass(frozen=True, slots=True)
class WriteExtents:
    """Write ``extents`` with the engine, ``commit`` ranges last (``execute_plan``)."""

    name: str
    extents: ExtentMap
    commit: tuple[tuple[int, int], ...]


@dataclass(frozen=True, slots=True)
class ApplyImage:
    """Make an NTFS volume on ``partition`` and apply ``image`` into it."""

    partition: PlacedPartition
    hidden_sectors: int
    image: ImageToApply


Step = WriteExtents | ApplyImage


@dataclass(frozen=True, slots=True)
class InstallPlan:
    """All that an install does to a disk, in order. ``install_id`` names it, steps included."""

    install_id: str
    plan: Plan
    placed: PlacedDisk
    steps: tuple[Step, ...]


def build_install_plan(
    placed: PlacedDisk,
    volumes: Mapping[int, ExtentMap | None],
    *,
    sources: tuple[SourceFile, ...],
    mbr_code: bytes = b"",
    notes: tuple[str, ...] = (),
    warnings: tuple[str, ...] = (),
) -> Plan:
    """The plan of the whole disk; ``volumes`` by partition number, each from byte 0 on.

    A volume that is None is filled by a step. Partitions without a file system need none.

    Raises:
        PlanError: a volume is missing, too large, or may not be None.
    """
    raise NotImplementedError


def plan_steps(plan: Plan, placed: PlacedDisk, image: ImageToApply | None) -> InstallPlan:
    """The steps that carry ``plan`` out; ``image`` is for the partition that it leaves out.

    Raises:
        PlanError: there is such a partition and no image, or the other way round.
    """
    raise NotImplementedError
