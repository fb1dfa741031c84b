# SPDX-License-Identifier: GPL-3.0-or-later
"""Chunk tables: places, limits and lies."""

import struct

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mediamaker.errors import FormatError
from mediamaker.formats.wim import ResourceFlag, ResourceHeader
from mediamaker.formats.wim_blobs import SolidHeader, pack_solid_header
from mediamaker.formats.wim_chunks import (
    Chunk,
    chunk_table_size,
    parse_chunk_table,
    parse_solid_chunk_table,
    solid_table_size,
)
from mediamaker.units import GIB, KIB

COMPRESSED = int(ResourceFlag.COMPRESSED)


def plain(data, size_in_wim, size, *, chunk_size=4 * KIB, compression="XPRESS"):
    resource = ResourceHeader(size_in_wim, COMPRESSED, 208, size)
    return parse_chunk_table(data, resource, compression=compression, chunk_size=chunk_size)


def solid(sizes, size, resource_size, *, chunk_size=4 * KIB, kind=3):
    header = SolidHeader(uncompressed_size=size, chunk_size=chunk_size, compression_type=kind)
    data = pack_solid_header(header) + struct.pack(f"<{len(sizes)}I", *sizes)
    return parse_solid_chunk_table(data, header, resource_size)


def test_plain():
    table = plain(struct.pack("<II", 100, 4196), 8 + 4196 + 50, 3 * 4096 - 10)
    assert list(table) == [Chunk(8, 100, 4096), Chunk(108, 4096, 4096), Chunk(4204, 50, 4086)]
    assert [chunk.is_stored for chunk in table] == [False, True, False]
    with pytest.raises(IndexError):
        table[3]


def test_one_chunk_has_no_table():
    assert list(plain(b"", 77, 4096)) == [Chunk(0, 77, 4096)]


def test_not_compressed():
    resource = ResourceHeader(3 << 20, 0, 208, 3 << 20)
    table = parse_chunk_table(b"", resource, compression="LZX", chunk_size=32768)
    assert sum(chunk.size for chunk in table) == 3 << 20
    assert all(chunk.is_stored for chunk in table)
    with pytest.raises(FormatError, match="expected 5 bytes as they are, got 6"):
        parse_chunk_table(b"", ResourceHeader(6, 0, 208, 5), compression="LZX", chunk_size=32768)


@pytest.mark.parametrize(("size", "entry_size"), [(4 * GIB - 1, 4), (4 * GIB, 8), (5 * GIB, 8)])
def test_entries_grow_at_four_gib(size, entry_size):
    resource = ResourceHeader(1 * GIB, COMPRESSED, 208, size)
    count = -(-size // (32 * KIB))
    assert chunk_table_size(resource, 32 * KIB) == (count - 1) * entry_size
    assert chunk_table_size(resource, 0) == (count - 1) * entry_size
    assert chunk_table_size(ResourceHeader(size, 0, 208, size), 32 * KIB) == 0


@pytest.mark.parametrize(
    ("entries", "size_in_wim", "says"),
    [
        ((100,), 4 + 100, "chunk 1: expected 1 to 4096 bytes, got 0"),
        ((0,), 200, "chunk 0: expected 1 to 4096 bytes, got 0"),
        ((4097,), 5000, "chunk 0: expected 1 to 4096 bytes, got 4097"),
        ((0xFFFFFFFF,), 5000, "expected inside its resource of 5000 bytes"),
        ((100,), 4, "chunk table: expected 4 bytes and chunks after it"),
        ((), 500, "chunk table: expected 4 bytes and chunks after it, got 0"),
    ],
)
def test_plain_lies(entries, size_in_wim, says):
    with pytest.raises(FormatError, match=says):
        plain(struct.pack(f"<{len(entries)}I", *entries), size_in_wim, 8192)


@pytest.mark.parametrize(
    ("compression", "chunk_size", "says"),
    [
        ("XPRESS", 128 * KIB, "power of two up to 65536 for XPRESS, got 131072"),
        ("LZX", 4096 * KIB, "power of two up to 2097152 for LZX"),
        ("LZMS", 2 * GIB, "power of two up to 1073741824 for LZMS"),
        ("none", 32 * KIB, "expected XPRESS, LZX or LZMS, got none"),
        ("unknown", 32 * KIB, "expected XPRESS, LZX or LZMS, got unknown"),
        ("LZX", 48 * KIB, "expected a power of two"),
    ],
)
def test_codecs_have_limits(compression, chunk_size, says):
    with pytest.raises(FormatError, match=says):
        plain(b"", 50, 100, chunk_size=chunk_size, compression=compression)


def test_solid():
    table = solid([100, 4096, 7], 2 * 4096 + 20, 28 + 100 + 4096 + 7)
    assert table.compression == "LZMS"
    assert list(table) == [Chunk(28, 100, 4096), Chunk(128, 4096, 4096), Chunk(4224, 7, 20)]
    header = SolidHeader(uncompressed_size=1, chunk_size=4096, compression_type=1)
    assert solid_table_size(header) == 20


@pytest.mark.parametrize(
    ("sizes", "kind", "says"),
    [
        ([100, 200], 3, "at most 276 bytes together, got 300"),
        ([100, 0], 3, "chunk 1: expected 1 to 4096 bytes, got 0"),
        ([100], 3, "expected 24 bytes, got 20"),
        ([100, 50], 9, "got unknown"),
        ([100, 50], 0, "chunk 0: expected 4096 bytes as they are, got 100"),
    ],
)
def test_solid_lies(sizes, kind, says):
    with pytest.raises(FormatError, match=says):
        solid(sizes, 8192, 300, kind=kind)


@given(data=st.binary(max_size=64), size_in_wim=st.integers(1, 9000), size=st.integers(1, 9000))
def test_whatever_the_table_says_chunks_lie_inside(data, size_in_wim, size):
    try:
        table = plain(data, size_in_wim, size)
    except FormatError:
        return
    assert sum(chunk.size for chunk in table) == size
    assert all(chunk.offset + chunk.stored_size <= size_in_wim for chunk in table)
    assert all(1 <= chunk.stored_size <= chunk.size for chunk in table)


def test_a_compressed_resource_of_no_bytes_has_no_chunks():
    """Found by tests/fuzz/fuzz_wim_chunks.py: it had a table without a first chunk."""
    resource = ResourceHeader(3, ResourceFlag.COMPRESSED, 0, 0)
    with pytest.raises(FormatError, match="got one of none"):
        parse_chunk_table(b"abc", resource, compression="LZX", chunk_size=32768)
