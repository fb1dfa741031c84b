# SPDX-License-Identifier: GPL-3.0-or-later
"""The places and names of new files."""

import os

import pytest

from mediamaker.devices.new_file import check_new_file, check_place, give_name, name_beside
from mediamaker.errors import TargetRefusedError


def test_a_long_name_has_room_for_being_partial(tmp_path):
    target = tmp_path / ("ü" * 127 + "x")
    first, second = name_beside(target), name_beside(target)
    assert first != second
    for path in (first, second):
        assert len(os.fsencode(path.name)) <= 255
        assert path.name.startswith(".ü")
        path.touch()  # the file system takes it


def test_a_name_is_given_once(tmp_path, monkeypatch):
    partial, target = tmp_path / "partial", tmp_path / "target"
    partial.write_text("new")
    give_name(partial, target)
    assert target.read_text() == "new"
    partial.write_text("other")
    target.unlink()
    target.write_text("mine")
    with pytest.raises(TargetRefusedError, match="exists already"):
        give_name(partial, target)

    def refuse(_path, _other):
        raise PermissionError(1, "no links here")

    # As on FAT.
    monkeypatch.setattr("pathlib.Path.hardlink_to", refuse)
    with pytest.raises(TargetRefusedError, match="exists already"):
        give_name(partial, target)
    assert target.read_text() == "mine"
    give_name(partial, tmp_path / "free")
    assert (tmp_path / "free").read_text() == "other"
    assert not partial.exists()


def test_places(tmp_path):
    taken = tmp_path / "taken"
    taken.write_text("mine")
    taken.chmod(0o640)
    assert check_place(tmp_path / "free", replace=False) is None
    assert check_place(taken, replace=True) == 0o640
    for path, words in (
        (taken, "exists already"),
        (tmp_path, "not a regular file"),
        (tmp_path / "none" / "x", "there is no directory"),
    ):
        with pytest.raises(TargetRefusedError, match=words):
            check_new_file(path, replace=False)
    check_new_file(taken, replace=True)
