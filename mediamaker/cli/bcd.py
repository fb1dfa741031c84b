# SPDX-License-Identifier: GPL-3.0-or-later
"""``mediamaker bcd``: read, make and change Boot Configuration Data stores."""

from __future__ import annotations

import argparse

from mediamaker.cli import bcd_change, bcd_create, bcd_show
from mediamaker.cli.output import Output
from mediamaker.cli.subverbs import SubVerb, add_subverbs, run_subverb
from mediamaker.errors import ExitCode

SUBVERBS = (
    SubVerb(
        "show",
        "every object and element by name, devices decoded (bcdedit /enum all)",
        "mediamaker bcd show /mnt/EFI/Microsoft/Boot/BCD",
        bcd_show.add_show_arguments,
        bcd_show.run_show,
    ),
    SubVerb(
        "create",
        "make a store of one of the usual kinds, or an object in a store",
        "mediamaker bcd create BCD --kind installed --system gpt:... --windows gpt:...",
        bcd_create.add_create_arguments,
        bcd_create.run_create,
    ),
    SubVerb(
        "set",
        "set an element of an object",
        "mediamaker bcd set BCD '{bootmgr}' timeout 5",
        bcd_change.add_set_arguments,
        bcd_change.run_set,
    ),
    SubVerb(
        "delete",
        "delete an object, or an element of it",
        "mediamaker bcd delete BCD '{default}' recoverysequence",
        bcd_change.add_delete_arguments,
        bcd_change.run_delete,
    ),
    SubVerb(
        "export",
        "copy a store, checked and compact, or what it says as text or JSON",
        "mediamaker bcd export BCD BCD.copy",
        bcd_change.add_export_arguments,
        bcd_change.run_export,
    ),
)


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the sub-verbs and their arguments."""
    add_subverbs(parser, SUBVERBS)


def run(args: argparse.Namespace, output: Output) -> ExitCode:
    """Do what the sub-verb says."""
    return run_subverb(args, output)
