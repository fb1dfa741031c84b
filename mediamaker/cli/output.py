# SPDX-License-Identifier: GPL-3.0-or-later
"""Where words go: text for people, or one JSON object a line.

Results go to standard output; progress, notes and errors of the text form go to standard
error, so that a pipe gets the result alone. Every JSON object has ``mediamaker_json`` (the
version of these objects, `schemas/events.schema.json`) and ``event``.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Mapping
from contextlib import suppress
from io import TextIOWrapper
from typing import Any, TextIO

from mediamaker.cli.terminal import printable
from mediamaker.errors import MediaError

JSON_VERSION = 1


class Output:
    """One run's output, in one of the two forms."""

    def __init__(self, *, as_json: bool) -> None:
        self.as_json = as_json

    def event(self, event: str, **fields: Any) -> None:
        """A JSON object of its own line; nothing in the text form."""
        if self.as_json:
            record: Mapping[str, Any] = {
                "mediamaker_json": JSON_VERSION,
                "event": event,
                **fields,
            }
            # ASCII alone: whatever the locale is, and however a file name is spelled.
            _print(json.dumps(record), sys.stdout)

    def result(self, text: str) -> None:
        """What the person asked for; nothing in the JSON form."""
        if not self.as_json:
            _print(printable(text), sys.stdout)

    def note(self, text: str) -> None:
        """A word on the way; nothing in the JSON form."""
        if not self.as_json:
            _print(printable(text), sys.stderr)

    def warning(self, text: str) -> None:
        """Something the person should know, in either form."""
        self.event("warning", message=text)
        self.note(f"warning: {text}")

    def error(self, error: MediaError) -> None:
        """Why it ended, and what to do now; never fails for want of somebody who reads."""
        with suppress(OSError):
            self._error(error)

    def _error(self, error: MediaError) -> None:
        try:
            self.event(
                "error",
                exit_code=int(error.exit_code),
                error=type(error).__name__,
                message=error.message,
                hint=error.hint,
            )
        except OSError:
            self.as_json = False
        self.note(f"mediamaker: error: {error.message}")
        if error.hint:
            self.note(f"  hint: {error.hint}")


def _print(text: str, stream: TextIO) -> None:
    """A line; what the locale can't spell is shown as ``\\xfc``."""
    if isinstance(stream, TextIOWrapper) and stream.errors == "strict":
        stream.reconfigure(errors="backslashreplace")
    print(text, file=stream, flush=True)
