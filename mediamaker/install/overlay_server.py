# SPDX-License-Identifier: GPL-3.0-or-later
"""The process behind an overlay: partitions of a disk as files, writes kept beside.

::

    python -m mediamaker.install.overlay_server MOUNTPOINT BASE SIDE MAP SIZE NAME:OFFSET:SIZE..

``BASE``, ``SIDE`` and ``MAP`` are descriptors that it inherits. It says ``ready`` on standard
output once the files are there, and ends when its standard input does, so that it can't outlive
the process that started it. A process of its own, as a thread that serves files to its own process
waits for ever once another one holds the interpreter's lock and reads such a file.

References: fuse(4); mfusepy's ``Operations``.
"""

from __future__ import annotations

import errno
import os
import stat
import subprocess
import sys
import threading
import time
from collections.abc import Iterable
from typing import Any

import mfusepy

from mediamaker.install.overlay_store import OverlayStore

READY = b"ready\n"
_UNMOUNT_ATTEMPTS = 20
_UNMOUNT_PAUSE_S = 0.25


class OverlayFiles(mfusepy.Operations):  # type: ignore[misc] # it has no types
    """A folder of fixed files, each a range of the disk."""

    use_ns = True

    def __init__(self, store: OverlayStore, views: dict[str, tuple[int, int]]) -> None:
        self._store = store
        self._views = {f"/{name}": view for name, view in views.items()}
        self._lock = threading.Lock()

    def init(self, path: str) -> None:
        """The files are there now."""
        del path
        os.write(1, READY)

    def getattr(self, path: str, fh: int | None = None) -> dict[str, Any]:
        """stat(2)."""
        del fh
        owner = {"st_uid": os.getuid(), "st_gid": os.getgid(), "st_nlink": 1}
        if path == "/":
            return {"st_mode": stat.S_IFDIR | 0o700, **owner}
        _, size = self._view(path)
        return {"st_mode": stat.S_IFREG | 0o600, "st_size": size, "st_blksize": 4096, **owner}

    def readdir(self, path: str, fh: int) -> Iterable[str]:
        """The names."""
        del path, fh
        return [".", "..", *(name[1:] for name in self._views)]

    def open(self, path: str, flags: int) -> int:
        """Anything goes: the disk itself is never written."""
        del flags
        self._view(path)
        return 0

    def read(self, path: str, size: int, offset: int, fh: int) -> bytes:
        """pread(2)."""
        del fh
        start, view_size = self._view(path)
        size = max(0, min(size, view_size - offset))
        with self._lock:
            return self._store.pread(start + offset, size)

    def write(self, path: str, data: bytes, offset: int, fh: int) -> int:
        """pwrite(2); a partition does not grow."""
        del fh
        start, view_size = self._view(path)
        if offset + len(data) > view_size:
            raise mfusepy.FuseOSError(errno.ENOSPC)
        with self._lock:
            self._store.pwrite(start + offset, data)
        return len(data)

    def truncate(self, path: str, length: int, fh: int | None = None) -> int:
        """A partition has the size that it has."""
        del fh
        _, size = self._view(path)
        if length != size:
            raise mfusepy.FuseOSError(errno.EPERM)
        return 0

    def fsync(self, path: str, datasync: int, fh: int) -> int:
        """Nothing of it has to outlive us."""
        del path, datasync, fh
        return 0

    def flush(self, path: str, fh: int) -> int:
        """The same."""
        del path, fh
        return 0

    def _view(self, path: str) -> tuple[int, int]:
        view = self._views.get(path)
        if view is None:
            raise mfusepy.FuseOSError(errno.ENOENT)
        return view


def main(arguments: list[str]) -> None:
    """Serve until standard input ends."""
    mountpoint, base, side, block_map, disk_size, *views = arguments
    store = OverlayStore(int(base), int(side), int(block_map), int(disk_size))
    parsed: dict[str, tuple[int, int]] = {}
    for view in views:
        name, offset, size = view.rsplit(":", 2)
        parsed[name] = (int(offset), int(size))
    threading.Thread(target=_end_with_parent, args=(mountpoint,), daemon=True).start()
    mfusepy.FUSE(
        OverlayFiles(store, parsed),
        mountpoint,
        foreground=True,
        nothreads=True,
        fsname="mediamaker-overlay",
    )


def _end_with_parent(mountpoint: str) -> None:
    os.read(0, 1)
    # Killed early, it is not mounted yet, but will be. Lazily: a tool of ours that was killed with
    # us may still have a file open.
    for _ in range(_UNMOUNT_ATTEMPTS):
        for program in ("fusermount3", "fusermount"):
            try:
                done = subprocess.run([program, "-u", "-z", mountpoint], check=False)
            except OSError:
                continue
            if done.returncode == 0:
                return
        time.sleep(_UNMOUNT_PAUSE_S)
    os._exit(1)


if __name__ == "__main__":
    main(sys.argv[1:])
