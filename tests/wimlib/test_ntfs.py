# SPDX-License-Identifier: GPL-3.0-or-later
"""NTFS volumes in plain files: what they hold survives being captured and applied again.

mkntfs makes them, the ntfs-3g driver fills them, wimlib-imagex does the same beside us, and
ntfsfix says whether they are in order.
"""

import contextlib
import os
import random
import subprocess
import time
from pathlib import Path

import pytest

from mediamaker.errors import TargetIOError
from mediamaker.wimlib.errors import WimlibError
from mediamaker.wimlib.events import ExtractProgress, StructureProgress, Warned
from mediamaker.wimlib.flags import AddFlags, ExtractFlags
from mediamaker.wimlib.wim import Wim

MIB = 1 << 20


def run(*arguments):
    return subprocess.run(
        [str(argument) for argument in arguments], check=True, capture_output=True, text=True
    ).stdout


def make_volume(path, size=12 * MIB):
    with path.open("wb") as file:
        file.truncate(size)
    run("mkntfs", "-F", "-Q", "-q", "-L", "TEST", path)
    return path


def command_line(process):
    try:
        return (process / "cmdline").read_bytes().split(b"\0")
    except OSError:
        return []


@contextlib.contextmanager
def mounted(volume, where):
    where.mkdir(exist_ok=True)
    run("ntfs-3g", "-o", "streams_interface=windows", volume, where)
    try:
        yield where
    finally:
        # umount(8) returns before the driver has written all; it ends when it has.
        drivers = [
            int(entry.name)
            for entry in Path("/proc").iterdir()
            if entry.name.isdigit() and str(volume).encode() in command_line(entry)
        ]
        run("umount", where)
        deadline = time.monotonic() + 30
        while any(Path(f"/proc/{pid}").exists() for pid in drivers):
            assert time.monotonic() < deadline
            time.sleep(0.01)


@pytest.fixture
def volume(tmp_path):
    path = make_volume(tmp_path / "source.ntfs")
    with mounted(path, tmp_path / "mnt") as root:
        (root / "dir").mkdir()
        (root / "dir" / "data.bin").write_bytes(random.Random(5).randbytes(300_000))
        os.link(root / "dir" / "data.bin", root / "hard link")
        (root / "größe 文.txt").write_text("text\n" * 3000)
        (root / "dir" / "data.bin:stream").write_bytes(b"alternate" * 500)
        (root / "empty").write_bytes(b"")
        (root / "A long name.text").write_text("short")
        os.setxattr(root / "A long name.text", "system.ntfs_dos_name", b"ALONGN~1.TEX")
        os.setxattr(root / "empty", "system.ntfs_attrib", (0x23).to_bytes(4, "little"))
        ticks = 131_000_000_000_000_001  # a time with 100 ns in it
        times = b"".join((ticks + n).to_bytes(8, "little") for n in range(3))
        os.setxattr(root / "dir" / "data.bin", "system.ntfs_times", times)
    return path


def capture(volume, wim_path, on_event=None):
    with Wim.create("XPRESS", on_event=on_event) as wim:
        wim.add_image(volume, "n", flags=AddFlags.NTFS)
        wim.write(wim_path, threads=1)
    return wim_path


def listed(wim_path):
    """Everything but what a volume decides by itself: the numbers of hard link groups."""
    with Wim.open(wim_path) as wim:
        return [
            (
                e.path, e.short_name, e.attributes, e.reparse_tag, e.link_count, e.created,
                e.written, e.accessed, e.security, e.streams,
            )
            for e in wim.iterate_dir_tree(1)
        ]  # fmt: skip


def test_captured_applied_and_captured_again_is_equal(tmp_path, volume):
    first = capture(volume, tmp_path / "first.wim")
    run("wimlib-imagex", "verify", first)
    entries = {row[0]: row for row in listed(first)}
    data = entries["/dir/data.bin"]
    assert data[4] == 2
    assert data[5] == 131_000_000_000_000_001
    assert {stream.name for stream in data[9]} == {"", "stream"}
    assert data[8], "it has a security descriptor"
    assert entries["/A long name.text"][1] == "ALONGN~1.TEX"
    assert entries["/empty"][2] & 0x3 == 0x3

    target = make_volume(tmp_path / "target.ntfs")
    events = []
    with Wim.open(first, on_event=events.append) as wim:
        wim.extract_image(1, target, ExtractFlags.NTFS | ExtractFlags.STRICT_ACLS)
    assert [event for event in events if isinstance(event, Warned)] == []
    done = [event for event in events if isinstance(event, ExtractProgress)][-1]
    assert done.bytes_done == done.bytes_total > 300_000
    assert any(isinstance(event, StructureProgress) for event in events)
    assert "processed successfully" in run("ntfsfix", "-n", target)
    assert listed(capture(target, tmp_path / "second.wim")) == listed(first)

    # The same by wimlib-imagex, from our WIM and from our volume.
    theirs = make_volume(tmp_path / "theirs.ntfs")
    run("wimlib-imagex", "apply", first, "1", theirs)
    assert listed(capture(theirs, tmp_path / "third.wim")) == listed(first)
    run("wimlib-imagex", "capture", target, tmp_path / "fourth.wim", "n", "--compress=fast")
    assert listed(tmp_path / "fourth.wim") == listed(first)
    with mounted(target, tmp_path / "mnt") as root:
        assert (root / "dir" / "data.bin:stream").read_bytes() == b"alternate" * 500
        assert (root / "größe 文.txt").read_text() == "text\n" * 3000


def test_what_a_directory_can_not_hold_is_said(tmp_path, volume):
    events = []
    with Wim.open(capture(volume, tmp_path / "a.wim"), on_event=events.append) as wim:
        wim.extract_image(1, tmp_path / "out")
    warnings = " ".join(event.message for event in events if isinstance(event, Warned))
    assert "named data streams" in warnings
    assert "security descriptors" in warnings


def test_an_apply_that_is_ended_leaves_a_sound_volume(tmp_path, volume):
    wim_path = capture(volume, tmp_path / "a.wim")
    target = make_volume(tmp_path / "target.ntfs")

    def listen(event):
        if isinstance(event, ExtractProgress):
            raise InterruptedError("enough")

    with Wim.open(wim_path, on_event=listen) as wim, pytest.raises(InterruptedError):
        wim.extract_image(1, target, ExtractFlags.NTFS)
    assert "processed successfully" in run("ntfsfix", "-n", target)
    with mounted(target, tmp_path / "mnt"):
        pass


def test_volumes_that_can_not_be_used(tmp_path, volume):
    wim_path = capture(volume, tmp_path / "a.wim")
    zeros = tmp_path / "zeros.ntfs"
    zeros.write_bytes(bytes(MIB))
    with Wim.open(wim_path) as wim:
        with pytest.raises(WimlibError, match="NTFS") as caught:
            wim.extract_image(1, zeros, ExtractFlags.NTFS)
        assert caught.value.code_name == "NTFS_3G"
        assert isinstance(caught.value, TargetIOError)
        assert zeros.read_bytes() == bytes(MIB)
    small = make_volume(tmp_path / "small.ntfs", 2 * MIB)
    big = tmp_path / "big"
    big.mkdir()
    (big / "f").write_bytes(random.Random(6).randbytes(3 * MIB))
    with Wim.create("none") as wim:
        wim.add_image(big, "x")
        wim.write(tmp_path / "b.wim")
    with Wim.open(tmp_path / "b.wim") as wim, pytest.raises(TargetIOError, match="space"):
        wim.extract_image(1, small, ExtractFlags.NTFS)
    with Wim.create("none") as wim, pytest.raises(WimlibError) as caught:
        wim.add_image(zeros, "x", flags=AddFlags.NTFS)
    assert caught.value.code_name == "NTFS_3G"
    assert caught.value.exit_code == 3
