# SPDX-License-Identifier: GPL-3.0-or-later
"""A folder as a source: an unpacked or mounted ISO, or files of one's own.

A symbolic link to a file inside the folder stands for that file, as FAT knows no links. Every
other link is refused by name: one that leads outside would put a stranger's file on the stick,
one to a directory could form a loop. So are sockets, pipes and devices.
"""

from __future__ import annotations

import os
import stat
from pathlib import Path

from mediamaker.errors import SourceError
from mediamaker.extents import FileRange, Piece
from mediamaker.sources.identity import SourceFile, describe_file_kind, identify
from mediamaker.sources.tree import Entry, SourceTree, build_source_tree

ENTRY_COUNT_MAX = 200_000
DEPTH_MAX = 128


def folder_source_id(path: tuple[str, ...]) -> str:
    """The source id of a folder's file at ``path``."""
    return "folder/" + "/".join(path)


def read_folder(path: Path) -> SourceTree:
    """Every file and directory below ``path``, sorted; each file is a source of its own.

    Raises:
        SourceError: it is no readable folder, or holds what can't be copied; names the path.
    """
    root = _resolve_root(path)
    entries: list[Entry] = []
    files: list[SourceFile] = []
    pending: list[tuple[str, ...]] = [()]
    while pending:
        parent = pending.pop()
        for item in _list_directory(root.joinpath(*parent)):
            child = (*parent, item.name)
            if len(entries) >= ENTRY_COUNT_MAX or len(child) > DEPTH_MAX:
                raise SourceError(
                    f"{path}: at {'/'.join(child)!r}: more than {ENTRY_COUNT_MAX} files, or "
                    f"directories deeper than {DEPTH_MAX}"
                )
            if item.is_dir(follow_symlinks=False):
                modified_ns = item.stat(follow_symlinks=False).st_mtime_ns
                entries.append(
                    Entry(child, is_dir=True, size=0, pieces=(), modified_ns=modified_ns)
                )
                pending.append(child)
                continue
            file = identify(folder_source_id(child), _resolve_file(root, Path(item.path), item))
            pieces = (Piece(file.size, FileRange(file.source_id, 0)),) if file.size else ()
            entries.append(
                Entry(child, is_dir=False, size=file.size, pieces=pieces, modified_ns=file.mtime_ns)
            )
            files.append(file)
    files.sort(key=lambda file: file.source_id)
    return build_source_tree("folder", "", entries, files, what=str(path))


def _resolve_root(path: Path) -> Path:
    try:
        root = path.resolve(strict=True)
    except (OSError, RuntimeError, ValueError) as error:
        raise SourceError(f"{path}: no such folder", hint="check the path") from error
    if not root.is_dir():
        raise SourceError(f"{path}: expected a folder, got a file")
    return root


def _list_directory(directory: Path) -> list[os.DirEntry[str]]:
    try:
        with os.scandir(directory) as found:
            return sorted(found, key=lambda item: item.name)
    except OSError as error:
        raise SourceError(f"{directory}: can't be listed: {error.strerror}") from error


def _resolve_file(root: Path, path: Path, item: os.DirEntry[str]) -> Path:
    """The regular file that ``item`` is or leads to."""
    try:
        mode = item.stat(follow_symlinks=False).st_mode
        if stat.S_ISREG(mode):
            return path
        if not stat.S_ISLNK(mode):
            raise SourceError(
                f"{path}: {describe_file_kind(mode)} can't be copied", hint="remove it first"
            )
        target = path.resolve(strict=True)
    except (OSError, RuntimeError) as error:
        raise SourceError(f"{path}: can't be followed or read: {error}") from error
    if not target.is_relative_to(root):
        raise SourceError(
            f"{path}: a symbolic link that leads outside the folder, to {target}",
            hint="put a copy of the file in its place",
        )
    if not target.is_file():
        raise SourceError(
            f"{path}: a symbolic link to {target}, which is not a file",
            hint="put a copy of the directory in its place",
        )
    return target
