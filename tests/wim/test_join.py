# SPDX-License-Identifier: GPL-3.0-or-later
"""Parts joined: ours and wimlib's, plain and solid; judged by wimlib-imagex and 7-Zip."""

import filecmp
import os
import random
import subprocess
import threading
import xml.etree.ElementTree as ET
from pathlib import Path

import pytest

from mediamaker.errors import FormatError, SourceError, TargetRefusedError, UsageError
from mediamaker.execute.progress import Phase, Progress
from mediamaker.formats.wim import HeaderFlag, parse_wim_header
from mediamaker.formats.wim_blobs import parse_blob_table
from mediamaker.units import KIB, MIB
from mediamaker.wim.join import find_parts, join_wim_files
from mediamaker.wim.split_file import split_wim_file

LIMIT = 500 * KIB
GUID = bytes(range(16))


def run(*arguments) -> str:
    done = subprocess.run(
        list(map(str, arguments)), check=False, capture_output=True, text=True, errors="replace"
    )
    assert done.returncode == 0, f"{done.args}: {done.stdout[-2000:]} {done.stderr[-2000:]}"
    return done.stdout


@pytest.fixture(scope="module")
def trees(tmp_path_factory):
    folder = tmp_path_factory.mktemp("trees")
    for seed, name in enumerate(("one", "two")):
        generator = random.Random(seed)
        (folder / name).mkdir()
        for number in range(40):
            content = generator.randbytes(generator.randrange(60_000))
            (folder / name / f"{number}").write_bytes(content)
        (folder / name / "empty").touch()
    return folder


@pytest.fixture(scope="module", params=["none", "XPRESS", "LZX", "solid", "solid LZMS", "mixed"])
def source(request, trees, tmp_path_factory):
    path = tmp_path_factory.mktemp("source") / "install.wim"
    solid = ["--solid", "--solid-compress=LZX", "--solid-chunk-size=64K"]
    first = {
        "solid": solid,
        "solid LZMS": ["--solid", "--solid-compress=LZMS", "--solid-chunk-size=64K"],
        "mixed": ["--compress=LZX"],
    }.get(request.param, [f"--compress={request.param}", "--check"])
    second = solid if request.param in {"mixed", "solid"} else []
    if request.param == "solid LZMS":
        second = first
    run("wimlib-imagex", "capture", trees / "one", path, "Image one", "about it", "--boot", *first)
    run("wimlib-imagex", "append", trees / "two", path, "Image two", *second)
    return path


def names(folder: Path) -> set[str]:
    return {path.name for path in folder.iterdir()}


def images(wim: Path, folder: Path) -> list[str]:
    run("wimlib-imagex", "info", wim, "--extract-xml", folder / "xml")
    root = ET.fromstring((folder / "xml").read_bytes().decode("utf-16"))
    return [ET.tostring(image, encoding="unicode") for image in root.findall("IMAGE")]


def judge(joined: Path, original: Path, trees: Path, folder: Path) -> None:
    run("wimlib-imagex", "verify", joined)
    assert "Everything is Ok" in run("7z", "t", joined)
    assert images(joined, folder) == images(original, folder)
    for number, name in enumerate(("one", "two"), 1):
        run("wimlib-imagex", "apply", joined, number, folder / name)
        files = sorted(names(trees / name))
        assert files == sorted(names(folder / name))
        same, _, _ = filecmp.cmpfiles(trees / name, folder / name, files, shallow=False)
        assert same == files
        dirs = [run("wimlib-imagex", "dir", wim, number) for wim in (original, joined)]
        assert dirs[0] == dirs[1]


def rows(path: Path) -> list:
    header = parse_wim_header(data := path.read_bytes())
    return list(parse_blob_table(data[header.blob_table.offset : header.blob_table.end]))


def test_our_parts_become_the_wim_again(source, trees, tmp_path):
    events = []
    split = split_wim_file(source, tmp_path / "install.swm", LIMIT, solid=True)
    assert len(split.paths) >= 3
    joined = tmp_path / "joined.wim"
    result = join_wim_files(split.paths[0], joined, guid=GUID, on_event=events.append)
    assert result.part_paths == split.paths
    assert result.size == joined.stat().st_size
    judge(joined, source, trees, tmp_path)
    header = parse_wim_header(joined.read_bytes())
    original = parse_wim_header(source.read_bytes())
    assert (header.part_number, header.part_count, header.guid) == (1, 1, GUID)
    assert not header.flags & HeaderFlag.SPANNED
    assert header.flags == original.flags
    assert header.boot_index == 0
    assert header.integrity.size_in_wim == 0
    if not result.is_solid:
        # Nothing is lost and nothing is added.
        assert {row.sha1 for row in rows(joined)} == {row.sha1 for row in rows(source)}
        assert joined.stat().st_size <= source.stat().st_size
    done = [event for event in events if isinstance(event, Progress)]
    assert {event.phase for event in done} == {Phase.WRITE, Phase.FLUSH}


def test_parts_by_wimlib(trees, tmp_path):
    source = tmp_path / "install.wim"
    run("wimlib-imagex", "capture", trees / "one", source, "Image one", "--compress=LZX")
    run("wimlib-imagex", "append", trees / "two", source, "Image two")
    (tmp_path / "parts").mkdir()
    run("wimlib-imagex", "split", source, tmp_path / "parts" / "w.swm", "0.4")
    # As FAT may show them.
    for path in list((tmp_path / "parts").iterdir())[1:]:
        if path.name != "w.swm":
            path.rename(path.with_name(path.name.upper()))
    found = find_parts(tmp_path / "parts" / "w.swm")
    assert len(found) >= 3
    assert [find_parts(part) for part in found] == [found] * len(found)
    join_wim_files(tmp_path / "parts" / "w.swm", tmp_path / "out.wim")
    judge(tmp_path / "out.wim", source, trees, tmp_path)
    assert {row.sha1 for row in rows(tmp_path / "out.wim")} == {row.sha1 for row in rows(source)}


def test_split_join_split_again(source, trees, tmp_path):
    """What was joined can be split, at other places, and joined once more."""
    path = source
    for number, limit in enumerate((LIMIT, 900 * KIB, 400 * KIB)):
        out = tmp_path / f"{number}.swm"
        split = split_wim_file(path, out, limit, solid=True)
        assert len(split.paths) >= 2
        path = tmp_path / f"{number}.wim"
        join_wim_files(out, path)
    judge(path, source, trees, tmp_path)


@pytest.mark.parametrize("filesystem", ["xfs", "btrfs"])
def test_blocks_are_shared_where_the_file_system_can(trees, tmp_path, filesystem):
    image, place = tmp_path / "image", tmp_path / "place"
    with image.open("wb") as file:
        file.truncate(320 * MIB if filesystem == "xfs" else 256 * MIB)
    run(f"mkfs.{filesystem}", "-q", image)
    place.mkdir()
    run("mount", "-o", "loop", image, place)
    try:
        source = place / "source.wim"
        run("wimlib-imagex", "capture", trees / "one", source, "Image one", "--compress=LZX")
        run("wimlib-imagex", "append", trees / "two", source, "Image two")
        os.sync()
        split = split_wim_file(source, place / "p.swm", LIMIT)
        assert split.shared_size > 10 * split.copied_size
        result = join_wim_files(place / "p.swm", place / "joined.wim")
        assert result.shared_size > 10 * result.copied_size
        judge(place / "joined.wim", source, trees, tmp_path)
    finally:
        run("umount", place)


@pytest.fixture
def parts(trees, tmp_path):
    source = tmp_path / "s.wim"
    run("wimlib-imagex", "capture", trees / "one", source, "Image one", "--compress=none")
    (tmp_path / "p").mkdir()
    return split_wim_file(source, tmp_path / "p" / "i.swm", LIMIT).paths


def test_parts_that_do_not_belong_together(parts, tmp_path):
    out = tmp_path / "out.wim"
    other = split_wim_file(tmp_path / "s.wim", tmp_path / "other.swm", LIMIT).paths
    with pytest.raises(FormatError, match=r"guid: expected [0-9a-f]{32}, got [0-9a-f]{32}"):
        join_wim_files(parts[0], out, parts=[parts[1], *other[2:]])
    with pytest.raises(FormatError, match="are the same part"):
        join_wim_files(parts[0], out, parts=[parts[1], parts[1], *parts[2:]])
    with pytest.raises(FormatError, match=r"1 of its .* parts missing: 2") as caught:
        join_wim_files(parts[0], out, parts=parts[2:])
    assert caught.value.hint
    named = tmp_path / "p" / "else.swm"
    parts[1].rename(named)
    with pytest.raises(FormatError, match=r"is part 2 of .* which its name does not tell"):
        join_wim_files(named, out)
    named.rename(parts[1])
    with pytest.raises(UsageError, match="is not split"):
        join_wim_files(tmp_path / "s.wim", out)
    parts[-1].unlink()
    with pytest.raises(SourceError, match=rf"is missing: expected .*{parts[-1].name}"):
        join_wim_files(parts[0], out)
    with pytest.raises(SourceError, match=rf"is missing: expected .*{parts[-1].name}"):
        join_wim_files(parts[1], out)
    assert not out.exists()
    # In any order, when they are named.
    parts = other
    join_wim_files(parts[-1], out, parts=parts[:-1])
    run("wimlib-imagex", "verify", out)


def test_outputs_and_cancel(parts, tmp_path):
    out = tmp_path / "out.wim"
    out.write_text("mine")
    with pytest.raises(TargetRefusedError, match="exists already"):
        join_wim_files(parts[0], out)
    with pytest.raises(TargetRefusedError, match="the source itself"):
        join_wim_files(parts[0], parts[1], replace=True)
    cancel = threading.Event()
    before = names(tmp_path)
    with pytest.raises(KeyboardInterrupt):
        join_wim_files(
            parts[0], out, replace=True, cancel=cancel, on_event=lambda _event: cancel.set()
        )
    assert out.read_text() == "mine"
    assert names(tmp_path) == before
    join_wim_files(parts[0], out, replace=True)
    run("wimlib-imagex", "verify", out)


def test_a_damaged_part_table_is_refused(parts, tmp_path):
    data = bytearray(parts[1].read_bytes())
    header = parse_wim_header(data)
    row = header.blob_table.offset
    data[row + 8 : row + 16] = (1 << 40).to_bytes(8, "little")
    parts[1].write_bytes(data)
    with pytest.raises(FormatError, match=r"i2\.swm"):
        join_wim_files(parts[0], tmp_path / "out.wim")
    assert not (tmp_path / "out.wim").exists()
