# SPDX-License-Identifier: GPL-3.0-or-later
"""Which programs may write to a disk behind the kernel's back, and whether one has it claimed.

A mount, a volume or a swap area shows in sysfs or procfs. A program that opened the device and
works on it by itself does not: a ZFS that lives in user space (zfs-fuse), a virtual machine, a
partition editor, another run of ours. Two looks find it:

- ``read_writers``: file descriptors of block devices that are open for writing;
- ``is_claimed``: whether the kernel would let us have the device with O_EXCL. It would not while
  a file system is alive that no mount shows any more (``umount -l`` with a file still open).

References: proc(5) (``/proc/PID/fd``, ``flags`` in ``/proc/PID/fdinfo``), open(2) (O_EXCL on
block devices; the kernel does not keep that flag, so it shows nowhere).
"""

from __future__ import annotations

import errno
import os
import stat
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from mediamaker.devices.blockmap import BlockMap
from mediamaker.devices.sysfs import read_attribute

_ACCESS_MASK = os.O_ACCMODE
_UDEV_NAMES = frozenset({"(udev-worker)", "systemd-udevd", "udevd"})
"""systemd since 251, systemd before, eudev."""


@dataclass(frozen=True, slots=True)
class Writer:
    """A process that has a block device, by kernel name ``device``, open for writing."""

    device: str
    pid: int
    process_name: str | None

    def __str__(self) -> str:
        return f"{self.who}, has {self.device} open"

    @property
    def is_udev(self) -> bool:
        """Whether it is the device manager, which is through with a disk after a moment."""
        return self.process_name in _UDEV_NAMES

    @property
    def who(self) -> str:
        """The process, for people."""
        name = f", {self.process_name}" if self.process_name else ""
        return f"process {self.pid}{name}"


def read_writers(block_map: BlockMap) -> tuple[Writer, ...]:
    """Every process but this one that has a block device open for writing.

    Processes of other users are passed over unless we are root.
    """
    proc = block_map.roots.proc
    own = _own_pid(proc)
    found: dict[tuple[int, str], Writer] = {}
    for pid in _pids(proc):
        if pid == own:
            continue
        for device in _devices_written_by(proc / str(pid), block_map):
            name = read_attribute(proc / str(pid) / "comm")
            found.setdefault((pid, device), Writer(device, pid, name))
    return tuple(found.values())


def is_claimed(path: Path, device_number: str) -> bool:
    """Whether somebody has the device with O_EXCL, be it the kernel or a program.

    It is asked by opening it so, for reading, for an instant: nothing else tells. Whoever would
    mount the device within that instant is told that it is busy, so this is for the one disk
    that is judged, not for looking around.
    """
    try:
        status = path.stat()
        if not stat.S_ISBLK(status.st_mode) or _number(status.st_rdev) != device_number:
            return False
        # for reading: a close after writing would have udev look at the disk again
        flags = os.O_RDONLY | os.O_EXCL | os.O_NONBLOCK | os.O_CLOEXEC
        os.close(os.open(path, flags))
    except OSError as error:
        return error.errno == errno.EBUSY
    return False


def _devices_written_by(directory: Path, block_map: BlockMap) -> Iterator[str]:
    # Strings: a desktop has tens of thousands of descriptors, and Path takes ten times as long.
    folder = f"{directory}/fd"
    try:
        names = os.listdir(folder)  # noqa: PTH208 - see above
    except OSError:
        return  # gone, or not ours to look into
    for number in names:
        try:
            shown = os.readlink(f"{folder}/{number}")  # noqa: PTH115 - see above
        except OSError:
            continue
        # Only names are asked first: stat of a file on a dead network share would hang. A node
        # that another namespace has elsewhere is still called as the kernel calls the device.
        name = shown.removesuffix(" (deleted)")
        is_in_dev = name.startswith("/dev/") and not _may_hang(name, block_map)
        if not (is_in_dev or name.rpartition("/")[2] in block_map.nodes):
            continue
        device = _find_device(directory / "fd" / number, name, block_map)
        if device is not None and _is_for_writing(directory / "fdinfo" / number):
            yield device


def _may_hang(name: str, block_map: BlockMap) -> bool:
    """Whether a server has to answer for it, which may be stopped; /dev/shm is anybody's."""
    if not name.startswith("/dev/shm/"):  # noqa: S108
        return False
    mount = block_map.mount_of_path(Path(name))
    return mount is not None and mount.filesystem.startswith("fuse")


def _find_device(descriptor: Path, name: str, block_map: BlockMap) -> str | None:
    try:
        status = descriptor.stat()
    except OSError:
        return block_map.find_device_file(name)
    if not stat.S_ISBLK(status.st_mode):
        return None
    return block_map.find_number(_number(status.st_rdev)) or block_map.find_device_file(name)


def _is_for_writing(path: Path) -> bool:
    try:
        lines = path.read_text("ascii", "replace").splitlines()
        flags = next(line for line in lines if line.startswith("flags:"))
        return int(flags.split()[1], 8) & _ACCESS_MASK != os.O_RDONLY
    except (OSError, StopIteration, IndexError, ValueError):
        return False


def _pids(proc: Path) -> list[int]:
    try:
        return sorted(int(entry.name) for entry in proc.iterdir() if entry.name.isdecimal())
    except OSError:
        return []


def _own_pid(proc: Path) -> int | None:
    # not os.getpid: this procfs may number processes otherwise
    try:
        return int(str((proc / "self").readlink()))
    except (OSError, ValueError):
        return None


def _number(device: int) -> str:
    return f"{os.major(device)}:{os.minor(device)}"
