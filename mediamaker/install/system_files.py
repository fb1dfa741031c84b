# SPDX-License-Identifier: GPL-3.0-or-later
"""Puts files on a system volume that exists, in a file that shows it (an overlay's view).

mtools writes FAT, the ntfs-3g driver NTFS: programs that know how, on a copy that costs nothing.
"""

from __future__ import annotations

import os
import shutil
import tempfile
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path

from mediamaker.errors import TargetTooSmallError, ToolError
from mediamaker.install.compose import NtfsPath
from mediamaker.install.fat_files import FatFiles
from mediamaker.install.tools import run_tool
from mediamaker.install.windows_disk import AnyFiles
from mediamaker.volumes.tree import show_path

Contents = Mapping[NtfsPath, Path | bytes]


def put_files(view: Path, files: AnyFiles, contents: Contents, scratch: Path, *, what: str) -> None:
    """Write ``contents`` to the volume shown by ``view``; ``files`` is the volume as it was.

    Raises:
        TargetTooSmallError: they don't fit. ToolError: a program is missing or failed.
    """
    with _staged(contents, scratch) as root:
        if isinstance(files, FatFiles):
            _put_fat(view, files, contents, root, what)
        else:
            _put_ntfs(view, contents, root, scratch, what)


@contextmanager
def _staged(contents: Contents, scratch: Path) -> Iterator[Path]:
    """The files as a tree, by the names that they will have."""
    with tempfile.TemporaryDirectory(prefix="system-", dir=scratch) as name:
        root = Path(name)
        for path, content in contents.items():
            target = root.joinpath(*path)
            target.parent.mkdir(parents=True, exist_ok=True)
            if isinstance(content, bytes):
                target.write_bytes(content)
            else:
                shutil.copyfile(content, target)
        yield root


def _put_fat(view: Path, files: FatFiles, contents: Contents, root: Path, what: str) -> None:
    folders: dict[str, NtfsPath] = {}
    for path in contents:
        for depth in range(1, len(path)):
            folders.setdefault("/".join(path[:depth]).casefold(), path[:depth])
    for folder in sorted(folders.values(), key=len):
        if files.find("\\".join(folder)) is None:
            _mtools("mmd", ["-i", str(view), "::/" + "/".join(folder)], what)
    by_folder: dict[NtfsPath, list[NtfsPath]] = {}
    for path in contents:
        by_folder.setdefault(path[:-1], []).append(path)
    for folder, paths in sorted(by_folder.items()):
        sources = [str(root.joinpath(*path)) for path in sorted(paths)]
        _mtools("mcopy", ["-n", "-o", "-i", str(view), *sources, "::/" + "/".join(folder)], what)


def _mtools(program: str, arguments: list[str], what: str) -> None:
    done = run_tool(program, arguments, package="mtools")
    if done.returncode == 0:
        return
    if "full" in done.said.casefold() or "no free cluster" in done.said.casefold():
        raise TargetTooSmallError(
            f"{what} has no room for the boot files ({done.said}): nothing was changed on it",
            needed_size=0,
            available_size=0,
            hint="make room on it, or take a larger system partition",
        )
    raise ToolError(f"{what}: {program} failed: {done.said}: nothing was changed on it")


def _put_ntfs(view: Path, contents: Contents, root: Path, scratch: Path, what: str) -> None:
    with tempfile.TemporaryDirectory(prefix="mount-", dir=scratch) as name:
        mountpoint = Path(name)
        done = run_tool("ntfs-3g", ["-o", "noatime", str(view), name], package="ntfs-3g")
        if done.returncode:
            raise ToolError(f"{what}: ntfs-3g can't mount it: {done.said}")
        try:
            for path in sorted(contents):
                _copy(root.joinpath(*path), _resolve(mountpoint, path), path, what)
            os.sync()
        finally:
            run_tool("fusermount3", ["-u", name], package="fuse3")


def _copy(source: Path, target: Path, path: NtfsPath, what: str) -> None:
    try:
        target.parent.mkdir(parents=True, exist_ok=True)
        shutil.copyfile(source, target)
    except OSError as error:
        raise ToolError(
            f"{what}: {show_path(path)}: {error.strerror}: nothing was changed on it"
        ) from error


def _resolve(mountpoint: Path, path: NtfsPath) -> Path:
    """``path`` below ``mountpoint``, spelled as what is there: the driver tells case apart."""
    found = mountpoint
    for name in path:
        wanted = name.casefold()
        same = (
            [item.name for item in found.iterdir() if item.name.casefold() == wanted]
            if found.is_dir()
            else []
        )
        found /= same[0] if same else name
    return found
