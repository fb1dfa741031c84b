# SPDX-License-Identifier: GPL-3.0-or-later
"""A whole WIM: its tables, its trees and every blob."""

from mediamaker.extents import Literal, Piece
from mediamaker.formats.wim import parse_integrity_table
from mediamaker.formats.wim_solid import blob_size
from mediamaker.sources.reader import SourceReader
from mediamaker.sources.wim import read_wim
from mediamaker.sources.wim_blobs import BlobReader
from mediamaker.sources.wim_solid import read_solid_tables
from tests.fuzz import runner
from tests.fuzz.rule import refused

BLOB_COUNT_MAX = 40
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


def main():
    runner.start("fuzz_wim")


if __name__ == "__main__":
    main()
