# SPDX-License-Identifier: GPL-3.0-or-later
"""Fills a small NTFS volume (recovery, BIOS system) with files that are here, without root.

The files become an image in memory, which libwim applies to the volume: what writes Windows'
own volume writes this one, no driver is mounted, and a big file is copied once. Directories and
files given as bytes have the time that is asked for; files given by path keep their own.
"""

from __future__ import annotations

import os
import tempfile
import threading
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from mediamaker.errors import TargetIOError, UsageError
from mediamaker.execute.progress import OnEvent, ignore_event
from mediamaker.sources.identity import open_source
from mediamaker.volumes.tree import case_key, show_path
from mediamaker.wim.apply import check_empty_volume, extract_whole
from mediamaker.wim.meter import NotCarried, WimMeter
from mediamaker.wimlib.flags import AddFlags, ExtractFlags
from mediamaker.wimlib.update import Add
from mediamaker.wimlib.wim import Wim

NtfsPath = tuple[str, ...]
_NAME_LENGTH_MAX: Final = 255
_BAD_CHARACTERS: Final = frozenset('/\\:*?"<>|\0')


@dataclass(frozen=True, slots=True, kw_only=True)
class ComposeResult:
    """``raw_size`` bytes of contents in ``file_count`` files were written."""

    file_count: int
    raw_size: int
    not_carried: tuple[NotCarried, ...] = ()
    warnings: tuple[str, ...] = ()


def compose_ntfs(
    volume: Path,
    tree: Mapping[NtfsPath, Path | bytes],
    *,
    scratch: Path,
    modified_ns: int = 0,
    is_held: bool = False,
    on_event: OnEvent = ignore_event,
    cancel: threading.Event | None = None,
) -> ComposeResult:
    """Put ``tree`` (paths on the volume: a file here, or bytes) on the empty NTFS ``volume``.

    ``scratch`` is a directory here, for the files given as bytes. ``modified_ns`` is the time of
    those and of the directories, in nanoseconds since 1970. ``is_held``: the caller has the whole
    disk open with O_EXCL.

    Raises:
        UsageError: two paths that Windows takes for the same, or a name that NTFS can't have.
        SourceError: a file can't be read.
        TargetRefusedError: the volume is not empty or in use; TargetIOError: writing failed.
    """
    check_ntfs_paths(tree)
    check_empty_volume(volume, is_held=is_held)
    meter = WimMeter(on_event, cancel=cancel)
    with (
        staged_files(tree, scratch, modified_ns=modified_ns) as commands,
        Wim.create("none", on_event=meter) as wim,
    ):
        number = wim.add_empty_image("volume")
        wim.update_image(number, commands)
        extract_whole(wim, number, volume, ExtractFlags.NTFS, meter)
    return ComposeResult(
        file_count=len(tree),
        raw_size=meter.raw_size,
        not_carried=meter.not_carried(),
        warnings=tuple(meter.warnings),
    )


@contextmanager
def staged_files(
    tree: Mapping[NtfsPath, Path | bytes], scratch: Path, *, modified_ns: int
) -> Iterator[tuple[Add, ...]]:
    """The commands that add ``tree`` to an image; what they name is there for the block.

    First the directories and the files given as bytes, as one tree; then the files given by path.

    Raises:
        SourceError: a file is not there or can't be read; TargetIOError: no room in ``scratch``.
    """
    commands: list[Add] = []
    for path, content in tree.items():
        if isinstance(content, Path):
            os.close(open_source(content))
            commands.append(Add(content, "/" + "/".join(path), flags=AddFlags.DEREFERENCE))
    try:
        with tempfile.TemporaryDirectory(prefix="volume-", dir=scratch) as name:
            root = Path(name)
            directories = {root}
            for path, content in sorted(tree.items()):
                target = root.joinpath(*path)
                target.parent.mkdir(parents=True, exist_ok=True)
                directories.update(
                    parent for parent in target.parents if parent.is_relative_to(root)
                )
                if isinstance(content, bytes):
                    target.write_bytes(content)
                    os.utime(target, ns=(modified_ns, modified_ns))
            for directory in sorted(directories, reverse=True):
                os.utime(directory, ns=(modified_ns, modified_ns))
            yield (Add(root, "/"), *commands)
    except OSError as error:
        raise TargetIOError(f"{scratch}: {error.strerror}") from error


def check_ntfs_paths(tree: Mapping[NtfsPath, object]) -> None:
    """See that NTFS and Windows can have all these files beside each other.

    Raises:
        UsageError: names the path.
    """
    files: dict[NtfsPath, NtfsPath] = {}
    directories: set[NtfsPath] = set()
    for path in tree:
        for name in path or ("",):
            too_long = len(name.encode("utf-16-le", "surrogatepass")) // 2 > _NAME_LENGTH_MAX
            if name in ("", ".", "..") or too_long or _BAD_CHARACTERS & set(name):
                raise UsageError(f"{show_path(path)}: {name!r} is no name for Windows")
        key = tuple(case_key(name) for name in path)
        if key in files:
            raise UsageError(
                f"{show_path(path)} and {show_path(files[key])} are the same for Windows"
            )
        files[key] = path
        directories.update(key[:count] for count in range(1, len(key)))
    for key in directories & files.keys():
        raise UsageError(f"{show_path(files[key])} would be both a file and a directory")
