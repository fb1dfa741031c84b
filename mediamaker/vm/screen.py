# SPDX-License-Identifier: GPL-3.0-or-later
"""What a machine shows: pictures, and the characters of a VGA text screen.

References: the Netpbm description of PPM (P6), the PNG specification (W3C, second edition,
sections 5 and 11: IHDR, IDAT, IEND, filter type 0), and the VGA text buffer: 80 x 25 cells of
character (code page 437) and attribute at physical address 0xB8000.
"""

from __future__ import annotations

import re
import struct
import zlib
from dataclasses import dataclass

from mediamaker.errors import ToolError

TEXT_ADDRESS = 0xB8000
TEXT_COLUMNS = 80
TEXT_ROWS = 25
TEXT_SIZE = TEXT_COLUMNS * TEXT_ROWS * 2
# 80 x 25 characters of 9 x 16 pixels; in no graphics mode is a PC's screen this wide.
TEXT_MODE_WIDTHS = (720,)
# A blinking cursor changes 18 pixels of 288,000; a line of text changes far more.
_STILL_BITS_PER_MILLION = 150
_PPM_HEADER = re.compile(rb"P6\s+(\d+)\s+(\d+)\s+255\s", re.DOTALL)
_ESCAPES = re.compile(
    r"\x1b\[[0-?]*[ -/]*[@-~]"  # control sequences: colours, cursor movements
    r"|\x1b[()][0-9A-B]"  # character sets
    r"|\x1b[=>78cDEHM]"
)


@dataclass(frozen=True, slots=True)
class Picture:
    """One screen: ``pixels`` are rows of red, green, blue bytes."""

    width: int
    height: int
    pixels: bytes

    @property
    def is_text_mode(self) -> bool:
        """Whether the VGA shows characters, so that the text buffer means something."""
        return self.width in TEXT_MODE_WIDTHS

    @property
    def is_blank(self) -> bool:
        """Whether every pixel has one colour."""
        return self.pixels == self.pixels[:3] * (self.width * self.height)

    def is_like(self, other: Picture) -> bool:
        """Whether nothing more than a cursor differs."""
        if (self.width, self.height) != (other.width, other.height):
            return False
        changed = (int.from_bytes(self.pixels) ^ int.from_bytes(other.pixels)).bit_count()
        return changed * 1_000_000 <= _STILL_BITS_PER_MILLION * 8 * len(self.pixels)


def parse_ppm(data: bytes) -> Picture:
    """The picture in a binary PPM file.

    Raises:
        ToolError: not a PPM of 8 bits a colour, or cut short.
    """
    header = _PPM_HEADER.match(data)
    if header is None:
        raise ToolError(f"QEMU's screen dump is not a PPM file: it starts with {data[:12]!r}")
    width, height = int(header[1]), int(header[2])
    pixels = data[header.end() :]
    if len(pixels) != width * height * 3:
        raise ToolError(
            f"QEMU's screen dump is cut short: {width} x {height} pixels need "
            f"{width * height * 3} bytes, got {len(pixels)}"
        )
    return Picture(width, height, pixels)


def pack_png(picture: Picture) -> bytes:
    """The picture as a PNG file of 24 bits a pixel."""
    row_size = picture.width * 3
    rows = b"".join(
        b"\0" + picture.pixels[start : start + row_size]
        for start in range(0, row_size * picture.height, row_size)
    )
    header = struct.pack(">IIBBBBB", picture.width, picture.height, 8, 2, 0, 0, 0)
    return (
        b"\x89PNG\r\n\x1a\n"
        + _pack_chunk(b"IHDR", header)
        + _pack_chunk(b"IDAT", zlib.compress(rows, 6))
        + _pack_chunk(b"IEND", b"")
    )


def _pack_chunk(kind: bytes, body: bytes) -> bytes:
    return struct.pack(">I", len(body)) + kind + body + struct.pack(">I", zlib.crc32(kind + body))


def parse_text_screen(data: bytes) -> str:
    """The characters of a VGA text buffer, a line a row, without trailing blanks."""
    characters = data[:TEXT_SIZE:2].replace(b"\0", b" ").decode("cp437")
    rows = (
        characters[start : start + TEXT_COLUMNS].rstrip()
        for start in range(0, len(characters), TEXT_COLUMNS)
    )
    return "\n".join(rows).rstrip("\n")


def parse_serial(data: bytes) -> str:
    """The text of a serial line, without the sequences that move a terminal's cursor."""
    return _ESCAPES.sub("", data.decode("utf-8", errors="replace").replace("\r", ""))


def find_line(text: str, wanted: str) -> str | None:
    """The first line of ``text`` that holds ``wanted``, stripped."""
    position = text.find(wanted)
    if position < 0:
        return None
    start = text.rfind("\n", 0, position) + 1
    end = text.find("\n", position + len(wanted))
    return text[start : len(text) if end < 0 else end].strip()
