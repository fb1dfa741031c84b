# SPDX-License-Identifier: GPL-3.0-or-later
"""Registry hive files ("regf"): bytes to a tree."""

from __future__ import annotations

from mediamaker.formats.regf_tree import (
    KEY_PREDEFINED_HANDLE,
    KEY_SYMBOLIC_LINK,
    REG_BINARY,
    REG_DWORD,
    REG_EXPAND_SZ,
    REG_MULTI_SZ,
    REG_NONE,
    REG_QWORD,
    REG_SZ,
    Hive,
    Key,
    Value,
    dword_value,
    name_order,
    string_value,
    strings_value,
)

__all__ = [
    "KEY_PREDEFINED_HANDLE",
    "KEY_SYMBOLIC_LINK",
    "REG_BINARY",
    "REG_DWORD",
    "REG_EXPAND_SZ",
    "REG_MULTI_SZ",
    "REG_NONE",
    "REG_QWORD",
    "REG_SZ",
    "Hive",
    "Key",
    "Value",
    "dword_value",
    "name_order",
    "parse_hive",
    "string_value",
    "strings_value",
]


def parse_hive(data: bytes, *, what: str) -> Hive:
    """The hive in ``data``; ``what`` names it in messages.

    Raises:
        FormatError: not a hive, damaged, or not closed by who wrote it last.
    """
    raise NotImplementedError
