# SPDX-License-Identifier: GPL-3.0-or-later
"""What an image gets that is to go from machine to machine (Windows To Go)."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Final

from mediamaker.errors import SourceError
from mediamaker.install.compose import NtfsPath
from mediamaker.install.image_facts import ImageFacts
from mediamaker.install.image_file import read_image_file
from mediamaker.install.system_hive import make_portable
from mediamaker.volumes.tree import show_path

_SYSTEM_HIVE: Final[NtfsPath] = ("Windows", "System32", "config", "SYSTEM")


def portable_files(paths: Sequence[Path], facts: ImageFacts) -> dict[NtfsPath, bytes]:
    """The image's files that are different on a disk that moves, by path.

    Raises:
        SourceError: the image has no registry; FormatError: it has one that can't be changed.
    """
    hive = read_image_file(paths, facts, _SYSTEM_HIVE)
    if hive is None:
        raise SourceError(
            f"{paths[0]}: image {facts.number} has no {show_path(_SYSTEM_HIVE)}: it is no Windows "
            "that could be told that it moves",
            hint="choose another image: mediamaker wim info shows them",
        )
    return {_SYSTEM_HIVE: make_portable(hive, what=show_path(_SYSTEM_HIVE))}
