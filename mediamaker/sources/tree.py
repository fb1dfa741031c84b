# SPDX-License-Identifier: GPL-3.0-or-later
"""The files of a source, whatever it is, each as byte ranges of the input files."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from typing import Literal as Choice

from mediamaker.errors import FormatError
from mediamaker.extents import Piece
from mediamaker.sources.identity import SourceFile

TreeFormat = Choice["udf", "joliet", "rockridge", "iso9660", "folder"]


@dataclass(frozen=True, slots=True)
class Entry:
    """A file or a directory; ``pieces`` are coalesced and add up to ``size`` bytes."""

    path: tuple[str, ...]
    is_dir: bool
    size: int
    pieces: tuple[Piece, ...]
    modified_ns: int | None
    """UTC nanoseconds since the epoch; None where the source does not say."""

    @property
    def path_text(self) -> str:
        """``sources/boot.wim``."""
        return "/".join(self.path)


@dataclass(frozen=True, slots=True)
class SourceTree:
    """Entries sorted by path, so that parents come before their children; no root entry."""

    format: TreeFormat
    label: str
    entries: tuple[Entry, ...]
    files: tuple[SourceFile, ...]
    _index: dict[tuple[str, ...], Entry] = field(init=False, repr=False, compare=False)

    def __post_init__(self) -> None:
        index: dict[tuple[str, ...], Entry] = {}
        for entry in self.entries:
            index.setdefault(_fold(entry.path), entry)
        object.__setattr__(self, "_index", index)

    def find(self, *path: str) -> Entry | None:
        """The entry at ``path``, upper and lower case being equal: ``find("efi", "boot")``.

        Of entries that differ only in case the first by code points is found.
        """
        return self._index.get(_fold(path))

    def find_file(self, *path: str) -> Entry | None:
        """As :meth:`find`, but a directory does not count."""
        entry = self.find(*path)
        return None if entry is None or entry.is_dir else entry

    def children(self, *path: str) -> Iterator[Entry]:
        """What lies directly in the directory ``path``."""
        prefix, depth = _fold(path), len(path)
        for entry in self.entries:
            if len(entry.path) == depth + 1 and _fold(entry.path[:depth]) == prefix:
                yield entry


def build_source_tree(
    tree_format: TreeFormat,
    label: str,
    entries: Iterable[Entry],
    files: Iterable[SourceFile],
    *,
    what: str,
) -> SourceTree:
    """Sort and check entries; ``what`` names the source in errors.

    Raises:
        FormatError: a name that is no file name, a path twice, or one without its directory.
    """
    ordered = sorted(entries, key=lambda entry: entry.path)
    seen: dict[tuple[str, ...], Entry] = {}
    for entry in ordered:
        for name in entry.path:
            check_name(name, what=f"{what}: {entry.path_text!r}")
        if entry.path in seen:
            raise FormatError(f"{what}: {entry.path_text!r} is there twice")
        parent = seen.get(entry.path[:-1])
        if len(entry.path) > 1 and (parent is None or not parent.is_dir):
            raise FormatError(f"{what}: {entry.path_text!r} lies in no directory")
        seen[entry.path] = entry
    return SourceTree(tree_format, label, tuple(ordered), tuple(files))


def check_name(name: str, *, what: str) -> None:
    """Refuse what can't be one step of a path.

    Raises:
        FormatError: it is empty, ``.`` or ``..``, or holds ``/``, NUL or half a character.
    """
    if name in {"", ".", ".."}:
        raise FormatError(f"{what}: {name!r} can't be a file name")
    for character in name:
        if character in "/\0" or 0xD800 <= ord(character) <= 0xDFFF:
            raise FormatError(f"{what}: the name {name!r} holds {character!r}")


def _fold(path: tuple[str, ...]) -> tuple[str, ...]:
    return tuple(name.casefold() for name in path)
