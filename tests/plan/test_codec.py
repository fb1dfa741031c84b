# SPDX-License-Identifier: GPL-3.0-or-later
import base64
import hashlib
import json
import zlib
from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mediamaker.errors import FormatError, MediaError
from mediamaker.extents import ExtentMapBuilder, FileRange, Literal, Unwritten, Zeros
from mediamaker.plan import codec
from mediamaker.plan.codec import compute_plan_id, plan_from_json, plan_to_json
from mediamaker.plan.geometry import Geometry
from mediamaker.plan.model import Plan, PlannedPartition
from mediamaker.plan.request import Layout
from mediamaker.plan.show import show_plan
from mediamaker.sources.identity import SourceFile
from mediamaker.units import MIB


def make_plan(*, literal=b"\x01" * 512, size=8 * MIB, mtime_ns=5, path="/x/a.iso"):
    builder = ExtentMapBuilder()
    builder.add("MBR", 512, Literal(literal))
    builder.pad_to(MIB, "zeros before partition 1", Zeros())
    builder.add("VBR", 512, Literal(literal))
    builder.add("\\sources\\boot.wim", 1024, FileRange("iso", 4096))
    builder.pad_to(size - MIB, "free clusters", Unwritten())
    builder.pad_to(size, "zeros at the end", Zeros())
    geometry, extents = Geometry(size), builder.build()
    commit = ((0, MIB), (size - MIB, size))
    sources = (SourceFile("iso", path, 99999, mtime_ns, 7, 8),)
    return Plan(
        plan_id=compute_plan_id(geometry, Layout.MBR_FAT32, extents, commit, sources),
        geometry=geometry,
        layout=Layout.MBR_FAT32,
        extents=extents,
        commit=commit,
        sources=sources,
        identities={"disk_signature": "cafe0001"},
        partitions=(
            PlannedPartition(1, "FAT32", MIB, size - 2 * MIB, True, "FAT32", "WIN", 4096, 9),
        ),
        boots=("BIOS",),
        notes=("a note",),
        warnings=("careful",),
    )


def test_a_plan_survives_json():
    plan = make_plan()
    assert plan_from_json(json.loads(json.dumps(plan_to_json(plan)))) == plan


def test_the_plan_id_names_bytes_and_nothing_else():
    plan = make_plan()
    assert len(plan.plan_id) == 64
    assert make_plan(path="/moved/b.iso").plan_id == plan.plan_id
    assert make_plan(literal=b"\x02" * 512).plan_id != plan.plan_id
    assert make_plan(size=9 * MIB).plan_id != plan.plan_id
    assert make_plan(mtime_ns=6).plan_id != plan.plan_id


SOURCE_FIELDS = ("source_id", "path", "size", "mtime_ns", "inode", "device")


@pytest.mark.parametrize(
    "change",
    [
        {"format": "other"},
        {"format_version": 2},
        {"plan_id": "0" * 64},
        {"geometry": {"size": 9 * MIB, "logical_sector_size": 512}},
        {"geometry": {"size": 8 * MIB, "logical_sector_size": 17}},
        {"layout": "zip"},
        {"extents": []},
        {"extents": [{"start": 0}]},
        {"literals": {}},
        {"literals": {"00": "AAAA"}},
        {"commit": [[1]]},
        {"sources": [{"path": "x"}]},
        {"sources": [dict.fromkeys(SOURCE_FIELDS, 5)]},
        {"sources": [dict.fromkeys(SOURCE_FIELDS, "a\0b")]},
        {"geometry": {"size": float("inf"), "logical_sector_size": 512}},
        {"geometry": {"size": float("nan"), "logical_sector_size": 512}},
        {"identities": None},
        {"literals": []},
        {"commit": [[float("inf"), 1]]},
        {"extents": [{"start": float("inf"), "size": 1, "name": "", "source": {"kind": "zeros"}}]},
    ],
)
def test_what_is_no_plan_is_refused(change):
    data = json.loads(json.dumps(plan_to_json(make_plan()))) | change
    with pytest.raises(MediaError, match="not a usable plan"):
        plan_from_json(data)


@given(
    st.recursive(
        st.none() | st.integers() | st.text(max_size=4),
        lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(), inner, max_size=3),
        max_leaves=8,
    )
)
def test_any_json_is_a_typed_error(data):
    with pytest.raises(MediaError):
        plan_from_json(data)


def test_the_dry_run_shows_the_disk():
    text = show_plan(make_plan())
    assert make_plan().plan_id in text
    assert '1 FAT32 "WIN" 6 MiB, active' in text
    assert "warning: careful" in text
    assert "\\sources\\boot.wim" in text
    bar = next(line for line in text.splitlines() if line.startswith("|="))
    assert len(bar) == 66
    assert "." in bar
    assert text == show_plan(replace(make_plan()))


def test_literals_are_bounded_together(monkeypatch):
    """Each may unpack to a thousand times its size; 2 MB of JSON took 2 GB of memory."""
    monkeypatch.setattr(codec, "LITERALS_SIZE_MAX", 1000)
    data = plan_to_json(make_plan())
    assert plan_from_json(data) == make_plan()
    other = bytes(600)
    text = base64.b64encode(zlib.compress(other)).decode()
    data["literals"][hashlib.sha256(other).hexdigest()] = text
    with pytest.raises(FormatError, match="literals are over 1000 bytes together"):
        plan_from_json(data)


@pytest.mark.parametrize(
    ("name", "value"), [("start", "1"), ("size", -1), ("is_active", 1), ("number", [])]
)
def test_partitions_of_other_types_are_refused(name, value):
    """Found by tests/fuzz/fuzz_codec_json.py: such a plan could not be shown."""
    data = plan_to_json(make_plan())
    data["partitions"][0][name] = value
    with pytest.raises(FormatError, match=f"partitions: '{name}'"):
        plan_from_json(data)
