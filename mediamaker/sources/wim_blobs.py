# SPDX-License-Identifier: GPL-3.0-or-later
"""Reads what a WIM's blobs hold, at any offset, wherever the WIM's bytes lie.

Chunks are decoded by libwim's codecs. Memory is one window of chunks for each call that runs, and
the last window of :meth:`BlobReader.read`, so that blobs of a solid resource that are read in its
order cost one decoding of each chunk.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from types import TracebackType

from mediamaker.errors import FormatError
from mediamaker.extents import Piece
from mediamaker.formats.wim import ResourceFlag, ResourceHeader
from mediamaker.formats.wim_blobs import BlobEntry
from mediamaker.formats.wim_chunks import (
    ChunkTable,
    chunk_table_size,
    parse_chunk_table,
    parse_solid_chunk_table,
    solid_table_size,
)
from mediamaker.formats.wim_file import WimFile, live_rows
from mediamaker.formats.wim_metadata import METADATA_SIZE_MAX, WimMetadata
from mediamaker.formats.wim_solid import SolidRun, blob_size, find_solid_runs
from mediamaker.sources.reader import SourceReader
from mediamaker.sources.wim_decode import Decoders, Failure
from mediamaker.units import MIB

WINDOW_SIZE = 4 * MIB
"""Decompressed bytes that are worked on at once, or one chunk where chunks are larger."""

CHUNK_TABLE_SIZE_MAX = 32 * MIB
"""A blob of 128 GiB or more, or a lie."""


@dataclass(frozen=True, slots=True)
class Window:
    """Decoded bytes; those of ``failures`` are not what the blob holds."""

    data: bytearray
    failures: tuple[Failure, ...] = ()


@dataclass(frozen=True, slots=True)
class ChunkedResource:
    """A resource at ``offset`` of the WIM, and its chunks."""

    offset: int
    chunks: ChunkTable

    @property
    def window_chunk_count(self) -> int:
        """How many chunks are worked on at once."""
        return max(1, WINDOW_SIZE // self.chunks.chunk_size)

    @property
    def window_size(self) -> int:
        """Decompressed bytes of a full window."""
        return self.window_chunk_count * self.chunks.chunk_size

    @property
    def window_count(self) -> int:
        """How many windows there are."""
        return -(-self.chunks.size // self.window_size)


class BlobReader:
    """The blobs of one WIM, or of one part of a split one.

    The methods that say so may be called from several threads at once.
    """

    def __init__(
        self, wim: WimFile, pieces: Sequence[Piece], reader: SourceReader, *, what: str = "WIM"
    ) -> None:
        self.wim = wim
        self.what = what
        self._pieces = tuple(pieces)
        self._reader = reader
        self._decoders = Decoders()
        self._runs: tuple[SolidRun, ...] | None = None
        self._rows_by_sha1: dict[bytes, int] | None = None
        self._run_by_row: dict[int, SolidRun] = {}
        self._solid: dict[int, ChunkedResource] = {}
        self._last_plain: tuple[ResourceHeader, ChunkedResource] | None = None
        self._last_window: tuple[int, int, bytearray] | None = None

    def __enter__(self) -> BlobReader:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self.close()

    @property
    def solid_runs(self) -> tuple[SolidRun, ...]:
        """The solid resources with their blobs."""
        if self._runs is None:
            self._runs = find_solid_runs(self.wim)
        return self._runs

    def find(self, sha1: bytes) -> BlobEntry | None:
        """The blob of that SHA-1; None when it is not in this file."""
        row = self._rows().get(sha1)
        return None if row is None else self.wim.blobs[row]

    def position(self, sha1: bytes) -> tuple[int, int]:
        """A key that sorts blobs into the order in which reading them is fastest."""
        row = self._rows().get(sha1, 0)
        run = self._run_by_row.get(row)
        offset = self.wim.blobs.row(row)[1]
        if run is None:
            return offset, 0
        first = run.resource_indexes[0]
        return self.wim.solid_resources[first].resource.offset, offset

    def read(self, blob: BlobEntry, offset: int = 0, size: int | None = None) -> bytes:
        """``size`` bytes of ``blob`` from ``offset`` on, or all that follow.

        Raises:
            FormatError: they can't be decoded, or go past the blob's end.
        """
        return b"".join(self.iterate(blob, offset, size))

    def iterate(
        self, blob: BlobEntry, offset: int = 0, size: int | None = None
    ) -> Iterator[memoryview]:
        """As :meth:`read`, a window at a time; a piece is good until the next one is asked for.

        Raises:
            FormatError: they can't be decoded, or go past the blob's end.
        """
        size_max = blob_size(blob)
        end = size_max if size is None else offset + size
        if not 0 <= offset <= end <= size_max:
            raise FormatError(
                f"{self.what}: blob {blob.sha1.hex()} has {size_max} bytes: "
                f"[{offset},{end}) is not in it"
            )
        for resource, start, taken in self._segments(blob, offset, end - offset):
            yield from self._iterate_resource(resource, start, taken, blob)

    def read_checked(self, blob: BlobEntry, *, size_max: int) -> bytes:
        """All of a blob, compared with its SHA-1; for tables that are held in memory.

        Raises:
            FormatError: it is larger than ``size_max``, or damaged.
        """
        size = blob_size(blob)
        if size > size_max:
            raise FormatError(
                f"{self.what}: blob {blob.sha1.hex()}: expected at most {size_max} bytes, "
                f"got {size}"
            )
        data = self.read(blob)
        got = hashlib.sha1(data, usedforsecurity=False).digest()
        if got != blob.sha1:
            raise FormatError(
                f"{self.what}: blob {blob.sha1.hex()} is damaged: its SHA-1 is {got.hex()}"
            )
        return data

    def read_metadata(self, image_number: int) -> WimMetadata:
        """The tree of an image.

        Raises:
            FormatError: there is no such image in this file, or its metadata is damaged.
        """
        if not 1 <= image_number <= len(self.wim.metadata):
            raise FormatError(
                f"{self.what}: expected an image from 1 to {len(self.wim.metadata)}, "
                f"got {image_number}"
            )
        what = f"{self.what}: image {image_number}"
        blob = self.wim.metadata[image_number - 1]
        return WimMetadata(self.read_checked(blob, size_max=METADATA_SIZE_MAX), what=what)

    def read_stored(self, offset: int, size: int) -> bytes:
        """Bytes of the WIM as they are. Any thread may call it."""
        return self._reader.read_pieces(self._pieces, offset, size)

    def open_resource(self, resource: ResourceHeader, name: str = "a resource") -> ChunkedResource:
        """A resource that is not solid. Any thread may call it.

        Raises:
            FormatError: its chunk table is damaged.
        """
        what = f"{self.what}: {name}"
        chunk_size = self.wim.header.chunk_size
        table_size = min(chunk_table_size(resource, chunk_size), resource.size_in_wim)
        table = self.read_stored(resource.offset, _checked_table_size(table_size, what))
        return ChunkedResource(
            resource.offset,
            parse_chunk_table(
                table, resource, compression=self.wim.compression, chunk_size=chunk_size, what=what
            ),
        )

    def open_solid_resource(self, index: int) -> ChunkedResource:
        """The solid resource of that index.

        Raises:
            FormatError: its chunk table is damaged.
        """
        opened = self._solid.get(index)
        if opened is None:
            solid = self.wim.solid_resources[index]
            what = f"{self.what}: solid resource {index + 1}"
            table_size = _checked_table_size(solid_table_size(solid.header), what)
            opened = self._solid[index] = ChunkedResource(
                solid.resource.offset,
                parse_solid_chunk_table(
                    self.read_stored(solid.resource.offset, table_size),
                    solid.header,
                    solid.resource.size_in_wim,
                    what=what,
                ),
            )
        return opened

    def decode_window(self, resource: ChunkedResource, index: int) -> Window:
        """The window of that index. Any thread may call it."""
        chunks = resource.chunks
        first = index * resource.window_chunk_count
        last = min(first + resource.window_chunk_count, len(chunks)) - 1
        start, stop = chunks[first], chunks[last]
        stored = memoryview(
            self.read_stored(
                resource.offset + start.offset, stop.offset + stop.stored_size - start.offset
            )
        )
        size = (last - first) * chunks.chunk_size + stop.size
        if chunks.compression == "none":
            return Window(bytearray(stored))
        out = bytearray(size)
        with memoryview(out) as view:
            failures = self._decoders.decode(chunks, first, last, stored, view)
        return Window(out, tuple(failures))

    def decode_small(
        self, resources: Sequence[ResourceHeader], stored: memoryview, offset: int
    ) -> Iterator[memoryview | FormatError]:
        """Each of ``resources``, whose bytes are all in ``stored``, which lies at ``offset``.

        For many small ones after one read. A result is good until the next one is asked for; one
        that can't be decoded yields its error. Any thread may call it.
        """
        header = self.wim.header
        return self._decoders.decode_small(
            resources,
            stored,
            offset,
            compression=header.compression,
            chunk_size=header.chunk_size,
            what=self.what,
        )

    def close(self) -> None:
        """Give the codecs' memory back."""
        self._decoders.close()
        self._last_window = None

    def _rows(self) -> dict[bytes, int]:
        if self._rows_by_sha1 is None:
            table = self.wim.blobs
            rows = {row[5]: index for index, row in live_rows(table, self.wim.part_number)}
            for run in self.solid_runs:
                for index in run.rows:
                    rows[table.row(index)[5]] = index
                    self._run_by_row[index] = run
            self._rows_by_sha1 = rows
        return self._rows_by_sha1

    def _segments(
        self, blob: BlobEntry, offset: int, size: int
    ) -> Iterator[tuple[ChunkedResource, int, int]]:
        if not blob.flags & ResourceFlag.SOLID:
            if self._last_plain is None or self._last_plain[0] != blob.resource:
                resource = self.open_resource(blob.resource, f"blob {blob.sha1.hex()}")
                self._last_plain = blob.resource, resource
            yield self._last_plain[1], offset, size
            return
        run = self._run_by_row.get(self._rows().get(blob.sha1, -1))
        if run is None:
            raise FormatError(f"{self.what}: blob {blob.sha1.hex()} is in no solid resource")
        for index, start, taken in run.segments(blob.offset + offset, size):
            yield self.open_solid_resource(index), start, taken

    def _iterate_resource(
        self, resource: ChunkedResource, offset: int, size: int, blob: BlobEntry
    ) -> Iterator[memoryview]:
        end = offset + size
        while offset < end:
            index, skip = divmod(offset, resource.window_size)
            data = self._cached_window(resource, index, blob)
            taken = min(len(data) - skip, end - offset)
            with memoryview(data) as view:
                yield view[skip : skip + taken]
            offset += taken

    def _cached_window(self, resource: ChunkedResource, index: int, blob: BlobEntry) -> bytearray:
        last = self._last_window
        if last is not None and last[:2] == (resource.offset, index):
            return last[2]
        self._last_window = None  # before the next one is made: two would be twice the memory
        window = self.decode_window(resource, index)
        if window.failures:
            raise FormatError(
                f"{self.what}: blob {blob.sha1.hex()} is damaged: {window.failures[0].message}"
            )
        self._last_window = resource.offset, index, window.data
        return window.data


def _checked_table_size(size: int, what: str) -> int:
    if size > CHUNK_TABLE_SIZE_MAX:
        raise FormatError(
            f"{what}: WIM chunk table: expected at most {CHUNK_TABLE_SIZE_MAX} bytes, got {size}"
        )
    return size
