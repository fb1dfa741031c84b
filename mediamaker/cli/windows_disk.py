# SPDX-License-Identifier: GPL-3.0-or-later
"""What ``recovery`` and ``undo`` share: a disk that stays in use, and a person who says so."""

from __future__ import annotations

import argparse
import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from mediamaker.cli.output import Output
from mediamaker.cli.session import find_target_disk
from mediamaker.cli.terminal import printable
from mediamaker.devices.guard import (
    GuardContext,
    check_confirmation,
    check_may_write,
    confirmation_words,
)
from mediamaker.devices.mounts import read_mounts
from mediamaker.devices.sysfs import SystemRoots
from mediamaker.devices.target import BlockTarget, is_block_device
from mediamaker.errors import TargetRefusedError
from mediamaker.install.disk_file import ChangeableDisk, open_disk
from mediamaker.install.recovery_add import find_sector_size
from mediamaker.units import format_size

_MEMORY = frozenset({"tmpfs", "ramfs"})


def add_confirm_option(parser: argparse.ArgumentParser) -> None:
    """The option that releases a disk; an image file needs none."""
    parser.add_argument(
        "--confirm",
        metavar="SERIAL",
        help="release the disk without being asked: its serial (or model) as `devices` shows it",
    )


@contextmanager
def opened_disk(path: Path, *, writable: bool) -> Iterator[ChangeableDisk]:
    """The disk or image file; a device is nobody else's meanwhile.

    Raises:
        TargetRefusedError: it is in use, or the running system's own.
    """
    if is_block_device(path):
        check_may_write(find_target_disk(path), GuardContext(allow_fixed_disk=True))
    with _opened(path, writable=writable) as disk:
        yield disk


@contextmanager
def readable_disk(path: Path) -> Iterator[ChangeableDisk]:
    """The disk or image file, which others may be using."""
    with _opened(path, writable=False) as disk:
        yield disk


@contextmanager
def _opened(path: Path, *, writable: bool) -> Iterator[ChangeableDisk]:
    sector_size = 0
    if not is_block_device(path):
        try:
            sector_size = find_sector_size(path, path.stat().st_size)
        except OSError as error:
            raise TargetRefusedError(f"{path}: can't be read: {error.strerror}") from error
    disk = open_disk(path, writable=writable, sector_size=sector_size)
    try:
        yield disk
    finally:
        disk.close()


def release(path: Path, opened: ChangeableDisk, given: str | None, output: Output) -> None:
    """Have the person name the disk that will be changed; an image file is only named once.

    What was computed for ``opened`` must still fit it after the person has thought.

    Raises:
        TargetRefusedError: not confirmed, another disk, or changed by somebody meanwhile.
    """
    if not isinstance(opened, BlockTarget):
        return
    disk = find_target_disk(path)
    words = confirmation_words(disk)
    if given is None:
        if output.as_json or not (sys.stdin.isatty() and sys.stderr.isatty()):
            raise TargetRefusedError(
                f"{path} is not confirmed, and there is no terminal to ask at",
                hint=f'if it is the right disk, pass --confirm "{words}"',
            )
        question = f'Type "{words}" to change {path} ({format_size(disk.size)}): '
        print(printable(question), end="", file=sys.stderr, flush=True)
        given = sys.stdin.readline()
    check_confirmation(disk, given)
    opened.check_unchanged()


def is_in_memory(folder: Path) -> bool:
    """Whether what is put there goes with the power."""
    device = folder.stat().st_dev
    number = f"{os.major(device)}:{os.minor(device)}"
    return any(
        mount.number == number and mount.filesystem in _MEMORY
        for mount in read_mounts(SystemRoots())
    )
