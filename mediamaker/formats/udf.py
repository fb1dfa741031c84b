# SPDX-License-Identifier: GPL-3.0-or-later
"""The UDF descriptors that lead from a volume to its root directory.

References: ECMA-167 3rd edition (parts 3 and 4; sections are given as part/section) and
OSTA UDF 1.02. Only what reading needs is parsed; a volume is read-only and in one piece.

A tag's checksum and CRC are checked always: pycdlib and the Linux driver do so too, thus no
image that is in use can have wrong ones. Its location is not: some discs have wrong ones.
"""

from __future__ import annotations

import binascii
import re
from dataclasses import dataclass

from mediamaker.errors import FormatError
from mediamaker.formats.record import parse_record, raw, record, record_size, u8, u16, u32
from mediamaker.formats.utc import epoch_ns

BLOCK_SIZE = 2048
"""Sector and logical block of optical media; an ISO file can have no other."""
ANCHOR_BLOCK = 256

TAG_ANCHOR = 2
TAG_PARTITION = 5
TAG_LOGICAL_VOLUME = 6
TAG_TERMINATOR = 8
TAG_FILE_SET = 256

EXTENT_RECORDED = 0
EXTENT_ALLOCATED = 1
EXTENT_UNALLOCATED = 2
EXTENT_CONTINUED = 3
"""4/14.14.1.1: the descriptors go on in this extent; 1 and 2 read as zeros."""

EXTENT_SIZE_MASK = 0x3FFFFFFF


@record(size=16)
class DescriptorTag:
    """Begins every descriptor (3/7.2, 4/7.2)."""

    identifier: int = u16(0x00, "TagIdentifier")
    checksum: int = u8(0x04, "TagChecksum")
    crc: int = u16(0x08, "DescriptorCRC")
    crc_size: int = u16(0x0A, "DescriptorCRCLength")


@record(size=16)
class LongAllocation:
    """long_ad (4/14.14.2): where an extent lies, or an ICB."""

    size_and_kind: int = u32(0x00, "ExtentLength")
    block: int = u32(0x04, "ExtentLocation.LogicalBlockNumber")
    partition_index: int = u16(0x08, "ExtentLocation.PartitionReferenceNumber")


@record(size=512)
class Anchor:
    """Anchor Volume Descriptor Pointer (3/10.2)."""

    sequence_size: int = u32(0x10, "MainVolumeDescriptorSequenceExtent.Length")
    sequence_block: int = u32(0x14, "MainVolumeDescriptorSequenceExtent.Location")


@record(size=512)
class PartitionDescriptor:
    """Partition Descriptor (3/10.5); blocks count from the volume's start."""

    sequence_number: int = u32(0x10, "VolumeDescriptorSequenceNumber")
    partition_number: int = u16(0x16, "PartitionNumber")
    start_block: int = u32(0xBC, "PartitionStartingLocation")
    block_count: int = u32(0xC0, "PartitionLength")


@record(size=440)
class LogicalVolume:
    """Logical Volume Descriptor (3/10.6) without its partition maps, which follow it."""

    sequence_number: int = u32(0x10, "VolumeDescriptorSequenceNumber")
    volume_identifier: bytes = raw(0x54, 128, "LogicalVolumeIdentifier")
    block_size: int = u32(0xD4, "LogicalBlockSize")
    file_set: bytes = raw(0xF8, 16, "LogicalVolumeContentsUse")
    map_table_size: int = u32(0x108, "MapTableLength")
    map_count: int = u32(0x10C, "NumberOfPartitionMaps")


@record(size=512)
class FileSet:
    """File Set Descriptor (4/14.1)."""

    root_directory: bytes = raw(0x190, 16, "RootDirectoryICB")


@record(size=12)
class _Timestamp:
    """timestamp (1/7.3)."""

    type_and_zone: int = u16(0x00, "TypeAndTimezone")
    year: int = u16(0x02, "Year")
    month: int = u8(0x04, "Month")
    day: int = u8(0x05, "Day")
    hour: int = u8(0x06, "Hour")
    minute: int = u8(0x07, "Minute")
    second: int = u8(0x08, "Second")
    centiseconds: int = u8(0x09, "Centiseconds")
    hundreds_of_microseconds: int = u8(0x0A, "HundredsofMicroseconds")
    microseconds: int = u8(0x0B, "Microseconds")


@dataclass(frozen=True, slots=True)
class Allocation:
    """``size`` bytes from ``block`` of a partition on; ``kind`` is an ``EXTENT_*``."""

    kind: int
    size: int
    block: int
    partition_index: int


def parse_tag(data: bytes | memoryview, *, what: str) -> int:
    """The tag identifier of a descriptor, its checksum and CRC checked.

    Raises:
        FormatError: they are wrong, or ``data`` ends too early.
    """
    tag = parse_record(DescriptorTag, data, what=what)
    head = bytes(data[: record_size(DescriptorTag)])
    checksum = (sum(head) - head[4]) & 0xFF
    if checksum != tag.checksum:
        raise FormatError(
            f"{what}: UDF tag checksum: expected {checksum:#04x}, got {tag.checksum:#04x}"
        )
    covered = data[len(head) : len(head) + tag.crc_size]
    if len(covered) != tag.crc_size:
        raise FormatError(
            f"{what}: UDF tag says {tag.crc_size} bytes follow, but there are {len(covered)}"
        )
    crc = binascii.crc_hqx(covered, 0)
    if crc != tag.crc:
        raise FormatError(f"{what}: UDF tag CRC: expected {crc:#06x}, got {tag.crc:#06x}")
    return tag.identifier


def check_tag(data: bytes | memoryview, expected: int, *, what: str) -> None:
    """As :func:`parse_tag`, and it must be the ``expected`` one.

    Raises:
        FormatError: it is not.
    """
    got = parse_tag(data, what=what)
    if got != expected:
        raise FormatError(f"{what}: UDF tag: expected {expected}, got {got}")


def parse_partition_maps(data: bytes, *, what: str) -> tuple[int, ...]:
    """The partition numbers of a Logical Volume Descriptor's maps, in their order (3/10.7).

    Raises:
        FormatError: a map that is not of type 1 (virtual, sparable and metadata partitions
            are for rewritable discs and Blu-ray), or that does not fit.
    """
    volume = parse_record(LogicalVolume, data, what=what)
    start = record_size(LogicalVolume)
    table = data[start : start + volume.map_table_size]
    numbers: list[int] = []
    for index in range(volume.map_count):
        if len(table) < 2 or table[1] < 6 or table[1] > len(table):
            raise FormatError(f"{what}: partition map {index} does not fit its table")
        if table[0] != 1:
            raise FormatError(
                f"{what}: partition map {index}: expected type 1 (a plain partition), "
                f"got type {table[0]}",
                hint="mount the image and give the mounted folder as the source",
            )
        numbers.append(int.from_bytes(table[4:6], "little"))
        table = table[table[1] :]
    if not numbers:
        raise FormatError(f"{what}: it has no partition map")
    return tuple(numbers)


def parse_long_allocation(data: bytes) -> Allocation:
    """One long_ad of 16 bytes."""
    item = parse_record(LongAllocation, data, what="long_ad")
    return Allocation(
        kind=item.size_and_kind >> 30,
        size=item.size_and_kind & EXTENT_SIZE_MASK,
        block=item.block,
        partition_index=item.partition_index,
    )


def parse_name(data: bytes, *, what: str) -> str:
    """d-characters in OSTA compressed Unicode (UDF 1.02, 2.1.1): 8 or 16 bits each.

    Raises:
        FormatError: neither, or half a character.
    """
    if not data:
        return ""
    if data[0] == 8:
        return data[1:].decode("latin-1")
    if data[0] == 16:
        try:
            return data[1:].decode("utf-16-be")
        except UnicodeDecodeError as error:
            raise FormatError(f"{what}: the name {data[1:]!r} is not UTF-16") from error
    raise FormatError(f"{what}: expected a name of 8 or 16 bits a character, got {data[0]}")


def parse_label(data: bytes, *, what: str) -> str:
    """A dstring (1/7.2.12): the last byte says how many are in use."""
    return parse_name(data[: min(data[-1], len(data) - 1)], what=what).rstrip("\0 ")


def parse_timestamp(data: bytes) -> int | None:
    """UTC nanoseconds since the epoch; None for a date that does not exist.

    A zone of -2047 stands for none given; UTC is meant then as well as anything else.
    """
    stamp = parse_record(_Timestamp, data, what="timestamp")
    zone = stamp.type_and_zone & 0xFFF
    minutes = zone - 0x1000 if zone & 0x800 else zone
    micros = stamp.centiseconds * 10_000 + stamp.hundreds_of_microseconds * 100
    micros += stamp.microseconds
    date = (stamp.year, stamp.month, stamp.day, stamp.hour, stamp.minute, stamp.second)
    minutes = minutes if abs(minutes) <= 1440 else 0
    return epoch_ns(date, zone_minutes=minutes, microseconds=micros)


def is_udf(descriptors: bytes) -> bool:
    """Whether the volume recognition sequence (2/8.3, from block 16 on) announces UDF."""
    for start in range(0, len(descriptors), BLOCK_SIZE):
        identifier = descriptors[start + 1 : start + 6]
        if identifier in {b"NSR02", b"NSR03"}:
            return True
        if not re.fullmatch(rb"CD001|CDW02|BEA01|BOOT2|TEA01", identifier):
            return False
    return False
