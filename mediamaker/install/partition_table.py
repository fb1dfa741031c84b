# SPDX-License-Identifier: GPL-3.0-or-later
"""The partition table of a disk in use: read without mercy, changed in two entries and no more.

libparted was rejected for the change: it writes a table anew from what it understood, so that the
attributes, names and protective MBR of others go through its hands. Here the sectors are taken as
they are, one entry gets another end, a free one is filled, and the checksums are made again.

References: UEFI 2.10, 5.2 and 5.3; ``formats/gpt.py``, ``formats/mbr.py``.
"""

from __future__ import annotations

import zlib
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Literal
from uuid import UUID

from mediamaker.errors import FormatError, TargetRefusedError
from mediamaker.formats import gpt, mbr
from mediamaker.formats.bcd_devices import GptPartition, MbrPartition, PartitionRef
from mediamaker.formats.record import pack_record, parse_record
from mediamaker.units import format_range

PRead = Callable[[int, int], bytes]

TYPE_RECOVERY = UUID("de94bba4-06d1-4d40-a16a-bfd50179d6ac")
TYPE_CODE_RECOVERY = 0x27
RECOVERY_ATTRIBUTES = 0x8000000000000001
"""Required by the platform, and no drive letter."""

_TYPE_CODES_EXTENDED = frozenset({0x05, 0x0F, 0x85})
_TYPE_CODE_DYNAMIC = 0x42
_ENTRY_OFFSET = 0x1BE
_ENTRY_SIZE = 16
_SIGNATURE_OFFSET = 0x1B8
_ARRAY_SIZE_MAX = 1 << 20


_BYTES_PER_SECTOR = slice(0x0B, 0x0D)
"""Of a BPB, in FAT's boot sector and in NTFS'."""
_SIGNATURE = b"\x55\xaa"


@dataclass(frozen=True, slots=True, kw_only=True)
class TableEntry:
    """A partition; ``number`` counts the slots from 1, ``start`` and ``size`` are bytes."""

    number: int
    start: int
    size: int
    type_guid: UUID | None = None
    unique_guid: UUID | None = None
    type_code: int | None = None
    attributes: int = 0
    partition_name: str = ""
    is_active: bool = False

    @property
    def end(self) -> int:
        """One past the last byte."""
        return self.start + self.size

    @property
    def is_recovery(self) -> bool:
        """Whether its type says that it is for recovery."""
        return self.type_guid == TYPE_RECOVERY or self.type_code == TYPE_CODE_RECOVERY


@dataclass(frozen=True, slots=True, kw_only=True)
class PartitionTable:
    """``usable`` is the range of bytes where partitions may lie; ``problems`` are in words."""

    kind: Literal["gpt", "mbr"]
    sector_size: int
    disk_size: int
    entries: tuple[TableEntry, ...]
    usable: tuple[int, int]
    disk_guid: UUID | None = None
    disk_signature: int = 0
    problems: tuple[str, ...] = ()

    def reference(self, entry: TableEntry) -> PartitionRef:
        """How a boot store names the partition."""
        if self.disk_guid is not None and entry.unique_guid is not None:
            return GptPartition(self.disk_guid, entry.unique_guid)
        return MbrPartition(self.disk_signature, entry.start)

    def find(self, reference: object) -> TableEntry | None:
        """The partition that a boot store names; None when it is not on this disk."""
        return next((item for item in self.entries if self.reference(item) == reference), None)

    def room_behind(self, entry: TableEntry) -> int:
        """Where the free space behind ``entry`` ends."""
        after = [item.start for item in self.entries if item.start >= entry.end]
        return min([*after, self.usable[1]])


def detect_sector_size(pread: PRead, disk_size: int) -> int:
    """The sector size that an image was made for: where its GPT lies, or what its volumes say.

    An MBR counts in sectors without saying how large they are; the boot sector of a FAT or NTFS
    volume is where it should be, and says so, with the right size alone. 512 when nothing tells.
    """
    sizes = (512, 4096)
    for sector_size in sizes:
        if disk_size >= 3 * sector_size and pread(sector_size, 8) == gpt.SIGNATURE:
            return sector_size
    if disk_size < mbr.MBR_SIZE:
        return sizes[0]
    try:
        entries = mbr.parse_mbr(pread(0, mbr.MBR_SIZE)).partitions
    except FormatError:
        return sizes[0]
    for sector_size in sizes:
        for entry in entries:
            start = entry.start_lba * sector_size if entry is not None else disk_size
            if start + mbr.MBR_SIZE > disk_size:
                continue
            head = pread(start, mbr.MBR_SIZE)
            says = int.from_bytes(head[_BYTES_PER_SECTOR], "little")
            if says == sector_size and head[-2:] == _SIGNATURE:
                return sector_size
    return sizes[0]


def read_partition_table(
    pread: PRead, *, disk_size: int, sector_size: int, what: str
) -> PartitionTable:
    """The table of the disk, with what is wrong with it among ``problems``.

    Raises:
        FormatError: no table, or none that can be read.
    """
    try:
        head = mbr.parse_mbr(pread(0, mbr.MBR_SIZE))
    except FormatError as error:
        raise FormatError(
            f"{what}: no partition table: {error.message}",
            hint="name a whole disk, or an image file of one",
        ) from error
    if any(item and item.type_code == mbr.TYPE_GPT_PROTECTIVE for item in head.partitions):
        return _read_gpt(pread, head, disk_size, sector_size, what)
    entries = tuple(
        TableEntry(
            number=number,
            start=item.start_lba * sector_size,
            size=item.sectors * sector_size,
            type_code=item.type_code,
            is_active=item.is_active,
        )
        for number, item in enumerate(head.partitions, 1)
        if item is not None
    )
    if not entries:
        raise FormatError(f"{what}: its partition table is empty")
    problems = [
        f"partition {item.number} goes past the end of the disk"
        for item in entries
        if item.end > disk_size
    ]
    if any(item.type_code == _TYPE_CODE_DYNAMIC for item in entries):
        problems.append("it is a dynamic disk of Windows")
    if pread(sector_size, 8) == gpt.SIGNATURE:
        problems.append("it has a GPT too, which its MBR does not protect")
    end = min(disk_size, (mbr.LBA_MAX + 1) * sector_size) // sector_size * sector_size
    return PartitionTable(
        kind="mbr",
        sector_size=sector_size,
        disk_size=disk_size,
        entries=entries,
        usable=(sector_size, end),
        disk_signature=head.disk_signature,
        problems=tuple(problems),
    )


def check_table(table: PartitionTable, what: str) -> None:
    """The table may be changed.

    Raises:
        TargetRefusedError: it is damaged, or of a kind that we leave alone.
    """
    if table.problems:
        raise TargetRefusedError(
            f"{what}: its partition table is not changed as it is: {'; '.join(table.problems)}",
            hint="look at it with sgdisk -v or gdisk, which can repair a damaged copy",
        )


def edit_table(
    table: PartitionTable,
    pread: PRead,
    *,
    shrunk: TableEntry,
    shrunk_size: int,
    new_start: int,
    new_size: int,
    new_guid: UUID,
    new_name: str,
) -> tuple[int, dict[int, bytes]]:
    """Make ``shrunk`` end at ``shrunk_size`` and add a recovery partition.

    Gives the number of the new one, and whole sectors by their byte offset.

    Raises:
        TargetRefusedError: no free entry.
    """
    sector_size = table.sector_size
    for entry in table.entries:
        end = shrunk.start + shrunk_size if entry.number == shrunk.number else entry.end
        if entry.start < new_start + new_size and new_start < end:
            taken = format_range(entry.start, end)
            raise TargetRefusedError(f"the new partition would overlap {entry.number} {taken}")
    if table.kind == "mbr":
        return _edit_mbr(table, pread, (shrunk, shrunk_size), (new_start, new_size))
    header = gpt.parse_gpt_header(pread(sector_size, sector_size))
    backup = gpt.parse_gpt_header(pread(header.alternate_lba * sector_size, sector_size))
    array_size = header.number_of_entries * header.size_of_entry
    array = bytearray(pread(header.partition_entry_lba * sector_size, array_size))
    at = (shrunk.number - 1) * header.size_of_entry
    old = parse_record(gpt.EntryRecord, memoryview(array)[at:], what="GPT entry")
    last_lba = (shrunk.start + shrunk_size) // sector_size - 1
    array[at : at + gpt.ENTRY_SIZE] = pack_record(replace(old, ending_lba=last_lba))
    used = {entry.number for entry in table.entries}
    free = [number for number in range(1, header.number_of_entries + 1) if number not in used]
    if not free:
        raise TargetRefusedError("its GPT has no free entry")
    # Behind all others, as Windows counts partitions: numbers in scripts stay what they are.
    behind = [number for number in free if number > max(used)]
    number = (behind or free)[0]
    added = gpt.EntryRecord(
        type_guid=TYPE_RECOVERY.bytes_le,
        unique_guid=new_guid.bytes_le,
        starting_lba=new_start // sector_size,
        ending_lba=(new_start + new_size) // sector_size - 1,
        attributes=RECOVERY_ATTRIBUTES,
        name=new_name.encode("utf-16-le").ljust(2 * gpt.NAME_UNITS_MAX, b"\0"),
    )
    at = (number - 1) * header.size_of_entry
    array[at : at + gpt.ENTRY_SIZE] = pack_record(added)
    writes: dict[int, bytes] = {}
    for copy in (backup, header):
        offset = copy.partition_entry_lba * sector_size
        whole = bytearray(pread(offset, -(-array_size // sector_size) * sector_size))
        whole[:array_size] = array
        writes[offset] = bytes(whole)
        own = copy.my_lba * sector_size
        sector = bytearray(pread(own, sector_size))
        blank = replace(copy, array_crc32=zlib.crc32(array), header_crc32=0)
        crc = zlib.crc32(pack_record(blank))
        sector[: gpt.HEADER_SIZE] = pack_record(replace(blank, header_crc32=crc))
        writes[own] = bytes(sector)
    return number, writes


def _edit_mbr(
    table: PartitionTable,
    pread: PRead,
    shrink: tuple[TableEntry, int],
    new: tuple[int, int],
) -> tuple[int, dict[int, bytes]]:
    (shrunk, shrunk_size), (new_start, new_size) = shrink, new
    sector_size = table.sector_size
    used = {entry.number for entry in table.entries}
    free = [number for number in range(1, mbr.ENTRY_COUNT + 1) if number not in used]
    if not free:
        raise no_free_entry()
    number = free[0]
    sector = bytearray(pread(0, sector_size))
    at = _ENTRY_OFFSET + _ENTRY_SIZE * (shrunk.number - 1)
    old = parse_record(mbr.PartitionEntryRecord, memoryview(sector)[at:], what="MBR entry")
    sectors = shrunk_size // sector_size
    if sectors != old.size_in_lba:
        last = old.starting_lba + sectors - 1
        changed = replace(old, size_in_lba=sectors, ending_chs=mbr.pack_chs(last))
        sector[at : at + _ENTRY_SIZE] = pack_record(changed)
    start_lba, new_sectors = new_start // sector_size, new_size // sector_size
    entry = mbr.PartitionEntryRecord(
        boot_indicator=0,
        starting_chs=mbr.pack_chs(start_lba),
        os_type=TYPE_CODE_RECOVERY,
        ending_chs=mbr.pack_chs(start_lba + new_sectors - 1),
        starting_lba=start_lba,
        size_in_lba=new_sectors,
    )
    at = _ENTRY_OFFSET + _ENTRY_SIZE * (number - 1)
    sector[at : at + _ENTRY_SIZE] = pack_record(entry)
    return number, {0: bytes(sector)}


def no_free_entry() -> TargetRefusedError:
    """An MBR with four entries."""
    return TargetRefusedError(
        "its MBR has four primary partitions already: there is no entry for a recovery partition",
        hint="a partition has to go first; or leave WinRE in Windows (reagentc /enable)",
    )


def has_free_entry(table: PartitionTable) -> bool:
    """Whether another partition can be named at all."""
    return table.kind == "gpt" or len(table.entries) < mbr.ENTRY_COUNT


def _read_gpt(
    pread: PRead, head: mbr.Mbr, disk_size: int, sector_size: int, what: str
) -> PartitionTable:
    problems: list[str] = []
    others = [item for item in head.partitions if item and item.type_code != 0xEE]
    if others:
        problems.append("it is a hybrid of GPT and MBR")
    last_lba = disk_size // sector_size - 1
    copies: list[tuple[gpt.HeaderRecord, bytes]] = []
    backup_lba = last_lba
    for name, lba in (("first", 1), ("second", None)):
        try:
            copy = _read_gpt_copy(pread, backup_lba if lba is None else lba, disk_size, sector_size)
        except FormatError as error:
            problems.append(f"its {name} copy is damaged: {error.message}")
            continue
        copies.append(copy)
        if lba == 1 and copy[0].alternate_lba != last_lba:
            problems.append("its second copy is not at the end of the disk")
            backup_lba = min(copy[0].alternate_lba, last_lba)
    if not copies:
        raise FormatError(f"{what}: its GPT can't be read: {'; '.join(problems)}")
    header, array = copies[0]
    if len(copies) == 2 and (copies[1][1] != array or copies[1][0].disk_guid != header.disk_guid):
        problems.append("its two copies differ")
    entries: list[TableEntry] = []
    for index in range(header.number_of_entries):
        at = index * header.size_of_entry
        item = parse_record(gpt.EntryRecord, array[at:], what=f"{what}: GPT entry {index + 1}")
        if item.type_guid == bytes(16):
            continue
        entries.append(
            TableEntry(
                number=index + 1,
                start=item.starting_lba * sector_size,
                size=(item.ending_lba + 1 - item.starting_lba) * sector_size,
                type_guid=UUID(bytes_le=item.type_guid),
                unique_guid=UUID(bytes_le=item.unique_guid),
                attributes=item.attributes,
                partition_name=item.name.decode("utf-16-le", "replace").split("\0", 1)[0],
            )
        )
    usable = (header.first_usable_lba * sector_size, (header.last_usable_lba + 1) * sector_size)
    problems += [
        f"partition {item.number} is not where partitions may be"
        for item in entries
        if not usable[0] <= item.start < item.end <= usable[1] <= disk_size
    ]
    return PartitionTable(
        kind="gpt",
        sector_size=sector_size,
        disk_size=disk_size,
        entries=tuple(entries),
        usable=usable,
        disk_guid=UUID(bytes_le=header.disk_guid),
        disk_signature=head.disk_signature,
        problems=tuple(problems),
    )


def _read_gpt_copy(
    pread: PRead, lba: int, disk_size: int, sector_size: int
) -> tuple[gpt.HeaderRecord, bytes]:
    header = gpt.parse_gpt_header(pread(lba * sector_size, sector_size))
    size = header.number_of_entries * header.size_of_entry
    offset = header.partition_entry_lba * sector_size
    if header.size_of_entry < gpt.ENTRY_SIZE or size > _ARRAY_SIZE_MAX or not size:
        raise FormatError(f"{header.number_of_entries} entries of {header.size_of_entry} bytes")
    if header.my_lba != lba or offset + size > disk_size:
        raise FormatError("its header is of another place")
    array = pread(offset, size)
    if zlib.crc32(array) != header.array_crc32:
        raise FormatError("the entries do not match their CRC")
    return header, array
