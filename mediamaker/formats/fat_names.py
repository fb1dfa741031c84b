# SPDX-License-Identifier: GPL-3.0-or-later
"""Names on FAT: what it can hold, 8.3 short names (aliases), volume labels.

References:
- fatgen103: "Name Limits and Legal Characters", "The Basis-Name Generation Algorithm".
- Microsoft, "Naming Files, Paths, and Namespaces": reserved device names.
- Microsoft, RtlGenerate8dot3Name: leading periods are skipped, the result may be asked for
  again until it is unique.
- What Windows does beyond fatgen103 (``~1`` to ``~4``, then two characters and four
  hexadecimal digits; the digits at once when two characters or fewer are left) was published
  from observation by T. Galvin, "A Tale of Two File Names", 2015; the tests hold names seen on
  Windows machines.

Short names are ASCII here, whatever the reader's OEM code page: other characters become ``_``,
which is what Windows does with those that its code page lacks.
"""

from __future__ import annotations

import re
import struct
from collections.abc import Iterable
from dataclasses import dataclass

from mediamaker.errors import NotRepresentableError
from mediamaker.formats.fat import (
    CASE_LOWER_BASE,
    CASE_LOWER_EXTENSION,
    LONG_NAME_UNITS_MAX,
    count_long_name_entries,
)

LABEL_SIZE = 11

_WHOLE_FAULTS = {
    "": "it is empty",
    ".": "it stands for the directory itself",
    "..": "it stands for the parent directory",
}
_FORBIDDEN_RE = re.compile('[\x00-\x1f"*/:<>?\\\\|\ud800-\udfff\uffff]')
_SHORT_NAME_CHARACTERS = frozenset("ABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789!#$%&'()-@^_`{}~")
_NOT_SHORT_RE = re.compile(f"[^{re.escape(''.join(sorted(_SHORT_NAME_CHARACTERS)))}]")
_UPPER_ASCII = {ord(lower): lower.upper() for lower in "abcdefghijklmnopqrstuvwxyz"}
_LABEL_CHARACTERS = _SHORT_NAME_CHARACTERS - frozenset("^&()") | {" "}
_DEVICE_NAMES = frozenset(
    ["CON", "PRN", "AUX", "NUL", "CONIN$", "CONOUT$"]
    + [f"{port}{digit}" for port in ("COM", "LPT") for digit in "123456789¹²³"]
)
_PLAIN_TAIL_MAX = 4
_HASH_PREFIX_LENGTH = 2


@dataclass(frozen=True, slots=True)
class EncodedName:
    """A name as a directory holds it: 11 bytes, case flags, and slots when it needs them."""

    short_name: bytes
    case_flags: int
    long_name: str | None

    @property
    def entry_count(self) -> int:
        """Directory entries that it takes, slots included."""
        return 1 + (0 if self.long_name is None else count_long_name_entries(self.long_name))


def check_name(name: str, *, what: str, file_system: str = "FAT32") -> None:
    """Refuse a name that FAT can't hold or that Windows could not open; exFAT has the same rules.

    Raises:
        NotRepresentableError: ``what`` (the full path) and the reason.
    """
    reason = _find_fault(name)
    if reason is not None:
        raise NotRepresentableError(
            f"{what}: {file_system} can't hold this name: {reason}",
            hint="rename it in the source, or leave it out",
        )


def encode_names(names: Iterable[str]) -> tuple[EncodedName, ...]:
    """The entries of one directory's names, in their order; short names are unique.

    The names have passed ``check_name`` and don't collide by case. Names that are short names
    themselves come first, so that no alias takes one of them.
    """
    listed = list(names)
    encoded: list[EncodedName | None] = [_encode_exact(name) for name in listed]
    taken = {entry.short_name for entry in encoded if entry is not None}
    result: list[EncodedName] = []
    for name, exact in zip(listed, encoded, strict=True):
        entry = exact or EncodedName(_make_alias(name, taken), 0, name)
        taken.add(entry.short_name)
        result.append(entry)
    return tuple(result)


def compute_long_name_hash(name: str) -> str:
    """Four hexadecimal digits that Windows puts into an alias when ``~4`` was not enough."""
    value = 0
    for (unit,) in struct.iter_unpack("<H", name.encode("utf-16-le")):
        value = (value * 37 + unit) & 0xFFFF
    mixed = value * 314_159_269 & 0xFFFFFFFF
    if mixed & 0x80000000:
        mixed = 0x100000000 - mixed
    # Windows shows the lowest digit first.
    return f"{mixed % 1_000_000_007 & 0xFFFF:04X}"[::-1]


def fat_label(text: str) -> str:
    """A volume label that FAT and Windows accept, made from any text: at most 11 characters.

    Lower case becomes upper case, what is not allowed becomes ``_``; no text gives no label.
    """
    cleaned = "".join(char if char in _LABEL_CHARACTERS else "_" for char in _upper_ascii(text))
    return cleaned.strip(" ")[:LABEL_SIZE].rstrip(" ")


def _find_fault(name: str) -> str | None:
    return _WHOLE_FAULTS.get(name) or _find_character_fault(name) or _find_other_fault(name)


def _find_character_fault(name: str) -> str | None:
    match = _FORBIDDEN_RE.search(name)
    if match is None:
        return None
    char = match[0]
    if char == "\uffff":
        return "U+FFFF, which FAT uses as filler"
    if char >= "\ud800":
        return f"half of a surrogate pair ({ord(char):#06x})"
    return f"control character {ord(char):#04x}" if char < " " else f"the character {char}"


def _find_other_fault(name: str) -> str | None:
    if name[-1] in " .":
        return "it ends with a space" if name[-1] == " " else "it ends with a period"
    units = len(name.encode("utf-16-le")) // 2
    if units > LONG_NAME_UNITS_MAX:
        return f"{units} UTF-16 units, {LONG_NAME_UNITS_MAX} is the limit"
    device = name.split(".", 1)[0].rstrip(" ").upper()
    if device in _DEVICE_NAMES:
        return f"Windows reserves {device} for a device"
    return None


def _encode_exact(name: str) -> EncodedName | None:
    """The entry of a name that is a short name but for its case; None for any other."""
    base, dot, extension = name.partition(".")
    upper_base, upper_extension = _upper_ascii(base), _upper_ascii(extension)
    if not 1 <= len(base) <= 8 or len(extension) > 3 or bool(dot) != bool(extension):
        return None
    if not _SHORT_NAME_CHARACTERS.issuperset(upper_base + upper_extension):
        return None
    short_name = _pad(upper_base, upper_extension)
    flags = 0
    for part, flag in ((base, CASE_LOWER_BASE), (extension, CASE_LOWER_EXTENSION)):
        if part == _upper_ascii(part):
            continue
        if part != part.lower():
            return EncodedName(short_name, 0, name)
        flags |= flag
    return EncodedName(short_name, flags, None)


def _make_alias(name: str, taken: set[bytes]) -> bytes:
    stripped = name.lstrip(".")
    base_text, dot, extension_text = stripped.rpartition(".")
    if not dot:
        base_text, extension_text = stripped, ""
    base = _fold_to_short(base_text)[:6]
    extension = _fold_to_short(extension_text)[:3]
    is_hashed = len(base) <= _HASH_PREFIX_LENGTH
    if is_hashed:
        base += compute_long_name_hash(name)
    number = 0
    while True:
        number += 1
        if number > _PLAIN_TAIL_MAX and not is_hashed:
            base = base[:_HASH_PREFIX_LENGTH] + compute_long_name_hash(name)
            is_hashed, number = True, 1
        tail = f"~{number}"
        alias = _pad(base[: 8 - len(tail)] + tail, extension)
        if alias not in taken:
            return alias


def _fold_to_short(text: str) -> str:
    return _NOT_SHORT_RE.sub("_", _upper_ascii(text).replace(" ", "").replace(".", ""))


def _pad(base: str, extension: str) -> bytes:
    return f"{base:<8}{extension:<3}".encode("ascii")


def _upper_ascii(text: str) -> str:
    # str.upper() would turn characters beyond ASCII into ASCII ones (U+0131 into I).
    return text.upper() if text.isascii() else text.translate(_UPPER_ASCII)
