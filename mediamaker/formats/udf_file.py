# SPDX-License-Identifier: GPL-3.0-or-later
"""The UDF descriptors that lead from a directory to the bytes of its files.

References: ECMA-167 3rd edition part 4 (sections are given as part/section), OSTA UDF 1.02.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

from mediamaker.errors import FormatError
from mediamaker.formats.record import parse_record, raw, record, record_size, u8, u16, u32, u64
from mediamaker.formats.udf import (
    EXTENT_SIZE_MASK,
    Allocation,
    LongAllocation,
    check_tag,
    parse_long_allocation,
    parse_name,
    parse_tag,
    parse_timestamp,
)

TAG_FILE_IDENTIFIER = 257
TAG_ALLOCATION_EXTENT = 258
TAG_FILE_ENTRY = 261
TAG_EXTENDED_FILE_ENTRY = 266

FILE_TYPE_UNSPECIFIED = 0
FILE_TYPE_DIRECTORY = 4
FILE_TYPE_REGULAR = 5
FILE_TYPE_SYMLINK = 12

_SHORT_AD, _LONG_AD, _EMBEDDED = 0, 1, 3


@record(size=8)
class ShortAllocation:
    """short_ad (4/14.14.1): an extent in the partition of its own descriptor."""

    size_and_kind: int = u32(0x00, "ExtentLength")
    block: int = u32(0x04, "ExtentPosition")


@record(size=176)
class _FileEntry:
    """File Entry (4/14.9) up to its extended attributes."""

    strategy: int = u16(0x14, "ICBTag.StrategyType")
    file_type: int = u8(0x1B, "ICBTag.FileType")
    flags: int = u16(0x22, "ICBTag.Flags")
    information_size: int = u64(0x38, "InformationLength")
    modification_time: bytes = raw(0x54, 12, "ModificationDateAndTime")
    attributes_size: int = u32(0xA8, "LengthOfExtendedAttributes")
    allocations_size: int = u32(0xAC, "LengthOfAllocationDescriptors")


@record(size=216)
class _ExtendedFileEntry:
    """Extended File Entry (4/14.17) up to its extended attributes."""

    strategy: int = u16(0x14, "ICBTag.StrategyType")
    file_type: int = u8(0x1B, "ICBTag.FileType")
    flags: int = u16(0x22, "ICBTag.Flags")
    information_size: int = u64(0x38, "InformationLength")
    modification_time: bytes = raw(0x5C, 12, "ModificationDateAndTime")
    attributes_size: int = u32(0xD0, "LengthOfExtendedAttributes")
    allocations_size: int = u32(0xD4, "LengthOfAllocationDescriptors")


@record(size=24)
class _AllocationExtent:
    """Allocation Extent Descriptor (4/14.5); the descriptors follow."""

    allocations_size: int = u32(0x14, "LengthOfAllocationDescriptors")


@record(size=38)
class _FileIdentifier:
    """File Identifier Descriptor (4/14.4) up to its implementation use."""

    characteristics: int = u8(0x12, "FileCharacteristics")
    identifier_size: int = u8(0x13, "LengthOfFileIdentifier")
    icb: bytes = raw(0x14, 16, "ICB")
    implementation_size: int = u16(0x24, "LengthOfImplementationUse")


@dataclass(frozen=True, slots=True)
class FileEntry:
    """A file or directory; its content is ``embedded`` or in ``allocations``."""

    file_type: int
    size: int
    modified_ns: int | None
    embedded: tuple[int, int] | None
    """Offset in the descriptor's own block, and size."""
    allocations: tuple[Allocation, ...]
    has_long_allocations: bool


@dataclass(frozen=True, slots=True)
class FileIdentifier:
    """A name in a directory and where its File Entry lies."""

    name: str
    is_dir: bool
    is_deleted: bool
    is_parent: bool
    icb: Allocation


def parse_file_entry(block: bytes, *, partition_index: int, what: str) -> FileEntry:
    """A File Entry or Extended File Entry from its logical block.

    Raises:
        FormatError: it is neither, uses ICB strategy 4096, or its parts don't fit the block.
    """
    identifier = parse_tag(block, what=what)
    record_type: Any
    if identifier == TAG_FILE_ENTRY:
        record_type = _FileEntry
    elif identifier == TAG_EXTENDED_FILE_ENTRY:
        record_type = _ExtendedFileEntry
    else:
        raise FormatError(
            f"{what}: UDF tag: expected {TAG_FILE_ENTRY} or {TAG_EXTENDED_FILE_ENTRY} "
            f"(a file entry), got {identifier}"
        )
    head = parse_record(record_type, block, what=what)
    if head.strategy != 4:
        raise FormatError(f"{what}: ICB strategy: expected 4, got {head.strategy}")
    start = record_size(record_type) + head.attributes_size
    end = start + head.allocations_size
    if end > len(block):
        raise FormatError(
            f"{what}: its allocation descriptors end at {end:#x}, "
            f"past the end of their block at {len(block):#x}"
        )
    kind = head.flags & 7
    embedded = None
    allocations: tuple[Allocation, ...] = ()
    if kind == _EMBEDDED:
        if head.information_size > head.allocations_size:
            raise FormatError(
                f"{what}: expected {head.information_size} embedded bytes, "
                f"got {head.allocations_size}"
            )
        embedded = (start, head.information_size)
    elif kind in {_SHORT_AD, _LONG_AD}:
        allocations = _parse_allocations(
            block[start:end], is_long=kind == _LONG_AD, partition_index=partition_index
        )
    else:
        raise FormatError(f"{what}: allocation descriptors of an unknown kind {kind}")
    return FileEntry(
        file_type=head.file_type,
        size=head.information_size,
        modified_ns=parse_timestamp(head.modification_time),
        embedded=embedded,
        allocations=allocations,
        has_long_allocations=kind == _LONG_AD,
    )


def parse_allocation_extent(
    block: bytes, *, has_long_allocations: bool, partition_index: int, what: str
) -> tuple[Allocation, ...]:
    """The descriptors that an extent of kind ``EXTENT_CONTINUED`` holds (4/14.5).

    Raises:
        FormatError: it is none, or they go past its end.
    """
    check_tag(block, TAG_ALLOCATION_EXTENT, what=what)
    size = parse_record(_AllocationExtent, block, what=what).allocations_size
    start = record_size(_AllocationExtent)
    if start + size > len(block):
        raise FormatError(f"{what}: {size} bytes of descriptors don't fit a block")
    return _parse_allocations(
        block[start : start + size], is_long=has_long_allocations, partition_index=partition_index
    )


def parse_directory(data: bytes, *, what: str) -> Iterator[FileIdentifier]:
    """The names of a directory, the deleted ones and the one of the parent included.

    Raises:
        FormatError: a descriptor is damaged or goes past the directory's end.
    """
    view = memoryview(data)
    offset = 0
    while offset < len(view):
        where = f"{what}: directory entry at {offset:#x}"
        rest = view[offset:]
        check_tag(rest, TAG_FILE_IDENTIFIER, what=where)
        head = parse_record(_FileIdentifier, rest, what=where)
        start = record_size(_FileIdentifier) + head.implementation_size
        end = start + head.identifier_size
        if end > len(rest):
            raise FormatError(f"{where}: it goes past the end of the directory")
        is_parent = bool(head.characteristics & 0x08)
        is_deleted = bool(head.characteristics & 0x04)
        keeps_name = not (is_parent or is_deleted)
        yield FileIdentifier(
            name=parse_name(bytes(rest[start:end]), what=where) if keeps_name else "",
            is_dir=bool(head.characteristics & 0x02),
            is_deleted=is_deleted,
            is_parent=is_parent,
            icb=parse_long_allocation(head.icb),
        )
        offset += (end + 3) // 4 * 4


def _parse_allocations(
    data: bytes, *, is_long: bool, partition_index: int
) -> tuple[Allocation, ...]:
    """Descriptors up to the first that has no size, which ends them (4/12.1)."""
    step = record_size(LongAllocation if is_long else ShortAllocation)
    found: list[Allocation] = []
    for start in range(0, len(data) - step + 1, step):
        piece = data[start : start + step]
        if is_long:
            item = parse_long_allocation(piece)
        else:
            short = parse_record(ShortAllocation, piece, what="short_ad")
            item = Allocation(
                kind=short.size_and_kind >> 30,
                size=short.size_and_kind & EXTENT_SIZE_MASK,
                block=short.block,
                partition_index=partition_index,
            )
        if item.size == 0:
            break
        found.append(item)
    return tuple(found)
