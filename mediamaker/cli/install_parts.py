# SPDX-License-Identifier: GPL-3.0-or-later
"""``install --windows P --system P``: into partitions that exist; nothing else is touched."""

from __future__ import annotations

import argparse

from mediamaker.cli.output import Output
from mediamaker.errors import ExitCode, UsageError


def add_partition_options(parser: argparse.ArgumentParser) -> None:
    """The options that name partitions."""
    group = parser.add_argument_group("into partitions that exist")
    group.add_argument("--windows", metavar="PARTITION", help="formatted anew, gets the image")
    group.add_argument("--system", metavar="PARTITION", help="gets boot files and an entry")


def install_partitions(args: argparse.Namespace, output: Output) -> ExitCode:
    """The whole verb."""
    del args, output
    raise UsageError("not there yet")
