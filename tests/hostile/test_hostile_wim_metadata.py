# SPDX-License-Identifier: GPL-3.0-or-later
"""Every hostile tree gets the verdict that the README gives it, in bounded time and memory."""

import re
import tracemalloc
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from mediamaker import errors
from mediamaker.formats.wim_metadata import WimMetadata
from mediamaker.units import MIB
from tests.hostile.make_wim_metadata import CASES, good, pack

README = Path(__file__).with_name("README.md")
FOUND_ONLY_BY_WALKING = {"path-absurd"}


def _verdicts() -> dict[str, str]:
    section = README.read_text().split("\n## WIM metadata\n")[1].split("\n## ")[0]
    rows = re.findall(r"^\| ([a-z0-9-]+) \| ([^|]+\.) \| ([^|]+) \|$", section, re.MULTILINE)
    assert len(rows) == sum(line.startswith("| ") for line in section.splitlines()) - 2
    return {name: verdict for name, _, verdict in rows}


VERDICTS = _verdicts()


def _walk(data: bytes) -> WimMetadata:
    metadata = WimMetadata(data, what="test.wim")
    metadata.security_descriptors()
    for _ in metadata.walk():
        pass
    return metadata


def _scan(data: bytes) -> list[bytes]:
    metadata = WimMetadata(data, what="test.wim")
    metadata.security_descriptors()
    return list(metadata.scan_sha1s())


def test_every_row_of_the_readme_is_a_case_and_every_case_a_row():
    assert list(VERDICTS) == list(CASES)


@pytest.mark.parametrize("name", CASES)
def test_verdict(name):
    data = CASES[name]()
    tracemalloc.start()
    try:
        if VERDICTS[name] == "read":
            list(_walk(data).scan_sha1s())
        else:
            kind, says = re.fullmatch(r"`(\w+)`: `(.+)`", VERDICTS[name]).groups()
            with pytest.raises(errors.MediaError) as caught:
                _walk(data)
            assert type(caught.value).__name__ == kind
            assert says in str(caught.value)
            assert "test.wim" in str(caught.value)
        assert tracemalloc.get_traced_memory()[1] < 16 * MIB
    finally:
        tracemalloc.stop()


@pytest.mark.parametrize("name", sorted(set(CASES) - FOUND_ONLY_BY_WALKING))
def test_the_quick_scan_refuses_what_the_walk_refuses(name):
    data = CASES[name]()
    if VERDICTS[name] == "read":
        _scan(data)
        return
    with pytest.raises(errors.FormatError):
        _scan(data)


def test_the_good_one_is_good():
    metadata = _walk(pack(good()))
    assert [entry.path for entry in metadata.walk()] == [
        "/", "/Windows", "/Windows/a", "/Windows/b", "/long name", "/nothing here",
    ]  # fmt: skip
    assert sorted(metadata.scan_sha1s()) == [letter * 20 for letter in (b"a", b"b", b"c", b"d")]
    assert metadata.find("WINDOWS\\A").data.sha1 == b"a" * 20
    assert metadata.find("windows/b").hard_link_group == 7
    long_name = metadata.find("long name")
    assert long_name.short_name == "LONGNA~1"
    assert [(s.name, s.kind) for s in long_name.streams] == [("", "data"), ("s", "data")]


@settings(max_examples=300, deadline=None)
@given(
    st.lists(
        st.tuples(st.integers(0, 840), st.binary(min_size=1, max_size=9)), min_size=1, max_size=4
    )
)
def test_any_damage_gives_a_typed_error_or_a_tree(damage):
    data = bytearray(pack(good()))
    for offset, patch in damage:
        data[offset : offset + len(patch)] = patch
    walked = True
    try:
        metadata = _walk(bytes(data))
        assert len(list(metadata.walk())) <= len(data) // 102
    except errors.FormatError:
        walked = False
    try:
        sha1s = list(WimMetadata(bytes(data)).scan_sha1s())
    except errors.FormatError:
        assert not walked
    else:
        assert len(sha1s) <= len(data) // 38
