# SPDX-License-Identifier: GPL-3.0-or-later
"""Decodes the chunks of WIM resources from bytes that are in memory, in as many threads as call.

Everything of a call goes to the codec in one loop: with 100,000 small blobs it is not the codec
that a careless loop waits for.
"""

from __future__ import annotations

import threading
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import NamedTuple, cast

from mediamaker.errors import FormatError
from mediamaker.formats.wim import CHUNK_SIZE_DEFAULT, Compression, ResourceFlag, ResourceHeader
from mediamaker.formats.wim_chunks import ChunkTable, parse_chunk_table
from mediamaker.wimlib.codec import ChunkPlace, CodecName, Decompressor

_COMPRESSED = int(ResourceFlag.COMPRESSED)


class Failure(NamedTuple):
    """Bytes ``[start, end)`` of what was decoded that could not be, and why."""

    start: int
    end: int
    message: str


@dataclass(slots=True)
class _Decoder:
    """A decompressor, and room that outlives a call: clearing megabytes each time costs."""

    codec: Decompressor
    scratch: bytearray = field(default_factory=bytearray)

    def room(self, size: int) -> memoryview:
        if len(self.scratch) < size:
            self.scratch = bytearray(size)
        return memoryview(self.scratch)[:size]


class Decoders:
    """Decompressors that nobody uses at the moment. Any thread may use them."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._free: dict[tuple[Compression, int], list[_Decoder]] = {}

    def decode(
        self, chunks: ChunkTable, first: int, last: int, stored: memoryview, out: memoryview
    ) -> list[Failure]:
        """Fill ``out`` with chunks ``first`` to ``last``; ``stored`` begins with the first."""
        places: list[ChunkPlace] = []
        base, position = chunks[first].offset, 0
        for index in range(first, last + 1):
            offset, stored_size, size = chunks[index]
            places.append((offset - base, stored_size, position, size))
            position += size
        with self._borrow(chunks.compression, chunks.chunk_size) as decoder:
            damaged = decoder.codec.decompress_chunks(stored, places, out)
        return [
            Failure(places[at][2], places[at][2] + places[at][3], f"chunk {first + at}: {message}")
            for at, message in damaged
        ]

    def decode_small(
        self,
        resources: Sequence[ResourceHeader],
        stored: memoryview,
        offset: int,
        *,
        compression: Compression,
        chunk_size: int,
        what: str,
    ) -> Iterator[memoryview | FormatError]:
        """Each of ``resources``, whose bytes are all in ``stored``, which lies at ``offset``.

        A result is good until the next one is asked for; one that can't be decoded yields its
        error.
        """
        chunk_size = chunk_size or CHUNK_SIZE_DEFAULT
        places: list[ChunkPlace] = []
        # What becomes of each resource: where in the scratch, as it is, or an error.
        owners: list[int] = []
        results: list[tuple[int, int] | memoryview | FormatError] = []
        position = 0
        for number, (stored_size, flags, place_in_wim, size) in enumerate(resources):
            start = place_in_wim - offset
            if not flags & _COMPRESSED:
                results.append(stored[start : start + stored_size])
                continue
            if size <= chunk_size and 0 < stored_size <= size:
                # One chunk has no table.
                places.append((start, stored_size, position, size))
                owners.append(number)
            else:
                try:
                    table = parse_chunk_table(
                        stored[start : start + stored_size],
                        resources[number],
                        compression=compression,
                        chunk_size=chunk_size,
                        what=what,
                    )
                except FormatError as error:
                    results.append(error)
                    continue
                place = position
                for index in range(len(table)):
                    chunk_offset, chunk_stored_size, plain_size = table[index]
                    places.append((start + chunk_offset, chunk_stored_size, place, plain_size))
                    owners.append(number)
                    place += plain_size
            results.append((position, position + size))
            position += size
        if not places:
            yield from cast("list[memoryview | FormatError]", results)
            return
        with (
            self._borrow(compression, chunk_size) as decoder,
            decoder.room(position) as room,
        ):
            for at, message in decoder.codec.decompress_chunks(stored, places, room):
                results[owners[at]] = FormatError(f"{what}: {message}")
            for result in results:
                if isinstance(result, tuple):
                    with room[result[0] : result[1]] as view:
                        yield view
                else:
                    yield result

    def close(self) -> None:
        """Give the codecs' memory back."""
        with self._lock:
            for free in self._free.values():
                for decoder in free:
                    decoder.codec.close()
            self._free.clear()

    @contextmanager
    def _borrow(self, compression: Compression, chunk_size: int) -> Iterator[_Decoder]:
        key = compression, chunk_size
        with self._lock:
            free = self._free.setdefault(key, [])
            decoder = free.pop() if free else None
        if decoder is None:
            decoder = _Decoder(Decompressor(cast("CodecName", compression), chunk_size))
        try:
            yield decoder
        finally:
            with self._lock:
                free.append(decoder)
