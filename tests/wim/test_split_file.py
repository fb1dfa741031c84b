# SPDX-License-Identifier: GPL-3.0-or-later
"""WIM files split into files, on ext4, XFS and btrfs; judged by wimlib-imagex."""

import filecmp
import os
import random
import re
import signal
import subprocess
import sys
import threading
import time
from contextlib import contextmanager
from pathlib import Path

import pytest

from mediamaker.errors import (
    FormatError,
    NotRepresentableError,
    SourceChangedError,
    SourceError,
    TargetIOError,
    TargetRefusedError,
    TargetTooSmallError,
    UsageError,
)
from mediamaker.execute.progress import Phase, Progress
from mediamaker.formats.wim import ResourceFlag
from mediamaker.units import KIB, MIB
from mediamaker.wim import write_pieces
from mediamaker.wim.split_file import split_wim_file
from tests.hostile.make_wim import WimBuilder

LIMIT = 700 * KIB
GUID = bytes(range(16))


def run(*arguments) -> str:
    done = subprocess.run(
        list(map(str, arguments)), check=False, capture_output=True, text=True, errors="replace"
    )
    assert done.returncode == 0, f"{done.args}: {done.stdout[-2000:]} {done.stderr[-2000:]}"
    return done.stdout


@pytest.fixture(scope="module")
def tree(tmp_path_factory):
    folder = tmp_path_factory.mktemp("tree")
    generator = random.Random(7)
    for number in range(60):
        (folder / f"{number}").write_bytes(generator.randbytes(generator.randrange(80_000)))
    return folder


@pytest.fixture(scope="module")
def sources(tree, tmp_path_factory):
    folder = tmp_path_factory.mktemp("sources")
    run("wimlib-imagex", "capture", tree, folder / "plain.wim", "name", "--compress=LZX")
    run("wimlib-imagex", "capture", tree, folder / "solid.esd", "name", "--solid")
    solid = ["--solid", "--solid-compress=LZX", "--solid-chunk-size=64K"]
    run("wimlib-imagex", "capture", tree, folder / "chunks.esd", "name", *solid)
    return folder


@contextmanager
def mounted(folder: Path, filesystem: str):
    """A small file system of its own, through a loop device."""
    image, place = folder / f"{filesystem}.img", folder / filesystem
    with image.open("wb") as file:
        file.truncate(320 * MIB if filesystem == "xfs" else 256 * MIB)
    run(f"mkfs.{filesystem}", "-q", image)
    place.mkdir()
    run("mount", "-o", "loop", image, place)
    try:
        yield place
    finally:
        run("umount", place)


def names(folder: Path) -> set[str]:
    return {path.name for path in folder.iterdir()}


def judge(paths, tree: Path, folder: Path) -> None:
    pattern = f"--ref={paths[0].with_suffix('')}*.swm"
    run("wimlib-imagex", "verify", paths[0], pattern)
    run("wimlib-imagex", "apply", paths[0], "1", folder / "applied", pattern)
    files = sorted(names(tree))
    assert files == sorted(names(folder / "applied"))
    same, _, _ = filecmp.cmpfiles(tree, folder / "applied", files, shallow=False)
    assert same == files
    done = subprocess.run(["7z", "t", paths[0]], capture_output=True, text=True, check=False)
    if paths[-1].stat().st_size <= paths[0].stat().st_size:  # see plan/test_split.py
        assert "Everything is Ok" in done.stdout
    assert "Sub items Errors" not in done.stdout


@pytest.mark.parametrize("kind", ["plain.wim", "chunks.esd"])
def test_parts_as_files(sources, tree, tmp_path, kind):
    events = []
    source = sources / kind
    (tmp_path / "out").mkdir()
    out = tmp_path / "out" / "install.swm"
    result = split_wim_file(
        source, out, LIMIT, solid=True, guid=GUID, on_event=events.append, share=False
    )
    count = len(result.paths)
    assert count >= 3
    assert names(out.parent) == {"install.swm", *(f"install{n}.swm" for n in range(2, count + 1))}
    assert [path.stat().st_size for path in result.paths] == list(result.sizes)
    assert all(size <= LIMIT for size in result.sizes)
    assert result.guid == GUID
    assert result.is_solid == (kind == "chunks.esd")
    assert result.shared_size == 0
    assert 0 < result.copied_size < sum(result.sizes)
    judge(result.paths, tree, tmp_path)
    progress = [event for event in events if isinstance(event, Progress)]
    write = [event for event in progress if event.phase is Phase.WRITE]
    assert write[0].bytes_total == write[-1].bytes_done == sum(result.sizes)
    assert progress[-1].phase is Phase.FLUSH


def shared_blocks(path: Path) -> int:
    """Blocks that filefrag, who asks the kernel, calls shared."""
    extents = re.findall(
        r"^ *\d+: .*?: +(\d+):.*?([a-z_,]*)$", run("filefrag", "-v", path), re.MULTILINE
    )
    return sum(int(count) for count, flags in extents if "shared" in flags)


@pytest.mark.parametrize("filesystem", ["xfs", "btrfs"])
@pytest.mark.parametrize("kind", ["plain.wim", "chunks.esd"])
def test_blocks_are_shared_where_the_file_system_can(sources, tree, tmp_path, filesystem, kind):
    with mounted(tmp_path, filesystem) as place:
        source = place / kind
        source.write_bytes((sources / kind).read_bytes())
        os.sync()
        before = os.statvfs(place)
        result = split_wim_file(source, place / "out.swm", LIMIT, solid=True)
        os.sync()
        after = os.statvfs(place)
        assert len(result.paths) >= 3
        assert all(size <= LIMIT for size in result.sizes)
        total = sum(result.sizes)
        # Two blocks at the ends of every range are copied.
        assert result.copied_size < 8 * KIB * (len(result.paths) + 2)
        assert result.shared_size > 0.9 * total
        blocks = sum(shared_blocks(path) for path in result.paths)
        assert blocks * 4 * KIB >= 0.9 * result.shared_size
        used = (before.f_bfree - after.f_bfree) * before.f_frsize
        assert used < total / 2
        judge(result.paths, tree, tmp_path)
        # The same without sharing, and from another file system.
        for origin, share in ((source, False), (sources / kind, True)):
            copy = split_wim_file(origin, place / "copy.swm", LIMIT, solid=True, share=share)
            assert copy.shared_size == 0
            assert sum(copy.sizes) <= total
            for path in copy.paths:
                path.unlink()
        # Holes must not cost a part: when every byte counts, there are none.
        (exact,) = split_wim_file(source, place / "c.swm", 1 << 40, solid=True, share=False).sizes
        for limit, count in ((exact, 1), (exact - 1, 2)):
            tight = split_wim_file(source, place / "c.swm", limit, solid=True, replace=True)
            assert len(tight.paths) == count
            assert max(tight.sizes) <= limit
        # Sharing must not change the source, nor the source the parts.
        assert source.read_bytes() == (sources / kind).read_bytes()


def test_many_small_runs_are_not_blown_up_with_holes(tmp_path, monkeypatch):
    builder = WimBuilder()
    for number in range(300):
        builder.add(bytes([number % 256, number // 256]) * 100)
        builder.body += b"unused"
    builder.add(b"metadata", flags=ResourceFlag.METADATA)
    source = tmp_path / "source.wim"
    source.write_bytes(builder.build())
    monkeypatch.setattr("mediamaker.wim.split_file.find_share_alignment", lambda *_: 4096)
    result = split_wim_file(source, tmp_path / "out.swm", 30_000)
    assert sum(result.sizes) < source.stat().st_size + 1000 * len(result.paths)


def test_ext4_and_tmpfs_copy(sources, tmp_path):
    for folder in (tmp_path, Path("/dev/shm")):
        out = folder / f"mediamaker-test-{os.getpid()}.swm"
        result = split_wim_file(sources / "plain.wim", out, LIMIT)
        try:
            assert result.shared_size == 0
            assert len(result.paths) >= 3
        finally:
            for path in result.paths:
                path.unlink()


def test_a_kernel_that_copies_nothing_by_itself(sources, tree, tmp_path, monkeypatch):
    """Both system calls refused, in the middle: the same bytes come by reading and writing."""
    expected = split_wim_file(sources / "plain.wim", tmp_path / "a.swm", LIMIT, guid=GUID)

    def refuse(*_arguments) -> int:
        raise OSError(22, "no")

    monkeypatch.setattr(os, "copy_file_range", refuse)
    monkeypatch.setattr(write_pieces.fcntl, "ioctl", refuse)
    got = split_wim_file(sources / "plain.wim", tmp_path / "b.swm", LIMIT, guid=GUID)
    assert got.sizes == expected.sizes
    for one, other in zip(expected.paths, got.paths, strict=True):
        assert filecmp.cmp(one, other, shallow=False)
    monkeypatch.setattr(write_pieces, "find_share_alignment", lambda *_: 4096)
    monkeypatch.setattr("mediamaker.wim.split_file.find_share_alignment", lambda *_: 4096)
    got = split_wim_file(sources / "plain.wim", tmp_path / "c.swm", LIMIT)
    assert got.shared_size == 0
    judge(got.paths, tree, tmp_path)


def test_one_part_is_a_whole_wim(sources, tree, tmp_path):
    result = split_wim_file(sources / "plain.wim", tmp_path / "one.swm", 1 << 40)
    assert names(tmp_path) == {"one.swm"}
    run("wimlib-imagex", "verify", *result.paths)
    assert "Total Parts                 = 1\n" in run(
        "wimlib-imagex", "info", *result.paths, "--header"
    )


def test_solid_is_refused_unless_told(sources, tmp_path):
    with pytest.raises(NotRepresentableError, match="solid") as caught:
        split_wim_file(sources / "chunks.esd", tmp_path / "out.swm", LIMIT)
    assert caught.value.hint.endswith("with --solid")
    # All in one chunk of 64 MiB: it can't be cut anywhere.
    with pytest.raises(NotRepresentableError, match="chunk can't be divided"):
        split_wim_file(sources / "solid.esd", tmp_path / "out.swm", LIMIT, solid=True)
    assert names(tmp_path) == set()


def test_nothing_is_overwritten_unless_told(sources, tmp_path):
    source, out = sources / "plain.wim", tmp_path / "out.swm"
    (tmp_path / "out2.swm").write_text("mine")
    with pytest.raises(TargetRefusedError, match=r"out2\.swm: exists already"):
        split_wim_file(source, out, LIMIT)
    assert names(tmp_path) == {"out2.swm"}
    assert (tmp_path / "out2.swm").read_text() == "mine"
    result = split_wim_file(source, out, LIMIT, replace=True)
    run("wimlib-imagex", "verify", out, f"--ref={tmp_path}/*.swm")
    before = source.read_bytes()
    for target in (source, sources / "." / "plain.wim"):
        with pytest.raises(TargetRefusedError, match="the source itself"):
            split_wim_file(source, target, LIMIT, replace=True)
    assert source.read_bytes() == before
    assert result.removed_paths == ()


def test_parts_of_the_set_that_is_replaced_go_and_nothing_else(sources, tmp_path):
    source, out = sources / "plain.wim", tmp_path / "out.swm"
    result = split_wim_file(source, out, LIMIT // 2)
    assert len(result.paths) > 4
    # Of another set, and no WIM at all: their names are taken, and they stay.
    other = split_wim_file(source, tmp_path / "x.swm", LIMIT // 2)
    for foreign in (other.paths[1].read_bytes(), b"mine"):
        mine = tmp_path / "out77.swm"
        mine.write_bytes(foreign)
        before = {path: path.read_bytes() for path in tmp_path.iterdir()}
        with pytest.raises(TargetRefusedError, match=r"out77.swm: is not one of these"):
            split_wim_file(source, out, 2 * LIMIT, replace=True)
        assert {path: path.read_bytes() for path in tmp_path.iterdir()} == before
    mine.unlink()
    for path in other.paths:
        path.unlink()
    for name in ("out02.swm", "out2.swm.bak", "output9.swm"):
        (tmp_path / name).write_text("never a part's name")
    again = split_wim_file(source, out, 2 * LIMIT, replace=True)
    assert len(again.paths) < len(result.paths)
    assert set(again.removed_paths) == set(result.paths) - set(again.paths)
    assert names(tmp_path) == {path.name for path in again.paths} | {
        "out02.swm",
        "out2.swm.bak",
        "output9.swm",
    }
    for name in ("out02.swm", "output9.swm"):
        (tmp_path / name).unlink()
    run("wimlib-imagex", "verify", out, f"--ref={tmp_path}/*.swm")


def test_bad_requests_and_sources(sources, tmp_path):
    with pytest.raises(UsageError):
        split_wim_file(sources / "plain.wim", tmp_path / "out.swm", 0)
    with pytest.raises(SourceError, match="no such file"):
        split_wim_file(tmp_path / "missing", tmp_path / "out.swm", LIMIT)
    (tmp_path / "not").write_bytes(bytes(5000))
    with pytest.raises(FormatError):
        split_wim_file(tmp_path / "not", tmp_path / "out.swm", LIMIT)
    (tmp_path / "empty").touch()
    with pytest.raises(FormatError):
        split_wim_file(tmp_path / "empty", tmp_path / "out.swm", LIMIT)
    with pytest.raises(TargetRefusedError, match="no directory"):
        split_wim_file(sources / "plain.wim", tmp_path / "no" / "out.swm", LIMIT)
    with pytest.raises(TargetRefusedError, match="can't create a file in /proc"):
        split_wim_file(sources / "plain.wim", Path("/proc/out.swm"), LIMIT)
    with pytest.raises(NotRepresentableError, match="metadata"):
        split_wim_file(sources / "plain.wim", tmp_path / "out.swm", 1000)
    assert names(tmp_path) == {"not", "empty"}


def test_a_full_file_system(sources, tmp_path, monkeypatch):
    place = tmp_path / "small"
    place.mkdir()
    run("mount", "-t", "tmpfs", "-o", "size=1m", "none", place)
    try:
        with pytest.raises(TargetTooSmallError, match="are free") as caught:
            split_wim_file(sources / "plain.wim", place / "out.swm", LIMIT)
        assert caught.value.needed_size > caught.value.available_size > 0
        monkeypatch.setattr("mediamaker.wim.split_file.check_room", lambda *_: None)
        with pytest.raises(TargetTooSmallError, match="No space left"):
            split_wim_file(sources / "plain.wim", place / "out.swm", LIMIT)
        assert names(place) == set()
    finally:
        run("umount", place)


def test_a_source_that_changes_meanwhile(sources, tmp_path):
    source = tmp_path / "source.wim"
    source.write_bytes((sources / "plain.wim").read_bytes())

    def change(event) -> None:
        if isinstance(event, Progress) and event.phase is Phase.WRITE:
            os.utime(source, ns=(1, 1))

    with pytest.raises(SourceChangedError):
        split_wim_file(source, tmp_path / "out.swm", LIMIT, on_event=change)

    def shrink(event) -> None:
        if isinstance(event, Progress) and event.phase is Phase.WRITE:
            os.truncate(source, 5000)

    with pytest.raises(SourceChangedError):
        split_wim_file(source, tmp_path / "out.swm", LIMIT, on_event=shrink)
    assert names(tmp_path) == {"source.wim"}


def test_a_failing_flush_leaves_nothing(sources, tmp_path, monkeypatch):
    def fail(_descriptor) -> None:
        raise OSError(5, "Input/output error")

    monkeypatch.setattr(os, "fsync", fail)
    with pytest.raises(TargetIOError, match="Input/output error"):
        split_wim_file(sources / "plain.wim", tmp_path / "out.swm", LIMIT)
    assert names(tmp_path) == set()


def test_cancel_leaves_nothing(sources, tmp_path):
    cancel = threading.Event()

    def stop(event) -> None:
        if isinstance(event, Progress) and event.phase is Phase.WRITE:
            assert len(names(tmp_path)) >= 3
            cancel.set()

    with pytest.raises(KeyboardInterrupt):
        split_wim_file(
            sources / "plain.wim", tmp_path / "out.swm", LIMIT, on_event=stop, cancel=cancel
        )
    assert names(tmp_path) == set()


PROGRAM = """
import sys, time
from pathlib import Path
from mediamaker.wim.split_file import split_wim_file
from tests.hostile.make_wim import WimBuilder
def slow(event):
    print("at work", flush=True)
    time.sleep(0.5)
split_wim_file(Path(sys.argv[1]), Path(sys.argv[2]), 700 * 1024, on_event=slow)
"""


def test_ctrl_c_leaves_nothing(sources, tmp_path):
    process = subprocess.Popen(
        [sys.executable, "-c", PROGRAM, sources / "plain.wim", tmp_path / "out.swm"],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        cwd=Path(__file__).parents[2],
    )
    assert process.stdout.readline() == "at work\n"
    assert len(names(tmp_path)) >= 3
    time.sleep(0.1)
    process.send_signal(signal.SIGINT)
    _, errors = process.communicate(timeout=30)
    assert "KeyboardInterrupt" in errors
    assert names(tmp_path) == set()
