# SPDX-License-Identifier: GPL-3.0-or-later
"""A receipt verifies a stick without its source, and nothing in its file is believed."""

import copy
import json

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from mediamaker.errors import ExitCode, FormatError, SourceError, UsageError, VerifyError
from mediamaker.execute.receipt import (
    make_receipt,
    pack_receipt,
    parse_receipt,
    read_receipt,
    verify_receipt,
    write_receipt,
)
from tests.execute.engine_rig import MIB, make_meter, write


@pytest.fixture
def receipt(rig, stick):
    return make_receipt(
        plan_id="ab" * 32,
        layout="mbr-fat32",
        identities={"disk_signature": "1a2b3c4d"},
        logical_sector_size=512,
        extents=rig.extents,
        digests=write(rig, stick, has_digests=True).digests,
    )


GOOD = {
    "format": "mediamaker-receipt",
    "version": 1,
    "plan_id": "x",
    "layout": "raw",
    "identities": {},
    "geometry": {"size": 1048576, "logical_sector_size": 512},
    "piece_size": 65536,
    "written": [[0, 512], [65536, 131072]],
    "pieces": [
        {"index": 0, "size": 512, "sha256": "0" * 64},
        {"index": 1, "size": 65536, "sha256": "0" * 64},
    ],
}


def test_comes_back_as_it_was(receipt, tmp_path):
    path = tmp_path / "stick.json"
    write_receipt(receipt, path)
    assert read_receipt(path) == receipt
    assert [entry.name for entry in tmp_path.iterdir()] == ["stick.json"]


def test_verifies_a_stick_without_its_source(receipt, rig, stick):
    rig.iso_path.unlink()
    result = verify_receipt(receipt, stick, meter=make_meter())
    assert result.bytes_read == rig.extents.written_size


def test_finds_a_wrong_byte_and_names_its_piece(receipt, stick):
    with stick.path.open("r+b") as file:
        file.seek(3 * MIB)
        file.write(b"?")
    with pytest.raises(VerifyError, match=r"piece 0 \[0x0,0x1400000\) does not hold"):
        verify_receipt(receipt, stick, meter=make_meter())


def test_a_smaller_target(receipt, stick):
    stick.size -= 512
    with pytest.raises(VerifyError, match="holds"):
        verify_receipt(receipt, stick, meter=make_meter())


def test_the_good_one_is_good():
    assert len(parse_receipt(json.dumps(GOOD), what="r").digests) == 2


@pytest.mark.parametrize(
    ("path", "value", "message"),
    [
        (["format"], "other", "not a receipt"),
        (["version"], 2, "version 2, expected 1"),
        (["version"], True, "expected an integer"),
        (["version"], 1.0, "expected an integer"),
        (["plan_id"], None, "'plan_id': expected a string"),
        (["identities"], [], "expected a JSON object"),
        (["identities"], {"a": 1}, "identity 'a'"),
        (["geometry", "size"], 0, "'size'"),
        (["geometry", "size"], 10**30, "'size'"),
        (["geometry", "logical_sector_size"], 513, "sectors of 513"),
        (["piece_size"], 0, "'piece_size'"),
        (["piece_size"], 5000, "pieces of 5000"),
        (["written"], {}, "'written': expected a list"),
        (["written", 0], [0], "expected \\[start, end\\]"),
        (["written", 0], [0, "512"], "expected \\[start, end\\]"),
        (["written", 0], [0, True], "expected \\[start, end\\]"),
        (["written", 0], [512, 512], "out of order"),
        (["written", 0], [0, 100], "not whole sectors"),
        (["written", 1], [65536, 2097152], "past the end"),
        (["written", 1], [0, 131072], "out of order"),
        (["written", 0], [0, 1024], "do not match"),
        (["pieces"], [], "do not cover"),
        (["pieces", 0], 7, "expected a JSON object"),
        (["pieces", 0, "sha256"], "0" * 63, "no SHA-256"),
        (["pieces", 0, "sha256"], "G" * 64, "no SHA-256"),
        (["pieces", 0, "index"], -1, "'index'"),
        (["pieces", 0, "index"], 1, "do not match"),
        (["pieces", 1, "size"], 512, "do not match"),
    ],
)
def test_a_bad_one_is_refused(path, value, message):
    content = copy.deepcopy(GOOD)
    place = content
    for key in path[:-1]:
        place = place[key]
    place[path[-1]] = value
    with pytest.raises(FormatError, match=message) as caught:
        parse_receipt(json.dumps(content), what="r")
    assert caught.value.exit_code == ExitCode.SOURCE_UNUSABLE


@pytest.mark.parametrize("name", GOOD)
def test_a_member_that_is_missing(name):
    content = {key: value for key, value in GOOD.items() if key != name}
    with pytest.raises(FormatError, match=f"'{name}' is missing"):
        parse_receipt(json.dumps(content), what="r")


@pytest.mark.parametrize(
    "text",
    ["", "{", "[1]", "null", "[" * 100_000, b"\xff\xfe\xfa", '{"a": ' + "9" * 5000 + "}"],
    ids=["empty", "cut", "list", "null", "deep", "no text", "long number"],
)
def test_what_is_no_receipt_at_all(text):
    with pytest.raises(FormatError):
        parse_receipt(text, what="r")


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(), inner, max_size=4),
    max_leaves=10,
)


@settings(max_examples=200, deadline=None)
@given(st.sampled_from(sorted(GOOD)), JSON)
def test_only_typed_errors_come_out(name, value):
    try:
        receipt = parse_receipt(json.dumps({**GOOD, name: value}), what="r")
    except FormatError:
        return
    assert parse_receipt(pack_receipt(receipt), what="again") == receipt


def test_files_that_can_not_be_read_or_written(receipt, tmp_path):
    with pytest.raises(SourceError, match="can't be read"):
        read_receipt(tmp_path / "missing")
    with pytest.raises(UsageError, match="can't be written"):
        write_receipt(receipt, tmp_path / "missing" / "r.json")
    with pytest.raises(UsageError, match="can't be written"):
        write_receipt(receipt, tmp_path)
    assert list(tmp_path.iterdir()) == []
    large = tmp_path / "large"
    large.touch()
    with large.open("r+b") as file:
        file.truncate(65 * MIB)
    with pytest.raises(FormatError, match="no receipt"):
        read_receipt(large)
