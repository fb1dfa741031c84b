# SPDX-License-Identifier: GPL-3.0-or-later
"""What ``boot`` takes its first argument for, what it refuses, and the events of a trace."""

import json
import subprocess

import pytest

from mediamaker.cli.boot_subject import SubjectKind, find_kind
from mediamaker.units import MIB


def run_tool(*command):
    subprocess.run([str(word) for word in command], check=True, capture_output=True, timeout=60)


@pytest.fixture
def plan(run, folder, tmp_path):
    path = tmp_path / "plan.json"
    assert run.json("plan", folder, "--seed", "s", "--out", path)[0] == 0
    return path


def test_kinds_by_what_they_are(folder, plan, tmp_path):
    iso, blank = tmp_path / "x.iso", tmp_path / "blank"
    run_tool("genisoimage", "-quiet", "-J", "-o", iso, folder)
    blank.write_bytes(bytes(MIB))
    hybrid = tmp_path / "hybrid.iso"
    head = bytearray(iso.read_bytes())
    head[:3] = b"\xfa\x31\xc0"
    head[0x1BE:0x1CE] = bytes.fromhex("80000100 17ffffff 00000000 ff000000")
    head[510:512] = b"\x55\xaa"
    hybrid.write_bytes(head)
    expected = {
        folder: SubjectKind.SOURCE,
        iso: SubjectKind.SOURCE,
        plan: SubjectKind.PLAN,
        hybrid: SubjectKind.TARGET,
        blank: SubjectKind.TARGET,
        tmp_path / "missing": SubjectKind.TARGET,
    }
    assert {path: find_kind(path) for path in expected} == expected


@pytest.mark.parametrize(
    ("subject", "options", "code"),
    [
        ("plan.json", ["--layout", "gpt-fat32"], 2),
        ("plan.json", ["--sector-size", "4096"], 2),
        ("blank.img", ["--seed", "x"], 2),
        ("blank.img", ["--size", "1GiB"], 2),
        ("blank.img", ["--as", "plan"], 3),
        ("blank.img", ["--as", "source"], 3),
        ("text.json", [], 3),
        ("plan.json", ["--as", "source"], 3),
    ],
)
def test_refusals(run, plan, tmp_path, subject, options, code):
    (tmp_path / "blank.img").write_bytes(bytes(MIB))
    (tmp_path / "text.json").write_text('{"format": "else"}')
    words = ("boot", tmp_path / subject, "--firmware", "bios", *options)
    found, events = run.json(*words, "--screenshot", tmp_path / "shots")
    assert found == code, events
    assert events[-1]["event"] == "error"
    assert not (tmp_path / "shots").exists()


def test_a_source_that_changed_is_refused_before_a_machine_starts(run, folder, plan, tmp_path):
    (folder / "big.bin").write_bytes(b"other")
    words = ("boot", plan, "--firmware", "bios", "--screenshot", tmp_path / "shots")
    code, events = run.json(*words)
    assert (code, events[-1]["error"]) == (3, "SourceChangedError")
    assert not (tmp_path / "shots").exists()


def test_a_plan_boots_and_is_traced_by_the_events_of_the_schema(run, plan, tmp_path):
    words = ("boot", plan, "--firmware", "bios", "--trace", "--timeout", "4")
    code, events = run.json(*words, "--screenshot", tmp_path / "shots")
    assert code == 7
    trace, boot = events[-2:]
    assert (trace["event"], boot["event"]) == ("boot_trace", "boot")
    assert boot["plan_id"] == json.loads(plan.read_text())["plan_id"]
    # GPT: BIOS reads the first sector and has nothing to start.
    assert trace["items"][0]["percent"] == 100
    assert trace["verdict"] == "unknown"


def test_a_device_is_traced(run, tmp_path):
    """A real block device, read-only for us; its sectors are its own."""
    image = tmp_path / "image"
    with image.open("wb") as file:
        file.truncate(8 * MIB)
    run_tool("mkfs.fat", image)
    loop = subprocess.run(
        ["losetup", "--find", "--show", "--read-only", image],
        check=True, capture_output=True, text=True,
    ).stdout.strip()  # fmt: skip
    try:
        words = ("boot", loop, "--firmware", "bios", "--trace", "--timeout", "15")
        code, events = run.json(
            *words, "--expect", "not a bootable disk", "--screenshot", tmp_path / "shots"
        )
    finally:
        run_tool("losetup", "--detach", loop)
    # The message of mkfs.fat's own boot sector, and nothing but that sector was read for it.
    assert code == 0, events[-1]
    assert events[-1]["booted"] == "target"
    assert [item["name"] for item in events[-2]["items"]] == ["boot sector"]
