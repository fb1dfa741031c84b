# SPDX-License-Identifier: GPL-3.0-or-later
"""Trees: order, made parents, and what no Windows file system can hold."""

import itertools

import pytest

from mediamaker.errors import NotRepresentableError
from mediamaker.extents import Literal, Piece, Zeros
from mediamaker.volumes.tree import (
    DirectoryNode,
    FileNode,
    TreeItem,
    build_tree,
    case_key,
    check_case_collisions,
    show_path,
    walk_directories,
)


def file(path: str, data: bytes = b"x") -> TreeItem:
    return TreeItem(tuple(path.split("/")), (Piece(len(data), Literal(data)),), 7)


def directory(path: str, modified_ns: int | None = None) -> TreeItem:
    return TreeItem(tuple(path.split("/")), None, modified_ns)


def test_parents_are_made_and_children_sorted_whatever_the_order():
    items = [file("b/y"), directory("b", 5), file("B2"), file("a"), directory("empty"), file("b/X")]
    expected = DirectoryNode(
        "",
        (
            FileNode("a", (Piece(1, Literal(b"x")),), 7),
            DirectoryNode(
                "b",
                (
                    FileNode("X", (Piece(1, Literal(b"x")),), 7),
                    FileNode("y", (Piece(1, Literal(b"x")),), 7),
                ),
                5,
            ),
            FileNode("B2", (Piece(1, Literal(b"x")),), 7),
            DirectoryNode("empty", (), None),
        ),
        9,
    )
    for order in itertools.permutations(items):
        assert build_tree(order, modified_ns=9) == expected


def test_size_is_the_sum_of_the_pieces():
    assert FileNode("x", (Piece(3, Zeros()), Piece(1, Literal(b"a")))).size == 4
    assert FileNode("x", ()).size == 0


@pytest.mark.parametrize(
    ("items", "message"),
    [
        ([file("a/b"), file("a/b")], r"\a\b is in the tree twice"),
        ([directory("a"), directory("a")], r"\a is in the tree twice"),
        ([file("a/b"), file("a/B")], r"\a\b and \a\B differ only in case"),
        ([directory("Boot"), file("boot/x")], r"\Boot and \boot differ only in case"),
        ([file("Boot/y"), file("boot/x")], r"\Boot and \boot differ only in case"),
        ([file("a"), directory("A")], r"\a and \A differ only in case"),
        ([file("a"), file("a/b")], r"\a is both a file and a directory"),
        ([file("a/b"), file("a")], r"\a is both a file and a directory"),
        ([directory("a"), file("a")], r"\a is both a file and a directory"),
        ([file("É"), file("é")], r"\É and \é differ only in case"),
        ([TreeItem((), None)], "empty path"),
    ],
)
def test_what_no_tree_can_hold(items, message):
    with pytest.raises(NotRepresentableError) as caught:
        build_tree(items)
    assert message in caught.value.message


def test_a_deep_tree_does_not_exhaust_the_stack():
    depth = 3000
    tree = build_tree([TreeItem(("d",) * depth, None)])
    assert sum(1 for _ in walk_directories(tree)) == depth + 1


def test_the_walk_is_in_tree_order():
    tree = build_tree([file("b/c/1"), file("b/d/1"), file("a/z/1")])
    assert [show_path(path) for path, _ in walk_directories(tree)] == [
        "\\",
        "\\a",
        "\\a\\z",
        "\\b",
        "\\b\\c",
        "\\b\\d",
    ]


@pytest.mark.parametrize(
    ("one", "other", "are_equal"),
    [
        ("bootmgr", "BOOTMGR", True),
        ("ÿ", "Ÿ", True),
        ("я", "Я", True),
        ("straße", "STRASSE", False),
        ("𐐨", "𐐀", False),
        ("a", "b", False),
    ],
)
def test_case_is_folded_as_windows_does(one, other, are_equal):
    assert (case_key(one) == case_key(other)) is are_equal


def test_nodes_made_by_hand_are_checked_too():
    with pytest.raises(NotRepresentableError, match="differ only in case"):
        check_case_collisions(("d",), DirectoryNode("d", (FileNode("a", ()), FileNode("A", ()))))
    with pytest.raises(NotRepresentableError, match="twice"):
        check_case_collisions((), DirectoryNode("", (FileNode("a", ()), FileNode("a", ()))))


def test_unprintable_names_are_shown_escaped():
    assert show_path(("a\x1b[31m", "\ud800", "日本")) == "\\a\\x1b[31m\\\\ud800\\日本"
