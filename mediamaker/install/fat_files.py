# SPDX-License-Identifier: GPL-3.0-or-later
"""Files of a FAT volume that is in a disk somewhere, read through a function; nothing mounted.

For the EFI system partition of an installed system, whoever made it. Reference: Microsoft, "FAT32
File System Specification" 1.03 (clusters count from 2; the count of clusters alone tells FAT12,
FAT16 and FAT32 apart; a long name lies before its short entry, last part first).
"""

from __future__ import annotations

import struct
from collections.abc import Callable, Iterator
from dataclasses import dataclass

from mediamaker.errors import FormatError

PRead = Callable[[int, int], bytes]

_HEAD_SIZE = 90
_ENTRY_SIZE = 32
_LONG_NAME = 0x0F
_DIRECTORY, _LABEL = 0x10, 0x08
_DELETED, _END = 0xE5, 0x00
_FAT12_CLUSTERS_MAX, _FAT16_CLUSTERS_MAX = 4084, 65524
_SECTOR_SIZES = (512, 1024, 2048, 4096)
_DIRECTORY_SIZE_MAX = 65536 * _ENTRY_SIZE
_FAT_SIZE_MAX = 1 << 30


@dataclass(frozen=True, slots=True)
class FatFile:
    """A file or directory."""

    path: str
    is_directory: bool
    cluster: int
    size: int


class FatFiles:
    """The files of the volume that ``pread`` reads; ``what`` names it in errors."""

    def __init__(self, pread: PRead, what: str) -> None:
        self._pread = pread
        self._what = what
        head = pread(0, _HEAD_SIZE)
        sector_size, cluster_sectors, reserved, fat_count, root_entries, sectors = (
            struct.unpack_from("<HBHBHH", head, 11)
        )
        fat_sectors = int.from_bytes(head[22:24], "little")
        sectors = sectors or int.from_bytes(head[32:36], "little")
        fat_sectors = fat_sectors or int.from_bytes(head[36:40], "little")
        is_sound = (
            sector_size in _SECTOR_SIZES
            and cluster_sectors in {1, 2, 4, 8, 16, 32, 64, 128}
            and reserved
            and fat_count
            and fat_sectors
            and head[0] in {0xEB, 0xE9}
        )
        if not is_sound:
            raise FormatError(f"{what} is not a FAT volume")
        self.cluster_size = sector_size * cluster_sectors
        self._fat_offset = reserved * sector_size
        fat_size = fat_sectors * sector_size
        self._root_offset = self._fat_offset + fat_count * fat_size
        self._root_size = root_entries * _ENTRY_SIZE
        self._data_offset = self._root_offset + -(-self._root_size // sector_size) * sector_size
        self._cluster_count = (sectors * sector_size - self._data_offset) // self.cluster_size
        if self._cluster_count < 1 or fat_size > _FAT_SIZE_MAX:
            raise FormatError(f"{what}: FAT: sizes that contradict each other")
        if self._cluster_count <= _FAT12_CLUSTERS_MAX:
            self._bits = 12
        elif self._cluster_count <= _FAT16_CLUSTERS_MAX:
            self._bits = 16
        else:
            self._bits = 32
        self._root_cluster = int.from_bytes(head[44:48], "little") if self._bits == 32 else 0
        self._fat = pread(self._fat_offset, min(fat_size, (self._cluster_count + 2) * 4))

    def find(self, path: str) -> FatFile | None:
        """The file at ``path``, any case; None when it is not there."""
        found = FatFile("\\", True, self._root_cluster, 0)  # noqa: FBT003 - a record's fields
        for part in path.replace("/", "\\").split("\\"):
            if not part:
                continue
            if not found.is_directory:
                return None
            entries = self._entries(found)
            child = next((item for name, item in entries if name.upper() == part.upper()), None)
            if child is None:
                return None
            found = child
        return found

    def read_all(self, file: FatFile, size_max: int) -> bytes:
        """The whole file.

        Raises:
            FormatError: it is over ``size_max`` bytes, or its chain of clusters is broken.
        """
        if file.size > size_max:
            raise FormatError(
                f"{self._what}: {file.path}: expected at most {size_max} bytes, got {file.size}"
            )
        data = self.read(file, 0, file.size)
        if len(data) < file.size:
            raise FormatError(f"{self._what}: {file.path}: its chain of clusters is too short")
        return data

    def read(self, file: FatFile, offset: int, size: int) -> bytes:
        """At most ``size`` bytes from ``offset`` on."""
        end = min(offset + size, file.size)
        pieces: list[bytes] = []
        position = 0
        for cluster in self._chain(file.cluster, end):
            low, high = max(offset, position), min(end, position + self.cluster_size)
            if low < high:
                pieces.append(self._pread(self._address(cluster) + low - position, high - low))
            position += self.cluster_size
        return b"".join(pieces)

    def is_free(self, offset: int) -> bool:
        """Whether the byte at ``offset`` of the volume is in a cluster that nothing uses."""
        if offset < self._data_offset:
            return False
        cluster = (offset - self._data_offset) // self.cluster_size + 2
        return cluster < self._cluster_count + 2 and self._next(cluster) == 0

    def _entries(self, directory: FatFile) -> Iterator[tuple[str, FatFile]]:
        """Each entry, under its long name and under its short one."""
        if directory.cluster == 0:
            data = self._pread(self._root_offset, self._root_size)
        else:
            data = b"".join(
                self._pread(self._address(cluster), self.cluster_size)
                for cluster in self._chain(directory.cluster, _DIRECTORY_SIZE_MAX)
            )
        long_name = ""
        for at in range(0, len(data) - _ENTRY_SIZE + 1, _ENTRY_SIZE):
            entry = data[at : at + _ENTRY_SIZE]
            if entry[0] == _END:
                return
            if entry[0] == _DELETED:
                long_name = ""
                continue
            if entry[11] & 0x3F == _LONG_NAME:
                units = entry[1:11] + entry[14:26] + entry[28:32]
                long_name = units.decode("utf-16-le", "replace") + long_name
                continue
            if not entry[11] & _LABEL:
                high = int.from_bytes(entry[20:22], "little") if self._bits == 32 else 0
                name = entry[:8].decode("latin-1").rstrip()
                extension = entry[8:11].decode("latin-1").rstrip()
                short = f"{name}.{extension}" if extension else name
                shown = long_name.split("\0")[0] or short
                item = FatFile(
                    f"{directory.path.rstrip(chr(92))}\\{shown}",
                    bool(entry[11] & _DIRECTORY),
                    int.from_bytes(entry[26:28], "little") | high << 16,
                    int.from_bytes(entry[28:32], "little"),
                )
                yield shown, item
                yield short, item
            long_name = ""

    def _chain(self, cluster: int, size: int) -> Iterator[int]:
        for _ in range(-(-size // self.cluster_size)):
            if not 2 <= cluster < self._cluster_count + 2:
                return
            yield cluster
            cluster = self._next(cluster)

    def _next(self, cluster: int) -> int:
        if self._bits == 12:
            at = cluster + cluster // 2
            pair = int.from_bytes(self._fat[at : at + 2], "little")
            return int(pair >> 4 if cluster & 1 else pair & 0xFFF)
        size = self._bits // 8
        value = int.from_bytes(self._fat[cluster * size : (cluster + 1) * size], "little")
        return int(value & 0x0FFFFFFF)

    def _address(self, cluster: int) -> int:
        return int(self._data_offset + (cluster - 2) * self.cluster_size)
