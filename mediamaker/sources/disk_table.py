# SPDX-License-Identifier: GPL-3.0-or-later
"""The partitions of a disk that is only looked at: GPT (either copy) or MBR with logical ones."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal
from uuid import UUID

from mediamaker.errors import FormatError
from mediamaker.formats import gpt, mbr
from mediamaker.sources.file_map import PRead

_SECTOR_SIZES = (512, 4096)
_EXTENDED = frozenset({0x05, 0x0F, 0x85})
_LOGICAL_COUNT_MAX = 64


@dataclass(frozen=True, slots=True, kw_only=True)
class DiskPartition:
    """``start`` and ``size`` are bytes; ``number`` as Linux counts, 0 is the disk itself."""

    number: int
    start: int
    size: int
    unique_guid: UUID | None = None
    type_name: str = ""
    is_active: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class DiskTable:
    """``structures`` are (name, start, size) of the table itself."""

    kind: Literal["gpt", "mbr", "none"]
    partitions: tuple[DiskPartition, ...]
    disk_guid: UUID | None = None
    disk_signature: int | None = None
    has_boot_code: bool = False
    structures: tuple[tuple[str, int, int], ...] = ()


def read_disk_table(pread: PRead, disk_size: int, *, sector_size: int = 512) -> DiskTable:
    """What is there; a disk without a table has none, and that is no error.

    A GPT shows what sectors it was made for; an MBR does not, and is taken by ``sector_size``.
    """
    if disk_size < mbr.MBR_SIZE:
        return DiskTable(kind="none", partitions=())
    try:
        head = mbr.parse_mbr(pread(0, mbr.MBR_SIZE))
    except FormatError:
        head = None
    if head is not None and any(
        item is not None and item.type_code == mbr.TYPE_GPT_PROTECTIVE for item in head.partitions
    ):
        for tried in _SECTOR_SIZES:
            for header_offset in (tried, disk_size - tried):
                table = _read_gpt(pread, disk_size, tried, header_offset, head)
                if table is not None:
                    return table
    if head is None:
        return DiskTable(kind="none", partitions=())
    return _read_mbr(pread, disk_size, head, sector_size)


def _read_gpt(
    pread: PRead, disk_size: int, sector_size: int, header_offset: int, head: mbr.Mbr
) -> DiskTable | None:
    if not sector_size <= header_offset <= disk_size - sector_size:
        return None
    try:
        header = gpt.parse_gpt_header(pread(header_offset, sector_size))
        array_offset = header.partition_entry_lba * sector_size
        array_size = min(header.number_of_entries, gpt.ENTRY_COUNT) * gpt.ENTRY_SIZE
        if array_offset + array_size > disk_size:
            return None
        found = gpt.parse_gpt_entries(header, pread(array_offset, array_size))
    except FormatError:
        return None
    partitions = tuple(
        DiskPartition(
            number=number,
            start=item.first_lba * sector_size,
            size=(item.last_lba + 1 - item.first_lba) * sector_size,
            unique_guid=item.unique_guid,
            type_name=str(item.type_guid),
        )
        for number, item in enumerate(found.partitions, 1)
        if item.first_lba <= item.last_lba and (item.last_lba + 1) * sector_size <= disk_size
    )
    return DiskTable(
        kind="gpt",
        partitions=partitions,
        disk_guid=found.disk_guid,
        disk_signature=head.disk_signature,
        has_boot_code=any(head.boot_code),
        structures=(
            ("protective MBR", 0, sector_size),
            ("GPT header", sector_size, sector_size),
            ("GPT entries", 2 * sector_size, gpt.ENTRY_COUNT * gpt.ENTRY_SIZE),
            ("backup GPT", disk_size - (gpt.array_sectors(sector_size) + 1) * sector_size,
             (gpt.array_sectors(sector_size) + 1) * sector_size),
        ),
    )  # fmt: skip


def _read_mbr(pread: PRead, disk_size: int, head: mbr.Mbr, sector_size: int) -> DiskTable:
    partitions: list[DiskPartition] = []
    structures = [("MBR", 0, mbr.MBR_SIZE)]
    for number, item in enumerate(head.partitions, 1):
        if item is None or not item.sectors:
            continue
        start, size = item.start_lba * sector_size, item.sectors * sector_size
        if start >= disk_size:
            continue
        if item.type_code in _EXTENDED:
            partitions += _read_logical(pread, disk_size, start, sector_size)
            continue
        partitions.append(
            DiskPartition(
                number=number,
                start=start,
                size=min(size, disk_size - start),
                type_name=f"{item.type_code:#04x}",
                is_active=item.is_active,
            )
        )
    return DiskTable(
        kind="mbr" if partitions else "none",
        partitions=tuple(partitions),
        disk_signature=head.disk_signature,
        has_boot_code=any(head.boot_code),
        structures=tuple(structures),
    )


def _read_logical(pread: PRead, disk_size: int, base: int, sector_size: int) -> list[DiskPartition]:
    """The chain of extended boot records: each has a partition and the way to the next one."""
    found: list[DiskPartition] = []
    place = base
    for _ in range(_LOGICAL_COUNT_MAX):
        if place + mbr.MBR_SIZE > disk_size:
            break
        try:
            record = mbr.parse_mbr(pread(place, mbr.MBR_SIZE))
        except FormatError:
            break
        link = None
        for item in record.partitions[:2]:
            if item is None:
                continue
            if item.type_code in _EXTENDED:
                link = base + item.start_lba * sector_size
            elif item.sectors:
                start = place + item.start_lba * sector_size
                size = min(item.sectors * sector_size, disk_size - start)
                if size > 0:
                    found.append(
                        DiskPartition(
                            number=5 + len(found),
                            start=start,
                            size=size,
                            type_name=f"{item.type_code:#04x}",
                        )
                    )
        if link is None or link <= place:
            break
        place = link
    return found
