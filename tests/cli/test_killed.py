# SPDX-License-Identifier: GPL-3.0-or-later
"""The whole command, killed with SIGKILL at each write and flush of a real block device.

strace counts the calls and delivers the signal; the device is a loop (needs root). On it is a
stick from before, so that whatever is not taken away in time looks valid.
"""

import os
import re
import shutil
import signal
import subprocess
import sys
from contextlib import contextmanager
from pathlib import Path

import pytest

MIB = 1 << 20
DISK_SIZE = 80 * MIB


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


def traced(log, device, options, command):
    calls = ["-f", "-qq", "-P", device, "-e", "trace=pwrite64,fsync", *options, "-o", log]
    return subprocess.run(["strace", *calls, *command], capture_output=True, check=False)


def has_table(device):
    """What blkid, sfdisk and the first sector say of it, which must agree."""
    subprocess.run(["blockdev", "--flushbufs", device], check=True)
    probe = subprocess.run(
        ["blkid", "--probe", device], capture_output=True, text=True, check=False
    )
    assert probe.returncode in {0, 2}, probe.stderr
    dump = subprocess.run(["sfdisk", "--dump", device], capture_output=True, check=False)
    with device.open("rb") as file:
        is_blank = file.read(512) == bytes(512)
    found = {"TYPE=" in probe.stdout, dump.returncode == 0, not is_blank}
    assert len(found) == 1, (probe.stdout, dump.stdout, is_blank)
    return found.pop()


@pytest.mark.parametrize("layout", ["mbr-fat32", "gpt-fat32"])
def test_killed_at_any_call_the_stick_is_blank(folder, tmp_path, layout):
    (folder / "random.bin").write_bytes(os.urandom(5 * MIB))
    old, disk, log = tmp_path / "old.img", tmp_path / "disk.img", tmp_path / "strace"
    make_old = mediamaker("create", folder, old, "--layout", "gpt-fat32", "--size", DISK_SIZE)
    subprocess.run(make_old, check=True, capture_output=True)
    shutil.copyfile(old, disk)
    with loop_device(disk) as device:
        words = ("--layout", layout, "--confirm", device.name, "--no-verify")
        create = mediamaker("create", folder, device, *words)
        assert traced(log, device, (), create).returncode == 0
        assert has_table(device)
        calls = re.findall(r"\b(pwrite64|fsync)\(.*?(\d+)?\) += ", log.read_text())
        names = [name for name, _ in calls]
        # libparted, which tells what will be lost, flushes what it only read.
        first = names.index("pwrite64")
        assert names[first : first + 3] == ["pwrite64", "pwrite64", "fsync"]
        assert names[-2:] == ["pwrite64", "fsync"]
        assert (calls[first][1], calls[-2][1]) == ("0", "0")
        stream_end = [index for index, name in enumerate(names) if name == "fsync"][-3]
        for index in range(first, len(names) - 1):
            with disk.open("r+b") as file:
                file.write(old.read_bytes())
            subprocess.run(["blockdev", "--flushbufs", device], check=True)
            name = names[index]
            when = names[: index + 1].count(name)
            inject = ("-e", f"inject={name}:signal=KILL:when={when}")
            assert traced(log, device, inject, create).returncode == -signal.SIGKILL
            content = disk.read_bytes()
            if index == first:
                assert content == old.read_bytes(), "nothing was written yet"
                continue
            assert not has_table(device), f"call {index} ({name})"
            if first + 2 <= index <= stream_end + 1:
                assert not any(content[-MIB:]), f"call {index} ({name})"
