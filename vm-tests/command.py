# SPDX-License-Identifier: GPL-3.0-or-later
"""Runs the command as a person's script would, and reads its JSON."""

from __future__ import annotations

import json
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any


@dataclass(frozen=True, slots=True)
class Finished:
    """One run of the command; ``events`` are the JSON objects that it printed."""

    exit_code: int
    events: tuple[dict[str, Any], ...]
    errors: str

    @property
    def last(self) -> dict[str, Any]:
        """The verb's own object, or the error."""
        return self.events[-1]


def mediamaker(*words: str | Path, timeout: float = 900) -> Finished:
    """Run ``mediamaker WORDS --json``."""
    process = subprocess.run(
        [sys.executable, "-m", "mediamaker", *map(str, words), "--json"],
        capture_output=True,
        text=True,
        check=False,
        timeout=timeout,
        stdin=subprocess.DEVNULL,
    )
    events = tuple(json.loads(line) for line in process.stdout.splitlines())
    return Finished(process.returncode, events, process.stderr)


def succeed(*words: str | Path, timeout: float = 900) -> dict[str, Any]:
    """As :func:`mediamaker`; anything but exit code 0 fails the test. Gives the last object."""
    finished = mediamaker(*words, timeout=timeout)
    assert finished.exit_code == 0, (words, finished.events[-1:], finished.errors)
    return finished.last
