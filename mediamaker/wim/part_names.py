# SPDX-License-Identifier: GPL-3.0-or-later
"""The names by which the parts of a split WIM are found: ``i.swm``, ``i2.swm``, ``i3.swm``, ...

Any part leads to the others, as its header says which one it is. Case does not matter, as the
names often come from FAT.
"""

from __future__ import annotations

from pathlib import Path

from mediamaker.errors import MediaError
from mediamaker.formats.wim import HEADER_SIZE, WimHeader, parse_wim_header


def part_paths(first: Path, count: int) -> tuple[Path, ...]:
    """Where Setup and every tool look for the parts of ``first``."""
    return (
        first,
        *(first.with_name(f"{first.stem}{number}{first.suffix}") for number in range(2, count + 1)),
    )


def first_path(part: Path, number: int) -> Path | None:
    """The name of the first part by that of part ``number``; None if it is not named so."""
    if number == 1:
        return part
    stem = part.stem.removesuffix(str(number))
    return part.with_name(stem + part.suffix) if stem and stem != part.stem else None


def locate_parts(part: Path, header: WimHeader) -> tuple[tuple[Path, Path | None], ...]:
    """Every part that belongs to ``part``: the name it should have, and the file if there is one.

    Empty if ``part`` itself is not named like a part.
    """
    first = first_path(part, header.part_number)
    if first is None:
        return ()
    try:
        by_name = {path.name.lower(): path for path in sorted(part.parent.iterdir())}
    except OSError:  # may be entered but not listed: exact names will do
        by_name = {}
    found = []
    for number, path in enumerate(part_paths(first, header.part_count), 1):
        actual = path if path.exists() else by_name.get(path.name.lower())
        found.append((path, part if number == header.part_number else actual))
    return tuple(found)


def find_parts_of(path: Path) -> tuple[Path, ...]:
    """The parts that are there, in order, of the set that ``path`` is of; else ``path`` alone.

    Those that an older, longer set left behind are none.
    """
    header = read_header(path)
    if header is None or header.part_count == 1:
        return (path,)
    found = tuple(actual for _, actual in locate_parts(path, header) if actual is not None)
    return found or (path,)


def read_header(path: Path) -> WimHeader | None:
    """None for what can't be read or is no WIM, which whoever opens it will tell."""
    if not path.is_file():
        return None
    try:
        with path.open("rb") as file:
            return parse_wim_header(file.read(HEADER_SIZE), what=str(path))
    except (OSError, MediaError):
        return None
