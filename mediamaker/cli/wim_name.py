# SPDX-License-Identifier: GPL-3.0-or-later
"""``FILE:IMAGE``: how people name an image of a WIM, and the other parts of a split one."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from mediamaker.errors import UsageError
from mediamaker.formats.wim_xml import WimImageInfo


@dataclass(frozen=True, slots=True)
class WimName:
    """A file, and the image in it as it was written (a number or a name), if one was."""

    path: Path
    image: str | None


def parse_wim_name(text: str) -> WimName:
    """``install.wim``, ``install.wim:1`` or ``install.wim:Windows 11 Pro``.

    A file that is there under the whole text wins: file names may have colons.
    """
    path, colon, image = text.rpartition(":")
    if not colon or Path(text).exists():
        return WimName(Path(text), None)
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
    """The other files of a split WIM: those named, else those beside ``first`` by their names."""
    if named or first.suffix.casefold() != ".swm":
        return tuple(named)
    stem = first.stem
    numbered = [first.with_name(f"{stem}{number}{first.suffix}") for number in range(2, 1000)]
    found = []
    for path in numbered:
        if not path.exists():
            break
        found.append(path)
    return tuple(found)
