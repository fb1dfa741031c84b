# SPDX-License-Identifier: GPL-3.0-or-later
"""A folder as a source: what is in it, and what is refused by name."""

import os
import socket

import pytest

from mediamaker.errors import FormatError, SourceError
from mediamaker.extents import FileRange, Piece
from mediamaker.sources.folder import read_folder
from mediamaker.sources.reader import SourceReader


@pytest.fixture
def root(tmp_path):
    root = tmp_path / "root"
    (root / "sources").mkdir(parents=True)
    (root / "sources/boot.wim").write_bytes(b"wim")
    (root / "empty").write_bytes(b"")
    (root / "Z.txt").write_bytes(b"last")
    os.utime(root / "Z.txt", ns=(123, 456))
    return root


def test_everything_is_there_and_sorted(root):
    tree = read_folder(root)
    assert tree.format == "folder"
    assert tree.label == ""
    assert [(entry.path_text, entry.is_dir, entry.size) for entry in tree.entries] == [
        ("Z.txt", False, 4),
        ("empty", False, 0),
        ("sources", True, 0),
        ("sources/boot.wim", False, 3),
    ]
    assert tree.find("SOURCES", "Boot.WIM").pieces == (
        Piece(3, FileRange("folder/sources/boot.wim", 0)),
    )
    assert tree.find("z.txt").modified_ns == 456
    assert tree.find("empty").pieces == ()
    with SourceReader(tree.files) as reader:
        assert reader.read_pieces(tree.find("Z.TXT").pieces, 0, 4) == b"last"


def test_two_reads_are_equal(root):
    assert read_folder(root) == read_folder(root)


def test_a_link_to_a_file_inside_stands_for_the_file(root):
    (root / "link").symlink_to("sources/boot.wim")
    tree = read_folder(root)
    with SourceReader(tree.files) as reader:
        assert reader.read_pieces(tree.find("link").pieces, 0, 3) == b"wim"


@pytest.mark.parametrize(
    ("target", "says"),
    [
        ("../outside", "leads outside the folder"),
        ("/etc/passwd", "leads outside the folder, to /etc/passwd"),
        ("sources", "which is not a file"),
        (".", "which is not a file"),
        ("missing", "can't be followed"),
        ("link", "can't be followed"),
    ],
)
def test_other_links_are_refused(target, says, root):
    (root.parent / "outside").write_bytes(b"secret")
    (root / "link").symlink_to(target)
    with pytest.raises(SourceError, match=says) as caught:
        read_folder(root)
    assert "/link" in str(caught.value)


def test_special_files_are_refused(root):
    os.mkfifo(root / "pipe")
    with pytest.raises(SourceError, match="pipe: a named pipe can't be copied"):
        read_folder(root)
    (root / "pipe").unlink()
    with socket.socket(socket.AF_UNIX) as server:
        server.bind(str(root / "socket"))
    with pytest.raises(SourceError, match="socket: a socket can't be copied"):
        read_folder(root)


def test_a_name_that_is_not_unicode_is_refused(root):
    (root / os.fsdecode(b"caf\xe9")).write_bytes(b"")
    with pytest.raises(FormatError, match=r"caf\\udce9"):
        read_folder(root)


def test_no_folder(root):
    with pytest.raises(SourceError, match="no such folder"):
        read_folder(root / "missing")
    with pytest.raises(SourceError, match="expected a folder, got a file"):
        read_folder(root / "empty")
