# SPDX-License-Identifier: GPL-3.0-or-later
"""Render: the bytes of an exFAT volume's tables, once every address is known."""

from __future__ import annotations

import sys
from array import array
from collections.abc import Iterator, Sequence

from mediamaker.formats.exfat import (
    ATTR_ARCHIVE,
    ATTR_DIRECTORY,
    FAT_ENTRY_0,
    FAT_ENTRY_1,
    FAT_ENTRY_END,
    FIRST_CLUSTER,
    FLAG_ALLOCATION_POSSIBLE,
    FLAG_NO_FAT_CHAIN,
    AllocationBitmapEntry,
    ExfatBootSector,
    UpcaseTableEntry,
    pack_boot_region,
    pack_entry_set,
    pack_volume_label,
)
from mediamaker.formats.exfat_upcase import TABLE_CHECKSUM, pack_upcase_table
from mediamaker.formats.fat import encode_timestamp
from mediamaker.formats.record import pack_record
from mediamaker.units import MIB
from mediamaker.volumes.exfat_geometry import ExfatGeometry
from mediamaker.volumes.exfat_survey import ExfatSurvey, SurveyedDirectory

_CHUNK_SIZE = 16 * MIB


def render_boot_region(
    geometry: ExfatGeometry,
    *,
    partition_offset_sectors: int,
    volume_serial: int,
    root_cluster: int,
    used_clusters: int,
) -> bytes:
    """The 12 sectors of a boot region."""
    sector_size = geometry.sector_size
    return pack_boot_region(
        ExfatBootSector(
            partition_offset=partition_offset_sectors,
            volume_length=geometry.volume_sectors,
            fat_offset=geometry.fat_offset // sector_size,
            fat_length=geometry.fat_sectors,
            cluster_heap_offset=geometry.heap_offset // sector_size,
            cluster_count=geometry.cluster_count,
            root_cluster=root_cluster,
            volume_serial=volume_serial,
            bytes_per_sector_shift=sector_size.bit_length() - 1,
            sectors_per_cluster_shift=(geometry.cluster_size // sector_size).bit_length() - 1,
            percent_in_use=used_clusters * 100 // geometry.cluster_count,
        )
    )


def render_fat(run_ends: Sequence[int]) -> Iterator[bytes]:
    """The FAT as far as there are chains, in chunks.

    ``run_ends`` are the last clusters of the runs that follow each other from cluster 2 on.
    """
    ends = set(run_ends)
    count = run_ends[-1] + 1
    step = _CHUNK_SIZE // 4
    for low in range(0, count, step):
        high = min(low + step, count)
        entries = array(
            "I", (FAT_ENTRY_END if n in ends else n + 1 for n in range(low, high))
        )  # fmt: skip
        assert entries.itemsize == 4, "array('I') is 4 bytes on every platform that Linux runs on"
        if low == 0:
            entries[0], entries[1] = FAT_ENTRY_0, FAT_ENTRY_1
        if sys.byteorder == "big":
            entries.byteswap()
        yield entries.tobytes()


def render_bitmap(used_clusters: int) -> Iterator[bytes]:
    """The allocation bitmap up to its last byte with a bit set, in chunks; the first is shared."""
    whole, rest = divmod(used_clusters, 8)
    full = b"\xff" * min(whole, _CHUNK_SIZE)
    while whole:
        chunk = full[:whole]
        yield chunk
        whole -= len(chunk)
    if rest:
        yield bytes(((1 << rest) - 1,))


def render_directories(
    survey: ExfatSurvey,
    geometry: ExfatGeometry,
    *,
    directory_clusters: Sequence[int],
    file_clusters: Sequence[int],
    upcase_cluster: int,
    volume_label: str,
) -> Iterator[bytes]:
    """The entries of each directory of ``survey``, without the zeros that follow them.

    The sequences hold first clusters; an empty file has none (0).
    """
    for index, directory in enumerate(survey.directories):
        packed = bytearray()
        if index == 0:
            packed += pack_volume_label(volume_label)
            packed += pack_record(
                AllocationBitmapEntry(first_cluster=FIRST_CLUSTER, data_length=geometry.bitmap_size)
            )
            packed += pack_record(
                UpcaseTableEntry(
                    table_checksum=TABLE_CHECKSUM,
                    first_cluster=upcase_cluster,
                    data_length=len(pack_upcase_table()),
                )
            )
        packed += _render_children(
            survey, directory, geometry.cluster_size, directory_clusters, file_clusters
        )
        yield bytes(packed)


def split_chunks(data: bytes) -> Iterator[bytes]:
    """``data`` in pieces that a literal can hold."""
    for offset in range(0, len(data), _CHUNK_SIZE):
        yield data[offset : offset + _CHUNK_SIZE]


def _render_children(
    survey: ExfatSurvey,
    directory: SurveyedDirectory,
    cluster_size: int,
    directory_clusters: Sequence[int],
    file_clusters: Sequence[int],
) -> bytes:
    packed = bytearray()
    for child in directory.children:
        if child.is_directory:
            found = survey.directories[child.index]
            modified_ns, attributes = found.node.modified_ns, ATTR_DIRECTORY
            size = found.count_clusters(cluster_size) * cluster_size
            cluster, flags = directory_clusters[child.index], FLAG_ALLOCATION_POSSIBLE
        else:
            file = survey.files[child.index]
            modified_ns, attributes, size = file.node.modified_ns, ATTR_ARCHIVE, file.size
            cluster = file_clusters[child.index]
            # NoFatChain is only for what has clusters.
            flags = FLAG_ALLOCATION_POSSIBLE | (FLAG_NO_FAT_CHAIN if cluster else 0)
        packed += pack_entry_set(
            child.name,
            child.upcased_name,
            attributes=attributes,
            flags=flags,
            first_cluster=cluster,
            size=size,
            modified=encode_timestamp(modified_ns),
        )
    return bytes(packed)
