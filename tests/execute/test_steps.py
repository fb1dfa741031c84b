# SPDX-License-Identifier: GPL-3.0-or-later
"""The steps of a pass cover the written bytes once, ascending, whatever the plan looks like."""

import itertools
import os

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from mediamaker.execute.steps import (
    COPY_SIZE,
    COPY_SIZE_MIN,
    FILL_SIZE,
    HOLE_SIZE_MIN,
    Copy,
    Fill,
    find_file_data,
    iter_steps,
    iter_windows,
    merge_runs,
    runs_size,
    stream_size,
)
from mediamaker.extents import ExtentMapBuilder, FileRange, Literal, Unwritten, Zeros

KIB = 1 << 10
MIB = 1 << 20

SIZES = st.one_of(
    st.integers(1, 5000),
    st.sampled_from([FILL_SIZE, FILL_SIZE - 1, COPY_SIZE_MIN, COPY_SIZE_MIN - 1, COPY_SIZE + 7]),
    st.integers(1, 40 * MIB),
)
KINDS = st.sampled_from(["literal", "zeros", "file", "unwritten"])


@st.composite
def plans(draw):
    builder = ExtentMapBuilder()
    file_offset = 0
    for number, (kind, size) in enumerate(draw(st.lists(st.tuples(KINDS, SIZES), max_size=12))):
        match kind:
            case "literal":
                builder.add(f"l{number}", min(size, 9000), Literal(bytes(min(size, 9000))))
            case "zeros":
                builder.add(f"z{number}", size, Zeros())
            case "unwritten":
                builder.add(f"u{number}", size, Unwritten())
            case "file":
                builder.add(f"f{number}", size, FileRange("iso", file_offset))
                file_offset += size
    extents = builder.build()
    runs = list(extents.written_runs(0, extents.end))
    cuts = sorted(
        draw(st.integers(start, end))
        for start, end in runs
        for _ in range(draw(st.integers(0, 1)) * 2)
    )
    commit = tuple((a, b) for a, b in zip(cuts[::2], cuts[1::2], strict=True) if a < b)
    return extents, runs, commit


@settings(max_examples=150, deadline=None)
@given(plans(), st.booleans())
def test_steps_cover_every_written_byte_once(plan, is_copying):
    extents, runs, commit = plan
    steps = list(iter_steps(extents, runs, commit=commit, is_copying=lambda: is_copying))
    assert merge_runs((step.start, step.start + step.size) for step in steps) == runs
    assert sum(step.size for step in steps) == extents.written_size
    for before, after in itertools.pairwise(steps):
        assert before.start + before.size <= after.start
    streamed = 0
    for step in steps:
        end = step.start + step.size
        inside = any(start <= step.start and end <= stop for start, stop in commit)
        outside = all(end <= start or stop <= step.start for start, stop in commit)
        assert inside != outside
        streamed += 0 if inside else step.size
        match step:
            case Fill():
                assert step.is_commit == inside
                assert step.start // FILL_SIZE == (end - 1) // FILL_SIZE
                assert sum(part.size for part in step.parts) == step.size
                assert all(not isinstance(part.source, Unwritten) for part in step.parts)
                for part in step.parts:
                    owner = extents.find(part.start)
                    assert part == next(iter(extents.within(part.start, part.end)))
                    assert owner.name == part.name
            case Copy():
                assert is_copying
                assert outside
                assert step.start // COPY_SIZE == (end - 1) // COPY_SIZE
                owner = extents.find(step.start)
                assert step.source_offset == owner.source.offset + step.start - owner.start
    assert stream_size(runs, commit) == streamed
    if not is_copying:
        windows = list(iter_windows(runs))
        assert sum(step.size for step in windows) == extents.written_size


def test_copying_may_be_given_up_on_the_way():
    builder = ExtentMapBuilder()
    builder.add("a", MIB, FileRange("iso", 0))
    builder.add("b", 6 * MIB, FileRange("iso", 0))
    answers = iter([True, False])
    kinds = [
        type(s) for s in iter_steps(builder.build(), [(0, 7 * MIB)], is_copying=answers.__next__)
    ]
    assert kinds == [Copy, Fill, Fill]


def test_merge_runs():
    assert merge_runs([(5, 7), (0, 2)], [(2, 3), (6, 9)]) == [(0, 3), (5, 9)]
    assert runs_size([(0, 3), (5, 9)]) == 7


@pytest.mark.parametrize(
    ("layout", "start", "end", "expected"),
    [
        # (data?, size) one after the other; the file system's blocks are 4 KiB
        ([(True, MIB)], 0, MIB, [(0, MIB)]),
        ([(False, MIB)], 0, MIB, []),
        ([(False, MIB)], 100, 200, [(100, 200)]),  # shorter than a hole worth skipping
        (
            [(True, MIB), (False, MIB), (True, MIB)],
            0,
            3 * MIB,
            [(0, MIB), (2 * MIB, 3 * MIB)],
        ),
        ([(True, MIB), (False, MIB), (True, MIB)], MIB + 5, 2 * MIB, []),
        ([(True, MIB), (False, MIB)], MIB // 2, 2 * MIB, [(MIB // 2, MIB)]),
        ([(True, MIB), (False, 8 * KIB), (True, MIB)], 0, 2 * MIB, [(0, 2 * MIB)]),
        ([(False, HOLE_SIZE_MIN), (True, MIB)], 0, MIB, [(HOLE_SIZE_MIN, MIB)]),
    ],
)
def test_holes_of_a_file(tmp_path, layout, start, end, expected):
    path = tmp_path / "file"
    with path.open("wb") as file:
        for is_data, size in layout:
            if is_data:
                file.write(b"x" * size)
            else:
                file.truncate(file.tell() + size)
                file.seek(size, os.SEEK_CUR)
    with path.open("rb") as file:
        assert list(find_file_data(file.fileno(), start, end)) == expected
