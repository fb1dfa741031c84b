# SPDX-License-Identifier: GPL-3.0-or-later
"""The overlay shows ranges of a disk, takes writes, and never changes the disk."""

import hashlib
import os
import random
import shutil
import subprocess
import sys
import time
from pathlib import Path

import pytest

from mediamaker.errors import PlanError, ToolError
from mediamaker.install.changes import Region, Step, find_changes
from mediamaker.install.overlay import open_overlay
from mediamaker.install.overlay_store import BLOCK_SIZE, OverlayStore

SIZE = 8 << 20
SECTOR = 512


@pytest.fixture
def disk(tmp_path):
    path = tmp_path / "disk.img"
    path.write_bytes(random.Random(4).randbytes(SIZE - 1536))
    with path.open("r+b") as file:
        file.truncate(SIZE - 1536)  # not a whole number of blocks
    return path


@pytest.fixture
def base(disk):
    descriptor = os.open(disk, os.O_RDONLY)
    yield descriptor
    os.close(descriptor)


def digest(path):
    return hashlib.sha256(Path(path).read_bytes()).hexdigest()


def test_programs_write_to_the_view_and_the_disk_stays(disk, base, tmp_path):
    before = digest(disk)
    views = {"1": (63 * SECTOR, 1 << 20), "2": (2 << 20, disk.stat().st_size - (2 << 20))}
    with open_overlay(base, disk.stat().st_size, views, scratch_parent=tmp_path) as overlay:
        data = disk.read_bytes()
        assert overlay.path("1").read_bytes() == data[63 * SECTOR :][: 1 << 20]
        assert overlay.path("2").read_bytes() == data[2 << 20 :]
        # another process, at an odd offset
        subprocess.run(
            ["dd", f"of={overlay.path('1')}", "bs=1", "seek=1000", "conv=notrunc", "status=none"],
            input=b"changed",
            check=True,
        )
        expected = bytearray(data)
        at = 63 * SECTOR + 1000
        expected[at : at + 7] = b"changed"
        assert overlay.pread(0, len(data)) == expected
        assert overlay.pread_old(0, len(data)) == data
        assert overlay.path("1").read_bytes() == expected[63 * SECTOR :][: 1 << 20]
        first = at // SECTOR * SECTOR
        regions = [Region(0, 2 << 20, "one", Step.FILE_SYSTEM)]
        (change,) = find_changes(overlay, regions, sector_size=SECTOR)
        assert (change.offset, change.size) == (first, SECTOR)
        with pytest.raises(PlanError, match="nothing was written"):
            find_changes(overlay, [Region(2 << 20, 3 << 20, "two", Step.TABLE)], sector_size=SECTOR)
    assert digest(disk) == before
    assert list(tmp_path.iterdir()) == [disk], "nothing is left behind"


def test_a_view_does_not_grow(disk, base):
    with open_overlay(base, SIZE - 1536, {"1": (0, 4096)}) as overlay:
        with overlay.path("1").open("r+b", buffering=0) as file:
            file.seek(4096)
            with pytest.raises(OSError, match="No space"):
                file.write(bytes(200))
            with pytest.raises(OSError, match="not permitted"):
                file.truncate(5000)
        with pytest.raises(FileNotFoundError):
            overlay.path("2").read_bytes()
        assert not list(overlay.written_blocks())


def test_any_sequence_of_writes_reads_as_on_a_plain_file(disk, base, tmp_path):
    size = disk.stat().st_size
    flags = os.O_RDWR | os.O_CREAT
    side, block_map = os.open(tmp_path / "s", flags), os.open(tmp_path / "m", flags)
    store = OverlayStore(base, side, block_map, size)
    chance = random.Random(7)
    model = bytearray(disk.read_bytes())
    for _ in range(300):
        offset = chance.randrange(size)
        data = chance.randbytes(min(chance.choice([1, 511, 4096, 10_000]), size - offset))
        store.pwrite(offset, data)
        model[offset : offset + len(data)] = data
    assert store.pread(0, size) == model
    ranges = list(store.written_blocks())
    assert ranges[-1][1] <= size
    changed = {
        at
        for at in range(0, size, BLOCK_SIZE)
        if model[at : at + BLOCK_SIZE] != disk.read_bytes()[at : at + BLOCK_SIZE]
    }
    covered = {at for start, end in ranges for at in range(start, end, BLOCK_SIZE)}
    assert changed <= covered
    store.close()
    os.close(side)
    os.close(block_map)


def test_the_server_ends_when_its_parent_is_killed(disk, tmp_path):
    """SIGKILL leaves no mount that a later run, or an unplugged disk, would hang on."""
    script = tmp_path / "holder.py"
    script.write_text(
        "import os, sys, time\n"
        "from pathlib import Path\n"
        "from mediamaker.install.overlay import open_overlay\n"
        f"fd = os.open({str(disk)!r}, os.O_RDONLY)\n"
        f"with open_overlay(fd, 4096, {{'1': (0, 4096)}}, scratch_parent=Path({str(tmp_path)!r})) "
        "as o:\n"
        "    print(o.path('1'), flush=True)\n"
        "    time.sleep(60)\n"
    )
    holder = subprocess.Popen([sys.executable, script], stdout=subprocess.PIPE, text=True)
    path = Path(holder.stdout.readline().strip())
    assert os.path.ismount(path.parent)
    holder.kill()
    holder.wait()
    holder.stdout.close()
    for _ in range(200):
        if not os.path.ismount(path.parent):
            break
        time.sleep(0.05)
    assert not os.path.ismount(path.parent)
    shutil.rmtree(path.parent.parent)


LEAVE = """
import os, signal, subprocess, sys
from pathlib import Path
from mediamaker.install.overlay import open_overlay
base = os.open(sys.argv[1], os.O_RDONLY)
with open_overlay(base, 1 << 20, {"1": (0, 4096)}, scratch_parent=Path(sys.argv[2])):
    # The server first: nobody is left who would unmount.
    server = next(Path(f"/proc/self/task/{os.getpid()}").glob("children")).read_text().split()[0]
    os.kill(int(server), signal.SIGKILL)
    os.kill(os.getpid(), signal.SIGKILL)
"""


def test_what_a_killed_run_left_goes_with_the_next_one(disk, base, tmp_path):
    """The folder with the side file, and the mount of a server that was killed with it."""
    parent = tmp_path / "scratch"
    parent.mkdir()
    killed = subprocess.run([sys.executable, "-c", LEAVE, disk, parent], check=False)
    assert killed.returncode == -9
    (left,) = parent.iterdir()
    assert str(left) in Path("/proc/self/mounts").read_text()
    with open_overlay(base, 1 << 20, {"1": (0, 4096)}, scratch_parent=parent):
        (mine,) = parent.iterdir()
        assert mine != left
        assert str(left) not in Path("/proc/self/mounts").read_text()
    assert list(parent.iterdir()) == []


def test_without_fuse_there_is_a_word_about_it(disk, base, monkeypatch):
    monkeypatch.setenv("FUSE_LIBRARY_PATH", "/nonexistent.so")
    with (
        pytest.raises(ToolError, match="FUSE") as caught,
        open_overlay(base, 4096, {"1": (0, 4096)}),
    ):
        pass
    assert "fuse3" in caught.value.hint
