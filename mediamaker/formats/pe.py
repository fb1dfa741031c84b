# SPDX-License-Identifier: GPL-3.0-or-later
"""What a PE file says of itself: which processor it is for, and its signatures.

Reference: Microsoft, "PE Format" (learn.microsoft.com/windows/win32/debug/pe-format):
3.1 MS-DOS stub, 3.2 signature, 3.3 COFF file header, 3.4 optional header with its data
directories, "The attribute certificate table". UEFI 2.10, 32.2.2: only revision 2.0, type
PKCS#7 signed data counts.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterator

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


_OPTIONAL_MAGIC_PE32, _OPTIONAL_MAGIC_PE32_PLUS = 0x10B, 0x20B
_SECURITY_DIRECTORY_OFFSETS = {_OPTIONAL_MAGIC_PE32: 0x80, _OPTIONAL_MAGIC_PE32_PLUS: 0x90}
"""Of entry 4 in the optional header: the only directory that has a file offset, no RVA."""
_CERTIFICATE_TYPE_PKCS7 = 0x0002


@record(size=PE_HEADER_SIZE)
class _CoffHeader:
    section_count: int = u16(0x06, "NumberOfSections")
    optional_size: int = u16(0x14, "SizeOfOptionalHeader")


@record(size=68)
class _OptionalHeader:
    magic: int = u16(0x00, "Magic")
    headers_size: int = u32(0x3C, "SizeOfHeaders")
    checksum: int = u32(0x40, "CheckSum")


@record(size=40)
class _Section:
    raw_size: int = u32(0x10, "SizeOfRawData")
    raw_offset: int = u32(0x14, "PointerToRawData")


@record(size=8)
class _DataDirectory:
    offset: int = u32(0x00, "VirtualAddress")
    directory_size: int = u32(0x04, "Size")


@record(size=8)
class _Certificate:
    certificate_size: int = u32(0x00, "dwLength")
    revision: int = u16(0x04, "wRevision")
    certificate_type: int = u16(0x06, "wCertificateType")


def parse_certificate_range(data: bytes, *, what: str) -> tuple[int, int]:
    """Start and size of the attribute certificate table in a whole program; (0, 0) without one.

    Raises:
        FormatError: it is no program, or its table ends behind it.
    """
    _, entry = _find_optional(data, what=what)
    directory = parse_record(_DataDirectory, data[entry : entry + 8], what=what)
    if not directory.offset or not directory.directory_size:
        return 0, 0
    if directory.offset + directory.directory_size > len(data):
        raise FormatError(
            f"{what}: its signatures are to end at "
            f"{directory.offset + directory.directory_size:#x}, the file ends at {len(data):#x}"
        )
    return directory.offset, directory.directory_size


def measure_digest(data: bytes, algorithm: str, *, what: str) -> bytes:
    """The Authenticode digest of a whole program, which its signatures sign.

    Everything counts but the checksum, the signatures and where they are, and gaps between
    sections (Microsoft, "Windows Authenticode Portable Executable Signature Format",
    "Calculating the PE image hash").

    Raises:
        FormatError: it is no program, or its sections overlap.
    """
    optional, entry = _find_optional(data, what=what)
    header = parse_record(_OptionalHeader, data[optional : optional + 68], what=what)
    signatures_start, _ = parse_certificate_range(data, what=what)
    checksum = optional + 0x40
    ranges = [(0, checksum), (checksum + 4, entry), (entry + 8, header.headers_size)]
    sections = sorted(_parse_sections(data, what=what))
    ranges += sections
    # What follows the last section: debug data, or padding in front of the signatures.
    end = sections[-1][1] if sections else header.headers_size
    ranges.append((end, signatures_start or len(data)))
    if sum(max(0, end - start) for start, end in ranges) > len(data):
        raise FormatError(f"{what}: its sections overlap: more than its {len(data)} bytes")
    digest = hashlib.new(algorithm)
    for start, end in ranges:
        digest.update(data[start:end])
    return digest.digest()


def _find_optional(data: bytes, *, what: str) -> tuple[int, int]:
    """Where the optional header and, in it, the entry of the signatures lie."""
    offset = parse_pe_offset(data[:DOS_HEADER_SIZE], what=what)
    parse_pe_machine(data[offset : offset + PE_HEADER_SIZE], what=what)
    optional = offset + PE_HEADER_SIZE
    magic = parse_record(_OptionalHeader, data[optional : optional + 68], what=what).magic
    if magic not in _SECURITY_DIRECTORY_OFFSETS:
        raise FormatError(f"{what}: optional header with the magic {magic:#x}, not 0x10b or 0x20b")
    return optional, optional + _SECURITY_DIRECTORY_OFFSETS[magic]


def _parse_sections(data: bytes, *, what: str) -> Iterator[tuple[int, int]]:
    """Start and end in the file of each section that has bytes there."""
    offset = parse_pe_offset(data[:DOS_HEADER_SIZE], what=what)
    coff = parse_record(_CoffHeader, data[offset : offset + PE_HEADER_SIZE], what=what)
    table = offset + PE_HEADER_SIZE + coff.optional_size
    for start in range(table, table + 40 * coff.section_count, 40):
        section = parse_record(_Section, data[start : start + 40], what=what)
        if section.raw_size:
            yield section.raw_offset, section.raw_offset + section.raw_size


def parse_signatures(data: bytes, *, what: str) -> Iterator[bytes]:
    """Each PKCS#7 signature of a whole program, as DER, without the zeros that may follow it.

    Raises:
        FormatError: it is no program, or the table of its signatures is broken.
    """
    start, size = parse_certificate_range(data, what=what)
    position, end = start, start + size
    while position + 8 <= end:
        header = parse_record(_Certificate, data[position : position + 8], what=what)
        if header.certificate_size < 8 or position + header.certificate_size > end:
            raise FormatError(
                f"{what}: a signature at {position:#x} of {header.certificate_size} bytes, in a "
                f"table that ends at {end:#x}"
            )
        if header.certificate_type == _CERTIFICATE_TYPE_PKCS7:
            yield _trim_der(data[position + 8 : position + header.certificate_size])
        position += (header.certificate_size + 7) & ~7


def _trim_der(data: bytes) -> bytes:
    """One DER value with a length of two or three bytes, as every signature has (X.690, 8.1.3)."""
    if data[:1] == b"\x30" and data[1:2] in (b"\x82", b"\x83"):
        length_size = data[1] & 0x7F
        return data[: 2 + length_size + int.from_bytes(data[2 : 2 + length_size])]
    return data
