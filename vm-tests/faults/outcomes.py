# SPDX-License-Identifier: GPL-3.0-or-later
"""What a command that met a fault says and leaves: shared by cells that are not about kills."""

from __future__ import annotations

import json
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from faults.kill import Killed
from faults.windows_rig import run


@contextmanager
def small_folder(place: Path, size: int) -> Iterator[Path]:
    """A file system in memory that holds ``size`` bytes."""
    place.mkdir(exist_ok=True)
    run("mount", "-t", "tmpfs", "-o", f"size={size}", "tmpfs", place)
    try:
        yield place
    finally:
        run("umount", place)


def short_environment(folder: Path, seed: int) -> dict[str, str]:
    """For a process and all that it starts: writes take fewer bytes than they are given.

    Those that did are counted in the size of ``folder/short.log``.
    """
    (folder / "short.log").write_bytes(b"")
    library = folder / "short.so"
    if not library.exists():
        source = Path(__file__).with_name("short_writes.c")
        run("gcc", "-shared", "-fPIC", "-O1", "-Wall", "-Werror", "-o", library, source, "-ldl")
    return {
        "LD_PRELOAD": str(library),
        "MM_SHORT_SEED": str(seed),
        "MM_SHORT_LOG": str(folder / "short.log"),
    }


def judge_refusal(killed: Killed, codes: tuple[int, ...], words: tuple[str, ...]) -> str | None:
    """What is wrong with how a command said no: ``words`` of which one must be in its message."""
    if "Traceback" in killed.errors:
        return f"a traceback: {killed.errors[-200:]}"
    message = last_line(killed.output)
    if killed.exit_code not in codes:
        return f"exit {killed.exit_code}, not {codes}: {message}"
    if not any(word in message.lower() for word in words):
        return f"the message names none of {words}: {message}"
    return None


def run_plain(words: list[str]) -> Killed:
    """To its end, whatever that is."""
    done = subprocess.run(words, capture_output=True, text=True, check=False)
    return Killed(done.returncode, done.stdout, done.stderr)


def last_line(output: str) -> str:
    """The end of what was said, short enough for a table."""
    lines = output.strip().splitlines()
    if not lines:
        return ""
    try:
        last = json.loads(lines[-1])
    except ValueError:
        return lines[-1][:300]
    return str(last.get("message", last.get("event", "")))[:300]
