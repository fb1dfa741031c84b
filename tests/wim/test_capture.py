# SPDX-License-Identifier: GPL-3.0-or-later
"""Capture from directories and NTFS volumes, judged by wimlib-imagex."""

import os
import socket
from pathlib import Path

import pytest

from mediamaker.devices.new_file import claimed_name
from mediamaker.errors import SourceError, TargetRefusedError, UsageError
from mediamaker.execute.progress import Progress, ignore_event
from mediamaker.wim.capture import CaptureRequest, append_image, capture_image
from mediamaker.wim.writing import Encoding
from tests.wim.wim_rig import (
    assert_image_is,
    check,
    detailed,
    info,
    listing,
    make_tree,
    make_volume,
    mark_encrypted,
    mounted,
    names,
    run,
    set_extended_attribute,
    set_symbolic_link,
)


def capture(source, path, name="One", *, append=False, encoding=None, replace=False, **request):
    wanted = CaptureRequest(source=source, name=name, **request)
    if append:
        return append_image(wanted, path, on_event=ignore_event)
    return capture_image(
        wanted, path, encoding=encoding, replace_existing=replace, on_event=ignore_event
    )


@pytest.fixture
def tree(tmp_path):
    root = make_tree(tmp_path / "tree", "tree", b"common")
    (root / "sub").mkdir()
    os.link(root / "file0", root / "sub" / "linked")
    (root / "link").symlink_to("file1")
    return root


def test_a_directory_with_everything_said_about_it(tree, tmp_path):
    path = tmp_path / "out.wim"
    result = capture(
        tree,
        path,
        "Näme & <x>",
        description="What it is",
        flags="Professional",
        is_bootable=True,
        properties=(("DISPLAYNAME", "Shown"), ("WINDOWS/EDITIONID", "Pro")),
    )
    assert (result.number, result.kind, result.not_carried) == (1, "directory", ())
    assert result.size_after == path.stat().st_size
    check(path)
    text = run("wimlib-imagex", "info", path, "1")
    for line in ("Näme & <x>", "What it is", "Professional", "Shown", "Edition ID:", "Pro"):
        assert line in text
    assert info(path)["Boot Index"] == "1"
    assert_image_is(path, 1, tree, tmp_path / "out")
    assert (tmp_path / "out/file0").samefile(tmp_path / "out/sub/linked")


def test_the_wim_itself_is_not_captured(tree, tmp_path):
    path = tree / "sub" / "out.wim"
    for replace in (False, True):
        result = capture(tree, path, replace=replace)
        listed = run("wimlib-imagex", "dir", path, "1").splitlines()
        assert "/sub/linked" in listed
        assert not [name for name in listed if "out.wim" in name]
        assert [Path(name).name for name in result.excluded] == (["out.wim"] if replace else [])
    result = capture(tree, path, "Two", append=True)
    assert result.number == 2
    listed = run("wimlib-imagex", "dir", path, "2").splitlines()
    assert not [name for name in listed if "out.wim" in name or "partial" in name]
    check(path)
    assert listing(tree / "sub") == ["linked", "out.wim"]


def test_acls_stay_behind_when_told(tmp_path):
    volume = make_volume(tmp_path / "ntfs.img")
    with mounted(volume, tmp_path / "mnt") as root:
        (root / "file").write_text("x")
    with_them, without = tmp_path / "with.wim", tmp_path / "without.wim"
    capture(volume, with_them)
    capture(volume, without, without_acls=True)
    assert "Security Descriptor" in detailed(with_them)
    assert "Security Descriptor" not in detailed(without)


def test_compression_and_replacing(tree, tmp_path):
    path = tmp_path / "out.wim"
    capture(tree, path, encoding=Encoding(compression="XPRESS"))
    assert info(path)["Compression"] == "XPRESS"
    with pytest.raises(TargetRefusedError, match="exists already"):
        capture(tree, path)
    capture(tree, path, encoding=Encoding(compression="none", chunk_size=None), replace=True)
    assert info(path)["Compression"] == "None"
    check(path)
    capture(
        tree,
        path,
        encoding=Encoding(compression="LZMS", chunk_size=1 << 26, is_solid=True),
        replace=True,
    )
    assert info(path)["Version"] == "3584"
    check(path)


@pytest.mark.parametrize("is_solid", [False, True])
def test_append_keeps_what_was_there(tree, tmp_path, is_solid):
    path = tmp_path / "out.wim"
    extra = ("--solid", "--check") if is_solid else ()
    run("wimlib-imagex", "capture", tree, path, "First", "--boot", *extra)
    path.chmod(0o640)
    os.chown(path, 12345, 54321)
    (tree / "new").write_bytes(b"new content")
    guid = info(path)["GUID"]
    result = capture(tree, path, "Second", append=True)
    assert result.number == 2
    assert names(path) == ["First", "Second"]
    assert info(path)["Boot Index"] == "1"
    assert info(path)["GUID"] == guid
    assert info(path)["Version"] == ("3584" if is_solid else "68864")
    assert ("Integrity info" in info(path)["Attributes"]) == is_solid
    check(path)
    assert_image_is(path, 2, tree, tmp_path / "out")
    status = path.stat()
    assert (status.st_mode & 0o777, status.st_uid, status.st_gid) == (0o640, 12345, 54321)
    before = path.read_bytes()
    with pytest.raises(UsageError, match="Second"):
        capture(tree, path, "Second", append=True)
    assert path.read_bytes() == before
    assert listing(tmp_path) == ["out", "out.wim", "tree"]


def test_exclusions(tree, tmp_path):
    (tree / "pagefile.sys").touch()
    (tree / "$RECYCLE.BIN").mkdir()
    (tree / "keep.tmp").touch()
    path = tmp_path / "out.wim"
    result = capture(tree, path)
    paths = run("wimlib-imagex", "dir", path).splitlines()
    assert "/pagefile.sys" not in paths
    assert "/$RECYCLE.BIN" not in paths
    assert "/keep.tmp" in paths
    assert len(result.excluded) == 2
    config = tmp_path / "config.ini"
    config.write_text("[ExclusionList]\n*.tmp\n/sub\n[ExclusionException]\n/sub/linked\n")
    capture(tree, path, config_path=config, replace=True)
    paths = run("wimlib-imagex", "dir", path).splitlines()
    assert "/pagefile.sys" in paths
    assert "/keep.tmp" not in paths
    capture(tree, path, takes_everything=True, replace=True)
    paths = run("wimlib-imagex", "dir", path).splitlines()
    assert {"/pagefile.sys", "/keep.tmp", "/$RECYCLE.BIN"} <= set(paths)
    with pytest.raises(UsageError, match="no such file"):
        capture(tree, path, config_path=tmp_path / "missing", replace=True)
    config.write_text("[ExclusionList]\nsub/linked\n")
    with pytest.raises((UsageError, SourceError)):
        capture(tree, path, config_path=config, replace=True)


def test_what_a_directory_has_and_a_wim_does_not_take_is_counted(tree, tmp_path):
    os.mkfifo(tree / "pipe")
    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind(str(tree / "sock"))
        result = capture(tree, tmp_path / "out.wim")
    (missing,) = result.not_carried
    assert missing.file_count == 2
    assert sorted(Path(name).name for name in missing.examples) == ["pipe", "sock"]
    assert not capture(tree, tmp_path / "unix.wim", takes_unix_data=True).not_carried


def test_ntfs_keeps_what_ntfs_has(tmp_path):
    """wimlib-imagex's own capture of the same volume is the judge."""
    volume = make_volume(tmp_path / "volume.img")
    with mounted(volume, tmp_path / "m") as root:
        (root / "dir").mkdir()
        (root / "dir" / "file").write_bytes(b"content")
        (root / "dir" / "file:stream").write_bytes(b"alternate")
        os.link(root / "dir" / "file", root / "hard link")
        set_symbolic_link(root / "link", "dir\\file")
        (root / "long name.text").touch()
        os.setxattr(root / "long name.text", "system.ntfs_dos_name", b"LONGNA~1.TEX")
        os.setxattr(root / "hard link", "system.ntfs_attrib", (0x22).to_bytes(4, "little"))
    path, judge = tmp_path / "out.wim", tmp_path / "judge.wim"
    result = capture(volume, path)
    assert (result.kind, result.not_carried) == ("ntfs", ())
    run("wimlib-imagex", "capture", volume, judge, "One")
    check(path)
    assert detailed(path) == detailed(judge)
    text = detailed(path)
    for expected in ("LONGNA~1.TEX", 'Named data stream "stream"', "Reparse", "Security"):
        assert expected.lower() in text.lower(), text


def test_what_ntfs_loses_is_counted_and_named(tmp_path):
    volume = make_volume(tmp_path / "volume.img")
    with mounted(volume, tmp_path / "m") as root:
        (root / "dir").mkdir()
        for name in ("a", "b"):
            (root / "dir" / name).write_bytes(b"x")
            set_extended_attribute(root / "dir" / name)
        (root / "secret-file").write_bytes(b"secret")
        (root / "secret-dir" / "deeper").mkdir(parents=True)
        (root / "secret-dir" / "deeper" / "file").touch()
        (root / "plain").write_bytes(b"plain")
    mark_encrypted(volume, "secret-file")
    mark_encrypted(volume, "secret-dir")
    path = tmp_path / "out.wim"
    result = capture(volume, path)
    lost = {item.what: item for item in result.not_carried}
    assert lost["extended attributes"].file_count == 2
    assert lost["extended attributes"].examples == ("/dir/a", "/dir/b")
    (encrypted,) = (item for name, item in lost.items() if "encrypted" in name)
    assert encrypted.file_count == 4
    assert sorted(encrypted.examples) == ["/secret-dir", "/secret-file"]
    assert len(lost) == 2
    paths = run("wimlib-imagex", "dir", path).splitlines()
    assert "/plain" in paths
    assert not any("secret" in path for path in paths)


def test_refusals_leave_nothing(tree, tmp_path):
    volume = make_volume(tmp_path / "volume.img")
    before = listing(tmp_path)
    path = tmp_path / "out.wim"
    with (
        mounted(volume, tmp_path / "tree" / "sub"),
        pytest.raises(TargetRefusedError, match="is mounted on"),
    ):
        capture(volume, path)
    with pytest.raises(SourceError, match="no such directory or NTFS volume"):
        capture(tmp_path / "missing", path)
    with pytest.raises(SourceError, match="not an NTFS volume"):
        capture(tree / "file0", path)
    with pytest.raises(UsageError, match="not of NTFS"):
        capture(volume, path, takes_unix_data=True)
    with pytest.raises(SourceError, match="no such file"):
        capture(tree, path, append=True)
    assert listing(tmp_path) == before


def test_a_wim_that_another_run_is_making_is_refused(tree, tmp_path):
    out = tmp_path / "out.wim"
    with claimed_name(out), pytest.raises(TargetRefusedError, match="another run of mediamaker"):
        capture(tree, out, replace=True)
    assert not out.exists()
    capture(tree, out)


def test_ctrl_c_leaves_nothing(tree, tmp_path):
    def listen(event):
        if isinstance(event, Progress):
            raise KeyboardInterrupt

    request = CaptureRequest(source=tree, name="x")
    with pytest.raises(KeyboardInterrupt):
        capture_image(request, tmp_path / "out.wim", on_event=listen)
    assert listing(tmp_path) == ["tree"]
