# SPDX-License-Identifier: GPL-3.0-or-later
"""The tree of files and directories that a volume will hold, whatever its file system.

``build_tree`` turns a flat list of paths into nodes and refuses what no Windows file system
can hold: a path given twice, names that differ only in case, a file used as a directory.
What one file system can't hold (characters, lengths, sizes) is that file system's to refuse.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field

from mediamaker.errors import NotRepresentableError
from mediamaker.extents import Piece


@dataclass(frozen=True, slots=True)
class FileNode:
    """A file; ``pieces`` are its content in order, ``modified_ns`` is UTC since 1970."""

    name: str
    pieces: tuple[Piece, ...]
    modified_ns: int | None = None

    @property
    def size(self) -> int:
        """Bytes of content."""
        return sum(piece.size for piece in self.pieces)


@dataclass(frozen=True, slots=True)
class DirectoryNode:
    """A directory; the root has an empty name."""

    name: str
    children: tuple[FileNode | DirectoryNode, ...]
    modified_ns: int | None = None


@dataclass(frozen=True, slots=True)
class TreeItem:
    """One path for ``build_tree``; ``pieces`` is None for a directory."""

    path: tuple[str, ...]
    pieces: tuple[Piece, ...] | None
    modified_ns: int | None = None


@dataclass(slots=True)
class _Draft:
    """A directory while it is being filled; its keys are case keys."""

    path: tuple[str, ...]
    is_given: bool = False
    modified_ns: int | None = None
    directories: dict[str, _Draft] = field(default_factory=dict)
    files: dict[str, FileNode] = field(default_factory=dict)


def case_key(name: str) -> str:
    """What two names have in common when Windows and its file systems call them equal.

    Windows folds UTF-16 units one by one by a fixed upper-case table; mappings that would
    change the length (``ß`` to ``SS``) are not in it, nor is anything beyond the BMP.
    """
    if name.isascii():
        return name.upper()
    return "".join(_upper_unit(char) for char in name)


def show_path(path: Iterable[str]) -> str:
    r"""``\sources\boot.wim``; unprintable characters are escaped, ``\`` is the root."""
    return "\\" + "\\".join(_show_name(name) for name in path)


def build_tree(items: Iterable[TreeItem], *, modified_ns: int | None = None) -> DirectoryNode:
    """The root that holds ``items``; parents that no item names are made.

    Children are sorted by their case key, so that the order of ``items`` does not matter;
    ``modified_ns`` is the root's.

    Raises:
        NotRepresentableError: an empty path, a path given twice, names in one directory
            that differ only in case, or a file that is also used as a directory.
    """
    root = _Draft((), is_given=True, modified_ns=modified_ns)
    for item in items:
        if not item.path:
            raise NotRepresentableError("an entry of the tree has an empty path")
        parent = root
        for depth in range(1, len(item.path)):
            parent = _open_directory(parent, item.path[:depth])
        if item.pieces is None:
            draft = _open_directory(parent, item.path)
            if draft.is_given:
                raise NotRepresentableError(f"{show_path(item.path)} is in the tree twice")
            draft.is_given, draft.modified_ns = True, item.modified_ns
        else:
            name = item.path[-1]
            _check_free(parent, item.path, kind="file")
            parent.files[case_key(name)] = FileNode(name, item.pieces, item.modified_ns)
    return _finish(root)


def walk_directories(
    root: DirectoryNode,
) -> Iterator[tuple[tuple[str, ...], DirectoryNode]]:
    """Every directory with its path, parents before children, siblings in their order."""
    pending: list[tuple[tuple[str, ...], DirectoryNode]] = [((), root)]
    while pending:
        path, directory = pending.pop()
        yield path, directory
        pending.extend(
            ((*path, child.name), child)
            for child in reversed(directory.children)
            if isinstance(child, DirectoryNode)
        )


def check_case_collisions(path: tuple[str, ...], directory: DirectoryNode) -> None:
    """Refuse two children that a case-insensitive file system would take for one.

    Raises:
        NotRepresentableError: names both.
    """
    seen: dict[str, str] = {}
    for child in directory.children:
        key = case_key(child.name)
        if key in seen:
            raise _collision((*path, seen[key]), (*path, child.name))
        seen[key] = child.name


def _open_directory(parent: _Draft, path: tuple[str, ...]) -> _Draft:
    key = case_key(path[-1])
    found = parent.directories.get(key)
    if found is not None and found.path[-1] == path[-1]:
        return found
    _check_free(parent, path, kind="directory")
    return parent.directories.setdefault(key, _Draft(path))


def _check_free(parent: _Draft, path: tuple[str, ...], *, kind: str) -> None:
    key = case_key(path[-1])
    if key in parent.directories:
        other, other_kind = parent.directories[key].path, "directory"
    elif key in parent.files:
        other, other_kind = (*parent.path, parent.files[key].name), "file"
    else:
        return
    if other == path and kind != other_kind:
        raise NotRepresentableError(f"{show_path(path)} is both a file and a directory")
    raise _collision(other, path)


def _collision(one: tuple[str, ...], other: tuple[str, ...]) -> NotRepresentableError:
    if one == other:
        return NotRepresentableError(f"{show_path(one)} is in the tree twice")
    return NotRepresentableError(
        f"{show_path(one)} and {show_path(other)} differ only in case; "
        f"Windows file systems take them for one name"
    )


def _finish(root: _Draft) -> DirectoryNode:
    # Deepest first and without recursion: a hostile source may nest deeper than Python's stack.
    order = [root]
    for draft in order:
        order.extend(draft.directories.values())
    finished: dict[tuple[str, ...], DirectoryNode] = {}
    for draft in reversed(order):
        children: dict[str, FileNode | DirectoryNode] = dict(draft.files)
        for key, child in draft.directories.items():
            children[key] = finished.pop(child.path)
        finished[draft.path] = DirectoryNode(
            draft.path[-1] if draft.path else "",
            tuple(children[key] for key in sorted(children)),
            draft.modified_ns,
        )
    return finished[()]


def _upper_unit(char: str) -> str:
    upper = char.upper()
    return upper if len(upper) == 1 and ord(char) <= 0xFFFF else char


def _show_name(name: str) -> str:
    if name.isprintable():
        return name
    return "".join(
        char if char.isprintable() else char.encode("unicode_escape").decode("ascii")
        for char in name
    )
