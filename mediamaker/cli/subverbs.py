# SPDX-License-Identifier: GPL-3.0-or-later
"""Verbs that have verbs of their own, such as ``wim split``: one row each."""

from __future__ import annotations

import argparse
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TypeVar

from mediamaker.cli.output import Output
from mediamaker.errors import ExitCode

Parser = TypeVar("Parser", bound=argparse.ArgumentParser)


@dataclass(frozen=True, slots=True)
class SubVerb:
    """``help`` is one line; ``example`` is a whole command."""

    name: str
    help: str
    example: str
    add_arguments: Callable[[argparse.ArgumentParser], None]
    run: Callable[[argparse.Namespace, Output], ExitCode]


def add_subverbs(parser: argparse.ArgumentParser, verbs: Sequence[SubVerb]) -> None:
    """Declare ``verbs`` with their arguments; :func:`run_subverb` does the one that is named."""
    subparsers = parser.add_subparsers(dest="subverb", metavar="WHAT", required=True)
    for verb in verbs:
        sub = add_verb_parser(subparsers, verb.name, verb.help, verb.example)
        verb.add_arguments(sub)
        add_json_option(sub)
        sub.set_defaults(run_subverb=verb.run)


def run_subverb(args: argparse.Namespace, output: Output) -> ExitCode:
    """Do what the sub-verb says."""
    code: ExitCode = args.run_subverb(args, output)
    return code


def add_verb_parser(
    subparsers: argparse._SubParsersAction[Parser],
    name: str,
    help_line: str,
    example: str,
) -> Parser:
    """A parser whose help says what the verb does and shows a whole command."""
    return subparsers.add_parser(
        name,
        help=help_line,
        description=help_line[0].upper() + help_line[1:] + ".",
        epilog=f"example:\n  {example}",
        formatter_class=argparse.RawDescriptionHelpFormatter,
        allow_abbrev=False,
    )


def add_json_option(parser: argparse.ArgumentParser) -> None:
    """The option that every verb has."""
    parser.add_argument(
        "--json", action="store_true", help="one JSON object a line instead of text"
    )
