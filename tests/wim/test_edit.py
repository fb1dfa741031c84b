# SPDX-License-Identifier: GPL-3.0-or-later
"""Set, delete and export, judged by wimlib-imagex and 7-Zip."""

import os
import random

import pytest

from mediamaker.errors import SourceChangedError, TargetRefusedError, UsageError
from mediamaker.execute.progress import ignore_event
from mediamaker.wim import changing
from mediamaker.wim.changing import changed_wim
from mediamaker.wim.edit import delete_images, export_to_wim, set_properties
from mediamaker.wim.meter import WimMeter
from mediamaker.wim.writing import Encoding, ImageSource
from tests.wim.wim_rig import assert_image_is, check, info, listing, make_tree, names, run


@pytest.fixture
def wim(tmp_path):
    path = tmp_path / "x.wim"
    common = random.Random(1).randbytes(50_000)
    for number, name in enumerate(("One", "Two", "Three")):
        tree = make_tree(tmp_path / name, number, common)
        verb = "append" if number else "capture"
        extra = ("--boot",) if name == "Two" else ()
        run("wimlib-imagex", verb, tree, path, name, *extra)
    return path


def change(path, image, properties, **options):
    return set_properties(path, image, properties, on_event=ignore_event, **options)


def export(source, path, images=None, **options):
    item = ImageSource(path=source, images=images)
    return export_to_wim(item, path, on_event=ignore_event, **options)


def test_properties(wim):
    result = change(
        wim,
        "One",
        {"NAME": "Neu & gut", "DESCRIPTION": "<d>", "FLAGS": "Core", "WINDOWS/EDITIONID": "Home"},
        is_bootable=True,
    )
    assert (result.image_count, result.boot_index) == (3, 1)
    assert names(wim) == ["Neu & gut", "Two", "Three"]
    text = run("wimlib-imagex", "info", wim, 1)
    for expected in ("<d>", "Core", "Home"):
        assert expected in text
    languages = "WINDOWS/LANGUAGES/LANGUAGE"
    change(wim, 1, {"DESCRIPTION": None, languages: "en-US", f"{languages}[2]": "de-DE"})
    assert "<d>" not in run("wimlib-imagex", "info", wim, 1)
    assert "de-DE" in run("wimlib-imagex", "info", wim, 1)
    assert change(wim, 1, {}, is_bootable=False).boot_index == 0
    assert change(wim, 2, {}, is_bootable=False).boot_index == 0
    check(wim)


def test_properties_that_are_refused(wim):
    before = wim.read_bytes()
    for properties, says in (
        ({"NAME": "Two"}, "already in use"),
        ({"TOTALBYTES": "1"}, "is computed"),
        ({"a b": "1"}, "is not the path of a property"),
        ({"/NAME": "1"}, "is not the path of a property"),
        ({}, "nothing to set"),
    ):
        with pytest.raises(UsageError, match=says):
            change(wim, 1, properties)
    with pytest.raises(UsageError, match="has no image '4'"):
        change(wim, 4, {"NAME": "x"})
    assert wim.read_bytes() == before


def test_delete_gives_the_room_back(wim, tmp_path):
    result = delete_images(wim, ["One", 3], on_event=ignore_event)
    assert result.size_after < result.size_before * 0.6
    assert (result.image_count, result.boot_index) == (1, 1)
    assert names(wim) == ["Two"]
    check(wim)
    assert_image_is(wim, 1, tmp_path / "Two", tmp_path / "out")
    with pytest.raises(UsageError, match="no image would be left"):
        delete_images(wim, [1], on_event=ignore_event)
    with pytest.raises(UsageError, match="say which"):
        delete_images(wim, [], on_event=ignore_event)


def test_export_to_a_new_file_copies(wim, tmp_path):
    path = tmp_path / "new.wim"
    result = export(wim, path, (2,), name="Renamed", description="about")
    check(path)
    assert names(path) == ["Renamed"]
    assert result.boot_index == 1
    assert result.savings.recompressed == 0
    assert_image_is(path, 1, tmp_path / "Two", tmp_path / "out")
    with pytest.raises(TargetRefusedError, match="exists already"):
        export(wim, path)
    result = export(wim, path, (1, 3), replace_existing=True, is_bootable=True)
    assert (names(path), result.boot_index) == (["One", "Three"], 1)
    export(wim, path, replace_existing=True, encoding=Encoding(compression="XPRESS"))
    assert info(path)["Compression"] == "XPRESS"
    check(path)


def test_export_to_a_file_that_is_there(wim, tmp_path):
    path = tmp_path / "new.wim"
    export(wim, path, (1,))
    result = export(wim, path, (2, 3), append=True)
    assert names(path) == ["One", "Two", "Three"]
    assert result.boot_index == 2
    assert result.savings.shared > 0
    check(path)
    assert_image_is(path, 3, tmp_path / "Three", tmp_path / "out")
    with pytest.raises(UsageError, match="'One' is there already"):
        export(wim, path, (2,), append=True, name="One")
    with pytest.raises(UsageError, match="one name for 2 images"):
        export(wim, path, (1, 2), append=True, name="x")
    before = wim.read_bytes()
    for how in ({"append": True}, {"replace_existing": True}):
        with pytest.raises(UsageError, match="is one of the sources"):
            export(wim, wim, (1,), **how)
    assert wim.read_bytes() == before


def test_a_file_that_somebody_else_changes_meanwhile_is_left_to_him(wim):
    def change_meanwhile():
        with changed_wim(wim, WimMeter(ignore_event)) as opened:
            opened.set_property(1, "NAME", "x")
            os.utime(wim, ns=(1, 1))

    with pytest.raises(SourceChangedError):
        change_meanwhile()
    assert names(wim) == ["One", "Two", "Three"]
    assert listing(wim.parent) == ["One", "Three", "Two", "x.wim"]


def test_where_blocks_can_be_shared_they_are(wim, tmp_path, monkeypatch):
    """A small XFS with reflinks: the changed file is a clone."""
    clones, real = [], changing._clone
    monkeypatch.setattr(changing, "_clone", lambda a, b: clones.append(real(a, b)) or clones[-1])
    change(wim, 1, {"NAME": "On another file system"})
    image, where = tmp_path / "xfs.img", tmp_path / "m"
    with image.open("wb") as file:
        file.truncate(320 << 20)
    run("mkfs.xfs", "-q", "-m", "reflink=1", image)
    where.mkdir()
    run("mount", "-o", "loop", image, where)
    try:
        path = where / "x.wim"
        path.write_bytes(wim.read_bytes())
        run("sync", "-f", path)
        change(path, 1, {"NAME": "Other"})
        check(path)
        assert names(path) == ["Other", "Two", "Three"]
        assert listing(where) == ["x.wim"]
        assert clones[-1] is True
    finally:
        run("umount", where)
