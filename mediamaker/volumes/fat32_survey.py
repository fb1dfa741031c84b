# SPDX-License-Identifier: GPL-3.0-or-later
"""Measure: what a tree needs on FAT32, and whether FAT32 can hold it at all.

Every name, size and directory is checked here, once, before anything gets an address.
"""

from __future__ import annotations

from dataclasses import dataclass

from mediamaker.errors import NotRepresentableError, PlanError
from mediamaker.extents import Unwritten
from mediamaker.formats.fat import (
    DIRECTORY_ENTRY_COUNT_MAX,
    DIRECTORY_ENTRY_SIZE,
    FILE_SIZE_MAX,
)
from mediamaker.formats.fat_names import EncodedName, check_name, encode_names
from mediamaker.units import format_size
from mediamaker.volumes.tree import (
    DirectoryNode,
    FileNode,
    check_case_collisions,
    show_path,
    walk_directories,
)

_EARLY_NAMES = ("bootmgr", "bootmgr.efi", "boot", "efi")
"""What firmware and boot managers read is placed first: old BIOSes don't see past 8 GiB or
2 TiB, and a boot trace is then short."""


@dataclass(frozen=True, slots=True)
class SurveyedFile:
    """A file with the path to show for it."""

    path: str
    node: FileNode
    size: int


@dataclass(frozen=True, slots=True)
class SurveyedChild:
    """A name in a directory, and which of the survey's directories or files it is."""

    name: EncodedName
    is_directory: bool
    index: int


@dataclass(frozen=True, slots=True)
class SurveyedDirectory:
    """A directory; ``children`` are in its node's order, ``entry_count`` has slots and dots."""

    path: str
    node: DirectoryNode
    parent_index: int
    children: tuple[SurveyedChild, ...]
    entry_count: int


@dataclass(frozen=True, slots=True)
class Survey:
    """A whole tree; directory 0 is the root, parents come before children."""

    directories: tuple[SurveyedDirectory, ...]
    files: tuple[SurveyedFile, ...]
    placement: tuple[int, ...]
    """Indices of ``files`` in the order in which they lie in the volume."""

    def count_clusters(self, cluster_size: int) -> int:
        """Clusters that the directories and files take."""
        return sum(count_directory_clusters(d, cluster_size) for d in self.directories) + sum(
            -(-file.size // cluster_size) for file in self.files
        )


def count_directory_clusters(directory: SurveyedDirectory, cluster_size: int) -> int:
    """Clusters of one directory."""
    return -(-directory.entry_count * DIRECTORY_ENTRY_SIZE // cluster_size)


def survey_tree(root: DirectoryNode) -> Survey:
    """Check and measure ``root``.

    Raises:
        NotRepresentableError: a name, a case collision, a file over 4 GiB - 1 or a directory
            with too many entries; names the full path.
    """
    directories: list[SurveyedDirectory] = []
    files: list[SurveyedFile] = []
    ranked: list[tuple[int, int]] = []
    walked = list(walk_directories(root))
    index_by_path = {path: index for index, (path, _) in enumerate(walked)}
    for path, directory in walked:
        check_case_collisions(path, directory)
        for child in directory.children:
            check_name(child.name, what=show_path((*path, child.name)))
        children: list[SurveyedChild] = []
        names = encode_names(child.name for child in directory.children)
        for name, child in zip(names, directory.children, strict=True):
            child_path = (*path, child.name)
            if isinstance(child, DirectoryNode):
                children.append(
                    SurveyedChild(name, is_directory=True, index=index_by_path[child_path])
                )
                continue
            shown = show_path(child_path)
            children.append(SurveyedChild(name, is_directory=False, index=len(files)))
            ranked.append((_rank(child_path), len(files)))
            files.append(SurveyedFile(shown, child, _check_file(child, shown)))
        # The root holds the label; any other directory holds "." and "..".
        entry_count = sum(name.entry_count for name in names) + (2 if path else 1)
        if entry_count > DIRECTORY_ENTRY_COUNT_MAX:
            raise NotRepresentableError(
                f"{show_path(path)} needs {entry_count} directory entries for its "
                f"{len(names)} names, {DIRECTORY_ENTRY_COUNT_MAX} is FAT32's limit",
                hint="shorter names take fewer entries; or spread the files over directories",
            )
        parent_index = index_by_path[path[:-1]] if path else 0
        directories.append(
            SurveyedDirectory(
                show_path(path), directory, parent_index, tuple(children), entry_count
            )
        )
    placement = tuple(index for _, index in sorted(ranked))
    return Survey(tuple(directories), tuple(files), placement)


def _check_file(node: FileNode, shown: str) -> int:
    size = node.size
    if size > FILE_SIZE_MAX:
        raise NotRepresentableError(
            f"{shown} has {size} bytes ({format_size(size)}), FAT32's limit is {FILE_SIZE_MAX}",
            hint="an install.wim can be split into .swm parts; other files have to be left out",
        )
    if any(isinstance(piece.source, Unwritten) for piece in node.pieces):
        raise PlanError(f"{shown} has a piece that nobody writes")
    return size


def _rank(path: tuple[str, ...]) -> int:
    name = path[0].lower()
    return _EARLY_NAMES.index(name) if name in _EARLY_NAMES else len(_EARLY_NAMES)
