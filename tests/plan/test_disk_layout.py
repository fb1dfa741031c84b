# SPDX-License-Identifier: GPL-3.0-or-later
"""Layout files: what is built in against what Microsoft documents, and what is refused."""

import re
from pathlib import Path
from uuid import UUID

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from mediamaker.errors import FormatError, SourceError, UsageError
from mediamaker.plan.disk_layout import Attribute, Role, find_oddities
from mediamaker.plan.layout_file import TEXT_SIZE_MAX, load_layout
from mediamaker.sources.layout_files import (
    find_builtin_layouts,
    read_builtin_layout,
    read_layout,
)
from mediamaker.units import GIB, MIB

GPT_HEAD = 'table = "gpt"\n'
GPT_BODY = """
[[partition]]
role = "system"

[[partition]]
role = "windows"
"""
MBR = 'table = "mbr"\n' + GPT_BODY
GPT = GPT_HEAD + GPT_BODY


def builtin(name):
    return load_layout(read_builtin_layout(name), what=name)


def test_the_uefi_layout_is_the_documented_one():
    layout = builtin("uefi")
    assert layout.table == "gpt"
    rows = [
        (spec.role, spec.size, spec.file_system, spec.type_guid, spec.attributes)
        for spec in layout.partitions
    ]
    assert rows == [
        (Role.SYSTEM, 260 * MIB, "fat32", UUID("c12a7328-f81f-11d2-ba4b-00a0c93ec93b"), 0),
        (Role.MSR, 16 * MIB, None, UUID("e3c9e316-0b5c-4db8-817d-f92df00215ae"), 0),
        (Role.WINDOWS, None, "ntfs", UUID("ebd0a0a2-b9e5-4433-87c0-68b6b72699c7"), 0),
        (
            Role.RECOVERY,
            GIB,
            "ntfs",
            UUID("de94bba4-06d1-4d40-a16a-bfd50179d6ac"),
            0x8000000000000001,
        ),
    ]
    assert find_oddities(layout) == ()


def test_the_bios_layout_is_the_documented_one():
    layout = builtin("bios")
    assert layout.table == "mbr"
    rows = [
        (spec.role, spec.size, spec.file_system, spec.type_code, spec.is_active)
        for spec in layout.partitions
    ]
    assert rows == [
        (Role.SYSTEM, 100 * MIB, "ntfs", 0x07, True),
        (Role.WINDOWS, None, "ntfs", 0x07, False),
        (Role.RECOVERY, GIB, "ntfs", 0x27, False),
    ]
    assert find_oddities(layout) == ()


def test_the_togo_layout_is_the_documented_one():
    rows = [
        (spec.role, spec.size, spec.file_system, spec.type_code, spec.is_active)
        for spec in builtin("togo").partitions
    ]
    assert rows == [
        (Role.SYSTEM, 350 * MIB, "fat32", 0x0C, True),
        (Role.WINDOWS, None, "ntfs", 0x07, False),
    ]


def test_built_in_layouts_are_found_by_name_and_files_by_path(tmp_path):
    assert find_builtin_layouts() == ("bios", "togo", "uefi")
    assert read_layout("uefi") == read_builtin_layout("uefi")
    own = tmp_path / "own.toml"
    own.write_text(GPT)
    assert read_layout(str(own)) == GPT
    with pytest.raises(UsageError) as caught:
        read_layout("nothing")
    assert "bios, togo, uefi" in caught.value.hint
    with pytest.raises(SourceError, match="No such file"):
        read_layout(str(tmp_path / "absent.toml"))
    with pytest.raises(SourceError):
        read_layout("nul\0.toml")
    own.write_bytes(b"\xff\xfe")
    with pytest.raises(FormatError, match="not UTF-8"):
        read_layout(str(own))
    own.write_bytes(b"#" * (1 << 20))
    with pytest.raises(FormatError, match="over"):
        read_layout(str(own))


DOCS = Path(__file__).parents[2] / "docs" / "install.md"


def test_the_documentation_tells_all_keys_and_its_example_is_a_layout():
    text = DOCS.read_text("utf-8")
    (example,) = re.findall(r"```toml\n(.*?)```", text, re.DOTALL)
    layout = load_layout(example, what="docs/install.md")
    assert [spec.role for spec in layout.partitions] == list(Role)
    for source in ("no_such_key = 1\n" + GPT, GPT + "no_such_key = 1\n"):
        with pytest.raises(FormatError) as caught:
            load_layout(source, what="x")
        known = caught.value.message.rpartition("known are ")[2].split(", ")
        assert len(known) >= 5
        for key in set(known) - {"partition"}:
            assert f"`{key}`" in text, key
    for name in find_builtin_layouts():
        assert f"| `{name}` |" in text
    for attribute in Attribute:
        assert f"`{attribute.value}`" in text


def test_extra_data_partitions_and_every_key():
    text = (
        'format = 1\nname = "lab"\nsummary = "two for data"\n'
        + GPT
        + """
size = "100GiB"
cluster_size = "8KiB"

[[partition]]
role = "data"
name = "Exchange"
size = "512MiB"
file_system = "fat32"
volume_label = "EXCHANGE"
attributes = ["hidden", "read-only"]

[[partition]]
role = "data"
size = "rest"
size_min = "1.5GiB"
file_system = "none"
type_guid = "{0FC63DAF-8483-4772-8E79-3D69D8477DE4}"
"""
    )
    layout = load_layout(text, what="lab.toml")
    assert (layout.name, layout.summary) == ("lab", "two for data")
    windows, exchange, rest = layout.partitions[1:]
    assert (windows.size, windows.cluster_size) == (100 * GIB, 8192)
    assert exchange.attributes == 1 << 62 | 1 << 60
    assert (exchange.name, exchange.volume_label) == ("Exchange", "EXCHANGE")
    assert (rest.size, rest.size_min, rest.file_system) == (None, 1536 * MIB, None)
    assert rest.type_guid == UUID("0fc63daf-8483-4772-8e79-3d69d8477de4")


def test_what_is_unusual_is_said():
    assert "no recovery" in find_oddities(load_layout(MBR, what="m"))[0]
    text = (
        GPT
        + 'size = "30GiB"\n'
        + """
[[partition]]
role = "data"
size = "rest"
[[partition]]
role = "recovery"
[[partition]]
role = "msr"
"""
    )
    first, second = find_oddities(load_layout(text, what="x"))
    assert "not right behind Windows" in first
    assert "MSR" in second


DATA = '\n[[partition]]\nrole = "data"\n'
BAD = {
    "not TOML": ("table = ", "not TOML"),
    "no table": (GPT_BODY, "table is missing"),
    "unknown table": ('table = "apm"' + GPT_BODY, "line 1: table: expected one of gpt, mbr"),
    "newer format": ("format = 2\n" + GPT, "line 1: format: expected 1"),
    "unknown key above": ("colour = 1\n" + GPT, "line 1: colour is no key"),
    "unknown key": (GPT + 'sise = "1GiB"\n', "line 8, partition 2 (windows): sise is no key"),
    "no role": (GPT + "[[partition]]\n", "line 8, partition 3: role is missing"),
    "unknown role": (GPT + '[[partition]]\nrole = "swap"\n', "line 9, partition 3: role:"),
    "role of another type": (GPT + "[[partition]]\nrole = 7\n", "role: expected a string"),
    "partition is no list": (GPT_HEAD + "partition = 7\n", "partition: expected a list"),
    "partition is no table": (GPT_HEAD + "partition = [7]\n", "partition 1: expected a table"),
    "size is a number": (GPT + "size = 5\n", "line 8, partition 2 (windows): size: expected a str"),
    "size is no size": (GPT + 'size = "big"\n', 'size: expected a size such as "260MiB"'),
    "size of nothing": (GPT + 'size = "0"\n', "one or more whole MiB"),
    "size is odd": (GPT + 'size = "1MB"\n', "1000000 bytes are not one or more whole MiB"),
    "below its least": (GPT + 'size = "1GiB"\nsize_min = "2GiB"\n', "is below size_min"),
    "rest as a least": (GPT + 'size_min = "rest"\n', 'size_min: expected a size such as "260MiB"'),
    "data without size": (GPT + DATA, "partition 3 (data): size: expected a size or"),
    "two rests": (GPT + DATA + 'size = "rest"\n', "partitions [2, 3] all want the rest"),
    "two systems": (GPT + '[[partition]]\nrole = "system"\n', "one partition of the role system"),
    "no Windows": (GPT_HEAD + '[[partition]]\nrole = "system"\n', "of the role windows, got 0"),
    "two recoveries": (GPT + 2 * '[[partition]]\nrole = "recovery"\n', "at most one partition"),
    "ESP of NTFS": (GPT_HEAD + GPT_BODY.replace('m"\n', 'm"\nfile_system = "ntfs"\n', 1), "UEFI"),
    "Windows on FAT32": (GPT + 'file_system = "fat32"\n', "a windows partition has ntfs"),
    "unknown file system": (GPT + 'file_system = "ext4"\n', "expected one of fat32, ntfs, none"),
    "MSR with files": (GPT + '[[partition]]\nrole="msr"\nfile_system="ntfs"\n', "msr partition"),
    "MSR with a label": (GPT + '[[partition]]\nrole="msr"\nvolume_label="A"\n', "can't hold 'A'"),
    "FAT label": (GPT_HEAD + GPT_BODY.replace('m"\n', 'm"\nvolume_label = "a*b"\n', 1), "can't"),
    "NTFS label": (GPT + f'volume_label = "{33 * "x"}"\n', "NTFS can't hold"),
    "NTFS label, control": (GPT + r'volume_label = "a\u001bb"', "NTFS can't hold"),
    "name too long": (GPT + f'name = "{37 * "x"}"\n', "37 UTF-16 units, at most 36"),
    "name, surrogate pairs": (GPT + f'name = "{19 * chr(0x1F600)}"\n', "38 UTF-16 units"),
    "name, control": (GPT + r'name = "\u001b[2J"', "not printable"),
    "layout's name": ('name = "a\\nb"\n' + GPT, "name: 'a\\nb' is not one short line"),
    "clusters": (GPT + 'cluster_size = "3KiB"\n', "not a power of two"),
    "big clusters": (GPT + 'cluster_size = "128KiB"\n', "to 65536"),
    "clusters of none": (
        GPT + DATA + 'size="1GiB"\nfile_system="none"\ncluster_size="4KiB"\n',
        "has no clusters",
    ),
    "GUID": (GPT + 'type_guid = "7"\n', "type_guid: expected a GUID"),
    "zero GUID": (GPT + 'type_guid = "00000000-0000-0000-0000-000000000000"\n', "not zero"),
    "code on a GPT": (GPT + "type_code = 7\n", "are for an MBR, this is a GPT"),
    "active on a GPT": (GPT + "active = true\n", "are for an MBR, this is a GPT"),
    "active is a number": (MBR + "active = 1\n", "active: expected true or false"),
    "attribute": (GPT + 'attributes = ["shiny"]\n', "attributes: expected a list of platform-"),
    "attributes, one": (GPT + 'attributes = "hidden"\n', "attributes: expected a list"),
    "attributes on MBR": (MBR + 'attributes = ["hidden"]\n', "are for a GPT, this is an MBR"),
    "GUID on MBR": (MBR + 'type_guid = "ebd0a0a2-b9e5-4433-87c0-68b6b72699c7"\n', "are for a GPT"),
    "MSR on MBR": (MBR + '[[partition]]\nrole = "msr"\n', "an MSR partition is for a GPT"),
    "code 0": (MBR + "type_code = 0\n", "from 0x01 to 0xff"),
    "code 256": (MBR + "type_code = 256\n", "from 0x01 to 0xff"),
    "code is true": (MBR + "type_code = true\n", "type_code: expected an integer"),
    "extended": (MBR + "type_code = 0x0f\n", "0x0f is a container"),
    "protective": (MBR + "type_code = 0xee\n", "0xee is a container"),
    "five primaries": (MBR + 3 * (DATA + 'size = "1GiB"\n'), "5 partitions: an MBR holds 4"),
    "two active": (MBR + "active = true\n", "it is system, windows"),
    "none active": (
        MBR.replace('m"\n', 'm"\nactive = false\n', 1),
        "it is none",
    ),
    "129 partitions": (GPT + 127 * (DATA + 'size = "1MiB"\n'), "129 partitions: a GPT holds 128"),
    "deep": (GPT_HEAD + "partition = " + 5000 * "[" + 5000 * "]", "x.toml"),
    "huge": ("#" * (TEXT_SIZE_MAX + 1), "characters"),
    "huge integer": (f"format = {'9' * 5000}\n" + GPT, "x.toml"),
}  # fmt: skip


@pytest.mark.parametrize(("text", "expected"), BAD.values(), ids=BAD)
def test_bad_layouts_are_refused_by_key_and_line(text, expected):
    with pytest.raises(FormatError) as caught:
        load_layout(text, what="x.toml")
    assert caught.value.message.startswith("x.toml")
    assert expected in caught.value.message


VALUES = st.one_of(
    st.booleans(), st.integers(), st.floats(), st.text(max_size=8), st.just("rest"),
    st.sampled_from(["gpt", "mbr", "ntfs", "1GiB", "system", "windows", "data"]),
    st.lists(st.text(max_size=4), max_size=2),
)  # fmt: skip
KEYS = st.sampled_from(
    ["table", "name", "format", "role", "size", "size_min", "file_system", "volume_label",
     "type_guid", "type_code", "attributes", "cluster_size", "active", "other"]
)  # fmt: skip


def toml(value):
    if isinstance(value, bool):
        return str(value).lower()
    if isinstance(value, str):
        escaped = "".join(
            f"\\U{ord(char):08x}" for char in value if not 0xD800 <= ord(char) < 0xE000
        )
        return f'"{escaped}"'
    if isinstance(value, list):
        return "[" + ", ".join(map(toml, value)) + "]"
    return repr(value)


@settings(max_examples=150, deadline=None)
@given(st.dictionaries(KEYS, VALUES), st.lists(st.dictionaries(KEYS, VALUES), max_size=3))
def test_any_layout_is_read_or_refused(top, partitions):
    text = "\n".join(f"{key} = {toml(value)}" for key, value in top.items())
    for values in partitions:
        text += "\n[[partition]]\n"
        text += "\n".join(f"{key} = {toml(value)}" for key, value in values.items())
    for whole in (text, GPT_HEAD + GPT_BODY + text.partition("[[partition]]\n")[2]):
        try:
            layout = load_layout(whole, what="random")
        except FormatError:
            continue
        else:
            assert layout.find(Role.WINDOWS) is not None
