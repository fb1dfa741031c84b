# SPDX-License-Identifier: GPL-3.0-or-later
"""Sizes and alignments: integers only, always bytes unless the name says otherwise."""

from __future__ import annotations

import re

from mediamaker.errors import UsageError

KIB = 1 << 10
MIB = 1 << 20
GIB = 1 << 30
TIB = 1 << 40

_SUFFIXES = {
    "": 1,
    "B": 1,
    "K": KIB,
    "KIB": KIB,
    "KB": 10**3,
    "M": MIB,
    "MIB": MIB,
    "MB": 10**6,
    "G": GIB,
    "GIB": GIB,
    "GB": 10**9,
    "T": TIB,
    "TIB": TIB,
    "TB": 10**12,
}
_SIZE_RE = re.compile(r"([0-9]{1,20})(?:\.([0-9]{1,6}))?\s*([A-Za-z]{0,3})")


def align_up(value: int, alignment: int) -> int:
    """The smallest multiple of ``alignment`` that is not below ``value``."""
    return -(-value // alignment) * alignment


def align_down(value: int, alignment: int) -> int:
    """The largest multiple of ``alignment`` that is not above ``value``."""
    return value // alignment * alignment


def parse_size(text: str) -> int:
    """Bytes from ``16GiB``, ``16G`` (binary), ``16GB`` (decimal), ``1.5GiB`` or ``4096``.

    Raises:
        UsageError: not a size, or a fraction of a byte.
    """
    match = _SIZE_RE.fullmatch(text.strip())
    unit = _SUFFIXES.get(match[3].upper()) if match else None
    if match is None or unit is None:
        raise UsageError(
            f"{text!r} is not a size", hint="write it like 16GiB, 16G (binary), 16GB (decimal)"
        )
    fraction = match[2] or ""
    scaled, rest = divmod(int(match[1] + fraction) * unit, int("1" + "0" * len(fraction)))
    if rest:
        raise UsageError(f"{text!r} is not a whole number of bytes")
    return scaled


def format_size(size: int) -> str:
    """``4.3 GiB`` for people; exact multiples are shown without a fraction."""
    if abs(size) < KIB:
        return f"{size} B"
    for unit, suffix in ((TIB, "TiB"), (GIB, "GiB"), (MIB, "MiB"), (KIB, "KiB")):
        if abs(size) >= unit:
            if size % unit == 0:
                return f"{size // unit} {suffix}"
            tenths = size * 10 // unit
            return f"{tenths // 10}.{tenths % 10} {suffix}"
    raise AssertionError("unreachable: sizes from one KiB up were handled above")


def format_range(start: int, end: int) -> str:
    """A half-open byte range as it is printed everywhere: ``[0x100000,0x1e00000)``."""
    return f"[{start:#x},{end:#x})"
