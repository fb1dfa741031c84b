# SPDX-License-Identifier: GPL-3.0-or-later
"""The walk that FAT and exFAT share: directories by their entries, files by their clusters.

Clusters count from 2 and lie one after the other. Each entry leads to a cluster, and from there
to the next one; what differs is how an entry and a next cluster are read.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterable, Iterator
from dataclasses import dataclass

from mediamaker.formats.fat import FIRST_CLUSTER
from mediamaker.sources.file_map import (
    FILE_COUNT_MAX,
    Kind,
    MappedFile,
    PRead,
    VolumeMap,
    cut_pieces,
)


@dataclass(frozen=True, slots=True)
class Entry:
    """A file or directory as its directory has it.

    ``size`` of a directory is the most it may have where the entry doesn't say. Without
    ``has_chain`` the clusters follow each other.
    """

    name: str
    is_directory: bool
    cluster: int
    size: int
    has_chain: bool = True


class ClusterVolume(ABC):
    """A volume whose files lie in clusters. Readers set what is declared here, then walk."""

    _cluster_size: int
    _end_cluster: int
    _data_offset: int
    """Where the first cluster lies."""
    _steps_left: int
    """A sound volume has no cluster twice; a damaged one must not cost more than a sound one."""

    def __init__(self, pread: PRead) -> None:
        self._pread = pread
        self._items: list[MappedFile] = []
        self._problems: list[str] = []

    @abstractmethod
    def _parse_entries(self, data: bytes) -> Iterable[Entry]:
        """What a directory with this content holds."""

    @abstractmethod
    def _next(self, cluster: int) -> int:
        """What follows a cluster of the volume; no cluster of it at the end of a chain."""

    @abstractmethod
    def _add_system_files(self, root: bytes) -> None:
        """What the root directory names that is not a file."""

    def _walk(self, root_cluster: int, root: tuple[tuple[int, int], ...]) -> None:
        """Everything below the root directory, which has these pieces."""
        waiting = [("\\", root)]
        seen = {root_cluster}
        while waiting:
            path, pieces = waiting.pop()
            size = sum(size for _, size in pieces)
            self._items.append(MappedFile(path, Kind.DIRECTORY, size, pieces))
            data = b"".join(self._pread(start, size) for start, size in pieces)
            if path == "\\":
                self._add_system_files(data)
            for entry in self._parse_entries(data):
                name = path.rstrip("\\") + "\\" + entry.name
                if len(self._items) >= FILE_COUNT_MAX:
                    self._problems.append(f"more than {FILE_COUNT_MAX} files: the rest is left out")
                    return
                if not entry.is_directory:
                    self._add_file(name, entry)
                elif entry.cluster in seen:
                    self._problems.append(f"{name}: it is another directory at the same time")
                else:
                    seen.add(entry.cluster)
                    waiting.append((name, self._pieces(entry)))

    def _add_file(self, name: str, entry: Entry) -> None:
        found = self._pieces(entry)
        if sum(size for _, size in found) < entry.size:
            self._problems.append(f"{name}: its chain of clusters is too short")
        self._items.append(MappedFile(name, Kind.FILE, entry.size, found))

    def _add_structure(self, name: str, start: int, size: int) -> None:
        if size > 0:
            self._items.append(MappedFile(name, Kind.STRUCTURE, size, ((start, size),)))

    def _pieces(self, entry: Entry) -> tuple[tuple[int, int], ...]:
        """Where an entry with a chain lies."""
        count = -(-entry.size // self._cluster_size)
        return cut_pieces(self._chain(entry.cluster, count), entry.size)

    def _chain(self, cluster: int, count: int) -> Iterator[tuple[int, int]]:
        for _ in range(count):
            if not FIRST_CLUSTER <= cluster < self._end_cluster or self._steps_left <= 0:
                return
            self._steps_left -= 1
            yield self._address(cluster), self._cluster_size
            cluster = self._next(cluster)

    def _address(self, cluster: int) -> int:
        return self._data_offset + (cluster - FIRST_CLUSTER) * self._cluster_size

    def _finish(self, file_system: str) -> VolumeMap:
        return VolumeMap(file_system, tuple(self._items), tuple(self._problems))
