# SPDX-License-Identifier: GPL-3.0-or-later
"""Small plain ISO 9660 images put together by hand, so that a test can bend any part of them.

Fixed places: the primary descriptor at block 16, path tables at 21 and 22, the root at 23.
"""

from __future__ import annotations

import struct
from dataclasses import dataclass, field

BLOCK = 2048
ROOT = 23
FLAG_DIRECTORY, FLAG_ASSOCIATED, FLAG_MORE = 0x02, 0x04, 0x80


def both32(value: int) -> bytes:
    return struct.pack("<I", value) + struct.pack(">I", value)


def both16(value: int) -> bytes:
    return struct.pack("<H", value) + struct.pack(">H", value)


def directory_record(
    name: bytes, block: int, size: int, flags: int = 0, *, unit: int = 0, attributes: int = 0
) -> bytes:
    date = bytes((123, 5, 6, 7, 8, 9, 4))
    body = bytes((attributes,)) + both32(block) + both32(size) + date
    body += bytes((flags, unit, 0)) + both16(1) + bytes((len(name),)) + name
    body += bytes((len(body) + 1) % 2)
    return bytes((len(body) + 1,)) + body


@dataclass
class Iso9660Image:
    """``directories``: the records of each by its block, the root's at 23."""

    volume_blocks: int = 64
    file_blocks: int | None = None
    block_size: int = BLOCK
    root_size: int = BLOCK
    path_table_size: int | None = None
    directories: dict[int, list[bytes]] = field(default_factory=lambda: {ROOT: []})
    blocks: dict[int, bytes] = field(default_factory=dict)
    with_terminator: bool = True
    boot_catalog: int | None = None

    def build(self) -> bytes:
        """The whole image."""
        image = bytearray((self.file_blocks or self.volume_blocks) * BLOCK)
        paths = [(b"\0", ROOT, 1)]
        paths += [(b"D", block, 1) for block in self.directories if block != ROOT]
        tables = [
            b"".join(
                struct.pack(f"{order}BBIH", len(name), 0, block, parent) + name + bytes(1)
                for name, block, parent in paths
            )
            for order in "<>"
        ]
        records = {16: self._primary(len(tables[0])), 21: tables[0], 22: tables[1]}
        following = 17
        if self.boot_catalog is not None:
            boot = b"\0CD001\1EL TORITO SPECIFICATION".ljust(71, b"\0")
            records[following] = boot + struct.pack("<I", self.boot_catalog)
            following += 1
        if self.with_terminator:
            records[following] = b"\xffCD001\1"
        for block, entries in self.directories.items():
            size = self.root_size if block == ROOT else BLOCK
            dots = directory_record(b"\0", block, size, FLAG_DIRECTORY)
            dots += directory_record(b"\1", ROOT, self.root_size, FLAG_DIRECTORY)
            records[block] = dots + b"".join(entries)
        for block, data in {**records, **self.blocks}.items():
            image[block * BLOCK : block * BLOCK + len(data)] = data
        return bytes(image)

    def _primary(self, path_table_size: int) -> bytes:
        size = path_table_size if self.path_table_size is None else self.path_table_size
        head = b"\1CD001\1\0" + b" " * 32 + b"HAND_MADE".ljust(32) + bytes(8)
        head += both32(self.volume_blocks) + bytes(32) + both16(1) * 2 + both16(self.block_size)
        head += both32(size) + struct.pack("<II", 21, 0) + struct.pack(">II", 22, 0)
        root = directory_record(b"\0", ROOT, self.root_size, FLAG_DIRECTORY)
        head += root + b" " * (128 * 4 + 37 * 3)
        return (head + (b"0" * 16 + b"\0") * 4 + b"\1").ljust(BLOCK, b"\0")


def good_iso9660() -> Iso9660Image:
    """One file in the root, one in a directory."""
    image = Iso9660Image(blocks={25: b"hello\n", 26: b"deep\n"})
    image.directories = {
        ROOT: [
            directory_record(b"D", 24, BLOCK, FLAG_DIRECTORY),
            directory_record(b"README.TXT;1", 25, 6),
        ],
        24: [directory_record(b"DEEP.;1", 26, 5)],
    }
    return image
