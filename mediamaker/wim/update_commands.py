# SPDX-License-Identifier: GPL-3.0-or-later
"""The language of ``wim update``: one command a line, as wimupdate(1) has it.

::

    # a comment
    add [--no-replace] [--dereference] [--unix-data] [--no-acls] [--strict-acls] SOURCE PATH
    delete [--force] [--recursive] PATH
    rename OLD_PATH NEW_PATH

Words are separated by blanks. A word with blanks in it stands in ``'`` or ``"``; there are no
escapes, so that a backslash is what it looks like. SOURCE is a path here, PATH one in the image;
``/`` and ``\\`` both separate its parts.
"""

from __future__ import annotations

import re
from dataclasses import dataclass

from mediamaker.errors import UsageError

COMMAND_COUNT_MAX = 1_000_000
_WORD_RE = re.compile(r"""\s*(?:"([^"]*)"|'([^']*)'|([^\s"']\S*))(?=\s|$)""")


@dataclass(frozen=True, slots=True, kw_only=True)
class AddFile:
    """Put the file or tree ``source`` at ``target``."""

    line_number: int
    source: str
    target: str
    options: frozenset[str] = frozenset()


@dataclass(frozen=True, slots=True, kw_only=True)
class DeletePath:
    """Delete ``path``; a directory with what is in it only when ``is_recursive``."""

    line_number: int
    path: str
    is_recursive: bool = False
    may_be_missing: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class RenamePath:
    """Move ``source`` to ``target``, replacing what is there, as rename(2) does."""

    line_number: int
    source: str
    target: str


UpdateLine = AddFile | DeletePath | RenamePath

_OPTIONS = {
    "add": frozenset(
        {"--no-replace", "--dereference", "--unix-data", "--no-acls", "--strict-acls"}
    ),
    "delete": frozenset({"--force", "--recursive"}),
    "rename": frozenset[str](),
}
_USAGE = {
    "add": "add [OPTION...] SOURCE PATH",
    "delete": "delete [--force] [--recursive] PATH",
    "rename": "rename OLD_PATH NEW_PATH",
}
_ARGUMENT_COUNTS = {"add": 2, "delete": 1, "rename": 2}


def parse_update_commands(text: str, *, what: str = "standard input") -> tuple[UpdateLine, ...]:
    """The commands in ``text``, in order; ``what`` names it in messages.

    Raises:
        UsageError: names the line, and what it should have been.
    """
    commands: list[UpdateLine] = []
    # Only these end a line: a form feed or U+2028 may be part of a name.
    for number, line in enumerate(re.split(r"\r\n|\n|\r", text.removeprefix("\ufeff")), 1):
        words = _split_words(line, f"{what}, line {number}")
        if not words or (words[0][1] and words[0][0].startswith("#")):
            continue
        if len(commands) == COMMAND_COUNT_MAX:
            raise UsageError(f"{what}: has more than {COMMAND_COUNT_MAX} commands")
        commands.append(_parse_command(words, number, f"{what}, line {number}"))
    return tuple(commands)


def _parse_command(words: list[tuple[str, bool]], number: int, where: str) -> UpdateLine:
    verb = words[0][0]
    if verb not in _OPTIONS:
        raise UsageError(
            f"{where}: {verb!r} is not a command", hint="the commands are add, delete and rename"
        )
    rest = words[1:]
    options: set[str] = set()
    while rest and rest[0][1] and rest[0][0].startswith("--"):
        option = rest.pop(0)[0]
        if option == "--":
            break
        if option not in _OPTIONS[verb]:
            known = ", ".join(sorted(_OPTIONS[verb])) or "no options"
            raise UsageError(f"{where}: {verb} has no option {option!r}", hint=f"it knows {known}")
        options.add(option)
    arguments = [word for word, _ in rest]
    if len(arguments) != _ARGUMENT_COUNTS[verb]:
        raise UsageError(
            f"{where}: expected {_ARGUMENT_COUNTS[verb]} after {verb}, got {len(arguments)}",
            hint=f"write it as: {_USAGE[verb]} (a path with blanks stands in quotes)",
        )
    if not all(arguments) or any("\0" in argument for argument in arguments):
        raise UsageError(f"{where}: a path is empty or has a NUL in it")
    match verb:
        case "add":
            return AddFile(
                line_number=number,
                source=arguments[0],
                target=arguments[1],
                options=frozenset(options),
            )
        case "delete":
            return DeletePath(
                line_number=number,
                path=arguments[0],
                is_recursive="--recursive" in options,
                may_be_missing="--force" in options,
            )
        case _:
            return RenamePath(line_number=number, source=arguments[0], target=arguments[1])


def _split_words(line: str, where: str) -> list[tuple[str, bool]]:
    """The words, and whether each stood there without quotes."""
    words: list[tuple[str, bool]] = []
    position, end = 0, len(line.rstrip())
    while position < end:
        if line[position:].lstrip().startswith("#") and not words:
            return []
        match = _WORD_RE.match(line, position)
        if match is None:
            raise UsageError(
                f"{where}: a quote is not closed, or is followed by something else: "
                f"{line[position:].strip()!r}",
                hint="a word with one kind of quote in it stands in the other kind",
            )
        bare = match[3]
        words.append((bare, True) if bare is not None else (match[1] or match[2] or "", False))
        position = match.end()
    return words
