# SPDX-License-Identifier: GPL-3.0-or-later
"""The whole command, killed with SIGKILL at random writes, then told to go on.

strace counts the writes and delivers the signal; devices are loops (needs root) over files in
memory. What comes out must be what an uninterrupted run with the same seed makes.
"""

import json
import os
import random
import shutil
import signal
import subprocess
import sys
import tempfile
from contextlib import contextmanager
from pathlib import Path

import pytest

from mediamaker.execute.journal import read_journal
from tests.cli.conftest import pe_program

MIB = 1 << 20
DISK_SIZE = 176 * MIB
KILL_COUNT = 20


@pytest.fixture(scope="module")
def ram_path():
    folder = Path(tempfile.mkdtemp(prefix="mediamaker-test-", dir="/dev/shm"))
    yield folder
    shutil.rmtree(folder)


@pytest.fixture(scope="module")
def tree(ram_path):
    """A UEFI-only tree with 130 MiB, so that a write flushes several times."""
    root = ram_path / "tree"
    (root / "efi" / "boot").mkdir(parents=True)
    (root / "efi" / "boot" / "bootx64.efi").write_bytes(pe_program())
    with (root / "random.bin").open("wb") as file:
        for _ in range(130):
            file.write(os.urandom(MIB))
    return root


@pytest.fixture(scope="module")
def expected(tree, tmp_path_factory):
    path = tmp_path_factory.mktemp("expected") / "expected.img"
    command = mediamaker("create", tree, path, "--seed", "s", "--size", DISK_SIZE, "--no-verify")
    subprocess.run(command, check=True, capture_output=True)
    return path


@contextmanager
def loop_device(path):
    command = ["losetup", "--find", "--show", path]
    name = subprocess.run(command, check=True, capture_output=True, text=True).stdout.strip()
    try:
        yield Path(name)
    finally:
        subprocess.run(["losetup", "--detach", name], check=True)


def mediamaker(*words):
    return [sys.executable, "-m", "mediamaker", *map(str, words)]


def killed(path, call, number, command):
    """Run ``command``; at this call to ``path`` it is gone."""
    options = ["-f", "-qq", "-P", path, "-o", "/dev/null", "-e", f"trace={call}"]
    inject = ["-e", f"inject={call}:signal=KILL:when={number}"]
    return subprocess.run(["strace", *options, *inject, *command], capture_output=True, check=False)


def ended(*words):
    return subprocess.run(mediamaker(*words), capture_output=True, text=True, check=False)


def journals(state_folder):
    return sorted((state_folder / "journals").glob("*.journal"))


def create_words(tree, device):
    return ("create", tree, device, "--seed", "s", "--confirm", device.name)


@pytest.fixture
def device(ram_path):
    disk = ram_path / "disk.img"
    disk.write_bytes(b"")
    os.truncate(disk, DISK_SIZE)
    with loop_device(disk) as device:
        yield device
    disk.unlink()


def read_device(device):
    subprocess.run(["blockdev", "--flushbufs", device], check=True)
    return device.read_bytes()


def test_a_device_after_twenty_random_kills(tree, expected, device, state_folder):
    rng = random.Random(20)
    command = mediamaker(*create_words(tree, device))
    ends = []
    for count in range(KILL_COUNT):
        more = ["--resume"] if count else []
        # Two writes blank both ends, then come 4 MiB each; the first flush is answered while the
        # eleventh of these, or a later one, is under way.
        left = 2 + (130 * MIB - (ends[-1] if ends else 0)) // (4 * MIB)
        number = rng.randrange(1, min(18, left))
        result = killed(device, "pwrite64", number, command + more)
        assert result.returncode == -signal.SIGKILL, result.stderr
        assert read_device(device)[:512] == bytes(512)
        (path,) = journals(state_folder)
        ends.append(read_journal(path).end)
    assert ends == sorted(ends)
    assert ends[-1] >= 32 * MIB, "it got somewhere"
    result = ended("create", tree, device, "--confirm", device.name, "--resume", "--json")
    assert result.returncode == 0, result.stdout
    event = json.loads(result.stdout.splitlines()[-1])
    assert event["event"] == "create"
    assert event["resumed_at"] == ends[-1]
    assert event["bytes_written"] < DISK_SIZE - ends[-1]
    assert read_device(device) == expected.read_bytes()
    assert journals(state_folder) == []


def test_an_image_file_after_random_kills(tree, expected, tmp_path):
    rng = random.Random(21)
    image = tmp_path / "stick.img"
    partial = tmp_path / "stick.img.mediamaker-partial"
    journal = tmp_path / "stick.img.mediamaker-journal"
    words = ("create", tree, image, "--size", DISK_SIZE)
    for count in range(6):
        more = ("--resume",) if count else ("--seed", "s", "--resumable")
        call = rng.choice(["pwrite64", "fdatasync"])
        number = rng.randrange(1, 4) if call == "fdatasync" else rng.randrange(8, 25)
        result = killed(partial, call, number, mediamaker(*words, *more))
        if result.returncode == 0:
            break
        assert result.returncode == -signal.SIGKILL, result.stderr
        assert partial.exists()
        assert not image.exists()
    assert count, "it was killed at least once"
    if not image.exists():
        result = ended(*words, "--resume")
        assert result.returncode == 0, result.stderr
    assert image.read_bytes() == expected.read_bytes()
    assert not partial.exists()
    assert not journal.exists()


@pytest.fixture
def left(tree, device, state_folder):
    """A device on which a run was killed after some 60 MiB."""
    result = killed(device, "pwrite64", 28, mediamaker(*create_words(tree, device)))
    assert result.returncode == -signal.SIGKILL
    (path,) = journals(state_folder)
    assert read_journal(path).end >= 32 * MIB
    return device


class TestRefused:
    def go_on(self, run, tree, device, *more):
        words = ("create", tree, device, "--confirm", device.name, "--resume", *more)
        code, events = run.json(*words)
        return code, events[-1]

    def test_another_plan(self, run, tree, left):
        before = read_device(left)
        code, event = self.go_on(run, tree, left, "--layout", "mbr-fat32")
        assert (code, event["error"]) == (2, "UsageError")
        assert "made another disk" in event["message"]
        code, event = self.go_on(run, tree, left, "--seed", "other")
        assert (code, event["error"]) == (2, "UsageError")
        assert "had s" in event["message"]
        assert read_device(left) == before

    def test_a_changed_source(self, run, tree, left):
        before = read_device(left)
        status = (tree / "random.bin").stat()
        os.utime(tree / "random.bin", ns=(status.st_atime_ns, status.st_mtime_ns + 1))
        try:
            code, event = self.go_on(run, tree, left)
        finally:
            os.utime(tree / "random.bin", ns=(status.st_atime_ns, status.st_mtime_ns))
        assert (code, event["error"]) == (3, "SourceChangedError")
        assert "random.bin" in event["message"]
        assert read_device(left) == before

    @pytest.mark.usefixtures("left")
    def test_another_disk_that_looks_the_same(self, run, tree, ram_path):
        other = ram_path / "other.img"
        other.write_bytes(b"\xaa" * DISK_SIZE)
        with loop_device(other) as device:
            code, event = self.go_on(run, tree, device)
        assert (code, event["error"]) == (4, "TargetRefusedError")
        assert "another disk" in event["message"]
        assert other.read_bytes() == b"\xaa" * DISK_SIZE
        other.unlink()

    def test_another_disk(self, run, tree, left, ram_path):
        other = ram_path / "other.img"
        other.write_bytes(bytes(DISK_SIZE + MIB))
        with loop_device(other) as device:
            code, event = self.go_on(run, tree, device)
        assert (code, event["error"]) == (2, "UsageError")
        assert f"There is {tree} to {left}" in event["message"]
        other.unlink()

    def test_unverified(self, run, tree, left):
        code, event = self.go_on(run, tree, left, "--no-verify")
        assert (code, event["error"]) == (2, "UsageError")

    def test_a_torn_journal_only_costs_time(self, run, tree, expected, left, state_folder):
        (path,) = journals(state_folder)
        lines = path.read_bytes().splitlines(keepends=True)
        path.write_bytes(b"".join(lines[:-1]) + lines[-1][:9])
        code, event = self.go_on(run, tree, left)
        assert code == 0
        assert event["resumed_at"] < 64 * MIB
        assert read_device(left) == expected.read_bytes()

    def test_nothing_to_go_on_with(self, run, tree, tmp_path):
        code, events = run.json("create", tree, tmp_path / "new.img", "--resume")
        assert (code, events[-1]["error"]) == (2, "UsageError")
        assert "--resumable" in events[-1]["hint"]


def test_without_resume_it_is_told_about_and_replaced(run, tree, expected, left, state_folder):
    code, events = run.json("create", tree, left, "--confirm", left.name, "--seed", "s")
    assert code == 0
    warnings = [event["message"] for event in events if event["event"] == "warning"]
    assert any("is given up" in words and "--resume" in words for words in warnings)
    assert events[-1]["resumed_at"] == 0
    assert read_device(left) == expected.read_bytes()
    assert journals(state_folder) == []


def test_an_image_file_leaves_nothing_unless_it_is_asked_to(tree, tmp_path):
    image = tmp_path / "plain.img"
    command = mediamaker("create", tree, image)
    options = ["-f", "-qq", "-o", "/dev/null", "-e", "trace=pwrite64"]
    inject = ["-e", "inject=pwrite64:signal=KILL:when=10"]
    result = subprocess.run(["strace", *options, *inject, *command], check=False)
    assert result.returncode == -signal.SIGKILL
    assert list(tmp_path.iterdir()) == []


def test_an_image_killed_with_both_its_names_is_complete(run, tree, tmp_path):
    """It was linked to its name already; the other name and the journal go with the next run."""
    image = tmp_path / "stick.img"
    words = ("create", tree, image, "--seed", "s", "--resumable")
    trace = ["strace", "-f", "-qq", "-o", "/dev/null", "-P", f"{image}.mediamaker-partial"]
    inject = ["-e", "trace=unlink", "-e", "inject=unlink:signal=KILL:when=2"]
    subprocess.run([*trace, *inject, *mediamaker(*words)], capture_output=True, check=False)
    partial = tmp_path / "stick.img.mediamaker-partial"
    assert image.samefile(partial)
    code, events = run.json("create", tree, image, "--resume")
    assert (code, events[-1]["error"]) == (4, "TargetRefusedError")
    assert "exists already" in events[-1]["message"]
    assert [path.name for path in tmp_path.glob("stick.img*")] == ["stick.img"]
    code, _ = run.json("verify", image, tree)
    assert code == 0
