# SPDX-License-Identifier: GPL-3.0-or-later
"""A solid install image that is too large for FAT32: three ways to a stick."""

import random
import subprocess
from pathlib import Path

import pytest


@pytest.fixture
def media(folder, tmp_path, monkeypatch):
    """Windows media with a solid install.esd of two editions; the limit is set by --part-size."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    for number in (1, 2):
        tree = tmp_path / f"image{number}"
        (tree / "Windows").mkdir(parents=True)
        for index in range(12):
            content = random.Random(f"{number}{index}").randbytes(300_000)
            (tree / f"Windows/file{index}").write_bytes(content)
    sources = folder / "sources"
    sources.mkdir()
    esd = sources / "install.esd"
    words = ["--solid", "--solid-chunk-size=256K"]
    for verb, number, name in (("capture", 1, "Home"), ("append", 2, "Pro")):
        subprocess.run(
            ["wimlib-imagex", verb, tmp_path / f"image{number}", esd, name, *words],
            check=True, capture_output=True,
        )  # fmt: skip
    boot = sources / "boot.wim"
    subprocess.run(
        ["wimlib-imagex", "capture", folder / "efi", boot, "PE", "--boot"],
        check=True, capture_output=True,
    )  # fmt: skip
    return folder


def copy_parts(stick, target):
    target.mkdir()
    subprocess.run(
        ["mcopy", "-i", f"{stick}@@1M", "::/sources/install*", target],
        check=True, capture_output=True,
    )  # fmt: skip
    return sorted(target.iterdir())


def check_parts(parts, tmp_path, images):
    subprocess.run(
        ["wimlib-imagex", "verify", parts[0], f"--ref={parts[0].parent}/*.swm"],
        check=True, capture_output=True,
    )  # fmt: skip
    for number, image in enumerate(images, 1):
        out = tmp_path / f"applied{number}"
        subprocess.run(
            ["wimlib-imagex", "apply", parts[0], str(number), out,
             f"--ref={parts[0].parent}/*.swm"],
            check=True, capture_output=True,
        )  # fmt: skip
        subprocess.run(["diff", "-r", tmp_path / image, out], check=True)


LIMIT = ("--part-size", "3MiB")


def test_by_itself_it_is_recompressed_once(run, media, tmp_path):
    stick = tmp_path / "a.img"
    code, events = run.json("create", media, stick, "--seed", "s", *LIMIT)
    assert code == 0, events[-1]
    assert {e["phase"] for e in events if e["event"] == "progress"} >= {"prepare", "write"}
    parts = copy_parts(stick, tmp_path / "parts")
    assert [path.name for path in parts][:2] == ["install.swm", "install2.swm"]
    check_parts(parts, tmp_path, ["image1", "image2"])
    cached = list((tmp_path / "cache").rglob("*.wim"))
    assert len(cached) == 1
    # The second time it is ready: nothing is compressed again, and the bytes are equal.
    before = cached[0].stat().st_mtime_ns
    again = tmp_path / "b.img"
    assert run.json("create", media, again, "--seed", "s", *LIMIT)[0] == 0
    assert cached[0].stat().st_mtime_ns == before
    assert again.read_bytes() == stick.read_bytes()
    assert run.json("verify", stick, media, *LIMIT)[0] == 0


def test_only_the_chosen_editions(run, media, tmp_path):
    stick = tmp_path / "a.img"
    assert run.json("create", media, stick, "--images", "Pro", *LIMIT)[0] == 0
    parts = copy_parts(stick, tmp_path / "parts")
    check_parts(parts, tmp_path, ["image2"])
    code, events = run.json("plan", media, "--images", "Enterprise", *LIMIT)
    assert code == 2
    assert "Enterprise" in events[-1]["message"]


def test_cut_between_chunks_when_asked(run, media, tmp_path):
    stick = tmp_path / "a.img"
    code, events = run.json("create", media, stick, "--solid", "extents", *LIMIT)
    assert code == 0, events[-1]
    assert any("experimental" in e["message"] for e in events if e["event"] == "warning")
    assert not (tmp_path / "cache").exists()
    check_parts(copy_parts(stick, tmp_path / "parts"), tmp_path, ["image1", "image2"])
    assert run.json("verify", stick, media, "--solid", "extents", *LIMIT)[0] == 0


def test_whole_on_exfat_when_asked(run, media, tmp_path):
    stick = tmp_path / "a.img"
    code, events = run.json("create", media, stick, "--solid", "exfat", *LIMIT)
    assert code == 0, events[-1]
    assert any("experimental" in e["message"] for e in events if e["event"] == "warning")
    assert run.json("verify", stick, media)[0] == 0
    assert not (tmp_path / "cache").exists()
    assert run.json("plan", media, "--layout", "mbr-fat32-exfat", "--images", "1")[0] == 2


def test_what_fits_is_left_alone(run, media, tmp_path):
    stick = tmp_path / "a.img"
    assert run.json("create", media, stick)[0] == 0
    (esd,) = copy_parts(stick, tmp_path / "parts")
    assert esd.read_bytes() == (media / "sources/install.esd").read_bytes()


def test_a_target_that_will_not_do_is_refused_before_anything_is_prepared(run, media, tmp_path):
    taken = tmp_path / "taken.img"
    taken.write_text("mine")
    for target in (taken, tmp_path / "no folder/a.img", media / "sources/install.esd"):
        code, events = run.json("create", media, target, *LIMIT)
        assert code == 4, events[-1]
        assert not (tmp_path / "cache").exists()
    assert taken.read_text() == "mine"


def test_what_the_other_ways_would_save_is_said_once(run, media, tmp_path):
    for name, is_said in (("a", True), ("b", False)):
        code, _, err = run.text("create", media, tmp_path / f"{name}.img", *LIMIT)
        assert code == 0
        assert ("--solid exfat would save about 1 min and " in err) is is_said


def test_a_dry_run_prepares_nothing_unless_told(run, media, tmp_path):
    code, events = run.json("plan", media, *LIMIT)
    assert code == 0
    assert [event["event"] for event in events] == ["prepare"]
    (event,) = events
    assert event["is_solid"]
    assert not event["is_cached"]
    assert event["seconds"] > 0
    # The editions hold random bytes, which no recompressing makes smaller.
    assert event["needed_size"] > event["size"] > 7_000_000
    ways = {way["solid"]: way for way in event["alternatives"]}
    assert ways.keys() == {"extents", "exfat"}
    for way in ways.values():
        assert (way["saved_seconds"], way["saved_size"]) == (event["seconds"], event["needed_size"])
        assert way["is_experimental"]
    code, out, err = run.text("plan", media, *LIMIT)
    assert code == 0
    assert "sources/install.esd would be prepared first: about 1 min, up to " in out
    assert "--prepare" in out
    assert "--solid extents or --solid exfat would save about 1 min and " in err
    code, events = run.json("plan", media, "--out", tmp_path / "plan.json", *LIMIT)
    assert (code, events[-1]["hint"]) == (2, "prepare it now with --prepare")
    assert not (tmp_path / "plan.json").exists()
    assert not (tmp_path / "cache").exists()
    code, events = run.json("plan", media, "--prepare", *LIMIT)
    assert (code, events[-1]["event"]) == (0, "plan")
    # What is prepared needs no telling.
    code, events = run.json("plan", media, *LIMIT)
    assert [event["event"] for event in events] == ["prepare", "plan"]
    assert events[0]["is_cached"]
    assert events[0]["seconds"] == 0


def test_a_dry_run_says_that_there_is_too_little_room(run, media, tmp_path, monkeypatch):
    (tmp_path / "full").mkdir()
    mount = ("mount", "-t", "tmpfs", "-o", "size=1M", "none", tmp_path / "full")
    subprocess.run(mount, check=True)
    try:
        monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "full"))
        code, events = run.json("plan", media, *LIMIT)
    finally:
        subprocess.run(["umount", tmp_path / "full"], check=True)
    assert code == 0
    (event,) = [event for event in events if event["event"] == "prepare"]
    assert event["needed_size"] > event["available_size"]
    assert any("more than is free" in e["message"] for e in events if e["event"] == "warning")


def test_the_cache_is_listed_and_cleared(run, media, tmp_path):
    code, events = run.json("wim", "cache")
    assert (code, events[-1]["entries"]) == (0, [])
    assert not (tmp_path / "cache").exists()
    assert run.json("plan", media, "--prepare", *LIMIT)[0] == 0
    assert run.json("plan", media, "--prepare", "--images", "2", *LIMIT)[0] == 0
    code, events = run.json("wim", "cache")
    assert [entry["images"] for entry in events[-1]["entries"]] == [["Pro"], ["Home", "Pro"]]
    for entry in events[-1]["entries"]:
        assert entry["is_usable"]
        assert entry["path"].startswith(events[-1]["directory"])
        subprocess.run(["wimlib-imagex", "verify", entry["path"]], check=True, capture_output=True)
    total = sum(entry["size"] for entry in events[-1]["entries"])
    with Path(events[-1]["entries"][0]["path"]).open("ab") as file:
        file.write(b"changed")
    code, out, _ = run.text("wim", "cache")
    assert "unfinished or changed" in out
    assert "Home, Pro" in out
    code, events = run.json("wim", "cache", "--clear")
    assert (code, events[-1]["cleared_size"]) == (0, total + len("changed"))
    assert not [path for path in (tmp_path / "cache").rglob("*") if path.suffix]
    assert run.json("plan", media, *LIMIT)[1][-1]["event"] == "prepare"


def test_what_fits_is_planned_at_once(run, media):
    _, events = run.json("plan", media)
    assert [event["event"] for event in events] == ["plan"]
    _, events = run.json("plan", media, "--images", "Pro", *LIMIT)
    assert [event["event"] for event in events] == ["prepare"]
    assert events[0]["alternatives"] == []


@pytest.mark.parametrize("words", [("gpt-fat32", "exfat"), ("mbr-fat32-exfat", "extents")])
def test_a_way_that_contradicts_the_layout_is_refused(run, media, words):
    code, events = run.json("plan", media, "--layout", words[0], "--solid", words[1], *LIMIT)
    assert code == 2
    assert events[-1]["hint"] == "leave out --solid or --layout"
