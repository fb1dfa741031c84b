# SPDX-License-Identifier: GPL-3.0-or-later
"""Runs ``mediamaker --json`` here or in a guest, and keeps what it said."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

from guest import GuestResult, run_in_guest

from mediamaker.units import MIB
from mediamaker.vm.disk import Disk

T = TypeVar("T")
SHELL = """\
# mm NAME WORDS...: what it says goes to NAME.json, NAME.err, NAME.code
mm() {
    local name=$1 code=0
    shift
    python3 -m mediamaker "$@" --json > $name.json 2> $name.err || code=$?
    echo $code > $name.code
}
"""


@dataclass(frozen=True, slots=True)
class Ran:
    """A command that ended: its exit code, its events, and its standard error (none is right)."""

    exit_code: int
    events: tuple[dict[str, Any], ...]
    errors: str

    @property
    def message(self) -> str:
        """Of the error, if it ended with one."""
        return next((e["message"] for e in self.events if e["event"] == "error"), "")

    @property
    def words(self) -> str:
        """All that it said to a person."""
        told = [e for e in self.events if e["event"] in {"error", "warning", "note"}]
        return "\n".join(f"{e['message']} ({e.get('hint')})" for e in told)

    def event(self, kind: str) -> dict[str, Any]:
        """The one event of that kind."""
        (found,) = [event for event in self.events if event["event"] == kind]
        return found


def mediamaker(*words: object) -> list[str]:
    """The command, as a person's script has it."""
    return [sys.executable, "-m", "mediamaker", *map(str, words)]


def state_environment(folder: Path) -> dict[str, str]:
    """Journals and undo files of a trial are its own."""
    return {**os.environ, "XDG_STATE_HOME": str(folder.absolute())}


def run_json(*words: object, env: Mapping[str, str] | None = None) -> Ran:
    """Run it here."""
    command = mediamaker(*words, "--json")
    done = subprocess.run(command, capture_output=True, text=True, check=False, env=env)
    return parse_ran(done.returncode, done.stdout, done.stderr)


def parse_ran(code: int, said: str, errors: str) -> Ran:
    """What it said, as lines of JSON; a last one that is torn belongs to a run that was killed."""
    events = []
    for line in said.splitlines():
        try:
            events.append(json.loads(line))
        except ValueError:
            if code >= 0:
                raise
    return Ran(code, tuple(events), errors)


def read_ran(folder: Path, name: str) -> Ran:
    """What ``mm NAME`` of a guest's script said."""
    code = int((folder / f"{name}.code").read_text())
    texts = [(folder / f"{name}.{ending}").read_text() for ending in ("json", "err")]
    return parse_ran(code, *texts)


def guest(
    script: str, disks: Sequence[Disk], folder: Path, *, memory_size: int = 1024 * MIB
) -> GuestResult:
    """Run ``script``, which may use ``mm``, to its end; ``folder`` is its own, and is kept."""
    folder.mkdir(parents=True, exist_ok=True)
    result = run_in_guest(
        SHELL + script, disks=disks, work_dir=folder, timeout=1800, memory_size=memory_size
    )
    if result.exit_code:
        raise RuntimeError(
            f"the script in the guest ended with {result.exit_code}: {result.output}"
        )
    return result


def in_groups(items: Sequence[T], size: int) -> Iterator[Sequence[T]]:
    """Some at a time."""
    for start in range(0, len(items), size):
        yield items[start : start + size]


def run(*words: object) -> str:
    """Run a tool that must not fail; gives its standard output."""
    done = subprocess.run(
        [str(word) for word in words], capture_output=True, text=True, check=False,
        stdin=subprocess.DEVNULL,
    )  # fmt: skip
    if done.returncode:
        raise RuntimeError(f"{words[0]} ended with {done.returncode}: {done.stdout}{done.stderr}")
    return done.stdout
