# SPDX-License-Identifier: GPL-3.0-or-later
"""Registry hive files ("regf"): a tree to bytes.

References are in :mod:`mediamaker.formats.regf_records`. Required by the boot managers of Windows,
as experiments with builds 19041 and 27954 show: the checksum, equal sequence numbers, version 1.3,
1.5 or 1.6, subkeys sorted by their names in upper case, a security cell for every key, and from
27954 on the signature of the bins. Accepted by them, but written as Windows does: names in
Latin 1 where they can be, hashes and longest sizes.
"""

from __future__ import annotations

import itertools
import struct
from dataclasses import dataclass

from mediamaker.errors import FormatError
from mediamaker.formats.exfat_upcase import upcase_name
from mediamaker.formats.record import pack_record
from mediamaker.formats.regf_records import (
    BIG_DATA,
    BIG_DATA_MINOR_VERSION,
    BIG_SEGMENT_SIZE,
    BIN_HEADER,
    BLOCK_SIZE,
    CELL_ALIGNMENT,
    CELL_HEADER,
    CHECKSUM_OFFSET,
    DEPTH_MAX,
    FLAG_COMPRESSED_NAME,
    HIVE_SIZE_MAX,
    INLINE_DATA,
    INLINE_SIZE_MAX,
    KEY_NAME_SIZE_MAX,
    KEY_NODE,
    KEY_SECURITY,
    KEY_VALUE,
    LH_MINOR_VERSION,
    LIST_HEADER,
    MINOR_VERSIONS,
    NO_CELL,
    PATH_TAIL_SIZE,
    ROOT_FLAGS,
    VALUE_COMPRESSED_NAME,
    VALUE_NAME_SIZE_MAX,
    BaseBlock,
    compute_checksum,
    find_security_fault,
)
from mediamaker.formats.regf_tree import KEY_PREDEFINED_HANDLE, Hive, Key, Value, name_order
from mediamaker.units import align_up

LEAF_COUNT_MAX = 507
"""Entries of a subkey list that fit one bin of the least size; more are listed by an ``ri``."""

_OPEN_BIN_COUNT_MAX = 8

DEFAULT_SECURITY = bytes.fromhex(
    "01000480" "48000000" "58000000" "00000000" "14000000"
    "0200340002000000"
    "0002180019000600" "01020000000000052000000020020000"
    "000214003f000f00" "010100000000000512000000"
    "01020000000000052000000020020000"
    "010100000000000512000000"
)  # fmt: skip
"""O:BAG:SYD:(A;CI;KRWD;;;BA)(A;CI;KA;;;SY): administrators read, SYSTEM does all. The same rights
as on the keys of Microsoft's boot stores."""


def pack_hive(hive: Hive) -> bytes:
    """The file of ``hive``; the same bytes for the same hive.

    Raises:
        FormatError: a name, a descriptor or a number that the format can't hold.
    """
    if hive.minor_version not in MINOR_VERSIONS:
        raise FormatError(
            f"registry hive: expected version 1.{MINOR_VERSIONS[0]} to 1.{MINOR_VERSIONS[-1]}, "
            f"got 1.{hive.minor_version}"
        )
    if len(hive.extra) not in {0, 64}:
        raise FormatError(f"registry hive: extra: expected 64 bytes, got {len(hive.extra)}")
    tail = _encode(hive.name)[-PATH_TAIL_SIZE:]
    try:
        root_offset, bins = _Writer(hive).write()
    except struct.error as error:
        raise FormatError(f"registry hive: a number does not fit its field: {error}") from error
    base = BaseBlock(
        primary_sequence=hive.sequence,
        secondary_sequence=hive.sequence,
        last_written=hive.last_written,
        minor_version=hive.minor_version,
        root_offset=root_offset,
        bins_size=len(bins),
        path_tail=tail.ljust(PATH_TAIL_SIZE, b"\0"),
        extra=hive.extra or bytes(64),
    )
    block = bytearray(pack_record(base).ljust(BLOCK_SIZE, b"\0"))
    struct.pack_into("<I", block, CHECKSUM_OFFSET, compute_checksum(bytes(block)))
    return bytes(block) + bins


@dataclass(slots=True)
class _Bin:
    """A bin that has room: ``position`` is where its next cell goes."""

    position: int
    end: int


class _Cells:
    """Places cells in bins, first fit among the last few."""

    def __init__(self, last_written: int) -> None:
        self.data = bytearray()
        self._open: list[_Bin] = []
        self._last_written = last_written

    def add(self, content_size: int) -> int:
        """The offset of a new cell for so many bytes."""
        size = align_up(CELL_HEADER.size + content_size, CELL_ALIGNMENT)
        home = next((item for item in self._open if item.end - item.position >= size), None)
        if home is None:
            home = self._add_bin(size)
        offset = home.position
        CELL_HEADER.pack_into(self.data, offset, -size)
        home.position += size
        return offset

    def add_filled(self, content: bytes) -> int:
        """The offset of a new cell that holds ``content``."""
        offset = self.add(len(content))
        self.fill(offset, content)
        return offset

    def fill(self, offset: int, content: bytes) -> None:
        """Puts ``content`` into the cell at ``offset``."""
        start = offset + CELL_HEADER.size
        self.data[start : start + len(content)] = content

    def finish(self) -> bytes:
        """All bins; what is left in each is a free cell."""
        while self._open:
            self._close(self._open[-1])
        return bytes(self.data)

    def _add_bin(self, cell_size: int) -> _Bin:
        start = len(self.data)
        size = align_up(BIN_HEADER.size + cell_size, BLOCK_SIZE)
        if BLOCK_SIZE + start + size > HIVE_SIZE_MAX:
            raise FormatError(f"registry hive: it would be over {HIVE_SIZE_MAX} bytes")
        self.data += bytes(size)
        written = self._last_written if start == 0 else 0
        BIN_HEADER.pack_into(self.data, start, b"hbin", start, size, written)
        self._open.append(_Bin(start + BIN_HEADER.size, start + size))
        made = self._open[-1]
        if len(self._open) > _OPEN_BIN_COUNT_MAX:
            self._close(min(self._open[:-1], key=lambda item: item.end - item.position))
        return made

    def _close(self, item: _Bin) -> None:
        if item.position < item.end:
            CELL_HEADER.pack_into(self.data, item.position, item.end - item.position)
        self._open.remove(item)


@dataclass(slots=True)
class _SecurityCell:
    offset: int
    descriptor: bytes
    key_count: int = 0


class _Writer:
    def __init__(self, hive: Hive) -> None:
        self._root = hive.root
        self._minor_version = hive.minor_version
        self._cells = _Cells(hive.last_written)
        self._security: dict[bytes, _SecurityCell] = {}

    def write(self) -> tuple[int, bytes]:
        """The offset of the root's cell, and the bins."""
        root_offset = self._cells.add(_node_size(self._root))
        pending = [(self._root, root_offset, NO_CELL, 1)]
        while pending:
            key, offset, parent_offset, depth = pending.pop()
            if depth > DEPTH_MAX:
                raise FormatError(f"registry key {key.name!r}: over {DEPTH_MAX} levels of keys")
            subkeys = _sorted_subkeys(key)
            offsets = [self._cells.add(_node_size(subkey)) for subkey in subkeys]
            self._write_key(key, offset, parent_offset, subkeys, offsets)
            below = [
                (subkey, subkey_offset, offset, depth + 1)
                for subkey, subkey_offset in zip(subkeys, offsets, strict=True)
            ]
            pending += reversed(below)
        self._write_security()
        return root_offset, self._cells.finish()

    def _write_key(
        self, key: Key, offset: int, parent_offset: int, subkeys: list[Key], offsets: list[int]
    ) -> None:
        is_root = parent_offset == NO_CELL
        name, is_latin1 = _pack_name(key.name)
        flags = key.flags | (FLAG_COMPRESSED_NAME if is_latin1 else 0)
        has_handle = bool(key.flags & KEY_PREDEFINED_HANDLE)
        if has_handle and key.values:
            raise FormatError(f"registry key {key.name!r}: a predefined handle and values")
        node = KEY_NODE.pack(
            b"nk",
            flags | (ROOT_FLAGS if is_root else 0),
            key.last_written,
            key.access_bits,
            parent_offset,
            len(subkeys),
            0,
            self._write_subkey_list(subkeys, offsets),
            NO_CELL,
            key.handle if has_handle else len(key.values),
            self._write_values(key),
            self._add_security(key),
            self._cells.add_filled(key.class_name) if key.class_name else NO_CELL,
            max((len(_encode(subkey.name)) for subkey in subkeys), default=0),
            key.extra_flags,
            max((len(subkey.class_name) for subkey in subkeys), default=0),
            max((len(_encode(value.name)) for value in key.values), default=0),
            max((len(value.data) for value in key.values), default=0),
            0,
            len(name),
            len(key.class_name),
        )
        self._cells.fill(offset, node + name)

    def _write_subkey_list(self, subkeys: list[Key], offsets: list[int]) -> int:
        if not subkeys:
            return NO_CELL
        leaves = [
            self._write_leaf(subkeys[at : at + LEAF_COUNT_MAX], offsets[at : at + LEAF_COUNT_MAX])
            for at in range(0, len(subkeys), LEAF_COUNT_MAX)
        ]
        if len(leaves) == 1:
            return leaves[0]
        packed = struct.pack(f"<{len(leaves)}I", *leaves)
        return self._cells.add_filled(LIST_HEADER.pack(b"ri", len(leaves)) + packed)

    def _write_leaf(self, subkeys: list[Key], offsets: list[int]) -> int:
        has_hashes = self._minor_version >= LH_MINOR_VERSION
        packed = bytearray(LIST_HEADER.pack(b"lh" if has_hashes else b"lf", len(subkeys)))
        for subkey, offset in zip(subkeys, offsets, strict=True):
            packed += struct.pack("<I", offset)
            packed += _pack_hash(subkey.name) if has_hashes else _pack_hint(subkey.name)
        return self._cells.add_filled(bytes(packed))

    def _write_values(self, key: Key) -> int:
        if not key.values:
            return NO_CELL
        if len({name_order(value.name) for value in key.values}) < len(key.values):
            raise FormatError(f"registry key {key.name!r}: two values of one name")
        list_offset = self._cells.add(4 * len(key.values))
        offsets = [self._write_value(value) for value in key.values]
        self._cells.fill(list_offset, struct.pack(f"<{len(offsets)}I", *offsets))
        return list_offset

    def _write_value(self, value: Value) -> int:
        name, is_latin1 = _pack_name(value.name)
        if len(_encode(value.name)) > VALUE_NAME_SIZE_MAX:
            raise FormatError(
                f"registry value {value.name[:40]!r}...: expected a name of at most "
                f"{VALUE_NAME_SIZE_MAX // 2} UTF-16 units"
            )
        size = len(value.data)
        flags = VALUE_COMPRESSED_NAME if is_latin1 else 0
        offset = self._cells.add(KEY_VALUE.size + len(name))
        if size <= INLINE_SIZE_MAX:
            where = int.from_bytes(value.data.ljust(4, b"\0"), "little")
            size |= INLINE_DATA
        else:
            where = self._write_data(value.data)
        packed = KEY_VALUE.pack(b"vk", len(name), size, where, value.type_code, flags)
        self._cells.fill(offset, packed + name)
        return offset

    def _write_data(self, data: bytes) -> int:
        if len(data) <= BIG_SEGMENT_SIZE or self._minor_version < BIG_DATA_MINOR_VERSION:
            return self._cells.add_filled(data)
        starts = range(0, len(data), BIG_SEGMENT_SIZE)
        head = self._cells.add(BIG_DATA.size)
        list_offset = self._cells.add(4 * len(starts))
        offsets = [self._cells.add_filled(data[at : at + BIG_SEGMENT_SIZE]) for at in starts]
        self._cells.fill(list_offset, struct.pack(f"<{len(offsets)}I", *offsets))
        self._cells.fill(head, BIG_DATA.pack(b"db", len(offsets), list_offset))
        return head

    def _add_security(self, key: Key) -> int:
        descriptor = DEFAULT_SECURITY if key.security is None else key.security
        cell = self._security.get(descriptor)
        if cell is None:
            fault = find_security_fault(descriptor)
            if fault:
                raise FormatError(f"registry key {key.name!r}: security: {fault}")
            offset = self._cells.add(KEY_SECURITY.size + len(descriptor))
            cell = self._security[descriptor] = _SecurityCell(offset, descriptor)
        cell.key_count += 1
        return cell.offset

    def _write_security(self) -> None:
        """The descriptors are a ring, in the order in which keys were first to use them."""
        cells = list(self._security.values())
        for index, cell in enumerate(cells):
            packed = KEY_SECURITY.pack(
                b"sk",
                cells[(index + 1) % len(cells)].offset,
                cells[index - 1].offset,
                cell.key_count,
                len(cell.descriptor),
            )
            self._cells.fill(cell.offset, packed + cell.descriptor)


def _sorted_subkeys(key: Key) -> list[Key]:
    subkeys = sorted(key.subkeys, key=lambda subkey: name_order(subkey.name))
    for before, subkey in itertools.pairwise(subkeys):
        if name_order(before.name) == name_order(subkey.name):
            raise FormatError(f"registry key {key.name!r}: {subkey.name!r} is there twice")
    for subkey in subkeys:
        if not subkey.name or "\\" in subkey.name:
            raise FormatError(
                f"registry key {key.name!r}: expected a subkey's name, without '\\', "
                f"got {subkey.name!r}"
            )
    return subkeys


def _node_size(key: Key) -> int:
    if len(_encode(key.name)) > KEY_NAME_SIZE_MAX:
        raise FormatError(
            f"registry key {key.name[:40]!r}...: expected a name of at most "
            f"{KEY_NAME_SIZE_MAX // 2} UTF-16 units"
        )
    return KEY_NODE.size + len(_pack_name(key.name)[0])


def _pack_name(name: str) -> tuple[bytes, bool]:
    """The name's bytes, and whether they are Latin 1 (else UTF-16)."""
    try:
        return name.encode("latin-1"), True
    except UnicodeEncodeError:
        return _encode(name), False


def _pack_hash(name: str) -> bytes:
    """What ``lh`` has of a name: its units in upper case, in base 37."""
    folded = 0
    for (unit,) in struct.iter_unpack("<H", _encode(upcase_name(name))):
        folded = (folded * 37 + unit) & 0xFFFFFFFF
    return struct.pack("<I", folded)


def _pack_hint(name: str) -> bytes:
    """What ``lf`` has of a name: its first four characters, if they are Latin 1."""
    try:
        return name[:4].encode("latin-1").ljust(4, b"\0")
    except UnicodeEncodeError:
        return bytes(4)


def _encode(text: str) -> bytes:
    return text.encode("utf-16-le", "surrogatepass")
