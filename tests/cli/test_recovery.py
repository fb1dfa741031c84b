# SPDX-License-Identifier: GPL-3.0-or-later
"""``recovery add``, ``recovery check`` and ``undo`` as typed: exit codes, JSON, nothing lost."""

import hashlib
import os
import shutil
import subprocess
import tempfile
from pathlib import Path

import pytest

from tests.install.windows_disk_rig import (
    MIB,
    copy_rig,
    folder_in_memory,
    make_gpt_disk,
    make_winre,
    tool,
)

needs_root = pytest.mark.skipif(os.geteuid() != 0, reason="loop devices need root")


@pytest.fixture(scope="module")
def folder():
    with folder_in_memory() as path:
        yield path


@pytest.fixture(scope="module")
def winre(folder):
    return make_winre(folder)


@pytest.fixture(scope="module")
def made(folder):
    return make_gpt_disk(folder)


@pytest.fixture
def rig(made, folder):
    path = Path(tempfile.mkdtemp(dir=folder))
    yield copy_rig(made, path)
    shutil.rmtree(path)


def digest(path):
    return hashlib.sha256(Path(path).read_bytes()).hexdigest()


def test_the_whole_way_in_json(run, rig, winre):
    before = digest(rig.path)
    undo_path = rig.path.with_name(rig.path.name + ".undo")
    code, events = run.json("recovery", "check", rig.path)
    assert code == 5
    assert events[-1]["would_start"] is False
    assert events[-1]["recovery_number"] is None
    options = ("--winre", winre, "--size", "32MiB", "--seed", "x")
    code, events = run.json("recovery", "add", rig.path, *options, "--dry-run")
    assert code == 0
    dry = events[-1]
    assert {event.get("phase") for event in events} & {"write", "flush", "commit"} == set()
    assert dry["undo"] is None
    assert digest(rig.path) == before
    assert not undo_path.exists()
    code, events = run.json("recovery", "add", rig.path, *options, "--undo", undo_path)
    assert code == 0
    done = events[-1]
    assert done["undo"] == str(undo_path)
    assert done["recovery"] == dry["recovery"]
    assert done["windows"]["size_after"] < done["windows"]["size_before"]
    assert [item["step"] for item in done["changes"]] == [
        "free-space",
        "file-system",
        "new-volume",
        "boot-store",
        "table",
    ]
    code, events = run.json("recovery", "check", rig.path)
    assert code == 0
    assert events[-1]["would_start"] is True
    assert events[-1]["recovery_number"] == done["recovery"]["number"]
    code, events = run.json("undo", undo_path, "--dry-run")
    assert code == 0
    assert events[-1]["new_sectors"] > 0
    assert events[-1]["foreign_sectors"] == 0
    assert digest(rig.path) != before
    code, events = run.json("undo", undo_path, rig.path)
    assert code == 0
    assert events[-1]["restored_size"] > 0
    assert digest(rig.path) == before
    code, events = run.json("undo", undo_path)
    assert (code, events[-1]["restored_size"]) == (0, 0)


def test_the_text_shows_before_and_after(run, rig, winre):
    code, out, err = run.text(
        "recovery", "add", rig.path, "--winre", winre, "--size", "32M", "--dry-run"
    )
    assert code == 0
    assert "nothing was written" in out
    assert "before:" in err
    assert "after:" in err
    assert "records of the Windows volume" in err
    code, out, _ = run.text("recovery", "check", rig.path)
    assert code == 5
    assert "BAD   recoverysequence" in out
    assert "would NOT start" in out


@pytest.mark.parametrize(
    ("words", "code", "match"),
    [
        (("add", "{disk}", "--size", "1GiB", "--winre", "{winre}"), 4, "too full"),
        (("add", "{disk}", "--winre", "{disk}"), 3, "gpt.img"),
        (("add", "{disk}"), 4, "--winre"),
        (("add", "{disk}", "--winre", "{winre}", "--undo", "{winre}"), 2, "already"),
        (("add", "{disk}.missing"), 4, "missing"),
        (("add", "{winre}"), 3, "MBR"),
        (("check", "{winre}"), 3, "MBR"),
        (("check", "/dev/null"), 4, "null"),
    ],
)
def test_what_is_refused_says_why_and_changes_nothing(run, rig, winre, words, code, match):
    before = digest(rig.path)
    given = [word.format(disk=rig.path, winre=winre) for word in words]
    got, events = run.json("recovery", *given)
    assert got == code, events[-1]
    said = f"{events[-1]['message']} {events[-1]['hint']}"
    assert match in said
    assert digest(rig.path) == before
    assert not rig.path.with_name(rig.path.name + ".undo").exists()


def test_an_undo_file_of_another_disk_is_refused(run, rig, winre, made):
    undo_path = rig.path.with_name("u")
    code, _ = run.json(
        "recovery", "add", rig.path, "--winre", winre, "--size", "32M", "--undo", undo_path
    )
    assert code == 0
    other = copy_rig(made, Path(tempfile.mkdtemp(dir=rig.path.parent)))
    other.write(other.part("windows").start, os.urandom(1 << 20))
    other.write(0, os.urandom(64 << 10))
    before = digest(other.path)
    code, events = run.json("undo", undo_path, other.path)
    assert code == 4
    assert "neither" in events[-1]["message"]
    assert digest(other.path) == before
    with other.path.open("r+b") as file:
        file.truncate(100 * MIB)
    code, events = run.json("undo", undo_path, other.path)
    assert code == 4
    assert "size" in events[-1]["message"]
    for words in (("undo", other.path, rig.path), ("undo", undo_path.with_name("none"))):
        code, events = run.json(*words)
        assert code in {2, 3}


@pytest.fixture
def loop(rig):
    done = subprocess.run(
        ["losetup", "--find", "--show", "--partscan", rig.path],
        capture_output=True,
        text=True,
        check=True,
    )
    device = Path(done.stdout.strip())
    yield device
    subprocess.run(["losetup", "--detach", device], check=True)


@needs_root
def test_on_a_block_device(run, rig, winre, loop):
    before = digest(rig.path)
    undo_path = rig.path.with_name("u")
    options = ("--winre", winre, "--size", "32M", "--undo", undo_path)
    code, events = run.json("recovery", "add", loop, *options)
    assert code == 4
    assert "--confirm" in events[-1]["hint"]
    words = events[-1]["hint"].split('"')[1]
    assert digest(rig.path) == before
    # the file below is in use as long as the device is there
    code, events = run.json("recovery", "add", rig.path, *options)
    assert code == 4
    assert str(loop) in events[-1]["message"]
    code, events = run.json("recovery", "add", loop, *options, "--confirm", words)
    assert code == 0, events[-1]
    code, events = run.json("recovery", "check", loop)
    assert code == 0
    assert "No problems found" in tool("sgdisk", "-v", loop)
    code, events = run.json("undo", undo_path, "--confirm", words)
    assert code == 0, events[-1]
    tool("sync", loop)
    assert digest(rig.path) == before
