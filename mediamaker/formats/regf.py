# SPDX-License-Identifier: GPL-3.0-or-later
"""Registry hive files ("regf"): bytes to a tree.

References are in :mod:`mediamaker.formats.regf_records`. A hive comes from a file that nobody
vouches for: the cells are counted once from the start of each bin, only whole cells that are in
use may be referred to, and only once each but for security descriptors, so that what is read is
never more than there is; the walk is a loop and its depth is Windows' own. Free cells, cells that
nothing refers to, and what is only true while Windows runs (volatile keys) are left out.
"""

from __future__ import annotations

import struct
from dataclasses import dataclass, field
from typing import NoReturn

from mediamaker.errors import FormatError
from mediamaker.formats.record import parse_record
from mediamaker.formats.regf_records import (
    BIG_DATA,
    BIG_DATA_MINOR_VERSION,
    BIG_SEGMENT_SIZE,
    BIN_HEADER,
    BLOCK_SIZE,
    CELL_ALIGNMENT,
    CELL_HEADER,
    CELL_SIZE_MIN,
    DEPTH_MAX,
    FLAG_COMPRESSED_NAME,
    HIVE_SIZE_MAX,
    INLINE_DATA,
    INLINE_SIZE_MAX,
    KEY_NAME_SIZE_MAX,
    KEY_NODE,
    KEY_SECURITY,
    KEY_VALUE,
    LIST_HEADER,
    MINOR_VERSIONS,
    NO_CELL,
    ROOT_FLAGS,
    VALUE_COMPRESSED_NAME,
    VALUE_NAME_SIZE_MAX,
    VALUE_TOMBSTONE,
    BaseBlock,
    compute_checksum,
    find_security_fault,
)
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

_ENTRY_SIZES = {b"li": 4, b"lf": 8, b"lh": 8}
_NOTHING, _FREE, _IN_USE, _READ = range(4)
_REFUSALS = {
    _NOTHING: "no cell begins there",
    _FREE: "the cell is free",
    _READ: "the cell is used twice",
}


def parse_hive(data: bytes, *, what: str) -> Hive:
    """The hive in ``data``, which may go on behind it; ``what`` names it in messages.

    Raises:
        FormatError: not a hive, damaged, or not closed by the Windows that wrote it.
    """
    base = _parse_base_block(data, what)
    name = base.path_tail.decode("utf-16-le", "surrogatepass").partition("\0")[0]
    return Hive(
        root=_Reader(data, base, what).read_tree(),
        name=name,
        minor_version=base.minor_version,
        last_written=base.last_written,
        sequence=base.primary_sequence,
        extra=base.extra if any(base.extra) else b"",
    )


def _parse_base_block(data: bytes, what: str) -> BaseBlock:
    if data[:4] != b"regf":
        raise FormatError(f"{what}: not a registry hive: expected b'regf', got {data[:4]!r}")
    if len(data) < BLOCK_SIZE:
        raise FormatError(f"{what}: expected {BLOCK_SIZE} bytes or more, got {len(data)}")
    base = parse_record(BaseBlock, data, what=what)
    expected = compute_checksum(data)
    if base.checksum != expected:
        raise FormatError(
            f"{what}: first block: checksum: expected {expected:#010x}, got {base.checksum:#010x}"
        )
    if base.primary_sequence != base.secondary_sequence:
        raise FormatError(
            f"{what}: not closed cleanly: its sequence numbers are {base.primary_sequence} and "
            f"{base.secondary_sequence}, so changes are still in its .LOG files",
            hint="start that Windows and shut it down (with Shift held, or shutdown /s /t 0)",
        )
    if base.file_type != 0 or base.file_format != 1:
        raise FormatError(
            f"{what}: expected a hive (type 0, format 1), got type {base.file_type}, "
            f"format {base.file_format}"
        )
    if base.major_version != 1 or base.minor_version not in MINOR_VERSIONS:
        raise FormatError(
            f"{what}: expected version 1.{MINOR_VERSIONS[0]} to 1.{MINOR_VERSIONS[-1]}, "
            f"got {base.major_version}.{base.minor_version}"
        )
    size_max = HIVE_SIZE_MAX - BLOCK_SIZE
    if base.bins_size % BLOCK_SIZE or not 0 < base.bins_size <= size_max:
        raise FormatError(
            f"{what}: expected bins of a multiple of {BLOCK_SIZE} bytes and at most {size_max}, "
            f"got {base.bins_size}",
        )
    if base.bins_size > len(data) - BLOCK_SIZE:
        raise FormatError(
            f"{what}: its end is missing: expected {BLOCK_SIZE + base.bins_size} bytes, "
            f"got {len(data)}"
        )
    return base


@dataclass(slots=True)
class _Node:
    """A key that was read, whose subkeys' places in the list are known only later."""

    key: Key
    subkey_indexes: list[int] = field(default_factory=list)


class _Reader:
    """Reads each cell of the bins at most once."""

    def __init__(self, data: bytes, base: BaseBlock, what: str) -> None:
        self._bins = memoryview(data)[BLOCK_SIZE : BLOCK_SIZE + base.bins_size]
        self._base = base
        self._what = what
        self._states = bytearray(len(self._bins) // CELL_ALIGNMENT)
        self._descriptors: dict[int, bytes] = {}
        self._map_cells()

    def read_tree(self) -> Key:
        """The root with all that is below it."""
        nodes: list[_Node] = []
        pending = [(self._base.root_offset, -1, 1)]
        while pending:
            offset, parent_index, depth = pending.pop()
            if depth > DEPTH_MAX:
                self._fail("key", offset, f"expected at most {DEPTH_MAX} levels of keys")
            key, subkeys = self._read_key(offset, is_root=parent_index < 0)
            if parent_index >= 0:
                nodes[parent_index].subkey_indexes.append(len(nodes))
            pending += [(subkey, len(nodes), depth + 1) for subkey in reversed(subkeys)]
            nodes.append(_Node(key))
        return self._build(nodes)

    def _build(self, nodes: list[_Node]) -> Key:
        """Parents come before their subkeys in ``nodes``, so the last is whole already."""
        built: list[Key | None] = [None] * len(nodes)
        for index in reversed(range(len(nodes))):
            node = nodes[index]
            subkeys: list[Key] = []
            for subkey_index in node.subkey_indexes:
                subkey = built[subkey_index]
                assert subkey is not None
                subkeys.append(subkey)
                built[subkey_index] = None
            self._check_names([subkey.name for subkey in subkeys], f"key {node.key.name!r}")
            built[index] = _with_subkeys(node.key, tuple(subkeys))
        root = built[0]
        assert root is not None
        return root

    def _map_cells(self) -> None:
        """Notes where the cells begin; they fill each bin without a gap."""
        bins, states = self._bins, self._states
        position = 0
        while position < len(bins):
            signature, offset, size, _ = BIN_HEADER.unpack_from(bins, position)
            if signature != b"hbin" or offset != position:
                self._fail("bin", position, f"expected b'hbin' of {position:#x}, got "
                           f"{signature!r} of {offset:#x}")  # fmt: skip
            if size == 0 or size % BLOCK_SIZE or size > len(bins) - position:
                self._fail("bin", position, f"expected a multiple of {BLOCK_SIZE} bytes and at "
                           f"most {len(bins) - position}, got {size}")  # fmt: skip
            end = position + size
            position += BIN_HEADER.size
            while position < end:
                (cell_size,) = CELL_HEADER.unpack_from(bins, position)
                taken = abs(cell_size)
                if taken < CELL_SIZE_MIN or taken % CELL_ALIGNMENT or taken > end - position:
                    self._fail("cell", position, f"expected a multiple of {CELL_ALIGNMENT} bytes "
                               f"and at most {end - position}, got {taken}")  # fmt: skip
                states[position // CELL_ALIGNMENT] = _IN_USE if cell_size < 0 else _FREE
                position += taken

    def _open(self, offset: int, kind: str, size_min: int) -> memoryview:
        """What the cell at ``offset`` holds; it is marked as read."""
        index, rest = divmod(offset, CELL_ALIGNMENT)
        state = _NOTHING if rest or index >= len(self._states) else self._states[index]
        if state != _IN_USE:
            self._fail(kind, offset, _REFUSALS[state])
        self._states[index] = _READ
        (size,) = CELL_HEADER.unpack_from(self._bins, offset)
        content = self._bins[offset + CELL_HEADER.size : offset - size]
        if len(content) < size_min:
            self._fail(kind, offset, f"expected {size_min} bytes or more, got {len(content)}")
        return content

    def _open_signed(self, offset: int, kind: str, signature: bytes, size: int) -> memoryview:
        cell = self._open(offset, kind, size)
        if bytes(cell[:2]) != signature:
            self._fail(kind, offset, f"expected {signature!r}, got {bytes(cell[:2])!r}")
        return cell

    def _read_key(self, offset: int, *, is_root: bool) -> tuple[Key, list[int]]:
        cell = self._open_signed(offset, "key", b"nk", KEY_NODE.size)
        (
            _, flags, last_written, access_bits, _, subkey_count, _, subkey_list, _,
            value_count, value_list, security, class_offset, _, extra_flags, _, _, _, _,
            name_size, class_size,
        ) = KEY_NODE.unpack_from(cell)  # fmt: skip
        name = self._read_name(
            cell[KEY_NODE.size :], name_size, KEY_NAME_SIZE_MAX, offset,
            "key", is_latin1=bool(flags & FLAG_COMPRESSED_NAME),
        )  # fmt: skip
        if not is_root and (not name or "\\" in name):
            self._fail("key", offset, f"expected a name, without '\\', got {name!r}")
        has_handle = bool(flags & KEY_PREDEFINED_HANDLE)
        key = Key(
            name=name,
            values=() if has_handle else self._read_values(value_count, value_list, name),
            class_name=self._read_class_name(class_offset, class_size),
            security=self._read_security(security),
            last_written=last_written,
            flags=flags & ~(FLAG_COMPRESSED_NAME | (ROOT_FLAGS if is_root else 0)),
            access_bits=access_bits,
            extra_flags=extra_flags,
            handle=value_count if has_handle else 0,
        )
        return key, self._read_subkey_list(subkey_count, subkey_list)

    def _read_name(
        self, rest: memoryview, size: int, size_max: int, offset: int, kind: str, *, is_latin1: bool
    ) -> str:
        utf16_size = 2 * size if is_latin1 else size
        if size > len(rest) or utf16_size > size_max or utf16_size % 2:
            limit = min(len(rest), size_max // 2 if is_latin1 else size_max)
            self._fail(kind, offset, f"expected a name of at most {limit} bytes, got {size}")
        text = bytes(rest[:size])
        return text.decode("latin-1") if is_latin1 else text.decode("utf-16-le", "surrogatepass")

    def _read_class_name(self, offset: int, size: int) -> bytes:
        if offset == NO_CELL or size == 0:
            return b""
        return bytes(self._open(offset, "class name", size)[:size])

    def _read_security(self, offset: int) -> bytes | None:
        if offset == NO_CELL:
            return None
        known = self._descriptors.get(offset)
        if known is not None:
            return known
        cell = self._open_signed(offset, "security", b"sk", KEY_SECURITY.size)
        size = KEY_SECURITY.unpack_from(cell)[-1]
        if size > len(cell) - KEY_SECURITY.size:
            limit = len(cell) - KEY_SECURITY.size
            self._fail("security", offset, f"expected at most {limit} bytes, got {size}")
        descriptor = bytes(cell[KEY_SECURITY.size : KEY_SECURITY.size + size])
        fault = find_security_fault(descriptor)
        if fault:
            self._fail("security", offset, fault)
        self._descriptors[offset] = descriptor
        return descriptor

    def _read_subkey_list(self, count: int, offset: int) -> list[int]:
        if count == 0:
            return []
        cell = self._open(offset, "subkey list", LIST_HEADER.size)
        signature, entry_count = LIST_HEADER.unpack_from(cell)
        if signature == b"ri":
            found: list[int] = []
            for leaf_offset in self._read_offsets(cell, entry_count, 4, offset):
                leaf = self._open(leaf_offset, "subkey list", LIST_HEADER.size)
                found += self._read_leaf(leaf, leaf_offset)
        else:
            found = self._read_leaf(cell, offset)
        if len(found) != count:
            self._fail("subkey list", offset, f"expected {count} subkeys, got {len(found)}")
        return found

    def _read_leaf(self, cell: memoryview, offset: int) -> list[int]:
        signature, count = LIST_HEADER.unpack_from(cell)
        entry_size = _ENTRY_SIZES.get(signature)
        if entry_size is None:
            self._fail("subkey list", offset, f"expected li, lf, lh or ri, got {signature!r}")
        return self._read_offsets(cell, count, entry_size, offset)

    def _read_offsets(
        self, cell: memoryview, count: int, entry_size: int, offset: int
    ) -> list[int]:
        if count * entry_size > len(cell) - LIST_HEADER.size:
            self._fail("subkey list", offset, f"{count} entries do not fit its {len(cell)} bytes")
        words = struct.unpack_from(f"<{count * entry_size // 4}I", cell, LIST_HEADER.size)
        return list(words[:: entry_size // 4])

    def _read_values(self, count: int, offset: int, key_name: str) -> tuple[Value, ...]:
        if count == 0:
            return ()
        cell = self._open(offset, "value list", 4 * count)
        values = tuple(self._read_value(at) for at in struct.unpack_from(f"<{count}I", cell))
        self._check_names([value.name for value in values], f"values of key {key_name!r}")
        return values

    def _read_value(self, offset: int) -> Value:
        cell = self._open_signed(offset, "value", b"vk", KEY_VALUE.size)
        _, name_size, size, data_offset, type_code, flags = KEY_VALUE.unpack_from(cell)
        if flags & VALUE_TOMBSTONE:
            self._fail("value", offset, "it marks a deletion in a layered hive, not supported")
        name = self._read_name(
            cell[KEY_VALUE.size :], name_size, VALUE_NAME_SIZE_MAX, offset,
            "value", is_latin1=bool(flags & VALUE_COMPRESSED_NAME),
        )  # fmt: skip
        if size & INLINE_DATA:
            size &= ~INLINE_DATA
            if size > INLINE_SIZE_MAX:
                self._fail("value", offset, f"expected at most 4 bytes in place, got {size}")
            return Value(name, type_code, bytes(struct.pack("<I", data_offset)[:size]))
        return Value(name, type_code, self._read_data(data_offset, size))

    def _read_data(self, offset: int, size: int) -> bytes:
        if size == 0:
            return b""
        cell = self._open(offset, "data", 1)
        if size <= len(cell):
            return bytes(cell[:size])
        is_big = self._base.minor_version >= BIG_DATA_MINOR_VERSION and size > BIG_SEGMENT_SIZE
        if not is_big or len(cell) < BIG_DATA.size or bytes(cell[:2]) != b"db":
            self._fail("data", offset, f"expected {size} bytes or more, got {len(cell)}")
        _, count, list_offset = BIG_DATA.unpack_from(cell)
        expected = -(-size // BIG_SEGMENT_SIZE)
        if count != expected:
            self._fail("big data", offset, f"expected {expected} segments, got {count}")
        listed = self._open(list_offset, "big data list", 4 * count)
        data = bytearray()
        for segment_offset in struct.unpack_from(f"<{count}I", listed):
            wanted = min(size - len(data), BIG_SEGMENT_SIZE)
            data += self._open(segment_offset, "big data segment", wanted)[:wanted]
        return bytes(data)

    def _check_names(self, names: list[str], where: str) -> None:
        if len({name_order(name) for name in names}) == len(names):
            return
        seen: set[bytes] = set()
        for name in names:
            if name_order(name) in seen:
                raise FormatError(f"{self._what}: {where}: {name!r} is there twice")
            seen.add(name_order(name))

    def _fail(self, kind: str, offset: int, says: str) -> NoReturn:
        raise FormatError(f"{self._what}: {kind} at {offset + BLOCK_SIZE:#x}: {says}")


def _with_subkeys(key: Key, subkeys: tuple[Key, ...]) -> Key:
    if not subkeys:
        return key
    return Key(
        key.name, key.values, subkeys, key.class_name, key.security, key.last_written,
        key.flags, key.access_bits, key.extra_flags, key.handle,
    )  # fmt: skip
