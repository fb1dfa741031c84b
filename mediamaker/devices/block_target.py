# SPDX-License-Identifier: GPL-3.0-or-later
"""A block device as a target.

References: open(2) (O_DIRECT; O_EXCL on block devices), linux/fs.h (the BLK* ioctls).
"""

from __future__ import annotations

import contextlib
import errno
import fcntl
import os
import stat
import struct
from collections.abc import Iterator
from pathlib import Path

from mediamaker.devices.binding import DiskBinding, check_bound, read_binding
from mediamaker.devices.descriptor import Descriptor
from mediamaker.devices.discover import look_up_disk
from mediamaker.devices.disk import Disk
from mediamaker.errors import TargetRefusedError

_BLKROGET = 0x125E
_BLKRRPART = 0x125F
_BLKFLSBUF = 0x1261
_BLKSSZGET = 0x1268


class BlockTarget(Descriptor):
    """A block device, opened O_EXCL and, where it can be, O_DIRECT."""

    starts_zeroed = False

    def __init__(
        self, descriptor: int, path: Path, size: int, logical_sector_size: int, *, is_direct: bool
    ) -> None:
        super().__init__(descriptor, str(path), size, logical_sector_size)
        self._path = path
        self._device_number = os.fstat(descriptor).st_rdev
        self._is_direct = is_direct
        self._binding: DiskBinding | None = None

    @classmethod
    def open(
        cls, path: Path, *, writable: bool = True, expected: DiskBinding | None = None
    ) -> BlockTarget:
        """The block device at ``path``; O_EXCL if it is to be written, never without.

        ``expected`` is the disk that a plan was shown for (``bind_disk``): what was opened must
        be that one, and have the same on it.

        Raises:
            TargetRefusedError: not a block device, in use (says by what), read-only, empty, not
                permitted, or not as ``expected``.
        """
        _check_block_device(path)
        flags = (os.O_RDWR | os.O_EXCL) if writable else os.O_RDONLY
        is_direct = True
        try:
            try:
                descriptor = os.open(path, flags | os.O_CLOEXEC | os.O_DIRECT)
            except OSError as error:
                if error.errno != errno.EINVAL:
                    raise
                is_direct = False
                descriptor = os.open(path, flags | os.O_CLOEXEC)
        except OSError as error:
            raise _describe_open_error(error, path) from error
        try:
            # lseek(2) says the size on every architecture, BLKGETSIZE64 has several numbers.
            size = os.lseek(descriptor, 0, os.SEEK_END)
            if size == 0:
                raise TargetRefusedError(f"{path}: holds no medium (its size is 0)")
            if writable and _ioctl_int(descriptor, _BLKROGET):
                raise _read_only(path)
            sector_size = _ioctl_int(descriptor, _BLKSSZGET)
        except OSError as error:
            os.close(descriptor)
            raise _describe_open_error(error, path) from error
        except TargetRefusedError:
            os.close(descriptor)
            raise
        target = cls(descriptor, path, size, sector_size, is_direct=is_direct)
        if expected is not None:
            target._binding = expected
            try:
                target.check_unchanged()
            except BaseException:
                target.close()
                raise
        return target

    def check_unchanged(self) -> None:
        """It is still what it was opened as ``expected`` to be; call before the first write.

        Raises:
            TargetRefusedError: another disk, or other tables or superblocks; says which.
        """
        if self._binding is None:
            return
        if not self.is_present():
            raise TargetRefusedError(
                f"{self.name}: that name stands for another device now, or for none",
                hint="nothing was written; look again with `mediamaker devices`",
            )
        check_bound(self._binding, self)

    @property
    def is_durable(self) -> bool:
        """O_DIRECT bypasses the page cache; the device's own cache is flushed at the end."""
        return self._is_direct

    def pwrite(self, offset: int, buffer: memoryview) -> int:
        """pwrite(2); a device that will not take O_DIRECT here gets the bytes without it."""
        try:
            return os.pwrite(self._descriptor, buffer, offset)
        except OSError as error:
            if not self._leave_direct(error):
                raise
        return os.pwrite(self._descriptor, buffer, offset)

    def copy_from(self, descriptor: int, source_offset: int, offset: int, size: int) -> int:
        """The kernel copies between files only."""
        del descriptor, source_offset, offset, size
        raise OSError(errno.EINVAL, os.strerror(errno.EINVAL))

    def data_runs(self, start: int, end: int) -> Iterator[tuple[int, int]]:
        """A device has no holes that it would tell of."""
        if start < end:
            yield start, end

    def drop_caches(self) -> None:
        """Make reads come from the device, O_DIRECT or not."""
        # Needs CAP_SYS_ADMIN; without it, and with O_DIRECT, reads pass the cache by anyway.
        with contextlib.suppress(PermissionError):
            fcntl.ioctl(self._descriptor, _BLKFLSBUF)
        os.posix_fadvise(self._descriptor, 0, 0, os.POSIX_FADV_DONTNEED)

    def is_present(self) -> bool:
        """Whether the name still stands for this device."""
        try:
            status = self._path.stat()
        except OSError:
            return False
        return stat.S_ISBLK(status.st_mode) and status.st_rdev == self._device_number

    def reread_partition_table(self) -> str | None:
        """BLKRRPART; the warning to show if the kernel keeps its old view."""
        try:
            fcntl.ioctl(self._descriptor, _BLKRRPART)
        except OSError as error:
            # EINVAL: a device that is never scanned for partitions (loop without -P, a partition).
            if error.errno in {errno.EINVAL, errno.ENOTTY, errno.EOPNOTSUPP}:
                return None
            return (
                f"{self.name}: the kernel still shows the old partitions ({error.strerror}); "
                "unplug it and plug it in again"
            )
        return None

    def finish(self) -> None:
        """All is flushed already."""
        self.close()

    def abort(self) -> str | None:
        """Its bytes are the writer's affair, and so is what to say about them."""
        self.close()
        return None

    def _read_some(self, offset: int, buffer: memoryview) -> int:
        try:
            return os.preadv(self._descriptor, [buffer], offset)
        except OSError as error:
            if not self._leave_direct(error):
                raise
        self.drop_caches()
        return os.preadv(self._descriptor, [buffer], offset)

    def _leave_direct(self, error: OSError) -> bool:
        """Clear O_DIRECT if that is what the device refused; the descriptor stays exclusive."""
        if error.errno != errno.EINVAL or not self._is_direct:
            return False
        flags = fcntl.fcntl(self._descriptor, fcntl.F_GETFL)
        fcntl.fcntl(self._descriptor, fcntl.F_SETFL, flags & ~os.O_DIRECT)
        self._is_direct = False
        return True


def bind_disk(disk: Disk) -> DiskBinding:
    """What ``disk`` is and holds now, to be handed to ``BlockTarget.open`` when all is decided.

    Raises:
        TargetRefusedError: it can't be read, or another one has its name already.
    """
    with BlockTarget.open(disk.path, writable=False) as device:
        return read_binding(disk, device)


def _check_block_device(path: Path) -> None:
    try:
        mode = path.stat().st_mode
    except (OSError, ValueError) as error:
        reason = getattr(error, "strerror", None) or str(error)
        raise TargetRefusedError(f"{path}: {reason}") from error
    if not stat.S_ISBLK(mode):
        raise TargetRefusedError(
            f"{path}: not a block device", hint="mediamaker devices lists the disks there are"
        )


def _describe_open_error(error: OSError, path: Path) -> TargetRefusedError:
    match error.errno:
        case errno.EBUSY:
            return TargetRefusedError(
                f"{path}: in use: {_describe_users(path)}",
                hint="unmount it, or stop what uses it; then try again",
            )
        case errno.EROFS:
            return _read_only(path)
        case errno.EACCES | errno.EPERM if _is_read_only(path):
            return _read_only(path)
        case errno.EACCES | errno.EPERM:
            return TargetRefusedError(
                f"{path}: {error.strerror}", hint="writing to a device needs root: use sudo"
            )
        case errno.ENOMEDIUM | errno.ENXIO | errno.ENODEV:
            return TargetRefusedError(
                f"{path}: holds no medium ({error.strerror})", hint="is it plugged in?"
            )
        case _:
            return TargetRefusedError(f"{path}: can't be opened: {error.strerror}")


def _describe_users(path: Path) -> str:
    """What the kernel's EBUSY is likely about."""
    try:
        disk = look_up_disk(path)
    except TargetRefusedError:
        return "by something that does not show"
    users = [
        *(f"mounted: {mount}" for mount in disk.mounts),
        *(f"swap: {swap}" for swap in disk.swaps),
        *(f"part of {holder}" for holder in disk.holders),
        *(f"ZFS pool {pool}" for pool in disk.imported_pools),
        *map(str, disk.writers),
    ]
    return "; ".join(users) or "another program has it open for itself (see lsof, fuser)"


def _read_only(path: Path) -> TargetRefusedError:
    return TargetRefusedError(
        f"{path}: is read-only", hint="cards and some sticks have a write-protect switch"
    )


def _is_read_only(path: Path) -> bool:
    """Whether it is the device that refuses writes, and not the permissions."""
    try:
        descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    except OSError:
        return False
    try:
        return _ioctl_int(descriptor, _BLKROGET) != 0
    except OSError:
        return False
    finally:
        os.close(descriptor)


def _ioctl_int(descriptor: int, request: int) -> int:
    answer = bytearray(struct.calcsize("i"))
    fcntl.ioctl(descriptor, request, answer)
    return int.from_bytes(answer, "little" if struct.pack("=i", 1)[0] else "big")
