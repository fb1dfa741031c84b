# SPDX-License-Identifier: GPL-3.0-or-later
"""Scratch folders go: at the end, after an error, and after a SIGKILL with the next run."""

import os
import signal
import subprocess
import sys
import time

import pytest

from mediamaker.errors import TargetIOError
from mediamaker.install.scratch import scratch_folder

HOLDER = """
import sys, time
from pathlib import Path
from mediamaker.install.scratch import scratch_folder
with scratch_folder(Path(sys.argv[1])) as folder:
    (folder / "big").write_bytes(b"x")
    print(folder, flush=True)
    time.sleep(600)
"""


@pytest.fixture
def holder(tmp_path):
    process = subprocess.Popen(
        [sys.executable, "-c", HOLDER, tmp_path], stdout=subprocess.PIPE, text=True
    )
    assert process.stdout.readline().strip()
    yield process
    process.kill()
    process.wait()
    process.stdout.close()


def test_gone_at_the_end_and_after_an_error(tmp_path):
    def fail(folder):
        (folder / "file").write_text("x")
        raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError), scratch_folder(tmp_path) as folder:
        fail(folder)
    assert list(tmp_path.iterdir()) == []


def test_one_in_use_is_left_alone(tmp_path, holder):
    with scratch_folder(tmp_path):
        assert len(list(tmp_path.iterdir())) == 2
    assert len(list(tmp_path.iterdir())) == 1


def test_one_left_behind_goes_with_the_next_run(tmp_path, holder):
    os.kill(holder.pid, signal.SIGKILL)
    holder.wait()
    time.sleep(0.1)
    assert len(list(tmp_path.iterdir())) == 1
    with scratch_folder(tmp_path):
        assert len(list(tmp_path.iterdir())) == 1
    assert list(tmp_path.iterdir()) == []


def test_folders_of_others_stay(tmp_path):
    other = tmp_path / ".mediamaker-scratch-other"
    other.mkdir()
    (other / "file").write_text("no lock here")
    with scratch_folder(tmp_path):
        pass
    assert (other / "file").exists()


def test_no_place(tmp_path):
    with (
        pytest.raises(TargetIOError, match="no folder can be made"),
        scratch_folder(tmp_path / "x"),
    ):
        pass
