# SPDX-License-Identifier: GPL-3.0-or-later
"""Reads one small file of an image into memory."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Final

from mediamaker.errors import SourceError
from mediamaker.execute.progress import ignore_event
from mediamaker.install.compose import NtfsPath
from mediamaker.install.image_facts import ImageFacts
from mediamaker.install.image_tree import ImageTree, is_plain_file
from mediamaker.units import MIB, format_size
from mediamaker.volumes.tree import show_path
from mediamaker.wim.meter import WimMeter
from mediamaker.wim.parts import open_parts
from mediamaker.wim.tree import cat
from mediamaker.wim.writing import ImageSource, open_source_wim

FILE_SIZE_MAX: Final = 256 * MIB
"""The largest registry hives of real images are below it."""


def read_image_file(paths: Sequence[Path], facts: ImageFacts, path: NtfsPath) -> bytes | None:
    """The file at ``path`` of the image, in whatever case it is written; None without one.

    Raises:
        SourceError: it is damaged, or larger than :data:`FILE_SIZE_MAX`.
    """
    source = ImageSource(path=paths[0], part_paths=tuple(paths[1:]))
    with open_source_wim(source, WimMeter(ignore_event)) as wim:
        found = ImageTree(wim, facts.number).find("/".join(path))
    if found is None or not is_plain_file(found):
        return None
    data = bytearray()

    def keep(piece: memoryview) -> None:
        if len(data) + len(piece) > FILE_SIZE_MAX:
            raise SourceError(
                f"{paths[0]}: {show_path(path)} has more than {format_size(FILE_SIZE_MAX)}"
            )
        data.extend(piece)

    with open_parts(paths) as parts:
        cat(parts, facts.number, found.path, keep)
    return bytes(data)
