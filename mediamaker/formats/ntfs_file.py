# SPDX-License-Identifier: GPL-3.0-or-later
"""What attributes of an NTFS file hold: its times, names, a directory's index, descriptors.

References: the NTFS documentation of the Linux-NTFS project ("$STANDARD_INFORMATION",
"$FILE_NAME", "$INDEX_ROOT", "$INDEX_ALLOCATION", "$Secure"). Records are parsed in ``ntfs.py``.
"""

from __future__ import annotations

import struct
from collections.abc import Iterator
from typing import Final, NamedTuple

from mediamaker.errors import FormatError
from mediamaker.formats.ntfs import undo_fixups

STANDARD_INFORMATION: Final = 0x10
FILE_NAME: Final = 0x30
OBJECT_ID: Final = 0x40
SECURITY_DESCRIPTOR: Final = 0x50
DATA: Final = 0x80
INDEX_ROOT: Final = 0x90
INDEX_ALLOCATION: Final = 0xA0
BITMAP: Final = 0xB0
REPARSE_POINT: Final = 0xC0

NAMESPACE_DOS: Final = 2
NAMESPACE_WIN32_AND_DOS: Final = 3
DIRECTORY_INDEX: Final = "$I30"

STREAM_COMPRESSED: Final = 0x0001
STREAM_ENCRYPTED: Final = 0x4000

_NUMBER_MASK: Final = (1 << 48) - 1
_INDEX_MAGIC: Final = b"INDX"
_INDEX_HEADER_OFFSET: Final = 0x18
_ENTRY_IS_LAST: Final = 0x02
_ENTRY_COUNT_MAX: Final = 100_000
_NAME_FIXED_SIZE: Final = 0x42

# Created, written, accessed, attributes
_STANDARD: Final = struct.Struct("<QQ8xQI")
_STANDARD_SIZE_MIN: Final = 0x30
# First entry, size of the entries, both from the header on
_INDEX_HEADER: Final = struct.Struct("<II")
# The file, size of the entry, size of the name attribute, flags
_INDEX_ENTRY: Final = struct.Struct("<QHHI")
_SECURITY_ENTRY: Final = struct.Struct("<IIQI")
_SECURITY_BLOCK_SIZE: Final = 0x40000


class Standard(NamedTuple):
    """Attributes, times in 100 ns since 1601, and which descriptor of ``$Secure`` is the file's."""

    created: int
    written: int
    accessed: int
    attributes: int
    security_id: int


class NameInDirectory(NamedTuple):
    """A name of file ``number``; what a directory's index and the file's record both have."""

    number: int
    parent_number: int
    namespace: int
    name: str


def parse_standard(value: bytes, what: str) -> Standard:
    """A ``$STANDARD_INFORMATION`` value; files of old versions have no descriptor's number.

    Raises:
        FormatError: it is cut short.
    """
    if len(value) < _STANDARD_SIZE_MIN:
        raise FormatError(f"{what}: its standard information has only {len(value)} bytes")
    created, written, accessed, attributes = _STANDARD.unpack_from(value)
    return Standard(
        created, written, accessed, attributes, int.from_bytes(value[0x34:0x38], "little")
    )


def parse_name(value: bytes, number: int, where: str) -> NameInDirectory:
    """A ``$FILE_NAME`` value of file ``number``.

    Raises:
        FormatError: it is cut short.
    """
    if len(value) < _NAME_FIXED_SIZE or len(value) < _NAME_FIXED_SIZE + 2 * value[0x40]:
        raise FormatError(f"{where}: a name is cut short after {len(value)} bytes")
    # NTFS allows half a surrogate pair.
    text = value[_NAME_FIXED_SIZE : _NAME_FIXED_SIZE + 2 * value[0x40]]
    return NameInDirectory(
        number,
        int.from_bytes(value[:6], "little"),
        value[0x41],
        text.decode("utf-16-le", "surrogatepass"),
    )


def parse_index_root(value: bytes, what: str) -> tuple[int, tuple[NameInDirectory, ...]]:
    """(size of the index's blocks, names) of the value of a directory's ``$INDEX_ROOT``.

    Raises:
        FormatError: its entries lie outside of it.
    """
    if len(value) < 0x20:
        raise FormatError(f"{what}: the root of its index has only {len(value)} bytes")
    block_size = int.from_bytes(value[8:12], "little")
    return block_size, tuple(_index_entries(value, 0x10, what))


def parse_index_block(data: bytes, what: str) -> tuple[NameInDirectory, ...]:
    """The names in a block of ``$INDEX_ALLOCATION`` that is in use.

    Raises:
        FormatError: it is no such block, torn, or its entries lie outside of it.
    """
    if data[:4] != _INDEX_MAGIC:
        raise FormatError(f"{what}: a block of its index begins with {data[:4]!r}")
    offset, count = struct.unpack_from("<HH", data, 4)
    fixed = undo_fixups(data, offset, count, what)
    return tuple(_index_entries(fixed, _INDEX_HEADER_OFFSET, what))


def parse_security_stream(data: bytes, what: str) -> dict[int, bytes]:
    """The descriptors in ``$Secure:$SDS`` by their number.

    Blocks of 256 KiB, each followed by a copy of itself; no entry is in two blocks.

    Raises:
        FormatError: an entry goes past its block's end.
    """
    found: dict[int, bytes] = {}
    for block in range(0, len(data), 2 * _SECURITY_BLOCK_SIZE):
        position, end = block, min(block + _SECURITY_BLOCK_SIZE, len(data))
        while position + _SECURITY_ENTRY.size <= end:
            _, number, offset, size = _SECURITY_ENTRY.unpack_from(data, position)
            if size == 0:
                break
            if size < _SECURITY_ENTRY.size or position + size > end or offset != position:
                raise FormatError(f"{what}: $Secure: an entry at {position:#x} of {size} bytes")
            found[number] = data[position + _SECURITY_ENTRY.size : position + size]
            position += -(-size // 16) * 16
    return found


def _index_entries(data: bytes, header_offset: int, what: str) -> Iterator[NameInDirectory]:
    first, used = _INDEX_HEADER.unpack_from(data, header_offset)
    position, end = header_offset + first, header_offset + used
    if end > len(data):
        raise FormatError(f"{what}: entries of its index go past the end at {len(data):#x}")
    for _ in range(_ENTRY_COUNT_MAX):
        if position + _INDEX_ENTRY.size > end:
            break
        reference, size, name_size, flags = _INDEX_ENTRY.unpack_from(data, position)
        if flags & _ENTRY_IS_LAST:
            return
        if size < _INDEX_ENTRY.size + name_size or position + size > end:
            break
        start = position + _INDEX_ENTRY.size
        yield parse_name(data[start : start + name_size], reference & _NUMBER_MASK, what)
        position += size
    raise FormatError(f"{what}: an entry of its index at {position:#x} goes past the end")
