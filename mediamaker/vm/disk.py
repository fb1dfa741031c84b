# SPDX-License-Identifier: GPL-3.0-or-later
"""A disk of a virtual machine: which bytes, on which bus, and the promise not to write them.

QEMU never gets a path. We open the file or block device ourselves and hand over a descriptor
(QEMU's ``fdset``); for a snapshot it is read-only, so that the kernel, and not an option that
somebody may forget, keeps the guest's writes away from the target: they go to an overlay without
a name that ends with the machine. A disk with a ``server`` is read through that, over NBD: it may
lie nowhere at all, and every read is known.
"""

from __future__ import annotations

import os
import socket
import stat
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from enum import StrEnum
from pathlib import Path
from typing import Protocol

from mediamaker.errors import TargetRefusedError, UsageError


class Bus(StrEnum):
    """How the disk is attached."""

    USB = "usb"
    AHCI = "ahci"
    NVME = "nvme"
    VIRTIO = "virtio"
    SD = "sd"


class DiskServer(Protocol):
    """Gives a disk's bytes over NBD (``nbd.NbdServer``, or another server that is running)."""

    @property
    def size(self) -> int:
        """Bytes of the disk."""

    def connect(self) -> socket.socket:
        """The client's end of a new connection; the caller closes it."""


@dataclass(frozen=True, slots=True)
class Disk:
    """One disk of a machine; the bytes at ``path`` are the disk, whatever they look like.

    With a ``server``, what that gives is the disk, and ``path`` only what it is called.
    ``physical_sector_size`` (bytes) is None for that of the logical ones; 4096 over 512 is "512e".
    """

    path: Path
    bus: Bus = Bus.USB
    snapshot: bool = True
    logical_sector_size: int = 512
    physical_sector_size: int | None = None
    serial: str | None = None
    server: DiskServer | None = None


@dataclass(frozen=True, slots=True)
class OpenDisk:
    """A disk with the descriptor that QEMU inherits: of its bytes, or of an NBD connection."""

    disk: Disk
    fd: int
    is_block_device: bool


@contextmanager
def open_disk(disk: Disk) -> Iterator[OpenDisk]:
    """The bytes of a disk, open until the block ends; read-only where the disk is a snapshot.

    Raises:
        TargetRefusedError: missing, not readable, empty, or neither a file nor a block device.
        UsageError: the bus can't carry a disk of this size or sector size.
    """
    if disk.server is not None:
        check_bus(disk, disk.server.size)
        with disk.server.connect() as connection:
            yield OpenDisk(disk, connection.fileno(), is_block_device=False)
        return
    try:
        fd = os.open(disk.path, (os.O_RDONLY if disk.snapshot else os.O_RDWR) | os.O_CLOEXEC)
    except OSError as error:
        raise TargetRefusedError(
            f"{disk.path} can't be opened as a disk: {error.strerror}"
        ) from error
    try:
        mode = os.fstat(fd).st_mode
        if not (stat.S_ISREG(mode) or stat.S_ISBLK(mode)):
            raise TargetRefusedError(f"{disk.path} is neither a file nor a block device")
        size = os.lseek(fd, 0, os.SEEK_END)
        if size == 0:
            raise TargetRefusedError(f"{disk.path} is empty: no disk to start from")
        check_bus(disk, size)
        yield OpenDisk(disk, fd, stat.S_ISBLK(mode))
    finally:
        os.close(fd)


def check_bus(disk: Disk, size: int) -> None:
    """Raise UsageError for what QEMU's model of the bus can't be."""
    if disk.logical_sector_size != 512 and disk.bus in (Bus.AHCI, Bus.SD):
        raise UsageError(
            f"a disk on {disk.bus.value} has sectors of 512 bytes, not {disk.logical_sector_size}",
            hint="use --bus usb, nvme or virtio for disks with other sector sizes",
        )
    physical_size = disk.physical_sector_size
    if physical_size is not None and (
        disk.bus is Bus.SD or physical_size < disk.logical_sector_size
    ):
        raise UsageError(
            f"a disk on {disk.bus.value} with sectors of {disk.logical_sector_size} bytes "
            f"can't keep {physical_size} at a time",
            hint="leave out physical_sector_size, or take a bus that has it: usb, ahci, virtio",
        )
    if disk.bus is Bus.SD and size & (size - 1):
        raise UsageError(
            f"{disk.path} has {size} bytes, and an SD card in QEMU must have a power of two",
            hint="use --bus usb, which takes any size",
        )


def pack_arguments(opened: OpenDisk, index: int) -> list[str]:
    """QEMU's arguments for one disk; the first (``index`` 0) is the one to start from."""
    disk = opened.disk
    drive_id = f"disk{index}"
    files, protocol = _pack_protocol(opened, index)
    drive = [
        "if=none",
        f"id={drive_id}",
        "driver=raw",
        *protocol,
        f"snapshot={'on' if disk.snapshot else 'off'}",
    ]
    if not disk.snapshot:
        # QEMU would first open it for reading and, when the guest writes, open it again.
        drive += ["auto-read-only=off", "file.auto-read-only=off"]
    common = [f"drive={drive_id}"]
    if disk.bus is not Bus.SD:
        # From 1: QEMU itself gives 0 to a kernel that is named with -kernel.
        common.append(f"bootindex={index + 1}")
        if _has_other_sectors(disk):
            physical_size = disk.physical_sector_size or disk.logical_sector_size
            common.append(f"logical_block_size={disk.logical_sector_size}")
            common.append(f"physical_block_size={physical_size}")
        common.append(_pack_serial(disk, index))
    return [
        *files,
        "-drive",
        ",".join(drive),
        *_pack_devices(disk, index, ",".join(common)),
    ]


def _has_other_sectors(disk: Disk) -> bool:
    return disk.logical_sector_size != 512 or disk.physical_sector_size is not None


def device_id(index: int) -> str:
    """What QEMU calls the device of a machine's disk, in QMP."""
    return f"device{index}"


def _pack_serial(disk: Disk, index: int) -> str:
    # NVMe has no default, and people search for the serial of the stick they made.
    return "serial=" + (disk.serial or f"MEDIAMAKER{index}").replace(",", ",,")


def _pack_protocol(opened: OpenDisk, index: int) -> tuple[list[str], list[str]]:
    """Arguments before the drive, and the drive's own: how QEMU gets at the bytes."""
    if opened.disk.server is not None:
        # A number: a descriptor that QEMU was started with.
        server = ["file.driver=nbd", "file.server.type=fd", f"file.server.str={opened.fd}"]
        return [], server
    return ["-add-fd", f"fd={opened.fd},set={index}"], [
        f"file.driver={'host_device' if opened.is_block_device else 'file'}",
        f"file.filename=/dev/fdset/{index}",
        # The file may be open elsewhere (a stick just written, a loop device); we only read it.
        f"file.locking={'off' if opened.disk.snapshot else 'auto'}",
    ]


def _pack_devices(disk: Disk, index: int, common: str) -> list[str]:
    """A controller of the disk's own, and the disk on it.

    What is to be unplugged (QMP ``device_del``) has the name :func:`device_id`.
    """
    controller_id = f"bus{index}"
    named = f"{common},id={device_id(index)}"
    match disk.bus:
        case Bus.USB if _has_other_sectors(disk):
            # What usb-storage is told of sectors it does not tell its disk (seen with QEMU 7.2:
            # the guest finds 512 bytes), so here is the stick's bridge and the disk behind it.
            return [
                "-device",
                f"qemu-xhci,id={controller_id}",
                "-device",
                f"usb-bot,bus={controller_id}.0,id={device_id(index)},{_pack_serial(disk, index)}",
                "-device",
                f"scsi-hd,bus={device_id(index)}.0,lun=0,removable=on,{common}",
            ]
        case Bus.USB:
            return [
                "-device",
                f"qemu-xhci,id={controller_id}",
                "-device",
                f"usb-storage,bus={controller_id}.0,removable=on,{named}",
            ]
        case Bus.AHCI:
            return [
                "-device",
                f"ich9-ahci,id={controller_id}",
                "-device",
                f"ide-hd,bus={controller_id}.0,{named}",
            ]
        case Bus.NVME:
            return ["-device", f"nvme,{named}"]
        case Bus.VIRTIO:
            return ["-device", f"virtio-blk-pci,{named}"]
        case Bus.SD:
            return [
                "-device",
                f"sdhci-pci,id={controller_id}",
                "-device",
                f"sd-card,{named}",
            ]
