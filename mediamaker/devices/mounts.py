# SPDX-License-Identifier: GPL-3.0-or-later
"""What is mounted, in every mount namespace that we may look into, and what is swapped to.

References: proc(5) for ``/proc/PID/mountinfo`` and ``/proc/swaps``. Blanks and backslashes in
paths are written as ``\\`` and three octal digits.

Another namespace matters: a container, a sandboxed service or a desktop's automounter may hold
a stick mounted that ``/proc/self/mountinfo`` does not show.
"""

from __future__ import annotations

import os
import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from mediamaker.devices.sysfs import SystemRoots, read_attribute

_OCTAL_RE = re.compile(rb"\\([0-7]{3})")
_INIT_PID = 1


@dataclass(frozen=True, slots=True)
class Mount:
    """One line of mountinfo; ``pid`` is a process of another mount namespace, None for ours."""

    number: str
    mountpoint: str
    filesystem: str
    source: str
    options: tuple[str, ...]
    pid: int | None = None
    process_name: str | None = None

    @property
    def is_anonymous(self) -> bool:
        """Whether ``number`` is made up by the file system (btrfs, overlay, zfs, fuse)."""
        return self.number.partition(":")[0] == "0"

    @property
    def place(self) -> str:
        """Where it is mounted, for people."""
        shown = self.mountpoint.encode("utf-8", "replace").decode()
        if self.pid is None:
            return shown
        who = f"process {self.pid}" + (f", {self.process_name}" if self.process_name else "")
        return f"{shown} (in the mount namespace of {who})"

    @property
    def zfs_pool(self) -> str | None:
        """The pool of a ZFS data set, whose mount names no device."""
        return self.source.split("/")[0] if self.filesystem == "zfs" else None

    @property
    def is_of_init(self) -> bool:
        """Whether it was seen through process 1 only."""
        return self.pid == _INIT_PID


@dataclass(frozen=True, slots=True)
class Swap:
    """One line of ``/proc/swaps``."""

    path: str
    is_file: bool


def parse_mountinfo(data: bytes, *, pid: int | None, process_name: str | None) -> list[Mount]:
    """The mounts of one namespace in the order of mounting; lines that make no sense are left."""
    mounts: list[Mount] = []
    for line in data.splitlines():
        head, _, tail = line.partition(b" - ")
        fields, rest = head.split(b" "), tail.split(b" ")
        if len(fields) < 6 or len(rest) < 2:
            continue
        mounts.append(
            Mount(
                number=_text(fields[2]),
                mountpoint=_text(fields[4]),
                filesystem=_text(rest[0]),
                source=_text(rest[1]),
                options=tuple(_text(item) for item in rest[2].split(b",")) if rest[2:] else (),
                pid=pid,
                process_name=process_name,
            )
        )
    return mounts


def read_mounts(roots: SystemRoots) -> tuple[Mount, ...]:
    """Our own mounts, those of process 1, and of other namespaces what ours does not mount.

    A process that can't be looked at is passed over: opening the target with O_EXCL, which the
    kernel refuses while a device is mounted anywhere, is the guard behind this one.
    """
    own_data = _read(roots.proc / "self" / "mountinfo")
    mounts = parse_mountinfo(own_data, pid=None, process_name=None)
    seen_devices = {(mount.number, mount.source) for mount in mounts}
    seen_places = {(mount.number, mount.mountpoint) for mount in mounts}
    for pid, directory, data in _foreign_namespaces(roots.proc, own_data):
        name = read_attribute(directory / "comm")
        found = parse_mountinfo(data, pid=pid, process_name=name)
        fresh = [
            mount
            for mount in found
            if (mount.number, mount.source) not in seen_devices
            or (mount.is_of_init and (mount.number, mount.mountpoint) not in seen_places)
        ]
        seen_devices.update((mount.number, mount.source) for mount in fresh)
        mounts.extend(fresh)
    return tuple(mounts)


def read_swaps(roots: SystemRoots) -> tuple[Swap, ...]:
    """What the kernel swaps to."""
    swaps: list[Swap] = []
    for line in _read(roots.proc / "swaps").splitlines()[1:]:
        fields = line.split()
        if len(fields) >= 2:
            swaps.append(Swap(_text(fields[0]), is_file=fields[1] == b"file"))
    return tuple(swaps)


def _foreign_namespaces(proc: Path, own_data: bytes) -> Iterator[tuple[int, Path, bytes]]:
    """(pid, /proc/PID, mountinfo) once for each namespace; by content where ``ns`` is closed."""
    seen_links = {_namespace(proc / "self")}
    seen_data = {own_data}
    try:
        pids = sorted(int(entry.name) for entry in proc.iterdir() if entry.name.isdecimal())
    except OSError:
        return
    for pid in pids:
        directory = proc / str(pid)
        link = _namespace(directory)
        if link is not None:
            if link in seen_links:
                continue
            seen_links.add(link)
        data = _read(directory / "mountinfo")
        if data and data not in seen_data:
            seen_data.add(data)
            yield pid, directory, data


def _namespace(directory: Path) -> str | None:
    try:
        return os.readlink(f"{directory}/ns/mnt")  # noqa: PTH115 - asked of every process, and fast
    except OSError:
        return None


def _read(path: Path) -> bytes:
    try:
        return path.read_bytes()
    except OSError:
        return b""


def _text(field: bytes) -> str:
    return os.fsdecode(_OCTAL_RE.sub(lambda match: bytes([int(match[1], 8) & 0xFF]), field))
