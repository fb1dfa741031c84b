# SPDX-License-Identifier: GPL-3.0-or-later
"""Files of an NTFS volume that is in a disk somewhere, read through a function; nothing mounted.

Only what looking at an installed Windows takes: a path to a file, its bytes, which clusters are in
use, and the volume's flags. Compressed and encrypted contents are refused, not decoded.

References: the NTFS documentation of the Linux-NTFS project ("$I30", "INDX", "$ATTRIBUTE_LIST",
"$Bitmap", "$Volume"), Microsoft's [MS-FSCC] 2.1.2.1 for reparse tags.
"""

from __future__ import annotations

import struct
from collections.abc import Callable, Iterator
from dataclasses import dataclass

from mediamaker.errors import FormatError
from mediamaker.formats.ntfs import (
    BOOT_SECTOR_SIZE,
    ROOT_RECORD_NUMBER,
    Attribute,
    NtfsBoot,
    RecordAttributes,
    Run,
    parse_ntfs_boot,
    parse_record_attributes,
    undo_fixups,
)
from mediamaker.units import MIB

PRead = Callable[[int, int], bytes]

VOLUME_RECORD_NUMBER = 3
BITMAP_RECORD_NUMBER = 6
LOG_RECORD_NUMBER = 2

_ATTRIBUTE_LIST, _VOLUME_INFORMATION, _DATA = 0x20, 0x70, 0x80
_INDEX_ROOT, _INDEX_ALLOCATION, _BITMAP, _REPARSE_POINT = 0x90, 0xA0, 0xB0, 0xC0
_DIRECTORY_INDEX = "$I30"
_COMPRESSED, _ENCRYPTED = 0x00FF, 0x4000
_TAG_COMPRESSED_FILE = 0x80000017  # IO_REPARSE_TAG_WOF
_ENTRY = struct.Struct("<QHHH")
_INDEX_HEADER = struct.Struct("<III")
_LIST_ENTRY = struct.Struct("<IHBBQQ")
_LAST_ENTRY = 0x02
_NAMESPACE_DOS = 2
_NUMBER_MASK = (1 << 48) - 1
_LIST_SIZE_MAX = 256 * 1024
_INDEX_SIZE_MAX = 256 * MIB
_INDEX_BLOCK_SIZES = (512, 1024, 2048, 4096, 8192, 16384, 32768, 65536)


@dataclass(frozen=True, slots=True)
class NtfsFile:
    """A file or directory; ``stream`` is its unnamed contents, put together."""

    number: int
    is_directory: bool
    size: int
    path: str


class NtfsFiles:
    """The files of the volume that ``pread`` reads; ``what`` names it in errors."""

    def __init__(self, pread: PRead, what: str) -> None:
        self._pread = pread
        self._what = what
        self.boot: NtfsBoot = parse_ntfs_boot(pread(0, BOOT_SECTOR_SIZE), what=what)
        first = parse_record_attributes(
            pread(self.boot.mft_offset, self.boot.record_size), self.boot, number=0, what=what
        )
        table = _first(first, _DATA, "") if first is not None else None
        if first is None or table is None:
            raise FormatError(f"{what}: NTFS file record 0 does not describe the file table")
        self._table = _Stream(table.size, table.size, table.runs, None)
        # Its further pieces are in records that its first piece reaches.
        self._table = self._stream(0, first, _DATA, "") or self._table

    def find(self, path: str) -> NtfsFile | None:
        r"""The file at ``path`` (``\Windows\System32``), any case; None when it is not there.

        Raises:
            FormatError: damaged directories.
        """
        number, shown = ROOT_RECORD_NUMBER, ""
        for part in path.replace("/", "\\").split("\\"):
            if not part:
                continue
            wanted = part.upper()
            for name, child in self._entries(number, shown):
                if name.upper() == wanted:
                    number, shown = child, f"{shown}\\{name}"
                    break
            else:
                return None
        record = self._record(number)
        stream = self._stream(number, record, _DATA, "")
        size = stream.size if stream is not None else 0
        return NtfsFile(number, record.is_directory, size, shown or "\\")

    def names(self, path: str) -> tuple[str, ...]:
        """The names in the directory ``path``; none when it is not there."""
        found = self.find(path)
        if found is None or not found.is_directory:
            return ()
        return tuple(name for name, _ in self._entries(found.number, found.path))

    def read(self, file: NtfsFile, offset: int, size: int) -> bytes:
        """At most ``size`` bytes from ``offset`` on.

        Raises:
            FormatError: compressed or encrypted, or its clusters make no sense.
        """
        record = self._record(file.number)
        reparse = self._stream(file.number, record, _REPARSE_POINT, "")
        tag = 0 if reparse is None else int.from_bytes(self._read(reparse, 0, 4), "little")
        stream = self._stream(file.number, record, _DATA, "")
        if stream is None:
            return b""
        if tag == _TAG_COMPRESSED_FILE or stream.flags & (_COMPRESSED | _ENCRYPTED):
            how = "encrypted" if stream.flags & _ENCRYPTED else "compressed"
            raise FormatError(
                f"{self._what}: {file.path} is {how} and can't be read from here",
                hint="name a copy of the file instead",
            )
        return self._read(stream, offset, size)

    def read_all(self, file: NtfsFile, size_max: int) -> bytes:
        """The whole file.

        Raises:
            FormatError: it is over ``size_max`` bytes.
        """
        if file.size > size_max:
            raise FormatError(
                f"{self._what}: {file.path}: expected at most {size_max} bytes, got {file.size}"
            )
        return self.read(file, 0, file.size)

    def system_stream(self, number: int, size_max: int) -> bytes:
        """The unnamed contents of one of the file system's own files, at most ``size_max``."""
        stream = self._stream(number, self._record(number), _DATA, "")
        return b"" if stream is None else self._read(stream, 0, min(stream.size, size_max))

    def cluster_bitmap(self) -> bytes:
        """``$Bitmap``: a bit for each cluster, set for those in use."""
        cluster_count = self.boot.size // self.boot.cluster_size
        bitmap = self.system_stream(BITMAP_RECORD_NUMBER, cluster_count // 8 + 8)
        if len(bitmap) < -(-cluster_count // 8):
            raise FormatError(f"{self._what}: NTFS $Bitmap is too short: {len(bitmap)} bytes")
        return bitmap

    def volume_flags(self) -> int:
        """The flags of ``$VOLUME_INFORMATION``: 1 is dirty."""
        found = _first(self._record(VOLUME_RECORD_NUMBER), _VOLUME_INFORMATION, "")
        if found is None or found.value is None or len(found.value) < 12:
            raise FormatError(f"{self._what}: NTFS $Volume has no information")
        return int.from_bytes(found.value[10:12], "little")

    def _entries(self, number: int, shown: str) -> Iterator[tuple[str, int]]:
        """(name, record number) of every long name in the directory."""
        record = self._record(number)
        where = f"{self._what}: NTFS directory {shown or 'root'}"
        # Seen: the root of the index moved out of the directory's own record by libntfs-3g.
        root_stream = self._stream(number, record, _INDEX_ROOT, _DIRECTORY_INDEX)
        root = b"" if root_stream is None or root_stream.value is None else root_stream.value
        if len(root) < 0x20:
            if not record.is_directory:
                return
            raise FormatError(f"{where} has no index")
        block_size = int.from_bytes(root[8:12], "little")
        yield from _parse_entries(root, 0x10, where)
        blocks = self._stream(number, record, _INDEX_ALLOCATION, _DIRECTORY_INDEX)
        if blocks is None:
            return
        if block_size not in _INDEX_BLOCK_SIZES or blocks.size > _INDEX_SIZE_MAX:
            raise FormatError(f"{where}: index blocks of {block_size} in {blocks.size} bytes")
        bitmap_stream = self._stream(number, record, _BITMAP, _DIRECTORY_INDEX)
        bitmap = b"" if bitmap_stream is None else self._read(bitmap_stream, 0, _LIST_SIZE_MAX)
        for index in range(blocks.size // block_size):
            if index // 8 >= len(bitmap) or not bitmap[index // 8] & (1 << index % 8):
                continue  # what an unused block has may be of long ago
            block = self._read(blocks, index * block_size, block_size)
            if block[:4] != b"INDX":
                raise FormatError(f"{where}: index block {index} is damaged")
            fixup_offset, fixup_count = struct.unpack_from("<HH", block, 4)
            block = undo_fixups(block, fixup_offset, fixup_count, where)
            yield from _parse_entries(block, 0x18, where)

    def _record(self, number: int) -> RecordAttributes:
        size = self.boot.record_size
        if (number + 1) * size > self._table.size:
            raise FormatError(f"{self._what}: NTFS has no file record {number}")
        data = self._read(self._table, number * size, size)
        record = parse_record_attributes(data, self.boot, number=number, what=self._what)
        if record is None:
            raise FormatError(f"{self._what}: NTFS file record {number} is not in use")
        return record

    def _stream(
        self, number: int, record: RecordAttributes, kind: int, name: str
    ) -> _Stream | None:
        """One stream of a file, from all the records that have pieces of it."""
        pieces = [item for item in record.attributes if (item.kind, item.name) == (kind, name)]
        elsewhere = _first(record, _ATTRIBUTE_LIST, "")
        if elsewhere is not None:
            for other in sorted(self._list_records(elsewhere, kind) - {number}):
                extension = self._record(other)
                pieces += [
                    item for item in extension.attributes if (item.kind, item.name) == (kind, name)
                ]
        if not pieces:
            return None
        pieces.sort(key=lambda piece: piece.start)
        first = pieces[0]
        if first.value is not None:
            return _Stream(first.size, first.size, (), first.value, first.flags)
        runs: list[Run] = []
        known = 0
        for piece in pieces:
            if piece.start != known:
                raise FormatError(
                    f"{self._what}: NTFS file record {number}: a stream has no clusters from "
                    f"{known:#x} to {piece.start:#x}"
                )
            runs += piece.runs
            known += sum(run.size for run in piece.runs)
        if first.size > known:
            raise FormatError(
                f"{self._what}: NTFS file record {number}: a stream of {first.size} bytes has "
                f"clusters for {known}"
            )
        return _Stream(first.size, first.initialized_size, tuple(runs), None, first.flags)

    def _list_records(self, attribute: Attribute, kind: int) -> set[int]:
        if attribute.value is not None:
            data = attribute.value
        else:
            stream = _Stream(attribute.size, attribute.initialized_size, attribute.runs, None)
            data = self._read(stream, 0, _LIST_SIZE_MAX)
        numbers: set[int] = set()
        position = 0
        while position + _LIST_ENTRY.size <= len(data):
            found, length, _, _, _, reference = _LIST_ENTRY.unpack_from(data, position)
            if length < _LIST_ENTRY.size:
                break
            if found == kind:
                numbers.add(reference & _NUMBER_MASK)
            position += length
        return numbers

    def _read(self, stream: _Stream, offset: int, size: int) -> bytes:
        size = max(0, min(size, stream.size - offset))
        if stream.value is not None:
            return stream.value[offset : offset + size]
        end = offset + size
        data_end = min(end, max(offset, stream.initialized_size))
        pieces: list[bytes] = []
        position = 0
        for run in stream.runs:
            low, high = max(offset, position), min(data_end, position + run.size)
            if low < high:
                if run.offset is None:
                    pieces.append(bytes(high - low))
                else:
                    pieces.append(self._pread(run.offset + low - position, high - low))
            position += run.size
            if position >= data_end:
                break
        data = b"".join(pieces)
        return data + bytes(size - len(data))


@dataclass(frozen=True, slots=True)
class _Stream:
    size: int
    initialized_size: int
    runs: tuple[Run, ...]
    value: bytes | None
    flags: int = 0


def _first(record: RecordAttributes | None, kind: int, name: str) -> Attribute | None:
    if record is None:
        return None
    return next(
        (item for item in record.attributes if (item.kind, item.name) == (kind, name)), None
    )


def _parse_entries(data: bytes, header: int, where: str) -> Iterator[tuple[str, int]]:
    first, length, _ = _INDEX_HEADER.unpack_from(data, header)
    position, end = header + first, min(header + length, len(data))
    while position + _ENTRY.size <= end:
        reference, size, key_size, flags = _ENTRY.unpack_from(data, position)
        if flags & _LAST_ENTRY:
            return
        if size < 0x10 or position + size > end or key_size + 0x10 > size:
            raise FormatError(f"{where}: an index entry at {position:#x} is damaged")
        key = data[position + 0x10 : position + 0x10 + key_size]
        if len(key) >= 0x42 and key[0x41] != _NAMESPACE_DOS:
            name = key[0x42 : 0x42 + 2 * key[0x40]].decode("utf-16-le", "replace")
            yield name, reference & _NUMBER_MASK
        position += size
