# SPDX-License-Identifier: GPL-3.0-or-later
"""Foreign readers of FAT volumes, and the few lines that put extents into a file for them."""

from __future__ import annotations

import datetime
import os
import subprocess
from collections.abc import Mapping
from pathlib import Path
from typing import assert_never

from dissect.fat.fat import FATFS

from mediamaker.extents import ExtentMap, FileRange, Literal, Piece, Unwritten, Zeros
from mediamaker.volumes.fat32 import Fat32Request, Fat32Volume, build_fat32
from mediamaker.volumes.tree import DirectoryNode, TreeItem, build_tree

MTOOLS_ENV = {"LC_ALL": "C.UTF-8", "PATH": os.environ["PATH"], "TZ": "UTC", "MTOOLSRC": os.devnull}


def make_piece(data: bytes) -> tuple[Piece, ...]:
    return (Piece(len(data), Literal(data)),) if data else ()


def make_tree(files: Mapping[str, bytes | None], *, modified_ns: int | None = None):
    """``{"a/b.txt": b"...", "empty_dir": None}``."""
    return build_tree(
        TreeItem(
            tuple(path.split("/")),
            None if data is None else make_piece(data),
            modified_ns,
        )
        for path, data in files.items()
    )


def make_volume(tree: DirectoryNode, size: int, **changes: object) -> Fat32Volume:
    values: dict[str, object] = {
        "size": size,
        "sector_size": 512,
        "hidden_sectors": 2048,
        "volume_label": "",
        "volume_serial": 0x1234ABCD,
        "tree": tree,
    }
    return build_fat32(Fat32Request(**(values | changes)))


def materialise(
    extents: ExtentMap, path: Path, *, files: Mapping[str, bytes] | None = None, stale: bytes = b""
) -> Path:
    """Write ``extents`` to a sparse file.

    ``stale`` is laid over the first bytes before, as what a used stick holds: where an extent
    is wrongly left out, it shows.
    """
    with path.open("wb") as image:
        image.truncate(extents.end)
        image.write(stale[: extents.end])
        for extent in extents:
            image.seek(extent.start)
            match extent.source:
                case Literal(data):
                    image.write(data)
                case Zeros():
                    if extent.start < len(stale):
                        image.write(bytes(min(extent.end, len(stale)) - extent.start))
                case FileRange(source_id, offset):
                    image.write((files or {})[source_id][offset : offset + extent.size])
                case Unwritten():
                    pass
                case other:
                    assert_never(other)
    return path


def check_fsck(image: Path) -> None:
    """fsck.fat finds nothing to say but its banner and its summary."""
    done = subprocess.run(["fsck.fat", "-n", image], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    assert not done.stderr, done.stderr
    lines = done.stdout.splitlines()
    assert len(lines) == 2, done.stdout
    assert lines[0].startswith("fsck.fat "), done.stdout
    assert lines[1].startswith(f"{image}: "), done.stdout


def read_with_dissect(image: Path) -> dict[str, bytes | None]:
    """``{"a/b.txt": content, "dir": None}`` as dissect.fat sees it."""
    with image.open("rb") as file:
        pending = [("", FATFS(file).root)]
        found: dict[str, bytes | None] = {}
        while pending:
            prefix, directory = pending.pop()
            for entry in directory.iterdir():
                if entry.is_volume_id() or entry.name in {".", ".."}:
                    continue
                path = prefix + _show_dissect_name(entry)
                assert path not in found
                if entry.is_directory():
                    found[path] = None
                    pending.append((path + "/", entry))
                else:
                    found[path] = entry.open().read() if entry.size else b""
                    assert len(found[path]) == entry.size
        return found


def _show_dissect_name(entry) -> str:
    if entry.ldirents:
        return entry.name
    # dissect.fat does not know the case flags.
    base, dot, extension = entry.name.partition(".")
    base = base.lower() if entry.dirent.DIR_NTRes & 0x08 else base
    return base + dot + (extension.lower() if entry.dirent.DIR_NTRes & 0x10 else extension)


def run_mtools(tool: str, image: Path, *arguments: str | Path) -> str:
    done = subprocess.run(
        [tool, "-i", image, *arguments],
        capture_output=True,
        text=True,
        check=False,
        env=MTOOLS_ENV,
    )
    assert done.returncode == 0, done.stderr
    assert not done.stderr, done.stderr
    return done.stdout


def read_with_mtools(image: Path, folder: Path) -> dict[str, bytes | None]:
    """The same from mtools, which copies the whole tree out; it knows case flags.

    It does not know UTF-16 surrogates: it shows each unit of a pair as ``_``.
    """
    folder.mkdir()
    listing = run_mtools("mdir", image, "-a", "-b", "::")
    if listing.strip():
        run_mtools("mcopy", image, "-s", "-m", "-n", "::*", folder)
    return {
        path.relative_to(folder).as_posix(): None if path.is_dir() else path.read_bytes()
        for path in folder.rglob("*")
    }


def list_expected(tree: DirectoryNode) -> dict[str, bytes | None]:
    """What a reader must see of ``tree``, whose pieces are literals and zeros."""
    expected: dict[str, bytes | None] = {}
    pending = [("", tree)]
    while pending:
        prefix, directory = pending.pop()
        for child in directory.children:
            path = prefix + child.name
            if isinstance(child, DirectoryNode):
                expected[path] = None
                pending.append((path + "/", child))
            else:
                expected[path] = b"".join(
                    piece.source.data if isinstance(piece.source, Literal) else bytes(piece.size)
                    for piece in child.pieces
                )
    return expected


def ns(*date: int) -> int:
    when = datetime.datetime(*date, tzinfo=datetime.UTC)
    return int((when - datetime.datetime(1970, 1, 1, tzinfo=datetime.UTC)).total_seconds()) * 10**9
