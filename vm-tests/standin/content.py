# SPDX-License-Identifier: GPL-3.0-or-later
"""What the stand-in's files hold: seeded bytes with the marks that a reader looks for.

Same label, same bytes, on every machine and Python: a test that fails can be run again.
"""

from __future__ import annotations

import hashlib
import struct

MACHINES = {"x64": 0x8664, "x86": 0x014C, "arm64": 0xAA64}
"""PE/COFF machine numbers (Microsoft PE format, "Machine Types")."""


def noise(label: str, size: int) -> bytes:
    """Bytes that neither compress nor repeat."""
    return hashlib.shake_128(label.encode()).digest(size)


def text(label: str, size: int) -> bytes:
    """CRLF lines, each different."""
    lines = (f"{number:06d} {label}: made by mediamaker's tests\r\n" for number in range(size))
    collected = bytearray()
    while len(collected) < size:
        collected += next(lines).encode()
    return bytes(collected[:size])


def program(label: str, size: int, *, arch: str, subsystem: int = 3) -> bytes:
    """A PE file to those who read its headers; one section, no code that does anything.

    ``subsystem`` 3 is a Windows console program, 10 a UEFI application.
    """
    pe_offset, section_offset = 0x80, 0x400
    dos = struct.pack("<2s58xI", b"MZ", pe_offset).ljust(pe_offset, b"\0")
    is_64_bit = arch != "x86"
    optional_size = 0xF0 if is_64_bit else 0xE0
    raw_size = max(0x200, (size - section_offset) & ~0x1FF)
    coff = struct.pack("<4sHHIIIHH", b"PE\0\0", MACHINES[arch], 1, 0, 0, 0, optional_size, 0x22)
    # Fields up to BaseOfCode are alike in PE32 and PE32+; alignments and subsystem sit at the
    # same offsets in both (32, 36, 56, 60, 68), so one buffer serves.
    optional = bytearray(optional_size)
    magic = 0x20B if is_64_bit else 0x10B
    struct.pack_into("<HBBIIIII", optional, 0, magic, 14, 0, raw_size, 0, 0, 0x1000, 0x1000)
    struct.pack_into("<II", optional, 32, 0x1000, 0x200)
    image_size = 0x1000 + (raw_size + 0xFFF & ~0xFFF)
    struct.pack_into("<IIIH", optional, 56, image_size, section_offset, 0, subsystem)
    section = struct.pack(
        "<8sIIIIIIHHI", b".text", raw_size, 0x1000, raw_size, section_offset, 0, 0, 0, 0, 0x60000020
    )
    headers = (dos + coff + optional + section).ljust(section_offset, b"\0")
    ret = b"\xc3" if arch != "arm64" else b"\xc0\x03\x5f\xd6"
    return (headers + ret + noise(label, max(size, section_offset)))[:size]


def font(label: str, size: int) -> bytes:
    """Starts as a TrueType font does."""
    return b"\0\x01\0\0" + noise(label, size - 4)


def hive(label: str, size: int) -> bytes:
    """Starts as a registry hive does; holds no keys."""
    return b"regf" + noise(label, size - 4)


def ramdisk_image() -> bytes:
    """A boot.sdi of the usual size: a table of contents, and mostly zeros like the real one."""
    size, part_offset = 3_170_304, 0x2000
    image = bytearray(size)
    image[:8] = b"$SDI0001"
    struct.pack_into("<4s12xQQQ", image, 0x400, b"PART", part_offset, size - part_offset, 7)
    image[part_offset : part_offset + 0x4000] = noise("boot.sdi", 0x4000)
    return bytes(image)
