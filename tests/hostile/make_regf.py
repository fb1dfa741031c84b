# SPDX-License-Identifier: GPL-3.0-or-later
"""Registry hives, good and bad: every row of the README's "Registry hives" is one case."""

from __future__ import annotations

import struct
from collections.abc import Callable

from mediamaker.formats.regf import REG_BINARY, Hive, Key, Value, dword_value
from mediamaker.formats.regf_pack import pack_hive

FIRST_BIN = 0x1000
NOWHERE = 0xFFFFFFFF
KEY_NAMES = ("a", "b", "c", "d")


def good() -> Hive:
    """Keys with values in place, in a cell and in several; classes, and a key below a key."""
    small = (dword_value("small", 1), Value("data", REG_BINARY, bytes(100)))
    big = (Value("big", REG_BINARY, bytes(17000)), Value("other", REG_BINARY, b"x" * 50))
    return Hive(
        Key(
            "ROOT",
            subkeys=(
                Key("a", values=small, subkeys=(Key("below"),)),
                Key("b", class_name=b"class b!", subkeys=(Key("too"),)),
                Key("c", values=big, class_name=b"c c!"),
                Key("d", values=(Value("\u6f22", REG_BINARY, bytes(9)),)),
            ),
        ),
    )


class Patched:
    """The good hive, whose fields are overwritten in their places."""

    def __init__(self, hive: Hive | None = None) -> None:
        self.data = bytearray(pack_hive(hive or good()))

    def cell(self, mark: bytes, name: bytes, name_at: int) -> int:
        """The file offset of what a cell holds, by its signature and the name in it."""
        at = self.data.index(mark)
        while bytes(self.data[at + name_at : at + name_at + len(name)]) != name:
            at = self.data.index(mark, at + 1)
        return at

    def key(self, name: str) -> int:
        return self.cell(b"nk", name.encode("latin-1") + b"\0" * (name in KEY_NAMES), 0x4C)

    def value(self, name: str) -> int:
        return self.cell(b"vk", name.encode("latin-1"), 0x14)

    def offset_at(self, at: int) -> int:
        """The file offset of the content of the cell that the field at ``at`` refers to."""
        return self.u32(at) + FIRST_BIN + 4

    def u32(self, at: int) -> int:
        return int(struct.unpack_from("<I", self.data, at)[0])

    def put(self, at: int, *numbers: int, size: int = 4) -> Patched:
        for index, number in enumerate(numbers):
            mask = (1 << 8 * size) - 1
            self.data[at + index * size : at + (index + 1) * size] = (number & mask).to_bytes(
                size, "little"
            )
        return self

    def put_bytes(self, at: int, data: bytes) -> Patched:
        self.data[at : at + len(data)] = data
        return self

    def done(self) -> bytes:
        return with_checksum(bytes(self.data))


def with_checksum(data: bytes) -> bytes:
    """The hive with the right checksum in its first block; less than that stays as it is."""
    if len(data) < 0x200:
        return data
    checksum = 0
    for (word,) in struct.iter_unpack("<I", data[:0x1FC]):
        checksum ^= word
    checksum = {0: 1, 0xFFFFFFFF: 0xFFFFFFFE}.get(checksum, checksum)
    return data[:0x1FC] + struct.pack("<I", checksum) + data[0x200:]


def _header(at: int, number: int) -> bytes:
    return Patched().put(at, number).done()


def _key(name: str, at: int, *numbers: int, size: int = 4) -> bytes:
    patched = Patched()
    return patched.put(patched.key(name) + at, *numbers, size=size).done()


def _value(name: str, at: int, *numbers: int, size: int = 4) -> bytes:
    patched = Patched()
    return patched.put(patched.value(name) + at, *numbers, size=size).done()


def _list(at: int, *numbers: int, size: int = 4) -> bytes:
    """The root's subkey list: signature, count, then keys and hashes from 4 on."""
    patched = Patched()
    start = patched.offset_at(patched.key("ROOT") + 0x1C)
    return patched.put(start + at, *numbers, size=size).done()


def _copied(source: str, target: str, *fields: int) -> bytes:
    """Fields of one key put into another."""
    patched = Patched()
    for field in fields:
        patched.put(patched.key(target) + field, patched.u32(patched.key(source) + field))
    return patched.done()


def _security(at: int, *numbers: int, size: int = 4) -> bytes:
    patched = Patched()
    start = patched.offset_at(patched.key("ROOT") + 0x2C)
    return patched.put(start + at, *numbers, size=size).done()


def _big_data(at: int, number: int, *, size: int = 4) -> bytes:
    """The first cell of the big data: signature, count, list."""
    patched = Patched()
    head = patched.offset_at(patched.value("big") + 8)
    return patched.put(head + at, number, size=size).done()


def _big_data_segment(number: int | None) -> bytes:
    """The second of the two segments; None for the first one again."""
    patched = Patched()
    listed = patched.offset_at(patched.offset_at(patched.value("big") + 8) + 4)
    return patched.put(listed + 4, patched.u32(listed) if number is None else number).done()


def _class(patched: Patched, key: str) -> int:
    return patched.offset_at(patched.key(key) + 0x30)


def _first_value(key: str, number: int) -> bytes:
    patched = Patched()
    return patched.put(patched.offset_at(patched.key(key) + 0x28), number).done()


def _offset(find: Callable[[Patched], int]) -> int:
    """The number by which the good hive refers to the cell whose content lies there."""
    return find(Patched()) - FIRST_BIN - 4


def _root_entry(index: int, name: str) -> bytes:
    """The entry ``index`` of the root's list names another cell."""
    patched = Patched()
    start = patched.offset_at(patched.key("ROOT") + 0x1C)
    number = patched.key(name) - FIRST_BIN - 4
    return patched.put(start + 4 + 8 * index, number).done()


def _lists(*, of_lists: bool) -> bytes:
    """600 keys take two leaves; the second place names the first leaf or the list of lists."""
    patched = Patched(Hive(Key("ROOT", subkeys=tuple(Key(f"k{n:03}") for n in range(600)))))
    root = patched.key("ROOT")
    listed = patched.offset_at(root + 0x1C)
    number = patched.u32(listed + 4)
    if of_lists:
        leaf = number + FIRST_BIN + 4
        patched.put_bytes(leaf, b"ri")
    else:
        patched.put(listed + 8, number)
    return patched.done()


def _renamed(name: str, to: bytes, *, is_latin1: bool = True) -> bytes:
    patched = Patched()
    at = patched.key(name)
    if not is_latin1:
        patched.put(at + 2, 0, size=2)
    return patched.put_bytes(at + 0x4C, to).put(at + 0x48, len(to), size=2).done()


def _renamed_value(name: str, to: bytes) -> bytes:
    patched = Patched()
    at = patched.value(name)
    return patched.put_bytes(at + 0x14, to).put(at + 2, len(to), size=2).done()


def _first_cell(size: int) -> bytes:
    return Patched().put(FIRST_BIN + 0x20, size).done()


def _free(at: Callable[[Patched], int]) -> bytes:
    """The cell whose content lies there is marked as free."""
    patched = Patched()
    start = at(patched) - 4
    return patched.put(start, -patched.u32(start)).done()


def _deep(*, one_more: bool) -> bytes:
    """512 levels of keys; one more is put on by hand, as the writer would refuse it."""
    key = Key("bottom")
    for number in range(510):
        key = Key(f"k{number}", subkeys=(key,))
    patched = Patched(Hive(Key("ROOT", subkeys=(key, Key("zextra", subkeys=(Key("last"),))))))
    if one_more:
        bottom, extra = patched.key("bottom"), patched.key("zextra")
        patched.put(bottom + 0x14, 1).put(bottom + 0x1C, patched.u32(extra + 0x1C))
        patched.put(extra + 0x14, 0)
    return patched.done()


def _unsorted() -> bytes:
    patched = Patched()
    start = patched.offset_at(patched.key("ROOT") + 0x1C) + 4
    first, second = patched.data[start : start + 8], patched.data[start + 8 : start + 16]
    return patched.put_bytes(start, bytes(second + first)).done()


def _without_hashes() -> bytes:
    patched = Patched()
    start = patched.offset_at(patched.key("ROOT") + 0x1C) + 4
    for index in range(len(KEY_NAMES)):
        patched.put(start + 8 * index + 4, 0)
    return patched.done()


CASES: dict[str, Callable[[], bytes]] = {
    "hive-empty": lambda: b"",
    "hive-text": lambda: b"Windows Registry Editor Version 5.00\r\n" * 200,
    "hive-header-only": lambda: pack_hive(good())[:0x200],
    "hive-cut": lambda: pack_hive(good())[:-0x1000],
    "hive-checksum": lambda: bytes(Patched().put(0x0C, 1).data),
    "hive-dirty": lambda: _header(4, 2),
    "hive-log": lambda: _header(0x1C, 1),
    "hive-format": lambda: _header(0x20, 0),
    "hive-version-1-2": lambda: _header(0x18, 2),
    "hive-version-2": lambda: _header(0x14, 2),
    "bins-none": lambda: _header(0x28, 0),
    "bins-odd": lambda: _header(0x28, 0x1001),
    "bins-absurd": lambda: _header(0x28, 0xFFFFF000),
    "bin-signature": lambda: Patched().put(FIRST_BIN, 0).done(),
    "bin-offset": lambda: Patched().put(FIRST_BIN + 4, 0x1000).done(),
    "bin-size-zero": lambda: Patched().put(FIRST_BIN + 8, 0).done(),
    "bin-size-odd": lambda: Patched().put(FIRST_BIN + 8, 0x1008).done(),
    "bin-past-end": lambda: Patched().put(FIRST_BIN + 8, 0x10000000).done(),
    "cell-zero": lambda: _first_cell(0),
    "cell-unaligned": lambda: _first_cell(-84),
    "cell-past-bin": lambda: _first_cell(-0x1000),
    "cell-least-number": lambda: _first_cell(0x80000000),
    "root-nowhere": lambda: _header(0x24, NOWHERE),
    "root-inside-cell": lambda: _header(0x24, 0x28),
    "root-is-value": lambda: _header(0x24, _offset(lambda patched: patched.value("small"))),
    "root-free": lambda: _free(lambda patched: patched.key("ROOT")),
    "loop-to-root": lambda: _root_entry(1, "ROOT"),
    "loop-to-itself": lambda: _copied("a", "below", 0x14, 0x1C),
    "key-twice": lambda: _root_entry(1, "a"),
    "key-of-two": lambda: _copied("a", "b", 0x1C),
    "key-free": lambda: _free(lambda patched: patched.key("below")),
    "key-past-end": lambda: _list(4, 0x7FFFFFF8),
    "list-short": lambda: _list(2, 3, size=2),
    "list-absurd": lambda: _list(2, 0xFFFF, size=2),
    "list-unknown": lambda: _list(0, 0x5858, size=2),
    "lists-twice": lambda: _lists(of_lists=False),
    "lists-of-lists": lambda: _lists(of_lists=True),
    "subkeys-absurd": lambda: _key("ROOT", 0x14, 0xFFFFFFFF),
    "key-name-past-cell": lambda: _key("a", 0x48, 200, size=2),
    "key-name-empty": lambda: _key("a", 0x48, 0, size=2),
    "key-name-backslash": lambda: _renamed("below", b"be\\ow"),
    "key-name-odd": lambda: _renamed("below", b"below", is_latin1=False),
    "key-name-twice": lambda: _renamed("b", b"A"),
    "value-name-past-cell": lambda: _value("small", 2, 200, size=2),
    "value-name-twice": lambda: _renamed_value("data", b"SMALL"),
    "values-absurd": lambda: _key("a", 0x24, 0x40000000),
    "values-of-two": lambda: _copied("a", "b", 0x24, 0x28),
    "value-is-key": lambda: _first_value("a", _offset(lambda patched: patched.key("d"))),
    "value-layered": lambda: _value("small", 0x10, 3, size=2),
    "data-in-place-long": lambda: _value("small", 4, 0x80000005),
    "data-past-cell": lambda: _value("data", 4, 0x1000),
    "data-nowhere": lambda: _value("data", 8, NOWHERE),
    "data-free": lambda: _free(lambda patched: patched.offset_at(patched.value("data") + 8)),
    "data-of-two": lambda: _value("other", 8, Patched().u32(Patched().value("data") + 8)),
    "big-data-absurd": lambda: _value("big", 4, 0x7FFFFFFF),
    "big-data-count": lambda: _big_data(2, 1, size=2),
    "big-data-list-short": lambda: _big_data(4, _offset(lambda patched: _class(patched, "c"))),
    "big-data-segment-short": lambda: _big_data_segment(
        _offset(lambda patched: _class(patched, "c"))
    ),
    "big-data-segment-twice": lambda: _big_data_segment(None),
    "class-past-cell": lambda: _key("b", 0x4A, 2000, size=2),
    "class-of-two": lambda: _copied("b", "c", 0x30),
    "security-is-key": lambda: _key("a", 0x2C, _offset(lambda patched: patched.key("d"))),
    "security-past-cell": lambda: _security(0x10, 0x7FFFFFFF),
    "security-owner-outside": lambda: _security(0x14 + 4, 0x7FFFFFFF),
    "security-acl-long": lambda: _security(0x14 + 0x14 + 2, 0xFFFF, size=2),
    "security-absolute": lambda: _security(0x14 + 2, 0x0004, size=2),
    "deeper-than-windows": lambda: _deep(one_more=True),
    "deep-as-windows": lambda: _deep(one_more=False),
    "more-behind": lambda: pack_hive(good()) + b"\xff" * 5000,
    "keys-unsorted": _unsorted,
    "hashes-zero": _without_hashes,
    "security-missing": lambda: _key("a", 0x2C, NOWHERE),
    "security-count-wrong": lambda: _security(0x0C, 0),
    "parent-wrong": lambda: _key("a", 0x10, 0),
    "volatile-left": lambda: _key("a", 0x18, 5),
    "lists-of-nothing": lambda: _key("below", 0x1C, 0x1234),
    "key-name-lone-surrogate": lambda: _renamed("below", b"\x00\xd8", is_latin1=False),
}
