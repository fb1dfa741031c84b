# SPDX-License-Identifier: GPL-3.0-or-later
"""Hives: what we write is read by hivexml, hivex and dissect.regf; real boot stores round-trip."""

import struct
import subprocess
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from mediamaker.errors import FormatError
from mediamaker.formats.regf import (
    KEY_PREDEFINED_HANDLE,
    KEY_SYMBOLIC_LINK,
    REG_BINARY,
    REG_EXPAND_SZ,
    REG_MULTI_SZ,
    REG_QWORD,
    REG_SZ,
    Hive,
    Key,
    Value,
    dword_value,
    name_order,
    parse_hive,
    string_value,
    strings_value,
)
from mediamaker.formats.regf_pack import DEFAULT_SECURITY, LEAF_COUNT_MAX, pack_hive
from mediamaker.units import MIB
from tests.formats.regf_judges import (
    check_boot_rules,
    open_with_dissect,
    read_with_dissect,
    read_with_hivex,
    read_with_hivexml,
    read_with_ours,
)

STORES = sorted(Path("/work/shared/bcd").glob("*.bcd"))
SECURITY = DEFAULT_SECURITY
OTHER_SECURITY = bytes.fromhex(
    "0100048014000000240000000000000034000000"
    "01020000000000052000000020020000"
    "01020000000000052000000020020000"
    "02001c0001000000000214003f000f00010100000000000100000000"
)


def make_key(name, **fields):
    return Key(name, security=fields.pop("security", SECURITY), **fields)


def make_hive(minor_version=5, **fields):
    """Every kind of thing that a hive may hold."""
    values = (
        Value("", REG_SZ, "default\0".encode("utf-16-le")),
        string_value("text", "\u00e9\u6f22\U0001f600"),
        Value("path", REG_EXPAND_SZ, "%SystemRoot%\0".encode("utf-16-le")),
        strings_value("list", ("a", "b")),
        dword_value("dword", 0xDEADBEEF),
        Value("qword", REG_QWORD, bytes(range(8))),
        Value("nothing", REG_BINARY, b""),
        Value("three", REG_BINARY, b"abc"),
        Value("five", REG_BINARY, b"abcde"),
        Value("\u6f22\\/ \u00e9", 0xFFFF0007, b"odd type, name in UTF-16"),
        Value("one cell", REG_BINARY, bytes(16344)),
        Value("big", REG_BINARY, bytes(range(256)) * 64),
        Value("bigger", REG_BINARY, bytes(range(255)) * 401),
    )
    subkeys = (
        make_key("alpha", class_name=b"C\0l\0", security=OTHER_SECURITY, last_written=1 << 56),
        make_key("Beta", subkeys=(make_key("x", values=(dword_value("d", 1),)),)),
        make_key("gamma", flags=KEY_SYMBOLIC_LINK, access_bits=3, extra_flags=0x12),
        make_key("_", flags=8),
        make_key("\u00e9t\u00e9"),
        make_key("\u6f22"),
    )
    root = make_key("ROOT", values=values, subkeys=subkeys, last_written=5)
    return Hive(root, name="\\a\\b", minor_version=minor_version, last_written=7, **fields)


@pytest.mark.parametrize("minor_version", [3, 5, 6])
def test_foreign_readers_see_what_was_written(tmp_path, minor_version):
    hive = make_hive(minor_version)
    data = pack_hive(hive)
    assert parse_hive(data, what="h") == hive
    check_boot_rules(data)
    expected = read_with_ours(hive.root)
    assert read_with_dissect(data) == expected
    path = tmp_path / "hive"
    path.write_bytes(data)
    assert read_with_hivex(path) == expected
    assert b'<node name="alpha">' in read_with_hivexml(path)
    assert pack_hive(hive) == data


def test_dissect_finds_keys_by_their_hashes():
    for minor_version in (3, 5):
        hive = open_with_dissect(pack_hive(make_hive(minor_version)))
        assert hive.open("beta\\X").name == "x"
        assert hive.open("ALPHA").class_name == "Cl"
        assert hive.root().timestamp.year == 1601
        assert hive.filename == "\\a\\b"
        assert hive.version == minor_version


def test_hivex_can_change_what_we_wrote(tmp_path):
    path = tmp_path / "hive"
    path.write_bytes(pack_hive(make_hive()))
    script = (
        "import hivex, sys\n"
        "h = hivex.Hivex(sys.argv[1], write=True)\n"
        "n = h.node_add_child(h.node_get_child(h.root(), 'beta'), 'added')\n"
        "h.node_set_value(n, {'key': 'k', 't': 3, 'value': b'12345'})\n"
        "h.node_delete_child(h.node_get_child(h.root(), 'gamma'))\n"
        "h.commit(None)\n"
    )
    subprocess.run(["/usr/bin/python3", "-c", script, str(path)], check=True)
    hive = parse_hive(path.read_bytes(), what="h")
    assert hive.sequence == 2
    before = make_hive().root
    assert hive.root.values == before.values
    assert hive.root.subkey("gamma") is None
    added = hive.root.find("BETA", "added")
    assert added.values == (Value("k", 3, b"12345"),)
    assert added.security == SECURITY
    assert pack_hive(hive)
    assert hive.root.find("beta", "x") == before.find("beta", "x")


@pytest.mark.parametrize("mark", [b"hbin", b"sk", b"lh", b"nk", b"alpha", b"Beta"])
def test_the_rules_that_judge_can_be_broken(mark):
    data = pack_hive(make_hive())
    at = data.index(mark)
    broken = data[:at] + mark[:-1] + b"z" + data[at + len(mark) :]
    check_boot_rules(data)
    with pytest.raises(AssertionError):
        check_boot_rules(broken)


@pytest.mark.parametrize("count", [LEAF_COUNT_MAX, LEAF_COUNT_MAX + 1, 3 * LEAF_COUNT_MAX + 5])
def test_many_subkeys(tmp_path, count):
    keys = tuple(make_key(f"K{number:05}") for number in range(count))
    hive = Hive(make_key("ROOT", subkeys=tuple(reversed(keys))))
    data = pack_hive(hive)
    check_boot_rules(data)
    assert parse_hive(data, what="h").root.subkeys == keys
    assert read_with_dissect(data)[2] == tuple(read_with_ours(key) for key in keys)
    (tmp_path / "hive").write_bytes(data)
    assert len(read_with_hivex(tmp_path / "hive")[2]) == count


@pytest.mark.parametrize("count", [3, LEAF_COUNT_MAX + 90])
def test_lists_without_hashes_are_read(tmp_path, count):
    """``li``, which we never write; hivex and dissect see the same keys in it."""
    keys = tuple(make_key(f"K{number:05}") for number in range(count))
    data = bytearray(pack_hive(Hive(make_key("ROOT", subkeys=keys))))
    leaf_count = 0
    while (at := data.find(b"lh")) >= 0:
        (length,) = struct.unpack_from("<H", data, at + 2)
        words = struct.unpack_from(f"<{2 * length}I", data, at + 4)
        data[at : at + 4 + 4 * length] = struct.pack(f"<2sH{length}I", b"li", length, *words[::2])
        leaf_count += 1
    assert leaf_count == 1 + (count > LEAF_COUNT_MAX)
    assert parse_hive(bytes(data), what="h").root.subkeys == keys
    assert len(read_with_dissect(bytes(data))[2]) == count
    (tmp_path / "hive").write_bytes(data)
    assert [name for name, *_ in read_with_hivex(tmp_path / "hive")[2]] == [k.name for k in keys]


@pytest.mark.skipif(not STORES, reason="the stores lie outside the project")
@pytest.mark.parametrize("path", STORES, ids=lambda path: path.stem)
class TestRealStores:
    def test_round_trip(self, path, tmp_path):
        hive = parse_hive(path.read_bytes(), what=path.name)
        data = pack_hive(hive)
        assert parse_hive(data, what=path.name) == hive
        assert len(data) <= path.stat().st_size
        check_boot_rules(data)
        written = tmp_path / "hive"
        written.write_bytes(data)
        assert read_with_hivex(written) == read_with_hivex(path)
        assert read_with_hivexml(written) == read_with_hivexml(path)
        assert read_with_dissect(data) == read_with_dissect(path.read_bytes())

    def test_we_read_what_others_read(self, path):
        found = read_with_ours(parse_hive(path.read_bytes(), what=path.name).root)
        assert read_with_dissect(path.read_bytes()) == found
        assert read_with_hivex(path) == found

    def test_windows_sorts_and_hashes_as_we_do(self, path):
        """Every key node on disk whose hash or hint Windows wrote has the one that we write."""
        data = path.read_bytes()
        hive = parse_hive(data, what=path.name)
        pending = [hive.root]
        while pending:
            key = pending.pop()
            names = [name_order(subkey.name) for subkey in key.subkeys]
            assert names == sorted(names)
            pending += key.subkeys
        assert _marks(pack_hive(hive)) == _marks(data)


def _marks(data):
    """The hashes or hints of all lists of a hive, by the name of the key."""
    hive = open_with_dissect(data)
    found, pending = set(), [hive.root()]
    while pending:
        node = pending.pop()
        if node.cell.SubKeyCounts[0]:
            listed = hive.cell(node.cell.SubKeyLists[0]).cell
            for entry in listed.List:
                mark = getattr(entry, "HashKey", None) or bytes(entry.NameHint)
                found.add((hive.cell(entry.Cell).name, mark))
        pending += node.subkeys()
    return found


def test_the_default_descriptor_is_shared_and_given_back():
    root = Key("ROOT", subkeys=(Key("a"), Key("b", security=OTHER_SECURITY)))
    data = pack_hive(Hive(root))
    found = parse_hive(data, what="h").root
    assert [key.security for key in (found, *found.subkeys)] == [SECURITY, SECURITY, OTHER_SECURITY]
    assert data.count(SECURITY) == 1


def test_a_predefined_handle_is_kept():
    key = make_key("009", flags=KEY_PREDEFINED_HANDLE, handle=0x80000050)
    hive = Hive(make_key("ROOT", subkeys=(key,)))
    assert parse_hive(pack_hive(hive), what="h") == hive
    with pytest.raises(FormatError, match="a predefined handle and values"):
        pack_hive(Hive(make_key("ROOT", subkeys=(key.with_value(dword_value("d", 1)),))))


def test_first_block_fields_are_kept():
    hive = make_hive(sequence=77, extra=bytes(range(64)))
    assert parse_hive(pack_hive(hive), what="h") == hive
    long_name = parse_hive(pack_hive(Hive(make_key("R"), name="x" * 40 + "end")), what="h").name
    assert long_name == "x" * 29 + "end"


def test_what_follows_the_bins_is_ignored():
    data = pack_hive(make_hive())
    assert parse_hive(data + b"more" * 3000, what="h") == make_hive()


def test_a_hive_that_was_not_closed_is_refused_with_a_way_out():
    data = bytearray(pack_hive(make_hive()))
    struct.pack_into("<I", data, 4, 2)
    checksum = 0
    for (word,) in struct.iter_unpack("<I", data[:0x1FC]):
        checksum ^= word
    struct.pack_into("<I", data, 0x1FC, checksum)
    with pytest.raises(FormatError, match=r"SYSTEM: not closed cleanly.*2 and 1") as caught:
        parse_hive(bytes(data), what="SYSTEM")
    assert "shut it down" in caught.value.hint


def test_deep_hives_are_read_compared_and_limited():
    def deep(levels):
        key = make_key("bottom")
        for number in range(levels - 1):
            key = make_key(f"k{number}", subkeys=(key,))
        return Hive(key)

    data = pack_hive(deep(512))
    assert parse_hive(data, what="h") == deep(512)
    assert parse_hive(data, what="h") != deep(511)
    assert "1 subkeys" in repr(deep(512))
    assert hash(deep(512)) == hash(parse_hive(data, what="h"))
    with pytest.raises(FormatError, match="over 512 levels"):
        pack_hive(deep(513))


@pytest.mark.parametrize(
    ("root", "says"),
    [
        (make_key("R", subkeys=(make_key("a"), make_key("A"))), "'A' is there twice"),
        (make_key("R", values=(dword_value("a", 1), dword_value("A", 1))), "two values"),
        (make_key("R", subkeys=(make_key(""),)), "name, without '\\\\'"),
        (make_key("R", subkeys=(make_key("a\\b"),)), "name, without '\\\\'"),
        (make_key("R" * 257), "at most 256 UTF-16 units"),
        (make_key("R", values=(Value("v" * 16384, 3, b""),)), "at most 16383 UTF-16 units"),
        (make_key("R", security=b"short"), "expected 20 bytes or more, got 5"),
        (make_key("R", security=SECURITY[:-4]), "the group at 0x58 does not fit"),
        (make_key("R", security=bytes(20)), "self-relative"),
        (make_key("R", last_written=-1), "does not fit"),
        (make_key("R", flags=1 << 16), "does not fit"),
        (make_key("R", class_name=bytes(70000)), "does not fit"),
    ],
)
def test_what_the_format_cannot_hold_is_refused(root, says):
    with pytest.raises(FormatError, match=says):
        pack_hive(Hive(root))


def test_hive_fields_that_do_not_fit():
    for fields, says in (
        ({"minor_version": 2}, "1.3 to 1.6, got 1.2"),
        ({"extra": b"x"}, "expected 64 bytes, got 1"),
        ({"sequence": 1 << 32}, "does not fit"),
        ({"last_written": -1}, "does not fit"),
    ):
        with pytest.raises(FormatError, match=says):
            pack_hive(Hive(make_key("R"), **fields))
    with pytest.raises(FormatError, match="does not fit 32 bits"):
        dword_value("d", 1 << 32)
    with pytest.raises(FormatError, match="a type of 32 bits"):
        Value("v", -1, b"")
    with pytest.raises(FormatError, match="over 268435456 bytes"):
        pack_hive(Hive(make_key("R", values=(Value("v", 3, bytes(256 * MIB)),)), minor_version=3))


class TestTree:
    def test_names_fold(self):
        root = make_hive().root
        assert root.subkey("BETA").subkey("X").value("D").number == 1
        assert root.find("beta", "nothing", "x") is None
        assert root.find() is root
        assert root.subkey("\u00c9T\u00c9").name == "\u00e9t\u00e9"
        assert root.value("").text == "default"
        assert root.value("none") is None

    def test_values_say_what_they_hold(self):
        root = make_hive().root
        assert root.value("text").text == "\u00e9\u6f22\U0001f600"
        assert root.value("list").texts == ("a", "b")
        assert root.value("path").text == "%SystemRoot%"
        assert root.value("dword").number == 0xDEADBEEF
        assert root.value("qword").number == int.from_bytes(bytes(range(8)), "little")
        assert root.value("three").number is None
        assert root.value("three").text is None
        assert root.value("three").texts is None
        assert Value("v", REG_SZ, b"a\0b").text == "a"
        assert Value("v", REG_MULTI_SZ, b"").texts == ()
        assert Value("v", REG_MULTI_SZ, b"a\0").texts == ("a",)
        assert strings_value("v", ()).data == b"\0\0"

    def test_copies(self):
        root = make_key("R", subkeys=(make_key("b"), make_key("d")))
        grown = root.with_subkey(make_key("C")).with_subkey(make_key("e")).with_subkey(Key("a"))
        assert [key.name for key in grown.subkeys] == ["a", "b", "C", "d", "e"]
        changed = grown.with_subkey(make_key("B", last_written=3))
        assert [key.name for key in changed.subkeys] == ["a", "B", "C", "d", "e"]
        assert [key.name for key in changed.without_subkey("c").subkeys] == ["a", "B", "d", "e"]
        assert [key.name for key in root.subkeys] == ["b", "d"]
        assert root.without_subkey("none") == root
        valued = root.with_value(dword_value("z", 1)).with_value(dword_value("y", 2))
        valued = valued.with_value(dword_value("Z", 3))
        assert [(value.name, value.number) for value in valued.values] == [("Z", 3), ("y", 2)]
        assert [value.name for value in valued.without_value("z").values] == ["y"]


_NAMES = st.one_of(
    st.text(st.characters(exclude_characters="\\", max_codepoint=0x7E), min_size=1, max_size=12),
    st.text(st.characters(exclude_characters="\\", codec="utf-16"), min_size=1, max_size=12),
)
_VALUES = st.builds(
    Value,
    st.one_of(st.just(""), _NAMES),
    st.integers(0, 0xFFFFFFFF),
    st.one_of(st.binary(max_size=40), st.integers(0, 40000).map(bytes)),
)
_VALUE_LISTS = st.lists(_VALUES, max_size=4, unique_by=lambda value: name_order(value.name))


def _keys(subkeys):
    return st.builds(
        Key,
        name=_NAMES,
        values=_VALUE_LISTS.map(tuple),
        subkeys=subkeys,
        class_name=st.text("abc", max_size=9).map(lambda text: text.encode("utf-16-le")),
        security=st.sampled_from([SECURITY, OTHER_SECURITY]),
        last_written=st.integers(0, 1 << 60),
        access_bits=st.integers(0, (1 << 32) - 1),
        extra_flags=st.integers(0, 0xFFFF),
        flags=st.sampled_from([0, 8, KEY_SYMBOLIC_LINK, 0x80]),
    )


def _key_lists(keys):
    lists = st.lists(keys, max_size=5, unique_by=lambda key: name_order(key.name))
    return lists.map(lambda found: tuple(sorted(found, key=lambda key: name_order(key.name))))


_TREES = st.recursive(_key_lists(_keys(st.just(()))), lambda below: _key_lists(_keys(below)))


@settings(max_examples=80, deadline=None)
@given(subkeys=_TREES, minor_version=st.sampled_from([3, 5, 6]))
def test_any_tree_round_trips(subkeys, minor_version):
    hive = Hive(make_key("ROOT", subkeys=subkeys), minor_version=minor_version)
    data = pack_hive(hive)
    assert parse_hive(data, what="h") == hive
    keys = list(_walk(hive.root))
    if all(key.name.isascii() for key in keys):
        assert check_boot_rules(data) == [key.name for key in keys]
        # dissect takes names in Latin 1 for UTF-8 where they could be
        if all(value.name.isascii() for key in keys for value in key.values):
            assert read_with_dissect(data) == read_with_ours(hive.root)


def _walk(key):
    yield key
    for subkey in key.subkeys:
        yield from _walk(subkey)
