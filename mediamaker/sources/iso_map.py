# SPDX-License-Identifier: GPL-3.0-or-later
"""Where the files of an ISO 9660 volume lie that was copied to a disk as it is (a hybrid).

``sources/iso9660.py`` reads ISO files, through pycdlib and by path; this reads any disk, and only
what boot loaders use: extents and names, those of Joliet where they are, else those of Rock Ridge
(NM, without continuation areas), else plain ones without version.

References: ECMA-119 8.4, 8.5, 9.1; Joliet Specification 1.0; IEEE P1282 (RRIP) 4.1.4.
"""

from __future__ import annotations

import struct
from collections.abc import Iterator
from dataclasses import dataclass

from mediamaker.errors import FormatError
from mediamaker.sources.file_map import FILE_COUNT_MAX, Kind, MappedFile, PRead, VolumeMap
from mediamaker.units import MIB

_SECTOR_SIZE = 2048
_FIRST_DESCRIPTOR = 16
_DESCRIPTOR_COUNT_MAX = 32
_JOLIET_ESCAPES = (b"%/@", b"%/C", b"%/E")
_PRIMARY, _SUPPLEMENTARY, _END = 1, 2, 255
_IS_DIRECTORY, _IS_MULTI_EXTENT = 0x02, 0x80
_DIRECTORY_SIZE_MAX = 64 * MIB
_DIRECTORIES_SIZE_MAX = 256 * MIB
_NM_HEAD_SIZE = 5


@dataclass(frozen=True, slots=True)
class _Entry:
    name: str
    flags: int
    start: int
    size: int


def is_iso9660(pread: PRead, size: int) -> bool:
    """Whether the bytes have ISO 9660's volume descriptors."""
    offset = _FIRST_DESCRIPTOR * _SECTOR_SIZE
    return size >= offset + _SECTOR_SIZE and pread(offset + 1, 5) == b"CD001"


def map_iso9660(pread: PRead, what: str) -> VolumeMap:
    """The map of what ``pread`` reads; ``what`` names it in errors.

    Raises:
        FormatError: no ISO 9660, or none with a root directory.
    """
    roots: dict[bool, bytes] = {}
    items = [MappedFile("volume descriptors", Kind.STRUCTURE, 0, ())]
    for number in range(_DESCRIPTOR_COUNT_MAX):
        sector = pread((_FIRST_DESCRIPTOR + number) * _SECTOR_SIZE, _SECTOR_SIZE)
        if sector[1:6] != b"CD001" or sector[0] == _END:
            break
        if sector[0] == _PRIMARY:
            roots.setdefault(False, sector[156:190])
        elif sector[0] == _SUPPLEMENTARY and sector[88:91] in _JOLIET_ESCAPES:
            roots.setdefault(True, sector[156:190])
    else:
        number = _DESCRIPTOR_COUNT_MAX - 1
    place = (_FIRST_DESCRIPTOR * _SECTOR_SIZE, (number + 1) * _SECTOR_SIZE)
    items[0] = MappedFile("volume descriptors", Kind.STRUCTURE, place[1], (place,))
    if not roots:
        raise FormatError(f"{what} has no ISO 9660 volume descriptor")
    has_joliet = True in roots
    root = next(_parse_records(roots[has_joliet], has_joliet=has_joliet, with_self=True), None)
    if root is None:
        raise FormatError(f"{what}: ISO 9660 without a root directory")
    problems = _walk(pread, root, items, has_joliet=has_joliet)
    return VolumeMap("ISO 9660", tuple(items), problems)


def _walk(
    pread: PRead, root: _Entry, items: list[MappedFile], *, has_joliet: bool
) -> tuple[str, ...]:
    """Add every file to ``items``; the problems."""
    problems: list[str] = []
    waiting = [("\\", root)]
    seen = {root.start}
    left = _DIRECTORIES_SIZE_MAX
    while waiting:
        path, directory = waiting.pop()
        size = min(directory.size, _DIRECTORY_SIZE_MAX)
        left -= size
        if left < 0:
            return (*problems, f"{path}: more than {_DIRECTORIES_SIZE_MAX} bytes of folders")
        items.append(MappedFile(path, Kind.DIRECTORY, size, ((directory.start, size),)))
        pieces: list[tuple[int, int]] = []
        for entry in _parse_records(pread(directory.start, size), has_joliet=has_joliet):
            name = path.rstrip("\\") + "\\" + entry.name
            if len(items) >= FILE_COUNT_MAX:
                return (*problems, f"more than {FILE_COUNT_MAX} files: the rest is left out")
            if entry.flags & _IS_DIRECTORY:
                if entry.start in seen:
                    problems.append(f"{name}: it is another directory at the same time")
                else:
                    seen.add(entry.start)
                    waiting.append((name, entry))
                continue
            if entry.size:
                pieces.append((entry.start, entry.size))
            if not entry.flags & _IS_MULTI_EXTENT:
                total = sum(piece_size for _, piece_size in pieces)
                items.append(MappedFile(name, Kind.FILE, total, tuple(pieces)))
                pieces = []
    return tuple(problems)


def _parse_records(data: bytes, *, has_joliet: bool, with_self: bool = False) -> Iterator[_Entry]:
    position = 0
    while position < len(data):
        length = data[position]
        if length < 34 or position + length > len(data):
            # A record does not cross sectors: the rest of this one is empty.
            position = (position // _SECTOR_SIZE + 1) * _SECTOR_SIZE
            continue
        record = data[position : position + length]
        position += length
        start, size = struct.unpack_from("<I4xI", record, 2)
        raw_name = record[33 : 33 + record[32]]
        if raw_name in {b"\0", b"\1"}:
            if with_self:
                yield _Entry("", record[25], start * _SECTOR_SIZE, size)
            continue
        if has_joliet:
            name = raw_name.decode("utf-16-be", "replace")
        else:
            name = _rock_ridge_name(record) or raw_name.decode("latin-1")
        yield _Entry(name.partition(";")[0].rstrip("."), record[25], start * _SECTOR_SIZE, size)


def _rock_ridge_name(record: bytes) -> str:
    """The name in the NM entries of the system use area; empty when there are none."""
    position = 33 + record[32] + (record[32] + 1) % 2
    name = b""
    while position + _NM_HEAD_SIZE <= len(record):
        length = record[position + 2]
        if length < 4:
            break
        if record[position : position + 2] == b"NM":
            name += record[position + _NM_HEAD_SIZE : position + length]
        position += length
    return name.decode("utf-8", "replace")
