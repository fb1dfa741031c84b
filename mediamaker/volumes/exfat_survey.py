# SPDX-License-Identifier: GPL-3.0-or-later
"""Measure: what a tree needs on exFAT, and whether exFAT can hold it at all.

Every name, size and directory is checked here, once, before anything gets an address.
"""

from __future__ import annotations

from dataclasses import dataclass

from mediamaker.errors import NotRepresentableError, PlanError
from mediamaker.extents import Unwritten
from mediamaker.formats.exfat import (
    CLUSTER_COUNT_MAX,
    CLUSTER_SIZE_MAX,
    DIRECTORY_ENTRY_SIZE,
    DIRECTORY_SIZE_MAX,
    count_set_entries,
)
from mediamaker.formats.exfat_upcase import pack_upcase_table, upcase_name
from mediamaker.formats.fat_names import check_name
from mediamaker.units import format_size
from mediamaker.volumes.tree import DirectoryNode, FileNode, show_path, walk_directories

ROOT_ENTRY_COUNT = 3
"""Label, allocation bitmap, up-case table."""
_ENTRY_COUNT_MAX = DIRECTORY_SIZE_MAX // DIRECTORY_ENTRY_SIZE
_FILE_SIZE_MAX = CLUSTER_COUNT_MAX * CLUSTER_SIZE_MAX


@dataclass(frozen=True, slots=True)
class SurveyedFile:
    """A file with the path to show for it."""

    path: str
    node: FileNode
    size: int


@dataclass(frozen=True, slots=True)
class SurveyedChild:
    """A name in a directory, and which of the survey's directories or files it is."""

    name: str
    upcased_name: str
    is_directory: bool
    index: int


@dataclass(frozen=True, slots=True)
class SurveyedDirectory:
    """A directory; ``entry_count`` has all entries of its children's sets."""

    path: str
    node: DirectoryNode
    children: tuple[SurveyedChild, ...]
    entry_count: int

    @property
    def size(self) -> int:
        """Bytes of its entries."""
        return self.entry_count * DIRECTORY_ENTRY_SIZE

    def count_clusters(self, cluster_size: int) -> int:
        """Clusters that it takes: an empty directory has one too."""
        return max(1, -(-self.size // cluster_size))


@dataclass(frozen=True, slots=True)
class ExfatSurvey:
    """A whole tree; directory 0 is the root, parents come before children."""

    directories: tuple[SurveyedDirectory, ...]
    files: tuple[SurveyedFile, ...]

    def count_clusters(self, cluster_size: int) -> int:
        """Clusters that the up-case table, the directories and the files take."""
        return (
            count_upcase_clusters(cluster_size)
            + sum(directory.count_clusters(cluster_size) for directory in self.directories)
            + sum(-(-file.size // cluster_size) for file in self.files)
        )


def count_upcase_clusters(cluster_size: int) -> int:
    """Clusters of the up-case table."""
    return -(-len(pack_upcase_table()) // cluster_size)


def survey_tree(root: DirectoryNode) -> ExfatSurvey:
    """Check and measure ``root``.

    Raises:
        NotRepresentableError: a name, two names that the up-case table makes equal, or a
            directory with too many entries; names the full path.
    """
    directories: list[SurveyedDirectory] = []
    files: list[SurveyedFile] = []
    walked = list(walk_directories(root))
    index_by_path = {path: index for index, (path, _) in enumerate(walked)}
    for path, directory in walked:
        children: list[SurveyedChild] = []
        names: dict[str, str] = {}
        entry_count = 0 if path else ROOT_ENTRY_COUNT
        for child in directory.children:
            child_path = (*path, child.name)
            shown = show_path(child_path)
            check_name(child.name, what=shown, file_system="exFAT")
            upcased = upcase_name(child.name)
            other = names.setdefault(upcased, child.name)
            if len(names) == len(children):
                raise _collision((*path, other), child_path)
            is_directory = isinstance(child, DirectoryNode)
            index = index_by_path[child_path] if is_directory else len(files)
            children.append(SurveyedChild(child.name, upcased, is_directory, index))
            entry_count += count_set_entries(child.name)
            if isinstance(child, FileNode):
                files.append(SurveyedFile(shown, child, _check_file(child, shown)))
        if entry_count > _ENTRY_COUNT_MAX:
            raise NotRepresentableError(
                f"{show_path(path)} needs {entry_count} directory entries for its "
                f"{len(children)} names, {_ENTRY_COUNT_MAX} is exFAT's limit",
                hint="shorter names take fewer entries; or spread the files over directories",
            )
        directories.append(
            SurveyedDirectory(show_path(path), directory, tuple(children), entry_count)
        )
    return ExfatSurvey(tuple(directories), tuple(files))


def _collision(one: tuple[str, ...], other: tuple[str, ...]) -> NotRepresentableError:
    if one == other:
        return NotRepresentableError(f"{show_path(one)} is in the tree twice")
    return NotRepresentableError(
        f"{show_path(one)} and {show_path(other)} differ only in case; exFAT takes them for one "
        f"name",
        hint="rename one of them in the source",
    )


def _check_file(node: FileNode, shown: str) -> int:
    size = node.size
    if size > _FILE_SIZE_MAX:
        raise NotRepresentableError(
            f"{shown} has {size} bytes ({format_size(size)}), exFAT's limit is {_FILE_SIZE_MAX}"
        )
    if any(isinstance(piece.source, Unwritten) for piece in node.pieces):
        raise PlanError(f"{shown} has a piece that nobody writes")
    return size
