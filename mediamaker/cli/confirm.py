# SPDX-License-Identifier: GPL-3.0-or-later
"""Has a person or a script say which disk may be erased, and sees that it is still that one."""

from __future__ import annotations

import argparse
import sys

from mediamaker.cli.output import Output
from mediamaker.cli.session import find_target_disk
from mediamaker.cli.terminal import printable
from mediamaker.devices.disk import Disk
from mediamaker.devices.guard import (
    GuardContext,
    check_confirmation,
    check_may_write,
    confirmation_words,
)
from mediamaker.devices.identity import check_same_disk, disk_fingerprint
from mediamaker.errors import TargetRefusedError
from mediamaker.units import format_size


def add_device_options(parser: argparse.ArgumentParser) -> None:
    """The options that release a disk."""
    parser.add_argument(
        "--confirm",
        metavar="SERIAL",
        help="release the disk without being asked: its serial (or model) as `devices` shows it",
    )
    parser.add_argument(
        "--allow-fixed-disk", action="store_true", help="allow a disk that is not removable"
    )


def release_disk(
    args: argparse.Namespace, disk: Disk, context: GuardContext, output: Output
) -> None:
    """Ask, then look again: nothing may have changed while the person was thinking.

    Raises:
        TargetRefusedError: not confirmed, or another disk is there now.
    """
    _confirm(args.confirm, disk, output)
    again = find_target_disk(disk.path)
    check_same_disk(disk_fingerprint(disk), disk_fingerprint(again), what=str(disk.path))
    check_may_write(again, context)


def _confirm(given: str | None, disk: Disk, output: Output) -> None:
    if given is not None:
        check_confirmation(disk, given)
        return
    words = confirmation_words(disk)
    if output.as_json or not (sys.stdin.isatty() and sys.stderr.isatty()):
        raise TargetRefusedError(
            f"{disk.path} is not confirmed, and there is no terminal to ask at",
            hint=f'if everything on it may be lost, pass --confirm "{words}"',
        )
    print(
        printable(f'Type "{words}" to erase {disk.path} ({format_size(disk.size)}): '),
        end="",
        file=sys.stderr,
        flush=True,
    )
    check_confirmation(disk, sys.stdin.readline())
