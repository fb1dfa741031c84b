# SPDX-License-Identifier: GPL-3.0-or-later
"""Parts that an older, longer split left under the names of this one.

Whoever looks for parts by name finds them too. Those of a set that is being replaced go with it,
told by the GUID that all its parts have; anything else is somebody's, and is never touched.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from pathlib import Path

from mediamaker.errors import TargetIOError, TargetRefusedError
from mediamaker.wim.part_names import read_header


def find_stale_parts(paths: Sequence[Path]) -> dict[Path, bytes]:
    """Files named as further parts of ``paths`` (the first one first), that go with those.

    The value is the GUID of the set that each belongs to.

    Raises:
        TargetRefusedError: a file has such a name and is of no set that ``paths`` replaces.
    """
    replaced = {header.guid for path in paths if (header := read_header(path)) is not None}
    found: dict[Path, bytes] = {}
    for path in _further_names(paths[0], len(paths)):
        header = read_header(path)
        if header is None or header.part_count == 1 or header.guid not in replaced:
            raise TargetRefusedError(
                f"{path}: is not one of these {len(paths)} parts, but its name says so, and "
                "programs that look for parts by name would stumble over it",
                hint="move it away, or name another output",
            )
        found[path] = header.guid
    return found


def remove_stale_parts(parts: dict[Path, bytes]) -> tuple[Path, ...]:
    """Remove what :func:`find_stale_parts` found, if it still is that.

    Raises:
        TargetIOError: one can't be removed.
    """
    removed = []
    for path, guid in parts.items():
        header = read_header(path)
        if header is None or header.guid != guid:
            continue
        try:
            path.unlink()
        except OSError as error:
            raise TargetIOError(
                f"{path}: the new parts are complete, but this old one can't be removed: "
                f"{error.strerror}"
            ) from error
        removed.append(path)
    return tuple(removed)


def _further_names(first: Path, count: int) -> list[Path]:
    name = re.compile(rf"{re.escape(first.stem)}([1-9][0-9]*){re.escape(first.suffix)}")
    found = []
    try:
        for path in first.parent.iterdir():
            match = name.fullmatch(path.name)
            if match and int(match[1]) > max(1, count):
                found.append((int(match[1]), path))
    except OSError:  # may be entered but not listed: then nobody else finds them either
        return []
    return [path for _, path in sorted(found)]
