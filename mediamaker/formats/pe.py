# SPDX-License-Identifier: GPL-3.0-or-later
"""The one field of a PE file that says which processor it is for.

Reference: Microsoft, "PE Format" (learn.microsoft.com/windows/win32/debug/pe-format):
3.1 MS-DOS stub, 3.2 signature, 3.3 COFF file header.
"""

from __future__ import annotations

from mediamaker.errors import FormatError
from mediamaker.formats.record import parse_record, raw, record, u16, u32

DOS_HEADER_SIZE = 64
PE_HEADER_SIZE = 24

ARCHITECTURES = {0x8664: "x64", 0x14C: "x86", 0xAA64: "arm64", 0x1C2: "arm", 0x1C4: "arm"}
"""IMAGE_FILE_MACHINE_* to the names that a WIM's XML has for them, too."""


@record(size=DOS_HEADER_SIZE)
class _DosHeader:
    magic: bytes = raw(0x00, 2, "e_magic")
    pe_offset: int = u32(0x3C, "e_lfanew")


@record(size=PE_HEADER_SIZE)
class _PeHeader:
    signature: bytes = raw(0x00, 4, "Signature")
    machine: int = u16(0x04, "Machine")


def parse_pe_offset(data: bytes, *, what: str) -> int:
    """Where the PE header begins, from the file's first 64 bytes.

    Raises:
        FormatError: they are not an MS-DOS header.
    """
    header = parse_record(_DosHeader, data, what=what)
    if header.magic != b"MZ":
        raise FormatError(f"{what}: not a program: expected b'MZ', got {header.magic!r}")
    return header.pe_offset


def parse_pe_machine(data: bytes, *, what: str) -> int:
    """The Machine field, from the 24 bytes where :func:`parse_pe_offset` says.

    Raises:
        FormatError: they are not a PE header.
    """
    header = parse_record(_PeHeader, data, what=what)
    if header.signature != b"PE\0\0":
        raise FormatError(
            f"{what}: not a UEFI program: expected b'PE\\0\\0', got {header.signature!r}"
        )
    return header.machine
