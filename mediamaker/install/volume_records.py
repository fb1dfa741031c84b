# SPDX-License-Identifier: GPL-3.0-or-later
"""Every file of an NTFS volume, from its file records read one after the other.

No index is followed and no attribute list either: the records of a file say whose they are, and
its pieces are put together by where they begin. So this is another way to the contents than the
drivers' and libntfs-3g's.
"""

from __future__ import annotations

import os
import struct
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Final, NamedTuple

from mediamaker.errors import FormatError
from mediamaker.formats.ntfs import (
    BOOT_SECTOR_SIZE,
    NtfsBoot,
    Run,
    iterate_attributes,
    parse_ntfs_boot,
    parse_runs,
    undo_fixups,
)
from mediamaker.formats.ntfs_file import (
    BITMAP,
    DATA,
    FILE_NAME,
    INDEX_ALLOCATION,
    INDEX_ROOT,
    REPARSE_POINT,
    SECURITY_DESCRIPTOR,
    STANDARD_INFORMATION,
    NameInDirectory,
    Standard,
    parse_name,
    parse_security_stream,
    parse_standard,
)
from mediamaker.units import MIB

SECURE_RECORD_NUMBER: Final = 9
_SECURITY_STREAM: Final = "$SDS"
_READ_SIZE: Final = 4 * MIB
_SECURITY_SIZE_MAX: Final = 256 * MIB
_RECORD_MAGIC: Final = b"FILE"
_DAMAGED_MAGIC: Final = b"BAAD"
_IN_USE, _IS_DIRECTORY = 0x01, 0x02
_STREAM_KINDS: Final = frozenset(
    (SECURITY_DESCRIPTOR, DATA, INDEX_ROOT, INDEX_ALLOCATION, BITMAP, REPARSE_POINT)
)

# Place and count of the fixups, first attribute, flags, bytes used
_RECORD_HEADER: Final = struct.Struct("<4xHH12xHHI")
# Size and place of a value in the record
_RESIDENT: Final = struct.Struct("<16xIH")
# Lowest cluster, place of the runs, size, initialised size
_NON_RESIDENT: Final = struct.Struct("<16xQ8xH14xQQ")
_NON_RESIDENT_SIZE_MIN: Final = 0x40

# Type, whether it lies outside the record, UTF-16 name, its bytes
_RawAttribute = tuple[int, bool, bytes, bytes]


class VolumeStream(NamedTuple):
    """A stream; ``value`` is set when it lies in a record, else ``runs`` say where it lies."""

    kind: int
    name: str
    flags: int
    size: int
    initialized_size: int
    value: bytes | None
    runs: tuple[Run, ...]


class _Piece(NamedTuple):
    """What one record has of a stream, from ``start`` bytes into it on."""

    start: int
    stream: VolumeStream


@dataclass(slots=True)
class VolumeFile:
    """A file or directory; ``names`` are all it has, in all directories and namespaces."""

    number: int
    is_directory: bool
    standard: Standard | None = None
    names: list[NameInDirectory] = field(default_factory=list)
    pieces: list[_Piece] = field(default_factory=list)

    def streams(self, what: str) -> tuple[VolumeStream, ...]:
        """Its streams and indexes, each put together.

        Raises:
            FormatError: a piece is missing.
        """
        groups: dict[tuple[int, str], list[_Piece]] = {}
        for piece in self.pieces:
            groups.setdefault(piece.stream[:2], []).append(piece)
        return tuple(
            _join(pieces, f"{what}: NTFS file record {self.number}") for pieces in groups.values()
        )


class VolumeRecords:
    """The records of the volume that ``descriptor`` has open; ``what`` names it in errors."""

    def __init__(self, descriptor: int, what: str) -> None:
        self._descriptor = descriptor
        self._what = what
        self.boot: NtfsBoot = parse_ntfs_boot(os.pread(descriptor, BOOT_SECTOR_SIZE, 0), what=what)

    def pread(self, offset: int, size: int) -> bytes:
        """Bytes of the volume.

        Raises:
            FormatError: it ends before.
        """
        data = os.pread(self._descriptor, size, offset)
        if len(data) != size:
            raise FormatError(
                f"{self._what}: NTFS: expected {size} bytes at {offset:#x}, got {len(data)}: "
                "the volume is cut short"
            )
        return data

    def read_files(self) -> dict[int, VolumeFile]:
        """All files, the file system's own too, by the number of their first record.

        Raises:
            FormatError: damaged records.
        """
        files: dict[int, VolumeFile] = {}
        for number, base_number, is_directory, attributes in self._records():
            owner = base_number or number
            file = files.get(owner)
            if file is None:
                file = files[owner] = VolumeFile(owner, is_directory)
            if not base_number:
                file.is_directory = is_directory
            where = f"{self._what}: NTFS file record {number}"
            for raw in attributes:
                kind, _, _, attribute = raw
                if kind == STANDARD_INFORMATION:
                    file.standard = parse_standard(resident_value(attribute, where), where)
                elif kind == FILE_NAME:
                    file.names.append(parse_name(resident_value(attribute, where), owner, where))
                elif kind in _STREAM_KINDS:
                    file.pieces.append(self._parse_piece(raw, where))
        return files

    def read_stream(self, stream: VolumeStream) -> bytes:
        """The whole of a small stream.

        Raises:
            FormatError: it is cut short.
        """
        return b"".join(self.iterate_stream(stream))

    def iterate_stream(self, stream: VolumeStream) -> Iterator[bytes]:
        """A stream in pieces; what lies behind its initialised bytes is zeros."""
        if stream.value is not None:
            yield stream.value
            return
        left = min(stream.size, stream.initialized_size)
        for run in stream.runs:
            if left <= 0:
                break
            run_size = min(run.size, left)
            for done in range(0, run_size, _READ_SIZE):
                size = min(_READ_SIZE, run_size - done)
                yield bytes(size) if run.offset is None else self.pread(run.offset + done, size)
            left -= run_size
        zeros = stream.size - min(stream.size, stream.initialized_size)
        for done in range(0, zeros, _READ_SIZE):
            yield bytes(min(_READ_SIZE, zeros - done))

    def read_descriptors(self, files: dict[int, VolumeFile]) -> dict[int, bytes]:
        """The security descriptors of ``$Secure`` by their number.

        Raises:
            FormatError: they are damaged.
        """
        secure = files.get(SECURE_RECORD_NUMBER)
        streams = () if secure is None else secure.streams(self._what)
        for stream in streams:
            if stream.kind == DATA and stream.name == _SECURITY_STREAM:
                if stream.size > _SECURITY_SIZE_MAX:
                    raise FormatError(f"{self._what}: $Secure of {stream.size} bytes: too many")
                return parse_security_stream(self.read_stream(stream), self._what)
        return {}

    def _records(self) -> Iterator[tuple[int, int, bool, list[_RawAttribute]]]:
        """(number, base, whether a directory, attributes) of every record in use, in order."""
        size = self.boot.record_size
        first = self._parse(self.pread(self.boot.mft_offset, size), 0)
        waiting: dict[int, _Piece] = {}
        if first is not None:
            self._keep_table_pieces(first[2], waiting, 0)
        table = waiting.get(0)
        if table is None or table.stream.size > self.boot.size:
            raise FormatError(f"{self._what}: NTFS file record 0 does not describe the file table")
        end = min(table.stream.size, table.stream.initialized_size) // size * size
        number = 0
        rest = b""
        for more in self._table_bytes(waiting, end):
            # With clusters smaller than records, a record may lie in two places.
            data = rest + more
            whole = len(data) // size * size
            for at in range(0, whole, size):
                record = self._parse(data[at : at + size], number)
                if record is not None:
                    base_number, is_directory, attributes = record
                    # Extensions of record 0 have base 0, as if they were files themselves.
                    if number and not base_number and attributes[0][0] > FILE_NAME:
                        self._keep_table_pieces(attributes, waiting, number)
                    yield number, base_number, is_directory, attributes
                number += 1
            rest = data[whole:]

    def _table_bytes(self, waiting: dict[int, _Piece], end: int) -> Iterator[bytes]:
        """The first ``end`` bytes of the file table; its later pieces appear in ``waiting``."""
        position = 0
        while position < end:
            piece = waiting.pop(position, None)
            if piece is None:
                raise FormatError(
                    f"{self._what}: NTFS file table: expected {end} bytes, found {position}"
                )
            for run in piece.stream.runs:
                if run.offset is None:
                    raise FormatError(f"{self._what}: NTFS file table has a hole at {position:#x}")
                wanted = min(run.size, end - position)
                for done in range(0, wanted, _READ_SIZE):
                    yield self.pread(run.offset + done, min(_READ_SIZE, wanted - done))
                position += run.size

    def _keep_table_pieces(
        self, attributes: list[_RawAttribute], waiting: dict[int, _Piece], number: int
    ) -> None:
        where = f"{self._what}: NTFS file record {number}"
        for raw in attributes:
            kind, is_outside, name, _ = raw
            if kind == DATA and not name and is_outside:
                piece = self._parse_piece(raw, where)
                waiting.setdefault(piece.start, piece)

    def _parse(self, data: bytes, number: int) -> tuple[int, bool, list[_RawAttribute]] | None:
        """(base, whether a directory, attributes) of a record in use."""
        if data[:4] not in {_RECORD_MAGIC, _DAMAGED_MAGIC}:
            return None
        where = f"{self._what}: NTFS file record {number}"
        if data[:4] == _DAMAGED_MAGIC:
            raise FormatError(f"{where} is marked as damaged", hint="let chkdsk repair the volume")
        fixup_offset, fixup_count, position, flags, used = _RECORD_HEADER.unpack_from(data)
        if not flags & _IN_USE:
            return None
        fixed = undo_fixups(data, fixup_offset, fixup_count, where)
        attributes = list(iterate_attributes(fixed, position, used, where))
        if not attributes:
            return None
        base_number = int.from_bytes(fixed[0x20:0x26], "little")
        return base_number, bool(flags & _IS_DIRECTORY), attributes

    def _parse_piece(self, raw: _RawAttribute, where: str) -> _Piece:
        kind, is_outside, name, attribute = raw
        text = name.decode("utf-16-le", "surrogatepass") if name else ""
        flags = int.from_bytes(attribute[0x0C:0x0E], "little")
        if not is_outside:
            value = resident_value(attribute, where)
            return _Piece(0, VolumeStream(kind, text, flags, len(value), len(value), value, ()))
        if len(attribute) < _NON_RESIDENT_SIZE_MIN:
            raise FormatError(f"{where}: its stream's header has only {len(attribute)} bytes")
        lowest_cluster, offset, size, initialized_size = _NON_RESIDENT.unpack_from(attribute)
        runs = parse_runs(attribute[offset:], self.boot, where)
        stream = VolumeStream(kind, text, flags, size, initialized_size, None, runs)
        return _Piece(lowest_cluster * self.boot.cluster_size, stream)


def resident_value(attribute: bytes, where: str) -> bytes:
    """The value that lies in the record.

    Raises:
        FormatError: it goes past the attribute's end, or lies elsewhere.
    """
    size, offset = _RESIDENT.unpack_from(attribute)
    if attribute[8] or offset + size > len(attribute):
        raise FormatError(f"{where}: a value of {size} bytes goes past its attribute's end")
    return attribute[offset : offset + size]


def _join(pieces: list[_Piece], where: str) -> VolumeStream:
    first = pieces[0].stream
    if len(pieces) == 1 and pieces[0].start == 0:
        runs, known = first.runs, sum(run.size for run in first.runs)
    else:
        pieces.sort(key=_start)
        first = pieces[0].stream
        runs, known = (), 0
        for piece in pieces:
            if piece.stream.value is not None or piece.start != known:
                raise FormatError(f"{where}: a stream has no clusters from {known:#x} on")
            runs += piece.stream.runs
            known += sum(run.size for run in piece.stream.runs)
    if first.value is None and known < min(first.size, first.initialized_size):
        raise FormatError(f"{where}: a stream of {first.size} bytes has clusters for {known}")
    return first._replace(runs=runs) if len(pieces) > 1 else first


def _start(piece: _Piece) -> int:
    return piece.start
