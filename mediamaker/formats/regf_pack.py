# SPDX-License-Identifier: GPL-3.0-or-later
"""Registry hive files ("regf"): a tree to bytes."""

from __future__ import annotations

from mediamaker.formats.regf_tree import Hive


def pack_hive(hive: Hive) -> bytes:
    """The file of ``hive``; the same bytes for the same hive.

    Raises:
        FormatError: a name, a descriptor or a number that the format can't hold.
    """
    raise NotImplementedError
