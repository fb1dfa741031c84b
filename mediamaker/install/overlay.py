# SPDX-License-Identifier: GPL-3.0-or-later
"""Everything that changes a disk in use is computed here first, on a copy that costs nothing.

An :class:`Overlay` shows ranges of a disk or image file (its partitions) as files of a FUSE mount.
Tools that know only files and devices (ntfsresize, ntfscp, mtools) work on those; what they write
stays in a sparse side file, and what is different in the end is the plan of what to write
(``changes.py``). Snapshots of device-mapper were rejected: they need root, also for an image file.
"""

from __future__ import annotations

import contextlib
import os
import select
import subprocess
import sys
import tempfile
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path

from mediamaker.errors import TargetIOError, ToolError
from mediamaker.install.overlay_store import OverlayStore
from mediamaker.install.scratch import scratch_folder, unmount_below

_START_TIMEOUT_S = 20
_END_TIMEOUT_S = 10


class Overlay:
    """The ranges of a disk as files; ``size`` is the disk's."""

    def __init__(self, store: OverlayStore, folder: Path, scratch: Path) -> None:
        self._store = store
        self._folder = folder
        self.scratch = scratch
        self.size = store.size

    def path(self, name: str) -> Path:
        """The file that shows the range called ``name``."""
        return self._folder / name

    def pread(self, offset: int, size: int) -> bytes:
        """What the disk would hold after all changes so far."""
        return self._store.pread(offset, size)

    def pread_old(self, offset: int, size: int) -> bytes:
        """What the disk holds."""
        return self._store.pread_old(offset, size)

    def pwrite(self, offset: int, data: bytes) -> None:
        """Change bytes that no tool has read through a file of ours: the kernel may keep those."""
        self._store.pwrite(offset, data)

    def written_blocks(self) -> Iterator[tuple[int, int]]:
        """The ranges that were written to, whether they differ now or not."""
        return self._store.written_blocks()


@contextmanager
def open_overlay(
    base: int,
    size: int,
    views: Mapping[str, tuple[int, int]],
    *,
    scratch_parent: Path | None = None,
) -> Iterator[Overlay]:
    """An overlay over the disk behind the descriptor ``base``, of ``size`` bytes.

    ``views`` are the files: name, and where they begin and how long they are. The side file and
    :attr:`Overlay.scratch` lie in a folder of their own below ``scratch_parent`` (default: where
    temporary files are), which goes at the end, or after a SIGKILL with the next run.

    Raises:
        ToolError: FUSE is not to be had here.
    """
    with contextlib.ExitStack() as stack:
        try:
            parent = scratch_parent or Path(tempfile.gettempdir())
            folder = stack.enter_context(scratch_folder(parent))
            side = os.open(folder / "new", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
            stack.callback(os.close, side)
            block_map = os.open(folder / "map", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
            stack.callback(os.close, block_map)
            os.ftruncate(side, size)
            mountpoint = folder / "disk"
            scratch = folder / "scratch"
            mountpoint.mkdir()
            scratch.mkdir()
        except (OSError, TargetIOError) as error:
            why = error.message if isinstance(error, TargetIOError) else error.strerror
            raise ToolError(
                f"no scratch files for an overlay of {size} bytes: {why}",
                hint="set TMPDIR to a folder of a file system with large sparse files",
            ) from error
        store = OverlayStore(base, side, block_map, size)
        stack.callback(store.close)
        stack.enter_context(_server(mountpoint, (base, side, block_map), size, views))
        yield Overlay(store, mountpoint, scratch)


@contextmanager
def _server(
    mountpoint: Path,
    descriptors: tuple[int, int, int],
    size: int,
    views: Mapping[str, tuple[int, int]],
) -> Iterator[None]:
    command = [sys.executable, "-m", "mediamaker.install.overlay_server", str(mountpoint)]
    command += [str(descriptor) for descriptor in descriptors]
    command += [str(size), *(f"{name}:{start}:{length}" for name, (start, length) in views.items())]
    process = subprocess.Popen(
        command,
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        pass_fds=descriptors,
        # Ctrl-C is for us; the server ends when we let go of its standard input.
        start_new_session=True,
    )
    assert process.stdin is not None
    assert process.stdout is not None
    assert process.stderr is not None
    try:
        ready, _, _ = select.select([process.stdout], [], [], _START_TIMEOUT_S)
        if not ready or not process.stdout.readline():
            process.kill()
            words = process.stderr.read().decode(errors="replace").strip().splitlines()
            raise ToolError(
                f"no FUSE file system could be made: {words[-1] if words else 'no answer'}",
                hint="install fuse3 and libfuse2; /dev/fuse must be there (modprobe fuse)",
            )
        yield
    finally:
        process.stdin.close()
        try:
            process.wait(_END_TIMEOUT_S)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()
        process.stdout.close()
        process.stderr.close()
        # A server that was killed leaves its mount behind, and the folder could not go.
        unmount_below(mountpoint)
