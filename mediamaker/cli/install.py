# SPDX-License-Identifier: GPL-3.0-or-later
"""``mediamaker install``: an image of Windows onto a whole disk, or into partitions that exist."""

from __future__ import annotations

import argparse
from pathlib import Path

from mediamaker.cli.install_disk import add_disk_options, install_disk
from mediamaker.cli.install_parts import add_partition_options, install_partitions
from mediamaker.cli.output import Output
from mediamaker.errors import ExitCode, UsageError
from mediamaker.install.request import WinreMode


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the verb's arguments."""
    parser.add_argument("source", metavar="WIM[:IMAGE]", help="a WIM, or the first of its parts")
    parser.add_argument(
        "target", type=Path, nargs="?", metavar="TARGET", help="block device or image file"
    )
    parser.add_argument(
        "--firmware",
        choices=("uefi", "bios"),
        default="uefi",
        help="what the machine starts with (default: uefi)",
    )
    parser.add_argument(
        "--layout",
        metavar="NAME|FILE",
        help="how the disk is arranged: uefi, bios, or a TOML file (default: as --firmware)",
    )
    parser.add_argument(
        "--winre",
        type=WinreMode,
        choices=list(WinreMode),
        metavar="registered|native|none",
        help="WinRE on the recovery partition and in the boot store (default), left staged for "
        "Windows' own setup, or neither",
    )
    add_disk_options(parser)
    add_partition_options(parser)


def run(args: argparse.Namespace, output: Output) -> ExitCode:
    """Install, and say what became of the disk."""
    has_partitions = args.windows is not None or args.system is not None
    if has_partitions:
        if args.target is not None:
            raise UsageError(
                "a whole TARGET and --windows/--system contradict each other",
                hint="name the disk, or the two partitions",
            )
        return install_partitions(args, output)
    if args.target is None:
        raise UsageError(
            "no target is named", hint="name a disk or an image file, or --windows and --system"
        )
    if args.undo is not None:
        raise UsageError(
            "--undo is for --windows and --system; a whole disk that was erased has no way back",
            hint="leave it out",
        )
    return install_disk(
        args,
        output,
        verb="install",
        layout_name=args.layout or args.firmware,
        firmwares=(args.firmware,),
        winre=args.winre or WinreMode.REGISTERED,
    )
