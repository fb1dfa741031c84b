# SPDX-License-Identifier: GPL-3.0-or-later
"""A disk in use by somebody's Windows, opened to be changed in places: a device or an image file.

Unlike the targets of ``create``, an image file is changed where it is: a copy that is renamed
into place would need the room of the whole disk, and so a device and a file behave alike.
"""

from __future__ import annotations

import fcntl
import os
import stat
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any, Protocol

from mediamaker.devices.descriptor import Descriptor
from mediamaker.devices.discover import look_up_disk
from mediamaker.devices.guard import GuardContext, check_may_write
from mediamaker.devices.identity import DiskIdentity, disk_fingerprint
from mediamaker.devices.target import BlockTarget, bind_disk, is_block_device
from mediamaker.errors import TargetRefusedError


class ChangeableDisk(Protocol):
    """What changes are written to; it raises plain ``OSError``."""

    @property
    def name(self) -> str:
        """What a person calls it."""

    @property
    def size(self) -> int:
        """Bytes that it holds."""

    @property
    def logical_sector_size(self) -> int:
        """The smallest unit of a read or write, in bytes."""

    def pread(self, offset: int, size: int) -> bytes:
        """Exactly ``size`` bytes."""

    def preadinto(self, offset: int, buffer: memoryview) -> None:
        """Fill a page-aligned ``buffer``."""

    def pwrite(self, offset: int, buffer: memoryview) -> int:
        """Write some bytes of a page-aligned ``buffer``; how many."""

    def flush(self) -> None:
        """What was written is on the medium."""

    def drop_caches(self) -> None:
        """Make the next reads come from the medium."""

    def reread_partition_table(self) -> str | None:
        """The warning to show if the kernel keeps its old view."""

    def close(self) -> None:
        """Let go of it."""


class ImageFile(Descriptor):
    """An image file that is there, for reading and perhaps writing; nobody else's meanwhile."""

    @classmethod
    def open(cls, path: Path, *, sector_size: int, writable: bool) -> ImageFile:
        """The file at ``path``.

        Raises:
            TargetRefusedError: no regular file, not permitted, or in use (as a loop device, or
                locked by QEMU or by another run of ours).
        """
        flags = (os.O_RDWR if writable else os.O_RDONLY) | os.O_CLOEXEC | os.O_NONBLOCK
        try:
            descriptor = os.open(path, flags)
        except OSError as error:
            raise TargetRefusedError(f"{path}: can't be opened: {error.strerror}") from error
        try:
            status = os.fstat(descriptor)
            if not stat.S_ISREG(status.st_mode):
                raise TargetRefusedError(f"{path}: expected an image file or a block device")
            if writable:
                _check_no_loop(path, status)
                _lock(descriptor, path)
        except TargetRefusedError:
            os.close(descriptor)
            raise
        return cls(descriptor, str(path), status.st_size, sector_size)

    def pwrite(self, offset: int, buffer: memoryview) -> int:
        """pwrite(2)."""
        return os.pwrite(self._descriptor, buffer, offset)

    def drop_caches(self) -> None:
        """Write out, and have the page cache forget it."""
        os.posix_fadvise(self._descriptor, 0, 0, os.POSIX_FADV_DONTNEED)

    def reread_partition_table(self) -> str | None:
        """Nobody looks at it."""
        return None


@dataclass(frozen=True, slots=True)
class WindowsDiskIdentity:
    """What tells this disk from another: of a file, its size alone; the sectors say the rest."""

    is_device: bool
    size: int
    sector_size: int
    serial: str | None = None
    wwn: str | None = None
    vendor: str | None = None
    model: str | None = None
    lun: int | None = None

    @classmethod
    def of_device(cls, identity: DiskIdentity) -> WindowsDiskIdentity:
        """The part of it that outlives a restart."""
        stored = asdict(replace(identity, sequence=None))
        del stored["sequence"]
        return cls(is_device=True, sector_size=stored.pop("logical_sector_size"), **stored)

    def to_json(self) -> dict[str, Any]:
        """For the header of an undo file."""
        return asdict(self)


def identify(path: Path, *, size: int, sector_size: int) -> WindowsDiskIdentity:
    """The identity of the disk at ``path``."""
    if is_block_device(path):
        return WindowsDiskIdentity.of_device(disk_fingerprint(look_up_disk(path)))
    return WindowsDiskIdentity(is_device=False, size=size, sector_size=sector_size)


def open_disk(path: Path, *, writable: bool, sector_size: int = 512) -> BlockTarget | ImageFile:
    """The whole disk or image file at ``path``; ``sector_size`` is that of an image file.

    A device that is to be written is ours alone (O_EXCL), which also says that nothing on it is
    mounted; the rules of ``devices/guard.py`` say so first, and by what.

    Raises:
        TargetRefusedError: it is in use, or is the disk that this system runs from.
    """
    if not is_block_device(path):
        return ImageFile.open(path, sector_size=sector_size, writable=writable)
    if not writable:
        return BlockTarget.open(path, writable=False)
    disk = look_up_disk(path)
    # An installed Windows is on a fixed disk: only that rule is not for us.
    check_may_write(disk, GuardContext(allow_fixed_disk=True))
    return BlockTarget.open(path, expected=bind_disk(disk))


def open_plain(path: Path) -> int:
    """A second, read-only descriptor through the page cache, which any alignment may be read by."""
    return os.open(path, os.O_RDONLY | os.O_CLOEXEC)


def _lock(descriptor: int, path: Path) -> None:
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError as error:
        raise TargetRefusedError(
            f"{path}: another program has it locked", hint="stop what uses it (see lsof, fuser)"
        ) from error


def _check_no_loop(path: Path, status: os.stat_result) -> None:
    for backing_path in Path("/sys/block").glob("loop*/loop/backing_file"):
        try:
            backing = Path(backing_path.read_text().rstrip("\n"))
            is_same = os.path.samestat(backing.stat(), status)
        except OSError:
            continue
        if is_same:
            device = f"/dev/{backing_path.parent.parent.name}"
            raise TargetRefusedError(
                f"{path}: is in use as {device}",
                hint=f"detach it first: losetup -d {device}; or name the device instead",
            )
