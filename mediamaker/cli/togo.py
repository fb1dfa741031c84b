# SPDX-License-Identifier: GPL-3.0-or-later
"""``mediamaker togo``: a Windows that goes from machine to machine on a removable disk."""

from __future__ import annotations

import argparse
from pathlib import Path

from mediamaker.cli.install_disk import add_disk_options, install_disk
from mediamaker.cli.output import Output
from mediamaker.errors import ExitCode
from mediamaker.install.request import WinreMode


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the verb's arguments."""
    parser.add_argument("source", metavar="WIM[:IMAGE]", help="a WIM, or the first of its parts")
    parser.add_argument("target", type=Path, metavar="TARGET", help="block device or image file")
    parser.add_argument(
        "--firmware",
        choices=("both", "uefi", "bios"),
        default="both",
        help="what the machines start with (default: both, as far as the image can)",
    )
    parser.add_argument(
        "--layout",
        metavar="NAME|FILE",
        default="togo",
        help="how the disk is arranged: togo (default) or a TOML file",
    )
    add_disk_options(parser)


def run(args: argparse.Namespace, output: Output) -> ExitCode:
    """Make the disk, and say what became of it."""
    return install_disk(
        args,
        output,
        verb="togo",
        layout_name=args.layout,
        firmwares=("uefi", "bios") if args.firmware == "both" else (args.firmware,),
        winre=WinreMode.NONE,
        is_portable=True,
    )
