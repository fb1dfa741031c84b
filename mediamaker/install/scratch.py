# SPDX-License-Identifier: GPL-3.0-or-later
"""Folders for what is made on the way: gone afterwards, and after a SIGKILL with the next run.

Whoever uses a folder holds a lock on a file in it. One whose lock is free was left behind.
"""

from __future__ import annotations

import contextlib
import fcntl
import os
import shutil
import subprocess
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Final

from mediamaker.devices.mounts import read_mounts
from mediamaker.devices.sysfs import SystemRoots
from mediamaker.errors import TargetIOError

SCRATCH_DEFAULT: Final = Path("/var/tmp")  # noqa: S108 - large, on a disk; only folders of ours
_PREFIX: Final = ".mediamaker-scratch-"
_LOCK_NAME: Final = "lock"


@contextmanager
def scratch_folder(parent: Path) -> Iterator[Path]:
    """A new folder in ``parent``; ours that earlier runs left there are removed first.

    Raises:
        TargetIOError: none can be made there.
    """
    _sweep(parent)
    try:
        folder = Path(tempfile.mkdtemp(prefix=_PREFIX, dir=parent))
        flags = os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC
        descriptor = os.open(folder / _LOCK_NAME, flags, 0o600)
        fcntl.flock(descriptor, fcntl.LOCK_EX)
    except OSError as error:
        raise TargetIOError(
            f"{parent}: no folder can be made here: {error.strerror}",
            hint="name another one with --scratch",
        ) from error
    try:
        yield folder
    finally:
        shutil.rmtree(folder, ignore_errors=True)
        os.close(descriptor)


def _sweep(parent: Path) -> None:
    """Remove what nobody holds. One that is being made has no lock file yet, and is left."""
    for folder in parent.glob(f"{_PREFIX}*"):
        with contextlib.suppress(OSError):
            descriptor = os.open(folder / _LOCK_NAME, os.O_RDWR | os.O_CLOEXEC | os.O_NOFOLLOW)
            try:
                fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
                if os.fstat(descriptor).st_uid == os.geteuid():
                    unmount_below(folder)
                    shutil.rmtree(folder, ignore_errors=True)
            finally:
                os.close(descriptor)


def unmount_below(folder: Path) -> None:
    """Take away what is mounted in ``folder``, lazily: a FUSE server that died leaves its mount."""
    for mount in read_mounts(SystemRoots()):
        if mount.pid is None and Path(mount.mountpoint).is_relative_to(folder):
            for words in (
                ["fusermount3", "-u", "-z"],
                ["fusermount", "-u", "-z"],
                ["umount", "-l"],
            ):
                with contextlib.suppress(OSError):
                    tried = [*words, mount.mountpoint]
                    if subprocess.run(tried, check=False, capture_output=True).returncode == 0:
                        break
