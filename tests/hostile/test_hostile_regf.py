# SPDX-License-Identifier: GPL-3.0-or-later
"""Every hostile hive gets the verdict that the README gives it, in bounded time and memory."""

import re
import time
import tracemalloc
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from mediamaker import errors
from mediamaker.formats.regf import Hive, Key, dword_value, parse_hive
from mediamaker.formats.regf_pack import pack_hive
from mediamaker.units import MIB
from tests.formats.regf_judges import check_boot_rules
from tests.hostile.make_regf import CASES, good, with_checksum

README = Path(__file__).with_name("README.md")
GOOD = pack_hive(good())


def _verdicts() -> dict[str, str]:
    section = README.read_text().split("\n## Registry hives\n")[1].split("\n## ")[0]
    rows = re.findall(r"^\| ([a-z0-9-]+) \| ([^|]+\.) \| ([^|]+) \|$", section, re.MULTILINE)
    assert len(rows) == sum(line.startswith("| ") for line in section.splitlines()) - 2
    return {name: verdict for name, _, verdict in rows}


VERDICTS = _verdicts()


def test_every_row_of_the_readme_is_a_case_and_every_case_a_row():
    assert list(VERDICTS) == list(CASES)


@pytest.mark.parametrize("name", CASES)
def test_verdict(name):
    data = CASES[name]()
    tracemalloc.start()
    try:
        if VERDICTS[name] == "read":
            hive = parse_hive(data, what="test.hive")
        else:
            kind, says = re.fullmatch(r"`(\w+)`: `(.+)`", VERDICTS[name]).groups()
            with pytest.raises(errors.MediaError) as caught:
                parse_hive(data, what="test.hive")
            assert type(caught.value).__name__ == kind
            assert says in str(caught.value)
            assert str(caught.value).startswith("test.hive: ")
            return
        assert tracemalloc.get_traced_memory()[1] < 2 * MIB
    finally:
        tracemalloc.stop()
    packed = pack_hive(hive)
    if name not in {"deep-as-windows", "key-name-lone-surrogate"}:
        check_boot_rules(packed)
        assert sorted(key.name for key in hive.root.subkeys) == ["a", "b", "c", "d"]
    again = parse_hive(packed, what="again")
    assert pack_hive(again) == packed


def test_the_good_one_is_good():
    hive = parse_hive(GOOD, what="good")
    assert [key.name for key in hive.root.subkeys] == ["a", "b", "c", "d"]
    assert len(hive.root.find("c").value("big").data) == 17000
    check_boot_rules(GOOD)


def test_time_and_memory_follow_the_size():
    """As many keys and values as 3 MB can hold; what they take is a small multiple."""
    values = tuple(dword_value(f"{number:x}", number) for number in range(40))
    keys = tuple(Key(f"{number:x}", values=values) for number in range(1400))
    many = Hive(Key("ROOT", subkeys=(*keys, *(Key(f"k{number:x}") for number in range(8000)))))
    data = pack_hive(many)
    tracemalloc.start()
    started = time.process_time()
    try:
        parse_hive(data, what="many")
        assert tracemalloc.get_traced_memory()[1] < 12 * len(data)
        assert time.process_time() - started < 10
    finally:
        tracemalloc.stop()


@settings(max_examples=400, deadline=None)
@given(
    st.lists(
        st.tuples(st.integers(0, len(GOOD) // 3), st.binary(min_size=1, max_size=9)),
        min_size=1,
        max_size=4,
    )
)
def test_any_damage_gives_a_typed_error_or_a_tree(damage):
    data = bytearray(GOOD)
    for offset, patch in damage:
        data[offset : offset + len(patch)] = patch
    try:
        hive = parse_hive(with_checksum(bytes(data)), what="damaged")
    except errors.FormatError:
        return
    packed = pack_hive(hive)
    assert pack_hive(parse_hive(packed, what="again")) == packed
