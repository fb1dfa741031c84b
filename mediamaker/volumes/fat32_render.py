# SPDX-License-Identifier: GPL-3.0-or-later
"""Render: the bytes of a FAT32 volume's tables, once every address is known."""

from __future__ import annotations

import sys
from array import array
from bisect import bisect_left
from collections.abc import Iterator, Sequence

from mediamaker.formats.fat import (
    ATTR_ARCHIVE,
    ATTR_DIRECTORY,
    ATTR_VOLUME_ID,
    BOOT_CODE_OFFSET,
    BOOT_CODE_SIZE,
    FAT_ENTRY_0,
    FAT_ENTRY_1,
    FAT_ENTRY_END,
    FIRST_CLUSTER,
    FSINFO_UNKNOWN,
    Fat32BootSector,
    FsInfo,
    compute_short_name_checksum,
    encode_timestamp,
    pack_directory_entry,
    pack_long_name,
)
from mediamaker.formats.fat_names import LABEL_SIZE
from mediamaker.formats.record import pack_record
from mediamaker.volumes.fat32_geometry import Fat32Geometry
from mediamaker.volumes.fat32_survey import Survey

_JUMP_SIZE = 3
_NO_BOOT_CODE = b"\xeb\x58\x90" + bytes(BOOT_CODE_OFFSET - _JUMP_SIZE) + b"\xcd\x18\xf4\xeb\xfd"
"""int 18h (tell the BIOS that there is nothing to boot here); hlt; jmp to the hlt."""
_FAT_CHUNK_ENTRIES = 1 << 22

_UNNAMED_LABEL = b"NO NAME    "
_DOT = b".          "
_DOT_DOT = b"..         "


def render_boot_sector(
    geometry: Fat32Geometry,
    *,
    hidden_sectors: int,
    volume_serial: int,
    volume_label: str,
    code: bytes | None,
) -> bytes:
    """Sector 0; ``code`` gives the jump and the boot code, its BPB area is ignored."""
    code = (_NO_BOOT_CODE if code is None else code).ljust(BOOT_CODE_OFFSET + BOOT_CODE_SIZE, b"\0")
    boot = Fat32BootSector(
        jump=code[:_JUMP_SIZE],
        bytes_per_sector=geometry.sector_size,
        sectors_per_cluster=geometry.cluster_size // geometry.sector_size,
        reserved_sectors=geometry.reserved_sectors,
        hidden_sectors=hidden_sectors,
        total_sectors=geometry.total_sectors,
        fat_sectors=geometry.fat_sectors,
        volume_serial=volume_serial,
        volume_label=_pack_label(volume_label) if volume_label else _UNNAMED_LABEL,
        boot_code=code[BOOT_CODE_OFFSET : BOOT_CODE_OFFSET + BOOT_CODE_SIZE],
    )
    return pack_record(boot).ljust(geometry.sector_size, b"\0")


def render_fsinfo(geometry: Fat32Geometry, used_clusters: int) -> bytes:
    """The FSInfo sector: a true count, and where a driver may look for room."""
    free = geometry.cluster_count - used_clusters
    info = FsInfo(
        free_cluster_count=free,
        next_free_cluster=FIRST_CLUSTER + used_clusters if free else FSINFO_UNKNOWN,
    )
    return pack_record(info).ljust(geometry.sector_size, b"\0")


def render_fat(run_ends: Sequence[int]) -> tuple[bytes, ...]:
    """The used part of a FAT, in chunks.

    ``run_ends`` are the last clusters of the contiguous files and directories that follow each
    other from cluster 2 on, ascending: every entry points to the next cluster but theirs.
    """
    entry_count = run_ends[-1] + 1
    return tuple(
        _render_fat_chunk(low, min(low + _FAT_CHUNK_ENTRIES, entry_count), run_ends)
        for low in range(0, entry_count, _FAT_CHUNK_ENTRIES)
    )


def render_directories(
    survey: Survey,
    directory_clusters: Sequence[int],
    file_clusters: Sequence[int],
    volume_label: str,
) -> Iterator[bytes]:
    """The entries of each directory of ``survey``, without the zeros that follow them.

    The sequences hold first clusters; an empty file has none (0).
    """
    for index, directory in enumerate(survey.directories):
        modified = encode_timestamp(directory.node.modified_ns)
        entries: list[bytes] = []
        if index == 0 and volume_label:
            label = _pack_label(volume_label)
            entries.append(
                pack_directory_entry(label, ATTR_VOLUME_ID, first_cluster=0, modified=modified)
            )
        elif index:
            # By the specification the root is 0 here, whatever its cluster.
            parent = directory.parent_index
            parent_cluster = directory_clusters[parent] if parent else 0
            entries += [
                pack_directory_entry(dots, ATTR_DIRECTORY, first_cluster=first, modified=modified)
                for dots, first in (
                    (_DOT, directory_clusters[index]),
                    (_DOT_DOT, parent_cluster),
                )
            ]
        for child in directory.children:
            name = child.name
            if name.long_name is not None:
                checksum = compute_short_name_checksum(name.short_name)
                entries.append(pack_long_name(name.long_name, checksum))
            if child.is_directory:
                modified_ns = survey.directories[child.index].node.modified_ns
                attributes, size = ATTR_DIRECTORY, 0
                cluster = directory_clusters[child.index]
            else:
                file = survey.files[child.index]
                modified_ns = file.node.modified_ns
                attributes, size = ATTR_ARCHIVE, file.size
                cluster = file_clusters[child.index]
            entries.append(
                pack_directory_entry(
                    name.short_name,
                    attributes,
                    case_flags=name.case_flags,
                    first_cluster=cluster,
                    modified=encode_timestamp(modified_ns),
                    size=size,
                )
            )
        yield b"".join(entries)


def _render_fat_chunk(low: int, high: int, run_ends: Sequence[int]) -> bytes:
    entries = array("I", range(low + 1, high + 1))
    assert entries.itemsize == 4, "array('I') is 4 bytes on every platform that Linux runs on"
    if low == 0:
        entries[0], entries[1] = FAT_ENTRY_0, FAT_ENTRY_1
    for end in run_ends[bisect_left(run_ends, low) : bisect_left(run_ends, high)]:
        entries[end - low] = FAT_ENTRY_END
    if sys.byteorder == "big":
        entries.byteswap()
    return entries.tobytes()


def _pack_label(label: str) -> bytes:
    return label.encode("ascii").ljust(LABEL_SIZE)
