# SPDX-License-Identifier: GPL-3.0-or-later
"""Outputs are there whole or not at all."""

import errno
import os
import stat
import subprocess
import sys
from pathlib import Path

import pytest

from mediamaker.errors import TargetIOError, TargetRefusedError, UsageError
from mediamaker.wim.output import check_outputs, open_output, open_outputs


def names(folder: Path) -> set[str]:
    return {path.name for path in folder.iterdir()}


def test_a_file_appears_when_the_block_ends(tmp_path):
    path = tmp_path / "out.wim"
    with open_output(path, replace=False) as partial:
        partial.write_bytes(b"half")
        assert names(tmp_path) == {partial.name, partial.with_suffix(".lock").name}
        assert partial.name.startswith(".out.wim.mediamaker-")
        assert partial.name.endswith(".partial")
    assert path.read_bytes() == b"half"
    assert names(tmp_path) == {"out.wim"}
    assert path.stat().st_nlink == 1


@pytest.mark.parametrize("error", [KeyboardInterrupt, ValueError, SystemExit])
def test_nothing_is_left_after_an_error(tmp_path, error):
    def fail() -> None:
        with open_output(tmp_path / "out", replace=False) as partial:
            partial.write_bytes(b"half")
            raise error

    with pytest.raises(error):
        fail()
    assert names(tmp_path) == set()


def test_an_existing_file_is_kept_unless_told(tmp_path):
    path = tmp_path / "out"
    path.write_bytes(b"old")
    path.chmod(0o640)
    with (
        pytest.raises(TargetRefusedError, match="exists already") as caught,
        open_output(path, replace=False),
    ):
        pass
    assert "--force" in caught.value.hint
    with pytest.raises(TargetRefusedError):
        check_outputs([path], replace=False)
    with pytest.raises(NotADirectoryError), open_output(path, replace=True) as partial:
        (partial / "inside a file").touch()
    assert path.read_bytes() == b"old"
    with open_output(path, replace=True) as partial:
        partial.write_bytes(b"new")
        assert path.read_bytes() == b"old"
    assert path.read_bytes() == b"new"
    assert stat.S_IMODE(path.stat().st_mode) == 0o640
    assert names(tmp_path) == {"out"}


def test_a_name_that_is_taken_meanwhile_is_not_overwritten_and_the_others_are_taken_back(tmp_path):
    paths = [tmp_path / name for name in ("a", "b", "c")]
    with (
        pytest.raises(TargetRefusedError, match="b: exists already"),
        open_outputs(paths, replace=False),
    ):
        paths[1].write_bytes(b"theirs")
    assert names(tmp_path) == {"b"}
    assert paths[1].read_bytes() == b"theirs"


def test_a_file_system_without_links_such_as_fat(tmp_path, monkeypatch):
    def refuse(_self, _other) -> None:
        raise PermissionError(1, "Operation not permitted")

    monkeypatch.setattr(Path, "hardlink_to", refuse)
    paths = [tmp_path / "a", tmp_path / "b"]
    with open_outputs(paths, replace=False) as partials:
        partials[0].write_bytes(b"ours")
    assert names(tmp_path) == {"a", "b"}
    assert paths[0].read_bytes() == b"ours"
    paths[1].unlink()
    paths[0].rename(tmp_path / "c")
    with (
        pytest.raises(TargetRefusedError, match="a: exists already"),
        open_outputs(paths, replace=False),
    ):
        paths[0].write_bytes(b"theirs")
    assert names(tmp_path) == {"a", "c"}
    assert paths[0].read_bytes() == b"theirs"


def test_the_first_of_several_is_named_last(tmp_path, monkeypatch):
    seen = []
    link = Path.hardlink_to
    monkeypatch.setattr(
        Path, "hardlink_to", lambda self, other: (seen.append(self.name), link(self, other))
    )
    with open_outputs([tmp_path / name for name in "abc"], replace=False):
        pass
    assert seen == ["c", "b", "a"]
    assert names(tmp_path) == set("abc")


def test_places_that_can_not_hold_a_file(tmp_path):
    (tmp_path / "folder").mkdir()
    for path in (tmp_path / "folder", tmp_path / "missing" / "out", Path("/dev/null")):
        for replace in (False, True):
            with pytest.raises(TargetRefusedError), open_output(path, replace=replace):
                pass
            with pytest.raises(TargetRefusedError):
                check_outputs([path], replace=replace)
    with (
        pytest.raises(UsageError, match="same name"),
        open_outputs([tmp_path / "x", tmp_path / "folder" / ".." / "x"], replace=True),
    ):
        pass
    assert names(tmp_path) == {"folder"}


def test_a_link_is_followed_and_a_long_name_fits(tmp_path):
    (tmp_path / "real").mkdir()
    (tmp_path / "real" / "out").write_bytes(b"old")
    (tmp_path / "link").symlink_to(tmp_path / "real" / "out")
    with open_output(tmp_path / "link", replace=True) as partial:
        assert partial.parent == tmp_path / "real"
        partial.write_bytes(b"new")
    assert (tmp_path / "link").is_symlink()
    assert (tmp_path / "real" / "out").read_bytes() == b"new"
    long = tmp_path / ("ä" * 127)
    with open_output(long, replace=False):
        pass
    assert long.exists()


def test_what_is_flushed_is_the_file_and_then_its_directory(tmp_path):
    """As the kernel saw it: both flushes, the file's before it has its name."""
    log = tmp_path / "log"
    program = (
        "import sys; from pathlib import Path\n"
        "from mediamaker.wim.output import open_output\n"
        "with open_output(Path(sys.argv[1]), replace=False) as p: p.write_bytes(b'x')\n"
    )
    out = tmp_path / "out"
    strace = ["strace", "-fy", "-e", "trace=fsync,link,linkat,rename", "-o"]
    subprocess.run(
        [*strace, log, sys.executable, "-c", program, out],
        check=True,
        cwd=Path(__file__).parents[2],
    )
    calls = [line.split(maxsplit=1)[1] for line in log.read_text().splitlines() if "(" in line]
    calls = [call for call in calls if str(tmp_path) in call]
    kinds = [call.split("(")[0] for call in calls]
    assert kinds == ["fsync", "link", "fsync"]
    assert ".partial>" in calls[0]
    assert f"<{os.path.realpath(tmp_path)}>" in calls[2]


@pytest.mark.parametrize("number", [errno.EIO, errno.EROFS, errno.EINVAL])
def test_a_name_that_can_not_be_flushed_is_not_called_done(tmp_path, monkeypatch, number):
    """But for file systems that flush files only."""
    real = os.fsync

    def fsync(descriptor):
        if stat.S_ISDIR(os.fstat(descriptor).st_mode):
            raise OSError(number, os.strerror(number))
        real(descriptor)

    def make():
        with open_output(tmp_path / "out", replace=True) as partial:
            partial.write_bytes(b"new")

    (tmp_path / "out").write_bytes(b"old")
    monkeypatch.setattr(os, "fsync", fsync)
    if number == errno.EINVAL:
        make()
    else:
        with pytest.raises(TargetIOError, match="its name could not be flushed"):
            make()
    assert (tmp_path / "out").read_bytes() == b"new"
    assert names(tmp_path) == {"out"}


def test_what_a_killed_run_left_goes_with_the_next_one(tmp_path):
    """Also what a library put beside it; nothing of another name's, or of a run that goes on."""
    left = ".out.wim.mediamaker-0123abcd"
    gone = {f"{left}.lock", f"{left}.partial", f".{left}.partial.mediamaker-89abcdef.partial"}
    kept = {".other.wim.mediamaker-0123abcd.partial", ".out.wim.mediamaker-mine.partial", "x.lock"}
    for name in gone | kept:
        (tmp_path / name).write_bytes(b"half")
    with open_output(tmp_path / "out.wim", replace=False) as one:
        assert names(tmp_path) == kept | {one.name, one.with_suffix(".lock").name}
        with (
            pytest.raises(TargetRefusedError, match="another run"),
            open_output(tmp_path / "out.wim", replace=True),
        ):
            pass
        assert one.exists()
        one.write_bytes(b"one")
    assert names(tmp_path) == kept | {"out.wim"}
    assert (tmp_path / "out.wim").read_bytes() == b"one"
