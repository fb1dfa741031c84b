# SPDX-License-Identifier: GPL-3.0-or-later
"""Where journals and undo files of devices are kept."""

import os
import pwd
from pathlib import Path

import pytest

from mediamaker.execute.state import disk_key, state_folder


def test_where_it_is_told_to_be(tmp_path, monkeypatch):
    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path / "s"))
    folder = state_folder("journals")
    assert folder == tmp_path / "s" / "mediamaker" / "journals"
    assert folder.stat().st_mode & 0o777 == 0o700
    assert state_folder("journals") == folder


@pytest.mark.parametrize("value", ["", "relative/path"])
def test_else_below_the_home(tmp_path, monkeypatch, value):
    monkeypatch.setenv("XDG_STATE_HOME", value)
    monkeypatch.setenv("HOME", str(tmp_path))
    assert state_folder("undo") == tmp_path / ".local" / "state" / "mediamaker" / "undo"


def test_root_makes_no_folders_in_the_home_of_who_called_sudo(tmp_path, monkeypatch):
    assert os.geteuid() == 0, "tests of devices need root"
    os.chown(tmp_path, 1000, 1000)
    monkeypatch.delenv("XDG_STATE_HOME", raising=False)
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.setattr(Path, "mkdir", lambda *_, **__: None)
    assert state_folder("undo").is_relative_to(pwd.getpwuid(0).pw_dir)
    assert list(tmp_path.iterdir()) == []


def test_a_key_is_the_disk_s_whatever_the_order_of_its_facts():
    facts = {"serial": "S1", "size": 5, "wwn": None}
    assert disk_key(facts) == disk_key(dict(reversed(facts.items())))
    assert len({disk_key({**facts, "serial": name}) for name in ("S1", "S2", None)}) == 3
