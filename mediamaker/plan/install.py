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

import hashlib
import json
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, assert_never

from mediamaker.errors import PlanError
from mediamaker.extents import (
    ExtentMap,
    ExtentMapBuilder,
    Unwritten,
    Zeros,
    check_sector_aligned,
)
from mediamaker.plan.arrange_install import arrange_partitions, wipe_ranges
from mediamaker.plan.codec import compute_plan_id
from mediamaker.plan.describe_install import (
    describe_boots,
    describe_identities,
    describe_notes,
    describe_partitions,
    describe_warnings,
)
from mediamaker.plan.layouts import TABLE_SIZE
from mediamaker.plan.model import Plan
from mediamaker.plan.place_disk import PlacedDisk, PlacedPartition
from mediamaker.plan.probe_region import probe_region_size
from mediamaker.plan.request import ExtraFile, InstalledLayout
from mediamaker.sources.identity import SourceFile

INSTALL_FORMAT = "mediamaker-install"
INSTALL_FORMAT_VERSION = 1


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
    boots: tuple[str, ...] | None = None,
    notes: tuple[str, ...] = (),
    warnings: tuple[str, ...] = (),
) -> Plan:
    """The plan of the whole disk; ``volumes`` by partition number, each from byte 0 on.

    The volume of Windows may be None: a step fills it. Partitions without a file system have
    none. ``Unwritten`` bytes near a volume's ends become zeros (see ``arrange_install``).
    ``boots`` None: the firmware that the layout is for.

    Raises:
        PlanError: a volume is missing, too large, or may not be None.
    """
    extents, commit = arrange_partitions(placed, volumes, mbr_code)
    check_sector_aligned(extents, placed.geometry.logical_sector_size)
    layout = InstalledLayout.GPT if placed.layout.table == "gpt" else InstalledLayout.MBR
    return Plan(
        plan_id=compute_plan_id(placed.geometry, layout, extents, commit, sources),
        geometry=placed.geometry,
        layout=layout,
        extents=extents,
        commit=commit,
        sources=sources,
        identities=describe_identities(placed),
        partitions=describe_partitions(placed, volumes),
        boots=describe_boots(placed, has_mbr_code=bool(mbr_code)) if boots is None else boots,
        notes=(*describe_notes(placed, volumes), *notes),
        warnings=(*describe_warnings(placed), *warnings),
    )


def plan_steps(plan: Plan, placed: PlacedDisk, image: ImageToApply | None) -> InstallPlan:
    """The steps that carry ``plan`` out; ``image`` is for the partition that it leaves out.

    Raises:
        PlanError: there is such a partition and no image, or the other way round.
    """
    left_out = _is_left_out(plan, placed.windows)
    if left_out and image is None:
        raise PlanError("the plan leaves the Windows partition to a step, but no image is given")
    if image is not None and not left_out:
        raise PlanError("an image is given, but the plan has the Windows volume in it already")
    write = WriteExtents("the whole disk, tables last", plan.extents, plan.commit)
    steps: tuple[Step, ...] = (write,)
    if image is not None:
        partition = placed.windows
        apply = ApplyImage(partition, placed.hidden_sectors(partition), image)
        # The old tables first: with the power gone in between, none may lead to what is cleared.
        clear = WriteExtents("clear both ends", _clearing(plan, partition), plan.commit)
        steps = (clear, apply, write)
    return InstallPlan(_compute_install_id(plan, steps), plan, placed, steps)


def step_to_json(step: Step) -> dict[str, Any]:
    """What a step does, as JSON; extents are those of the plan, and are not repeated."""
    match step:
        case WriteExtents(name, extents, commit):
            return {
                "kind": "write_extents",
                "name": name,
                "written_size": extents.written_size,
                "commit": [list(borders) for borders in commit],
            }
        case ApplyImage(partition, hidden_sectors, image):
            spec = partition.spec
            return {
                "kind": "apply_image",
                "partition": partition.number,
                "start": partition.start,
                "size": partition.size,
                "hidden_sectors": hidden_sectors,
                "volume_label": spec.volume_label,
                "volume_serial": f"{partition.volume_serial:016x}",
                "cluster_size": spec.cluster_size,
                "files": [[file.source_id, file.size, file.mtime_ns] for file in image.files],
                "image_number": image.image_number,
                "image_name": image.image_name,
                "extras": [
                    {
                        "path": list(extra.path),
                        "size": len(extra.data),
                        "sha256": hashlib.sha256(extra.data).hexdigest(),
                    }
                    for extra in image.extras
                ],
            }
        case _:
            assert_never(step)


def _is_left_out(plan: Plan, partition: PlacedPartition) -> bool:
    inside = plan.extents.within(partition.start, partition.end)
    return all(isinstance(extent.source, Unwritten) for extent in inside)


def _clearing(plan: Plan, partition: PlacedPartition) -> ExtentMap:
    """Zeros where anything could be valid before the volume is made; all else is left.

    And at the beginning of the first partition, where a disk is asked what it holds: its marks
    go with this step.
    """
    builder = ExtentMapBuilder()
    tail_start = plan.commit[-1][0]
    probed = (TABLE_SIZE, min(TABLE_SIZE + probe_region_size(plan.geometry.size), tail_start))
    position = 0
    for start, end in sorted({*plan.commit, *wipe_ranges(partition), probed}):
        if end > position:
            builder.pad_to(max(start, position), "left", Unwritten())
            builder.pad_to(end, "zeros", Zeros())
            position = end
    builder.pad_to(plan.geometry.size, "left", Unwritten())
    return builder.build()


def _compute_install_id(plan: Plan, steps: tuple[Step, ...]) -> str:
    values = {
        "format": INSTALL_FORMAT,
        "format_version": INSTALL_FORMAT_VERSION,
        "plan_id": plan.plan_id,
        "steps": [step_to_json(step) for step in steps],
    }
    text = json.dumps(values, sort_keys=True, separators=(",", ":"), ensure_ascii=True)
    return hashlib.sha256(text.encode("ascii")).hexdigest()
