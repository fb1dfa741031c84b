# SPDX-License-Identifier: GPL-3.0-or-later
"""Finds files of an image as Windows would, without regard to case, through libwim.

libwim compares names exactly on Linux, so each directory on the way is listed once.
"""

from __future__ import annotations

from mediamaker.errors import UsageError
from mediamaker.wimlib.flags import IterateFlags
from mediamaker.wimlib.tree import DirEntry
from mediamaker.wimlib.wim import Wim

ATTRIBUTE_DIRECTORY = 0x10
ATTRIBUTE_REPARSE_POINT = 0x400


class ImageTree:
    """The tree of an image of an open WIM, also as it was changed in memory."""

    def __init__(self, wim: Wim, number: int) -> None:
        self._wim = wim
        self._number = number
        self._children: dict[str, dict[str, DirEntry]] = {}

    def find(self, path: str) -> DirEntry | None:
        """What is at ``path`` (names parted by ``/``); None when there is no such thing.

        Raises:
            SourceError: the image can't be read.
        """
        where, entry = "/", None
        for name in path.split("/"):
            if not name:
                continue
            if entry is not None and not is_plain_directory(entry):
                return None
            entry = self._list(where).get(name.casefold())
            if entry is None:
                return None
            where = entry.path
        return entry

    def walk(self, path: str) -> tuple[DirEntry, ...]:
        """What is at and below ``path``, parents first; nothing when it is not there."""
        entry = self.find(path)
        if entry is None:
            return ()
        return self._wim.iterate_dir_tree(self._number, entry.path, IterateFlags.RECURSIVE)

    def place(self, path: str) -> str:
        """``path`` written as the image writes it, as far as it is there.

        What is added under this name replaces what Windows would call the same file.
        """
        names = [name for name in path.split("/") if name]
        for count in range(len(names), 0, -1):
            found = self.find("/".join(names[:count]))
            if found is not None:
                if count < len(names) and not is_plain_directory(found):
                    raise UsageError(f"{path}: {found.path} in the image is not a directory")
                return "/".join([found.path, *names[count:]])
        return "/" + "/".join(names)

    def _list(self, directory: str) -> dict[str, DirEntry]:
        if directory not in self._children:
            entries = self._wim.iterate_dir_tree(self._number, directory, IterateFlags.CHILDREN)
            listed: dict[str, DirEntry] = {}
            for entry in entries:
                listed.setdefault(entry.name.casefold(), entry)
            self._children[directory] = listed
        return self._children[directory]


def is_plain_directory(entry: DirEntry) -> bool:
    """A directory that has its children itself: no junction."""
    kind = entry.attributes & (ATTRIBUTE_DIRECTORY | ATTRIBUTE_REPARSE_POINT)
    return kind == ATTRIBUTE_DIRECTORY


def is_plain_file(entry: DirEntry) -> bool:
    """A file that has its content itself."""
    return not entry.attributes & (ATTRIBUTE_DIRECTORY | ATTRIBUTE_REPARSE_POINT)


def data_size(entry: DirEntry) -> int:
    """Bytes of its unnamed stream."""
    return next((stream.size for stream in entry.streams if not stream.name), 0)
