# SPDX-License-Identifier: GPL-3.0-or-later
"""The file tree that a stick will hold, from the tree of its source.

What FAT32 can't hold as it is gets another form here: an install.wim over 4 GiB becomes parts,
as extents of the source, which Setup takes by the name install.swm.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

from mediamaker.errors import NotRepresentableError
from mediamaker.formats.wim_file import WimFile
from mediamaker.plan.identity import Identities
from mediamaker.plan.request import FAT32_FILE_SIZE_MAX, MediaRequest
from mediamaker.plan.split import split_wim
from mediamaker.sources.tree import Entry, SourceTree
from mediamaker.units import format_size
from mediamaker.volumes.tree import DirectoryNode, TreeItem, build_tree

INSTALL_WIM = ("sources", "install.wim")


@dataclass(frozen=True, slots=True)
class Media:
    """A volume's tree, and what was decided on the way to it."""

    tree: DirectoryNode
    notes: tuple[str, ...]


def build_media(
    tree: SourceTree, install_wim: WimFile | None, request: MediaRequest, identities: Identities
) -> Media:
    """The tree of the stick; ``install_wim`` is needed when sources/install.wim is too large.

    Raises:
        NotRepresentableError: a file over the limit that can't be split; names it.
    """
    notes: list[str] = []
    items = list(_items(tree, install_wim, request, identities, notes))
    return Media(build_tree(items), tuple(notes))


def _items(
    tree: SourceTree,
    install_wim: WimFile | None,
    request: MediaRequest,
    identities: Identities,
    notes: list[str],
) -> Iterator[TreeItem]:
    limit = min(request.part_size_max, FAT32_FILE_SIZE_MAX)
    for entry in tree.entries:
        if entry.is_dir:
            yield TreeItem(entry.path, None, entry.modified_ns)
        elif _is_install_wim(entry) and entry.size > limit:
            yield from _split(entry, install_wim, request, identities, notes)
        else:
            _check_size(entry)
            yield TreeItem(entry.path, entry.pieces, entry.modified_ns)


def _split(
    entry: Entry,
    install_wim: WimFile | None,
    request: MediaRequest,
    identities: Identities,
    notes: list[str],
) -> Iterator[TreeItem]:
    if install_wim is None:
        raise NotRepresentableError(
            f"{entry.path_text} has {format_size(entry.size)} and could not be read as a WIM"
        )
    guid = identities.derive_guid("split WIM", install_wim.header.guid)
    parts = split_wim(install_wim, entry.pieces, guid, request.part_size_max)
    sizes = ", ".join(f"{part.name} {format_size(part.size)}" for part in parts)
    notes.append(
        f"{entry.path_text} has {format_size(entry.size)}, FAT32 holds at most 4 GiB - 1 a file: "
        f"split into {len(parts)} parts ({sizes}) without copying or recompressing"
    )
    for part in parts:
        yield TreeItem((*entry.path[:-1], part.name), part.pieces, entry.modified_ns)


def _check_size(entry: Entry) -> None:
    if entry.size <= FAT32_FILE_SIZE_MAX:
        return
    hint = "FAT32 is the only file system that mediamaker writes so far"
    if entry.path[-1].casefold().endswith(".esd"):
        hint = (
            "a solid image can't be split yet: recompress it with `wimlib-imagex export "
            f"{entry.path[-1]} all install.wim --compress=LZX`, put that in a copy of the tree "
            "and give the folder as the source"
        )
    raise NotRepresentableError(
        f"{entry.path_text} has {entry.size} bytes ({format_size(entry.size)}), "
        f"FAT32 holds at most {FAT32_FILE_SIZE_MAX} a file",
        hint=hint,
    )


def _is_install_wim(entry: Entry) -> bool:
    return tuple(name.casefold() for name in entry.path) == INSTALL_WIM
