# SPDX-License-Identifier: GPL-3.0-or-later
"""A whole WIM: its tables, its trees and every blob."""

import random

from mediamaker.extents import Literal, Piece
from mediamaker.formats.wim import BLOB_ENTRY_SIZE, HEADER_SIZE, parse_integrity_table
from mediamaker.formats.wim_solid import blob_size
from mediamaker.sources.reader import SourceReader
from mediamaker.sources.wim import read_wim
from mediamaker.sources.wim_blobs import BlobReader
from mediamaker.sources.wim_solid import read_solid_tables
from tests.fuzz import runner
from tests.fuzz.rule import refused

BLOB_COUNT_MAX = 40
ROW_FIELDS = (0, 1, 2, 7, 7, 8, 9, 16, 17, 20, 24, 26, 30)
CHUNK_SIZE_MAX = 4 << 20
"""A chunk is decoded in one piece; LZMS may have one of 1 GiB, and then it takes that much."""
BLOB_SIZE_MAX = 8 << 20


def test_one_input(data):
    pieces = (Piece(len(data), Literal(data)),) if data else ()
    with refused(), SourceReader([]) as reader:
        wim = read_wim(pieces, len(data), reader, "fuzz.wim")
        integrity = wim.header.integrity
        with refused():
            parse_integrity_table(
                reader.read_pieces(pieces, integrity.offset, integrity.size_in_wim)
            )
        with refused():
            read_solid_tables(wim, pieces, reader, "fuzz.wim")
        with BlobReader(wim, pieces, reader, what="fuzz.wim") as blobs:
            _read(wim, blobs)


def _read(wim, blobs):
    chunk_sizes = [solid.header.chunk_size for solid in wim.solid_resources]
    if max(chunk_sizes, default=0) > CHUNK_SIZE_MAX:
        return
    for number in range(1, len(wim.metadata[:4]) + 1):
        with refused():
            for entry in blobs.read_metadata(number).walk():
                entry.path  # noqa: B018
    for _, blob in zip(range(BLOB_COUNT_MAX), wim.blobs, strict=False):
        with refused():
            found = blobs.find(blob.sha1)
            if found is None:
                continue
            blobs.position(found.sha1)
            size = min(blob_size(found), BLOB_SIZE_MAX)
            for _piece in blobs.iterate(found, 0, size):
                pass
            blobs.read(found, size // 3, size // 5)


def mutate(data, seed):
    """Fields of the header, of rows and of solid headers changed, all of them in their places."""
    if len(data) < HEADER_SIZE + BLOB_ENTRY_SIZE:
        return None
    rng = random.Random(seed)
    mutated = bytearray(data)
    table_size, table = (int.from_bytes(data[at : at + 7], "little") for at in (0x30, 0x38))
    row_count = min(table_size, len(data)) // BLOB_ENTRY_SIZE
    for _ in range(rng.choice((1, 1, 2, 3, 6))):
        place = rng.randrange(4)
        if place == 0:
            at = rng.randrange(HEADER_SIZE)
        elif place == 1 and row_count:
            at = table + rng.randrange(row_count) * BLOB_ENTRY_SIZE + rng.choice(ROW_FIELDS)
        elif place == 2 and row_count:
            row = table + rng.randrange(row_count) * BLOB_ENTRY_SIZE
            at = int.from_bytes(data[row + 8 : row + 16], "little") + rng.randrange(32)
        else:
            at = rng.randrange(len(data))
        size = rng.choice((1, 1, 2, 4, 8))
        if at + size > len(data):
            continue
        old = int.from_bytes(mutated[at : at + size], "little")
        new = rng.choice(
            (rng.randrange(256), old + 1, old - 1, old * 2, 0, -1, 1 << rng.randrange(64))
        )
        mutated[at : at + size] = (new & ((1 << 8 * size) - 1)).to_bytes(size, "little")
    return bytes(mutated)


def main():
    runner.start("fuzz_wim")


if __name__ == "__main__":
    main()
