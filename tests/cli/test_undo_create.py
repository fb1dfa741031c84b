# SPDX-License-Identifier: GPL-3.0-or-later
"""Undo of create, on a disk that was in use: what comes back is read by sfdisk and debugfs.

The disk is a loop device (needs root) with a FAT32 and two ext4 partitions. What is written
covers the first, a part of the second and, but for the table, nothing of the third.
"""

import hashlib
import os
import re
import shutil
import signal
import subprocess
import tempfile
from pathlib import Path

import pytest

from mediamaker.execute.before import BeforeFile, OldPartition, choose_ranges
from tests.cli.conftest import pe_program
from tests.cli.test_create_resume import killed, loop_device, mediamaker, read_device

MIB = 1 << 20
DISK_SIZE = 288 * MIB
FAT = (1 * MIB, 24 * MIB)
HALF = (25 * MIB, 175 * MIB)
FAR = (200 * MIB, 80 * MIB)
SCRIPT = """label: gpt
start=1MiB, size=24MiB, type=EBD0A0A2-B9E5-4433-87C0-68B6B72699C7, name="old fat"
start=25MiB, size=175MiB, type=0FC63DAF-8483-4772-8E79-3D69D8477DE4, name="half"
start=200MiB, size=80MiB, type=0FC63DAF-8483-4772-8E79-3D69D8477DE4, name="far"
"""


def content(name):
    return hashlib.shake_128(name.encode()).digest(MIB)


def run_tool(*words, **options):
    command = list(map(str, words))
    return subprocess.run(command, check=True, capture_output=True, text=True, **options).stdout


@pytest.fixture(scope="module")
def ram_path():
    folder = Path(tempfile.mkdtemp(prefix="mediamaker-test-", dir="/dev/shm"))
    yield folder
    shutil.rmtree(folder)


@pytest.fixture(scope="module")
def tree(ram_path):
    root = ram_path / "tree"
    (root / "efi" / "boot").mkdir(parents=True)
    (root / "efi" / "boot" / "bootx64.efi").write_bytes(pe_program())
    (root / "random.bin").write_bytes(os.urandom(100 * MIB))
    return root


@pytest.fixture(scope="module")
def used_disk(ram_path):
    """A disk with three volumes; the ext4 ones are full of files of 1 MiB."""
    path = ram_path / "used.img"
    with path.open("wb") as file:
        file.truncate(DISK_SIZE)
    run_tool("sfdisk", path, input=SCRIPT)
    for (start, size), count in ((HALF, 140), (FAR, 60)):
        files = ram_path / "files"
        files.mkdir()
        for number in range(count):
            (files / f"f{number:03}").write_bytes(content(f"f{number:03}"))
        offset, blocks = f"offset={start}", size // 4096
        run_tool("mke2fs", "-q", "-t", "ext4", "-b", 4096, "-d", files, "-E", offset, path, blocks)
        shutil.rmtree(files)
    fat = ram_path / "fat"
    with fat.open("wb") as file:
        file.truncate(FAT[1])
    run_tool("mkfs.fat", "-n", "OLDFAT", fat)
    with path.open("r+b") as file:
        file.seek(FAT[0])
        file.write(fat.read_bytes())
    return path


@pytest.fixture
def device(used_disk, ram_path):
    disk = ram_path / "disk.img"
    shutil.copyfile(used_disk, disk)
    with loop_device(disk) as device:
        yield device
    disk.unlink()


def table_of(path):
    return re.sub(
        r"^(device: .*|/\S+ :)", "", run_tool("sfdisk", "--dump", path), flags=re.MULTILINE
    )


def partition_file(data, place, folder):
    path = folder / "partition"
    path.write_bytes(data[place[0] : sum(place)])
    return path


def readable_files(volume, folder):
    """Names of the files that debugfs gets whole out of an ext4 volume."""
    out = folder / "dumped"
    out.mkdir()
    run_tool("debugfs", "-R", f"rdump / {out}", volume)
    names = {
        path.name
        for path in out.iterdir()
        if path.is_file() and path.read_bytes() == content(path.name)
    }
    shutil.rmtree(out)
    return names


def file_ranges(volume, start, name):
    """Where a file lies on the disk, as debugfs sees it."""
    numbers = [int(word) for word in run_tool("debugfs", "-R", f"blocks /{name}", volume).split()]
    return [(start + 4096 * number, start + 4096 * (number + 1)) for number in numbers]


def create(run, tree, device, *more):
    words = ("create", tree, device, "--confirm", device.name, "--no-verify", *more)
    code, events = run.json(*words)
    assert code == 0, events[-1]
    return events


def undo(run, device, *more):
    code, events = run.json("undo", device, "--confirm", device.name, *more)
    return code, events[-1]


def test_the_old_partitions_are_back_and_it_says_what_is_not(
    run, tree, used_disk, device, tmp_path
):
    old = used_disk.read_bytes()
    undo_file = Path(create(run, tree, device)[-1]["undo_file"])
    written = read_device(device)
    assert table_of(device) != table_of(used_disk)
    assert undo_file.stat().st_size < 66 * MIB
    assert undo_file.stat().st_mode & 0o777 == 0o600
    code, event = undo(run, device, "--dry-run")
    assert code == 0
    assert event["restored_size"] == event["old_sectors"] == event["foreign_sectors"] == 0
    assert read_device(device) == written
    code, event = undo(run, device)
    assert code == 0
    assert event["restored_size"] > 30 * MIB
    data = read_device(device)
    assert table_of(device) == table_of(used_disk)
    fat, half, far = event["partitions"]
    assert "ext4" in half["contents"]
    assert "OLDFAT" in fat["contents"]
    # The far one: whole, as nothing of it was overwritten.
    assert far["lost"] == []
    assert data[FAR[0] : sum(FAR)] == old[FAR[0] : sum(FAR)]
    volume = partition_file(data, FAR, tmp_path)
    run_tool("e2fsck", "-fn", volume)
    assert len(readable_files(volume, tmp_path)) == 60
    # The half one: every byte outside of what it calls lost, and so the files there.
    assert half["lost"]
    position = HALF[0]
    for start, end in half["lost"]:
        assert data[position:start] == old[position:start]
        assert data[start:end] != old[start:end], "what is called lost is lost"
        position = end
    assert data[position : sum(HALF)] == old[position : sum(HALF)]
    before = partition_file(old, HALF, tmp_path)
    hit = {
        name
        for name in (f"f{number:03}" for number in range(140))
        for low, high in file_ranges(before, HALF[0], name)
        if any(low < end and start < high for start, end in half["lost"])
    }
    volume = partition_file(data, HALF, tmp_path)
    readable = readable_files(volume, tmp_path)
    assert len(hit) > 20
    assert len(readable) > 60
    assert readable == {f"f{number:03}" for number in range(140)} - hit
    # A second time there is nothing to do.
    code, event = undo(run, device)
    assert (code, event["restored_size"]) == (0, 0)


def test_words_for_people(run, tree, device):
    create(run, tree, device)
    code, out, err = run.text("undo", device, "--dry-run")
    assert code == 0
    assert "partition 3 [0xc800000,0x11800000) 80 MiB ext4" in out
    assert "all of it is as it was" in out
    assert "gone for good" in out
    assert "nothing was written" in out
    assert "from before" in err


def test_after_a_kill(run, tree, used_disk, device):
    words = ("create", tree, device, "--confirm", device.name)
    result = killed(device, "pwrite64", 12, mediamaker(*words))
    assert result.returncode == -signal.SIGKILL
    assert read_device(device)[:512] == bytes(512)
    code, event = undo(run, device)
    assert code == 0
    assert event["blank_sectors"]
    assert table_of(device) == table_of(used_disk)
    # And what the journal claimed is not believed any more.
    code, events = run.json(*words, "--resume")
    assert (code, events[-1]["error"]) == (2, "UsageError")


def test_after_a_kill_and_a_run_from_the_beginning(run, tree, used_disk, device, state_folder):
    words = ("create", tree, device, "--confirm", device.name)
    assert killed(device, "pwrite64", 12, mediamaker(*words)).returncode == -signal.SIGKILL
    create(run, tree, device, "--layout", "mbr-fat32")
    assert len(list((state_folder / "undo").iterdir())) == 1, "the second took the first over"
    code, event = undo(run, device)
    assert code == 0
    assert len(event["partitions"]) == 3
    assert table_of(device) == table_of(used_disk)
    far = slice(FAR[0], sum(FAR))
    assert read_device(device)[far] == used_disk.read_bytes()[far]


def test_after_a_kill_and_resume(run, tree, used_disk, device, state_folder):
    words = ("create", tree, device, "--confirm", device.name)
    assert killed(device, "pwrite64", 20, mediamaker(*words)).returncode == -signal.SIGKILL
    code, events = run.json(*words, "--resume")
    assert code == 0
    assert events[-1]["undo_file"]
    assert len(list((state_folder / "undo").iterdir())) == 1
    assert undo(run, device)[0] == 0
    assert table_of(device) == table_of(used_disk)


def test_killed_while_it_goes_back(run, tree, used_disk, device):
    create(run, tree, device)
    command = mediamaker("undo", device, "--confirm", device.name)
    for number in (2, 30):
        assert killed(device, "pwrite64", number, command).returncode == -signal.SIGKILL
        assert read_device(device)[:512] == bytes(512)
    code, event = undo(run, device)
    assert code == 0
    assert event["restored_size"]
    assert table_of(device) == table_of(used_disk)


def test_refused_once_there_is_another_table(run, tree, device):
    create(run, tree, device)
    run_tool("sfdisk", "--wipe", "always", device, input="label: dos\nsize=100MiB, type=c\n")
    before = read_device(device)
    code, event = undo(run, device)
    assert (code, event["error"]) == (4, "TargetRefusedError")
    assert "partitioned or formatted since" in event["message"]
    assert read_device(device) == before


def test_forced_over_tables_that_a_bad_disk_changed(run, tree, device, used_disk):
    create(run, tree, device)
    with Path(device).open("r+b") as file:
        file.seek(440)
        file.write(b"\x99")
    code, event = undo(run, device)
    assert code == 4
    assert "--force" in event["hint"]
    assert undo(run, device, "--dry-run")[0] == 4
    assert undo(run, device, "--dry-run", "--force")[0] == 0
    code, event = undo(run, device, "--force")
    assert code == 0
    assert table_of(device) == table_of(used_disk)


def test_refused_on_another_disk(run, tree, device, ram_path):
    path = create(run, tree, device)[-1]["undo_file"]
    other = ram_path / "other.img"
    other.write_bytes(bytes(DISK_SIZE + MIB))
    with loop_device(other) as other_device:
        code, event = undo(run, other_device)
        assert (code, event["error"]) == (2, "UsageError")
        words = ("undo", path, other_device, "--confirm", other_device.name)
        code, events = run.json(*words)
        assert (code, events[-1]["error"]) == (4, "TargetRefusedError")
        assert "size: expected" in events[-1]["message"]
    assert not any(other.read_bytes())
    other.unlink()


def test_unless_confirmed_nothing_happens(run, tree, device):
    create(run, tree, device)
    before = read_device(device)
    code, events = run.json("undo", device)
    assert (code, events[-1]["error"]) == (4, "TargetRefusedError")
    assert "--confirm" in events[-1]["hint"]
    assert read_device(device) == before


def test_a_damaged_file_is_refused(run, tree, device):
    path = Path(create(run, tree, device)[-1]["undo_file"])
    data = path.read_bytes()
    before = read_device(device)
    for position in (30, 200, BeforeFile(path).header.data_offset + 5000):
        path.write_bytes(data[:position] + bytes([data[position] ^ 1]) + data[position + 1 :])
        code, event = undo(run, device)
        assert (code, event["error"]) == (3, "FormatError"), event
    path.write_bytes(data[:-1])
    assert undo(run, device)[1]["error"] == "FormatError"
    assert read_device(device) == before


def test_no_undo_and_a_blank_disk_keep_nothing(run, tree, device, state_folder):
    assert create(run, tree, device, "--no-undo")[-1]["undo_file"] is None
    with device.open("r+b") as file:
        for _ in range(DISK_SIZE // MIB):
            file.write(bytes(MIB))
    assert create(run, tree, device)[-1]["undo_file"] is None
    assert list((state_folder / "undo").glob("*")) == []


def test_a_state_folder_that_can_not_be_made_is_warned_about(run, tree, device, monkeypatch):
    monkeypatch.setenv("XDG_STATE_HOME", "/dev/null/state")
    events = create(run, tree, device)
    warnings = [event["message"] for event in events if event["event"] == "warning"]
    assert any(words.startswith("no undo") for words in warnings)
    assert any(words.startswith("no journal") for words in warnings)


class TestChoice:
    SIZE = 64 << 30

    def choose(self, partitions, written, budget_size=64 * MIB):
        runs = choose_ranges(
            partitions, written, size=self.SIZE, sector_size=512, budget_size=budget_size
        )
        assert sum(end - start for start, end in runs) <= budget_size
        assert all(any(a <= s and e <= b for a, b in written) for s, e in runs)
        return runs

    def test_one_big_partition(self):
        partition = OldPartition(1, "primary", MIB, self.SIZE - 2 * MIB, "exfat")
        runs = self.choose([partition], [(0, 6 << 30), (self.SIZE - MIB, self.SIZE)])
        assert runs == [(0, 63 * MIB), (self.SIZE - MIB, self.SIZE)]

    def test_a_logical_partition_has_the_sector_that_chains_it(self):
        partitions = [
            OldPartition(1, "extended", 100 * MIB, 900 * MIB, "extended"),
            OldPartition(5, "logical", 400 * MIB, 100 * MIB, "ext4"),
        ]
        runs = self.choose(partitions, [(0, 1 << 30)])
        assert any(start <= 399 * MIB and end > 400 * MIB for start, end in runs)
        assert any(start <= 100 * MIB < end for start, end in runs)

    def test_boot_sectors_of_very_many_come_before_beginnings(self):
        size = 100 * MIB
        partitions = [
            OldPartition(number, "primary", number * size, size, "ext4") for number in range(1, 129)
        ]
        runs = self.choose(partitions, [(0, self.SIZE)])
        for partition in partitions:
            assert any(start <= partition.start < end for start, end in runs)
            assert any(start < partition.end <= end for start, end in runs)

    def test_what_is_not_overwritten_is_not_kept(self):
        partition = OldPartition(1, "primary", 10 << 30, 10 << 30, "ext4")
        assert self.choose([partition], [(0, 6 << 30)]) == [(0, MIB)]
