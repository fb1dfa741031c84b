# SPDX-License-Identifier: GPL-3.0-or-later
"""``FILE:IMAGE``: how people name an image of a WIM, and the other parts of a split one."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from mediamaker.errors import UsageError
from mediamaker.formats.wim_xml import WimImageInfo
from mediamaker.wim.part_names import find_parts_of, read_header


@dataclass(frozen=True, slots=True)
class WimName:
    """A file, and the image in it as it was written (a number or a name), if one was."""

    path: Path
    image: str | None


def parse_wim_name(text: str) -> WimName:
    """``install.wim``, ``install.wim:1`` or ``install.wim:Windows 11 Pro``.

    The longest text before a colon that names a file wins: names of files may have colons, and
    names of images too.
    """
    path, colon, image = text.rpartition(":")
    if not colon or Path(text).exists():
        return WimName(Path(text), None)
    end = len(path)
    while end > 0:
        if Path(text[:end]).is_file():
            return WimName(Path(text[:end]), text[end + 1 :])
        end = text.rfind(":", 0, end)
    return WimName(Path(path), image)


def find_image(name: WimName, images: Sequence[WimImageInfo], *, boot_index: int = 0) -> int:
    """The number of the image that ``name`` means; a WIM of one image needs no name.

    Raises:
        UsageError: there is no such image, or several, or none was named and there are many.
    """
    if name.image is None:
        if len(images) == 1:
            return images[0].number
        raise UsageError(
            f"{name.path} has {len(images)} images: name one",
            hint=f"for example {name.path}:{boot_index or 1}; wim info shows them",
        )
    if name.image.isdecimal() and name.image.isascii():
        number = int(name.image)
        if number in {image.number for image in images}:
            return number
    found = [image.number for image in images if image.name.casefold() == name.image.casefold()]
    if len(found) == 1:
        return found[0]
    problem = "several images are" if found else "no image is"
    raise UsageError(
        f"{name.path}: {problem} called {name.image!r}; it has {len(images)}",
        hint="wim info shows numbers and names",
    )


def all_parts(path: Path, named: Sequence[Path]) -> tuple[Path, ...]:
    """The files of a WIM, the first part first: ``path`` and those named, else found beside it."""
    if not named:
        return find_parts_of(path)
    paths = (path, *named)
    return tuple(sorted(paths, key=lambda item: not _is_first(item)))


def other_parts(path: Path, named: Sequence[Path]) -> tuple[Path, ...]:
    """:func:`all_parts` without ``path`` itself."""
    return tuple(item for item in all_parts(path, named) if item != path)


def _is_first(path: Path) -> bool:
    header = read_header(path)
    return header is not None and header.part_number == 1
