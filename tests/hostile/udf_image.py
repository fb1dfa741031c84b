# SPDX-License-Identifier: GPL-3.0-or-later
"""Small UDF bridge images put together by hand, so that a test can bend any part of them.

Fixed places: volume descriptors from block 16, the sequence at 32, the anchors at 256 and at the
end, the partition from 257 on with the file set at its block 0 and the root's entry at block 1.
"""

from __future__ import annotations

import binascii
import struct
from dataclasses import dataclass, field

from tests.hostile.iso9660_image import Iso9660Image

BLOCK = 2048
PARTITION_START = 257
ROOT_ENTRY = 1
DIRECTORY, FILE, SYMLINK = 4, 5, 12
SHORT, LONG, EMBEDDED = 0, 1, 3
FID_DIRECTORY, FID_DELETED, FID_PARENT = 0x02, 0x04, 0x08
MODIFIED = (2023, 5, 6, 7, 8, 9)
MODIFIED_NS = 1683356889 * 10**9  # date -u -d '2023-05-06 07:08:09' +%s
ZONE_UTC = 0x1000
EXTENT_MAX = 0x3FFFF800
_CHARSET = b"\0OSTA Compressed Unicode".ljust(64, b"\0")
_DOMAIN = b"\0*OSTA UDF Compliant".ljust(24, b"\0") + b"\x02\x01" + bytes(6)


def tag(identifier: int, body: bytes, location: int, *, crc_size: int | None = None) -> bytes:
    """A descriptor: its tag, and ``body``, which is what follows the tag."""
    size = len(body) if crc_size is None else crc_size
    crc = binascii.crc_hqx(body[:size], 0)
    head = bytearray(struct.pack("<HHBBHHHI", identifier, 2, 0, 0, 0, crc, size, location))
    head[4] = sum(head) & 0xFF
    return bytes(head) + body


def short_ad(block: int, size: int, kind: int = 0) -> bytes:
    return struct.pack("<II", size | kind << 30, block)


def long_ad(block: int, size: int, kind: int = 0, partition: int = 0) -> bytes:
    return struct.pack("<IIH6x", size | kind << 30, block, partition)


def timestamp(zone: int = ZONE_UTC) -> bytes:
    year, *rest = MODIFIED
    return struct.pack("<HHBBBBBBBB", zone, year, *rest, 0, 0, 0)


def file_entry(
    location: int,
    size: int,
    allocations: bytes,
    *,
    file_type: int = FILE,
    kind: int = SHORT,
    strategy: int = 4,
    extended: bool = False,
    attributes: bytes = b"",
    allocations_size: int | None = None,
    modified: bytes | None = None,
) -> bytes:
    """A File Entry, or an Extended one."""
    icb_tag = struct.pack("<IHHHBB6sH", 0, strategy, 0, 1, 0, file_type, bytes(6), kind)
    stamp = timestamp() if modified is None else modified
    head = icb_tag + struct.pack("<IIIHBBIQ", 0, 0, 0, 1, 0, 0, 0, size)
    if extended:
        head += struct.pack("<QQ", size, 0) + stamp * 4 + struct.pack("<II", 1, 0) + bytes(64)
    else:
        head += struct.pack("<Q", 0) + stamp * 3 + struct.pack("<I", 1) + bytes(48)
    declared = len(allocations) if allocations_size is None else allocations_size
    head += struct.pack("<QII", 0, len(attributes), declared)
    return tag(266 if extended else 261, head + attributes + allocations, location)


def file_identifier(name: bytes, icb: int, characteristics: int = 0, location: int = 0) -> bytes:
    """A name in a directory; ``name`` begins with the byte that says how it is encoded."""
    body = struct.pack("<HBB", 1, characteristics, len(name)) + long_ad(icb, BLOCK)
    body += struct.pack("<H", 0) + name
    body += bytes(-(len(body) + 16) % 4)
    return tag(257, body, location)


def name8(text: str) -> bytes:
    return b"\x08" + text.encode("latin-1")


def name16(text: str) -> bytes:
    return b"\x10" + text.encode("utf-16-be", "surrogatepass")


@dataclass
class UdfImage:
    """Blocks by number in the partition; a case bends attributes or blocks, then builds."""

    block_count: int = 40
    blocks: dict[int, bytes] = field(default_factory=dict)
    next_block: int = 2
    anchors: tuple[int, ...] = (256, -1)
    anchor_size: int = 16 * BLOCK
    maps: bytes = struct.pack("<BBHH", 1, 6, 1, 0)
    map_count: int = 1
    logical_block_size: int = BLOCK
    with_volume: bool = True
    with_iso9660: bool = True
    partition_number: int = 0
    label: bytes = name8("HAND_MADE")

    def allocate(self, data: bytes = b"") -> int:
        """A fresh block (or run of them) that holds ``data``."""
        block = self.next_block
        self.blocks[block] = data
        self.next_block += max(1, -(-len(data) // BLOCK))
        return block

    def add_file(self, content: bytes, **options) -> int:
        """A file in one piece; the block of its entry."""
        data = self.allocate(content)
        return self.add_entry(len(content), short_ad(data, len(content)), **options)

    def add_entry(self, size: int, allocations: bytes, **options) -> int:
        """A File Entry; its block."""
        entry = self.allocate()
        self.blocks[entry] = file_entry(entry, size, allocations, **options)
        return entry

    def set_directory(self, entry: int, identifiers: bytes, *, parent: int = ROOT_ENTRY) -> None:
        """Write a directory with a contiguous block run; ``entry`` is where its entry goes."""
        data = file_identifier(b"", parent, FID_PARENT | FID_DIRECTORY) + identifiers
        block = self.allocate(data)
        allocations = short_ad(block, len(data))
        self.blocks[entry] = file_entry(entry, len(data), allocations, file_type=DIRECTORY)

    def set_root(self, *identifiers: bytes) -> UdfImage:
        """The names of the root directory."""
        self.set_directory(ROOT_ENTRY, b"".join(identifiers))
        return self

    def build(self) -> bytes:
        """The whole image."""
        self.block_count = max(self.block_count, self.next_block + 2)
        total = PARTITION_START + self.block_count + 1
        image = bytearray(total * BLOCK)
        if self.with_iso9660:
            image[: 32 * BLOCK] = Iso9660Image(volume_blocks=total).build()[: 32 * BLOCK]
        for block, identifier in enumerate((b"BEA01", b"NSR02", b"TEA01"), self._first_free()):
            image[block * BLOCK : block * BLOCK + 7] = b"\0" + identifier + b"\1"
        for block, data in enumerate(self._sequence(), 32):
            image[block * BLOCK : block * BLOCK + len(data)] = data
        for anchor in self.anchors:
            block = anchor % total
            data = tag(2, struct.pack("<IIII", self.anchor_size, 32, 0, 0) + bytes(480), block)
            image[block * BLOCK : block * BLOCK + 512] = data
        self.blocks.setdefault(0, self._file_set())
        for block, data in self.blocks.items():
            start = (PARTITION_START + block) * BLOCK
            image[start : start + len(data)] = data
        return bytes(image)

    def _first_free(self) -> int:
        return 18 if self.with_iso9660 else 16

    def _file_set(self) -> bytes:
        head = timestamp() + struct.pack("<HHIIII", 3, 3, 1, 1, 0, 0)
        head += _CHARSET + bytes(128) + _CHARSET + bytes(96) + long_ad(ROOT_ENTRY, BLOCK)
        return tag(256, head + _DOMAIN + bytes(64), 0)

    def _sequence(self) -> list[bytes]:
        primary = struct.pack("<II", 0, 0) + self.label.ljust(31, b"\0") + b"\x05"
        primary += struct.pack("<HHHHII", 1, 1, 2, 2, 1, 1) + bytes(128) + _CHARSET * 2
        primary += bytes(48) + timestamp()
        partition = struct.pack("<IHH", 1, 1, self.partition_number)
        partition += b"\0+NSR02".ljust(32, b"\0") + bytes(128)
        partition += struct.pack("<III", 1, PARTITION_START, self.block_count) + bytes(316)
        label = self.label.ljust(127, b"\0") + bytes((len(self.label),))
        volume = struct.pack("<I", 2) + _CHARSET + label
        volume += struct.pack("<I", self.logical_block_size)
        volume += _DOMAIN + long_ad(0, BLOCK) + struct.pack("<II", len(self.maps), self.map_count)
        volume += bytes(160 + 8) + self.maps
        descriptors = [tag(1, primary.ljust(496, b"\0"), 32), tag(5, partition, 33)]
        if self.with_volume:
            descriptors.append(tag(6, volume, 34))
        return [*descriptors, tag(8, bytes(496), 32 + len(descriptors))]


def good_udf() -> UdfImage:
    """Two files, one in a directory."""
    image = UdfImage()
    readme = image.add_file(b"hello\n")
    boot = image.add_file(b"wim" * 1000)
    sources = image.allocate()
    image.set_directory(sources, file_identifier(name16("boöt.wim"), boot))
    return image.set_root(
        file_identifier(name8("readme.txt"), readme),
        file_identifier(name8("sources"), sources, FID_DIRECTORY),
    )
