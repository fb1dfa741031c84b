# SPDX-License-Identifier: GPL-3.0-or-later
"""Where the chunks of a compressed WIM resource lie.

References: Microsoft, "Windows Imaging File Format (WIM)" (2007 white paper) for the table of a
plain resource; that of a solid one was learned from observing what wimlib 1.13.6 writes and reads.

A plain compressed resource begins with the places of its second to last chunk, counted from the
end of this table, which is why the first needs no entry. A solid one begins with a
:class:`~mediamaker.formats.wim_blobs.SolidHeader` and then the size of every chunk. In both, a
chunk that takes as many bytes as it becomes is stored as it is, and none takes more.
"""

from __future__ import annotations

import sys
from array import array
from dataclasses import dataclass
from itertools import islice
from operator import sub
from typing import NamedTuple

from mediamaker.errors import FormatError
from mediamaker.formats.wim import CHUNK_SIZE_DEFAULT, Compression, ResourceFlag, ResourceHeader
from mediamaker.formats.wim_blobs import SOLID_HEADER_SIZE, SolidHeader
from mediamaker.units import GIB, KIB, MIB

CHUNK_SIZE_MAX: dict[Compression, int] = {"XPRESS": 64 * KIB, "LZX": 2 * MIB, "LZMS": GIB}
"""The largest that the codecs know. wimlib makes solid chunks of 64 MiB unless told otherwise."""

_SOLID_COMPRESSIONS: dict[int, Compression] = {0: "none", 1: "XPRESS", 2: "LZX", 3: "LZMS"}
_U32_MAX = (1 << 32) - 1
_PLAIN_CHUNK_SIZE = MIB
"""How much at a time of a resource that is not compressed."""


class Chunk(NamedTuple):
    """``stored_size`` bytes at ``offset`` of the resource, which become ``size`` bytes."""

    offset: int
    stored_size: int
    size: int

    @property
    def is_stored(self) -> bool:
        """Whether the bytes are there as they are."""
        return self.stored_size == self.size


@dataclass(frozen=True, slots=True)
class ChunkTable:
    """The chunks of one resource.

    ``bounds`` are offsets in the resource: chunk ``n`` lies in ``[bounds[n], bounds[n + 1])``.
    A resource that is not compressed has none, and chunks of a size that suits reading.
    """

    compression: Compression
    chunk_size: int
    size: int
    bounds: array[int] | None

    def __len__(self) -> int:
        return (self.size + self.chunk_size - 1) // self.chunk_size

    def __getitem__(self, index: int) -> Chunk:
        start = index * self.chunk_size
        if not 0 <= start < self.size:
            raise IndexError(index)
        size = min(self.chunk_size, self.size - start)
        if self.bounds is None:
            return Chunk(start, size, size)
        offset = self.bounds[index]
        return Chunk(offset, self.bounds[index + 1] - offset, size)


def chunk_table_size(resource: ResourceHeader, chunk_size: int) -> int:
    """Bytes that the table at the start of a plain resource takes; 0 when it has none."""
    if not resource.flags & ResourceFlag.COMPRESSED or not resource.uncompressed_size:
        return 0
    entry_size = 8 if resource.uncompressed_size > _U32_MAX else 4
    return (-(-resource.uncompressed_size // (chunk_size or CHUNK_SIZE_DEFAULT)) - 1) * entry_size


def parse_chunk_table(
    data: bytes | memoryview,
    resource: ResourceHeader,
    *,
    compression: Compression,
    chunk_size: int,
    what: str = "WIM",
) -> ChunkTable:
    """The chunks of a plain ``resource`` that begins with ``data``.

    Raises:
        FormatError: the table is cut, or gives chunks no place or too much of it.
    """
    size = resource.uncompressed_size
    if not resource.flags & ResourceFlag.COMPRESSED:
        if size != resource.size_in_wim:
            raise FormatError(
                f"{what}: expected {size} bytes as they are, got {resource.size_in_wim}"
            )
        return ChunkTable("none", _PLAIN_CHUNK_SIZE, size, None)
    if not size:
        raise FormatError(f"{what}: expected a compressed resource of bytes, got one of none")
    chunk_size = chunk_size or CHUNK_SIZE_DEFAULT
    _check_codec(compression, chunk_size, what)
    table_size = chunk_table_size(resource, chunk_size)
    if len(data) < table_size or table_size >= resource.size_in_wim:
        raise FormatError(
            f"{what}: WIM chunk table: expected {table_size} bytes and chunks after it, "
            f"got {min(len(data), resource.size_in_wim)}"
        )
    entries = array("Q" if size > _U32_MAX else "I")
    entries.frombytes(data[:table_size])
    if sys.byteorder == "big":
        entries.byteswap()
    bounds = array("Q", [table_size])
    # An entry near 2**64 must not wrap into the file: compared before the table is added to it.
    entry_max = resource.size_in_wim - table_size
    for index, entry in enumerate(entries):
        if entry > entry_max:
            raise FormatError(
                f"{what}: WIM chunk {index + 1}: expected inside its resource of "
                f"{resource.size_in_wim} bytes, got offset {table_size + entry}"
            )
        bounds.append(table_size + entry)
    bounds.append(resource.size_in_wim)
    return _checked(ChunkTable(compression, chunk_size, size, bounds), what)


def solid_table_size(header: SolidHeader) -> int:
    """Bytes that the header and the table at the start of a solid resource take."""
    return SOLID_HEADER_SIZE + 4 * header.chunk_count


def parse_solid_chunk_table(
    data: bytes | memoryview, header: SolidHeader, resource_size: int, *, what: str = "WIM"
) -> ChunkTable:
    """The chunks of a solid resource that begins with ``data`` and takes ``resource_size`` bytes.

    Raises:
        FormatError: the table is cut, or gives chunks no place or too much of it.
    """
    compression = _SOLID_COMPRESSIONS.get(header.compression_type, "unknown")
    if compression != "none":
        _check_codec(compression, header.chunk_size, what)
    table_size = solid_table_size(header)
    if len(data) < table_size:
        raise FormatError(
            f"{what}: WIM solid chunk table: expected {table_size} bytes, got {len(data)}"
        )
    sizes = array("I")
    sizes.frombytes(data[SOLID_HEADER_SIZE:table_size])
    if sys.byteorder == "big":
        sizes.byteswap()
    bounds = array("Q", [table_size])
    position = table_size
    for size in sizes:
        position += size
        bounds.append(position)
    if position > resource_size:
        raise FormatError(
            f"{what}: WIM solid chunks: expected at most {resource_size - table_size} bytes "
            f"together, got {position - table_size}"
        )
    table = ChunkTable(compression, header.chunk_size, header.uncompressed_size, bounds)
    return _checked(table, what)


def _checked(table: ChunkTable, what: str) -> ChunkTable:
    bounds, last = table.bounds, len(table) - 1
    if bounds is not None and table.compression != "none" and last > 0:
        # The usual answer at once; which chunk it is that is wrong is looked for below.
        sizes = array("q", map(sub, islice(bounds, 1, None), bounds))
        if min(sizes) > 0 and max(sizes) <= table.chunk_size and sizes[last] <= table[last].size:
            return table
    for index in range(len(table)):
        chunk = table[index]
        if not 0 < chunk.stored_size <= chunk.size:
            raise FormatError(
                f"{what}: WIM chunk {index}: expected 1 to {chunk.size} bytes, "
                f"got {chunk.stored_size}"
            )
        if table.compression == "none" and not chunk.is_stored:
            raise FormatError(
                f"{what}: WIM chunk {index}: expected {chunk.size} bytes as they are, "
                f"got {chunk.stored_size}"
            )
    return table


def _check_codec(compression: Compression, chunk_size: int, what: str) -> None:
    size_max = CHUNK_SIZE_MAX.get(compression)
    if size_max is None:
        raise FormatError(
            f"{what}: WIM compression: expected XPRESS, LZX or LZMS, got {compression}"
        )
    if chunk_size > size_max or chunk_size & (chunk_size - 1):
        raise FormatError(
            f"{what}: WIM chunk size: expected a power of two up to {size_max} for {compression}, "
            f"got {chunk_size}"
        )
