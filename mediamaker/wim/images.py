# SPDX-License-Identifier: GPL-3.0-or-later
"""Which image of a WIM is meant: its number, its name, or the only one that there is."""

from __future__ import annotations

from pathlib import Path

from mediamaker.errors import UsageError
from mediamaker.wimlib.flags import ALL_IMAGES
from mediamaker.wimlib.wim import Wim


def resolve_image(wim: Wim, image: str | int | None, path: Path) -> int:
    """The number of ``image`` (a number, a name, or None if there is only one).

    Raises:
        UsageError: no such image, or not said which.
    """
    count = wim.image_count
    hint = "mediamaker wim info shows the images"
    if image is None:
        if count == 1:
            return 1
        raise UsageError(f"{path}: has {count} images; say which: {path}:NUMBER", hint=hint)
    found = wim.find_image(str(image))
    if found is None or found == ALL_IMAGES:
        raise UsageError(f"{path}: has no image {str(image)!r} among its {count}", hint=hint)
    return found
