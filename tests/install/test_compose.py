# SPDX-License-Identifier: GPL-3.0-or-later
"""Small volumes from files, judged by ntfs-3g's mount, ntfsfix and wimlib's own capture."""

import random

import pytest

from mediamaker.errors import SourceError, TargetRefusedError, UsageError
from mediamaker.install.compose import compose_ntfs
from mediamaker.install.make_ntfs import make_ntfs
from mediamaker.units import MIB
from tests.wim.wim_rig import detailed, mounted, run

TIME_NS = 1_700_000_000 * 10**9


@pytest.fixture
def volume(tmp_path):
    return make(tmp_path / "volume.img")


def make(path):
    make_ntfs(
        path, size=32 * MIB, sector_size=512, hidden_sectors=2048, volume_label="R", volume_serial=7
    )
    return path


def test_files_by_path_and_by_bytes(tmp_path, volume):
    big = tmp_path / "winre.bin"
    big.write_bytes(random.Random(1).randbytes(5 * MIB))
    (tmp_path / "link").symlink_to(big)
    tree = {
        ("Recovery", "WindowsRE", "Winre.wim"): big,
        ("Recovery", "WindowsRE", "ReAgent.xml"): b"<xml/>",
        ("Recovery", "WindowsRE", "empty"): b"",
        ("bootmgr",): b"code",
        ("Boot", "de-DE", "bootmgr.exe.mui"): tmp_path / "link",
    }
    result = compose_ntfs(volume, tree, scratch=tmp_path, modified_ns=TIME_NS)
    assert result.file_count == 5
    assert (result.not_carried, result.warnings) == ((), ())
    run("ntfsfix", "--no-action", volume)
    with mounted(volume, tmp_path / "m") as root:
        shown = {path.relative_to(root).parts for path in root.rglob("*") if path.is_file()}
        assert shown == set(tree)
        for path, content in tree.items():
            want = content if isinstance(content, bytes) else content.read_bytes()
            assert root.joinpath(*path).read_bytes() == want
        assert (root / "bootmgr").stat().st_mtime_ns == TIME_NS
        assert (root / "Recovery").stat().st_mtime_ns == TIME_NS
        # 100 ns are as fine as NTFS gets.
        mtime_ns = (root / "Recovery/WindowsRE/Winre.wim").stat().st_mtime_ns
        assert mtime_ns == big.stat().st_mtime_ns // 100 * 100
    assert not list(tmp_path.glob("volume-*")), "nothing stays in scratch"


def test_equal_trees_make_equal_contents(tmp_path):
    tree = {("a", "b"): b"1", ("c",): b"2", ("a", "d"): b""}
    shown = []
    for name in "12":
        path = make(tmp_path / f"{name}.img")
        compose_ntfs(path, tree, scratch=tmp_path, modified_ns=TIME_NS)
        run("wimlib-imagex", "capture", path, tmp_path / f"{name}.wim", "x")
        shown.append(detailed(tmp_path / f"{name}.wim"))
    assert shown[0] == shown[1]
    assert "2023-11-14" in shown[0] or "Nov 14" in shown[0]


@pytest.mark.parametrize(
    ("tree", "message"),
    [
        ({("a",): b"", ("A",): b""}, "the same for Windows"),
        ({("Ä", "x"): b"", ("ä", "X"): b""}, "the same for Windows"),
        ({("a",): b"", ("A", "b"): b""}, "both a file and a directory"),
        ({("a", ".."): b""}, "no name for Windows"),
        ({("a/b",): b""}, "no name for Windows"),
        ({("a:b",): b""}, "no name for Windows"),
        ({(): b""}, "no name for Windows"),
        ({("x" * 256,): b""}, "no name for Windows"),
    ],
)
def test_trees_that_windows_can_not_have(tmp_path, volume, tree, message):
    before = volume.read_bytes()
    with pytest.raises(UsageError, match=message):
        compose_ntfs(volume, tree, scratch=tmp_path)
    assert volume.read_bytes() == before


def test_a_missing_file_is_found_before_anything_is_written(tmp_path, volume):
    before = volume.read_bytes()
    tree = {("a",): b"1", ("b",): tmp_path / "missing"}
    with pytest.raises(SourceError, match="no such file"):
        compose_ntfs(volume, tree, scratch=tmp_path)
    assert volume.read_bytes() == before


def test_a_volume_with_files_is_refused(tmp_path, volume):
    compose_ntfs(volume, {("a",): b"1"}, scratch=tmp_path)
    with pytest.raises(TargetRefusedError, match="not empty: a"):
        compose_ntfs(volume, {("b",): b"1"}, scratch=tmp_path)


def test_a_volume_that_is_too_small_says_so(tmp_path, volume):
    tree = {("a",): bytes(40 * MIB)}
    with pytest.raises(Exception, match="incomplete") as caught:
        compose_ntfs(volume, tree, scratch=tmp_path)
    assert "Traceback" not in str(caught.value)
    assert type(caught.value).__module__.startswith("mediamaker")
