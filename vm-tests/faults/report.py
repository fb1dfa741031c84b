# SPDX-License-Identifier: GPL-3.0-or-later
"""The matrix as a Markdown page: a table, and what was seen where it went wrong."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from faults.matrix import BAD, Cell, CellResult, Verdict

_HEAD = """\
# The fault matrix

Made by `make faults` on {date}, seed `{seed}`, from {commits}; do not edit.
{trial_count} trials in {cell_count} cells: **{bad_count} went wrong**{left_out}.
{earlier}
Each row is a fault done to a verb, again and again, and what was left, by verdict. A trial is a
real run of the command; of a power cut it is one state that a real run, recorded in a guest below
QEMU, can leave: all that was flushed, and any of what was not, in any order, torn at a sector's
edge; a cut after the command had said that it was done must find it done. "machines really stopped"
are such runs ended by killing QEMU. What disks do wrong, nbdkit does below a guest's USB or NVMe
disk. Bytes are compared by other means than the program's own; of tables, volumes and WIMs sfdisk,
sgdisk, blkid, e2fsck, ntfs-3g and wimlib-imagex are asked. The cells are in `vm-tests/faults/`. The
verdicts:

| verdict | means |
|---|---|
"""
_WITHOUT_A_ROW = """
## Without a row, and why

- A fake capacity, with `recovery add` and `wim optimize`: there is a Windows, or a file system, on
  the disk, whose end is in use; a false disk has lost that before the command came. Neither looks
  for it.
- EIO and unplugging, with `undo`: not built. What it ends early, as a kill does, is in the table.
- The source alone unplugged, with `recovery add` and `wim optimize`: a source that can't be read is
  among the EIO of `wim optimize`; `recovery add` reads its Winre.wim before it changes anything.
- A target replaced between plan and write, with image files: they are made under another name and
  get their own at the end; who else makes that name meanwhile is in "two runs".
- 512e, with `wim optimize`: it writes files.
"""
_MEANINGS = {
    Verdict.COMPLETE: "every byte is as planned, and nothing else was said",
    Verdict.BLANK: "no partition table, nothing to boot or mount; never called done",
    Verdict.AS_BEFORE: "what was there is still there, whole; never called done",
    Verdict.PUT_BACK: "changed in part; `undo` gave every byte back",
    Verdict.RESUMED: "ended early; gone on with, it is equal to a run that was not interrupted",
    Verdict.REFUSED: "refused before anything was written, with the documented exit code",
    Verdict.NAMED: "the fault is on the medium, was found, and was called by its name",
    Verdict.UNKNOWABLE: (
        "the disk lied, and what was called done is not there, or not all of it; no read can tell "
        "while the power is on, and no verb finds it later"
    ),
    Verdict.HALF_VALID: "looks like something that it is not: must not be",
    Verdict.FALSE_DONE: "called done, and is not: must not be",
    Verdict.LOST: "what was to be kept is gone: must not be",
    Verdict.WRONG_WORDS: "right bytes, wrong exit code or words: must not be",
}


_EARLIER_MARK = " °"


@dataclass(frozen=True, slots=True)
class EarlierPage:
    """Of a page that was made before: what it was made from, and its good rows by their cells."""

    commits: str
    rows: Mapping[tuple[str, str], str]


def read_page(text: str) -> EarlierPage | None:
    """None for a text that is no page of the matrix; what it had itself from before is left out."""
    found = re.search(
        r"^Made by `make faults` on .*, from (.*); do not edit\.$", text, re.MULTILINE
    )
    if found is None:
        return None
    rows = {}
    for line in text.splitlines():
        fields = [field.strip() for field in line.strip("|").split("|")]
        if len(fields) == 6 and fields[2].isdecimal() and fields[4] == "0":
            rows[fields[0], fields[1]] = line
    return EarlierPage(found[1], rows)


def show_matrix(
    cells: Sequence[tuple[Cell, CellResult | None]],
    *,
    date: str,
    seed: str,
    earlier: EarlierPage | None = None,
) -> str:
    """The whole page, verb by verb; a cell without a result has its ``earlier`` row, or none."""
    verbs = list(dict.fromkeys(chosen.verb for chosen, _ in cells))
    cells = sorted(cells, key=lambda pair: verbs.index(pair[0].verb))
    results = [result for _, result in cells if result is not None]
    rows = earlier.rows if earlier is not None else {}
    kept = {
        (chosen.verb, chosen.fault): rows[chosen.verb, chosen.fault]
        for chosen, result in cells
        if result is None and (chosen.verb, chosen.fault) in rows
    }
    told = ""
    if earlier is not None and kept:
        trial_count = sum(int(row.split("|")[3]) for row in kept.values())
        told = (
            f"{len(kept)} rows, with °, and their {trial_count} trials are of the page before, "
            f"from {earlier.commits}.\n"
        )
    fresh = [(c, r) for c, r in cells if (c.verb, c.fault) not in kept]
    head = _show_head(results, fresh, date=date, seed=seed, earlier=told)
    lines = [f"| {verdict} | {meaning} |" for verdict, meaning in _MEANINGS.items()]
    lines += [
        "",
        "| verb | fault | trials | what was left | went wrong | s |",
        "|---|---|---|---|---|---|",
    ]
    for chosen, result in cells:
        if result is not None:
            lines.append(_show_row(chosen, result))
        elif row := kept.get((chosen.verb, chosen.fault)):
            lines.append(row.replace(f" {chosen.fault} ", f" {chosen.fault}{_EARLIER_MARK} ", 1))
        else:
            lines.append(f"| {chosen.verb} | {chosen.fault} | not run | | | |")
    return head + "\n".join(lines) + "\n" + _show_troubles(results) + _WITHOUT_A_ROW


def _show_head(
    results: Sequence[CellResult],
    cells: Sequence[tuple[Cell, CellResult | None]],
    *,
    date: str,
    seed: str,
    earlier: str,
) -> str:
    commits = Counter(result.commit for result in results)
    missing = sum(_count_missing(chosen, result) for chosen, result in cells)
    left_out = f"; {missing} trials are missing" if missing else ""
    if not_run := sum(result is None for _, result in cells):
        left_out += f"; {not_run} cells were not run"
    trials = [trial for result in results for trial in result.trials]
    bad_count = sum(trial.verdict in BAD for trial in trials)
    bad_count += sum(result.trouble is not None for result in results)
    return _HEAD.format(
        date=date,
        commits=", ".join(f"commit `{commit}` ({n} cells)" for commit, n in commits.items()),
        left_out=left_out,
        earlier=earlier,
        seed=seed,
        trial_count=len(trials),
        cell_count=len(results),
        bad_count=bad_count,
    )


def _show_row(chosen: Cell, result: CellResult) -> str:
    counts = result.counts
    good = ", ".join(f"{counts[v]} {v}" for v in Verdict if counts[v] and v not in BAD)
    bad = ", ".join(f"{counts[v]} {v}" for v in Verdict if counts[v] and v in BAD)
    if result.trouble is not None:
        bad = f"{bad}, not run to its end" if bad else "not run to its end"
    is_short = _count_missing(chosen, result) > 0
    count = f"{len(result.trials)}" + (f" of {chosen.points}" if is_short else "")
    words = f"| {result.verb} | {result.fault} | {count} | {good} | {bad or '0'} "
    return f"{words}| {result.seconds:.0f} |"


def _count_missing(chosen: Cell, result: CellResult | None) -> int:
    """Of the trials that the whole matrix has there."""
    return max(0, chosen.points - (len(result.trials) if result else 0))


def _show_troubles(results: Sequence[CellResult]) -> str:
    lines: list[str] = []
    for result in results:
        lines += [
            f"- {result.verb}, {result.fault}, {trial.point}: {trial.verdict}: {trial.words}"
            for trial in result.trials
            if trial.verdict in BAD
        ]
        if result.trouble is not None:
            lines.append(f"- {result.verb}, {result.fault}: {result.trouble}")
    return "\n## What went wrong\n\n" + "\n".join(lines) + "\n" if lines else ""
