# SPDX-License-Identifier: GPL-3.0-or-later
"""A command killed with SIGKILL ahead of its Nth write, flush or new name, of all its processes.

::

    calls = count_calls(words, folder)             # once, to its end: what it does, in order
    for point in draw_points(rng, calls, 100):
        killed = run_killed(words, point, folder)

A kill is of the whole process group, as of a service that is ended or of a machine without memory,
or of the first process alone, as by ``kill -9 PID``, where what it had started lives on for a
while. Both are waited out before anybody looks at what is left.
"""

from __future__ import annotations

import functools
import json
import mmap
import os
import random
import signal
import struct
import subprocess
import tempfile
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

_SHIM = Path(__file__).with_name("kill_shim.c")
_HEAD = struct.Struct("=QQQQQQQ")
_ROOM = 1 << 20
_SETTLE_SECONDS = 60.0
_TRIES = 20
_FIRST, _GROUP, _STOP = 0, 1, 2
_KINDS = {"w": "write", "f": "flush", "n": "name", "u": "unlink", "t": "truncate"}
_NAMES = _KINDS | {letter.upper(): f"{word} of the target" for letter, word in _KINDS.items()}


@dataclass(frozen=True, slots=True)
class Point:
    """Ahead of call ``number`` (from 1); ``is_group``: all processes die, else the first alone."""

    number: int
    is_group: bool
    name: str


class NotReachedError(RuntimeError):
    """The run ended before the call that something was to happen ahead of."""


@dataclass(frozen=True, slots=True)
class Killed:
    """How it ended; ``exit_code`` is -9 where the first process was killed."""

    exit_code: int
    output: str
    errors: str
    was_reached: bool = True
    """The call came, whichever process died of it."""

    @property
    def was_killed(self) -> bool:
        """The first process was."""
        return self.exit_code == -signal.SIGKILL

    def has_said(self, event: str) -> bool:
        """Whether it had called itself done, by its final event, however it ended."""
        return has_said(self.output, event)


def has_said(output: str, event: str) -> bool:
    """Whether lines of JSON have this event; a last one that is torn was not said."""
    lines = output.splitlines(keepends=True)
    said = (line for line in lines if line.startswith("{") and line.endswith("\n"))
    return any(json.loads(line)["event"] == event for line in said)


@functools.cache
def _library() -> Path:
    folder = Path(tempfile.mkdtemp(prefix="mm-kill-", dir="/dev/shm"))
    library = folder / "kill.so"
    words = ["gcc", "-O1", "-Wall", "-Werror", "-shared", "-fPIC", "-o", library, _SHIM, "-ldl"]
    subprocess.run(words, check=True)
    return library


def count_calls(words: Sequence[str], folder: Path, *, target: Path | None = None) -> str:
    """Run it to its end; a letter for each call, as ``kill_shim.c`` has them.

    ``target``: a file that is there already, whose calls get capital letters, as a device's do.
    """
    state = folder / "kill-state"
    done = _run(words, state, at=0, mode=_FIRST, target=target)
    if done.exit_code:
        raise RuntimeError(f"{words} ended with {done.exit_code}: {done.output}{done.errors}")
    with state.open("rb") as file:
        count = _HEAD.unpack(file.read(_HEAD.size))[0]
        return file.read(min(count, _ROOM)).decode()


def draw_points(rng: random.Random, calls: str, count: int) -> list[Point]:
    """``count`` points in ascending order: first and last, and half of them near flushes and names.

    Only one call in many is where one state turns into the next; these are those. Of the others
    half are among what comes from the first write of the target on, if it is a device or the file
    that was named as ``target``. None is drawn twice until there are no others.
    """
    total = len(calls)
    numbers = range(1, total + 1)
    first_device = calls.find("W") + 1 or 1
    near = sorted(
        {
            number
            for index in range(first_device, total + 1)
            if calls[index - 1] in "fFn"
            for number in range(index - 1, index + 3)
            if 1 <= number <= total
        }
    )
    drawn = dict.fromkeys((number, rng.random() < 0.5) for number in (1, total))
    left = max(0, count - len(drawn))
    near_count, later_count = len(drawn) + left // 2, len(drawn) + left // 2 + left // 4
    _draw_more(rng, near, near_count, drawn)
    _draw_more(rng, range(first_device, total + 1), later_count, drawn)
    _draw_more(rng, numbers, count, drawn)
    # A row has its number of trials, though a very short run has fewer points.
    again = rng.choices(list(drawn), k=max(0, count - len(drawn)))
    return [_name_point(calls, *way) for way in sorted([*drawn, *again])[:count]]


def _name_point(calls: str, number: int, is_group: bool) -> Point:
    who = "all" if is_group else "the first process"
    kind = _NAMES[calls[number - 1]]
    return Point(number, is_group, f"{who} ahead of call {number} of {len(calls)} ({kind})")


def kill_at(
    rng: random.Random,
    calls: str,
    points: list[Point],
    index: int,
    run: Callable[[Point], Killed],
) -> tuple[Point, Killed]:
    """``run`` with ``points[index]``, which is drawn again when it never comes.

    Programs with threads have a few calls more or less each time.
    """
    for _ in range(_TRIES):
        try:
            return points[index], run(points[index])
        except NotReachedError:
            earlier = range(1, max(2, points[index].number))
            ways = [
                _name_point(calls, number, is_all) for number in earlier for is_all in (False, True)
            ]
            points[index] = rng.choice([way for way in ways if way not in points] or ways)
    raise NotReachedError(f"no point of {_TRIES} came; the last was {points[index].name}")


def _draw_more(
    rng: random.Random,
    numbers: Sequence[int],
    count: int,
    drawn: dict[tuple[int, bool], None],
) -> None:
    """Until ``count`` are drawn, or all of these are; each number once before any is twice."""
    ways = [(number, rng.random() < 0.5) for number in numbers]
    rng.shuffle(ways)
    ways += [(number, not is_group) for number, is_group in ways]
    fresh = [way for way in ways if way not in drawn]
    drawn.update(dict.fromkeys(fresh[: max(0, count - len(drawn))]))


def run_killed(
    words: Sequence[str], point: Point, folder: Path, *, target: Path | None = None
) -> Killed:
    """Run it, killed at ``point``; comes back when all of its processes are gone.

    Raises:
        NotReachedError: it ended before that.
    """
    killed = _run(
        words,
        folder / "kill-state",
        at=point.number,
        mode=_GROUP if point.is_group else _FIRST,
        target=target,
    )
    return _check_reached(killed, point.number)


def run_meddled(
    words: Sequence[str],
    number: int,
    folder: Path,
    meddle: Callable[[], None],
    *,
    target: Path | None = None,
) -> Killed:
    """Run it; ahead of call ``number`` it is stopped, ``meddle`` is called, and it goes on.

    Raises:
        NotReachedError: it ended before that.
    """
    state = folder / "kill-state"
    killed = _run(words, state, at=number, mode=_STOP, target=target, meddle=meddle)
    return _check_reached(killed, number)


def run_disturbed(
    words: Sequence[str], number: int, folder: Path, meddle: Callable[[], None]
) -> Killed:
    """Run it; after about ``number`` calls ``meddle`` is called while it goes on.

    For commands whose helpers answer each other: stopped in one of these, all of it would hang.
    """
    return _run(words, folder / "kill-state", at=0, mode=_FIRST, meddle=meddle, meddle_at=number)


def _check_reached(killed: Killed, number: int) -> Killed:
    if not killed.was_reached:
        said = f"exit {killed.exit_code}: {killed.output[-300:]}{killed.errors[-300:]}"
        raise NotReachedError(f"it never came to call {number}: {said}")
    return killed


def _run(
    words: Sequence[str],
    state: Path,
    *,
    at: int,
    mode: int,
    target: Path | None = None,
    meddle: Callable[[], None] | None = None,
    meddle_at: int | None = None,
) -> Killed:
    place = (0, 0) if target is None else ((s := target.stat()).st_dev, s.st_ino)
    with state.open("w+b") as file:
        file.truncate(_HEAD.size + _ROOM)
        with mmap.mmap(file.fileno(), 0) as shared:
            _HEAD.pack_into(shared, 0, 0, at, mode, 0, _ROOM, *place)
    preload = {"LD_PRELOAD": str(_library()), "MM_KILL_FILE": str(state)}
    process = subprocess.Popen(
        words,
        stdin=subprocess.DEVNULL,
        stdout=(out := tempfile.TemporaryFile()),  # noqa: SIM115 - closed below
        stderr=(err := tempfile.TemporaryFile()),  # noqa: SIM115
        env={**os.environ, **preload},
        # Its own group, so that what lives on can be waited for, and nobody else dies.
        process_group=0,
    )
    was_in_time = True
    if meddle is not None and meddle_at is not None:
        while process.poll() is None and _count(state) < meddle_at:
            time.sleep(0.001)
        meddle()
    elif meddle is not None:
        _, status = os.waitpid(process.pid, os.WUNTRACED)
        if os.WIFSTOPPED(status):
            try:
                meddle()
            finally:
                os.killpg(process.pid, signal.SIGCONT)
        else:
            process.returncode = os.waitstatus_to_exitcode(status)
            was_in_time = False
    exit_code = process.wait()
    _settle(process.pid)
    with out, err:
        out.seek(0)
        err.seek(0)
        said, complained = (file.read().decode(errors="replace") for file in (out, err))
    return Killed(exit_code, said, complained, was_in_time and _count(state) >= at)


def _count(state: Path) -> int:
    """Of calls until now."""
    with state.open("rb") as file:
        count: int = _HEAD.unpack(file.read(_HEAD.size))[0]
    return count


def _settle(group: int) -> None:
    """Wait until nobody of the group is left; one that hangs is killed."""
    deadline = time.monotonic() + _SETTLE_SECONDS
    try:
        while time.monotonic() < deadline:
            os.killpg(group, 0)
            time.sleep(0.02)
        os.killpg(group, signal.SIGKILL)
    except ProcessLookupError:
        return
    raise RuntimeError(f"processes of group {group} did not end by themselves")
