# SPDX-License-Identifier: GPL-3.0-or-later
"""Where the files of an exFAT volume lie.

Reference: Microsoft, "exFAT file system specification" 1.00: 3.1 (boot sector), 4.1 (the FAT),
6.2 and 7 (directory entries); with NoFatChain a file's clusters follow each other.
"""

from __future__ import annotations

from collections.abc import Iterator

from mediamaker.errors import FormatError
from mediamaker.formats.exfat import (
    ATTR_DIRECTORY,
    BOOT_REGION_SECTORS,
    BOOT_SECTOR_SIZE,
    CLUSTER_SIZE_MAX,
    DIRECTORY_ENTRY_SIZE,
    DIRECTORY_SIZE_MAX,
    FAT_ENTRY_SIZE,
    FIRST_CLUSTER,
    FLAG_NO_FAT_CHAIN,
    SECTOR_SIZES,
    TYPE_ALLOCATION_BITMAP,
    TYPE_FILE,
    TYPE_FILE_NAME,
    TYPE_STREAM_EXTENSION,
    TYPE_UPCASE_TABLE,
    AllocationBitmapEntry,
    ExfatBootSector,
    FileEntry,
    StreamExtensionEntry,
)
from mediamaker.formats.record import parse_record
from mediamaker.sources.cluster_walk import ClusterVolume, Entry
from mediamaker.sources.file_map import Kind, MappedFile, PRead, VolumeMap
from mediamaker.units import MIB

_NAME = b"EXFAT   "
_FAT_SIZE_MAX = 1024 * MIB
_IN_USE = 0x80


def is_exfat(head: bytes) -> bool:
    """Whether ``head``, the first 512 bytes of a volume, is the boot sector of exFAT."""
    return head[3:11] == _NAME


def map_exfat(pread: PRead, what: str) -> VolumeMap:
    """The map of the volume that ``pread`` reads; ``what`` names it in errors.

    Raises:
        FormatError: no exFAT volume, or sizes that contradict each other.
    """
    return _ExfatVolume(pread, what).map()


class _ExfatVolume(ClusterVolume):
    def __init__(self, pread: PRead, what: str) -> None:
        super().__init__(pread)
        boot = parse_record(ExfatBootSector, pread(0, BOOT_SECTOR_SIZE), what=what)
        if boot.file_system_name != _NAME:
            raise FormatError(f"{what} is not an exFAT volume")
        self._sector_size = 1 << boot.bytes_per_sector_shift
        self._cluster_size = self._sector_size << boot.sectors_per_cluster_shift
        self._fat_offset = boot.fat_offset * self._sector_size
        self._fat_size = boot.fat_length * self._sector_size
        self._data_offset = boot.cluster_heap_offset * self._sector_size
        self._end_cluster = boot.cluster_count + FIRST_CLUSTER
        self._root_cluster = boot.root_cluster
        is_sound = (
            self._sector_size in SECTOR_SIZES
            and self._cluster_size <= CLUSTER_SIZE_MAX
            and self._end_cluster * FAT_ENTRY_SIZE <= self._fat_size <= _FAT_SIZE_MAX
            and self._data_offset >= self._fat_offset + self._fat_size
        )
        if not is_sound:
            raise FormatError(f"{what}: exFAT: sizes that contradict each other")
        self._fat = pread(self._fat_offset, self._end_cluster * FAT_ENTRY_SIZE)
        self._steps_left = 2 * len(self._fat) // FAT_ENTRY_SIZE

    def map(self) -> VolumeMap:
        self._add_structure("boot sector", 0, BOOT_SECTOR_SIZE)
        region_size = BOOT_REGION_SECTORS * self._sector_size
        self._add_structure("boot region", BOOT_SECTOR_SIZE, region_size - BOOT_SECTOR_SIZE)
        self._add_structure("backup boot region", region_size, region_size)
        self._add_structure("FAT", self._fat_offset, self._fat_size)
        root = Entry("", is_directory=True, cluster=self._root_cluster, size=DIRECTORY_SIZE_MAX)
        self._walk(self._root_cluster, self._pieces(root))
        return self._finish("exFAT")

    def _parse_entries(self, data: bytes) -> Iterator[Entry]:
        return _parse_entries(data)

    def _add_system_files(self, root: bytes) -> None:
        for at in range(0, len(root) - DIRECTORY_ENTRY_SIZE + 1, DIRECTORY_ENTRY_SIZE):
            kind = root[at]
            if kind == 0:
                return
            if kind in {TYPE_ALLOCATION_BITMAP, TYPE_UPCASE_TABLE}:
                found = parse_record(AllocationBitmapEntry, root[at:], what="exFAT")
                name = "up-case table" if kind == TYPE_UPCASE_TABLE else "allocation bitmap"
                size = found.data_length
                entry = Entry(name, is_directory=False, cluster=found.first_cluster, size=size)
                pieces = self._pieces(entry)
                self._items.append(MappedFile(name, Kind.STRUCTURE, size, pieces))

    def _pieces(self, entry: Entry) -> tuple[tuple[int, int], ...]:
        if not entry.has_chain:
            count = -(-entry.size // self._cluster_size)
            if not FIRST_CLUSTER <= entry.cluster <= self._end_cluster - count:
                return ()
            if entry.is_directory:
                self._steps_left -= count
                if self._steps_left < 0 or entry.size > DIRECTORY_SIZE_MAX:
                    return ()
            return ((self._address(entry.cluster), entry.size),) if entry.size else ()
        return super()._pieces(entry)

    def _next(self, cluster: int) -> int:
        at = cluster * FAT_ENTRY_SIZE
        return int.from_bytes(self._fat[at : at + FAT_ENTRY_SIZE], "little")


def _parse_entries(data: bytes) -> Iterator[Entry]:
    position = 0
    while position + DIRECTORY_ENTRY_SIZE <= len(data) and data[position]:
        count = data[position + 1] if data[position] == TYPE_FILE else 0
        end = position + (count + 1) * DIRECTORY_ENTRY_SIZE
        if data[position] == TYPE_FILE and end <= len(data):
            entry = _parse_set(data[position:end])
            if entry is not None:
                yield entry
            position = end
        else:
            position += DIRECTORY_ENTRY_SIZE


def _parse_set(data: bytes) -> Entry | None:
    """One file; None when its entries don't belong together."""
    file = parse_record(FileEntry, data, what="exFAT")
    stream = None
    units = b""
    for at in range(DIRECTORY_ENTRY_SIZE, len(data), DIRECTORY_ENTRY_SIZE):
        entry = data[at : at + DIRECTORY_ENTRY_SIZE]
        if entry[0] == TYPE_STREAM_EXTENSION:
            stream = parse_record(StreamExtensionEntry, entry, what="exFAT")
        elif entry[0] == TYPE_FILE_NAME:
            units += entry[2:]
    if stream is None or not units:
        return None
    return Entry(
        name=units[: 2 * stream.name_length].decode("utf-16-le", "replace"),
        is_directory=bool(file.file_attributes & ATTR_DIRECTORY),
        cluster=stream.first_cluster,
        size=stream.data_length,
        has_chain=not stream.flags & FLAG_NO_FAT_CHAIN,
    )
