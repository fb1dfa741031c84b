# SPDX-License-Identifier: GPL-3.0-or-later
"""``FILE:IMAGE``: how people name an image of a WIM, and the other parts of a split one."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from mediamaker.errors import MediaError, UsageError
from mediamaker.formats.wim import HEADER_SIZE, parse_wim_header
from mediamaker.formats.wim_xml import WimImageInfo


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


def other_parts(first: Path, named: Sequence[Path]) -> tuple[Path, ...]:
    """The other files of a split WIM: those named, else those beside ``first`` by their names.

    Those that are missing are left out, and those that an older, longer set left behind.
    """
    if named or first.suffix.casefold() != ".swm":
        return tuple(named)
    numbers = range(2, _part_count(first) + 1)
    numbered = [first.with_name(f"{first.stem}{number}{first.suffix}") for number in numbers]
    return tuple(path for path in numbered if path.exists())


def _part_count(path: Path) -> int:
    """As its header says; 1 for what can't be read, which whoever opens it will tell."""
    if not path.is_file():
        return 1
    try:
        with path.open("rb") as file:
            return parse_wim_header(file.read(HEADER_SIZE), what=str(path)).part_count
    except (OSError, MediaError):
        return 1
