# SPDX-License-Identifier: GPL-3.0-or-later
"""``make faults``: run the matrix, cells side by side, and write the table.

Results of cells stay in ``out/faults/CELL/result.json``; ``--keep`` runs only those that have
none yet or are not good, so that a long run can be ended and gone on with. Those of another seed
or another number of trials are none. The page has every cell: those that were not run with its
seed, now or before, are called so.
"""

from __future__ import annotations

import argparse
import ctypes
import datetime
import json
import multiprocessing
import os
import re
import shutil
import signal
import subprocess
import sys
import tempfile
from concurrent.futures import ProcessPoolExecutor, as_completed
from pathlib import Path

ROOT = Path(__file__).parent.parent.parent
sys.path[:0] = [str(ROOT), str(ROOT / "vm-tests")]

from faults.all_cells import CELLS  # noqa: E402
from faults.matrix import CellResult, run_cell  # noqa: E402
from faults.report import read_page, show_matrix  # noqa: E402

OUT = ROOT / "out" / "faults"
_PR_SET_PDEATHSIG = 1
"""prctl(2)."""


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--only", default="", metavar="REGEX", help="cells whose name matches")
    parser.add_argument("--seed", default="1")
    parser.add_argument("--short", action="store_true", help="as few trials as `make test` makes")
    parser.add_argument("--keep", action="store_true", help="do not run again what is good")
    parser.add_argument("--jobs", type=int, default=os.cpu_count() or 1)
    parser.add_argument("--page", type=Path, metavar="FILE", help="write the Markdown page here")
    parser.add_argument("--list", action="store_true", help="only say which cells there are")
    args = parser.parse_args()
    numbers = [
        n
        for n, chosen in enumerate(CELLS)
        if re.search(args.only, chosen.name) and (chosen.short or not args.short)
    ]
    if args.list:
        for number in numbers:
            print(CELLS[number].name, CELLS[number].points, CELLS[number].short)
        return 0
    results = {n: kept for n in numbers if args.keep and (kept := _read_kept(n, args))}
    commit = _commit()
    context = multiprocessing.get_context("spawn")
    with ProcessPoolExecutor(
        args.jobs, mp_context=context, initializer=_end_with, initargs=(os.getpid(),)
    ) as pool:
        todo = {
            pool.submit(_run, n, args.seed, commit=commit, is_short=args.short): n
            for n in numbers
            if n not in results
        }
        for future in as_completed(todo):
            number = todo[future]
            results[number] = result = CellResult.from_json(future.result())
            counts = ", ".join(f"{count} {verdict}" for verdict, count in result.counts.items())
            word = "good" if result.is_good else "BAD"
            print(f"{word:4} {CELLS[number].name}: {counts} ({result.seconds:.0f} s)", flush=True)
            if result.trouble:
                print(result.error or result.trouble, flush=True)
    ordered = [results[number] for number in numbers]
    if args.page is not None:
        known = [
            (chosen, results.get(n) or _read_result(n, args.seed)) for n, chosen in enumerate(CELLS)
        ]
        earlier = read_page(args.page.read_text()) if args.keep and args.page.exists() else None
        page = show_matrix(known, date=_today(), seed=args.seed, earlier=earlier)
        args.page.write_text(page)
    return 0 if ordered and all(result.is_good for result in ordered) else 1


def _end_with(parent: int) -> None:
    """A cell that nobody waits for any more would go on for an hour."""
    ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)
    if os.getppid() != parent:
        sys.exit(1)


def _run(number: int, seed: str, *, commit: str, is_short: bool) -> dict[str, object]:
    chosen = CELLS[number]
    out_dir = OUT / chosen.name
    shutil.rmtree(out_dir, ignore_errors=True)
    work_dir = Path(tempfile.mkdtemp(prefix=f"mm-fault-{chosen.name}-", dir="/dev/shm"))
    try:
        result = run_cell(
            chosen,
            seed=seed,
            is_short=is_short,
            work_dir=work_dir,
            out_dir=out_dir,
            commit=commit,
        )
    finally:
        shutil.rmtree(work_dir, ignore_errors=True)
    return result.to_json()


def _read_kept(number: int, args: argparse.Namespace) -> CellResult | None:
    kept = _read_result(number, args.seed)
    count = CELLS[number].short if args.short else CELLS[number].points
    is_it = kept is not None and kept.is_good and kept.wanted == count
    return kept if is_it else None


def _read_result(number: int, seed: str) -> CellResult | None:
    """Good or bad."""
    try:
        data = json.loads((OUT / CELLS[number].name / "result.json").read_text())
        found = CellResult.from_json(data)
    except (FileNotFoundError, ValueError, KeyError):
        return None
    return found if found.seed == seed else None


def _today() -> str:
    return datetime.datetime.now(tz=datetime.UTC).date().isoformat()


def _commit() -> str:
    words = ["git", "-C", str(ROOT), "describe", "--always", "--dirty"]
    return subprocess.run(words, capture_output=True, text=True, check=True).stdout.strip()


if __name__ == "__main__":
    sys.exit(main())
