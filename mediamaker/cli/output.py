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
from typing import Any

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
            print(json.dumps(record, ensure_ascii=False), flush=True)

    def result(self, text: str) -> None:
        """What the person asked for; nothing in the JSON form."""
        if not self.as_json:
            print(printable(text), flush=True)

    def note(self, text: str) -> None:
        """A word on the way; nothing in the JSON form."""
        if not self.as_json:
            print(printable(text), file=sys.stderr, flush=True)

    def warning(self, text: str) -> None:
        """Something the person should know, in either form."""
        self.event("warning", message=text)
        self.note(f"warning: {text}")

    def error(self, error: MediaError) -> None:
        """Why it ended, and what to do now."""
        self.event(
            "error",
            exit_code=int(error.exit_code),
            error=type(error).__name__,
            message=error.message,
            hint=error.hint,
        )
        self.note(f"mediamaker: error: {error.message}")
        if error.hint:
            self.note(f"  hint: {error.hint}")
