# SPDX-License-Identifier: GPL-3.0-or-later
"""Our reader of images against wimlib-imagex: lists, contents, and what is extracted."""

import os
import re
import subprocess

import pytest

from mediamaker.errors import FormatError, TargetRefusedError, UsageError
from mediamaker.wim import extract as extract_module
from mediamaker.wim.extract import extract_paths
from mediamaker.wim.parts import open_parts
from mediamaker.wim.tree import cat, list_tree, open_image
from tests.wim.wim_trees import COMPRESSIONS, capture, make_tree, run


@pytest.fixture(scope="module")
def tree(tmp_path_factory):
    return make_tree(tmp_path_factory.mktemp("tree") / "tree")


@pytest.fixture(scope="module", params=["none", "lzx", "lzms", "solid", "solid-small-chunks"])
def wim_path(request, tree, tmp_path_factory):
    folder = tmp_path_factory.mktemp(request.param)
    return capture(tree, folder / "x.wim", *COMPRESSIONS[request.param])


def detailed(path, image=1):
    """Path -> (attributes, write time text, {stream name: sha1}, link group) as wimlib says."""
    text = run("wimlib-imagex", "dir", path, image, "--detailed")
    entries = {}
    for block in text.split("-" * 76):
        name = re.search(r'^Full Path\s*= "(.*)"$', block, re.MULTILINE)
        if not name:
            continue
        streams, stream = {}, ""
        for line in block.splitlines():
            if found := re.match(
                r"\s+(?:Unnamed data|Reparse point|Named data) stream(.*):$", line
            ):
                stream = found[1].strip(' "')
            elif found := re.match(r"\s*Hash\s*= 0x([0-9a-f]{40})", line):
                streams[stream] = found[1]
        streams = {name: sha1 for name, sha1 in streams.items() if sha1 != "0" * 40}
        attributes = int(re.search(r"^Attributes\s*= 0x([0-9a-f]+)", block, re.MULTILINE)[1], 16)
        entries[name[1]] = attributes, streams
    return entries


def test_list_is_what_wimlib_lists(wim_path):
    expected = detailed(wim_path)
    with open_parts([wim_path]) as parts:
        entries = list(open_image(parts, 1).walk())
        sizes = {entry.path: entry.size for entry in list_tree(parts, 1)}
    ours = {
        entry.path: (
            entry.attributes,
            {s.name: s.sha1.hex() for s in entry.streams if not s.is_empty},
        )
        for entry in entries
    }
    assert ours == expected
    assert len(ours) > 100
    assert sizes["/large"] == 6_000_003
    assert sizes["/empty"] == 0


def test_only_a_directorys_own_entries(wim_path):
    with open_parts([wim_path]) as parts:
        names = [entry.path for entry in list_tree(parts, 1, "directory", is_recursive=False)]
    assert "/Directory/hard link" in names
    assert "/Directory" not in names
    assert len(names) == 62


def test_cat(wim_path, tree):
    with open_parts([wim_path]) as parts:
        for path in ("text", "/NOISE", "Directory\\hard link", "large", "empty", "one"):
            data = bytearray()
            size = cat(parts, 1, path, data.extend)
            assert size == len(data)
            name = path.lower().replace("\\", "/").strip("/").replace("directory", "Directory")
            assert data == (tree / name).read_bytes()
        for path, says in (("Directory", "is a directory"), ("no/such", "is not there")):
            with pytest.raises(UsageError, match=says):
                cat(parts, 1, path, bytearray().extend)
        with pytest.raises(UsageError, match="there is no image 2"):
            cat(parts, 2, "text", bytearray().extend)


def test_read_at_any_offset(wim_path, tree):
    content = (tree / "large").read_bytes()
    with open_parts([wim_path]) as parts:
        file = parts.files[0]
        blob = file.blobs.find(open_image(parts, 1).find("large").data.sha1)
        for offset, size in (
            (0, 1),
            (32767, 2),
            (4194303, 3),
            (5_000_000, 1_000_003),
            (6_000_003, 0),
        ):
            assert file.blobs.read(blob, offset, size) == content[offset : offset + size]
        with pytest.raises(FormatError, match="is not in it"):
            file.blobs.read(blob, 6_000_000, 4)


def compare(ours, theirs):
    judge = subprocess.run(
        ["diff", "-r", "--no-dereference", ours, theirs],
        capture_output=True,
        text=True,
        check=False,
    )
    assert judge.returncode == 0, judge.stdout


def test_extract_all(wim_path, tree, tmp_path):
    with open_parts([wim_path]) as parts:
        report = extract_paths(parts, 1, ["/"], tmp_path / "out")
    out = tmp_path / "out"
    left_out = [tree / "up and out", tree / "absolute"]
    kept = [path.readlink() for path in left_out]
    for path in left_out:
        assert not (out / path.name).is_symlink()
        assert any(path.name in note for note in report.notes)
    for path, target in zip(left_out, kept, strict=True):
        (out / path.name).symlink_to(target)
    compare(out, tree)
    assert (out / "noise").samefile(out / "Directory" / "hard link")
    assert (out / "Directory" / "down").read_bytes() == (tree / "noise").read_bytes()
    assert (out / "text").stat().st_mtime_ns == (tree / "text").stat().st_mtime_ns
    deep = (tree / "level 0").stat().st_mtime_ns // 100 * 100
    assert (out / "level 0").stat().st_mtime_ns == deep
    assert report.link_count == 1
    assert report.file_count == sum(p.is_file() and not p.is_symlink() for p in tree.rglob("*"))


def test_extract_some(wim_path, tree, tmp_path):
    with open_parts([wim_path]) as parts:
        extract_paths(parts, 1, ["Directory", "level 0/level 1", "text"], tmp_path)
        assert sorted(p.name for p in tmp_path.iterdir()) == ["Directory", "level 1", "text"]
        compare(tmp_path / "level 1", tree / "level 0" / "level 1")
        with pytest.raises(TargetRefusedError, match="text: something else is there"):
            extract_paths(parts, 1, ["text"], tmp_path)
        assert (tmp_path / "text").read_bytes() == (tree / "text").read_bytes()


def test_links_that_lie_in_the_way_are_not_followed(wim_path, tmp_path):
    outside, target = tmp_path / "outside", tmp_path / "target"
    outside.mkdir()
    target.mkdir()
    (target / "Directory").symlink_to(outside)
    (target / "text").symlink_to(outside / "text")
    with open_parts([wim_path]) as parts:
        for path in ("Directory", "text"):
            with pytest.raises(TargetRefusedError):
                extract_paths(parts, 1, [path], target)
    assert not list(outside.iterdir())


@pytest.mark.parametrize(
    ("target", "depth", "is_inside"),
    [
        ("a", 0, True),
        ("../a", 1, True),
        ("../a", 0, False),
        ("../../a", 1, False),
        ("a/../b", 5, False),
        ("/a", 3, False),
        ("", 3, False),
        ("..", 1, True),
        ("./..", 0, False),
    ],
)
def test_where_links_may_lead(target, depth, is_inside):
    assert extract_module._stays_inside(target.split("/"), depth) == is_inside


def test_damaged_content_leaves_no_file(tree, tmp_path):
    path = capture(tree, tmp_path / "x.wim", "--compress=none")
    with open_parts([path]) as parts:
        blob = parts.files[0].blobs.find(open_image(parts, 1).find("noise").data.sha1)
    data = bytearray(path.read_bytes())
    data[blob.offset + 100] ^= 1
    path.write_bytes(data)
    with open_parts([path]) as parts, pytest.raises(FormatError, match="'/noise' is damaged"):
        extract_paths(parts, 1, ["noise"], tmp_path / "out")
    assert not list((tmp_path / "out").iterdir())


@pytest.fixture(scope="module")
def ntfs_wim(tmp_path_factory):
    """An NTFS volume with streams, short names and attributes, filled without mounting it."""
    folder = tmp_path_factory.mktemp("ntfs")
    volume = folder / "volume"
    volume.write_bytes(b"")
    os.truncate(volume, 8 << 20)
    run("mkntfs", "-q", "-F", "-f", volume)
    (folder / "content").write_bytes(b"the file itself " * 5000)
    (folder / "stream").write_bytes(b"beside it " * 3000)
    run("ntfscp", "-f", volume, folder / "content", "file")
    run("ntfscp", "-f", "-N", "side", volume, folder / "stream", "file")
    run("ntfscp", "-f", volume, folder / "content", "plain")
    path = folder / "ntfs.wim"
    run("wimlib-imagex", "capture", volume, path, "Name", "--compress=LZX:20")
    return path


def test_named_streams(ntfs_wim, tmp_path):
    expected = detailed(ntfs_wim)
    with open_parts([ntfs_wim]) as parts:
        metadata = open_image(parts, 1)
        entry = metadata.find("file")
        assert {s.name: s.sha1.hex() for s in entry.streams} == expected["/file"][1]
        assert set(expected["/file"][1]) == {"", "side"}
        data = bytearray()
        cat(parts, 1, "file", data.extend, stream="SIDE")
        assert data == b"beside it " * 3000
        with pytest.raises(UsageError, match="has no stream"):
            cat(parts, 1, "file", data.extend, stream="none")
        descriptors = metadata.security_descriptors()
        assert 0 <= entry.security_id < len(descriptors)
        text = run("wimlib-imagex", "dir", ntfs_wim, 1, "--detailed", "--path=/file")
        assert f"Security Descriptor = {descriptors[entry.security_id].hex()}\n" in text
        report = extract_paths(parts, 1, ["/"], tmp_path / "out")
    assert (tmp_path / "out" / "file").read_bytes() == b"the file itself " * 5000
    assert any("1 named stream" in note for note in report.notes)


def test_a_split_set_without_its_first_part(tree, tmp_path):
    path = capture(tree, tmp_path / "x.wim", "--compress=none")
    run("wimlib-imagex", "split", path, tmp_path / "x.swm", "2")
    with open_parts([tmp_path / "x2.swm"]) as parts, pytest.raises(UsageError) as caught:
        open_image(parts, 1)
    assert "first part" in caught.value.hint
    with open_parts([tmp_path / "x.swm"]) as parts, pytest.raises(FormatError) as caught:
        extract_paths(parts, 1, ["/"], tmp_path / "out")
    assert caught.value.hint == "give the other parts as well"
    with open_parts(sorted(tmp_path.glob("x*.swm"))) as parts:
        extract_paths(parts, 1, ["/"], tmp_path / "all")
    assert (tmp_path / "all" / "large").read_bytes() == (tree / "large").read_bytes()
