# SPDX-License-Identifier: GPL-3.0-or-later
"""Foreign readers of hives, and the rules of Windows' boot managers read from the bytes.

Each reader gives a tree as nested tuples: name, values (name, type, data), subkeys.
"""

import base64
import io
import json
import re
import struct
import subprocess

from dissect.regf import regf as dissect_regf

HIVEX_DUMP = r"""
import base64, hivex, json, sys
h = hivex.Hivex(sys.argv[1])
def dump(node):
    values = [(h.value_key(v), *h.value_value(v)) for v in h.node_values(node)]
    return (h.node_name(node),
            [(name, type_, base64.b64encode(data).decode()) for name, type_, data in values],
            [dump(child) for child in h.node_children(node)])
json.dump(dump(h.root()), sys.stdout)
"""


def read_with_ours(key):
    return (
        key.name,
        tuple((value.name, value.type_code, value.data) for value in key.values),
        tuple(read_with_ours(subkey) for subkey in key.subkeys),
    )


def read_with_hivex(path):
    command = ["/usr/bin/python3", "-c", HIVEX_DUMP, str(path)]
    done = subprocess.run(command, check=True, capture_output=True)

    def revive(node):
        name, values, subkeys = node
        found = tuple((name, kind, base64.b64decode(data)) for name, kind, data in values)
        return name, found, tuple(revive(subkey) for subkey in subkeys)

    return revive(json.loads(done.stdout))


def read_with_hivexml(path):
    done = subprocess.run(["hivexml", str(path)], check=True, capture_output=True)
    return re.sub(rb"<byte_runs>.*?</byte_runs>", b"", done.stdout)


def open_with_dissect(data):
    hive = dissect_regf.RegistryHive(io.BytesIO(data))
    # Its flags are named for what they mean when they are set on a sound hive: "dirty" compares
    # the XOR of 127 words with the stored one and is True if they agree.
    assert hive.dirty
    assert not hive.in_transaction
    return hive


def read_with_dissect(data):
    def dump(node):
        values = tuple(
            ("" if value.cell.NameLength == 0 else value.name, value.type, value.data)
            for value in node.values()
        )
        return node.name, values, tuple(dump(subkey) for subkey in node.subkeys())

    return dump(open_with_dissect(data).root())


def check_boot_rules(data):
    """What the boot managers require (boot-facts 3.1) and what Windows writes; no code of ours.

    Returns the names of the keys, parents first.
    """
    checksum = 0
    for word in _words(data, 0, 127):
        checksum ^= word
    assert _words(data, 0x1FC, 1)[0] == {0: 1, 0xFFFFFFFF: 0xFFFFFFFE}.get(checksum, checksum)
    assert data[:4] == b"regf"
    first, second = _words(data, 4, 2)
    assert first == second
    major, minor, kind, format_, root, size = _words(data, 0x14, 6)
    assert (major, kind, format_, root) == (1, 0, 1, 0x20)
    assert minor in {3, 5, 6}
    assert size == len(data) - 0x1000
    assert size % 0x1000 == 0
    rules = _Rules(minor, _read_cells(data[0x1000:]))
    rules.check_key(root, None)
    rules.check_security()
    assert rules.used == set(rules.cells), "cells in use that nothing refers to"
    return rules.names


def _read_cells(bins):
    cells = {}
    position = 0
    while position < len(bins):
        signature, offset, bin_size = struct.unpack_from("<4sII", bins, position)
        assert (signature, offset) == (b"hbin", position)
        assert bin_size % 0x1000 == 0
        end = position + bin_size
        position += 0x20
        while position < end:
            (size,) = struct.unpack_from("<i", bins, position)
            assert size % 8 == 0
            assert size != 0
            if size < 0:
                cells[position] = bins[position + 4 : position - size]
            position += abs(size)
        assert position == end
    return cells


class _Rules:
    def __init__(self, minor, cells):
        self.minor, self.cells = minor, cells
        self.used, self.names, self.security_uses = set(), [], {}

    def take(self, offset, signature=b""):
        assert offset not in self.used
        self.used.add(offset)
        assert self.cells[offset].startswith(signature)
        return self.cells[offset]

    def check_key(self, offset, parent):
        cell = self.take(offset, b"nk")
        flags, name_size = struct.unpack_from("<H", cell, 2)[0], cell[0x48] | cell[0x49] << 8
        self.names.append(_name(cell, 0x4C, name_size, flags & 0x20))
        assert parent is not None or flags & 0xC == 0xC
        assert _words(cell, 0x10, 1)[0] == (0xFFFFFFFF if parent is None else parent)
        assert _words(cell, 0x18, 1) == (0,)
        assert _words(cell, 0x20, 1) == (0xFFFFFFFF,)
        subkey_count, subkey_list = _words(cell, 0x14, 1)[0], _words(cell, 0x1C, 1)[0]
        value_count, value_list, security, class_cell = _words(cell, 0x24, 4)
        self.security_uses[security] = self.security_uses.get(security, 0) + 1
        if class_cell != 0xFFFFFFFF:
            assert len(self.take(class_cell)) >= cell[0x4A]
        if value_count:
            offsets = _words(self.take(value_list), 0, value_count)
            sizes = [self.check_value(value_offset) for value_offset in offsets]
            assert list(_words(cell, 0x3C, 2)) == [
                max(column) for column in zip(*sizes, strict=True)
            ]
        names = self.check_subkeys(subkey_list, offset) if subkey_count else []
        assert len(names) == subkey_count
        assert _words(cell, 0x34, 1)[0] & 0xFFFF == max(map(_utf16_size, names), default=0)

    def check_value(self, offset):
        value = self.take(offset, b"vk")
        (size,) = _words(value, 4, 1)
        if size & 0x80000000:
            size &= 0x7FFFFFFF
            assert size <= 4
        else:
            content = self.take(_words(value, 8, 1)[0])
            if self.minor > 3 and size > 16344:
                assert content[:2] == b"db"
                segments = _words(self.take(_words(content, 4, 1)[0]), 0, content[2])
                parts = [len(self.take(segment)) for segment in segments]
                assert min(parts[:-1]) >= 16344
                assert sum(min(part, 16344) for part in parts) >= size
            else:
                assert len(content) >= size
        name = _name(value, 0x14, value[2] | value[3] << 8, value[0x10] & 1)
        return _utf16_size(name), size

    def check_subkeys(self, list_offset, parent):
        listed = self.take(list_offset)
        if listed[:2] == b"ri":
            leaves = _words(listed, 4, listed[2] | listed[3] << 8)
            entries = [entry for leaf in leaves for entry in self.leaf(self.take(leaf))]
        else:
            entries = self.leaf(listed)
        found = []
        for offset, mark in entries:
            index = len(self.names)
            self.check_key(offset, parent)
            found.append(self.names[index])
            if found[-1].isascii():
                assert mark == (_hash(found[-1]) if self.minor > 3 else _hint(found[-1]))
        assert found == sorted(found, key=lambda name: name.upper().encode("utf-16-be"))
        return found

    def leaf(self, cell):
        signature, count = struct.unpack_from("<2sH", cell)
        assert signature == (b"lf" if self.minor == 3 else b"lh")
        return [_words(cell, 4 + 8 * index, 2) for index in range(count)]

    def check_security(self):
        """One ring of descriptors, each with the number of keys that use it."""
        ring, at = [], next(iter(self.security_uses))
        while not ring or at != ring[0]:
            ring.append(at)
            cell = self.take(at, b"sk")
            following, previous, count, size = _words(cell, 4, 4)
            assert count == self.security_uses[at]
            assert 20 <= size <= len(cell) - 20
            assert _words(self.cells[following], 8, 1)[0] == at
            assert _words(self.cells[previous], 4, 1)[0] == at
            at = following
        assert set(ring) == set(self.security_uses)


def _words(data, offset, count):
    return struct.unpack_from(f"<{count}I", data, offset)


def _name(cell, at, size, is_latin1):
    return cell[at : at + size].decode("latin-1" if is_latin1 else "utf-16-le")


def _utf16_size(name):
    return len(name.encode("utf-16-le"))


def _hash(name):
    folded = 0
    for letter in name.upper():
        folded = (folded * 37 + ord(letter)) % (1 << 32)
    return folded


def _hint(name):
    return int.from_bytes(name[:4].encode(), "little")
