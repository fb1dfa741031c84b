# SPDX-License-Identifier: GPL-3.0-or-later
import pytest
from hypothesis import given
from hypothesis import strategies as st

from mediamaker.errors import PlanError
from mediamaker.extents import (
    Extent,
    ExtentMap,
    ExtentMapBuilder,
    FileRange,
    Literal,
    Piece,
    Unwritten,
    Zeros,
    check_sector_aligned,
    coalesce_pieces,
    slice_pieces,
)


def test_an_overlap_names_both_and_their_ranges():
    builder = ExtentMapBuilder()
    builder.add("first", 0x1000, Zeros())
    builder.add("second", 0x1000, Zeros())
    with pytest.raises(PlanError) as caught:
        builder.append(Extent(0x800, 0x100, "third", Zeros()))
    assert str(caught.value) == '"third" [0x800,0x900) overlaps "first" [0x0,0x1000)'


def test_a_gap_names_the_bytes_that_nobody_owns():
    builder = ExtentMapBuilder()
    builder.add("first", 0x1000, Zeros())
    with pytest.raises(PlanError, match=r"nothing owns \[0x1000,0x1800\) between \"first\""):
        builder.append(Extent(0x1800, 1, "late", Zeros()))


def test_misalignment_says_by_how_much():
    builder = ExtentMapBuilder()
    builder.add("odd", 0x1001, Zeros())
    with pytest.raises(PlanError, match="1 bytes past a multiple of 512"):
        builder.add("volume", 512, Zeros(), alignment=512)


@pytest.mark.parametrize(("size", "source"), [(0, Zeros()), (-1, Zeros()), (3, Literal(b"ab"))])
def test_sizes_that_make_no_sense_are_refused(size, source):
    with pytest.raises(PlanError):
        ExtentMapBuilder().append(Extent(0, size, "bad", source))
    with pytest.raises(PlanError):
        Piece(size, source)


def test_padding_never_goes_backwards():
    builder = ExtentMapBuilder()
    builder.add("files", 100, Zeros())
    with pytest.raises(PlanError, match="already there"):
        builder.pad_to(99, "pad", Zeros())


def test_a_map_with_a_hole_is_refused():
    with pytest.raises(PlanError, match="does not begin where"):
        ExtentMap((Extent(0, 1, "a", Zeros()), Extent(2, 1, "b", Zeros())))


def test_within_cuts_sources_too():
    extents = ExtentMap(
        (
            Extent(0, 4, "literal", Literal(b"abcd")),
            Extent(4, 10, "file", FileRange("iso", 100)),
            Extent(14, 6, "free", Unwritten()),
        )
    )
    assert list(extents.within(2, 6)) == [
        Extent(2, 2, "literal", Literal(b"cd")),
        Extent(4, 2, "file", FileRange("iso", 100)),
    ]
    assert list(extents.within(13, 99)) == [
        Extent(13, 1, "file", FileRange("iso", 109)),
        Extent(14, 6, "free", Unwritten()),
    ]
    assert list(extents.written_runs(0, 20)) == [(0, 14)]
    assert extents.written_size == 14
    assert extents.find(13).name == "file"
    with pytest.raises(PlanError):
        extents.find(20)


def test_a_written_run_must_be_whole_sectors():
    extents = ExtentMap((Extent(0, 700, "file", Zeros()), Extent(700, 324, "free", Unwritten())))
    with pytest.raises(PlanError, match="not a multiple of the sector size 512"):
        check_sector_aligned(extents, 512)


@given(
    st.lists(st.tuples(st.integers(1, 40), st.sampled_from(["l", "z", "f"])), min_size=1),
    st.data(),
)
def test_slices_are_what_the_bytes_would_be(parts, data):
    backing = bytes(i % 251 for i in range(10_000))
    pieces, offset = [], 0
    for size, kind in parts:
        source = {
            "l": Literal(bytes(size)[:-1] + b"L"),
            "z": Zeros(),
            "f": FileRange("x", offset),
        }[kind]
        pieces.append(Piece(size, source))
        offset += size

    def content(items):
        out = b""
        for piece in items:
            match piece.source:
                case Literal(literal):
                    out += literal
                case FileRange(_, start):
                    out += backing[start : start + piece.size]
                case _:
                    out += bytes(piece.size)
        return out

    whole = content(pieces)
    start = data.draw(st.integers(0, len(whole)))
    size = data.draw(st.integers(0, len(whole) - start))
    assert content(slice_pieces(pieces, start, size)) == whole[start : start + size]
    merged = coalesce_pieces(pieces)
    assert content(merged) == whole
    assert len(merged) <= len(pieces)
    with pytest.raises(PlanError):
        slice_pieces(pieces, start, len(whole) - start + 1)
