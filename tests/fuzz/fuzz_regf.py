# SPDX-License-Identifier: GPL-3.0-or-later
"""A registry hive: read, written, read again; the first block's checksum is put right."""

import random
import struct

from mediamaker.formats.regf import parse_hive
from mediamaker.formats.regf_pack import pack_hive
from tests.fuzz import runner
from tests.fuzz.rule import refused
from tests.hostile.make_regf import with_checksum

BLOCK_SIZE = 0x1000
HEADER_FIELDS = (4, 8, 0x14, 0x18, 0x1C, 0x20, 0x24, 0x28)
KEY_FIELDS = (2, 0x14, 0x18, 0x1C, 0x24, 0x28, 0x2C, 0x30, 0x34, 0x48, 0x4A, 0x4C)
VALUE_FIELDS = (2, 4, 8, 0xC, 0x10, 0x14)
SECURITY_FIELDS = (4, 8, 0xC, 0x10, 0x14, 0x16, 0x18, 0x1C, 0x20, 0x24, 0x28, 0x2A)
LIST_FIELDS = (0, 2, 4, 8, 12, 16, 20)
FIELDS = {
    b"nk": KEY_FIELDS,
    b"vk": VALUE_FIELDS,
    b"sk": SECURITY_FIELDS,
    b"db": (2, 4),
    b"hb": (0, 4, 8),
}
MARKS = (b"li", b"lf", b"lh", b"ri", b"db")


def test_one_input(data):
    with refused():
        parse_hive(data, what="fuzz")
    with refused():
        hive = parse_hive(with_checksum(data), what="fuzz")
        # What can be read can be written, and is then as the writer wants it.
        packed = pack_hive(hive)
        again = parse_hive(packed, what="again")
        assert pack_hive(again) == packed
        assert again.root.subkey("nothing") is None
        assert len(packed) < 3 * len(data) + 3 * BLOCK_SIZE


def mutate(data, seed):
    """Fields of cells changed in their places, or made to refer to another cell."""
    cells = _cells(data)
    if not cells:
        return None
    rng = random.Random(seed)
    mutated = bytearray(data)
    for _ in range(rng.choice((1, 1, 2, 3, 6))):
        at, size = _place(rng, data, cells), rng.choice((1, 2, 4, 4))
        if at + 4 > len(data):
            continue
        match rng.randrange(8):
            case 0 | 1 | 2:
                new, size = rng.choice(cells) - BLOCK_SIZE - 4, 4
            case 3:
                mutated[at : at + 2] = rng.choice(MARKS)
                continue
            case 4:
                new = rng.choice((0, 1, -1, 1 << 31, 1 << rng.randrange(32), -(1 << 31)))
            case 5:
                new = rng.randrange(256)
            case _:
                old = int.from_bytes(mutated[at : at + size], "little")
                new = rng.choice((old + 1, old - 1, old * 2, old + 8, old - 8, -old))
        mutated[at : at + size] = (new & ((1 << 8 * size) - 1)).to_bytes(size, "little")
    return bytes(mutated)


def _place(rng, data, cells):
    """The offset of some field."""
    if not rng.randrange(12):
        return rng.choice(HEADER_FIELDS)
    cell = rng.choice(cells)
    if not rng.randrange(8):
        return cell - 4
    return cell + rng.choice(FIELDS.get(data[cell : cell + 2], LIST_FIELDS))


def _cells(data):
    """Where the contents of the cells begin, as long as their sizes make sense."""
    found = []
    position = BLOCK_SIZE
    while position + 8 <= len(data) and len(found) < 5000:
        if data[position : position + 4] == b"hbin":
            found.append(position)
            position += 0x20
            continue
        (size,) = struct.unpack_from("<i", data, position)
        if size == 0 or size % 8:
            break
        found.append(position + 4)
        position += abs(size)
    return found


def main():
    runner.start("fuzz_regf")


if __name__ == "__main__":
    main()
