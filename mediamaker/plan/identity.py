# SPDX-License-Identifier: GPL-3.0-or-later
"""The identities that a plan gives a disk: from a seed, or taken back from a disk.

Everything random about a disk is here, so that one seed gives equal bytes, and so that
``verify`` without the seed can plan the same disk again from what the target itself says.
For that, anything else that must be unique (the GUID of a split WIM) is derived from these.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from dataclasses import dataclass
from uuid import UUID

from mediamaker.errors import FormatError, VerifyError
from mediamaker.formats.gpt import ENTRY_COUNT, ENTRY_SIZE, parse_gpt_entries, parse_gpt_header
from mediamaker.formats.mbr import (
    MBR_SIZE,
    TYPE_EXFAT,
    TYPE_FAT32_LBA,
    TYPE_GPT_PROTECTIVE,
    Mbr,
    parse_mbr,
)

_FAT32_SERIAL_OFFSET = 0x43
"""BS_VolID of a FAT32 VBR (Microsoft FAT specification 1.03, page 12)."""

ReadAt = Callable[[int, int], bytes]
"""``read(offset, size)`` over a whole disk."""


@dataclass(frozen=True, slots=True)
class Identities:
    """What tells this disk from any other."""

    disk_signature: int
    volume_serial: int
    disk_guid: UUID
    partition_guid: UUID

    def derive_guid(self, purpose: str, salt: bytes = b"") -> bytes:
        """16 bytes that depend on the volume serial, ``purpose`` and ``salt`` alone."""
        serial = self.volume_serial.to_bytes(4, "little")
        return _uuid4_bytes(_digest(b"derive", purpose.encode(), serial, salt)).bytes_le

    def derive_volume_serial(self, purpose: str) -> int:
        """The serial of another volume of the disk, from the first volume's and ``purpose``."""
        derived = self.derive_guid(f"volume serial of {purpose}")
        return int.from_bytes(derived[:4], "little") or 1

    def to_json(self) -> dict[str, str]:
        """The form that people and JSON see."""
        return {
            "disk_signature": f"{self.disk_signature:08x}",
            "volume_serial": f"{self.volume_serial >> 16:04X}-{self.volume_serial & 0xFFFF:04X}",
            "disk_guid": str(self.disk_guid),
            "partition_guid": str(self.partition_guid),
        }


def identities_from_seed(seed: str) -> Identities:
    """The identities that ``seed`` stands for; the same each time."""
    # An argument may hold bytes that are no UTF-8; they come in as lone surrogates.
    text = seed.encode(errors="surrogatepass")
    return Identities(
        disk_signature=int.from_bytes(_digest(b"disk signature", text)[:4], "little") or 1,
        volume_serial=int.from_bytes(_digest(b"volume serial", text)[:4], "little") or 1,
        disk_guid=_uuid4_bytes(_digest(b"disk GUID", text)),
        partition_guid=_uuid4_bytes(_digest(b"partition GUID", text)),
    )


def read_identities(read: ReadAt, sector_size: int) -> tuple[str, Identities]:
    """The layout's name and the identities of a disk that mediamaker made.

    Raises:
        VerifyError: the disk holds no partition table of ours; says what was found.
    """
    try:
        mbr = parse_mbr(read(0, MBR_SIZE))
        first = mbr.partitions[0]
        if first is not None and first.type_code == TYPE_GPT_PROTECTIVE:
            return "gpt-fat32", _read_gpt(read, sector_size)
        second = mbr.partitions[1]
        is_two = (
            first is not None
            and second is not None
            and (first.type_code, second.type_code) == (TYPE_FAT32_LBA, TYPE_EXFAT)
        )
        name = "mbr-fat32-exfat" if is_two else "mbr-fat32"
        return name, _read_mbr(read, mbr, sector_size)
    except FormatError as error:
        raise VerifyError(
            f"the target holds no disk that could be compared: {error}",
            hint="give --seed or --plan if it was made with one; else write it again",
        ) from error


def _read_mbr(read: ReadAt, mbr: Mbr, sector_size: int) -> Identities:
    first = mbr.partitions[0]
    if first is None:
        raise FormatError("MBR: expected a first partition, got an empty entry")
    placeholder = identities_from_seed("")
    return Identities(
        disk_signature=mbr.disk_signature,
        volume_serial=_read_volume_serial(read, first.start_lba * sector_size),
        disk_guid=placeholder.disk_guid,
        partition_guid=placeholder.partition_guid,
    )


def _read_gpt(read: ReadAt, sector_size: int) -> Identities:
    header = parse_gpt_header(read(sector_size, sector_size))
    gpt = parse_gpt_entries(header, read(2 * sector_size, ENTRY_COUNT * ENTRY_SIZE))
    if not gpt.partitions:
        raise FormatError("GPT: expected a partition, got an empty table")
    partition = gpt.partitions[0]
    return Identities(
        disk_signature=identities_from_seed("").disk_signature,
        volume_serial=_read_volume_serial(read, partition.first_lba * sector_size),
        disk_guid=gpt.disk_guid,
        partition_guid=partition.unique_guid,
    )


def _read_volume_serial(read: ReadAt, volume_offset: int) -> int:
    field = read(volume_offset + _FAT32_SERIAL_OFFSET, 4)
    if len(field) != 4:
        raise FormatError(f"the volume at {volume_offset:#x} lies past the end of the target")
    return int.from_bytes(field, "little")


def _digest(*parts: bytes) -> bytes:
    joined = b"".join(len(part).to_bytes(4, "little") + part for part in parts)
    return hashlib.sha256(b"mediamaker identity 1" + joined).digest()


def _uuid4_bytes(digest: bytes) -> UUID:
    return UUID(bytes=digest[:16], version=4)
