# SPDX-License-Identifier: GPL-3.0-or-later
"""Every hostile WIM gets the verdict that the README gives it, in bounded memory."""

import re
import tracemalloc
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from mediamaker import errors
from mediamaker.extents import Literal, Piece
from mediamaker.plan.split import split_wim
from mediamaker.sources.reader import SourceReader
from mediamaker.sources.wim import WimFile, read_wim
from mediamaker.units import MIB
from tests.hostile.make_wim import CASES, CONTENTS, GUID, good_wim

README = Path(__file__).with_name("README.md")


def _verdicts() -> dict[str, str]:
    section = README.read_text().split("\n## WIM\n")[1].split("\n## ")[0]
    rows = re.findall(r"^\| ([a-z0-9-]+) \| ([^|]+\.) \| ([^|]+) \|$", section, re.MULTILINE)
    assert len(rows) == len({name for name, _, _ in rows})
    assert len(rows) == sum(line.startswith("| ") for line in section.splitlines()) - 2
    return {name: verdict for name, _, verdict in rows}


VERDICTS = _verdicts()


def _read(pieces: tuple[Piece, ...]) -> WimFile:
    with SourceReader([]) as reader:
        return read_wim(pieces, sum(piece.size for piece in pieces), reader, "test.wim")


def test_every_row_of_the_readme_is_a_case_and_every_case_a_row():
    assert list(VERDICTS) == list(CASES)


@pytest.mark.parametrize("name", CASES)
def test_verdict(name):
    pieces = CASES[name]()
    tracemalloc.start()
    try:
        if VERDICTS[name] == "read":
            wim = _read(pieces)
            parts = split_wim(wim, pieces, GUID, 1500)
            assert len(parts) > 1
            assert all(part.size <= 1500 for part in parts)
        else:
            kind, says = re.fullmatch(r"`(\w+)`: `(.+)`", VERDICTS[name]).groups()
            with pytest.raises(errors.MediaError) as caught:
                _read(pieces)
            assert type(caught.value).__name__ == kind
            assert says in str(caught.value)
            assert "test.wim" in str(caught.value)
        assert tracemalloc.get_traced_memory()[1] < 8 * MIB
    finally:
        tracemalloc.stop()


def test_the_good_one_is_good():
    wim = _read((Piece(len(good := good_wim().build()), Literal(good)),))
    assert len(wim.blobs) == len(CONTENTS) + 1
    assert [image.name for image in wim.images] == ["Windows"]


@settings(max_examples=300, deadline=None)
@given(
    st.lists(
        st.tuples(st.integers(0, 2600), st.binary(min_size=1, max_size=9)), min_size=1, max_size=4
    ),
    st.integers(0, 3000),
)
def test_any_damage_gives_a_typed_error_or_a_wim_that_splits_within_the_limit(damage, limit):
    data = bytearray(good_wim().build())
    for offset, patch in damage:
        data[offset : offset + len(patch)] = patch
    pieces = (Piece(len(data), Literal(bytes(data))),)
    try:
        wim = _read(pieces)
        parts = split_wim(wim, pieces, GUID, limit)
    except errors.MediaError:
        return
    for part in parts:
        assert part.size == sum(piece.size for piece in part.pieces) <= limit
