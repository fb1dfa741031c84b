# SPDX-License-Identifier: GPL-3.0-or-later
"""Every call of :class:`Wim` on small trees; wimlib-imagex is the judge."""

import os
import random
import subprocess
from pathlib import Path

import pytest

from mediamaker.errors import SourceError, TargetIOError, TargetRefusedError, UsageError
from mediamaker.wimlib.errors import (
    WimlibError,
    WimlibFormatError,
    WimlibSourceError,
    WimlibTargetError,
    WimlibUsageError,
)
from mediamaker.wimlib.events import (
    ExtractProgress,
    IntegrityProgress,
    ScanNotice,
    ScanProgress,
    ScanReason,
    SplitProgress,
    UpdateProgress,
    VerifyProgress,
    WriteProgress,
)
from mediamaker.wimlib.flags import (
    ALL_IMAGES,
    AddFlags,
    DeleteFlags,
    ExportFlags,
    ExtractFlags,
    IterateFlags,
    WriteFlags,
)
from mediamaker.wimlib.update import Add, Delete, Rename
from mediamaker.wimlib.wim import Wim, join


def imagex(*arguments, check=True):
    result = subprocess.run(
        ["wimlib-imagex", *map(str, arguments)], check=False, capture_output=True, text=True
    )
    assert not check or result.returncode == 0, result.stderr
    return result.stdout


def same(a, b):
    subprocess.run(["diff", "-r", "--no-dereference", a, b], check=True)


@pytest.fixture
def tree(tmp_path):
    rng = random.Random(3)
    root = tmp_path / "tree"
    (root / "Windows" / "System32").mkdir(parents=True)
    (root / "empty").mkdir()
    (root / "Windows" / "big.bin").write_bytes(rng.randbytes(200_000) + bytes(300_000))
    (root / "Windows" / "System32" / "grüße 文.txt").write_text("text\n" * 5000)
    (root / "Windows" / "none").write_bytes(b"")
    (root / "link").symlink_to("Windows/none")
    os.link(root / "Windows" / "big.bin", root / "hard")
    return root


def make_wim(tree, path, *, name="one", compression="LZX", flags=WriteFlags.NONE):
    with Wim.create(compression) as wim:
        wim.add_image(tree, name)
        wim.write(path, flags=flags, threads=1)
    return path


@pytest.fixture
def wim_path(tree, tmp_path):
    return make_wim(tree, tmp_path / "a.wim")


def test_capture_is_what_imagex_applies(tree, tmp_path):
    events = []
    with Wim.create("LZX", on_event=events.append) as wim:
        assert wim.add_image(tree, "Größe 文") == 1
        wim.set_property(1, "DESCRIPTION", "what it is")
        wim.set_property(1, "WINDOWS/VERSION/BUILD", "26100")
        wim.set_boot_index(1)
        wim.write(tmp_path / "a.wim", flags=WriteFlags.CHECK_INTEGRITY, threads=2)
    imagex("verify", tmp_path / "a.wim")
    imagex("apply", tmp_path / "a.wim", "1", tmp_path / "out")
    same(tree, tmp_path / "out")
    info = imagex("info", tmp_path / "a.wim")
    assert "Größe 文" in info
    assert "what it is" in info
    assert "26100" in info
    boot = next(line for line in info.splitlines() if line.startswith("Boot Index"))
    assert boot.endswith(" 1")
    scans = [event for event in events if isinstance(event, ScanProgress)]
    assert scans[-1].file_count == 5
    assert scans[-1].directory_count == 4
    writes = [event for event in events if isinstance(event, WriteProgress)]
    assert writes[-1].bytes_done == writes[-1].bytes_total > 500_000
    assert writes[-1].compression == "LZX"
    assert 1 <= writes[-1].threads <= 2
    assert any(isinstance(event, IntegrityProgress) and event.made for event in events)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["a.wim", "out", "tree"]


def test_what_it_holds_agrees_with_imagex(tree, tmp_path, wim_path):
    with Wim.open(wim_path, check_integrity=True) as wim:
        info = wim.info
        assert info.image_count == wim.image_count == 1
        assert info.total_size + len(wim.xml()) == wim_path.stat().st_size
        assert (info.compression, info.chunk_size, info.version) == ("LZX", 32768, 0x10D00)
        assert (info.part_number, info.part_count, info.boot_index) == (1, 1, 0)
        assert not info.has_integrity_table
        assert not info.is_readonly
        assert not info.is_pipable
        assert info.guid.hex() in imagex("info", wim_path).replace("0x", "")
        imagex("info", wim_path, "--extract-xml", tmp_path / "x.xml")
        assert wim.xml() == (tmp_path / "x.xml").read_bytes()
        assert wim.property(1, "NAME") == "one"
        assert wim.property(1, "FILECOUNT") == "5"
        assert wim.property(1, "NO/SUCH") is None
        assert wim.property(9, "NAME") is None
        assert wim.find_image("one") == wim.find_image("1") == 1
        assert wim.find_image("all") == ALL_IMAGES
        assert wim.find_image("two") is wim.find_image("7") is None
        entries = wim.iterate_dir_tree(1)
        paths = imagex("dir", wim_path, "1").splitlines()
        assert [entry.path for entry in entries] == paths
        by_path = {entry.path: entry for entry in entries}
        assert by_path["/hard"].hard_link_group == by_path["/Windows/big.bin"].hard_link_group
        assert by_path["/hard"].link_count == 2
        assert by_path["/link"].reparse_tag == 0xA000000C
        assert by_path["/Windows/big.bin"].streams[0].size == 500_000
        assert not by_path["/Windows/big.bin"].streams[0].is_missing
        assert by_path["/"].depth == 0
        mtime = (tree / "hard").stat().st_mtime_ns // 100 + 116444736000000000
        assert by_path["/hard"].written == mtime
        assert len(wim.iterate_dir_tree(1, "/Windows", IterateFlags.CHILDREN)) == 3
        assert len(wim.iterate_dir_tree(1, "/Windows", IterateFlags.NONE)) == 1
        with pytest.raises(WimlibUsageError, match="/none"):
            wim.iterate_dir_tree(1, "/none")
        wim.verify()


def test_update_append_and_delete_in_place(tree, tmp_path, wim_path):
    extra = tmp_path / "extra"
    extra.write_text("extra\n")
    events = []
    with Wim.open(wim_path, writable=True, on_event=events.append) as wim:
        wim.update_image(
            1,
            [
                Add(extra, "/new/extra.txt"),
                Rename("/Windows/none", "/Windows/nothing"),
                Delete("/empty", DeleteFlags.RECURSIVE),
                Delete("/not there", DeleteFlags.FORCE),
            ],
        )
        assert wim.add_empty_image("second") == 2
        wim.set_property(2, "NAME", "zwei")
        wim.overwrite()
        with pytest.raises(UsageError, match="closed"):
            _ = wim.info
        wim.close()
    assert UpdateProgress(4, 4) in events
    imagex("verify", wim_path)
    assert imagex("dir", wim_path, "zwei").splitlines() == ["/"]
    imagex("apply", wim_path, "1", tmp_path / "out")
    (tree / "new").mkdir()
    extra.rename(tree / "new" / "extra.txt")
    (tree / "Windows" / "none").rename(tree / "Windows" / "nothing")
    (tree / "empty").rmdir()
    (tree / "link").unlink()
    (tmp_path / "out" / "link").unlink()
    same(tree, tmp_path / "out")
    with Wim.open(wim_path, writable=True) as wim:
        wim.delete_image(1)
        wim.overwrite(flags=WriteFlags.REBUILD)
    imagex("verify", wim_path)
    assert imagex("dir", wim_path, "1").splitlines() == ["/"]
    assert wim_path.stat().st_size < 10_000


def test_a_failed_update_does_nothing(wim_path):
    with Wim.open(wim_path, writable=True) as wim:
        with pytest.raises(WimlibUsageError, match="no such thing") as caught:
            wim.update_image(1, [Rename("/hard", "/soft"), Delete("/no such thing")])
        assert caught.value.code_name == "PATH_DOES_NOT_EXIST"
        assert [entry.path for entry in wim.iterate_dir_tree(1, "/hard", IterateFlags.NONE)]


def test_export_merges_and_deduplicates(tree, tmp_path, wim_path):
    (tree / "second.txt").write_text("second")
    other = make_wim(tree, tmp_path / "b.wim", name="two", compression="XPRESS")
    with Wim.create("LZX") as dest:
        with Wim.open(wim_path) as first, Wim.open(other) as second:
            first.export_image(1, dest, name="renamed", description="told", flags=ExportFlags.BOOT)
            second.export_image(ALL_IMAGES, dest)
            with pytest.raises(WimlibUsageError) as caught:
                second.export_image(1, dest)
            assert caught.value.code_name == "DUPLICATE_EXPORTED_IMAGE"
            with (
                Wim.open(other) as third,
                pytest.raises(WimlibUsageError, match="already in use") as caught,
            ):
                third.export_image(1, dest)
            assert caught.value.code_name == "IMAGE_NAME_COLLISION"
        # both are closed: dest keeps what it needs of them
        dest.write(tmp_path / "c.wim", threads=1)
        assert dest.info.boot_index == 1
    imagex("verify", tmp_path / "c.wim")
    imagex("apply", tmp_path / "c.wim", "two", tmp_path / "out")
    same(tree, tmp_path / "out")
    assert "told" in imagex("info", tmp_path / "c.wim", "renamed")
    assert (tmp_path / "c.wim").stat().st_size < wim_path.stat().st_size + 10_000


def test_recompressed_solid_and_back(tree, tmp_path, wim_path):
    with Wim.open(wim_path) as wim:
        wim.set_output_pack_compression("LZMS")
        wim.set_output_pack_chunk_size(1 << 20)
        wim.write(tmp_path / "s.esd", flags=WriteFlags.SOLID, threads=1)
        wim.set_output_compression("XPRESS")
        wim.set_output_chunk_size(8192)
        wim.write(tmp_path / "x.wim", flags=WriteFlags.RECOMPRESS, threads=1)
    assert "_SOLID" in imagex("info", tmp_path / "s.esd", "--blobs")
    assert "8192" in imagex("info", tmp_path / "x.wim")
    for name in ("s.esd", "x.wim"):
        imagex("verify", tmp_path / name)
        imagex("apply", tmp_path / name, "1", tmp_path / f"out-{name}")
        same(tree, tmp_path / f"out-{name}")


def test_extract(tree, tmp_path, wim_path):
    events = []
    with Wim.open(wim_path, on_event=events.append) as wim:
        wim.extract_image(1, tmp_path / "out")
        wim.extract_paths(1, tmp_path / "some", ["/Windows/System32", "hard"])
        wim.extract_paths(1, tmp_path / "glob", ["/Win*/b*"], ExtractFlags.GLOB_PATHS)
        with pytest.raises(WimlibUsageError, match="nothing here"):
            wim.extract_paths(1, tmp_path / "x", ["/nothing here"])
    same(tree, tmp_path / "out")
    same(tree / "Windows" / "System32", tmp_path / "some" / "Windows" / "System32")
    assert (tmp_path / "glob" / "Windows" / "big.bin").stat().st_size == 500_000
    streams = [event for event in events if isinstance(event, ExtractProgress)]
    assert streams
    assert streams[-1].bytes_done == streams[-1].bytes_total


def test_split_verify_join_and_reference(tree, tmp_path):
    for index in range(4):
        (tree / f"file{index}").write_bytes(random.Random(index).randbytes(150_000))
    whole = make_wim(tree, tmp_path / "a.wim")
    events = []
    with Wim.open(whole, on_event=events.append) as wim:
        wim.split(tmp_path / "p.swm", 300_000)
        wim.verify()
    assert any(isinstance(event, VerifyProgress) for event in events)
    splits = [event for event in events if isinstance(event, SplitProgress)]
    parts = sorted(tmp_path.glob("p*.swm"))
    assert len(parts) == splits[-1].part_count == splits[-1].part_number > 1
    assert splits[-1].ended
    with Wim.open(tmp_path / "p.swm") as wim:
        with pytest.raises(WimlibSourceError) as caught:
            wim.extract_image(1, tmp_path / "bad")
        assert caught.value.code_name == "RESOURCE_NOT_FOUND"
        assert "parts" in caught.value.hint
    with Wim.open(tmp_path / "p.swm") as wim:
        wim.reference_files([tmp_path / "p*.swm"])
        wim.extract_image(1, tmp_path / "out")
        with pytest.raises(WimlibUsageError) as caught:
            wim.reference_files([tmp_path / "q*.swm"])
        assert caught.value.code_name == "GLOB_HAD_NO_MATCHES"
    same(tree, tmp_path / "out")
    join(parts[::-1], tmp_path / "joined.wim", on_event=events.append)
    imagex("verify", tmp_path / "joined.wim")
    imagex("apply", tmp_path / "joined.wim", "1", tmp_path / "out2")
    same(tree, tmp_path / "out2")
    with pytest.raises(WimlibError) as caught:
        join(parts[:-1], tmp_path / "j2.wim")
    assert caught.value.code_name == "SPLIT_INVALID"
    assert not (tmp_path / "j2.wim").exists()
    with pytest.raises(WimlibUsageError) as caught:
        Wim.open(parts[0], error_if_split=True)
    assert caught.value.code_name == "IS_SPLIT_WIM"
    assert "join" in caught.value.hint


def test_a_template_saves_reading_and_a_delta_needs_its_base(tree, tmp_path, wim_path):
    (tree / "new").write_text("new")
    with Wim.open(wim_path) as base, Wim.create("LZX") as wim:
        number = wim.add_image(tree, "again")
        wim.reference_files([wim_path], is_glob=False)
        wim.reference_template_image(number, base, 1)
        wim.write(tmp_path / "d.wim", flags=WriteFlags.SKIP_EXTERNAL_WIMS, threads=1)
    assert (tmp_path / "d.wim").stat().st_size < 10_000
    imagex("apply", tmp_path / "d.wim", "1", tmp_path / "out", f"--ref={wim_path}")
    same(tree, tmp_path / "out")


def test_a_capture_configuration_leaves_out_and_says_so(tree, tmp_path):
    config = tmp_path / "config.ini"
    config.write_text("[ExclusionList]\n/Windows/big.bin\n*.txt\n")
    os.mkfifo(tree / "pipe")
    events = []
    with Wim.create("none", on_event=events.append) as wim:
        wim.add_image(tree, "x", config=config, flags=AddFlags.NORPFIX)
        wim.write(tmp_path / "a.wim")
    listed = imagex("dir", tmp_path / "a.wim", "1")
    assert "big.bin" not in listed
    assert "txt" not in listed
    notices = {(Path(e.path).name, e.reason) for e in events if isinstance(e, ScanNotice)}
    assert ("big.bin", ScanReason.EXCLUDED) in notices
    assert ("pipe", ScanReason.UNSUPPORTED) in notices


def test_names_are_never_taken_from_others(tree, tmp_path, wim_path):
    before = wim_path.read_bytes()
    with Wim.open(wim_path) as wim:
        with pytest.raises(TargetRefusedError, match="exists already"):
            wim.write(wim_path)
        with pytest.raises(TargetRefusedError, match="not a regular file"):
            wim.write(tmp_path, replace=True)
        with pytest.raises(TargetRefusedError, match="no directory"):
            wim.write(tmp_path / "no" / "a.wim")
        assert wim_path.read_bytes() == before
        wim.write(wim_path, replace=True, flags=WriteFlags.CHECK_INTEGRITY)
    assert wim_path.read_bytes() != before
    imagex("verify", wim_path)


@pytest.mark.parametrize(
    ("spoil", "kind", "name"),
    [
        (lambda _: b"", WimlibFormatError, "UNEXPECTED_END_OF_FILE"),
        (lambda _: b"x" * 300, WimlibFormatError, "NOT_A_WIM_FILE"),
        (lambda data: data[:1000], WimlibFormatError, "UNEXPECTED_END_OF_FILE"),
        (lambda data: data[:0x0C] + b"\x01" + data[0x0D:], WimlibFormatError, "UNKNOWN_VERSION"),
    ],
)
def test_damaged_files_are_format_errors(wim_path, spoil, kind, name):
    wim_path.write_bytes(spoil(wim_path.read_bytes()))
    with pytest.raises(kind) as caught:
        Wim.open(wim_path)
    assert caught.value.code_name == name
    assert caught.value.exit_code == 3
    assert str(wim_path) in str(caught.value)


def test_a_flipped_byte_is_found_and_named(wim_path):
    data = bytearray(wim_path.read_bytes())
    data[5000] ^= 1
    wim_path.write_bytes(data)
    with Wim.open(wim_path) as wim, pytest.raises(WimlibFormatError) as caught:
        wim.verify()
    assert caught.value.code_name in {"INVALID_RESOURCE_HASH", "DECOMPRESSION"}
    assert caught.value.detail, "libwim's own words"
    assert caught.value.detail[0] in str(caught.value)


def test_errors_are_sorted_by_whose_fault_it_is(tree, tmp_path, wim_path):
    with pytest.raises(WimlibSourceError, match="No such file") as caught:
        Wim.open(tmp_path / "no.wim")
    assert isinstance(caught.value, SourceError)
    assert caught.value.exit_code == 3
    with Wim.open(wim_path) as wim:
        with pytest.raises(WimlibUsageError) as caught:
            wim.extract_image(2, tmp_path / "x")
        assert (caught.value.code_name, caught.value.exit_code) == ("INVALID_IMAGE", 2)
        with pytest.raises(WimlibUsageError):
            wim.delete_image(0)
        (tmp_path / "file").write_text("in the way")
        with pytest.raises((WimlibTargetError, WimlibUsageError)):
            wim.extract_image(1, tmp_path / "file")
        with pytest.raises(UsageError, match="zero byte"):
            wim.property(1, "a\0b")
        with pytest.raises(UsageError, match="not text"):
            wim.find_image("\ud800")
        with pytest.raises(UsageError, match="not one of"):
            wim.set_output_compression("zip")
        with pytest.raises(WimlibUsageError, match="chunk"):
            wim.set_output_chunk_size(12345)
        with pytest.raises(UsageError, match="threads"):
            wim.write(tmp_path / "x.wim", threads=-1)
    with Wim.create("LZX") as wim, pytest.raises(WimlibError, match="nowhere"):
        wim.add_image(tmp_path / "nowhere", "x")


@pytest.mark.parametrize("full", [1 << 16])
def test_a_full_file_system_is_a_target_error_and_leaves_nothing(tree, tmp_path, wim_path, full):
    small = tmp_path / "small"
    small.mkdir()
    subprocess.run(["mount", "-t", "tmpfs", "-o", f"size={full}", "none", small], check=True)
    try:
        with Wim.open(wim_path) as wim, pytest.raises(WimlibTargetError) as caught:
            wim.write(small / "a.wim")
        assert caught.value.code_name == "WRITE"
        assert isinstance(caught.value, TargetIOError)
        assert "No space left" in str(caught.value)
        assert list(small.iterdir()) == []
    finally:
        subprocess.run(["umount", small], check=True)
