# SPDX-License-Identifier: GPL-3.0-or-later
"""What VM tests share: a folder that is kept, so that logs and screenshots can be looked at."""

import re
import shutil
from pathlib import Path

import pytest
from bootcode_rig import TOKEN
from standin.programs import build_bootmgr

OUT = Path(__file__).parent.parent / "out" / "vm-tests"


@pytest.fixture
def out_dir(request):
    """The test's own folder under ``out/``, emptied when the test starts again."""
    path = OUT / re.sub(r"[^A-Za-z0-9_.-]+", "-", request.node.name).strip("-")
    shutil.rmtree(path, ignore_errors=True)
    path.mkdir(parents=True)
    return path


@pytest.fixture(scope="session")
def bootmgr() -> bytes:
    """The stand-in for BOOTMGR, with the token of ``bootcode_rig``."""
    return build_bootmgr(TOKEN)
