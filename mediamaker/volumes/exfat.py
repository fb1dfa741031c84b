# SPDX-License-Identifier: GPL-3.0-or-later
"""An exFAT volume mastered from a tree: measure, place, render.

This is a layout, not a driver: every directory and every file is one run of clusters, in the
order allocation bitmap, up-case table, root, directories, files; what is left is free and never
written. Files say NoFatChain, thus a file of any size takes no FAT entry. Directories have
chains all the same: they are few, they grow one day, and every reader knows chains.

References: the exFAT specification (see ``formats/exfat.py``).
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

from mediamaker.errors import PlanError, TargetTooSmallError, UsageError
from mediamaker.extents import ExtentMap, ExtentMapBuilder, Literal, Unwritten, Zeros
from mediamaker.formats.exfat import (
    CLUSTER_COUNT_MAX,
    FIRST_CLUSTER,
    VOLUME_SIZE_MIN,
    exfat_label,
)
from mediamaker.formats.exfat_upcase import pack_upcase_table
from mediamaker.units import MIB, align_up, format_size
from mediamaker.volumes.exfat_geometry import (
    ExfatGeometry,
    check_sizes,
    fit_geometry,
    list_candidates,
    measure_default_floor,
    measure_size,
)
from mediamaker.volumes.exfat_render import (
    render_bitmap,
    render_boot_region,
    render_directories,
    render_fat,
    split_chunks,
)
from mediamaker.volumes.exfat_survey import ExfatSurvey, count_upcase_clusters, survey_tree
from mediamaker.volumes.tree import DirectoryNode

_U32_MAX = 0xFFFFFFFF
_U64_MAX = 0xFFFFFFFFFFFFFFFF


@dataclass(frozen=True, slots=True, kw_only=True)
class ExfatRequest:
    """All that decides the bytes of a volume of ``size`` bytes."""

    size: int
    sector_size: int
    partition_offset_sectors: int
    volume_label: str
    volume_serial: int
    tree: DirectoryNode
    cluster_size: int | None = None
    heap_alignment: int = MIB


@dataclass(frozen=True, slots=True, kw_only=True)
class ExfatVolume:
    """A volume ready to be written; ``extents`` begin at 0 and cover the size asked for."""

    extents: ExtentMap
    sector_size: int
    cluster_size: int
    cluster_count: int
    free_cluster_count: int
    fat_offset: int
    fat_sectors: int
    heap_offset: int

    @property
    def free_size(self) -> int:
        """Bytes that can still be stored on it."""
        return self.free_cluster_count * self.cluster_size


@dataclass(frozen=True, slots=True)
class _Placement:
    """First clusters by index in the survey (0 for empty files); the bitmap is at cluster 2.

    ``chain_ends`` are the last clusters of all that has a FAT chain.
    """

    upcase_cluster: int
    directory_clusters: tuple[int, ...]
    file_clusters: tuple[int, ...]
    chain_ends: tuple[int, ...]
    used_clusters: int


def build_exfat(request: ExfatRequest) -> ExfatVolume:
    """The volume that ``request`` describes.

    Raises:
        NotRepresentableError: exFAT can't hold a name or directory of the tree.
        TargetTooSmallError: the tree (or an exFAT volume at all) does not fit; says the need.
        UsageError: a cluster size or label that exFAT does not have.
        PlanError: sizes or numbers that make no exFAT volume.
    """
    _check_request(request)
    survey = survey_tree(request.tree)
    geometry = _choose_geometry(request, survey)
    placement = _place(survey, geometry)

    builder = ExtentMapBuilder()
    _add_boot_regions(builder, request, geometry, placement)
    _add_fat(builder, geometry, placement)
    _add_tables(builder, geometry, placement)
    _add_directories(builder, request, geometry, survey, placement)
    _add_files(builder, geometry, survey, placement)
    builder.pad_to(geometry.heap_end, "free clusters", Unwritten())
    builder.pad_to(request.size, "slack after the last cluster", Zeros())
    return ExfatVolume(
        extents=builder.build(),
        sector_size=geometry.sector_size,
        cluster_size=geometry.cluster_size,
        cluster_count=geometry.cluster_count,
        free_cluster_count=geometry.cluster_count - placement.used_clusters,
        fat_offset=geometry.fat_offset,
        fat_sectors=geometry.fat_sectors,
        heap_offset=geometry.heap_offset,
    )


def measure_exfat(
    tree: DirectoryNode,
    sector_size: int,
    cluster_size: int | None = None,
    *,
    heap_alignment: int = MIB,
) -> int:
    """The smallest volume size (whole sectors) that ``build_exfat`` accepts for ``tree``.

    Raises:
        NotRepresentableError, UsageError, PlanError: as ``build_exfat`` does.
    """
    check_sizes(sector_size, cluster_size, heap_alignment)
    return _measure(survey_tree(tree), sector_size, cluster_size, heap_alignment)


def _check_request(request: ExfatRequest) -> None:
    check_sizes(request.sector_size, request.cluster_size, request.heap_alignment)
    if request.size <= 0 or request.size % request.sector_size:
        raise PlanError(
            f"volume size {request.size} is not a multiple of the sector size {request.sector_size}"
        )
    if not 0 <= request.partition_offset_sectors <= _U64_MAX:
        raise PlanError(
            f"the volume starts at sector {request.partition_offset_sectors}, "
            f"PartitionOffset has 64 bits"
        )
    if not 0 <= request.volume_serial <= _U32_MAX:
        raise PlanError(f"volume serial {request.volume_serial:#x} does not fit 32 bits")
    allowed_label = exfat_label(request.volume_label)
    if request.volume_label != allowed_label:
        raise UsageError(
            f"{request.volume_label!r} is no exFAT volume label",
            hint=f"{allowed_label!r} would be one" if allowed_label else None,
        )


def _choose_geometry(request: ExfatRequest, survey: ExfatSurvey) -> ExfatGeometry:
    crowded: ExfatGeometry | None = None
    for cluster_size in list_candidates(request.size, request.sector_size, request.cluster_size):
        geometry = fit_geometry(
            request.size, request.sector_size, cluster_size, request.heap_alignment
        )
        if geometry is None or request.size < VOLUME_SIZE_MIN:
            continue
        if geometry.cluster_count > CLUSTER_COUNT_MAX:
            crowded = geometry
        elif geometry.cluster_count >= _count_needed(survey, cluster_size, geometry.cluster_count):
            return geometry
    if crowded is not None and request.cluster_size is not None:
        raise UsageError(
            f"a volume of {format_size(request.size)} has {crowded.cluster_count} clusters of "
            f"{crowded.cluster_size} bytes, exFAT counts to {CLUSTER_COUNT_MAX}",
            hint="choose bigger clusters or a smaller partition",
        )
    needed = _measure(survey, request.sector_size, request.cluster_size, request.heap_alignment)
    raise TargetTooSmallError(
        f"the exFAT volume would need {needed} bytes ({format_size(needed)}), "
        f"it has {request.size} ({format_size(request.size)})",
        needed_size=needed,
        available_size=request.size,
        hint="use a bigger target, or smaller clusters" if request.cluster_size else None,
    )


def _measure(
    survey: ExfatSurvey, sector_size: int, cluster_size: int | None, heap_alignment: int
) -> int:
    sizes: list[int] = []
    for candidate in list_candidates(1 << 76, sector_size, cluster_size):
        # The bitmap covers itself: it grows with the volume, a cluster each 8 * candidate.
        cluster_count = _count_needed(survey, candidate, 0)
        while (needed := _count_needed(survey, candidate, cluster_count)) > cluster_count:
            cluster_count = needed
        if cluster_count > CLUSTER_COUNT_MAX:
            continue
        size = measure_size(cluster_count, sector_size, candidate, heap_alignment)
        floor = VOLUME_SIZE_MIN
        if cluster_size is None:
            floor = max(floor, measure_default_floor(candidate))
        sizes.append(max(size, align_up(floor, sector_size)))
    if not sizes:
        raise UsageError(
            f"the tree needs more than {CLUSTER_COUNT_MAX} clusters, exFAT can't count them",
            hint="choose bigger clusters",
        )
    return min(sizes)


def _count_needed(survey: ExfatSurvey, cluster_size: int, cluster_count: int) -> int:
    """Clusters in use in a volume of ``cluster_count``, whose bitmap has that many bits."""
    bitmap_clusters = max(1, -(-cluster_count // (8 * cluster_size)))
    return bitmap_clusters + survey.count_clusters(cluster_size)


def _place(survey: ExfatSurvey, geometry: ExfatGeometry) -> _Placement:
    cluster_size = geometry.cluster_size
    chain_ends: list[int] = []
    next_cluster = FIRST_CLUSTER

    def take(cluster_count: int) -> int:
        nonlocal next_cluster
        if cluster_count == 0:
            return 0
        first = next_cluster
        next_cluster += cluster_count
        return first

    def take_chain(cluster_count: int) -> int:
        first = take(cluster_count)
        chain_ends.append(next_cluster - 1)
        return first

    take_chain(-(-geometry.bitmap_size // cluster_size))
    upcase_cluster = take_chain(count_upcase_clusters(cluster_size))
    directories = [take_chain(d.count_clusters(cluster_size)) for d in survey.directories]
    files = [take(-(-file.size // cluster_size)) for file in survey.files]
    return _Placement(
        upcase_cluster,
        tuple(directories),
        tuple(files),
        tuple(chain_ends),
        next_cluster - FIRST_CLUSTER,
    )


def _add_boot_regions(
    builder: ExtentMapBuilder,
    request: ExfatRequest,
    geometry: ExfatGeometry,
    placement: _Placement,
) -> None:
    region = Literal(
        render_boot_region(
            geometry,
            partition_offset_sectors=request.partition_offset_sectors,
            volume_serial=request.volume_serial,
            root_cluster=placement.directory_clusters[0],
            used_clusters=placement.used_clusters,
        )
    )
    builder.add("boot region", len(region.data), region)
    builder.add("boot region backup", len(region.data), region)
    builder.pad_to(geometry.fat_offset, "zeros before the FAT", Zeros())


def _add_fat(builder: ExtentMapBuilder, geometry: ExfatGeometry, placement: _Placement) -> None:
    _add_literals(builder, "FAT", render_fat(placement.chain_ends))
    builder.pad_to(geometry.heap_offset, "FAT, free entries", Zeros())


def _add_tables(builder: ExtentMapBuilder, geometry: ExfatGeometry, placement: _Placement) -> None:
    name = "allocation bitmap"
    _add_literals(builder, name, render_bitmap(placement.used_clusters))
    end = geometry.find_cluster_offset(placement.upcase_cluster)
    builder.pad_to(end, f"{name}, free clusters", Zeros())
    _add_literals(builder, "up-case table", (pack_upcase_table(),))
    end = geometry.find_cluster_offset(placement.directory_clusters[0])
    builder.pad_to(end, "up-case table, padding", Zeros())


def _add_directories(
    builder: ExtentMapBuilder,
    request: ExfatRequest,
    geometry: ExfatGeometry,
    survey: ExfatSurvey,
    placement: _Placement,
) -> None:
    contents = render_directories(
        survey,
        geometry,
        directory_clusters=placement.directory_clusters,
        file_clusters=placement.file_clusters,
        upcase_cluster=placement.upcase_cluster,
        volume_label=request.volume_label,
    )
    cluster_size = geometry.cluster_size
    for directory, data in zip(survey.directories, contents, strict=True):
        assert len(data) == directory.size, "a directory was measured before it was rendered"
        end = builder.position + directory.count_clusters(cluster_size) * cluster_size
        name = f"directory {directory.path}"
        _add_literals(builder, name, split_chunks(data))
        builder.pad_to(end, f"{name}, free entries", Zeros())


def _add_files(
    builder: ExtentMapBuilder,
    geometry: ExfatGeometry,
    survey: ExfatSurvey,
    placement: _Placement,
) -> None:
    for file, cluster in zip(survey.files, placement.file_clusters, strict=True):
        if file.size == 0:
            continue
        start = geometry.find_cluster_offset(cluster)
        assert builder.position == start, "files lie in the order in which they were placed"
        builder.add_pieces(file.path, file.node.pieces)
        end = start + align_up(file.size, geometry.cluster_size)
        builder.pad_to(end, f"padding of {file.path}", Zeros())


def _add_literals(builder: ExtentMapBuilder, name: str, chunks: Iterable[bytes]) -> None:
    for chunk in chunks:
        builder.add(name, len(chunk), Literal(chunk))
