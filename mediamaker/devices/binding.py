# SPDX-License-Identifier: GPL-3.0-or-later
"""Ties a plan to one disk as it was when the plan was shown, until the first byte is written.

What was shown is the hardware (``DiskIdentity``) and what is on it. A person reads, thinks and
types; meanwhile the stick may be swapped, or another program may partition it. So the bytes
that make a disk what it is are remembered too, and all is compared again on the descriptor that
will be written to, not on a name: another disk can't come under an open descriptor.

Which bytes: the first and last MiB of the disk (every partition table with its copy, LVM, RAID,
LUKS and ZFS labels of a whole disk), and both ends of every partition, where superblocks lie
(btrfs at 64 KiB is the farthest from a start, RAID 1.0 within 64 KiB of an end). Not all of the
disk: it would take hours, and what changes in the middle of a file system shows in its
superblock once that is unmounted.

References: linux/fs.h (BLKGETDISKSEQ, since Linux 5.15), UEFI 5.3 (both GPTs), blkid(8).
"""

from __future__ import annotations

import errno
import fcntl
import hashlib
import os
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Protocol

from mediamaker.devices.discover import read_disk
from mediamaker.devices.disk import Disk
from mediamaker.devices.identity import DiskIdentity, check_same_disk, disk_fingerprint
from mediamaker.errors import TargetRefusedError
from mediamaker.units import KIB, MIB, format_range

_BLKGETDISKSEQ = 0x80081280
_SEQUENCE_SIZE = 8
_DISK_END_SIZE = MIB
_PARTITION_START_SIZE = 128 * KIB
_PARTITION_END_SIZE = 64 * KIB
_HINT = "nothing was written; look again with `mediamaker devices`, then start anew"


class BoundDevice(Protocol):
    """The open device; ``BlockTarget`` is one."""

    name: str

    def fileno(self) -> int:
        """Its descriptor."""

    def pread(self, offset: int, size: int) -> bytes:
        """Exactly ``size`` bytes."""


@dataclass(frozen=True, slots=True)
class BoundArea:
    """A range of the disk and the SHA-256 of its bytes, None if it could not be read."""

    what: str
    start: int
    size: int
    sha256: str | None


@dataclass(frozen=True, slots=True)
class DiskBinding:
    """A disk as it was; ``partitions`` are number, start and size as the kernel has them."""

    identity: DiskIdentity
    device_number: str
    table_type: str | None
    partitions: tuple[tuple[int, int, int], ...]
    areas: tuple[BoundArea, ...]


def read_binding(disk: Disk, device: BoundDevice) -> DiskBinding:
    """What the open ``device`` is now; it must be the listed ``disk``.

    Raises:
        TargetRefusedError: it is another one already.
    """
    _check_number(device, disk.device_number)
    areas = tuple(
        BoundArea(what, start, size, _digest(device, start, size))
        for what, start, size in _areas(disk)
    )
    _check_sequence(device, disk.sequence)
    return DiskBinding(
        identity=disk_fingerprint(disk),
        device_number=disk.device_number,
        table_type=disk.signature.table_type,
        partitions=_partitions(disk),
        areas=areas,
    )


def check_bound(binding: DiskBinding, device: BoundDevice) -> None:
    """The open ``device`` is still the disk of ``binding``, and still has the same on it.

    Raises:
        TargetRefusedError: says what differs, expected and found.
    """
    _check_number(device, binding.device_number)
    disk = read_disk(binding.device_number)
    if disk is None:
        raise TargetRefusedError(f"{device.name}: it was unplugged meanwhile", hint=_HINT)
    check_same_disk(binding.identity, disk_fingerprint(disk), what=device.name)
    differences = list(_differences(binding, disk, device))
    if differences:
        raise TargetRefusedError(
            f"{device.name} is not as it was when the plan was shown: {'; '.join(differences)}",
            hint=_HINT,
        )
    # last, as a card may be changed while all of this is read
    _check_sequence(device, binding.identity.sequence)


def _differences(binding: DiskBinding, disk: Disk, device: BoundDevice) -> Iterator[str]:
    before = _show_table(binding.table_type, binding.partitions)
    now = _show_table(disk.signature.table_type, _partitions(disk))
    if before != now:
        yield f"expected {before}, found {now}"
    for area in binding.areas:
        # what could not be read then says nothing now
        if area.sha256 is None:
            continue
        digest = _digest(device, area.start, area.size)
        if digest != area.sha256:
            does = "can't be read any more" if digest is None else "has other bytes"
            yield f"{area.what} {format_range(area.start, area.start + area.size)} {does}"


def _areas(disk: Disk) -> Iterator[tuple[str, int, int]]:
    """What, start and size; ranges may overlap on small disks."""
    head = min(_DISK_END_SIZE, disk.size)
    yield "the beginning of the disk", 0, head
    yield "the end of the disk", disk.size - head, head
    for number, start, size in _partitions(disk):
        end = min(start + size, disk.size)
        if start >= end:
            continue  # the kernel keeps partitions that reach beyond a shrunken disk
        first = min(_PARTITION_START_SIZE, end - start)
        last = min(_PARTITION_END_SIZE, end - start)
        yield f"the beginning of partition {number}", start, first
        yield f"the end of partition {number}", end - last, last


def _partitions(disk: Disk) -> tuple[tuple[int, int, int], ...]:
    return tuple((part.number, part.start, part.size) for part in disk.partitions)


def _show_table(table_type: str | None, partitions: tuple[tuple[int, int, int], ...]) -> str:
    table = f"a {table_type} table" if table_type else "no table"
    shown = ", ".join(
        f"{number} at {format_range(start, start + size)}" for number, start, size in partitions
    )
    return f"{table} with {f'partitions {shown}' if shown else 'no partition'}"


def _digest(device: BoundDevice, start: int, size: int) -> str | None:
    try:
        return hashlib.sha256(device.pread(start, size)).hexdigest()
    except OSError as error:
        if error.errno in {errno.ENODEV, errno.ENXIO, errno.ENOMEDIUM}:
            raise TargetRefusedError(
                f"{device.name}: it was unplugged meanwhile ({error.strerror})", hint=_HINT
            ) from error
        return None


def _check_number(device: BoundDevice, expected: str) -> None:
    number = os.fstat(device.fileno()).st_rdev
    found = f"{os.major(number)}:{os.minor(number)}"
    if found != expected:
        raise TargetRefusedError(
            f"{device.name} is not the disk that was chosen: device number: expected {expected}, "
            f"found {found}",
            hint=_HINT,
        )


def _check_sequence(device: BoundDevice, expected: int | None) -> None:
    found = _read_sequence(device)
    if expected is not None and found is not None and found != expected:
        raise TargetRefusedError(
            f"{device.name} is not the disk that was chosen: plug-in sequence number: expected "
            f"{expected}, found {found}",
            hint=_HINT,
        )


def _read_sequence(device: BoundDevice) -> int | None:
    answer = bytearray(_SEQUENCE_SIZE)
    try:
        fcntl.ioctl(device.fileno(), _BLKGETDISKSEQ, answer)
    except OSError as error:
        if error.errno in {errno.ENODEV, errno.ENXIO, errno.ENOMEDIUM}:
            raise TargetRefusedError(
                f"{device.name}: it was unplugged meanwhile ({error.strerror})", hint=_HINT
            ) from error
        return None  # a kernel before 5.15
    return int.from_bytes(answer, sys.byteorder)
