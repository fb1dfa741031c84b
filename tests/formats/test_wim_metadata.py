# SPDX-License-Identifier: GPL-3.0-or-later
"""Trees of images: what each field says, and how paths are found. Judged by wimlib-imagex."""

import datetime
import os
import re
import struct
import subprocess

import pytest

from mediamaker.errors import FormatError, UsageError
from mediamaker.formats.wim_entry import (
    REPARSE_TAG_MOUNT_POINT,
    REPARSE_TAG_SYMLINK,
    FileAttribute,
    MetadataStream,
    show_name,
)
from mediamaker.formats.wim_metadata import WimMetadata
from mediamaker.formats.wim_reparse import LinkTarget, parse_link_target
from tests.hostile.make_wim_metadata import Node, good, pack


def run(*command):
    done = subprocess.run([str(word) for word in command], capture_output=True, check=False)
    assert done.returncode == 0, done.stderr
    return done.stdout


def test_fields_are_those_that_wimlib_shows(tmp_path):
    """The resource of an uncompressed WIM lies in the file as it is."""
    (tmp_path / "tree").mkdir()
    (tmp_path / "tree" / "file").write_bytes(b"content")
    os.utime(tmp_path / "tree" / "file", ns=(1_600_000_000_123_456_700, 1_500_000_000_765_432_100))
    os.link(tmp_path / "tree" / "file", tmp_path / "tree" / "other")
    (tmp_path / "tree" / "link").symlink_to("file")
    path = tmp_path / "x.wim"
    run("wimlib-imagex", "capture", tmp_path / "tree", path, "Name", "--compress=none")
    text = run("wimlib-imagex", "info", path, "--blobs").decode()
    block = next(b for b in text.split("\n\n") if "WIM_RESHDR_FLAG_METADATA" in b)
    offset = int(re.search(r"Offset in WIM\s*= (\d+)", block)[1])
    size = int(re.search(r"Uncompressed size\s*= (\d+)", block)[1])
    metadata = WimMetadata(path.read_bytes()[offset : offset + size])
    file, other = metadata.find("file"), metadata.find("OTHER")
    assert file.hard_link_group == other.hard_link_group != 0
    assert file.data == other.data
    shown = run("wimlib-imagex", "dir", path, "1", "--detailed", "--path=/file").decode()
    assert f"Link Group ID       = 0x{file.hard_link_group:016x}" in shown
    assert f"Hash              = 0x{file.data.sha1.hex()}" in shown
    unix = file.write_time // 10_000_000 - 11_644_473_600
    date = datetime.datetime.fromtimestamp(unix, datetime.UTC)
    assert f"Last Write Time     = {date:%a %b %d %H:%M:%S %Y} UTC" in shown
    assert file.write_time % 10_000_000 == 7_654_321
    assert file.access_time % 10_000_000 == 1_234_567
    link = metadata.find("link")
    assert link.is_link
    assert link.reparse_tag == REPARSE_TAG_SYMLINK
    assert link.data is None
    assert link.hard_link_group == 0
    assert [s.kind for s in link.streams] == ["reparse"]


def test_streams_of_reparse_points_and_encrypted_files():
    one, two = b"1" * 20, b"2" * 20
    reparse = FileAttribute.REPARSE_POINT
    root = Node(
        children=[
            Node("reparse", attributes=reparse, streams=[("", one), ("", two), ("n", two)]),
            Node("only data", streams=[("n", one), ("", two)]),
            Node("encrypted", attributes=FileAttribute.ENCRYPTED, sha1=one),
            Node("junction", children=[], attributes=0x410, link=REPARSE_TAG_MOUNT_POINT),
            Node("empty"),
        ]
    )
    metadata = WimMetadata(pack(root))
    found = metadata.find("reparse")
    assert found.reparse_data == MetadataStream("", "reparse", one)
    assert found.data == MetadataStream("", "data", two)
    assert metadata.find("only data").data.sha1 == two
    assert metadata.find("encrypted").data.kind == "encrypted"
    junction = metadata.find("junction")
    assert junction.is_link
    assert junction.is_directory
    assert metadata.find("empty").data is None
    assert [entry.name for entry in metadata.children(metadata.root)] == [
        node.name for node in root.children
    ]


def test_find():
    metadata = WimMetadata(pack(Node(children=[Node("a"), Node("A"), Node("Dir", [Node("b")])])))
    assert metadata.find("") is metadata.find("/") is metadata.root
    assert metadata.find("A").name == "A"
    assert metadata.find("\\dir\\B").path == "/Dir/b"
    assert metadata.find("dir//b/").parts == ("Dir", "b")
    with pytest.raises(UsageError, match="'/Dir' has no 'c'"):
        metadata.find("dir/c")
    with pytest.raises(UsageError, match="'/a' has no 'x'"):
        metadata.find("a/x")
    both = WimMetadata(pack(Node(children=[Node("xY"), Node("Xy")])))
    with pytest.raises(UsageError, match="could be any of 'xY', 'Xy'"):
        both.find("xy")


def test_a_part_of_the_tree_can_be_walked():
    metadata = WimMetadata(pack(good()))
    below = [entry.path for entry in metadata.walk(metadata.find("windows"))]
    assert below == ["/Windows", "/Windows/a", "/Windows/b"]


def test_security_descriptors():
    security = struct.pack("<IIQQ", 30, 2, 3, 2) + b"abcde" + bytes(3)
    assert WimMetadata(pack(good(), security=security)).security_descriptors() == (b"abc", b"de")
    assert WimMetadata(pack(good())).security_descriptors() == ()


def test_names_are_shown_printable():
    assert show_name("a\ud800\u6f22") == "a\\ud800\u6f22"


def _symlink(target: str, flags: int) -> bytes:
    text = target.encode("utf-16-le")
    return struct.pack("<HHHHI", 0, len(text), len(text), 0, flags) + text


def test_link_targets():
    assert parse_link_target(_symlink("..\\a", 1), REPARSE_TAG_SYMLINK) == LinkTarget("..\\a", True)
    absolute = parse_link_target(_symlink("\\??\\C:\\x", 0), REPARSE_TAG_SYMLINK)
    assert absolute == LinkTarget("\\??\\C:\\x", False)
    text = "\\??\\C:\\y".encode("utf-16-le")
    junction = struct.pack("<HHHH", 0, len(text), 0, 0) + text
    assert parse_link_target(junction, REPARSE_TAG_MOUNT_POINT).target == "\\??\\C:\\y"
    for data, tag, says in (
        (b"short", REPARSE_TAG_SYMLINK, "expected 12 bytes or more, got 5"),
        (_symlink("abc", 1)[:-1], REPARSE_TAG_SYMLINK, "expected a target inside 17 bytes"),
        (_symlink("abc", 1), 0x80000017, "is not that of a link"),
    ):
        with pytest.raises(FormatError, match=says):
            parse_link_target(data, tag)
