# SPDX-License-Identifier: GPL-3.0-or-later
"""MBR and GPT: 512 bytes of MBR, a GPT header, then its entries, with the CRCs put right."""

import struct
import zlib

from mediamaker.formats.gpt import HEADER_SIZE, parse_gpt_entries, parse_gpt_header
from mediamaker.formats.mbr import MBR_SIZE, pack_mbr, parse_mbr
from mediamaker.sources.iso import is_hybrid_system_area
from tests.fuzz import runner
from tests.fuzz.rule import refused


def test_one_input(data):
    with refused():
        is_hybrid_system_area(data, 1 << 20)
    with refused():
        pack_mbr(parse_mbr(data[:MBR_SIZE]))
    header = data[MBR_SIZE : MBR_SIZE + HEADER_SIZE]
    array = data[2 * MBR_SIZE :]
    with refused():
        _gpt(header, array)
    if len(header) == HEADER_SIZE:
        with refused():
            _gpt(*with_crcs(header, array))


def with_crcs(header, array):
    used = array[: min(int.from_bytes(header[0x50:0x54], "little"), 128) * 128]
    fixed = bytearray(header)
    struct.pack_into("<I", fixed, 0x58, zlib.crc32(used))
    struct.pack_into("<I", fixed, 0x10, 0)
    fixed[0x14:0x18] = bytes(4)
    struct.pack_into("<I", fixed, 0x10, zlib.crc32(fixed))
    return bytes(fixed), array


def _gpt(header, array):
    parse_gpt_entries(parse_gpt_header(header), array)


def main():
    runner.start("fuzz_partition_tables")


if __name__ == "__main__":
    main()
