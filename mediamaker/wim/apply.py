# SPDX-License-Identifier: GPL-3.0-or-later
"""Applies an image to a directory or to an NTFS volume.

The volume is a block device or a plain file, is not mounted and is empty: libntfs-3g creates
files, it does not merge. There ACLs, alternate streams, reparse points, hard links, short names,
attributes, object IDs and times of 100 ns arrive; extended attributes and encrypted contents
don't. A directory gets contents, hard links, symbolic links and times. What an image has beyond
that is counted by libwim and comes back as ``not_carried``.

Nothing here is done beside and renamed: what an interrupted apply leaves is incomplete, and the
error says so.
"""

from __future__ import annotations

import os
import threading
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from mediamaker.errors import MediaError, TargetRefusedError, UsageError
from mediamaker.execute.progress import OnEvent
from mediamaker.wim.images import resolve_image
from mediamaker.wim.meter import NotCarried, WimMeter
from mediamaker.wim.ntfs_volume import is_ntfs_volume, open_ntfs_volume, survey_ntfs
from mediamaker.wim.writing import ImageSource, open_source_wim
from mediamaker.wimlib.flags import ExtractFlags
from mediamaker.wimlib.wim import Wim

TargetKind = Literal["directory", "ntfs"]
_NAMES_SHOWN = 5


@dataclass(frozen=True, slots=True, kw_only=True)
class ApplyResult:
    """The image ``number`` is at ``target``; ``raw_size`` bytes of contents were written."""

    target: Path
    kind: TargetKind
    number: int
    raw_size: int
    not_carried: tuple[NotCarried, ...] = ()
    warnings: tuple[str, ...] = ()


def apply_image(
    path: Path,
    image: str | int | None,
    target: Path,
    *,
    part_paths: Sequence[Path] = (),
    merge: bool = False,
    unix_data: bool = False,
    without_acls: bool = False,
    strict: bool = False,
    on_event: OnEvent,
    cancel: threading.Event | None = None,
) -> ApplyResult:
    """Apply ``image`` of the WIM at ``path``, whose further parts are ``part_paths``.

    ``merge`` lets a directory have files already (those of the image replace them). ``strict``
    makes it an error if ACLs, short names or times can't be set as they are.

    Raises:
        TargetRefusedError: the target is mounted, in use or not empty.
        SourceError: the WIM is damaged or incomplete; TargetIOError: writing failed.
    """
    meter = WimMeter(on_event, cancel=cancel)
    source = ImageSource(path=path, part_paths=tuple(part_paths))
    flags = ExtractFlags.NONE
    if unix_data:
        flags |= ExtractFlags.UNIX_DATA
    if without_acls:
        flags |= ExtractFlags.NO_ACLS
    if strict:
        flags |= ExtractFlags.STRICT_TIMESTAMPS | ExtractFlags.STRICT_SYMLINKS
    with open_source_wim(source, meter) as wim:
        # The image and its contents first: a wrong number or a part that was not given must not
        # be found out after the target was touched.
        number = resolve_image(wim, image, path)
        wim.check_resources(number)
        kind: TargetKind = "ntfs" if is_ntfs_volume(target) else "directory"
        if kind == "ntfs":
            if merge or unix_data:
                raise UsageError(
                    f"{target}: an NTFS volume takes whole images only, without Unix data"
                )
            check_empty_volume(target)
            if strict:
                flags |= ExtractFlags.STRICT_ACLS | ExtractFlags.STRICT_SHORT_NAMES
        else:
            _check_directory(target, merge=merge)
        if kind == "ntfs":
            flags |= ExtractFlags.NTFS
        extract_whole(wim, number, target, flags, meter)
    if kind == "directory":
        _flush(target)
    return ApplyResult(
        target=target,
        kind=kind,
        number=number,
        raw_size=meter.raw_size,
        not_carried=meter.not_carried(),
        warnings=tuple(meter.warnings),
    )


def extract_whole(
    wim: Wim, number: int, target: Path, flags: ExtractFlags, meter: WimMeter
) -> None:
    """Extract an image; what interrupts it says that the target is incomplete now."""
    try:
        wim.extract_image(number, target, flags)
    except MediaError as error:
        error.message += f"; what is on {target} now is incomplete"
        raise
    except KeyboardInterrupt:
        meter.notify(f"what is on {target} now is incomplete")
        raise


def check_empty_volume(target: Path, *, is_held: bool = False) -> None:
    """An NTFS volume that has nothing but its own files, and that nobody uses.

    ``is_held``: the caller has the whole disk open with O_EXCL.

    Raises:
        TargetRefusedError: it is in use, or holds files; FormatError: it is not NTFS.
    """
    with open_ntfs_volume(target, writable=True, is_held=is_held) as descriptor:
        survey = survey_ntfs(descriptor, target)
    if survey.root_names:
        names = ", ".join(survey.root_names[:_NAMES_SHOWN])
        more = ", ..." if len(survey.root_names) > _NAMES_SHOWN else ""
        raise TargetRefusedError(
            f"{target}: the NTFS volume is not empty: {names}{more}",
            hint="format it first: mkntfs --quick",
        )


def _check_directory(target: Path, *, merge: bool) -> None:
    try:
        if target.is_dir():
            if not merge and any(target.iterdir()):
                raise TargetRefusedError(
                    f"{target}: the directory is not empty",
                    hint="name another one, or let the image's files join those with --merge",
                )
            return
        if target.exists() or target.is_symlink():
            raise TargetRefusedError(f"{target}: is neither a directory nor an NTFS volume")
        target.mkdir()
    except OSError as error:
        raise TargetRefusedError(f"{target}: {error.strerror}") from error


def _flush(target: Path) -> None:
    """One sync of the whole file system: cheaper than one for each of 100,000 files."""
    descriptor = os.open(target, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        os.fsync(descriptor)
        os.sync()
    finally:
        os.close(descriptor)
