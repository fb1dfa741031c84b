# SPDX-License-Identifier: GPL-3.0-or-later
"""libwim's codecs for one chunk: XPRESS, LZX and LZMS.

An object belongs to one thread at a time. The calls release the GIL, so as many objects as
there are cores decode at full speed. Memory is one chunk and the codec's own tables.
"""

from __future__ import annotations

from collections.abc import Sequence
from types import TracebackType
from typing import Any, Final, Literal, Self

from mediamaker.errors import FormatError, ToolError, UsageError
from mediamaker.units import GIB, KIB, MIB
from mediamaker.wimlib.library import load_library

CodecName = Literal["XPRESS", "LZX", "LZMS"]
ReadBuffer = bytes | bytearray | memoryview
ChunkPlace = tuple[int, int, int, int]
"""Offset and size of a chunk as it is stored, offset and size of what it becomes."""

CODEC_NUMBERS: Final[dict[CodecName, int]] = {"XPRESS": 1, "LZX": 2, "LZMS": 3}
CHUNK_SIZE_LIMITS: Final[dict[CodecName, int]] = {"XPRESS": 64 * KIB, "LZX": 2 * MIB, "LZMS": GIB}
"""The largest chunk that each codec's format knows."""


class _Codec:
    """A handle of libwim's and a buffer of one chunk, freed together."""

    def __init__(self, compression: CodecName, chunk_size: int) -> None:
        if compression not in CODEC_NUMBERS:
            raise FormatError(f"{compression!r} is not a compression that libwim knows")
        if not 1 <= chunk_size <= CHUNK_SIZE_LIMITS[compression]:
            raise FormatError(
                f"a {compression} chunk size of {chunk_size} is outside 1 to "
                f"{CHUNK_SIZE_LIMITS[compression]}"
            )
        self.compression: Final = compression
        self.chunk_size: Final = chunk_size
        self._library = load_library()
        self._number = CODEC_NUMBERS[compression]
        self._handle: Any = None
        self._buffer: Any = None

    def _check_created(self, code: int, what: str) -> None:
        if code:
            raise ToolError(
                f"libwim can't make a {self.compression} {what} for chunks of {self.chunk_size} "
                f"bytes: {self._library.error_string(code)} (code {code})"
            )

    def _open_handle(self) -> Any:
        if self._handle is None:
            raise ValueError(f"this {type(self).__name__} is closed")
        if self._buffer is None:
            allocate = self._library.ffi.new_allocator(should_clear_after_alloc=False)
            self._buffer = allocate("char[]", self.chunk_size)
        return self._handle

    def _free(self, handle: Any) -> None:
        raise NotImplementedError

    def close(self) -> None:
        """Give the memory back; closing twice is fine."""
        handle, self._handle, self._buffer = self._handle, None, None
        if handle is not None:
            self._free(handle)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self.close()

    def __del__(self) -> None:
        if getattr(self, "_handle", None) is not None:
            self.close()


class Decompressor(_Codec):
    """Decodes chunks of at most ``chunk_size_max`` bytes, one after the other.

    Raises:
        FormatError: no such codec, or it has no chunks of that size.
        ToolError: libwim is missing, or has no memory left.
    """

    def __init__(self, compression: CodecName, chunk_size_max: int) -> None:
        super().__init__(compression, chunk_size_max)
        out = self._library.ffi.new("void **")
        self._check_created(
            self._library.c.wimlib_create_decompressor(self._number, chunk_size_max, out),
            "decompressor",
        )
        self._handle = out[0]

    def decompress(self, data: ReadBuffer, uncompressed_size: int) -> bytes:
        """The ``uncompressed_size`` bytes that ``data`` holds.

        Raises:
            FormatError: it does not hold them.
        """
        handle = self._open_handle()
        self._check_sizes(len(data), uncompressed_size)
        self._decompress(handle, data, self._buffer, uncompressed_size)
        return bytes(self._library.ffi.buffer(self._buffer, uncompressed_size)[:])

    def decompress_into(self, data: ReadBuffer, out: bytearray | memoryview) -> None:
        """Fill all of ``out`` with what ``data`` holds.

        Raises:
            FormatError: ``data`` does not hold that many bytes; ``out`` then holds anything.
        """
        handle = self._open_handle()
        self._check_sizes(len(data), len(out))
        with self._library.ffi.from_buffer("char[]", out, require_writable=True) as plain:
            self._decompress(handle, data, plain, len(out))

    def decompress_chunks(
        self, data: ReadBuffer, places: Sequence[ChunkPlace], out: bytearray | memoryview
    ) -> list[tuple[int, str]]:
        """Decode many chunks of ``data`` into ``out``; one as large as before is stored as it is.

        Returns the indexes of those that are damaged, and why; their place in ``out`` then holds
        anything. For many small chunks this is twice as fast as one call for each.
        """
        handle = self._open_handle()
        from_buffer, decompress = self._library.ffi.from_buffer, self._library.c.wimlib_decompress
        data_size, out_size, size_max = len(data), len(out), self.chunk_size
        damaged: list[tuple[int, str]] = []
        with (
            memoryview(data) as packed_view,
            memoryview(out) as plain_view,
            from_buffer("char[]", data) as packed,
            from_buffer("char[]", out, require_writable=True) as plain,
        ):
            for index, (offset, packed_size, place, size) in enumerate(places):
                packed_end, end = offset + packed_size, place + size
                if not (0 <= offset < packed_end <= data_size and 0 <= place < end <= out_size):
                    damaged.append((index, f"a chunk of {packed_size} bytes lies outside"))
                elif packed_size == size:
                    plain_view[place:end] = packed_view[offset:packed_end]
                # See _check_sizes, which says why.
                elif packed_size > size or size > size_max:
                    damaged.append((index, self._why_impossible(packed_size, size)))
                elif decompress(packed + offset, packed_size, plain + place, size, handle):
                    damaged.append((index, self._why_damaged(packed_size, size)))
        return damaged

    def _why_impossible(self, packed_size: int, size: int) -> str:
        try:
            self._check_sizes(packed_size, size)
        except FormatError as error:
            return error.message
        return self._why_damaged(packed_size, size)

    def _why_damaged(self, packed_size: int, size: int) -> str:
        return (
            f"a {self.compression} chunk of {packed_size} bytes is damaged: "
            f"it does not become {size} bytes"
        )

    def _check_sizes(self, packed_size: int, size: int) -> None:
        if not 1 <= size <= self.chunk_size:
            raise FormatError(
                f"a {self.compression} chunk claims {size} bytes, "
                f"1 to {self.chunk_size} are possible"
            )
        # The format keeps a chunk as it is unless it got smaller. That is also what protects
        # libwim 1.13.6, whose LZMS crashes when much data is to become 0, 1 or 2 bytes.
        if packed_size >= size:
            raise FormatError(
                f"a {self.compression} chunk of {packed_size} bytes claims to hold only {size}"
            )

    def _decompress(self, handle: Any, data: ReadBuffer, plain: Any, size: int) -> None:
        with self._library.ffi.from_buffer("char[]", data) as packed:
            code = self._library.c.wimlib_decompress(packed, len(data), plain, size, handle)
        if code:
            raise FormatError(self._why_damaged(len(data), size))

    def _free(self, handle: Any) -> None:
        self._library.c.wimlib_free_decompressor(handle)


class Compressor(_Codec):
    """Encodes chunks of at most ``chunk_size`` bytes; ``level`` 0 is libwim's default (50).

    Raises:
        FormatError: no such codec, or it has no chunks of that size.
        ToolError: libwim is missing or known to write badly, or has no memory left.
    """

    def __init__(self, compression: CodecName, chunk_size: int, level: int = 0) -> None:
        super().__init__(compression, chunk_size)
        if not 0 <= level < 1 << 16:
            raise UsageError(f"{level} is not a compression level", hint="use 20, 50 or 100")
        self._library.check_can_write()
        out = self._library.ffi.new("void **")
        self._check_created(
            self._library.c.wimlib_create_compressor(self._number, chunk_size, level, out),
            "compressor",
        )
        self._handle = out[0]

    def compress(self, data: ReadBuffer) -> bytes | None:
        """``data`` encoded, or None where that would not make it smaller.

        Raises:
            FormatError: more than a chunk.
        """
        handle = self._open_handle()
        size = len(data)
        if size > self.chunk_size:
            raise FormatError(f"{size} bytes are more than a chunk of {self.chunk_size}")
        if size < 2:  # a smaller result would hold nothing
            return None
        with self._library.ffi.from_buffer("char[]", data) as plain:
            packed_size = self._library.c.wimlib_compress(
                plain, size, self._buffer, size - 1, handle
            )
        if packed_size == 0:
            return None
        return bytes(self._library.ffi.buffer(self._buffer, packed_size)[:])

    def _free(self, handle: Any) -> None:
        self._library.c.wimlib_free_compressor(handle)
