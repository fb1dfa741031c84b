# SPDX-License-Identifier: GPL-3.0-or-later
"""Every file of an NTFS volume, from its file records read one after the other.

No index is followed and no attribute list either: the records of a file say whose they are, and
its pieces are put together by where they begin. So this is another way to the contents than the
drivers' and libntfs-3g's.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Final

from mediamaker.errors import FormatError
from mediamaker.formats.ntfs import (
    BOOT_SECTOR_SIZE,
    Attribute,
    NtfsBoot,
    RecordAttributes,
    Run,
    parse_ntfs_boot,
    parse_record_attributes,
)
from mediamaker.formats.ntfs_file import (
    DATA,
    FILE_NAME,
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


@dataclass(frozen=True, slots=True)
class VolumeStream:
    """A stream; ``value`` is set when it lies in a record, else ``runs`` say where it lies."""

    kind: int
    name: str
    flags: int
    size: int
    initialized_size: int
    value: bytes | None
    runs: tuple[Run, ...]


@dataclass(slots=True)
class VolumeFile:
    """A file or directory; ``names`` are all it has, in all directories and namespaces."""

    number: int
    is_directory: bool
    standard: Standard | None = None
    names: list[NameInDirectory] = field(default_factory=list)
    pieces: list[Attribute] = field(default_factory=list)

    def streams(self, what: str) -> tuple[VolumeStream, ...]:
        """Its streams and indexes, each put together.

        Raises:
            FormatError: a piece is missing.
        """
        groups: dict[tuple[int, str], list[Attribute]] = {}
        for piece in self.pieces:
            groups.setdefault((piece.kind, piece.name), []).append(piece)
        return tuple(
            _join(kind, name, pieces, f"{what}: NTFS file record {self.number}")
            for (kind, name), pieces in groups.items()
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
        for number, record in self._records():
            owner = record.base_number or number
            file = files.get(owner)
            if file is None:
                file = files[owner] = VolumeFile(owner, record.is_directory)
            if not record.base_number:
                file.is_directory = record.is_directory
            where = f"{self._what}: NTFS file record {number}"
            for attribute in record.attributes:
                if attribute.kind == STANDARD_INFORMATION:
                    file.standard = parse_standard(attribute.value or b"", where)
                elif attribute.kind == FILE_NAME:
                    file.names.append(parse_name(attribute.value or b"", owner, where))
                elif attribute.kind >= SECURITY_DESCRIPTOR:
                    file.pieces.append(attribute)
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

    def _records(self) -> Iterator[tuple[int, RecordAttributes]]:
        """Every record in use, by number, in the order of the file table."""
        size = self.boot.record_size
        first = self._parse(self.pread(self.boot.mft_offset, size), 0)
        table = first and next(
            (a for a in first.attributes if (a.kind, a.name) == (DATA, "")), None
        )
        if not table or table.value is not None or table.size > self.boot.size:
            raise FormatError(f"{self._what}: NTFS file record 0 does not describe the file table")
        end = min(table.size, table.initialized_size) // size * size
        waiting = {table.start: table}
        number = 0
        rest = b""
        for more in self._table_bytes(waiting, end):
            # With clusters smaller than records, a record may lie in two places.
            data = rest + more
            whole = len(data) // size * size
            for at in range(0, whole, size):
                record = self._parse(data[at : at + size], number)
                if record is not None:
                    if number:
                        self._keep_table_pieces(record, waiting)
                    yield number, record
                number += 1
            rest = data[whole:]

    def _table_bytes(self, waiting: dict[int, Attribute], end: int) -> Iterator[bytes]:
        """The first ``end`` bytes of the file table; its later pieces appear in ``waiting``."""
        position = 0
        while position < end:
            piece = waiting.pop(position, None)
            if piece is None:
                raise FormatError(
                    f"{self._what}: NTFS file table: expected {end} bytes, found {position}"
                )
            for run in piece.runs:
                if run.offset is None:
                    raise FormatError(f"{self._what}: NTFS file table has a hole at {position:#x}")
                wanted = min(run.size, end - position)
                for done in range(0, wanted, _READ_SIZE):
                    yield self.pread(run.offset + done, min(_READ_SIZE, wanted - done))
                position += run.size

    def _keep_table_pieces(self, record: RecordAttributes, waiting: dict[int, Attribute]) -> None:
        """Those of extensions of record 0: their base is 0, as if they were files themselves."""
        if record.base_number:
            return
        kinds = {attribute.kind for attribute in record.attributes}
        if STANDARD_INFORMATION not in kinds and FILE_NAME not in kinds:
            for attribute in record.attributes:
                if (attribute.kind, attribute.name) == (DATA, "") and attribute.value is None:
                    waiting.setdefault(attribute.start, attribute)

    def _parse(self, data: bytes, number: int) -> RecordAttributes | None:
        if data[:4] not in {_RECORD_MAGIC, _DAMAGED_MAGIC}:
            return None
        return parse_record_attributes(data, self.boot, number=number, what=self._what)


def _join(kind: int, name: str, pieces: list[Attribute], where: str) -> VolumeStream:
    pieces.sort(key=lambda piece: piece.start)
    first = pieces[0]
    if first.value is not None:
        return VolumeStream(kind, name, first.flags, first.size, first.size, first.value, ())
    runs: list[Run] = []
    known = 0
    for piece in pieces:
        if piece.value is not None or piece.start != known:
            raise FormatError(f"{where}: a stream has no clusters from {known:#x} on")
        runs.extend(piece.runs)
        known += sum(run.size for run in piece.runs)
    if known < min(first.size, first.initialized_size):
        raise FormatError(f"{where}: a stream of {first.size} bytes has clusters for {known}")
    return VolumeStream(
        kind, name, first.flags, first.size, first.initialized_size, None, tuple(runs)
    )
