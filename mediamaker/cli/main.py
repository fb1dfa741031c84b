# SPDX-License-Identifier: GPL-3.0-or-later
"""The command: parses arguments, runs one verb, turns errors into exit codes."""

from __future__ import annotations

import argparse
import signal
import sys
import traceback
from collections.abc import Sequence
from pathlib import Path
from types import FrameType
from typing import NoReturn

from mediamaker import __version__
from mediamaker.cli.output import Output
from mediamaker.cli.subverbs import add_json_option, add_verb_parser
from mediamaker.cli.verbs import VERBS
from mediamaker.errors import ExitCode, MediaError, RunInterruptedError, UsageError

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


class _Parser(argparse.ArgumentParser):
    """Raises instead of exiting, so that usage errors too can be JSON."""

    def error(self, message: str) -> NoReturn:
        raise UsageError(message, hint=f"see `{self.prog} --help`")


def build_parser(arguments: Sequence[str]) -> argparse.ArgumentParser:
    """The parser with all verbs; only one that ``arguments`` name has its own arguments."""
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
        sub = add_verb_parser(subparsers, verb.name, verb.help, verb.example)
        if verb.name not in arguments:
            continue
        module = verb.load()
        module.add_arguments(sub)
        add_json_option(sub)
        sub.set_defaults(run=module.run)
    return parser


def main(argv: Sequence[str] | None = None) -> int:
    """Run one command and return its exit code."""
    arguments = list(sys.argv[1:] if argv is None else argv)
    output = Output(as_json="--json" in arguments)
    signal.signal(signal.SIGTERM, _interrupt)
    if signal.getsignal(signal.SIGHUP) is signal.SIG_DFL:  # nohup has it ignored
        signal.signal(signal.SIGHUP, _interrupt)
    try:
        args = build_parser(arguments).parse_args(arguments)
        return int(args.run(args, output))
    except MediaError as error:
        return _fail(output, error)
    except KeyboardInterrupt as error:
        # The engine notes what is left on the target.
        message = "; ".join(["interrupted", *getattr(error, "__notes__", ())])
        return _fail(output, RunInterruptedError(message))
    except BrokenPipeError:
        # The reader of our output went away; there is nobody left to tell.
        sys.stderr.close()
        return int(ExitCode.UNEXPECTED)
    except OSError as error:
        what = f"{error.filename}: " if error.filename else ""
        return _fail(output, MediaError(f"{what}{error.strerror or error}"))
    except Exception as error:  # noqa: BLE001 - a bug is told to the person, not thrown at them
        where = traceback.extract_tb(error.__traceback__)[-1]
        place = f"{Path(where.filename).name}:{where.lineno}"
        words = f"unexpected {type(error).__name__} at {place}: {error}"
        hint = "this is a bug in mediamaker; please report it with the command that shows it"
        return _fail(output, MediaError(words, hint=hint))


def _fail(output: Output, error: MediaError) -> int:
    output.error(error)
    return int(error.exit_code)


def _interrupt(_signal: int, _frame: FrameType | None) -> NoReturn:
    # kill(1), shutdowns and a terminal that was closed end a run as Ctrl-C does.
    raise KeyboardInterrupt


if __name__ == "__main__":
    sys.exit(main())
