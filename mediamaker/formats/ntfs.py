# SPDX-License-Identifier: GPL-3.0-or-later
"""The boot sector of an NTFS volume, and as much of its file records as a survey needs.

References: the NTFS documentation of the Linux-NTFS project ("$Boot", "FILE Record", "Attributes")
and Microsoft's [MS-FSCC] 2.6 for file attributes. Numbers of records and clusters count from 0.

A survey asks which files carry what libntfs-3g's capture does not take along: extended attributes
and encryption. It is no file system: it reads records one by one and follows no index.
"""

from __future__ import annotations

import struct
from collections.abc import Iterator
from dataclasses import dataclass

from mediamaker.errors import FormatError
from mediamaker.formats.record import parse_record, raw, record, u8, u16, u64

BOOT_SECTOR_SIZE = 512
ROOT_RECORD_NUMBER = 5
FIRST_USER_RECORD_NUMBER = 24
"""Records below this one are the file system's own."""

_OEM_ID = b"NTFS    "
_RECORD_MAGIC = b"FILE"
_FIXUP_STRIDE = 512
_CLUSTER_SIZE_MAX = 2 << 20
_RECORD_SIZES = range(512, 65537)
_RUN_COUNT_MAX = 100_000
_IN_USE, _IS_DIRECTORY = 0x01, 0x02
_STANDARD_INFORMATION, _FILE_NAME, _DATA, _EA = 0x10, 0x30, 0x80, 0xE0
_LOGGED_UTILITY_STREAM, _END = 0x100, 0xFFFFFFFF
_ATTRIBUTE_ENCRYPTED = 0x4000
_NAMESPACE_DOS = 2
_NUMBER_MASK = (1 << 48) - 1
_EFS_NAME = "$EFS".encode("utf-16-le")

_RECORD_HEADER = struct.Struct("<4sHHQHHHHII")
_ATTRIBUTE_HEADER = struct.Struct("<IIBBH")
_RESIDENT = struct.Struct("<IH")
_NON_RESIDENT = struct.Struct("<QQH")


@record(size=BOOT_SECTOR_SIZE)
class _BootOnDisk:
    oem_id: bytes = raw(0x03, 8, "OEM ID")
    sector_size: int = u16(0x0B, "Bytes Per Sector")
    cluster_sectors: int = u8(0x0D, "Sectors Per Cluster")
    sector_count: int = u64(0x28, "Total Sectors")
    mft_cluster: int = u64(0x30, "Logical Cluster Number for the File $MFT")
    record_clusters: int = u8(0x40, "Clusters Per File Record Segment")
    serial: int = u64(0x48, "Volume Serial Number")


@dataclass(frozen=True, slots=True, kw_only=True)
class NtfsBoot:
    """What the boot sector says; ``mft_offset`` and the sizes in bytes."""

    size: int
    cluster_size: int
    record_size: int
    mft_offset: int
    serial: int


@dataclass(frozen=True, slots=True)
class Run:
    """``size`` bytes of a file at ``offset`` of the volume; None for a hole."""

    offset: int | None
    size: int


@dataclass(frozen=True, slots=True)
class DataPart:
    """The runs of an unnamed stream from ``start`` bytes into it on."""

    start: int
    runs: tuple[Run, ...]


@dataclass(frozen=True, slots=True)
class FileName:
    """One name of a file, and the number of the directory's record."""

    parent_number: int
    name: str


@dataclass(frozen=True, slots=True, kw_only=True)
class FileRecord:
    """What one record in use holds; ``base_number`` is another's for an extension record."""

    base_number: int
    is_directory: bool
    has_extended_attributes: bool
    is_encrypted: bool
    names: tuple[FileName, ...]
    data: DataPart | None
    data_size: int | None


@dataclass(frozen=True, slots=True, kw_only=True)
class Attribute:
    """One attribute, or a piece of one, as a record has it.

    ``value`` is what lies in the record itself; ``runs`` are where the rest lies, from ``start``
    bytes into it on. ``size`` and ``initialized_size`` are known in the first piece only.
    """

    kind: int
    name: str
    flags: int
    value: bytes | None
    start: int
    runs: tuple[Run, ...]
    size: int
    initialized_size: int


@dataclass(frozen=True, slots=True, kw_only=True)
class RecordAttributes:
    """Everything in a record in use; ``base_number`` is 0 or, in an extension, the file's."""

    base_number: int
    is_directory: bool
    attributes: tuple[Attribute, ...]


def parse_ntfs_boot(data: bytes | memoryview, *, what: str) -> NtfsBoot:
    """The boot sector of the volume ``what``.

    Raises:
        FormatError: not NTFS, or sizes that contradict each other.
    """
    disk = parse_record(_BootOnDisk, data, what=f"{what}: NTFS boot sector")
    if disk.oem_id != _OEM_ID:
        raise FormatError(
            f"{what} is not an NTFS volume: expected {_OEM_ID!r}, got {disk.oem_id!r}",
            hint="make one with mkntfs; a whole disk with partitions is not a volume",
        )
    # Above 0x80 it is a negative power of two, as in later versions of the format.
    sectors = disk.cluster_sectors
    sectors = 1 << (256 - sectors) if sectors > 0x80 and sectors >= 0xF4 else sectors
    cluster_size = disk.sector_size * sectors
    for name, value, limit in (
        ("sector size", disk.sector_size, 4096),
        ("cluster size", cluster_size, _CLUSTER_SIZE_MAX),
    ):
        if not 256 <= value <= limit or value & (value - 1):
            raise FormatError(
                f"{what}: NTFS {name}: expected a power of two up to {limit}, got {value}"
            )
    clusters = disk.record_clusters
    record_size = 1 << (256 - clusters) if clusters > 0x7F else clusters * cluster_size
    size = disk.sector_count * disk.sector_size
    if record_size not in _RECORD_SIZES or record_size & (record_size - 1):
        raise FormatError(
            f"{what}: NTFS file record size: expected a power of two from "
            f"{_RECORD_SIZES.start} to {_RECORD_SIZES.stop - 1}, got {record_size}"
        )
    mft_offset = disk.mft_cluster * cluster_size
    if mft_offset + record_size > size:
        raise FormatError(
            f"{what}: NTFS file table: expected inside the volume's {size} bytes, "
            f"got it at {mft_offset:#x}"
        )
    return NtfsBoot(
        size=size,
        cluster_size=cluster_size,
        record_size=record_size,
        mft_offset=mft_offset,
        serial=disk.serial,
    )


def parse_file_record(data: bytes, boot: NtfsBoot, *, number: int, what: str) -> FileRecord | None:
    """The record ``number``; None when it is not in use.

    Raises:
        FormatError: it is torn, or its parts lie outside it.
    """
    where = f"{what}: NTFS file record {number}"
    magic, fixup_offset, fixup_count, _, _, _, position, flags, used, _ = (
        _RECORD_HEADER.unpack_from(data)
    )
    if magic != _RECORD_MAGIC:
        if magic == b"BAAD":
            raise FormatError(f"{where} is marked as damaged", hint="let chkdsk repair the volume")
        return None
    if not flags & _IN_USE:
        return None
    record_bytes = undo_fixups(data, fixup_offset, fixup_count, where)
    base_number = int.from_bytes(record_bytes[0x20:0x28], "little") & _NUMBER_MASK
    names: list[FileName] = []
    part, data_size = None, None
    has_extended_attributes = is_encrypted = False
    for kind, is_non_resident, name, attribute in iterate_attributes(
        record_bytes, position, used, where
    ):
        if kind == _EA:
            has_extended_attributes = True
        elif kind == _LOGGED_UTILITY_STREAM and name == _EFS_NAME:
            is_encrypted = True
        elif kind == _STANDARD_INFORMATION and not is_non_resident:
            value = _resident_value(attribute, where)
            attributes = int.from_bytes(value[0x20:0x24], "little")
            is_encrypted = is_encrypted or bool(attributes & _ATTRIBUTE_ENCRYPTED)
        elif kind == _FILE_NAME and not is_non_resident:
            names.extend(_parse_file_name(_resident_value(attribute, where)))
        elif kind == _DATA and not name and is_non_resident:
            part, data_size = _parse_data(attribute, boot, where)
    return FileRecord(
        base_number=base_number,
        is_directory=bool(flags & _IS_DIRECTORY),
        has_extended_attributes=has_extended_attributes,
        is_encrypted=is_encrypted,
        names=tuple(names),
        data=part,
        data_size=data_size,
    )


def parse_record_attributes(
    data: bytes, boot: NtfsBoot, *, number: int, what: str
) -> RecordAttributes | None:
    """All attributes of the record ``number``; None when it is not in use.

    Raises:
        FormatError: no record, torn, or its parts lie outside it.
    """
    where = f"{what}: NTFS file record {number}"
    if len(data) < _RECORD_HEADER.size:
        raise FormatError(f"{where}: expected {boot.record_size} bytes, got {len(data)}")
    magic, fixup_offset, fixup_count, _, _, _, position, flags, used, _ = (
        _RECORD_HEADER.unpack_from(data)
    )
    if magic != _RECORD_MAGIC:
        raise FormatError(f"{where}: expected {_RECORD_MAGIC!r}, got {magic!r}")
    if not flags & _IN_USE:
        return None
    record_bytes = undo_fixups(data, fixup_offset, fixup_count, where)
    found: list[Attribute] = []
    for kind, is_non_resident, name, attribute in iterate_attributes(
        record_bytes, position, used, where
    ):
        value: bytes | None = None
        runs: tuple[Run, ...] = ()
        start = size = initialized = 0
        if is_non_resident:
            part, known_size = _parse_data(attribute, boot, where)
            runs, start, size = part.runs, part.start, known_size or 0
            initialized = int.from_bytes(attribute[0x38:0x40], "little")
        else:
            value = _resident_value(attribute, where)
            size = initialized = len(value)
        found.append(
            Attribute(
                kind=kind,
                name=name.decode("utf-16-le", "replace") if name else "",
                flags=int.from_bytes(attribute[0x0C:0x0E], "little"),
                value=value,
                start=start,
                runs=runs,
                size=size,
                initialized_size=initialized,
            )
        )
    return RecordAttributes(
        base_number=int.from_bytes(record_bytes[0x20:0x28], "little") & _NUMBER_MASK,
        is_directory=bool(flags & _IS_DIRECTORY),
        attributes=tuple(found),
    )


def iterate_attributes(
    data: bytes, position: int, used: int, where: str
) -> Iterator[tuple[int, bool, bytes, bytes]]:
    """(type, whether it lies outside the record, UTF-16 name, its bytes) of each attribute.

    Raises:
        FormatError: one goes past the end at ``used``.
    """
    end = min(used, len(data))
    while position + 4 <= end:
        kind = int.from_bytes(data[position : position + 4], "little")
        if kind == _END:
            return
        if position + 24 > end:
            raise FormatError(f"{where}: an attribute at {position:#x} goes past its end at {end}")
        _, length, is_non_resident, name_length, name_offset = _ATTRIBUTE_HEADER.unpack_from(
            data, position
        )
        if length < 24 or position + length > end:
            raise FormatError(
                f"{where}: attribute {kind:#x} at {position:#x}: expected 24 to "
                f"{end - position} bytes, got {length}"
            )
        attribute = data[position : position + length]
        name = attribute[name_offset : name_offset + 2 * name_length] if name_length else b""
        yield kind, bool(is_non_resident), name, attribute
        position += length


def undo_fixups(data: bytes, offset: int, count: int, where: str) -> bytes:
    """The last two bytes of each 512 were swapped for a sequence number, to notice torn writes.

    Raises:
        FormatError: they do not agree.
    """
    if count != len(data) // _FIXUP_STRIDE + 1 or offset + 2 * count > len(data):
        raise FormatError(
            f"{where}: expected {len(data) // _FIXUP_STRIDE + 1} update sequence values inside "
            f"it, got {count} at {offset:#x}"
        )
    fixed = bytearray(data)
    expected = data[offset : offset + 2]
    for index in range(1, count):
        end = index * _FIXUP_STRIDE
        if data[end - 2 : end] != expected:
            raise FormatError(
                f"{where}: torn write in its sector {index - 1}",
                hint="let chkdsk repair the volume",
            )
        fixed[end - 2 : end] = data[offset + 2 * index : offset + 2 * index + 2]
    return bytes(fixed)


def _resident_value(attribute: bytes, where: str) -> bytes:
    size, offset = _RESIDENT.unpack_from(attribute, 0x10)
    if offset + size > len(attribute):
        raise FormatError(f"{where}: a value of {size} bytes goes past its attribute's end")
    return attribute[offset : offset + size]


def _parse_file_name(value: bytes) -> list[FileName]:
    if len(value) < 0x42 or value[0x41] == _NAMESPACE_DOS:
        return []
    parent = int.from_bytes(value[:8], "little") & _NUMBER_MASK
    text = value[0x42 : 0x42 + 2 * value[0x40]].decode("utf-16-le", "replace")
    return [FileName(parent, text)]


def _parse_data(attribute: bytes, boot: NtfsBoot, where: str) -> tuple[DataPart, int | None]:
    if len(attribute) < 0x40:
        raise FormatError(f"{where}: its stream's header has only {len(attribute)} bytes")
    lowest_cluster, _, offset = _NON_RESIDENT.unpack_from(attribute, 0x10)
    size = int.from_bytes(attribute[0x30:0x38], "little") if lowest_cluster == 0 else None
    runs = parse_runs(attribute[offset:], boot, where)
    return DataPart(lowest_cluster * boot.cluster_size, runs), size


def parse_runs(data: bytes, boot: NtfsBoot, where: str) -> tuple[Run, ...]:
    """The runs of an attribute's mapping pairs.

    Raises:
        FormatError: one is outside the volume.
    """
    runs: list[Run] = []
    position, cluster = 0, 0
    while position < len(data) and data[position]:
        length_size, offset_size = data[position] & 0x0F, data[position] >> 4
        middle = position + 1 + length_size
        end = middle + offset_size
        count = int.from_bytes(data[position + 1 : middle], "little")
        cluster += int.from_bytes(data[middle:end], "little", signed=True)
        start = cluster * boot.cluster_size if offset_size else None
        size = count * boot.cluster_size
        if (
            end > len(data)
            or not 0 < size <= boot.size
            or (start is not None and not 0 <= start <= boot.size - size)
            or len(runs) >= _RUN_COUNT_MAX
        ):
            raise FormatError(f"{where}: its stream's runs go outside the volume")
        runs.append(Run(start, size))
        position = end
    return tuple(runs)
