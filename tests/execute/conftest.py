# SPDX-License-Identifier: GPL-3.0-or-later
"""Where the engine's tests put their disks."""

import shutil
import tempfile
from pathlib import Path

import pytest

from tests.execute.engine_rig import StickFile, make_rig


@pytest.fixture
def ram_path():
    """A folder in memory: hundreds of flushes to a real disk would take minutes."""
    folder = Path(tempfile.mkdtemp(prefix="mediamaker-test-", dir="/dev/shm"))
    yield folder
    shutil.rmtree(folder)


@pytest.fixture
def rig(ram_path):
    return make_rig(ram_path)


@pytest.fixture
def stick(ram_path, rig):
    stick = StickFile(ram_path / "stick", rig.extents.end)
    yield stick
    stick.close()
