# SPDX-License-Identifier: GPL-3.0-or-later
"""An ISO with UDF, Joliet, Rock Ridge or El Torito, given by the blocks that are not zero.

The input: a byte (bit 0: put the UDF tags' checksums right), then for each block its number in
two bytes and its 2048 bytes. Whole images would be 600 KiB, nearly all of it zeros.
"""

import binascii
import os
import random
import struct
from pathlib import Path

from mediamaker.sources.iso import open_iso
from tests.fuzz import runner
from tests.fuzz.rule import refused

BLOCK_SIZE = 2048
BLOCK_COUNT_MAX = 2048
_TAGS = {*range(1, 10), *range(256, 267)}
_FILE_IDENTIFIER = 257
_NUMBERS = (0, 1, 2, 4, 8, 16, 40, 255, 256, 257, 2047, 2048, 2049, 0x3FFFFFFF, 0x40000800, -1, -2)
# In memory, and gone with the process however it ends: libFuzzer lets nothing clean up.
_descriptor = os.memfd_create("fuzz.iso")
_path = Path(f"/proc/self/fd/{_descriptor}")


def test_one_input(data):
    blocks = unpack(data)
    size = (max(blocks, default=-1) + 1) * BLOCK_SIZE
    os.ftruncate(_descriptor, 0)
    os.ftruncate(_descriptor, size)
    for number, block in blocks.items():
        os.pwrite(_descriptor, block, number * BLOCK_SIZE)
    with refused():
        iso = open_iso(_path)
        for entry in iso.tree.entries:
            assert sum(piece.size for piece in entry.pieces) == entry.size


def pack(image, *, flags=1):
    """The input for ``image``, or None when it is too large to be one."""
    if len(image) > BLOCK_COUNT_MAX * BLOCK_SIZE:
        return None
    packed = bytearray([flags])
    last = (len(image) - 1) // BLOCK_SIZE
    for number in range(last + 1):
        block = image[number * BLOCK_SIZE : (number + 1) * BLOCK_SIZE]
        # genisoimage fills up the end with 150 anchors, of which nobody reads more than the last.
        is_filler = block[:2] == b"\2\0" and number > 256
        if number == last or (any(block) and not is_filler):
            packed += struct.pack("<H", number) + block.ljust(BLOCK_SIZE, b"\0")
    return bytes(packed)


def unpack(data):
    blocks = {}
    for start in range(1, len(data), BLOCK_SIZE + 2):
        number = int.from_bytes(data[start : start + 2], "little") % BLOCK_COUNT_MAX
        block = data[start + 2 : start + 2 + BLOCK_SIZE].ljust(BLOCK_SIZE, b"\0")
        blocks[number] = with_checksums(block) if data[0] & 1 else block
    return blocks


def with_checksums(block):
    """The block with the tag at its start right; of directory entries, all of them.

    A boot catalog's checksum too: all 16-bit words of its first entry add up to 0.
    """
    fixed = bytearray(block)
    if block[0] == 1 and block[30:32] == b"\x55\xaa":
        fixed[28:30] = bytes(2)
        struct.pack_into("<H", fixed, 28, -sum(struct.unpack_from("<16H", fixed)) & 0xFFFF)
        return bytes(fixed)
    start = 0
    while start + 16 <= len(fixed):
        identifier = int.from_bytes(fixed[start : start + 2], "little")
        # With its version, so that a path table (also 1, 0) is not taken for a tag.
        if identifier not in _TAGS or fixed[start + 2] not in {2, 3} or fixed[start + 3]:
            break
        covered = int.from_bytes(fixed[start + 10 : start + 12], "little")
        crc = binascii.crc_hqx(fixed[start + 16 : start + 16 + covered], 0)
        struct.pack_into("<H", fixed, start + 8, crc)
        head = fixed[start : start + 16]
        fixed[start + 4] = (sum(head) - head[4]) & 0xFF
        if identifier != _FILE_IDENTIFIER or start + 38 > len(fixed):
            break
        implementation = int.from_bytes(fixed[start + 36 : start + 38], "little")
        start += (38 + implementation + fixed[start + 19] + 3) // 4 * 4
    return bytes(fixed)


def mutate(data, seed):
    """Some bytes of some blocks changed, or a block moved; insertions would shift all others."""
    rng = random.Random(seed)
    stride = BLOCK_SIZE + 2
    count = (len(data) - 1) // stride
    if count < 1:
        return None
    mutated = bytearray(data)
    for _ in range(rng.choice((1, 1, 2, 3, 6))):
        record = 1 + stride * rng.randrange(count)
        other = 1 + stride * rng.randrange(count)
        body = record + 2
        used = len(mutated[body : body + BLOCK_SIZE].rstrip(b"\0")) + 8
        at = body + min(rng.randrange(used), BLOCK_SIZE - 8)
        size = rng.choice((1, 1, 2, 4, 8))
        match rng.randrange(12):
            case 0:
                mutated[record : record + 2] = rng.randrange(BLOCK_COUNT_MAX).to_bytes(2, "little")
            case 1:
                mutated[body : body + BLOCK_SIZE] = mutated[other + 2 : other + 2 + BLOCK_SIZE]
            case 2:
                mutated[record : record + 2], mutated[other : other + 2] = (
                    mutated[other : other + 2],
                    mutated[record : record + 2],
                )
            case 3:
                size = rng.choice((8, 16, 40, 200))
                source = body + rng.randrange(BLOCK_SIZE - size)
                at = min(at, body + BLOCK_SIZE - size)
                mutated[at : at + size] = mutated[source : source + size]
            case 4 | 5:
                mutated[at] = rng.randrange(256)
            case 6:
                mutated[at] ^= 1 << rng.randrange(8)
            case 7:
                mutated[0] = rng.randrange(2)
            case 8:
                at -= (at - body) % 4
                old = int.from_bytes(mutated[at : at + 4], "little")
                new = (old + rng.choice((-2048, -1, 1, 2048, old))) & 0xFFFFFFFF
                mutated[at : at + 4] = new.to_bytes(4, "little")
            case _:
                number = rng.choice(_NUMBERS) & ((1 << 8 * size) - 1)
                mutated[at : at + size] = number.to_bytes(size, "little")
    return bytes(mutated)


def main():
    runner.start("fuzz_udf_iso")


if __name__ == "__main__":
    main()
