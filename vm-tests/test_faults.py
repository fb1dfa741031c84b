# SPDX-License-Identifier: GPL-3.0-or-later
"""A short, seeded part of the fault matrix; ``make faults`` runs the whole."""

import argparse
import json
import sys

import pytest
from faults import run as faults_run
from faults.all_cells import CELLS
from faults.matrix import BAD, Cell, CellResult, Trial, Verdict, run_cell
from faults.report import read_page, show_matrix

SHORT = [chosen for chosen in CELLS if chosen.short]


@pytest.mark.parametrize("chosen", SHORT, ids=[chosen.name for chosen in SHORT])
def test_no_trial_goes_wrong(chosen, fault_dir, out_dir):
    result = run_cell(chosen, seed="test", is_short=True, work_dir=fault_dir, out_dir=out_dir)
    assert result.trouble is None, result.error or result.trouble
    bad = [trial for trial in result.trials if trial.verdict in BAD]
    assert not bad
    assert result.is_good


def made_up(points, end):
    """A cell that comes to one trial, and then to ``end``."""

    def run(_):
        yield Trial(Verdict.BLANK, "one")
        end()

    return Cell("create", "nothing", points, 1, run)


@pytest.mark.parametrize("end", [lambda: None, lambda: 1 / 0, sys.exit], ids=["", "error", "exit"])
def test_a_cell_that_ends_early_is_bad(tmp_path, end):
    chosen = made_up(3, end)
    ran = run_cell(chosen, seed="1", is_short=False, work_dir=tmp_path, out_dir=tmp_path)
    kept = CellResult.from_json(json.loads((tmp_path / "result.json").read_text()))
    assert kept.trials == ran.trials == [Trial(Verdict.BLANK, "one")]
    assert not kept.is_good
    page = show_matrix([(chosen, kept)], date="today", seed="1")
    assert "1 trials in 1 cells: **1 went wrong**; 2 trials are missing." in page
    assert "| create | nothing | 1 of 3 | 1 blank | not run to its end | 0 |" in page
    assert f"- create, nothing: {kept.trouble}" in page


def test_the_page_counts_what_the_whole_matrix_has(tmp_path):
    chosen = made_up(120, lambda: None)
    ran = run_cell(chosen, seed="1", is_short=True, work_dir=tmp_path, out_dir=tmp_path)
    assert ran.is_good
    page = show_matrix([(chosen, ran), (chosen, None)], date="today", seed="1")
    assert "**0 went wrong**; 239 trials are missing; 1 cells were not run." in page
    assert "| create | nothing | 1 of 120 | 1 blank | 0 | 0 |" in page


@pytest.mark.parametrize(
    ("seed", "is_short", "is_kept"), [("1", False, True), ("2", False, False), ("1", True, False)]
)
def test_kept_is_only_what_was_asked_in_the_same_way(
    tmp_path, monkeypatch, seed, is_short, is_kept
):
    chosen = Cell("create", "nothing", 2, 1, lambda rig: [Trial(Verdict.BLANK, "")] * rig.count)
    out_dir = tmp_path / chosen.name
    monkeypatch.setattr(faults_run, "OUT", tmp_path)
    monkeypatch.setattr(faults_run, "CELLS", [chosen])
    run_cell(chosen, seed=seed, is_short=is_short, work_dir=tmp_path, out_dir=out_dir)
    kept = faults_run._read_kept(0, argparse.Namespace(seed="1", short=False))
    assert (kept is not None) is is_kept
    # More trials than were asked for are not the same run either.
    whole = faults_run._read_kept(0, argparse.Namespace(seed="1", short=True))
    assert (whole is not None) is (seed == "1" and is_short)


def test_rows_of_a_page_before_are_marked_and_never_kept_twice(tmp_path):
    first, second = (
        Cell("create", fault, 1, 1, lambda _: [Trial(Verdict.BLANK, "")])
        for fault in ("nothing", "much")
    )

    def ran(chosen, commit):
        return run_cell(
            chosen, seed="1", is_short=False, work_dir=tmp_path, out_dir=tmp_path, commit=commit
        )

    old = [(first, ran(first, "aaa")), (second, ran(second, "aaa"))]
    earlier = read_page(show_matrix(old, date="before", seed="1"))
    new = [(first, ran(first, "bbb")), (second, None)]
    page = show_matrix(new, date="today", seed="1", earlier=earlier)
    assert "1 trials in 1 cells: **0 went wrong**." in page
    assert "1 rows, with °, and their 1 trials are of the page before, from commit `aaa`" in page
    assert "| create | nothing | 1 | 1 blank | 0 | 0 |" in page
    assert "| create | much ° | 1 | 1 blank | 0 | 0 |" in page
    last = show_matrix([(second, None)], date="later", seed="1", earlier=read_page(page))
    assert "| create | much | not run | | | |" in last
    assert read_page("no page") is None
