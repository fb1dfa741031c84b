# SPDX-License-Identifier: GPL-3.0-or-later
"""Applies an image of Windows to an empty NTFS volume, with a few files more than the image has.

The files are added to the image in memory before it is applied, so that everything is written in
one pass by one writer, the WIM stays as it is, and no driver has to be mounted. A file that the
image has under this name, in whatever case, is replaced; where it has other names too (hard
links), those keep the old content. What is added belongs to SYSTEM and the administrators; where
that can't be set (without root, on a system without user namespaces) a warning says so.
"""

from __future__ import annotations

import os
import tempfile
import threading
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from mediamaker.errors import TargetIOError, TargetTooSmallError, ToolError, UsageError
from mediamaker.execute.progress import OnEvent
from mediamaker.formats.ntfs import BOOT_SECTOR_SIZE, parse_ntfs_boot
from mediamaker.install.compose import NtfsPath, check_ntfs_paths
from mediamaker.install.image_facts import ImageFacts
from mediamaker.install.image_tree import ImageTree, is_plain_directory
from mediamaker.install.protect_files import protect_files
from mediamaker.sources.identity import open_source
from mediamaker.units import format_size
from mediamaker.volumes.tree import show_path
from mediamaker.wim.apply import ApplyResult, check_empty_volume, extract_whole
from mediamaker.wim.meter import WimMeter
from mediamaker.wim.writing import ImageSource, open_source_wim
from mediamaker.wimlib.flags import AddFlags, ExtractFlags
from mediamaker.wimlib.update import Add, Delete, UpdateCommand


@dataclass(slots=True)
class _Changes:
    """Commands for the image in memory, and what is new by them."""

    commands: list[UpdateCommand] = field(default_factory=list)
    directories: list[str] = field(default_factory=list)
    files: list[str] = field(default_factory=list)


def apply_windows(
    paths: Sequence[Path],
    facts: ImageFacts,
    volume: Path,
    *,
    scratch: Path,
    extra_files: Mapping[NtfsPath, Path | bytes] | None = None,
    left_out: Sequence[NtfsPath] = (),
    modified_ns: int = 0,
    is_held: bool = False,
    on_event: OnEvent,
    cancel: threading.Event | None = None,
) -> ApplyResult:
    """Apply the image that ``facts`` are of to ``volume`` (a block device or file, empty NTFS).

    ``paths`` are the WIM, or all parts of a split one. ``extra_files`` are added, ``left_out`` are
    files of the image that are not applied (if they are there). ``scratch`` is a directory here,
    ``modified_ns`` the time of extra files given as bytes and of directories made for them.
    ``is_held``: the caller has the whole disk open with O_EXCL.

    Raises:
        TargetTooSmallError: the contents alone are more than the volume has.
        TargetRefusedError: the volume is in use or not empty.
        SourceError: the WIM is damaged or incomplete; TargetIOError: writing failed.
    """
    extra_files = extra_files or {}
    check_ntfs_paths(extra_files)
    meter = WimMeter(on_event, cancel=cancel)
    source = ImageSource(path=paths[0], part_paths=tuple(paths[1:]))
    with (
        open_source_wim(source, meter) as wim,
        tempfile.TemporaryDirectory(prefix="windows-", dir=scratch) as name,
    ):
        wim.check_resources(facts.number)
        check_empty_volume(volume, is_held=is_held)
        _check_size(volume, facts)
        changes = _plan_changes(
            ImageTree(wim, facts.number), extra_files, left_out, Path(name), modified_ns
        )
        if changes.commands:
            wim.update_image(facts.number, changes.commands)
        extract_whole(wim, facts.number, volume, ExtractFlags.NTFS, meter)
        try:
            protect_files(volume, changes.directories, changes.files, scratch=Path(name))
        except ToolError as error:
            if os.geteuid() == 0:
                raise
            meter.warnings.append(
                f"every user of the installed Windows may change {', '.join(changes.files)}: "
                f"{error.message}"
            )
    _flush(volume)
    return ApplyResult(
        target=volume,
        kind="ntfs",
        number=facts.number,
        raw_size=meter.raw_size,
        not_carried=meter.not_carried(),
        warnings=tuple(meter.warnings),
    )


def _plan_changes(
    tree: ImageTree,
    extra_files: Mapping[NtfsPath, Path | bytes],
    left_out: Sequence[NtfsPath],
    staging: Path,
    modified_ns: int,
) -> _Changes:
    """What makes the image in memory the wanted one; ``staging`` gets the files for it."""
    changes = _Changes()
    commands = changes.commands
    for path in left_out:
        found = tree.find("/".join(path))
        if found is not None:
            commands.append(Delete(found.path))
    # Directories that are made, as the first path that needs them writes them.
    made: dict[str, str] = {}
    try:
        for index, (path, content) in enumerate(sorted(extra_files.items())):
            found = tree.find("/".join(path))
            if found is not None and is_plain_directory(found):
                raise UsageError(f"{show_path(path)}: is a directory in the image")
            # Directories first, each by itself: what is there stays as it is.
            target = ""
            for depth, name in enumerate(path, 1):
                target = tree.place(f"{target}/{name}")
                if depth < len(path) and tree.find(target) is None:
                    if target.casefold() not in made:
                        made[target.casefold()] = target
                        # One for each: libwim takes the same one again for a hard link.
                        empty = staging / f"directory{len(made)}"
                        empty.mkdir()
                        os.utime(empty, ns=(modified_ns, modified_ns))
                        commands.append(Add(empty, target))
                        changes.directories.append(target)
                    target = made[target.casefold()]
            if isinstance(content, bytes):
                file = staging / f"{index}"
                file.write_bytes(content)
                os.utime(file, ns=(modified_ns, modified_ns))
            else:
                os.close(open_source(content))
                file = content
            commands.append(Add(file, target, flags=AddFlags.DEREFERENCE))
            changes.files.append(target)
    except OSError as error:
        raise TargetIOError(f"{staging}: {error.strerror}") from error
    return changes


def _check_size(volume: Path, facts: ImageFacts) -> None:
    """A plan made room already; this is for a volume that somebody else made.

    Raises:
        TargetTooSmallError: the contents are more than the volume has.
    """
    with volume.open("rb") as file:
        available = parse_ntfs_boot(file.read(BOOT_SECTOR_SIZE), what=str(volume)).size
    if facts.raw_size > available:
        needed = facts.volume_size_min
        raise TargetTooSmallError(
            f"{volume}: image {facts.number} has {format_size(facts.raw_size)} of contents and "
            f"needs a volume of about {format_size(needed)}; this one has {format_size(available)}",
            needed_size=needed,
            available_size=available,
        )


def _flush(volume: Path) -> None:
    """Put what libntfs-3g wrote on the medium.

    Raises:
        TargetIOError: it can't be written.
    """
    try:
        descriptor = os.open(volume, os.O_RDONLY | os.O_CLOEXEC)
        try:
            os.fsync(descriptor)
        finally:
            os.close(descriptor)
    except OSError as error:
        raise TargetIOError(f"{volume}: can't be flushed: {error.strerror}") from error
