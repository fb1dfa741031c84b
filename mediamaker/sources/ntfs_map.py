# SPDX-License-Identifier: GPL-3.0-or-later
r"""Where the files of an NTFS volume lie: every record of the file table is looked at, no index.

So a damaged directory hides nothing. A small file lies in its own record: it has no pieces, and
its record is called ``file record of \path``. Reference: ``formats/ntfs.py``, ``ntfs_file.py``.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterator
from dataclasses import dataclass, field

from mediamaker.errors import FormatError
from mediamaker.formats.ntfs import (
    BOOT_SECTOR_SIZE,
    ROOT_RECORD_NUMBER,
    Attribute,
    NtfsBoot,
    parse_ntfs_boot,
    parse_record_attributes,
)
from mediamaker.formats.ntfs_file import NameInDirectory, parse_name
from mediamaker.sources.file_map import (
    FILE_COUNT_MAX,
    RECORD_PREFIX,
    Kind,
    MappedFile,
    PRead,
    VolumeMap,
    cut_pieces,
)
from mediamaker.units import MIB

_FILE_NAME, _DATA, _INDEX_ALLOCATION = 0x30, 0x80, 0xA0
_DOS_NAMESPACE = 2
_OEM_ID = b"NTFS    "
_STEP_SIZE = MIB
_PROBLEM_COUNT_MAX = 20
_DEPTH_MAX = 256
_LINK_COUNT_MAX = 1024


@dataclass(slots=True)
class _File:
    is_directory: bool = False
    names: list[tuple[int, str]] = field(default_factory=list)
    """Number of the parent's record, and the name; hard links have several."""
    streams: dict[tuple[int, str], list[Attribute]] = field(
        default_factory=lambda: defaultdict(list)
    )


def is_ntfs(head: bytes) -> bool:
    """Whether ``head``, the first 512 bytes of a volume, is the boot sector of NTFS."""
    return head[3:11] == _OEM_ID


def map_ntfs(pread: PRead, what: str) -> VolumeMap:
    """The map of the volume that ``pread`` reads; ``what`` names it in errors.

    Raises:
        FormatError: no NTFS volume, or its file table can't be found.
    """
    return _NtfsVolume(pread, what).map()


class _NtfsVolume:
    def __init__(self, pread: PRead, what: str) -> None:
        self._pread = pread
        self._what = what
        self._boot: NtfsBoot = parse_ntfs_boot(pread(0, BOOT_SECTOR_SIZE), what=what)
        self._files: dict[int, _File] = defaultdict(_File)
        self._places: dict[int, int] = {}
        self._problems: list[str] = []

    def map(self) -> VolumeMap:
        self._read_table()
        items = [MappedFile("boot sector", Kind.STRUCTURE, 8192, ((0, 8192),))]
        aliases: dict[str, str] = {}
        for number, file in self._files.items():
            # The shortest name is the one that people know: not that in WinSxS.
            paths = sorted(self._paths(number), key=lambda path: (len(path), path))
            if paths:
                items.extend(self._items_of(number, file, paths[0]))
                aliases |= dict.fromkeys(paths[1:], paths[0])
        return VolumeMap("NTFS", tuple(items), tuple(self._problems), aliases)

    def _read_table(self) -> None:
        """Every record; the table's own further pieces are in records of its first one."""
        boot = self._boot
        self._take_record(0, boot.mft_offset, self._pread(boot.mft_offset, boot.record_size))
        if not self._pieces(self._files[0].streams.get((_DATA, ""), [])):
            raise FormatError(f"{self._what}: NTFS file record 0 does not describe the file table")
        number = 0
        while True:
            # New pieces may have come with the last ones.
            pieces = self._pieces(self._files[0].streams[_DATA, ""])
            total = sum(size for _, size in pieces) // boot.record_size
            if number >= min(total, FILE_COUNT_MAX):
                return
            number = self._read_records(pieces, number)

    def _read_records(self, pieces: tuple[tuple[int, int], ...], first: int) -> int:
        """Records from ``first`` to the end of ``pieces``; the number after the last one."""
        size = self._boot.record_size
        number = 0
        for start, piece_size in pieces:
            for at in range(0, piece_size, _STEP_SIZE):
                count = min(_STEP_SIZE, piece_size - at) // size
                if number + count <= first:
                    number += count
                    continue
                if number >= FILE_COUNT_MAX:
                    return number
                data = self._pread(start + at, count * size)
                for index in range(len(data) // size):
                    record = data[index * size : (index + 1) * size]
                    if number + index > 0 and record[:4] == b"FILE":
                        self._take_record(number + index, start + at + index * size, record)
                number += count
        return number

    def _take_record(self, number: int, place: int, data: bytes) -> None:
        try:
            record = parse_record_attributes(data, self._boot, number=number, what=self._what)
        except FormatError as error:
            if number == 0:
                raise
            self._add_problem(error.message)
            return
        if record is None:
            return
        owner = record.base_number or number
        file = self._files[owner]
        if owner == number:
            file.is_directory = record.is_directory
            self._places[number] = place
        for attribute in record.attributes:
            if attribute.kind == _FILE_NAME and attribute.value is not None:
                self._take_name(file, attribute.value, number)
            elif attribute.kind in {_DATA, _INDEX_ALLOCATION}:
                file.streams[attribute.kind, attribute.name].append(attribute)

    def _take_name(self, file: _File, value: bytes, number: int) -> None:
        try:
            found: NameInDirectory = parse_name(value, number, self._what)
        except FormatError as error:
            self._add_problem(error.message)
            return
        if found.namespace != _DOS_NAMESPACE:
            file.names.append((found.parent_number, found.name))

    def _items_of(self, number: int, file: _File, path: str) -> Iterator[MappedFile]:
        place = self._places.get(number)
        if place is not None:
            size = self._boot.record_size
            name = f"{RECORD_PREFIX}{path}"
            yield MappedFile(name, Kind.STRUCTURE, size, ((place, size),))
        if file.is_directory:
            pieces = self._pieces(file.streams.get((_INDEX_ALLOCATION, "$I30"), []))
            yield MappedFile(path, Kind.DIRECTORY, sum(size for _, size in pieces), pieces)
        for (kind, stream), attributes in file.streams.items():
            if kind != _DATA or (number == 0 and not stream):
                continue
            name = f"{path}:{stream}" if stream else path
            size = max(attribute.size for attribute in attributes)
            is_system = number < 16 and number != ROOT_RECORD_NUMBER
            item_kind = Kind.STRUCTURE if is_system else Kind.FILE
            yield MappedFile(name, item_kind, size, cut_pieces(self._pieces(attributes), size))

    def _paths(self, number: int) -> Iterator[str]:
        """Every path to the file; none for what has no way to the root."""
        if number == ROOT_RECORD_NUMBER:
            yield "\\"
            return
        file = self._files.get(number)
        for parent_number, name in file.names[:_LINK_COUNT_MAX] if file is not None else ():
            folder = self._folder(parent_number)
            if folder is not None:
                yield f"{folder}\\{name}"

    def _folder(self, number: int) -> str | None:
        """The path of a directory, ``""`` for the root."""
        known: list[str] = []
        for _ in range(_DEPTH_MAX):
            if number == ROOT_RECORD_NUMBER:
                return "".join(f"\\{name}" for name in reversed(known))
            file = self._files.get(number)
            if file is None or not file.names:
                return None
            number, name = file.names[0]
            known.append(name)
        return None

    def _pieces(self, attributes: list[Attribute]) -> tuple[tuple[int, int], ...]:
        ordered = sorted(attributes, key=lambda attribute: attribute.start)
        runs = (run for attribute in ordered for run in attribute.runs)
        return tuple((run.offset, run.size) for run in runs if run.offset is not None)

    def _add_problem(self, text: str) -> None:
        if len(self._problems) < _PROBLEM_COUNT_MAX:
            self._problems.append(text)
