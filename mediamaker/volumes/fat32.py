# SPDX-License-Identifier: GPL-3.0-or-later
"""A FAT32 volume mastered from a tree: measure, place, render.

This is a layout, not a driver: every directory and every file is one run of clusters, in the
order root, directories, boot files, other files; what is left is free and never written.

References: fatgen103 (see ``formats/fat.py``); where boot code may lie in the reserved sectors
is in ``../shared/facts/boot-facts.md`` 1.5.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from mediamaker.errors import PlanError, TargetTooSmallError, UsageError
from mediamaker.extents import ExtentMap, ExtentMapBuilder, Literal, Unwritten, Zeros
from mediamaker.formats.fat import (
    BACKUP_BOOT_SECTOR_NUMBER,
    BOOT_SECTOR_SIZE,
    CLUSTER_COUNT_MAX,
    FIRST_CLUSTER,
    FSINFO_SECTOR_NUMBER,
)
from mediamaker.formats.fat_names import fat_label
from mediamaker.units import MIB, format_size
from mediamaker.volumes.fat32_geometry import (
    CLUSTER_COUNT_AIM,
    FAT_COUNT,
    RESERVED_SECTORS_MIN,
    Fat32Geometry,
    check_sizes,
    fit_geometry,
    list_candidates,
    measure_default_floor,
    measure_size,
)
from mediamaker.volumes.fat32_render import (
    render_boot_sector,
    render_directories,
    render_fat,
    render_fsinfo,
)
from mediamaker.volumes.fat32_survey import Survey, count_directory_clusters, survey_tree
from mediamaker.volumes.tree import DirectoryNode

_U32_MAX = 0xFFFFFFFF


@dataclass(frozen=True, slots=True, kw_only=True)
class Fat32BootCode:
    """Boot code for 512-byte sectors.

    ``sector0`` is a whole sector, of which 0x03..0x59 (the BPB) and the signature are ours;
    ``stage2`` lies from ``stage2_sector_number`` on, in reserved sectors that are free.
    """

    sector0: bytes
    stage2: bytes
    stage2_sector_number: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Fat32Request:
    """All that decides the bytes of a volume of ``size`` bytes."""

    size: int
    sector_size: int
    hidden_sectors: int
    volume_label: str
    volume_serial: int
    tree: DirectoryNode
    cluster_size: int | None = None
    boot_code: Fat32BootCode | None = None
    data_alignment: int = MIB


@dataclass(frozen=True, slots=True, kw_only=True)
class Fat32Volume:
    """A volume ready to be written; ``extents`` begin at 0 and cover the size asked for."""

    extents: ExtentMap
    sector_size: int
    cluster_size: int
    cluster_count: int
    free_cluster_count: int
    reserved_sectors: int
    fat_sectors: int
    data_offset: int

    @property
    def free_size(self) -> int:
        """Bytes that can still be stored on it."""
        return self.free_cluster_count * self.cluster_size


@dataclass(frozen=True, slots=True)
class _Placement:
    """First clusters by index in the survey (0 for empty files), and the last of each run."""

    directory_clusters: tuple[int, ...]
    file_clusters: tuple[int, ...]
    run_ends: tuple[int, ...]

    @property
    def used_clusters(self) -> int:
        return self.run_ends[-1] + 1 - FIRST_CLUSTER


def build_fat32(request: Fat32Request) -> Fat32Volume:
    """The volume that ``request`` describes.

    Raises:
        NotRepresentableError: FAT32 can't hold a name, file or directory of the tree.
        TargetTooSmallError: the tree (or a FAT32 volume at all) does not fit; says the need.
        UsageError: a cluster size or label that FAT32 does not have.
        PlanError: sizes, numbers or boot code that make no FAT32 volume.
    """
    _check_request(request)
    survey = survey_tree(request.tree)
    geometry = _choose_geometry(request, survey)
    placement = _place(survey, geometry.cluster_size)
    used = placement.used_clusters

    builder = ExtentMapBuilder()
    _add_reserved(builder, request, geometry, used)
    _add_fats(builder, geometry, placement)
    _add_clusters(builder, request, geometry, survey, placement)
    builder.pad_to(geometry.data_end, "free clusters", Unwritten())
    builder.pad_to(request.size, "slack after the last cluster", Zeros())
    return Fat32Volume(
        extents=builder.build(),
        sector_size=geometry.sector_size,
        cluster_size=geometry.cluster_size,
        cluster_count=geometry.cluster_count,
        free_cluster_count=geometry.cluster_count - used,
        reserved_sectors=geometry.reserved_sectors,
        fat_sectors=geometry.fat_sectors,
        data_offset=geometry.data_offset,
    )


def measure_fat32(
    tree: DirectoryNode,
    sector_size: int,
    cluster_size: int | None = None,
    *,
    data_alignment: int = MIB,
) -> int:
    """The smallest volume size (whole sectors) that ``build_fat32`` accepts for ``tree``.

    Raises:
        NotRepresentableError, UsageError, PlanError: as ``build_fat32`` does.
    """
    check_sizes(sector_size, cluster_size, data_alignment)
    return _measure(survey_tree(tree), sector_size, cluster_size, data_alignment)


def _check_request(request: Fat32Request) -> None:
    check_sizes(request.sector_size, request.cluster_size, request.data_alignment)
    if request.size <= 0 or request.size % request.sector_size:
        raise PlanError(
            f"volume size {request.size} is not a multiple of the sector size {request.sector_size}"
        )
    if not 0 <= request.hidden_sectors <= _U32_MAX:
        raise PlanError(
            f"the volume starts at sector {request.hidden_sectors}, a BPB counts to {_U32_MAX}"
        )
    if not 0 <= request.volume_serial <= _U32_MAX:
        raise PlanError(f"volume serial {request.volume_serial:#x} does not fit 32 bits")
    allowed_label = fat_label(request.volume_label)
    if request.volume_label != allowed_label:
        raise UsageError(
            f"{request.volume_label!r} is no FAT volume label",
            hint=f"{allowed_label!r} would be one" if allowed_label else None,
        )
    if request.boot_code is not None:
        _check_boot_code(request.boot_code, request.sector_size)


def _check_boot_code(boot_code: Fat32BootCode, sector_size: int) -> None:
    if sector_size != BOOT_SECTOR_SIZE:
        raise PlanError(
            f"the boot code is for sectors of {BOOT_SECTOR_SIZE} bytes, this disk's have "
            f"{sector_size}: it can boot with UEFI only"
        )
    if len(boot_code.sector0) != BOOT_SECTOR_SIZE:
        raise PlanError(f"boot code sector 0 has {len(boot_code.sector0)} bytes, expected 512")
    first = boot_code.stage2_sector_number
    end = first + -(-len(boot_code.stage2) // sector_size)
    owned = {
        0: "VBR",
        FSINFO_SECTOR_NUMBER: "FSInfo",
        BACKUP_BOOT_SECTOR_NUMBER: "VBR backup",
        BACKUP_BOOT_SECTOR_NUMBER + FSINFO_SECTOR_NUMBER: "FSInfo backup",
    }
    for number, name in owned.items():
        if first <= number < end:
            raise PlanError(
                f"boot code stage 2 in reserved sectors [{first},{end}) overlaps {name} in {number}"
            )
    if first < 0 or end > RESERVED_SECTORS_MIN:
        raise PlanError(
            f"boot code stage 2 in reserved sectors [{first},{end}) goes past the "
            f"{RESERVED_SECTORS_MIN} that every volume has"
        )


def _choose_geometry(request: Fat32Request, survey: Survey) -> Fat32Geometry:
    crowded: Fat32Geometry | None = None
    for cluster_size in list_candidates(request.size, request.sector_size, request.cluster_size):
        geometry = fit_geometry(
            request.size, request.sector_size, cluster_size, request.data_alignment
        )
        if geometry is None:
            continue
        if geometry.has_too_many_clusters:
            crowded = geometry
        elif geometry.cluster_count >= _count_needed(survey, cluster_size):
            return geometry
    if crowded is not None:
        raise UsageError(
            f"a volume of {format_size(request.size)} has {crowded.cluster_count} clusters of "
            f"{crowded.cluster_size} bytes, FAT32 counts to {CLUSTER_COUNT_MAX}",
            hint="choose bigger clusters or a smaller partition",
        )
    needed = _measure(survey, request.sector_size, request.cluster_size, request.data_alignment)
    raise TargetTooSmallError(
        f"the FAT32 volume would need {needed} bytes ({format_size(needed)}), "
        f"it has {request.size} ({format_size(request.size)})",
        needed_size=needed,
        available_size=request.size,
        hint="use a bigger target, or smaller clusters" if request.cluster_size else None,
    )


def _measure(
    survey: Survey, sector_size: int, cluster_size: int | None, data_alignment: int
) -> int:
    sizes: list[int] = []
    for candidate in list_candidates(1 << 60, sector_size, cluster_size):
        cluster_count = _count_needed(survey, candidate)
        if cluster_count > CLUSTER_COUNT_MAX:
            continue
        size = measure_size(cluster_count, sector_size, candidate, data_alignment)
        if cluster_size is None:
            size = max(size, measure_default_floor(sector_size, candidate))
        sizes.append(size)
    if not sizes:
        raise UsageError(
            f"the tree needs more than {CLUSTER_COUNT_MAX} clusters, FAT32 can't count them",
            hint="choose bigger clusters",
        )
    return min(sizes)


def _count_needed(survey: Survey, cluster_size: int) -> int:
    return max(CLUSTER_COUNT_AIM, survey.count_clusters(cluster_size))


def _place(survey: Survey, cluster_size: int) -> _Placement:
    run_ends: list[int] = []
    next_cluster = FIRST_CLUSTER

    def take(cluster_count: int) -> int:
        nonlocal next_cluster
        if cluster_count == 0:
            return 0
        first = next_cluster
        next_cluster += cluster_count
        run_ends.append(next_cluster - 1)
        return first

    directories = [take(count_directory_clusters(d, cluster_size)) for d in survey.directories]
    files = [0] * len(survey.files)
    for index in survey.placement:
        files[index] = take(-(-survey.files[index].size // cluster_size))
    return _Placement(tuple(directories), tuple(files), tuple(run_ends))


def _add_reserved(
    builder: ExtentMapBuilder, request: Fat32Request, geometry: Fat32Geometry, used_clusters: int
) -> None:
    boot_code = request.boot_code
    vbr = render_boot_sector(
        geometry,
        hidden_sectors=request.hidden_sectors,
        volume_serial=request.volume_serial,
        volume_label=request.volume_label,
        code=None if boot_code is None else boot_code.sector0,
    )
    fsinfo = render_fsinfo(geometry, used_clusters)
    backup = BACKUP_BOOT_SECTOR_NUMBER
    parts = [
        (0, "VBR", vbr),
        (FSINFO_SECTOR_NUMBER, "FSInfo", fsinfo),
        (backup, "VBR backup", vbr),
        (backup + FSINFO_SECTOR_NUMBER, "FSInfo backup", fsinfo),
    ]
    if boot_code is not None:
        parts.append((boot_code.stage2_sector_number, "VBR stage 2", boot_code.stage2))
    for number, name, data in sorted(parts):
        builder.pad_to(number * geometry.sector_size, "reserved sectors", Zeros())
        builder.add(name, len(data), Literal(data))
    builder.pad_to(geometry.reserved_sectors * geometry.sector_size, "reserved sectors", Zeros())


def _add_fats(builder: ExtentMapBuilder, geometry: Fat32Geometry, placement: _Placement) -> None:
    # Both FATs share the same bytes objects.
    chunks = tuple(Literal(chunk) for chunk in render_fat(placement.run_ends))
    for number in range(1, FAT_COUNT + 1):
        end = builder.position + geometry.fat_sectors * geometry.sector_size
        for chunk in chunks:
            builder.add(f"FAT {number}", len(chunk.data), chunk)
        builder.pad_to(end, f"FAT {number}, free entries", Zeros())
    assert builder.position == geometry.data_offset, "the data area begins after the last FAT"


def _add_clusters(
    builder: ExtentMapBuilder,
    request: Fat32Request,
    geometry: Fat32Geometry,
    survey: Survey,
    placement: _Placement,
) -> None:
    contents = render_directories(
        survey, placement.directory_clusters, placement.file_clusters, request.volume_label
    )
    for directory, data in zip(survey.directories, contents, strict=True):
        size = count_directory_clusters(directory, geometry.cluster_size) * geometry.cluster_size
        assert len(data) <= size, "a directory was measured before it was rendered"
        builder.add(f"directory {directory.path}", size, Literal(data.ljust(size, b"\0")))
    _add_files(builder, geometry, survey, placement.file_clusters)


def _add_files(
    builder: ExtentMapBuilder,
    geometry: Fat32Geometry,
    survey: Survey,
    file_clusters: Sequence[int],
) -> None:
    for index in survey.placement:
        file = survey.files[index]
        if file.size == 0:
            continue
        start = geometry.find_cluster_offset(file_clusters[index])
        assert builder.position == start, "files lie in the order in which they were placed"
        builder.add_pieces(file.path, file.node.pieces)
        cluster_count = -(-file.size // geometry.cluster_size)
        end = start + cluster_count * geometry.cluster_size
        builder.pad_to(end, f"padding of {file.path}", Zeros())
