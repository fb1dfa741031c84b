# SPDX-License-Identifier: GPL-3.0-or-later
"""A registry hive as a tree of keys and values, apart from how its file is laid out.

Names are compared as Windows does: each UTF-16 unit in upper case, by its number. The table for
that is the one of exFAT, which Windows formats with.
"""

from __future__ import annotations

import bisect
import struct
from dataclasses import dataclass, replace

from mediamaker.errors import FormatError
from mediamaker.formats.exfat_upcase import upcase_name

REG_NONE = 0
REG_SZ = 1
REG_EXPAND_SZ = 2
REG_BINARY = 3
REG_DWORD = 4
REG_MULTI_SZ = 7
REG_QWORD = 11

KEY_SYMBOLIC_LINK = 0x10
KEY_PREDEFINED_HANDLE = 0x40


@dataclass(frozen=True, slots=True)
class Value:
    """A named piece of typed data; the name of a key's default value is empty."""

    name: str
    type_code: int
    data: bytes

    def __post_init__(self) -> None:
        if not 0 <= self.type_code <= 0xFFFFFFFF:
            raise FormatError(
                f"registry value {self.name!r}: expected a type of 32 bits, got {self.type_code}"
            )

    @property
    def number(self) -> int | None:
        """What a REG_DWORD or REG_QWORD says; None for other types and lengths."""
        size = {REG_DWORD: 4, REG_QWORD: 8}.get(self.type_code)
        return int.from_bytes(self.data, "little") if len(self.data) == size else None

    @property
    def text(self) -> str | None:
        """What a REG_SZ or REG_EXPAND_SZ says up to its NUL; None for other types."""
        if self.type_code not in {REG_SZ, REG_EXPAND_SZ}:
            return None
        return _decode(self.data).partition("\0")[0]

    @property
    def texts(self) -> tuple[str, ...] | None:
        """What a REG_MULTI_SZ lists, up to the first empty string; None for other types."""
        if self.type_code != REG_MULTI_SZ:
            return None
        found = _decode(self.data).split("\0")
        return tuple(found[: found.index("")] if "" in found else found)


def string_value(name: str, text: str) -> Value:
    """A REG_SZ with its NUL."""
    return Value(name, REG_SZ, _encode(text + "\0"))


def strings_value(name: str, texts: tuple[str, ...]) -> Value:
    """A REG_MULTI_SZ: every string with its NUL, then one more."""
    return Value(name, REG_MULTI_SZ, _encode("".join(text + "\0" for text in texts) + "\0"))


def dword_value(name: str, number: int) -> Value:
    """A REG_DWORD.

    Raises:
        FormatError: the number does not fit 32 bits.
    """
    try:
        return Value(name, REG_DWORD, struct.pack("<I", number))
    except struct.error as error:
        raise FormatError(f"registry value {name!r}: {number} does not fit 32 bits") from error


@dataclass(frozen=True, slots=True, eq=False, repr=False)
class Key:
    """A key with what is below it; every method that changes one gives a copy.

    ``flags`` are those that the writer does not work out by itself: not "compressed name", and
    for a root neither "hive entry" nor "no delete". ``security`` is a self-relative descriptor
    (None: the writer's default). ``access_bits``, ``extra_flags`` and ``handle`` (of a key with
    ``KEY_PREDEFINED_HANDLE``, which has no values) are kept as they were read.
    """

    name: str
    values: tuple[Value, ...] = ()
    subkeys: tuple[Key, ...] = ()
    class_name: bytes = b""
    security: bytes | None = None
    last_written: int = 0
    flags: int = 0
    access_bits: int = 0
    extra_flags: int = 0
    handle: int = 0

    def __eq__(self, other: object) -> bool:
        """Whether all is the same; a loop, because a hive may be deeper than Python recurses."""
        if not isinstance(other, Key):
            return NotImplemented
        pending = [(self, other)]
        while pending:
            ours, theirs = pending.pop()
            if ours is theirs:
                continue
            if ours.fields_here() != theirs.fields_here():
                return False
            if len(ours.subkeys) != len(theirs.subkeys):
                return False
            pending += zip(ours.subkeys, theirs.subkeys, strict=True)
        return True

    def __hash__(self) -> int:
        return hash((*self.fields_here(), len(self.subkeys)))

    def __repr__(self) -> str:
        return f"<Key {self.name!r}: {len(self.values)} values, {len(self.subkeys)} subkeys>"

    def fields_here(self) -> tuple[object, ...]:
        """Everything but the subkeys."""
        return (
            self.name, self.values, self.class_name, self.security, self.last_written,
            self.flags, self.access_bits, self.extra_flags, self.handle,
        )  # fmt: skip

    def subkey(self, name: str) -> Key | None:
        """The key of that name directly below this one."""
        wanted = upcase_name(name)
        for key in self.subkeys:
            if upcase_name(key.name) == wanted:
                return key
        return None

    def find(self, *names: str) -> Key | None:
        """The key that this path of names leads to; this one for no names."""
        key: Key | None = self
        for name in names:
            key = key.subkey(name) if key else None
        return key

    def value(self, name: str) -> Value | None:
        """The value of that name; the empty one is the default value."""
        wanted = upcase_name(name)
        for value in self.values:
            if upcase_name(value.name) == wanted:
                return value
        return None

    def with_subkey(self, key: Key) -> Key:
        """A copy with ``key`` in place of the one of its name, or put in where it sorts."""
        wanted = name_order(key.name)
        kept = list(self.subkeys)
        for index, old in enumerate(kept):
            if name_order(old.name) == wanted:
                kept[index] = key
                return replace(self, subkeys=tuple(kept))
        bisect.insort(kept, key, key=lambda item: name_order(item.name))
        return replace(self, subkeys=tuple(kept))

    def without_subkey(self, name: str) -> Key:
        """A copy without the key of that name; the same if there is none."""
        wanted = upcase_name(name)
        kept = tuple(key for key in self.subkeys if upcase_name(key.name) != wanted)
        return replace(self, subkeys=kept)

    def with_value(self, value: Value) -> Key:
        """A copy with ``value`` in place of the one of its name, or behind the others."""
        wanted = upcase_name(value.name)
        kept = list(self.values)
        for index, old in enumerate(kept):
            if upcase_name(old.name) == wanted:
                kept[index] = value
                return replace(self, values=tuple(kept))
        return replace(self, values=(*kept, value))

    def without_value(self, name: str) -> Key:
        """A copy without the value of that name; the same if there is none."""
        wanted = upcase_name(name)
        kept = tuple(value for value in self.values if upcase_name(value.name) != wanted)
        return replace(self, values=kept)


@dataclass(frozen=True, slots=True)
class Hive:
    """A whole hive: its root and what its first block says.

    ``name`` is the end of the path that it was saved under. ``sequence`` goes up by one with each
    write in place. ``extra`` is what lies at 0x70 of the first block since Windows Vista and 10
    (transaction log GUIDs and flags); it is kept as it was read.
    """

    root: Key
    name: str = ""
    minor_version: int = 5
    last_written: int = 0
    sequence: int = 1
    extra: bytes = b""


def name_order(name: str) -> bytes:
    """What names are sorted by, and what is equal for names that are one to Windows."""
    return upcase_name(name).encode("utf-16-be", "surrogatepass")


def _decode(data: bytes) -> str:
    return data[: len(data) & ~1].decode("utf-16-le", "surrogatepass")


def _encode(text: str) -> bytes:
    return text.encode("utf-16-le", "surrogatepass")
