# SPDX-License-Identifier: GPL-3.0-or-later
"""Partial files that a killed run left: removed by the next run, unless somebody holds them."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

from mediamaker.devices.file_target import FileTarget
from mediamaker.devices.new_file import (
    claimed_name,
    hold_file,
    name_beside,
    remove_leftovers,
    shown_name,
)
from mediamaker.errors import TargetRefusedError
from mediamaker.wim.output import open_output

HOLD = """
import os, sys, time
from pathlib import Path
from mediamaker.devices.new_file import hold_file, name_beside
partial = name_beside(Path(sys.argv[1]))
hold_file(os.open(partial, os.O_RDWR | os.O_CREAT))
print(partial, flush=True)
time.sleep(600)
"""
CLAIM = """
import sys, time
from pathlib import Path
from mediamaker.devices.new_file import claimed_name
with claimed_name(Path(sys.argv[1])):
    print("claimed", flush=True)
    time.sleep(600)
"""


def test_a_file_is_kept_while_its_run_lives_and_goes_after_it_was_killed(tmp_path):
    target = tmp_path / "disk [1].img"
    words = [sys.executable, "-c", HOLD, target]
    with subprocess.Popen(words, stdout=subprocess.PIPE, text=True) as process:
        try:
            partial = tmp_path / process.stdout.readline().strip()
            remove_leftovers(target)
            assert partial.exists()
        finally:
            process.kill()
    assert partial.exists()
    remove_leftovers(target)
    assert not partial.exists()


def test_an_image_file_takes_along_what_was_left(tmp_path):
    target = tmp_path / "disk.img"
    name_beside(target).write_bytes(b"left by a run that was killed")
    other = name_beside(tmp_path / "other.img")
    other.write_bytes(b"not ours to remove")
    link = name_beside(target)
    link.symlink_to(other)
    with FileTarget.create(target, 4096, logical_sector_size=512, replace=False) as made:
        made.finish()
    assert sorted(path.name for path in tmp_path.iterdir()) == sorted(
        ["disk.img", other.name, link.name]
    )


def test_who_holds_a_file_may_hold_it_twice(tmp_path):
    partial = name_beside(tmp_path / "disk.img")
    one, other = (os.open(partial, os.O_RDWR | os.O_CREAT) for _ in range(2))
    hold_file(one)
    hold_file(other)  # taken, and nothing is said: it is no guard
    os.close(other)
    remove_leftovers(tmp_path / "disk.img")
    assert partial.exists()
    os.close(one)
    remove_leftovers(tmp_path / "disk.img")
    assert not partial.exists()


def test_the_shown_name_of_a_file_without_one(tmp_path):
    target = tmp_path / "disk.img"
    descriptor = os.open(tmp_path, os.O_TMPFILE | os.O_RDWR)
    path = Path(f"/proc/self/fd/{descriptor}")
    with shown_name(path):
        assert Path(os.path.realpath(path)).exists()
        remove_leftovers(target)
        assert Path(os.path.realpath(path)).exists(), "somebody uses it"
        left = Path(os.path.realpath(path)).read_bytes()
    assert list(tmp_path.iterdir()) == []
    os.close(descriptor)
    # as SIGKILL leaves it; and files of others of such a name, which stay
    (tmp_path / "#41 (deleted)").write_bytes(left)
    (tmp_path / "#40 (deleted)").write_bytes(b"")
    (tmp_path / "#42 (deleted)").write_bytes(b"other")
    (tmp_path / "#43 (deleted)").write_bytes(left + b"more")
    remove_leftovers(target)
    assert sorted(found.name for found in tmp_path.iterdir()) == ["#42 (deleted)", "#43 (deleted)"]


def test_one_run_at_a_time_makes_a_file_of_a_name(tmp_path):
    target = tmp_path / "disk.img"
    with subprocess.Popen(
        [sys.executable, "-c", CLAIM, target], stdout=subprocess.PIPE, text=True
    ) as process:
        try:
            assert process.stdout.readline() == "claimed\n"
            with pytest.raises(TargetRefusedError, match="another run of mediamaker is making it"):
                FileTarget.create(target, 4096)
            with (
                pytest.raises(TargetRefusedError, match="another run of mediamaker"),
                open_output(target, replace=True),
            ):
                pass
            with claimed_name(tmp_path / "other.img"):
                pass
        finally:
            process.kill()
    # nothing is left of it
    assert list(tmp_path.iterdir()) == []
    FileTarget.create(target, 4096).finish()


def test_a_name_is_one_by_whatever_way_it_is_reached(tmp_path):
    folder = tmp_path / "images"
    folder.mkdir()
    link = tmp_path / "link"
    link.symlink_to(folder)
    with (
        claimed_name(folder / "disk.img"),
        pytest.raises(TargetRefusedError, match="another run"),
        claimed_name(link / "disk.img"),
    ):
        pass


@pytest.mark.parametrize("end", ["finish", "abort", "close"])
def test_a_claim_ends_with_the_target(tmp_path, end):
    target = tmp_path / "disk.img"
    first = FileTarget.create(target, 4096)
    with pytest.raises(TargetRefusedError, match="another run"):
        FileTarget.create(target, 4096)
    getattr(first, end)()
    FileTarget.create(target, 4096, replace=True).abort()


def test_a_file_that_can_not_be_made_is_not_claimed(tmp_path):
    target = tmp_path / "disk.img"
    for _ in range(2):
        with pytest.raises(TargetRefusedError, match="can't create a file") as refused:
            FileTarget.create(target, 4096, partial=tmp_path / "no" / "folder")
        assert "another run" not in refused.value.message


def test_the_claim_goes_over_to_another_file_of_the_same_run(tmp_path):
    target = tmp_path / "disk.img"
    with FileTarget.create(target, 4096) as first:
        second = first.another(8192)
    with pytest.raises(TargetRefusedError, match="another run"):
        FileTarget.create(target, 4096)
    second.finish()
    assert target.stat().st_size == 8192
