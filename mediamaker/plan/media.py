# SPDX-License-Identifier: GPL-3.0-or-later
"""The file tree that a stick will hold, from the tree of its source.

What FAT32 can't hold as it is gets another form here: an install.wim over 4 GiB becomes parts,
as extents of the source, which Setup takes by the name install.swm.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

from mediamaker.errors import NotRepresentableError
from mediamaker.extents import Literal, Piece
from mediamaker.formats.fat import FILE_SIZE_MAX
from mediamaker.plan.identity import Identities
from mediamaker.plan.request import MediaRequest
from mediamaker.plan.split import split_wim
from mediamaker.plan.split_solid import split_solid_wim
from mediamaker.sources.kinds import SourceWim
from mediamaker.sources.tree import Entry, SourceTree
from mediamaker.units import format_size
from mediamaker.volumes.tree import DirectoryNode, TreeItem, build_tree

Path = tuple[str, ...]


@dataclass(frozen=True, slots=True)
class Media:
    """A volume's tree, and what was decided on the way to it."""

    tree: DirectoryNode
    notes: tuple[str, ...]


def build_media(
    tree: SourceTree,
    install_wims: Sequence[SourceWim],
    request: MediaRequest,
    identities: Identities,
) -> Media:
    """The tree of the stick; of ``install_wims`` those that are too large are split.

    Raises:
        NotRepresentableError: a file over the limit that can't be split; names it.
    """
    notes: list[str] = []
    wims = {source.entry.path: source for source in install_wims}
    items = list(_items(tree, wims, request, identities, notes))
    for extra in request.extras:
        pieces = (Piece(len(extra.data), Literal(extra.data)),) if extra.data else ()
        items.append(TreeItem(_existing_case(tree, extra.path), pieces))
        notes.append(extra.note)
    return Media(build_tree(items), tuple(notes))


def _items(
    tree: SourceTree,
    wims: Mapping[Path, SourceWim],
    request: MediaRequest,
    identities: Identities,
    notes: list[str],
) -> Iterator[TreeItem]:
    limit = min(request.part_size_max, FILE_SIZE_MAX)
    for entry in tree.entries:
        if entry.is_dir:
            yield TreeItem(entry.path, None, entry.modified_ns)
        elif entry.path in wims and entry.size > limit and not wims[entry.path].wim.part_count > 1:
            yield from _split(wims[entry.path], limit, identities, notes)
        else:
            _check_size(entry)
            yield TreeItem(entry.path, entry.pieces, entry.modified_ns)


def _split(
    source: SourceWim, limit: int, identities: Identities, notes: list[str]
) -> Iterator[TreeItem]:
    entry = source.entry
    guid = identities.derive_guid("split WIM", source.wim.header.guid)
    if source.solid_tables:
        parts = split_solid_wim(source.wim, source.solid_tables, entry.pieces, guid, limit)
    else:
        parts = split_wim(source.wim, entry.pieces, guid, limit)
    why = f"{entry.path_text} has {format_size(entry.size)}, a file may have {format_size(limit)}"
    if len(parts) == 1:
        notes.append(f"{why}: without its unused room it fits ({format_size(parts[0].size)})")
    else:
        sizes = ", ".join(f"{part.name} {format_size(part.size)}" for part in parts)
        notes.append(
            f"{why}: split into {len(parts)} parts ({sizes}), without copying or recompressing"
        )
    for part in parts:
        yield TreeItem((*entry.path[:-1], part.name), part.pieces, entry.modified_ns)


def _existing_case(tree: SourceTree, path: Path) -> Path:
    """``path`` with the names that its directories have in the tree already."""
    for depth in range(len(path) - 1, 0, -1):
        entry = tree.find(*path[:depth])
        if entry is not None:
            return (*entry.path, *path[depth:])
    return path


def _check_size(entry: Entry) -> None:
    if entry.size > FILE_SIZE_MAX:
        raise NotRepresentableError(
            f"{entry.path_text} has {entry.size} bytes ({format_size(entry.size)}), "
            f"FAT32 holds at most {FILE_SIZE_MAX} a file",
            hint="only an install.wim can be split; leave the file out: copy the tree without it "
            "into a folder and give that as the source",
        )
