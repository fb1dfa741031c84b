# SPDX-License-Identifier: GPL-3.0-or-later
"""Cells of the fault matrix: a verb, a fault, how often, and what became of each trial.

A cell is a generator of trials::

    @cell("create", "kill -9", points=100, short=6)
    def kill_create(rig: Rig) -> Iterator[Trial]:
        for point in rig.rng.sample(...):
            ...
            yield Trial(Verdict.BLANK, f"write {point}")

Each trial is one real run (or, for power cuts, one state that a recorded run can leave), and its
verdict is reached by looking at the bytes with foreign judges, and at what the command said.
"""

from __future__ import annotations

import hashlib
import json
import random
import re
import time
import traceback
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from enum import StrEnum
from pathlib import Path
from typing import Any


class Verdict(StrEnum):
    """What was left, and whether the command told the truth about it."""

    COMPLETE = "complete"
    """Every byte is as planned, and the command said so if it could still speak."""
    BLANK = "blank"
    """No partition table, nothing to boot or mount; not called done."""
    AS_BEFORE = "as before"
    """What was there is still there, whole; not called done."""
    PUT_BACK = "put back"
    """Changed in part; the command's own next step (``undo``) gave back every byte."""
    RESUMED = "resumed"
    """Ended early; gone on with, it is byte-equal to a run that was never interrupted."""
    REFUSED = "refused"
    """Refused before anything was written, with the documented exit code."""
    NAMED = "named"
    """The fault is on the medium, and the command found it and called it by its name."""
    UNKNOWABLE = "not to be known"
    """Of disks that lie only: called done and not there, or not all; no verb finds it later."""
    HALF_VALID = "HALF VALID"
    """Looks like something it is not: must not be."""
    FALSE_DONE = "FALSE DONE"
    """Called done, and is not: must not be."""
    LOST = "LOST"
    """What was there before is gone although the command should have kept it: must not be."""
    WRONG_WORDS = "WRONG WORDS"
    """Right bytes, but a traceback, another exit code, or not the fault's name: must not be."""


BAD = frozenset({Verdict.HALF_VALID, Verdict.FALSE_DONE, Verdict.LOST, Verdict.WRONG_WORDS})


@dataclass(frozen=True, slots=True)
class Trial:
    """One run; ``point`` says where the fault struck, ``words`` what was seen."""

    verdict: Verdict
    point: str
    words: str = ""


@dataclass(frozen=True, slots=True)
class Rig:
    """What a cell works with; ``count`` is how many trials it is to make."""

    rng: random.Random
    count: int
    is_short: bool
    work_dir: Path
    """Scratch, in memory where there is room; gone afterwards."""
    out_dir: Path
    """Kept: logs of guests, screenshots."""


CellFunction = Callable[[Rig], Iterator[Trial]]


@dataclass(frozen=True, slots=True)
class Cell:
    """``points`` trials in the whole matrix, ``short`` in ``make test`` (0: not there)."""

    verb: str
    fault: str
    points: int
    short: int
    run: CellFunction

    @property
    def name(self) -> str:
        """For folders and ``--only``."""
        return re.sub(r"[^a-z0-9]+", "-", f"{self.verb} {self.fault}".lower()).strip("-")


CELLS: list[Cell] = []


def cell(
    verb: str, fault: str, *, points: int, short: int
) -> Callable[[CellFunction], CellFunction]:
    """Put a function into the matrix."""

    def register(function: CellFunction) -> CellFunction:
        CELLS.append(Cell(verb, fault, points, short, function))
        return function

    return register


@dataclass(slots=True)
class CellResult:
    """What became of a cell; ``error`` is why it could not be run to its end."""

    verb: str
    fault: str
    seed: str
    wanted: int
    trials: list[Trial] = field(default_factory=list)
    error: str | None = None
    seconds: float = 0.0
    commit: str = ""
    """Of the program that was run."""

    @property
    def counts(self) -> Counter[Verdict]:
        """How many trials came to each verdict."""
        return Counter(trial.verdict for trial in self.trials)

    @property
    def trouble(self) -> str | None:
        """Why it was not run to its end; None where it was."""
        if self.error is not None:
            return self.error.strip().rpartition("\n")[2]
        if len(self.trials) < self.wanted:
            return f"ended early, after {len(self.trials)} of {self.wanted} trials"
        return None

    @property
    def is_good(self) -> bool:
        """All trials were made, and none went wrong."""
        return self.trouble is None and not any(trial.verdict in BAD for trial in self.trials)

    def to_json(self) -> dict[str, Any]:
        """As ``result.json`` has it."""
        return {
            "verb": self.verb,
            "fault": self.fault,
            "seed": self.seed,
            "wanted": self.wanted,
            "error": self.error,
            "seconds": round(self.seconds, 1),
            "commit": self.commit,
            "trials": [[trial.verdict, trial.point, trial.words] for trial in self.trials],
        }

    @classmethod
    def from_json(cls, data: dict[str, Any]) -> CellResult:
        """The reverse of :meth:`to_json`."""
        trials = [Trial(Verdict(verdict), point, words) for verdict, point, words in data["trials"]]
        return cls(
            data["verb"], data["fault"], data["seed"], data["wanted"], trials, data["error"],
            data["seconds"], data["commit"],
        )  # fmt: skip


def run_cell(
    chosen: Cell, *, seed: str, is_short: bool, work_dir: Path, out_dir: Path, commit: str = ""
) -> CellResult:
    """Make a cell's trials; what was seen stays in ``out_dir/result.json`` however it ends."""
    count = chosen.short if is_short else chosen.points
    result = CellResult(chosen.verb, chosen.fault, seed, count, commit=commit)
    # A cell has the same points whatever else is run.
    digest = hashlib.sha256(f"{seed}/{chosen.name}".encode()).digest()
    rig = Rig(
        rng=random.Random(int.from_bytes(digest[:8], "big")),
        count=count,
        is_short=is_short,
        work_dir=work_dir,
        out_dir=out_dir,
    )
    out_dir.mkdir(parents=True, exist_ok=True)
    began = time.monotonic()
    try:
        for trial in chosen.run(rig):
            result.trials.append(trial)
    except (Exception, SystemExit):  # noqa: BLE001 - a cell that breaks is a result
        result.error = traceback.format_exc()
    result.seconds = time.monotonic() - began
    (out_dir / "result.json").write_text(json.dumps(result.to_json(), indent=1) + "\n")
    return result
