# SPDX-License-Identifier: GPL-3.0-or-later
"""The ``wim`` sub-verbs that make and change files, from outside; wimlib-imagex is the judge."""

import io
import os
import random
import subprocess

import pytest


def wimlib(*words):
    return subprocess.run(
        ["wimlib-imagex", *map(str, words)], check=True, capture_output=True, text=True
    ).stdout


@pytest.fixture
def tree(tmp_path):
    root = tmp_path / "tree"
    (root / "Windows").mkdir(parents=True)
    for number in range(5):
        (root / f"Windows/file{number}").write_bytes(random.Random(number).randbytes(120_000))
    (root / "Ünïcode").write_text("text")
    os.link(root / "Ünïcode", root / "hard link")
    return root


@pytest.fixture
def wim(run, tree, tmp_path):
    path = tmp_path / "a.wim"
    code, events = run.json("wim", "capture", tree, path, "--name", "One", "--flags", "Pro")
    assert code == 0, events
    return path


def test_capture_and_append(run, wim, tree):
    code, events = run.json("wim", "append", tree, wim, "--name", "Two", "--boot")
    assert (code, events[-1]["image_number"]) == (0, 2)
    shown = wimlib("info", wim)
    assert "Image Count:    2" in shown
    assert "Boot Index:     2" in shown
    wimlib("verify", wim)
    assert run.json("wim", "append", tree, wim, "--name", "Two")[0] == 2


def test_a_file_that_is_there_is_kept(run, wim, tree):
    before = wim.read_bytes()
    assert run.json("wim", "capture", tree, wim)[0] == 4
    assert run.json("wim", "export", wim, wim)[0] in {2, 4}
    assert run.json("wim", "optimize", wim, wim, "--force")[0] in {2, 4}
    assert wim.read_bytes() == before
    assert sorted(path.name for path in wim.parent.iterdir()) == ["a.wim", "tree"]


def test_names_that_are_not_unicode_are_told_one_by_one(run, tmp_path):
    tree, bad = tmp_path / "tree", os.fsdecode(b"b\xfcd")
    (tree / "sub").mkdir(parents=True)
    for path in (tree / "good", tree / bad, tree / "sub" / bad):
        path.touch()
    (tree / "link").symlink_to(bad)
    out = tmp_path / "x.wim"
    code, events = run.json("wim", "capture", tree, out)
    assert (code, events[-1]["error"]) == (3, "NotRepresentableError")
    message = events[-1]["message"]
    assert "3 names or link targets are not UTF-8" in message
    for name in ("/b\\xfcd", "/sub/b\\xfcd", "/link"):
        assert name in message
    assert "good" not in message
    assert list(tmp_path.glob("*.wim*")) == list(tmp_path.glob(".*")) == []
    for path in (tree / bad, tree / "sub" / bad, tree / "link"):
        path.unlink()
    assert run.json("wim", "capture", tree, out)[0] == 0
    before = out.read_bytes()
    (tree / bad).touch()
    assert run.json("wim", "append", tree, out, "--name", "2")[0] == 3
    assert out.read_bytes() == before
    code, events = run.json("wim", "capture", tree.rename(tmp_path / bad), tmp_path / "y.wim")
    assert code == 3
    assert "2 names or link targets" in events[-1]["message"]


def test_split_join_and_the_same_tree(run, wim, tree, tmp_path):
    first, joined = tmp_path / "p.swm", tmp_path / "joined.wim"
    code, events = run.json("wim", "split", wim, first, "--size", "300KiB")
    assert code == 0
    parts = events[-1]["parts"]
    assert len(parts) > 1
    assert all(part["size"] <= 300 * 1024 for part in parts)
    wimlib("verify", first, f"--ref={tmp_path}/p*.swm")
    assert run.json("wim", "verify", first)[0] == 0
    assert run.json("wim", "join", first, joined)[0] == 0
    wimlib("verify", joined)
    out = tmp_path / "out"
    assert run.json("wim", "apply", joined, out)[0] == 0
    subprocess.run(["diff", "-r", tree, out], check=True)
    assert (out / "Ünïcode").stat().st_ino == (out / "hard link").stat().st_ino


def test_split_refuses_what_does_not_fit(run, wim, tmp_path):
    code, events = run.json("wim", "split", wim, tmp_path / "p.swm", "--size", "20KiB")
    assert code == 3
    assert events[-1]["error"] == "NotRepresentableError"
    assert not list(tmp_path.glob("*.swm"))


def test_solid_is_cut_only_when_asked(run, wim, tmp_path):
    solid = tmp_path / "solid.esd"
    code, events = run.json("wim", "optimize", wim, solid, "--for", "archive")
    assert code == 0
    assert run.json("wim", "info", solid)[1][-1]["is_solid"] is True
    assert run.json("wim", "verify", solid)[0] == 0
    code, out, _ = run.text("wim", "optimize", wim, solid, "--for", "archive", "--force")
    assert "6 of 6 blobs compressed again" not in out  # metadata is a blob too
    assert "7 of 7 blobs compressed again" in out
    code, out, _ = run.text("wim", "optimize", wim, tmp_path / "copy.wim")
    assert "everything copied as stored" in out
    code, events = run.json("wim", "split", solid, tmp_path / "s.swm", "--size", "300KiB")
    assert code == 3
    assert "solid" in events[-1]["message"]


def test_optimize_says_what_was_saved(run, wim, tree, tmp_path):
    assert run.json("wim", "append", tree, wim, "--name", "Two")[0] == 0
    out = tmp_path / "small.wim"
    code, events = run.json("wim", "optimize", wim, out, "--images", "Two")
    assert code == 0
    result = events[-1]
    assert result["images"] == ["Two"]
    assert result["size_before"] == wim.stat().st_size
    assert result["size_after"] == out.stat().st_size
    assert result["size_before"] - result["size_after"] == (
        result["saved_by_dropping"]
        + result["saved_by_dedup"]
        + result["saved_by_recompressing"]
        + result["saved_in_tables"]
    )
    assert (result["is_recompressed"], result["copied_blob_count"]) == (
        False,
        result["blob_count"],
    )
    wimlib("verify", out)
    assert run.json("wim", "optimize", wim, tmp_path / "no.wim", "--fit", "1KiB")[0] == 3


def test_update_set_export_and_delete(run, wim, tmp_path, monkeypatch):
    added = tmp_path / "driver.sys"
    added.write_text("driver")
    commands = f"add '{added}' /Windows/driver.sys\ndelete /Windows/file0\n"
    monkeypatch.setattr("sys.stdin", io.StringIO(commands + "rename /Windows/file1 /moved\n"))
    code, events = run.json("wim", "update", f"{wim}:1")
    assert code == 0
    assert (events[-1]["added"], events[-1]["deleted"], events[-1]["renamed"]) == (1, 1, 1)
    listed = wimlib("dir", wim, "1").splitlines()
    assert "/Windows/driver.sys" in listed
    assert "/moved" in listed
    assert "/Windows/file0" not in listed
    assert run.json("wim", "set", f"{wim}:1", "NAME=Renamed", "WINDOWS/EDITIONID=Core")[0] == 0
    image = run.json("wim", "info", wim)[1][-1]["images"][0]
    assert (image["name"], image["edition"]) == ("Renamed", "Core")
    other = tmp_path / "other.wim"
    assert run.json("wim", "export", f"{wim}:Renamed", other, "--name", "New")[0] == 0
    assert run.json("wim", "export", wim, other, "--append")[0] == 0
    assert run.json("wim", "delete", other, "New")[0] == 0
    assert [i["name"] for i in run.json("wim", "info", other)[1][-1]["images"]] == ["Renamed"]
    wimlib("verify", other)


def test_a_bad_command_names_its_line_and_changes_nothing(run, wim, monkeypatch):
    before = wim.read_bytes()
    monkeypatch.setattr("sys.stdin", io.StringIO("delete /Windows/file0\nfrobnicate x\n"))
    code, events = run.json("wim", "update", wim)
    assert code == 2
    assert "2" in events[-1]["message"]
    assert wim.read_bytes() == before


@pytest.mark.parametrize(
    ("words", "compression", "chunk_size"),
    [
        (("--compress", "XPRESS"), "XPRESS", 32),
        (("--compress", "LZMS"), "LZMS", 128),
        (("--chunk-size", "64KiB"), "LZX", 64),
        (("--compress", "none", "--integrity"), "none", 0),
    ],
)
def test_how_a_capture_is_stored(run, tree, tmp_path, words, compression, chunk_size):
    out = tmp_path / "out.wim"
    assert run.json("wim", "capture", tree, out, *words)[0] == 0
    shown = run.json("wim", "info", out)[1][-1]
    assert (shown["compression"], shown["chunk_size"]) == (compression, chunk_size * 1024)
    assert shown["has_integrity_table"] is ("--integrity" in words)
    assert ("Integrity info" in wimlib("info", out)) is ("--integrity" in words)
    wimlib("verify", out)


def test_stored_ways_that_contradict(run, tree, tmp_path):
    out = tmp_path / "out.wim"
    words = ("wim", "capture", tree, out)
    assert run.json(*words, "--compress", "none", "--chunk-size", "32KiB")[0] == 2
    assert run.json(*words, "--chunk-size", "33KiB")[0] == 2
    assert not out.exists()
    assert run.json(*words, "--solid", "--compress", "LZMS")[0] == 0
    assert run.json("wim", "info", out)[1][-1]["is_solid"] is True
    table = tmp_path / "table.wim"
    assert run.json("wim", "optimize", out, table, "--integrity")[0] == 0
    assert run.json("wim", "info", table)[1][-1]["has_integrity_table"] is True


def test_unix_data_and_what_links_lead_to(run, tmp_path):
    tree, out = tmp_path / "unix", tmp_path / "u.wim"
    tree.mkdir()
    (tree / "tool").write_text("tool")
    (tree / "tool").chmod(0o4751)
    (tree / "link").symlink_to("tool")
    assert run.json("wim", "capture", tree, out, "--unix-data", "--dereference")[0] == 0
    for name, mode in (("plain", 0), ("unix", 0o4751)):
        options = ("--unix-data",) if mode else ()
        applied = tmp_path / f"applied-{name}"
        assert run.json("wim", "apply", out, applied, *options)[0] == 0
        assert ((applied / "tool").stat().st_mode & 0o7777 == 0o4751) is bool(mode)
        assert not (applied / "link").is_symlink()
        assert (applied / "link").read_text() == "tool"


def test_exclusions_of_an_update(run, wim, tmp_path):
    config, new = tmp_path / "config.ini", tmp_path / "new"
    new.mkdir()
    (new / "kept").touch()
    (new / "left").touch()
    config.write_text("[ExclusionList]\n/left\n")
    commands = tmp_path / "commands"
    commands.write_text(f"add '{new}' /new\n")
    words = ("wim", "update", wim, "--commands", commands, "--config", config)
    assert run.json(*words)[0] == 0
    listed = wimlib("dir", wim, "1").splitlines()
    assert "/new/kept" in listed
    assert "/new/left" not in listed


def test_acls_stay_behind_when_told(run, wim, tmp_path):
    volume, out = tmp_path / "ntfs.img", tmp_path / "out.wim"
    with volume.open("wb") as file:
        file.truncate(20 << 20)
    subprocess.run(["mkntfs", "-F", "-Q", volume], check=True, capture_output=True)
    assert run.json("wim", "apply", wim, volume, "--no-acls")[0] == 0
    for words in ((), ("--no-acls",)):
        code, _ = run.json("wim", "capture", volume, out, "--force", *words)
        assert code == 0
        left = run.json("wim", "extract", out, "/", "--to", tmp_path / f"x{len(words)}")[1][-1]
        assert any("security descriptors (ACLs)" in note for note in left["notes"]) is not bool(
            words
        )
        has_acl = "Security Descriptor" in wimlib("dir", out, "1", "--path=/", "--detailed")
        assert has_acl is not bool(words)


def test_ntfs_there_and_back(run, wim, tmp_path):
    volume, again = tmp_path / "ntfs.img", tmp_path / "again.wim"
    with volume.open("wb") as file:
        file.truncate(20 << 20)
    subprocess.run(["mkntfs", "-F", "-Q", volume], check=True, capture_output=True)
    code, events = run.json("wim", "apply", wim, volume)
    assert (code, events[-1]["kind"]) == (0, "ntfs"), events
    assert run.json("wim", "apply", wim, volume)[0] == 4, "it is not empty any more"
    code, events = run.json("wim", "capture", volume, again, "--name", "One")
    assert code == 0
    assert wimlib("dir", again, "1") == wimlib("dir", wim, "1")
