# SPDX-License-Identifier: GPL-3.0-or-later
"""What is kept of a disk before it is written, and put back: bad sectors, failing targets."""

import errno
import os

import pytest

from mediamaker.errors import TargetIOError
from mediamaker.execute.before import (
    BeforeFile,
    BeforeHeader,
    OldPartition,
    choose_ranges,
    lost_ranges,
    save_before,
    sector_digests,
)
from mediamaker.execute.put_back import compare_tables, put_back
from mediamaker.execute.runs import intersect_runs, is_within, subtract_runs
from tests.execute.engine_rig import MIB, OLD, FaultyTarget, make_meter, write

PARTITION = OldPartition(1, "primary", MIB, 18 * MIB, "ext4")


class BadSectors:
    """A target of which a range can't be read."""

    def __init__(self, inner, start, end):
        self._inner = inner
        self._bad = range(start, end)

    def pread(self, offset, size):
        if offset < self._bad.stop and self._bad.start < offset + size:
            raise OSError(errno.EIO, os.strerror(errno.EIO))
        return self._inner.pread(offset, size)


def header_for(rig):
    written = list(rig.extents.written_runs(0, rig.extents.end))
    expected = rig.expected()
    size = rig.extents.end
    return BeforeHeader(
        plan_id="0" * 64,
        source="iso",
        target="stick",
        disk={"serial": "S", "size": size},
        size=size,
        sector_size=512,
        made_at="now",
        made_by="0",
        table_type="gpt",
        partitions=(PARTITION,),
        written=tuple(written),
        commit=rig.commit,
        commit_digests="".join(sector_digests(expected[s:e], 512).hex() for s, e in rig.commit),
        saved=tuple(choose_ranges([PARTITION], written, size=size, sector_size=512)),
    )


def test_all_that_was_overwritten_comes_back(rig, stick, tmp_path):
    path = tmp_path / "u"
    header = save_before(path, header_for(rig), stick)
    assert lost_ranges(header, PARTITION) == []
    write(rig, stick)
    assert stick.path.read_bytes() == rig.expected()
    before = BeforeFile(path)
    assert before.header == header
    assert compare_tables(before, stick).new_sectors == 33
    assert put_back(before, stick, meter=make_meter()) > MIB
    assert stick.path.read_bytes() == OLD * rig.extents.end
    assert compare_tables(before, stick).old_sectors == 33
    assert put_back(before, stick, meter=make_meter()) == 0


def test_what_can_not_be_read_is_not_kept_and_said_to_be_lost(rig, stick, tmp_path):
    bad = (3 * MIB, 3 * MIB + 512)
    header = save_before(tmp_path / "u", header_for(rig), BadSectors(stick, *bad))
    assert lost_ranges(header, PARTITION) == [(3 * MIB, 4 * MIB)]
    write(rig, stick)
    put_back(BeforeFile(tmp_path / "u"), stick, meter=make_meter())
    expected = bytearray(OLD * rig.extents.end)
    expected[3 * MIB : 4 * MIB] = rig.expected()[3 * MIB : 4 * MIB]
    assert stick.path.read_bytes() == expected


def test_no_file_is_left_where_it_can_not_be_made(rig, stick, tmp_path):
    folder = tmp_path / "folder"
    folder.mkdir()
    (folder / "u").mkdir()
    with pytest.raises(OSError, match="Is a directory"):
        save_before(folder / "u", header_for(rig), stick)
    assert [path.name for path in folder.iterdir()] == ["u"]


@pytest.mark.parametrize("number", [1, 2, 3, 8, 12])
def test_going_back_that_fails_leaves_it_blank_and_can_be_done_again(rig, stick, tmp_path, number):
    save_before(tmp_path / "u", header_for(rig), stick)
    write(rig, stick)
    before = BeforeFile(tmp_path / "u")

    def fail(name, call_number, arguments):
        if name == "pwrite" and call_number >= number:
            raise OSError(errno.EIO, os.strerror(errno.EIO))

    with pytest.raises(TargetIOError, match="putting back failed"):
        put_back(before, FaultyTarget(stick, fail), meter=make_meter())
    sector = stick.pread(0, 512)
    assert sector == (rig.expected()[:512] if number == 1 else bytes(512))
    put_back(before, stick, meter=make_meter())
    assert stick.path.read_bytes() == OLD * rig.extents.end


def test_sets_of_ranges():
    assert intersect_runs([(0, 10), (20, 30)], [(5, 25)]) == [(5, 10), (20, 25)]
    assert subtract_runs([(0, 10), (20, 30)], [(5, 25)]) == [(0, 5), (25, 30)]
    assert subtract_runs([(0, 10)], [(2, 3), (5, 6)]) == [(0, 2), (3, 5), (6, 10)]
    assert subtract_runs([(0, 10)], [(0, 10)]) == []
    assert is_within([(5, 6)], 5)
    assert not is_within([(5, 6)], 6)
