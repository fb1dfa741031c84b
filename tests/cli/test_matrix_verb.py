# SPDX-License-Identifier: GPL-3.0-or-later
"""``test-matrix`` and the machine options of ``boot``: what is refused, and what is said."""

import pytest

from mediamaker.units import MIB


@pytest.fixture
def blank(tmp_path):
    path = tmp_path / "blank [bold]x.img"
    path.write_bytes(bytes(3 * MIB))
    return path


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["--jobs", "0"], "at least one machine"),
        (["--jobs", "many"], "invalid int"),
        (["--firmware", "bios,coreboot"], "some of bios, uefi"),
        (["--bus", ""], "some of usb"),
        (["--bus", "usb,,nvme"], "some of usb"),
        (["--accel", "magic"], "invalid choice"),
        (["--report", "."], "is a folder"),
        (["--expect", " "], "every screen"),
        (["--as", "plan", "--size", "1GiB"], "only an ISO or folder"),
    ],
)
def test_what_makes_no_sense_is_refused(run, blank, words, said):
    code, events = run.json("test-matrix", blank, "--bus", "usb", "--firmware", "bios", *words)
    assert (code, events[-1]["event"]) == (2, "error")
    assert said in events[-1]["message"]


def test_a_target_that_is_none_starts_nothing(run, tmp_path):
    code, events = run.json("test-matrix", tmp_path / "none.img")
    assert code == 4
    assert not [event for event in events if event["event"] == "machine"]


def test_the_table_says_what_does_not_apply(run, blank, state_folder):
    words = ("test-matrix", blank, "--bus", "sd", "--firmware", "bios", "--expect", "x")
    code, out, errors = run.text(*words)
    assert code == 7
    assert "does not apply" in out
    assert "power of two" in out.replace("\n", " ")
    assert "1 does not apply" in out
    assert "sd: does not apply" in errors
    (report,) = state_folder.rglob("report.html")
    assert f"report  {report}" in out
    assert "Boot matrix of blank [bold]x.img" in report.read_text()
    assert "--expect" not in errors


def test_without_a_text_the_hint_names_the_option(run, blank, tmp_path):
    _, _, errors = run.text("test-matrix", blank, "--bus", "sd", "--screenshot", tmp_path / "x")
    assert "hint: nothing is proven without --expect" in errors


@pytest.mark.parametrize("accelerator", ["kvm", "tcg"])
def test_an_accelerator_that_is_named_is_taken_as_it_is(run, blank, tmp_path, accelerator):
    """Whether or not it works: nobody is asked."""
    shots = tmp_path / "shots"
    code, _ = run.json(
        "boot", blank, "--firmware", "bios", "--accel", accelerator, "--timeout", "1",
        "--screenshot", shots,
    )  # fmt: skip
    assert code in {1, 7}
    (command,) = shots.rglob("command.txt")
    assert f" -accel {accelerator} " in command.read_text()


def test_a_script_can_not_end_what_is_interactive(run, blank):
    code, events = run.json("boot", blank, "--firmware", "bios", "--interactive")
    assert code == 2
    assert "--timeout" in events[-1]["hint"]
