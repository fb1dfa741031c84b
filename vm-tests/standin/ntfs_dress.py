# SPDX-License-Identifier: GPL-3.0-or-later
"""What only NTFS has, put on an applied stand-in Windows: ACLs, streams, attributes, DOS names.

Needs a FUSE mount of ntfs-3g, thus root in most places; the plain stand-in image does without.
"""

from __future__ import annotations

import os
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from mediamaker.errors import ToolError
from standin import content
from standin.tool import run_tool

_UNMOUNT_SECONDS = 20.0
# Self-relative descriptors, owner and group Administrators: full access or read and execute
# for everyone, inherited by what is below.
_OPEN = bytes.fromhex(
    "0100048014000000240000000000000034000000"
    "01020000000000052000000020020000 01020000000000052000000020020000"
    "02001c0001000000 00031400 ff011f00 010100000000000100000000"
)
_READ_ONLY = _OPEN.replace(bytes.fromhex("ff011f00"), bytes.fromhex("a9001200"))
_HIDDEN, _SYSTEM, _ARCHIVE = 0x02, 0x04, 0x20


def make_volume(path: Path, *, size: int) -> None:
    """An empty NTFS volume in a sparse file."""
    with path.open("xb") as file:
        file.truncate(size)
    run_tool("mkntfs", "-F", "-Q", "-q", str(path), package="ntfs-3g")


def dress_volume(volume: Path, mount_point: Path) -> None:
    """Adds to every file and directory of ``volume`` what makes it unlike a plain copy.

    Raises:
        ToolError: ntfs-3g is missing, or may not mount here.
    """
    mount_point.mkdir()
    with _mounted(volume, mount_point):
        for number, path in enumerate(sorted(mount_point.rglob("*"))):
            if path.is_symlink():
                continue
            os.setxattr(path, "system.ntfs_acl", (_OPEN, _READ_ONLY)[number % 3 == 0])
            if path.is_dir():
                continue
            if path.stat().st_nlink == 1 and len(path.stem) > 8 and path.name.isascii():
                short = f"{path.stem[:4].upper()}~{number}{path.suffix[:4].upper()}"
                os.setxattr(path, "system.ntfs_dos_name", short.encode())
            if number % 5 == 0:
                attributes = (_ARCHIVE | _HIDDEN | _SYSTEM).to_bytes(4, "little")
                os.setxattr(path, "system.ntfs_attrib", attributes)
            if number % 7 == 0:
                stream = path.with_name(f"{path.name}:Zone.Identifier")
                stream.write_bytes(content.text(path.name, 60 + number * 31))
    mount_point.rmdir()


@contextmanager
def _mounted(volume: Path, mount_point: Path) -> Iterator[None]:
    options = "streams_interface=windows,noatime"
    run_tool("ntfs-3g", "-o", options, str(volume), str(mount_point), package="ntfs-3g")
    try:
        yield
    finally:
        run_tool("fusermount", "-u", str(mount_point), package="fuse3")
        _wait_unmounted(volume)


def _wait_unmounted(volume: Path) -> None:
    """fusermount returns before the driver has written everything and let go of the file."""
    target, own = str(volume.resolve()), f"/proc/{os.getpid()}/"
    deadline = time.monotonic() + _UNMOUNT_SECONDS
    while any(_is_open(link, target) for link in Path("/proc").glob("[0-9]*/fd/*")
              if not str(link).startswith(own)):  # fmt: skip
        if time.monotonic() > deadline:
            raise ToolError(
                f"ntfs-3g still holds {volume} {_UNMOUNT_SECONDS:g} s after the unmount"
            )
        time.sleep(0.05)


def _is_open(link: Path, target: str) -> bool:
    try:
        return str(link.readlink()) == target
    except OSError:  # the process or the descriptor is gone
        return False
