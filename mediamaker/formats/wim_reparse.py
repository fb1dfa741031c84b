# SPDX-License-Identifier: GPL-3.0-or-later
"""Where a symbolic link or junction of a WIM points.

Reference: MS-FSCC, 2.1.2.4 "Symbolic Link Reparse Data Buffer" and 2.1.2.5 "Mount Point Reparse
Data Buffer". A WIM keeps the data without the tag and length that come before it there.
"""

from __future__ import annotations

import struct
from typing import NamedTuple

from mediamaker.errors import FormatError
from mediamaker.formats.wim_entry import REPARSE_TAG_MOUNT_POINT, REPARSE_TAG_SYMLINK

REPARSE_DATA_SIZE_MAX = 16 * 1024

_NAMES = struct.Struct("<HHHH")
_FLAG_RELATIVE = 0x1


class LinkTarget(NamedTuple):
    """``target`` as Windows resolves it, with ``\\``; ``is_relative`` to the link's directory."""

    target: str
    is_relative: bool


def parse_link_target(data: bytes, reparse_tag: int, *, what: str = "WIM") -> LinkTarget:
    """The target in a link's reparse data.

    Raises:
        FormatError: another kind of reparse point, or data that contradicts itself.
    """
    if reparse_tag not in (REPARSE_TAG_SYMLINK, REPARSE_TAG_MOUNT_POINT):
        raise FormatError(f"{what}: reparse tag {reparse_tag:#010x} is not that of a link")
    start = _NAMES.size + (4 if reparse_tag == REPARSE_TAG_SYMLINK else 0)
    if len(data) < start:
        raise FormatError(f"{what}: reparse data: expected {start} bytes or more, got {len(data)}")
    offset, size, _, _ = _NAMES.unpack_from(data)
    if size % 2 or start + offset + size > len(data):
        raise FormatError(
            f"{what}: reparse data: expected a target inside {len(data)} bytes, got {size} bytes "
            f"at {start + offset}"
        )
    target = data[start + offset : start + offset + size].decode("utf-16-le", "surrogatepass")
    is_relative = reparse_tag == REPARSE_TAG_SYMLINK and bool(
        int.from_bytes(data[8:12], "little") & _FLAG_RELATIVE
    )
    return LinkTarget(target, is_relative)
