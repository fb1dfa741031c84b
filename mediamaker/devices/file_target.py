# SPDX-License-Identifier: GPL-3.0-or-later
"""An image file as a target.

References: open(2) (O_TMPFILE), copy_file_range(2), lseek(2) (SEEK_DATA), posix_fadvise(2).
"""

from __future__ import annotations

import contextlib
import errno
import os
import stat
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path
from types import TracebackType

from mediamaker.devices.descriptor import Descriptor
from mediamaker.devices.new_file import (
    check_new_file,
    check_place,
    claimed_name,
    flush_name,
    give_name,
    hold_file,
    name_beside,
    name_taken,
    remove_leftovers,
)
from mediamaker.errors import MediaError, TargetRefusedError, TargetTooSmallError
from mediamaker.units import format_size


class FileTarget(Descriptor):
    """An image file, sparse, that appears under its name only when :meth:`finish` is called.

    Until then it has no name at all (O_TMPFILE), so that even SIGKILL leaves nothing behind; where
    the file system can't do that, it is ``.NAME.mediamaker-XXXXXXXX.partial`` in the same
    directory. Either way giving it its name is atomic.

    A write that is to be gone on with has a partial file of a known name instead, which
    :meth:`abort` keeps.
    """

    starts_zeroed = True
    is_durable = False

    def __init__(
        self,
        descriptor: int,
        path: Path,
        size: int,
        logical_sector_size: int,
        *,
        partial_path: Path | None,
        is_new: bool,
        is_replacing: bool,
        keeps_partial: bool = False,
        held: ExitStack | None = None,
    ) -> None:
        super().__init__(descriptor, str(path), size, logical_sector_size)
        self._path = path
        self._partial_path = partial_path
        self._is_new = is_new
        self._is_replacing = is_replacing
        self._keeps_partial = keeps_partial
        self._direct_descriptor = -1
        self._held = held or ExitStack()

    @classmethod
    def create(
        cls,
        path: Path,
        size: int,
        *,
        logical_sector_size: int = 512,
        replace: bool = False,
        partial: Path | None = None,
    ) -> FileTarget:
        """A new image file of ``size`` bytes, all zero; an existing one only with ``replace``.

        ``partial`` is what it is called until it is complete, if it is to be gone on with; a
        file of that name must not be there.

        Raises:
            TargetRefusedError: the name is taken, another run is making it, or the directory does
                not let us.
            TargetTooSmallError: the file system holds no file of that size.
        """
        # A link is followed, so that the new file lands beside the old one and replaces it.
        path = Path(os.path.realpath(path))
        mode = check_place(path, replace=replace)
        with ExitStack() as held:
            held.enter_context(claimed_name(path))
            remove_leftovers(path)
            descriptor, partial_path = _make_partial(path, partial, size, mode)
            kept = held.pop_all()
        return cls(
            descriptor,
            path,
            size,
            logical_sector_size,
            partial_path=partial_path,
            is_new=True,
            is_replacing=replace,
            keeps_partial=partial is not None,
            held=kept,
        )

    def another(self, size: int) -> FileTarget:
        """A second new file, that is to have the name in place of this one.

        Raises:
            TargetRefusedError, TargetTooSmallError: as :meth:`create`.
        """
        mode = check_place(self._path, replace=self._is_replacing)
        descriptor, partial_path = _make_partial(self._path, None, size, mode)
        # It is still the one run that makes a file of that name.
        return FileTarget(
            descriptor,
            self._path,
            size,
            self.logical_sector_size,
            partial_path=partial_path,
            is_new=True,
            is_replacing=self._is_replacing,
            held=self._held.pop_all(),
        )

    @classmethod
    def resume(
        cls,
        path: Path,
        partial: Path,
        size: int,
        *,
        logical_sector_size: int = 512,
        replace: bool = False,
    ) -> FileTarget:
        """The partial file of an interrupted write, to become the one at ``path``.

        Raises:
            TargetRefusedError: the name is taken, another run is making it, or there is no such
                partial file.
        """
        path = Path(os.path.realpath(path))
        check_place(path, replace=replace)
        with ExitStack() as held:
            held.enter_context(claimed_name(path))
            descriptor = _open_interrupted(partial, size)
            kept = held.pop_all()
        return cls(
            descriptor,
            path,
            size,
            logical_sector_size,
            partial_path=partial,
            is_new=True,
            is_replacing=replace,
            keeps_partial=True,
            held=kept,
        )

    @classmethod
    def open(cls, path: Path, *, logical_sector_size: int = 512) -> FileTarget:
        """An existing image file, to be read only.

        Raises:
            TargetRefusedError: it is missing, not a regular file, or not readable.
        """
        try:
            descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC | os.O_NONBLOCK)
        except OSError as error:
            raise TargetRefusedError(f"{path}: can't be read: {error.strerror}") from error
        status = os.fstat(descriptor)
        if not stat.S_ISREG(status.st_mode):
            os.close(descriptor)
            raise TargetRefusedError(f"{path}: not a regular file")
        return cls(
            descriptor,
            path,
            status.st_size,
            logical_sector_size,
            partial_path=None,
            is_new=False,
            is_replacing=False,
        )

    @property
    def reopen_path(self) -> Path:
        """Where this process and its children can open the file while it has no name."""
        return Path(f"/proc/{os.getpid()}/fd/{self._descriptor}")

    def grow(self, size: int) -> None:
        """Make it ``size`` bytes; what is added is a hole.

        Raises:
            TargetTooSmallError: the file system holds no file of that size.
        """
        try:
            os.ftruncate(self._descriptor, size)
        except OSError as error:
            raise _why_not_that_large(self._path, size, error) from error
        self.size = size

    def pwrite(self, offset: int, buffer: memoryview) -> int:
        """pwrite(2)."""
        return os.pwrite(self._descriptor, buffer, offset)

    def copy_from(self, descriptor: int, source_offset: int, offset: int, size: int) -> int:
        """copy_file_range(2); shares the blocks where the file system can (XFS, btrfs)."""
        return os.copy_file_range(descriptor, self._descriptor, size, source_offset, offset)

    def data_runs(self, start: int, end: int) -> Iterator[tuple[int, int]]:
        """What is not a hole."""
        position = start
        while position < end:
            try:
                data_start = os.lseek(self._descriptor, position, os.SEEK_DATA)
                data_end = os.lseek(self._descriptor, data_start, os.SEEK_HOLE)
            except OSError as error:
                if error.errno == errno.ENXIO:  # only a hole from here to the end
                    return
                data_start, data_end = position, end
            if data_start >= end:
                return
            yield data_start, min(end, data_end)
            position = data_end

    def drop_caches(self) -> None:
        """Write out, have the page cache forget it, and read past it from now on if we may."""
        if self._is_new:
            self.flush()
        os.posix_fadvise(self._descriptor, 0, 0, os.POSIX_FADV_DONTNEED)
        if self._direct_descriptor < 0:
            # Some file systems know no O_DIRECT; the cache is empty, so plain reads do as well.
            with contextlib.suppress(OSError):
                self._direct_descriptor = os.open(
                    f"/proc/self/fd/{self._descriptor}", os.O_RDONLY | os.O_CLOEXEC | os.O_DIRECT
                )

    def close(self) -> None:
        """Let go of it; closing twice is harmless."""
        descriptor, self._direct_descriptor = self._direct_descriptor, -1
        if descriptor >= 0:
            os.close(descriptor)
        super().close()
        self._held.close()

    def is_present(self) -> bool:
        """A file is there as long as it is open."""
        return True

    def reread_partition_table(self) -> str | None:
        """Nobody knows of the file yet."""
        return None

    def finish(self) -> None:
        """Flush it, give it its name, and flush the directory that holds the name."""
        if not self._is_new:
            self.close()
            return
        self.flush()
        if self._partial_path is None and not self._is_replacing:
            self._link_to(self._path)
        else:
            self._publish(self._partial_path or self._name_partial())
        self._partial_path = None
        self._is_new = False
        self.close()
        # From here on it is complete, whatever becomes of its name in a power cut.
        flush_name(self._path)

    def abort(self) -> str | None:
        """Remove what was written, unless it has its name or is to be gone on with."""
        self.close()
        partial_path, self._partial_path = self._partial_path, None
        was_new, self._is_new = self._is_new, False
        if partial_path is not None and not self._keeps_partial:
            partial_path.unlink(missing_ok=True)
        if not was_new:
            return None
        return f"{self.name} is as it was before"

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self.abort()

    def _read_some(self, offset: int, buffer: memoryview) -> int:
        if self._direct_descriptor >= 0:
            try:
                return os.preadv(self._direct_descriptor, [buffer], offset)
            except OSError as error:
                # What is not aligned to the blocks of the disk below goes the other way.
                if error.errno != errno.EINVAL:
                    raise
        return super()._read_some(offset, buffer)

    def _name_partial(self) -> Path:
        """A name for what has none, as link(2) can't replace a file and rename(2) needs a name."""
        self._partial_path = name_beside(self._path)
        self._link_to(self._partial_path)
        return self._partial_path

    def _link_to(self, path: Path) -> None:
        # Any src_dir_fd makes Python call linkat(2), which alone can follow a link of /proc.
        link = f"/proc/self/fd/{self._descriptor}"
        try:
            os.link(link, path, src_dir_fd=self._descriptor, follow_symlinks=True)
        except FileExistsError:
            raise name_taken(path) from None

    def _publish(self, partial_path: Path) -> None:
        if self._is_replacing:
            partial_path.replace(self._path)
            return
        give_name(partial_path, self._path)
        partial_path.unlink(missing_ok=True)


def check_image_place(path: Path, *, replace: bool) -> None:
    """Refuse early what :meth:`FileTarget.create` would refuse, before anything long is begun.

    Raises:
        TargetRefusedError: the name is taken, or there is no such directory that lets us.
    """
    check_new_file(path, replace=replace)


def _why_not_that_large(path: Path, size: int, error: OSError) -> MediaError:
    if error.errno not in {errno.EFBIG, errno.EINVAL, errno.ENOSPC}:
        return TargetRefusedError(f"{path}: {error.strerror}")
    return TargetTooSmallError(
        f"{path}: its file system holds no file of {format_size(size)}: {error.strerror}",
        needed_size=size,
        available_size=0,
        hint="put the image on another file system (FAT ends at 4 GiB), or make it smaller",
    )


def _open_interrupted(partial: Path, size: int) -> int:
    try:
        descriptor = os.open(partial, os.O_RDWR | os.O_CLOEXEC | os.O_NOFOLLOW | os.O_NONBLOCK)
    except OSError as error:
        raise TargetRefusedError(
            f"{partial}: what the interrupted run wrote can't be opened: {error.strerror}",
            hint="leave out --resume to write it from the beginning",
        ) from error
    status = os.fstat(descriptor)
    if not stat.S_ISREG(status.st_mode) or status.st_size != size:
        os.close(descriptor)
        raise TargetRefusedError(
            f"{partial}: expected a file of {size} bytes, got {status.st_size}",
            hint="leave out --resume to write it from the beginning",
        )
    return descriptor


def _make_partial(
    path: Path, partial: Path | None, size: int, mode: int | None
) -> tuple[int, Path | None]:
    """A new file of ``size`` bytes beside ``path``, and its name if it has to have one."""
    try:
        descriptor, partial_path = _open_partial(path, partial)
    except OSError as error:
        raise TargetRefusedError(
            f"{path}: can't create a file in {path.parent}: {error.strerror}",
            hint="name a file in an existing directory that you may write to",
        ) from error
    hold_file(descriptor)
    try:
        os.ftruncate(descriptor, size)
        if mode is not None:
            os.fchmod(descriptor, mode)
    except OSError as error:
        os.close(descriptor)
        if partial_path is not None:
            partial_path.unlink()
        raise _why_not_that_large(path, size, error) from error
    return descriptor, partial_path


def _open_partial(path: Path, partial: Path | None) -> tuple[int, Path | None]:
    flags = os.O_RDWR | os.O_CLOEXEC
    if partial is not None:
        return os.open(partial, flags | os.O_CREAT | os.O_EXCL, 0o666), partial
    try:
        return os.open(path.parent, flags | os.O_TMPFILE, 0o666), None
    except OSError:
        # FAT, NFS and others can't; why else it fails is told by the attempt to create a name.
        partial_path = name_beside(path)
        return os.open(partial_path, flags | os.O_CREAT | os.O_EXCL, 0o666), partial_path
