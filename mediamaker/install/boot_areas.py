# SPDX-License-Identifier: GPL-3.0-or-later
"""The places of a disk where boot code lies: found, changed with everything else kept, put back.

A target is a disk (a device or image file with a partition table), a partition's device, or an
image of one volume. Only code and the field that says where the partition starts are ever
changed; what is written was read before, is flushed, and is read back.
"""

from __future__ import annotations

import mmap
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from mediamaker.devices.target import BlockTarget, is_block_device
from mediamaker.errors import FormatError, TargetIOError, TargetRefusedError, VerifyError
from mediamaker.formats.boot_sectors import (
    VBR_SIZE,
    BootCodeIdentity,
    FileSystem,
    OurBootCode,
    find_file_system,
    identify_mbr,
    identify_vbr,
    install_boot,
    measure_boot_area,
    read_start_lba,
)
from mediamaker.formats.mbr import BOOT_CODE_SIZE_MAX, MBR_SIZE
from mediamaker.install.disk_file import ChangeableDisk, ImageFile, open_disk
from mediamaker.install.partition_table import (
    TableEntry,
    detect_sector_size,
    read_partition_table,
)

_SYS_CLASS = Path("/sys/class/block")
_SYS_SECTOR_SIZE = 512  # what the kernel counts in there, whatever the disk's sectors are


@dataclass(frozen=True, slots=True)
class Piece:
    """Bytes at ``offset`` of the target; whole sectors."""

    offset: int
    data: bytes


@dataclass(frozen=True, slots=True, kw_only=True)
class BootArea:
    """One place with boot code: the MBR (``number`` 0), or a volume's start.

    ``number`` is the partition's, None when the target is the volume itself. ``start_lba`` is
    where the partition starts; None when nothing says it. ``head`` is what the installers take;
    ``last`` the sector that NTFS keeps a copy of sector 0 in.
    """

    number: int | None
    offset: int
    sector_size: int
    start_lba: int | None
    file_system: FileSystem | None
    is_active: bool
    head: bytes
    last: Piece | None
    identity: BootCodeIdentity

    @property
    def what(self) -> str:
        """Its name for a person."""
        match self.number:
            case 0:
                return "MBR"
            case None:
                return "volume"
            case number:
                return f"partition {number}"

    @property
    def pieces(self) -> tuple[Piece, ...]:
        """All that belongs to it, as it is."""
        own = Piece(self.offset, self.head)
        return (own,) if self.last is None else (self.last, own)


def open_target(path: Path, *, writable: bool, sector_size: int | None) -> ChangeableDisk:
    """A disk, a partition's device, or an image file; ``sector_size`` is that of an image file.

    Raises:
        TargetRefusedError: mounted or otherwise in use, the disk this system runs from, missing.
    """
    if is_block_device(path) and (_sys_folder(path) / "partition").exists():
        return BlockTarget.open(path, writable=writable)
    if is_block_device(path):
        return open_disk(path, writable=writable)
    size = sector_size or _detect_sector_size(path)
    return open_disk(path, writable=writable, sector_size=size)


def find_areas(disk: ChangeableDisk, path: Path, ours: OurBootCode) -> tuple[BootArea, ...]:
    """Where boot code is or could be: a disk's MBR and each volume, or the volume itself.

    Raises:
        FormatError: neither a partition table nor a volume.
    """
    if disk.size < MBR_SIZE:
        raise FormatError(f"{path}: holds {disk.size} bytes, no boot sector has room in that")
    sector0 = disk.pread(0, MBR_SIZE)
    is_partition = is_block_device(path) and (_sys_folder(path) / "partition").exists()
    if is_partition or find_file_system(sector0) is not None:
        start_lba = _partition_start(path, disk.logical_sector_size) if is_partition else None
        return (_volume_area(disk, ours, number=None, offset=0, size=disk.size, lba=start_lba),)
    sector_size = disk.logical_sector_size
    table = read_partition_table(
        disk.pread, disk_size=disk.size, sector_size=sector_size, what=str(path)
    )
    mbr = BootArea(
        number=0,
        offset=0,
        sector_size=sector_size,
        start_lba=0,
        file_system=None,
        is_active=False,
        head=disk.pread(0, sector_size),
        last=None,
        identity=identify_mbr(sector0, ours=ours),
    )
    return (mbr, *(_entry_area(disk, ours, entry) for entry in table.entries))


def place_boot_code(area: BootArea, ours: OurBootCode, *, start_lba: int) -> Iterator[Piece]:
    """What ``area`` is to hold: copies first, so that sector 0 is the last to change.

    Raises:
        FormatError: no boot code for what lies there.
    """
    if area.number == 0:
        code = ours.mbr.ljust(BOOT_CODE_SIZE_MAX, b"\0")
        yield Piece(area.offset, code + area.head[BOOT_CODE_SIZE_MAX:])
        return
    try:
        head = install_boot(area.head, ours, start_lba=start_lba)
    except FormatError as error:
        raise FormatError(f"{area.what}: {error.message}", hint=error.hint) from error
    if area.last is not None:
        yield Piece(area.last.offset, head[:VBR_SIZE] + area.last.data[VBR_SIZE:])
    yield Piece(area.offset, head)


def write_pieces(disk: ChangeableDisk, pieces: list[Piece]) -> int:
    """Writes what differs, sector by sector, the first sector of each last; how many bytes.

    Raises:
        TargetIOError: a write failed.
        VerifyError: it reads back as something else.
    """
    size = disk.logical_sector_size
    changed = [sector for piece in pieces for sector in _changed_sectors(disk, piece, size)]
    try:
        for sector in changed:
            buffer = memoryview(mmap.mmap(-1, size))
            buffer[:] = sector.data
            done = 0
            while done < size:
                done += disk.pwrite(sector.offset + done, buffer[done:])
        disk.flush()
        disk.drop_caches()
    except OSError as error:
        raise TargetIOError(
            f"{disk.name}: writing boot code failed: {error.strerror or error}",
            hint="put the old one back with bootsector restore",
        ) from error
    for piece in pieces:
        if disk.pread(piece.offset, len(piece.data)) != piece.data:
            raise VerifyError(
                f"{disk.name}: what was written at {piece.offset:#x} reads back differently",
                hint="put the old one back with bootsector restore; the medium may be failing",
            )
    return len(changed) * size


def _changed_sectors(disk: ChangeableDisk, piece: Piece, size: int) -> Iterator[Piece]:
    old = disk.pread(piece.offset, len(piece.data))
    for at in reversed(range(0, len(old), size)):
        if old[at : at + size] != piece.data[at : at + size]:
            yield Piece(piece.offset + at, piece.data[at : at + size])


def _entry_area(disk: ChangeableDisk, ours: OurBootCode, entry: TableEntry) -> BootArea:
    return _volume_area(
        disk,
        ours,
        number=entry.number,
        offset=entry.start,
        size=min(entry.size, max(disk.size - entry.start, 0)),
        lba=entry.start // disk.logical_sector_size,
        is_active=entry.is_active,
    )


def _volume_area(
    disk: ChangeableDisk,
    ours: OurBootCode,
    *,
    number: int | None,
    offset: int,
    size: int,
    lba: int | None,
    is_active: bool = False,
) -> BootArea:
    sector0 = disk.pread(offset, min(VBR_SIZE, size))
    area_size = measure_boot_area(sector0)
    file_system = find_file_system(sector0) if 0 < area_size <= size else None
    head = disk.pread(offset, area_size) if file_system else sector0
    return BootArea(
        number=number,
        offset=offset,
        sector_size=disk.logical_sector_size,
        start_lba=read_start_lba(head) if lba is None else lba,
        file_system=file_system,
        is_active=is_active,
        head=head,
        last=_find_copy(disk, offset, size, head) if file_system == "ntfs" else None,
        identity=identify_vbr(head, ours=ours),
    )


def _find_copy(disk: ChangeableDisk, offset: int, size: int, head: bytes) -> Piece | None:
    """NTFS: the sector behind the volume's last one, when it is there and is such a copy."""
    sector_size = int.from_bytes(head[0x0B:0x0D], "little")
    at = int.from_bytes(head[0x28:0x30], "little") * sector_size
    if sector_size not in {512, 1024, 2048, 4096} or not 0 < at <= size - sector_size:
        return None
    copy = disk.pread(offset + at, sector_size)
    return Piece(offset + at, copy) if copy[3:11] == head[3:11] else None


def _detect_sector_size(path: Path) -> int:
    """An image of a volume says it, one of a disk when it has a GPT; else 512."""
    with ImageFile.open(path, sector_size=1, writable=False) as image:
        if image.size < MBR_SIZE:
            return MBR_SIZE
        sector0 = image.pread(0, MBR_SIZE)
        match find_file_system(sector0):
            case "ntfs" | "fat32":
                size = int.from_bytes(sector0[0x0B:0x0D], "little")
            case "exfat":
                size = 1 << min(sector0[108], 16)
            case _:
                return detect_sector_size(image.pread, image.size)
    if size not in {512, 1024, 2048, 4096}:
        raise FormatError(f"{path}: its boot sector says sectors of {size} bytes")
    return size


def _sys_folder(path: Path) -> Path:
    return _SYS_CLASS / path.resolve().name


def _partition_start(path: Path, sector_size: int) -> int:
    place = _sys_folder(path) / "start"
    try:
        return int(place.read_text()) * _SYS_SECTOR_SIZE // sector_size
    except (OSError, ValueError) as error:
        raise TargetRefusedError(f"{path}: the kernel does not say where it starts") from error
