# SPDX-License-Identifier: GPL-3.0-or-later
"""An ISO file: its tree in byte ranges, its El Torito boot entries, and whether it is a hybrid.

The tree is the richest one there is: UDF, then Joliet, then Rock Ridge, then plain ISO 9660.

References: ECMA-119 8.4 (Primary Volume Descriptor), ECMA-167 2/8.3 (volume recognition).
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from mediamaker.errors import FormatError
from mediamaker.formats.mbr import MBR_SIZE, Mbr, parse_mbr
from mediamaker.formats.record import parse_record, raw, record, u8, u16, u32
from mediamaker.formats.udf import is_udf
from mediamaker.sources.identity import SourceFile, identify
from mediamaker.sources.iso9660 import (
    SECTOR_SIZE,
    SYSTEM_AREA_SIZE,
    BootEntry,
    Iso9660Volume,
    read_iso9660,
)
from mediamaker.sources.reader import SourceReader
from mediamaker.sources.tree import SourceTree, build_source_tree
from mediamaker.sources.udf import read_udf
from mediamaker.units import format_size

ISO_SOURCE_ID = "iso"

_DESCRIPTORS_SIZE = 64 * SECTOR_SIZE
_SECTOR_SIZE_MBR = 512
_TYPE_EFI_SYSTEM = 0xEF
_TYPE_GPT_PROTECTIVE = 0xEE
_OTHER_FORMATS = (
    (0, b"MSWIM\0\0\0", "a WIM file; give the ISO or the folder that it came in"),
    (0, b"PK\x03\x04", "a ZIP archive; unpack it and give what is inside"),
    (0, b"7z\xbc\xaf\x27\x1c", "a 7-Zip archive; unpack it and give what is inside"),
    (0, b"\x1f\x8b", "compressed with gzip; unpack it first (gunzip)"),
    (0, b"\xfd7zXZ\0", "compressed with xz; unpack it first (unxz)"),
    (0, b"\x28\xb5\x2f\xfd", "compressed with zstd; unpack it first (unzstd)"),
    (0, b"BZh", "compressed with bzip2; unpack it first (bunzip2)"),
    (0, b"<", "a web page; the download went wrong"),
    (0x200, b"EFI PART", "a disk image with a GPT, not an ISO"),
)


@record(size=SECTOR_SIZE)
class _PrimaryVolume:
    """Primary Volume Descriptor (ECMA-119 8.4)."""

    kind: int = u8(0x00, "VolumeDescriptorType")
    identifier: bytes = raw(0x01, 5, "StandardIdentifier")
    volume_identifier: bytes = raw(0x28, 32, "VolumeIdentifier")
    block_count: int = u32(0x50, "VolumeSpaceSize")
    block_size: int = u16(0x80, "LogicalBlockSize")


@dataclass(frozen=True, slots=True)
class IsoSource:
    """An opened ISO; ``notes`` tells what of it is not in the tree, and why."""

    file: SourceFile
    tree: SourceTree
    boot: tuple[BootEntry, ...]
    is_hybrid: bool
    system_area: bytes
    volume_label: str
    notes: tuple[str, ...]


def open_iso(path: Path) -> IsoSource:
    """Read an ISO file's structure; the file is closed again on return.

    Raises:
        SourceError: it can't be read.
        FormatError: it is no ISO, is truncated or damaged; the message says where.
    """
    file = identify(ISO_SOURCE_ID, path)
    with SourceReader([file]) as reader:
        size = min(file.size, SYSTEM_AREA_SIZE + _DESCRIPTORS_SIZE)
        head = reader.pread(file.source_id, 0, size)
        descriptors = head[SYSTEM_AREA_SIZE:]
        has_udf = is_udf(descriptors)
        primary = _parse_primary(descriptors)
        if primary is None and not has_udf:
            raise _not_an_iso(file, head)
        if primary is not None:
            _check_complete(file, primary)
        label = _decode_label(primary)
        notes: tuple[str, ...] = ()
        if has_udf:
            udf = read_udf(file, reader)
            tree = build_source_tree("udf", udf.label or label, udf.entries, [file], what=file.path)
            boot, boot_notes = _read_boot(file, reader) if primary is not None else ((), ())
            notes = udf.notes + boot_notes
        else:
            volume = read_iso9660(file, reader, with_files=True)
            tree = _build_tree(file, volume, label)
            boot, notes = volume.boot, volume.notes
        reader.check_all()
    system_area = head[:SYSTEM_AREA_SIZE]
    return IsoSource(
        file=file,
        tree=tree,
        boot=boot,
        is_hybrid=is_hybrid_system_area(system_area, file.size),
        system_area=system_area,
        volume_label=tree.label,
        notes=notes,
    )


def is_hybrid_system_area(system_area: bytes, size: int) -> bool:
    """Whether the image of ``size`` bytes is made to be copied to a disk as it is.

    It has an MBR with a partition that begins inside it, and something to boot from there: code
    for BIOS, or an EFI system partition or GPT for UEFI (arm64 images have no boot code).
    """
    mbr = _hybrid_mbr(system_area)
    if mbr is None:
        return False
    used = [
        partition
        for partition in mbr.partitions
        if partition is not None
        and partition.sectors > 0
        and partition.start_lba * _SECTOR_SIZE_MBR < size
    ]
    is_for_uefi = any(
        partition.type_code == _TYPE_EFI_SYSTEM
        or (
            partition.type_code == _TYPE_GPT_PROTECTIVE
            and system_area[_SECTOR_SIZE_MBR:].startswith(b"EFI PART")
        )
        for partition in used
    )
    return bool(used) and (any(mbr.boot_code) or is_for_uefi)


def _hybrid_mbr(system_area: bytes) -> Mbr | None:
    try:
        return parse_mbr(system_area[:MBR_SIZE])
    except FormatError:
        return None


def _parse_primary(descriptors: bytes) -> _PrimaryVolume | None:
    if len(descriptors) < SECTOR_SIZE:
        return None
    primary = parse_record(_PrimaryVolume, descriptors, what="primary volume descriptor")
    return primary if (primary.kind, primary.identifier) == (1, b"CD001") else None


def _decode_label(primary: _PrimaryVolume | None) -> str:
    if primary is None:
        return ""
    return primary.volume_identifier.decode("latin-1").rstrip("\0 ")


def _check_complete(file: SourceFile, primary: _PrimaryVolume) -> None:
    expected = primary.block_count * primary.block_size
    if expected > file.size:
        missing = expected - file.size
        raise FormatError(
            f"{file.path}: truncated: its volume descriptor says {expected} bytes, the file has "
            f"{file.size}: {missing} bytes ({format_size(missing)}) are missing",
            hint="download or copy the image again",
        )


def _not_an_iso(file: SourceFile, head: bytes) -> FormatError:
    what = next(
        (text for at, magic, text in _OTHER_FORMATS if head[at : at + len(magic)] == magic), None
    )
    hint = f"it looks like {what}" if what else "give an ISO file or a folder with its files"
    if file.size < SYSTEM_AREA_SIZE + SECTOR_SIZE:
        got = f"a file of {file.size} bytes"
    else:
        got = repr(head[SYSTEM_AREA_SIZE + 1 : SYSTEM_AREA_SIZE + 6])
    return FormatError(
        f"{file.path}: not an ISO: expected b'CD001' at {SYSTEM_AREA_SIZE + 1:#x}, got {got}",
        hint=hint,
    )


def _build_tree(file: SourceFile, volume: Iso9660Volume, label: str) -> SourceTree:
    return build_source_tree(volume.format, label, volume.entries, [file], what=file.path)


def _read_boot(
    file: SourceFile, reader: SourceReader
) -> tuple[tuple[BootEntry, ...], tuple[str, ...]]:
    """The boot entries of a UDF image; its files don't need the ISO 9660 side to be whole."""
    try:
        return read_iso9660(file, reader, with_files=False).boot, ()
    except FormatError as error:
        return (), (f"its El Torito boot entries can't be read: {error.message}",)
