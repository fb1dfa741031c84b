# SPDX-License-Identifier: GPL-3.0-or-later
"""Registry hives for the stand-ins, from nested dictionaries; broken in one way when asked.

Shares nothing with ``mediamaker.formats.regf_pack``: the boot managers that judge that writer
are themselves judged on these. Written from boot-facts.md 3.1.
"""

from __future__ import annotations

import struct
from collections.abc import Mapping
from typing import Literal, TypeAlias

Tree: TypeAlias = Mapping[str, "Tree | tuple[int, bytes]"]
"""A name is a subkey where it holds a mapping, a value where it holds (type, data)."""

Flaw = Literal[
    "checksum", "sequence", "version", "unsorted", "no-security", "hbin", "no-description", "free"
]
SZ, BINARY, DWORD, MULTI_SZ = 1, 3, 4, 7

_BASE_SIZE = _BIN_UNIT = 4096
_NONE = 0xFFFF_FFFF
_BIG = 16344  # larger data would need a "db" record, which no boot store has
# O:BA G:SY D:(A;CI;KA;;;WD): self-relative, owner, group, no SACL, one ACE.
_ADMINISTRATORS = bytes.fromhex("0102000000000005 20000000 20020000")
_SYSTEM = bytes.fromhex("0101000000000005 12000000")
_DACL = bytes.fromhex("02001c0001000000 0002 1400 3f000f00 0101000000000001 00000000")
_SECURITY = struct.pack("<BxHIIII", 1, 0x8004, 20, 36, 0, 48)
_SECURITY += _ADMINISTRATORS + _SYSTEM + _DACL


def text(value: str) -> tuple[int, bytes]:
    """A REG_SZ value."""
    return SZ, (value + "\0").encode("utf-16-le")


def make_hive(
    root: Tree,
    *,
    root_name: str = "NewStoreRoot",
    minor_version: int = 3,
    list_kind: Literal["lf", "lh", "li", "ri"] = "lf",
    flaw: Flaw | None = None,
) -> bytes:
    """One hive in one bin. ``flaw`` is what a boot manager must refuse, and nothing else."""
    cells = _Cells(list_kind, flaw)
    root_offset = cells.add_key(root, root_name, parent=0, is_root=True)
    body = bytearray(cells.body)
    size = -(-(len(body) + 8) // _BIN_UNIT) * _BIN_UNIT
    free = size - len(body)
    body += struct.pack("<i", free).ljust(free, b"\0")
    struct.pack_into("<4sII", body, 0, b"hbin", 0, size)
    if flaw == "hbin":
        body[0:4] = b"bihn"
    if flaw == "free":  # the root's cell says that it is free
        struct.pack_into("<i", body, root_offset, -struct.unpack_from("<i", body, root_offset)[0])
    base = bytearray(_BASE_SIZE)
    struct.pack_into("<4sII", base, 0, b"regf", 7, 8 if flaw == "sequence" else 7)
    version = 2 if flaw == "version" else minor_version
    struct.pack_into("<IIIIIII", base, 0x14, 1, version, 0, 1, root_offset, size, 1)
    checksum = 0
    for (word,) in struct.iter_unpack("<I", base[:0x1FC]):
        checksum ^= word
    checksum = {0: 1, _NONE: _NONE - 1}.get(checksum, checksum)
    struct.pack_into("<I", base, 0x1FC, checksum ^ (flaw == "checksum"))
    return bytes(base + body)


class _Cells:
    """Grows the bin; every method gives the offset of the cell that it added."""

    def __init__(self, list_kind: str, flaw: Flaw | None) -> None:
        self.body = bytearray(0x20)
        self._list_kind = list_kind
        self._flaw = flaw
        self._security: int | None = None

    def _add(self, data: bytes) -> int:
        offset = len(self.body)
        size = (len(data) + 4 + 7) & ~7
        self.body += (struct.pack("<i", -size) + data).ljust(size, b"\0")
        return offset

    def add_key(self, tree: Tree, name: str, *, parent: int, is_root: bool = False) -> int:
        """A key, its values and all below it."""
        encoded, is_latin1 = _encode(name)
        offset = self._add(bytes(0x4C) + encoded)
        values = {key: body for key, body in tree.items() if isinstance(body, tuple)}
        keys = [(key, body) for key, body in tree.items() if not isinstance(body, tuple)]
        keys.sort(key=lambda item: item[0].upper(), reverse=self._flaw == "unsorted")
        subkeys = [(key, self.add_key(body, key, parent=offset)) for key, body in keys]
        value_cells = [self._add_value(key, *body) for key, body in values.items()]
        value_list = self._add(struct.pack(f"<{len(value_cells)}I", *value_cells))
        record = struct.pack("<2sHQIIIIIIIIII", b"nk", (0x2C if is_root else 0) | is_latin1 << 5,
            0, 0, parent, len(subkeys), 0, self._add_list(subkeys) if subkeys else _NONE, _NONE,
            len(values), value_list if values else _NONE, self._add_security(), _NONE)  # fmt: skip
        longest_key = max((2 * len(key) for key, _ in subkeys), default=0)
        longest_value = max((2 * len(key) for key in values), default=0)
        largest = max((len(data) for _, data in values.values()), default=0)
        record += struct.pack(
            "<IIIIIHH", longest_key, 0, longest_value, largest, 0, len(encoded), 0
        )
        self.body[offset + 4 : offset + 4 + 0x4C] = record
        return offset

    def _add_value(self, name: str, type_code: int, data: bytes) -> int:
        if len(data) > _BIG:
            raise ValueError(f"{name}: {len(data)} bytes in one value")
        encoded, is_latin1 = _encode(name)
        size, inline = len(data), data.ljust(4, b"\0")
        if size > 4:
            inline = struct.pack("<I", self._add(data))
        else:
            size |= 0x8000_0000
        head = struct.pack("<2sHI4sIHH", b"vk", len(encoded), size, inline, type_code, is_latin1, 0)
        return self._add(head + encoded)

    def _add_list(self, subkeys: list[tuple[str, int]]) -> int:
        kind = self._list_kind
        if kind == "ri":
            half = (len(subkeys) + 1) // 2
            parts = [part for part in (subkeys[:half], subkeys[half:]) if part]
            lists = [self._add_leaf("lh", part) for part in parts]
            return self._add(struct.pack(f"<2sH{len(lists)}I", b"ri", len(lists), *lists))
        return self._add_leaf(kind, subkeys)

    def _add_leaf(self, kind: str, subkeys: list[tuple[str, int]]) -> int:
        leaf = struct.pack("<2sH", kind.encode(), len(subkeys))
        for name, offset in subkeys:
            leaf += struct.pack("<I", offset)
            if kind == "lf":
                leaf += name.encode("latin-1", "replace")[:4].ljust(4, b"\0")
            elif kind == "lh":
                value = 0
                for character in name.upper():
                    value = (value * 37 + ord(character)) & _NONE
                leaf += struct.pack("<I", value)
        return self._add(leaf)

    def _add_security(self) -> int:
        if self._flaw == "no-security":
            return _NONE
        if self._security is None:
            here = len(self.body)
            head = struct.pack("<2sHIIII", b"sk", 0, here, here, 0, len(_SECURITY))
            self._security = self._add(head + _SECURITY)
        count_offset = self._security + 4 + 12
        (count,) = struct.unpack_from("<I", self.body, count_offset)
        struct.pack_into("<I", self.body, count_offset, count + 1)
        return self._security


def _encode(name: str) -> tuple[bytes, bool]:
    try:
        return name.encode("latin-1"), True
    except UnicodeEncodeError:
        return name.encode("utf-16-le"), False
