# SPDX-License-Identifier: GPL-3.0-or-later
"""Strings between Python and libwim, which has them in UTF-8 and ended by a zero byte."""

from __future__ import annotations

import os
from typing import Any

from mediamaker.errors import UsageError

PathLike = str | os.PathLike[str]


def encode_path(path: PathLike) -> bytes:
    """A path on this system, byte for byte.

    Raises:
        UsageError: no path has a zero byte in it.
    """
    return _checked(os.fsencode(path), os.fspath(path))


def encode_text(value: str) -> bytes:
    """A name or a path in a WIM.

    Raises:
        UsageError: it has a zero byte, or half of a surrogate pair.
    """
    try:
        return _checked(value.encode(), value)
    except UnicodeEncodeError as error:
        raise UsageError(f"{value!a} is not text: {error.reason}") from error


def encode_optional(ffi: Any, value: str | None) -> Any:
    """:func:`encode_text`, or NULL."""
    return ffi.NULL if value is None else encode_text(value)


class CStrings:
    """A C array of strings, which lives as long as this object."""

    def __init__(self, ffi: Any, values: list[bytes]) -> None:
        self._kept = [ffi.new("char[]", value) for value in values]
        self.array = ffi.new("char *[]", self._kept)
        self.count = len(values)


def _checked(data: bytes, shown: str) -> bytes:
    if b"\0" in data:
        raise UsageError(f"{shown!r} has a zero byte in it")
    return data
