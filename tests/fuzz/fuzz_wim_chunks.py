# SPDX-License-Identifier: GPL-3.0-or-later
"""The chunk tables of one resource, plain or solid, and what its chunks decode to.

The input: codec (bits 0-1), solid (bit 2) and the logarithm of the chunk size in two bytes, the
uncompressed size in 8, then the resource. A solid one has these in its own header.
"""

import struct

from mediamaker.extents import Literal, Piece
from mediamaker.formats.wim import NO_RESOURCE, ResourceFlag, ResourceHeader, WimHeader
from mediamaker.formats.wim_blobs import BlobTable, parse_solid_header
from mediamaker.formats.wim_chunks import parse_solid_chunk_table
from mediamaker.formats.wim_file import WimFile
from mediamaker.sources.reader import SourceReader
from mediamaker.sources.wim_blobs import BlobReader, ChunkedResource
from tests.fuzz import runner
from tests.fuzz.rule import refused

HEAD = struct.Struct("<BBQ")
FLAGS = (0, 0x20002, 0x40002, 0x80002)
CHUNK_SIZE_MAX = 4 << 20
WINDOW_COUNT_MAX = 2


def test_one_input(data):
    if len(data) < HEAD.size:
        return
    mode, exponent, size = HEAD.unpack_from(data)
    stored = data[HEAD.size :]
    header = WimHeader(
        flags=FLAGS[mode & 3],
        chunk_size=1 << exponent % 32,
        guid=bytes(16),
        image_count=0,
        blob_table=NO_RESOURCE,
        xml=NO_RESOURCE,
    )
    wim = WimFile(
        header=header, blobs=BlobTable(b""), metadata=(), images=(), xml=b"", size=len(stored)
    )
    pieces = (Piece(len(stored), Literal(stored)),) if stored else ()
    resource = ResourceHeader(len(stored), ResourceFlag.COMPRESSED if mode & 3 else 0, 0, size)
    with refused(), SourceReader([]) as reader, BlobReader(wim, pieces, reader) as blobs:
        if mode & 4:
            solid = parse_solid_header(stored, len(stored))
            chunked = ChunkedResource(0, parse_solid_chunk_table(stored, solid, len(stored)))
        else:
            chunked = blobs.open_resource(resource)
            if chunked.chunks.size < CHUNK_SIZE_MAX:
                list(blobs.decode_small([resource], memoryview(stored), 0))
        if chunked.chunks.chunk_size > CHUNK_SIZE_MAX:
            return
        for index in range(min(chunked.window_count, WINDOW_COUNT_MAX)):
            window = blobs.decode_window(chunked, index)
            assert len(window.data) <= chunked.window_size
            for failure in window.failures:
                assert 0 <= failure.start < failure.end <= len(window.data)


def main():
    runner.start("fuzz_wim_chunks")


if __name__ == "__main__":
    main()
