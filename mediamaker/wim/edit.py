# SPDX-License-Identifier: GPL-3.0-or-later
"""Sets properties of images, deletes images, and exports them to another WIM as they are."""

from __future__ import annotations

import re
import threading
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Final

from mediamaker.errors import UsageError
from mediamaker.execute.progress import OnEvent
from mediamaker.sources.wim import WimFile
from mediamaker.wim.changing import changed_wim, encoding_of
from mediamaker.wim.images import resolve_image
from mediamaker.wim.meter import WimMeter
from mediamaker.wim.output import open_output
from mediamaker.wim.savings import Savings, measure_savings, read_wim_file
from mediamaker.wim.writing import (
    Encoding,
    ImageSource,
    WrittenImage,
    check_not_a_source,
    chosen_images,
    export_images,
    open_source_wim,
    write_images,
)
from mediamaker.wimlib.flags import WriteFlags

_PROPERTY_RE: Final = re.compile(
    r"[A-Za-z_][\w.-]*(\[[1-9][0-9]{0,3}\])?(/[A-Za-z_][\w.-]*(\[[1-9][0-9]{0,3}\])?)*"
)
_COMPUTED: Final = {"DIRCOUNT", "FILECOUNT", "TOTALBYTES", "HARDLINKBYTES"}


@dataclass(frozen=True, slots=True, kw_only=True)
class EditResult:
    """What became of the WIM; sizes of the file, in bytes."""

    path: Path
    image_count: int
    boot_index: int
    size_before: int
    size_after: int


@dataclass(frozen=True, slots=True, kw_only=True)
class ExportResult:
    """The images that were exported, in order, and what the file is now."""

    path: Path
    images: tuple[WrittenImage, ...]
    boot_index: int
    savings: Savings


def set_properties(
    path: Path,
    image: str | int | None,
    properties: Mapping[str, str | None],
    *,
    is_bootable: bool | None = None,
    on_event: OnEvent,
    cancel: threading.Event | None = None,
) -> EditResult:
    """Set texts of an image's XML by their path (``WINDOWS/EDITIONID``); None removes one.

    ``is_bootable`` makes the image the one that boots, or (False) none if it was this one.

    Raises:
        UsageError: no such image, a path that is none, or a name that another image has.
    """
    for name in properties:
        _check_property(name)
    if not properties and is_bootable is None:
        raise UsageError(f"{path}: nothing to set")
    meter = WimMeter(on_event, cancel=cancel)
    size_before = _size(path)
    with changed_wim(path, meter) as wim:
        number = resolve_image(wim, image, path)
        for name, value in properties.items():
            wim.set_property(number, name, value)
        if is_bootable:
            wim.set_boot_index(number)
        elif is_bootable is False and wim.info.boot_index == number:
            wim.set_boot_index(0)
    return _edited(path, size_before)


def delete_images(
    path: Path,
    images: Sequence[str | int],
    *,
    threads: int = 0,
    on_event: OnEvent,
    cancel: threading.Event | None = None,
) -> EditResult:
    """Delete images and what only they refer to; the others move up.

    Raises:
        UsageError: no such image, or none would be left.
    """
    meter = WimMeter(on_event, cancel=cancel)
    size_before = _size(path)
    with changed_wim(path, meter, threads=threads, rebuild=True) as wim:
        numbers = {resolve_image(wim, image, path) for image in images}
        if not numbers:
            raise UsageError(f"{path}: say which images are to be deleted")
        if len(numbers) == wim.image_count:
            raise UsageError(
                f"{path}: no image would be left", hint="delete the file itself if that is meant"
            )
        for number in sorted(numbers, reverse=True):
            wim.delete_image(number)
    return _edited(path, size_before)


def export_to_wim(
    source: ImageSource,
    path: Path,
    *,
    name: str | None = None,
    description: str | None = None,
    is_bootable: bool = False,
    append: bool = False,
    replace_existing: bool = False,
    encoding: Encoding | None = None,
    threads: int = 0,
    on_event: OnEvent,
    cancel: threading.Event | None = None,
) -> ExportResult:
    """Images of ``source`` to the new WIM ``path``, or with ``append`` to the one that is there.

    Without ``encoding`` a new file is compressed as the source is, so that all is copied.

    Raises:
        UsageError: no such image, a name that is taken, or several images for one new name.
    """
    meter = WimMeter(on_event, cancel=cancel)
    check_not_a_source([source], path)
    before = [[read_wim_file(part) for part in (source.path, *source.part_paths)]]
    if append:
        before.append([read_wim_file(path)])
        with (
            changed_wim(path, meter, threads=threads) as dest,
            open_source_wim(source, meter) as wim,
        ):
            first = dest.image_count + 1
            taken = [dest.property(number, "NAME") or "" for number in range(1, first)]
            images = export_images(
                wim,
                dest,
                chosen_images(wim, source),
                source.path,
                meter,
                taken=taken,
                name=name,
                description=description,
                boots_already=bool(dest.info.boot_index) and not is_bootable,
            )
            if is_bootable:
                dest.set_boot_index(first)
    else:
        wanted = encoding or replace(encoding_of(before[0][0]), level=50)
        with open_output(path, replace=replace_existing) as partial:
            images = write_images(
                [source],
                partial,
                wanted,
                threads=threads,
                meter=meter,
                extra_flags=WriteFlags.NO_CHECK_INTEGRITY,
                name=name,
                description=description,
                boot_number=1 if is_bootable else None,
            )
    result = read_wim_file(path)
    return ExportResult(
        path=path,
        images=images,
        boot_index=result.boot_index,
        savings=measure_savings(before, result),
    )


def _check_property(name: str) -> None:
    if not _PROPERTY_RE.fullmatch(name):
        raise UsageError(
            f"{name!r} is not the path of a property",
            hint="write it like NAME, DESCRIPTION, FLAGS or WINDOWS/LANGUAGES/LANGUAGE[2]",
        )
    if name in _COMPUTED:
        raise UsageError(f"{name} is computed from the image's files; it can't be set")


def _edited(path: Path, size_before: int) -> EditResult:
    after: WimFile = read_wim_file(path)
    return EditResult(
        path=path,
        image_count=len(after.images),
        boot_index=after.boot_index,
        size_before=size_before,
        size_after=after.size,
    )


def _size(path: Path) -> int:
    return path.stat().st_size if path.is_file() else 0
