# SPDX-License-Identifier: GPL-3.0-or-later
"""The command: parses arguments, runs one verb, turns errors into exit codes."""

from __future__ import annotations

import argparse
import signal
import sys
from collections.abc import Sequence
from types import FrameType
from typing import NoReturn, Protocol

from mediamaker import __version__
from mediamaker.cli import boot, create, devices, inspect, plan, verify
from mediamaker.cli.output import Output
from mediamaker.errors import ExitCode, MediaError, UsageError

_EXIT_CODES = """\
exit codes:
  0 done                          5 verification failed
  1 unexpected error              6 I/O error on the target
  2 usage                         7 boot not proven
  3 source unusable             130 interrupted
  4 target refused or too small

example:
  mediamaker create Win11.iso stick.img && mediamaker boot stick.img --firmware uefi
"""


class Verb(Protocol):
    """What a verb's module offers."""

    NAME: str
    HELP: str
    EXAMPLE: str

    def add_arguments(self, parser: argparse.ArgumentParser) -> None:
        """Declare the verb's arguments."""

    def run(self, args: argparse.Namespace, output: Output) -> ExitCode:
        """Do it."""


VERBS: tuple[Verb, ...] = (inspect, plan, create, verify, boot, devices)


class _Parser(argparse.ArgumentParser):
    """Raises instead of exiting, so that usage errors too can be JSON."""

    def error(self, message: str) -> NoReturn:
        raise UsageError(message, hint=f"see `{self.prog} --help`")


def build_parser() -> argparse.ArgumentParser:
    """The parser with all verbs."""
    parser = _Parser(
        prog="mediamaker",
        description="Makes Windows and Linux install sticks, and proves that they boot.",
        epilog=_EXIT_CODES,
        formatter_class=argparse.RawDescriptionHelpFormatter,
        allow_abbrev=False,
    )
    parser.add_argument("--version", action="version", version=f"mediamaker {__version__}")
    subparsers = parser.add_subparsers(dest="verb", metavar="VERB", required=True)
    for verb in VERBS:
        sub = subparsers.add_parser(
            verb.NAME,
            help=verb.HELP,
            description=verb.HELP[0].upper() + verb.HELP[1:] + ".",
            epilog=f"example:\n  {verb.EXAMPLE}",
            formatter_class=argparse.RawDescriptionHelpFormatter,
            allow_abbrev=False,
        )
        verb.add_arguments(sub)
        sub.add_argument(
            "--json", action="store_true", help="one JSON object a line instead of text"
        )
        sub.set_defaults(run=verb.run)
    return parser


def main(argv: Sequence[str] | None = None) -> int:
    """Run one command and return its exit code."""
    arguments = list(sys.argv[1:] if argv is None else argv)
    output = Output(as_json="--json" in arguments)
    signal.signal(signal.SIGTERM, _interrupt)
    try:
        args = build_parser().parse_args(arguments)
        return int(args.run(args, output))
    except MediaError as error:
        output.error(error)
        return int(error.exit_code)
    except KeyboardInterrupt:
        output.event(
            "error",
            exit_code=int(ExitCode.INTERRUPTED),
            error="Interrupted",
            message="interrupted",
            hint=None,
        )
        output.note("\nmediamaker: interrupted")
        return int(ExitCode.INTERRUPTED)
    except BrokenPipeError:
        # The reader of our output went away; there is nobody left to tell.
        sys.stderr.close()
        return int(ExitCode.UNEXPECTED)
    except OSError as error:
        output.error(_unexpected(error))
        return int(ExitCode.UNEXPECTED)


def _unexpected(error: OSError) -> MediaError:
    what = f"{error.filename}: " if error.filename else ""
    return MediaError(f"{what}{error.strerror or error}")


def _interrupt(_signal: int, _frame: FrameType | None) -> NoReturn:
    # kill(1) and shutdowns end a run as Ctrl-C does: cleanly, with the target left blank.
    raise KeyboardInterrupt


if __name__ == "__main__":
    sys.exit(main())
