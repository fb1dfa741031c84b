# SPDX-License-Identifier: GPL-3.0-or-later
"""Partitions that the kernel knows of, though no table on the disk does yet.

The table is the last thing that is written, so that a disk is never half a Windows; but mkntfs
and libwim want a device for each partition. BLKPG tells the kernel where they are. A device that
can't have partitions (a loop device without partition scan) gets loop devices over the ranges.

References: linux/blkpg.h, linux/loop.h; losetup(8). ``struct blkpg_ioctl_arg`` holds the address
of a second structure, which :mod:`array` tells.
"""

from __future__ import annotations

import array
import contextlib
import errno
import fcntl
import os
import stat
import struct
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from mediamaker.errors import TargetRefusedError, ToolError
from mediamaker.units import format_range

_BLKSSZGET: Final = 0x1268
_BLKPG: Final = 0x1269
_ADD, _DELETE = 1, 2
_LOOP_CLEAR: Final = 0x4C01
_LOOP_CONFIGURE: Final = 0x4C0A
_LOOP_GET_FREE: Final = 0x4C82
_LOOP_AUTOCLEAR: Final = 4
_LOOP_ATTEMPT_COUNT: Final = 20
_NO_PARTITIONS: Final = {errno.EINVAL, errno.ENOTTY, errno.EOPNOTSUPP, errno.ENXIO}
_BUSY_SECONDS: Final = 10.0
"""udev looks at a new partition as soon as it is there; it can't go until that is over."""
_POLL_SECONDS: Final = 0.05

# op, flags, size of the structure, its address
_BLKPG_ARGUMENT: Final = struct.Struct("@iiiP")
# start, length, number, two names that nobody reads
_BLKPG_PARTITION: Final = struct.Struct("@qqi64s64s")
# descriptor, block size; lo_device, lo_inode, lo_rdevice, lo_offset, lo_sizelimit, lo_number,
# lo_encrypt_type, lo_encrypt_key_size, lo_flags, lo_file_name and what is not used
_LOOP_CONFIG: Final = struct.Struct("@II QQQQQ IIII 64s 64s 32s QQ 64x")


@dataclass(frozen=True, slots=True)
class PartitionRange:
    """``size`` bytes at ``start`` of the disk, which are to be partition ``number`` (from 1)."""

    number: int
    start: int
    size: int


@contextmanager
def kernel_partitions(
    descriptor: int, ranges: Sequence[PartitionRange], *, sys_root: Path = Path("/sys")
) -> Iterator[Mapping[int, Path]]:
    """A device for each range of the disk that ``descriptor`` has open, by number.

    The caller holds the disk with O_EXCL, so nobody can mount any of it. What partitions the
    kernel knew before are forgotten by it (not those on the disk), and ours are when the block
    ends: then the table can be read again.

    Raises:
        TargetRefusedError: a partition is in use, or outside of the disk; ToolError: the kernel
            can do neither.
    """
    if not stat.S_ISBLK(os.fstat(descriptor).st_mode):
        raise ToolError("partitions can be shown of block devices only")
    disk_size = os.lseek(descriptor, 0, os.SEEK_END)
    for one in ranges:
        if one.start + one.size > disk_size:
            raise TargetRefusedError(
                f"partition {one.number} at {format_range(one.start, one.start + one.size)} is "
                f"outside of the disk, which ends at {disk_size:#x}"
            )
    with ExitStack() as stack:
        try:
            _forget_all(descriptor, sys_root)
            paths = {
                one.number: stack.enter_context(_kernel_partition(descriptor, one, sys_root))
                for one in ranges
            }
        except OSError as error:
            if error.errno not in _NO_PARTITIONS:
                raise ToolError(
                    f"the kernel does not take the new partitions: {error.strerror}",
                    hint="unplug the disk and plug it in again",
                ) from error
            stack.close()
            paths = {
                one.number: stack.enter_context(_loop_device(descriptor, one)) for one in ranges
            }
        yield paths


@contextmanager
def _kernel_partition(descriptor: int, wanted: PartitionRange, sys_root: Path) -> Iterator[Path]:
    _change(descriptor, _ADD, wanted)
    try:
        yield _wait_for_node(descriptor, wanted.number, sys_root)
    finally:
        _delete(descriptor, wanted)


def _change(descriptor: int, operation: int, wanted: PartitionRange) -> None:
    partition = array.array(
        "B", _BLKPG_PARTITION.pack(wanted.start, wanted.size, wanted.number, b"", b"")
    )
    address, size = partition.buffer_info()
    fcntl.ioctl(descriptor, _BLKPG, _BLKPG_ARGUMENT.pack(operation, 0, size, address))


def _delete(descriptor: int, wanted: PartitionRange) -> None:
    """Take it away, as soon as nobody looks at it.

    Raises:
        TargetRefusedError: it stays in use.
    """
    deadline = time.monotonic() + _BUSY_SECONDS
    while True:
        try:
            return _change(descriptor, _DELETE, wanted)
        except OSError as error:
            if error.errno == errno.ENXIO:  # gone, with the disk perhaps
                return None
            if error.errno != errno.EBUSY or time.monotonic() >= deadline:
                raise TargetRefusedError(
                    f"partition {wanted.number} is in use, or can't be taken from the kernel: "
                    f"{error.strerror}",
                    hint="unmount it, or stop what uses it (see lsof, fuser)",
                ) from error
        time.sleep(_POLL_SECONDS)


def _forget_all(descriptor: int, sys_root: Path) -> None:
    for number in _known_partitions(descriptor, sys_root):
        _delete(descriptor, PartitionRange(number, 0, 0))


def _known_partitions(descriptor: int, sys_root: Path) -> dict[int, str]:
    """The names of the devices of the partitions that the kernel knows of, by number."""
    device = os.fstat(descriptor).st_rdev
    disk = sys_root / "dev/block" / f"{os.major(device)}:{os.minor(device)}"
    known: dict[int, str] = {}
    for path in sorted(disk.glob("*/partition")):
        with contextlib.suppress(OSError, ValueError):
            known[int(path.read_text())] = path.parent.name
    return known


def _wait_for_node(descriptor: int, number: int, sys_root: Path) -> Path:
    """The device node, which devtmpfs makes at once, and others a little later."""
    deadline = time.monotonic() + _BUSY_SECONDS
    while True:
        name = _known_partitions(descriptor, sys_root).get(number)
        # sysfs has an exclamation mark where the name of the device has a slash.
        path = Path("/dev") / (name or "").replace("!", "/")
        if name is not None and path.is_block_device():
            return path
        if time.monotonic() >= deadline:
            raise ToolError(f"the kernel made no device for partition {number}")
        time.sleep(_POLL_SECONDS)


@contextmanager
def _loop_device(descriptor: int, wanted: PartitionRange) -> Iterator[Path]:
    """A loop device over the range; it goes with this process if it is not taken down before."""
    shown = format_range(wanted.start, wanted.start + wanted.size)
    loop = -1
    try:
        # Without O_DIRECT and O_EXCL: the loop device must not inherit those of the caller.
        backing = os.open(f"/proc/self/fd/{descriptor}", os.O_RDWR | os.O_CLOEXEC)
        try:
            path, loop = _configure_loop(backing, descriptor, wanted)
        finally:
            os.close(backing)
    except OSError as error:
        raise ToolError(
            f"no device for the range {shown} of the disk: {error.strerror}",
            hint="neither partitions nor loop devices work here (modprobe loop); "
            "install to an image file instead",
        ) from error
    try:
        yield path
    finally:
        with contextlib.suppress(OSError):
            os.fsync(loop)
        with contextlib.suppress(OSError):
            fcntl.ioctl(loop, _LOOP_CLEAR)
        os.close(loop)


def _configure_loop(backing: int, descriptor: int, wanted: PartitionRange) -> tuple[Path, int]:
    sector_size = int.from_bytes(
        fcntl.ioctl(descriptor, _BLKSSZGET, bytes(struct.calcsize("@i"))), "little"
    )
    config = _LOOP_CONFIG.pack(
        backing, sector_size, 0, 0, 0, wanted.start, wanted.size,
        0, 0, 0, _LOOP_AUTOCLEAR, b"mediamaker", b"", b"", 0, 0,
    )  # fmt: skip
    control = os.open("/dev/loop-control", os.O_RDWR | os.O_CLOEXEC)
    try:
        for attempt in range(_LOOP_ATTEMPT_COUNT):
            path = Path(f"/dev/loop{fcntl.ioctl(control, _LOOP_GET_FREE)}")
            loop = os.open(path, os.O_RDWR | os.O_CLOEXEC)
            try:
                fcntl.ioctl(loop, _LOOP_CONFIGURE, config)
            except OSError as error:
                os.close(loop)
                # Somebody else took it in between.
                if error.errno != errno.EBUSY or attempt + 1 == _LOOP_ATTEMPT_COUNT:
                    raise
            else:
                return path, loop
        raise OSError(errno.EBUSY, os.strerror(errno.EBUSY))
    finally:
        os.close(control)
