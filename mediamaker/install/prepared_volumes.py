# SPDX-License-Identifier: GPL-3.0-or-later
"""The small volumes of an installed disk, finished before anything is written: system, recovery,
data.

A FAT32 system volume is mastered by our own layout, straight from the extracted files. NTFS
volumes are made in sparse files by mkntfs and libwim, of which the plan then takes the data.
"""

from __future__ import annotations

import os
import threading
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from mediamaker.errors import TargetIOError
from mediamaker.execute.progress import OnEvent
from mediamaker.extents import ExtentMap, FileRange, Literal, Piece
from mediamaker.formats.boot_sectors import NTFS_BOOT_SIZE, install_ntfs_boot
from mediamaker.formats.mbr import MBR_SIZE
from mediamaker.formats.ntfs import BOOT_SECTOR_SIZE, parse_ntfs_boot
from mediamaker.install.boot_files import BootFile
from mediamaker.install.compose import NtfsPath, compose_ntfs
from mediamaker.install.make_ntfs import make_ntfs
from mediamaker.install.volume_pieces import volume_pieces
from mediamaker.plan.place_disk import PlacedDisk, PlacedPartition
from mediamaker.sources.bootcode import load_fat32_boot_code, load_ntfs_boot_code
from mediamaker.sources.identity import SourceFile, identify
from mediamaker.volumes.fat32 import Fat32BootCode, Fat32Request, build_fat32
from mediamaker.volumes.tree import TreeItem, build_tree


@dataclass(frozen=True, slots=True)
class PreparedVolume:
    """A volume as extents from 0 on, and the files that hold its bytes."""

    extents: ExtentMap
    sources: tuple[SourceFile, ...] = ()


def make_system_volume(
    placed: PlacedDisk,
    partition: PlacedPartition,
    files: Sequence[BootFile],
    stores: Mapping[NtfsPath, bytes],
    scratch: Path,
    *,
    starts_bios: bool,
    modified_ns: int,
    on_event: OnEvent,
    cancel: threading.Event | None = None,
) -> PreparedVolume:
    """Boot files and stores in the file system that the layout wants.

    ``starts_bios``: the volume gets our boot code, which starts ``\\bootmgr``.

    Raises:
        TargetTooSmallError: they don't fit; ToolError: a program is missing or failed.
    """
    if partition.spec.file_system == "fat32":
        return _make_fat32(
            placed, partition, files, stores, starts_bios=starts_bios, modified_ns=modified_ns
        )
    tree: dict[NtfsPath, Path | bytes] = {file.target: file.file for file in files}
    tree.update(stores)
    return make_ntfs_volume(
        placed,
        partition,
        tree,
        scratch,
        starts_bios=starts_bios,
        modified_ns=modified_ns,
        on_event=on_event,
        cancel=cancel,
    )


def make_empty_volume(
    placed: PlacedDisk,
    partition: PlacedPartition,
    scratch: Path,
    *,
    modified_ns: int,
    on_event: OnEvent,
) -> PreparedVolume:
    """A data partition, formatted as the layout wants it.

    Raises:
        ToolError: mkntfs is missing or failed; TargetIOError: no room in ``scratch``.
    """
    if partition.spec.file_system == "fat32":
        return _make_fat32(placed, partition, (), {}, starts_bios=False, modified_ns=modified_ns)
    return make_ntfs_volume(placed, partition, {}, scratch, on_event=on_event)


def make_ntfs_volume(
    placed: PlacedDisk,
    partition: PlacedPartition,
    tree: Mapping[NtfsPath, Path | bytes],
    scratch: Path,
    *,
    starts_bios: bool = False,
    modified_ns: int = 0,
    on_event: OnEvent,
    cancel: threading.Event | None = None,
) -> PreparedVolume:
    """An NTFS volume with ``tree`` in a sparse file of ``scratch``.

    Raises:
        ToolError: mkntfs is missing or failed; TargetIOError: no room in ``scratch``.
    """
    path = scratch / f"partition-{partition.number}.ntfs"
    make_partition_ntfs(placed, partition, path)
    if tree:
        compose_ntfs(
            path,
            tree,
            scratch=scratch,
            modified_ns=modified_ns,
            on_event=on_event,
            cancel=cancel,
        )
    if starts_bios:
        write_ntfs_boot_code(path, hidden_sectors=placed.hidden_sectors(partition))
    return take_volume_file(path, partition)


def make_partition_ntfs(
    placed: PlacedDisk, partition: PlacedPartition, path: Path, *, is_held: bool = False
) -> None:
    """Make the empty NTFS volume of ``partition`` at ``path``, a file or the device node."""
    make_ntfs(
        path,
        size=partition.size,
        sector_size=placed.geometry.logical_sector_size,
        hidden_sectors=placed.hidden_sectors(partition),
        volume_label=partition.spec.volume_label,
        volume_serial=partition.volume_serial,
        cluster_size=partition.spec.cluster_size,
        is_held=is_held,
    )


def take_volume_file(path: Path, partition: PlacedPartition) -> PreparedVolume:
    """The volume in the finished sparse file at ``path``."""
    source, extents = volume_pieces(
        path,
        source_id=f"volume of partition {partition.number}",
        name=f"{partition.spec.role.value} volume",
        size=partition.size,
    )
    return PreparedVolume(extents, (source,))


def write_ntfs_boot_code(path: Path, *, hidden_sectors: int) -> None:
    """Put our boot code into the volume at ``path``; its copy of sector 0 gets it too.

    Raises:
        FormatError: not NTFS; TargetIOError: it can't be written.
    """
    code = load_ntfs_boot_code()
    try:
        with path.open("r+b") as file:
            head = file.read(NTFS_BOOT_SIZE)
            boot = parse_ntfs_boot(head[:BOOT_SECTOR_SIZE], what=str(path))
            installed = install_ntfs_boot(head, code, hidden_sectors=hidden_sectors)
            file.seek(0)
            file.write(installed)
            # The sectors that the boot sector counts leave out the one that has its copy.
            file.seek(boot.size)
            file.write(installed[:BOOT_SECTOR_SIZE])
            file.flush()
            os.fsync(file.fileno())
    except OSError as error:
        raise TargetIOError(f"{path}: writing boot code: {error.strerror}") from error


def _make_fat32(
    placed: PlacedDisk,
    partition: PlacedPartition,
    files: Sequence[BootFile],
    stores: Mapping[NtfsPath, bytes],
    *,
    starts_bios: bool,
    modified_ns: int,
) -> PreparedVolume:
    sources = []
    items = [
        TreeItem(path, (Piece(len(data), Literal(data)),), modified_ns)
        for path, data in stores.items()
    ]
    for file in files:
        source = identify("boot file " + "/".join(file.target), file.file)
        sources.append(source)
        pieces = (Piece(source.size, FileRange(source.source_id, 0)),) if source.size else ()
        items.append(TreeItem(file.target, pieces, modified_ns))
    sector_size = placed.geometry.logical_sector_size
    boot_code = None
    if starts_bios and sector_size == MBR_SIZE:
        sector0, stage2, stage2_sector_number = load_fat32_boot_code()
        boot_code = Fat32BootCode(
            sector0=sector0, stage2=stage2, stage2_sector_number=stage2_sector_number
        )
    volume = build_fat32(
        Fat32Request(
            size=partition.size,
            sector_size=sector_size,
            hidden_sectors=placed.hidden_sectors(partition),
            volume_label=partition.spec.volume_label,
            volume_serial=partition.volume_serial & 0xFFFFFFFF,
            tree=build_tree(items, modified_ns=modified_ns),
            cluster_size=partition.spec.cluster_size,
            boot_code=boot_code,
        )
    )
    return PreparedVolume(volume.extents, tuple(sources))
