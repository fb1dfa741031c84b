# SPDX-License-Identifier: GPL-3.0-or-later
"""Makes an empty NTFS volume with mkntfs, in a sparse file or on a block device.

References: mkntfs(8); the NTFS documentation of the Linux-NTFS project, "$Boot": the hidden
sectors (0x1C), the serial number (0x48), and the copy of the first boot sector in the last sector
of the partition. BOOTMGR is started with hidden sectors, and looks the partition up by them.

mkntfs chooses the serial number itself, so it is written into both boot sectors afterwards. The
time of the volume's own files is 1970, so that equal requests make equal volumes; the root
directory gets the times of what is put there.
"""

from __future__ import annotations

import errno
import os
import stat
from pathlib import Path
from typing import Final

from mediamaker.errors import TargetIOError, TargetRefusedError, ToolError, UsageError
from mediamaker.formats.ntfs import BOOT_SECTOR_SIZE, parse_ntfs_boot
from mediamaker.install.tools import run_tool
from mediamaker.units import MIB

LABEL_LENGTH_MAX: Final = 32
"""In UTF-16 units: what Windows lets a person set; mkntfs refuses from 128 on."""

SIZE_MIN: Final = 4 * MIB
"""Below it there is no room for anything but the volume's own files."""

_SERIAL_OFFSET: Final = 0x48
_SERIAL_SIZE: Final = 8
_HEADS: Final = 255
_TRACK_SECTORS: Final = 63
_SECTOR_SIZES: Final = (512, 1024, 2048, 4096)
_CLUSTER_SIZES: Final = tuple(1 << power for power in range(9, 17))
_HIDDEN_SECTORS_MASK: Final = (1 << 32) - 1


def make_ntfs(
    path: Path,
    *,
    size: int,
    sector_size: int,
    hidden_sectors: int,
    volume_label: str,
    volume_serial: int,
    cluster_size: int | None = None,
    is_held: bool = False,
) -> None:
    """Make a volume of ``size`` bytes in the block device or file ``path``.

    A file is made, or must be empty of NTFS users, and is given exactly that size, sparse. The
    partition begins ``hidden_sectors`` sectors into the disk (the low 32 bits are recorded, as
    the field has no more). ``is_held`` says that the caller has the whole disk open with O_EXCL,
    so that nobody can have mounted a partition of it, and that we can't claim it again.

    Raises:
        ToolError: mkntfs is missing or failed; TargetRefusedError: the device is in use or
            smaller; TargetIOError: it can't be written.
    """
    _check_request(size, sector_size, volume_label, volume_serial, cluster_size)
    _prepare(path, size, is_held=is_held)
    arguments = ["--quick", "--quiet", "--zero-time", "--force"]
    arguments += ["--sector-size", str(sector_size)]
    arguments += ["--partition-start", str(hidden_sectors & _HIDDEN_SECTORS_MASK)]
    arguments += ["--heads", str(_HEADS), "--sectors-per-track", str(_TRACK_SECTORS)]
    if volume_label:
        arguments += ["--label", volume_label]
    if cluster_size is not None:
        arguments += ["--cluster-size", str(cluster_size)]
    # "--force": it is a file, or a device that it does not take for a partition. It knows no
    # "--", so the path is made absolute.
    arguments += [str(path.absolute()), str(size // sector_size)]
    done = run_tool("mkntfs", arguments, package="ntfs-3g")
    if done.returncode and "No space left on device" in done.said:
        raise TargetIOError(
            f"{path}: no room on its file system for an NTFS volume's own tables",
            hint="free some space, or name another folder",
        )
    if done.returncode and os.strerror(errno.EIO) in done.said:
        raise TargetIOError(
            f"{path}: making its volume failed: {done.said}",
            hint="the disk may be failing: look for bad sectors (smartctl, badblocks)",
        )
    if done.returncode:
        raise ToolError(f"{path}: mkntfs failed with {done.returncode}: {done.said}")
    set_volume_serial(path, volume_serial)


def set_volume_serial(path: Path, serial: int) -> None:
    """Write the serial number into both boot sectors of the volume at ``path``.

    Raises:
        TargetIOError: it can't be written; FormatError: it is not an NTFS volume.
    """
    try:
        descriptor = os.open(path, os.O_RDWR | os.O_CLOEXEC)
    except OSError as error:
        raise TargetIOError(f"{path}: can't be written: {error.strerror}") from error
    try:
        head = os.pread(descriptor, BOOT_SECTOR_SIZE, 0)
        boot = parse_ntfs_boot(head, what=str(path))
        # The sectors that the boot sector counts leave out the one that has its copy.
        copy = os.pread(descriptor, BOOT_SECTOR_SIZE, boot.size)
        if copy != head:
            raise ToolError(f"{path}: mkntfs left no copy of the boot sector at {boot.size:#x}")
        data = serial.to_bytes(_SERIAL_SIZE, "little")
        for start in (0, boot.size):
            os.pwrite(descriptor, data, start + _SERIAL_OFFSET)
        os.fsync(descriptor)
    except OSError as error:
        raise TargetIOError(f"{path}: writing the serial number: {error.strerror}") from error
    finally:
        os.close(descriptor)


def _check_request(
    size: int, sector_size: int, volume_label: str, volume_serial: int, cluster_size: int | None
) -> None:
    if sector_size not in _SECTOR_SIZES:
        raise UsageError(f"NTFS sectors of {sector_size} bytes: expected {_SECTOR_SIZES}")
    if size < SIZE_MIN or size % sector_size:
        raise UsageError(
            f"an NTFS volume of {size} bytes: expected {SIZE_MIN} or more, and whole sectors of "
            f"{sector_size}"
        )
    if cluster_size is not None and (
        cluster_size not in _CLUSTER_SIZES or cluster_size < sector_size
    ):
        raise UsageError(
            f"NTFS clusters of {cluster_size} bytes: expected a power of two from {sector_size} "
            f"to {_CLUSTER_SIZES[-1]}"
        )
    if len(volume_label.encode("utf-16-le")) // 2 > LABEL_LENGTH_MAX or "\0" in volume_label:
        raise UsageError(
            f"{volume_label!r}: an NTFS label has at most {LABEL_LENGTH_MAX} characters"
        )
    if not 0 <= volume_serial < 1 << (8 * _SERIAL_SIZE):
        raise UsageError(f"{volume_serial:#x}: an NTFS serial number has {8 * _SERIAL_SIZE} bits")


def _prepare(path: Path, size: int, *, is_held: bool) -> None:
    """See that the device is nobody's and large enough, or that the file is as large as wanted."""
    try:
        is_block = stat.S_ISBLK(path.stat().st_mode)
    except OSError:
        is_block = False
    exclusive = os.O_EXCL if is_block and not is_held else 0
    try:
        flags = os.O_RDWR | os.O_CLOEXEC | exclusive | (0 if is_block else os.O_CREAT)
        descriptor = os.open(path, flags, 0o666)
    except OSError as error:
        raise TargetRefusedError(
            f"{path}: can't be opened for writing: {error.strerror}",
            hint="unmount it first, and see that nothing else uses it",
        ) from error
    try:
        if is_block:
            available = os.lseek(descriptor, 0, os.SEEK_END)
            if available < size:
                raise TargetRefusedError(
                    f"{path}: expected at least {size} bytes, it has {available}"
                )
        elif stat.S_ISREG(os.fstat(descriptor).st_mode):
            # Emptied first: what was there must not show through where nothing is written.
            os.ftruncate(descriptor, 0)
            os.ftruncate(descriptor, size)
        else:
            raise TargetRefusedError(f"{path}: expected a file or a block device")
    except OSError as error:
        raise TargetIOError(f"{path}: {error.strerror}") from error
    finally:
        os.close(descriptor)
