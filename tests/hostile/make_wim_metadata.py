# SPDX-License-Identifier: GPL-3.0-or-later
"""Metadata resources, good and bad: every row of the README's "WIM metadata" is one case."""

from __future__ import annotations

import struct
from collections.abc import Callable
from dataclasses import dataclass, field

DIRECTORY = 0x10
NO_TIME = 0
ROOT = 8
ZERO = bytes(20)


@dataclass
class Node:
    """An entry before it is packed; the fields that lie override what would be right."""

    name: bytes | str = ""
    children: list[Node] | None = None
    short_name: str = ""
    attributes: int | None = None
    sha1: bytes = ZERO
    link: int = 0
    streams: list[tuple[str, bytes]] = field(default_factory=list)
    children_offset: int | None = None
    length: int | None = None
    stream_count: int | None = None
    stream_length: int | None = None
    name_size: int | None = None


def _align(data: bytes) -> bytes:
    return data + bytes(-len(data) % 8)


def _text(text: bytes | str) -> bytes:
    return text if isinstance(text, bytes) else text.encode("utf-16-le")


def pack_node(node: Node, children_offset: int) -> bytes:
    """The entry and its streams."""
    name, short_name = _text(node.name), _text(node.short_name)
    texts = (name + b"\0\0" if name else b"") + (short_name + b"\0\0" if short_name else b"")
    is_directory = node.children is not None
    attributes = node.attributes
    if attributes is None:
        attributes = DIRECTORY if is_directory else 0x20
    if node.children_offset is not None:
        children_offset = node.children_offset
    length = 102 + len(texts) if node.length is None else node.length
    head = struct.pack(
        "<QIiQ16xQQQ20s4xQHHH",
        length, attributes, -1, children_offset, NO_TIME, NO_TIME, NO_TIME, node.sha1, node.link,
        len(node.streams) if node.stream_count is None else node.stream_count,
        len(short_name), len(name) if node.name_size is None else node.name_size,
    )  # fmt: skip
    packed = _align(head + texts)
    for stream_name, sha1 in node.streams:
        text = _text(stream_name)
        size = 38 + len(text) + (2 if text else 0)
        claimed = size if node.stream_length is None else node.stream_length
        packed += _align(struct.pack("<Q8x20sH", claimed, sha1, len(text)) + text + bytes(2))
    return packed


def pack(root: Node, *, security: bytes = struct.pack("<II", 8, 0), end: bytes = bytes(8)) -> bytes:
    """The resource: entries of a directory after those of the one above, breadth first."""
    levels: list[tuple[list[Node], bool]] = [([root], False)]
    lists: list[list[Node]] = [[root]]
    for nodes in lists:
        lists.extend(node.children for node in nodes if node.children is not None)
    del levels
    offsets: dict[int, int] = {}
    position = len(security)
    for index, nodes in enumerate(lists):
        offsets[id(nodes)] = position
        position += sum(len(pack_node(node, 0)) for node in nodes) + (8 if index else 0)
    data = security
    for index, nodes in enumerate(lists):
        for node in nodes:
            below = 0 if node.children is None else offsets[id(node.children)]
            data += pack_node(node, below)
        if index:
            data += end
    return data


def good() -> Node:
    """Two directories and three files, one with a stream and a short name."""
    return Node(
        children=[
            Node("Windows", [Node("a", sha1=b"a" * 20), Node("b", sha1=b"b" * 20, link=7)]),
            Node("long name", short_name="LONGNA~1", streams=[("", b"c" * 20), ("s", b"d" * 20)]),
            Node("nothing here", []),
        ]
    )


def _child(child: Node) -> bytes:
    return pack(Node(children=[Node("first", []), child]))


def _deep(count: int, name: str) -> bytes:
    size = len(pack_node(Node(name, []), 0))
    root_size = len(pack_node(Node("", []), 0))
    data = struct.pack("<II", 8, 0)
    position = 8 + root_size
    parts = [data, pack_node(Node("", []), position)]
    for _ in range(count):
        position += size + 8
        parts += [pack_node(Node(name, []), position), bytes(8)]
    return b"".join([*parts, bytes(8)])


def _overlapping() -> bytes:
    """A directory whose children begin at the second of its own siblings, which is repeated."""
    first = Node("first", [])
    data = pack(Node(children=[first, Node("second"), Node("third")]))
    at = ROOT + len(pack_node(Node(), 0)) + len(pack_node(first, 0))
    first.children_offset = at
    bent = pack(Node(children=[first, Node("second"), Node("third")]))
    assert len(bent) == len(data)
    return bent


CASES: dict[str, Callable[[], bytes]] = {
    "metadata-empty": lambda: b"",
    "security-past-end": lambda: pack(good(), security=struct.pack("<II", 1 << 30, 0)),
    "security-count-absurd": lambda: pack(good(), security=struct.pack("<II", 8, 0xFFFFFFFF)),
    "security-descriptors-lie": lambda: pack(good(), security=struct.pack("<IIQ", 16, 1, 1 << 60)),
    "root-named": lambda: pack(Node("root", [])),
    "root-is-file": lambda: pack(Node(attributes=0x20)),
    "root-past-end": lambda: pack(Node(children=[], length=1 << 62)),
    "root-cut": lambda: pack(good())[:60],
    "children-cut": lambda: pack(good())[:-30],
    "children-past-end": lambda: _child(Node("x", children=[], children_offset=1 << 40)),
    "children-unaligned": lambda: _child(Node("x", children=[], children_offset=13)),
    "children-of-a-file": lambda: _child(Node("x", [Node("y")], attributes=0x20)),
    "loop-to-root": lambda: _child(Node("x", [], children_offset=ROOT + 104)),
    "loop-of-one": lambda: pack(
        Node(children=[Node("x", [Node("y", [], children_offset=ROOT + 104 + 112 + 8)])])
    ),
    "children-of-two": lambda: pack(
        Node(children=[Node("x", [Node("y")]), Node("z", [], children_offset=ROOT + 104 + 232)])
    ),
    "children-overlap": _overlapping,
    "entry-short": lambda: _child(Node("x", length=60)),
    "name-dotdot": lambda: _child(Node("..")),
    "name-dot": lambda: _child(Node(".")),
    "name-slash": lambda: _child(Node("../../etc/passwd")),
    "name-nul": lambda: _child(Node("a\0b")),
    "name-empty": lambda: _child(Node("")),
    "name-twice": lambda: _child(Node("first")),
    "name-odd": lambda: _child(Node(b"abc")),
    "name-past-entry": lambda: _child(Node("x", name_size=4000)),
    "short-name-dotdot": lambda: _child(Node("x", short_name="..")),
    "stream-past-end": lambda: _child(Node("x", streams=[("s", b"s" * 20)], stream_length=1 << 62)),
    "stream-short": lambda: _child(Node("x", streams=[("s", b"s" * 20)], stream_length=20)),
    "streams-absurd": lambda: _child(Node("x", stream_count=65535)),
    "path-absurd": lambda: _deep(16500, "x"),
    "no-tree": lambda: struct.pack("<II", 8, 0),
    "security-size-zero": lambda: pack(good(), security=struct.pack("<II", 0, 0)),
    "names-that-differ-in-case": lambda: _child(Node("FIRST")),
    "name-lone-surrogate": lambda: _child(Node(b"\x00\xd8")),
    "empty-directories-share": lambda: pack(
        Node(children=[Node("x", []), Node("z", [], children_offset=ROOT + 104 + 224 + 8)])
    ),
    "deep": lambda: _deep(10000, "x"),
}
