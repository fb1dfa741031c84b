# SPDX-License-Identifier: GPL-3.0-or-later
"""Where the files of a FAT12, FAT16 or FAT32 volume lie.

Reference: Microsoft, "FAT32 File System Specification" 1.03 (clusters count from 2; the count of
clusters alone tells the three apart; a long name lies before its short entry, last part first;
DIR_NTRes as in ``formats/fat.py``).
"""

from __future__ import annotations

import struct
from collections.abc import Iterator

from mediamaker.errors import FormatError
from mediamaker.formats.fat import (
    ATTR_DIRECTORY,
    ATTR_LONG_NAME,
    ATTR_VOLUME_ID,
    CASE_LOWER_BASE,
    CASE_LOWER_EXTENSION,
    DIRECTORY_ENTRY_COUNT_MAX,
    DIRECTORY_ENTRY_SIZE,
    FIRST_CLUSTER,
    SECTOR_SIZES,
)
from mediamaker.sources.cluster_walk import ClusterVolume, Entry
from mediamaker.sources.file_map import PRead, VolumeMap
from mediamaker.units import MIB

_HEAD_SIZE = 512
_SECTORS_PER_CLUSTER = frozenset({1, 2, 4, 8, 16, 32, 64, 128})
_FAT12_CLUSTERS_MAX, _FAT16_CLUSTERS_MAX = 4084, 65524
_FAT_SIZE_MAX = 256 * MIB
_DIRECTORY_SIZE_MAX = DIRECTORY_ENTRY_COUNT_MAX * DIRECTORY_ENTRY_SIZE
_DELETED, _END = 0xE5, 0x00
_SELF_NAMES = (b".          ", b"..         ")


def is_fat(head: bytes) -> bool:
    """Whether ``head``, the first 512 bytes of a volume, is the boot sector of a FAT volume."""
    if len(head) < _HEAD_SIZE or head[0] not in {0xEB, 0xE9}:
        return False
    sector_size, cluster_sectors, reserved, fat_count = struct.unpack_from("<HBHB", head, 11)
    return (
        sector_size in SECTOR_SIZES
        and cluster_sectors in _SECTORS_PER_CLUSTER
        and reserved > 0
        and fat_count in {1, 2}
        and head[3:11] not in {b"NTFS    ", b"EXFAT   "}
    )


def map_fat(pread: PRead, what: str) -> VolumeMap:
    """The map of the volume that ``pread`` reads; ``what`` names it in errors.

    Raises:
        FormatError: no FAT volume, or sizes that contradict each other.
    """
    return _FatVolume(pread, what).map()


class _FatVolume(ClusterVolume):
    def __init__(self, pread: PRead, what: str) -> None:
        super().__init__(pread)
        head = pread(0, _HEAD_SIZE)
        if not is_fat(head):
            raise FormatError(f"{what} is not a FAT volume")
        sector_size, cluster_sectors, reserved, fat_count, root_entries, sectors_16 = (
            struct.unpack_from("<HBHBHH", head, 11)
        )
        fat_sectors = int.from_bytes(head[22:24], "little") or int.from_bytes(head[36:40], "little")
        sectors = sectors_16 or int.from_bytes(head[32:36], "little")
        self._reserved_size = reserved * sector_size
        self._fat_count, self._fat_size = fat_count, fat_sectors * sector_size
        self._root_offset = self._reserved_size + fat_count * self._fat_size
        self._root_size = root_entries * DIRECTORY_ENTRY_SIZE
        root_sectors = -(-self._root_size // sector_size)
        self._data_offset = self._root_offset + root_sectors * sector_size
        self._cluster_size = sector_size * cluster_sectors
        count = (sectors * sector_size - self._data_offset) // self._cluster_size
        if count < 1 or not 0 < self._fat_size <= _FAT_SIZE_MAX:
            raise FormatError(f"{what}: FAT: sizes that contradict each other")
        self._end_cluster = count + FIRST_CLUSTER
        if count <= _FAT12_CLUSTERS_MAX:
            self._bits = 12
        else:
            self._bits = 16 if count <= _FAT16_CLUSTERS_MAX else 32
        self._root_cluster = int.from_bytes(head[44:48], "little") if self._bits == 32 else 0
        needed = -(-self._end_cluster * self._bits // 8)
        self._fat = pread(self._reserved_size, min(self._fat_size, needed))
        self._steps_left = 2 * len(self._fat) * 8 // self._bits

    def map(self) -> VolumeMap:
        self._add_structure("boot sector", 0, _HEAD_SIZE)
        self._add_structure("reserved sectors", _HEAD_SIZE, self._reserved_size - _HEAD_SIZE)
        for index in range(self._fat_count):
            start = self._reserved_size + index * self._fat_size
            self._add_structure(f"FAT {index + 1}", start, self._fat_size)
        if self._root_cluster:
            first = self._root_cluster
            entry = Entry("", is_directory=True, cluster=first, size=_DIRECTORY_SIZE_MAX)
            root = self._pieces(entry)
        else:
            root = ((self._root_offset, self._root_size),) if self._root_size else ()
        self._walk(self._root_cluster, root)
        return self._finish(f"FAT{self._bits}")

    def _parse_entries(self, data: bytes) -> Iterator[Entry]:
        return _parse_entries(data, is_fat32=self._bits == 32)

    def _add_system_files(self, root: bytes) -> None:
        """FAT has none."""

    def _next(self, cluster: int) -> int:
        if self._bits == 12:
            at = cluster + cluster // 2
            pair = int.from_bytes(self._fat[at : at + 2], "little")
            return pair >> 4 if cluster & 1 else pair & 0xFFF
        size = self._bits // 8
        value = int.from_bytes(self._fat[cluster * size : (cluster + 1) * size], "little")
        return value & 0x0FFFFFFF


def _parse_entries(data: bytes, *, is_fat32: bool) -> Iterator[Entry]:
    long_name = ""
    for at in range(0, len(data) - DIRECTORY_ENTRY_SIZE + 1, DIRECTORY_ENTRY_SIZE):
        entry = data[at : at + DIRECTORY_ENTRY_SIZE]
        attributes = entry[11]
        if entry[0] == _END:
            return
        if entry[0] == _DELETED:
            long_name = ""
        elif attributes & 0x3F == ATTR_LONG_NAME:
            units = entry[1:11] + entry[14:26] + entry[28:32]
            long_name = units.decode("utf-16-le", "replace") + long_name
        elif attributes & ATTR_VOLUME_ID or entry[:11] in _SELF_NAMES:
            long_name = ""
        else:
            high = int.from_bytes(entry[20:22], "little") if is_fat32 else 0
            is_directory = bool(attributes & ATTR_DIRECTORY)
            size = int.from_bytes(entry[28:32], "little")
            yield Entry(
                long_name.split("\0")[0] or _short_name(entry),
                is_directory,
                int.from_bytes(entry[26:28], "little") | high << 16,
                _DIRECTORY_SIZE_MAX if is_directory else size,
            )
            long_name = ""


def _short_name(entry: bytes) -> str:
    base = entry[:8].decode("cp437").rstrip()
    extension = entry[8:11].decode("cp437").rstrip()
    base = base.lower() if entry[12] & CASE_LOWER_BASE else base
    extension = extension.lower() if entry[12] & CASE_LOWER_EXTENSION else extension
    return f"{base}.{extension}" if extension else base
