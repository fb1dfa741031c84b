# SPDX-License-Identifier: GPL-3.0-or-later
"""Reading back: one wrong bit anywhere is found and named, by both ways of verifying."""

import errno
import os
import random
import re

import pytest

from mediamaker.errors import SourceChangedError, TargetIOError, VerifyError
from mediamaker.execute.digests import PIECE_SIZE
from mediamaker.execute.verifier import verify_content
from mediamaker.extents import ExtentMapBuilder, FileRange, Literal, Unwritten, Zeros
from tests.execute.engine_rig import (
    MIB,
    FaultyTarget,
    StickFile,
    execute,
    fail_at,
    make_meter,
    verify_stick,
    write,
)


def content(rig, target, **options):
    with rig.reader() as reader:
        return verify_content(
            extents=rig.extents, reader=reader, target=target, meter=make_meter(), **options
        )


def flip(stick, offset, mask):
    with stick.path.open("r+b") as file:
        file.seek(offset)
        value = file.read(1)[0]
        file.seek(offset)
        file.write(bytes([value ^ mask]))
    return value


@pytest.fixture
def written(rig, stick):
    return write(rig, stick, has_digests=True).digests


def test_a_good_stick_passes_both_ways(rig, stick, written):
    assert content(rig, stick).bytes_read == rig.extents.written_size
    assert verify_stick(rig, stick, written).bytes_read == rig.extents.written_size
    assert content(rig, stick, has_digests=True).digests == written


@pytest.mark.parametrize("seed", range(12))
def test_a_flipped_bit_is_found_and_named(rig, stick, written, seed):
    rng = random.Random(seed)
    runs = list(rig.extents.written_runs(0, rig.extents.end))
    # The first and last byte of the disk and of its runs, then anywhere.
    edges = [offset for start, end in runs for offset in (start, end - 1)]
    start, end = rng.choice(runs)
    offset = edges[seed] if seed < len(edges) else rng.randrange(start, end)
    mask = 1 << rng.randrange(8)
    value = flip(stick, offset, mask)
    extent = rig.extents.find(offset)
    message = (
        f"extent {extent}: first difference at {offset:#x} (byte {offset - extent.start} of the "
        f"extent): expected {value:02x}, got {value ^ mask:02x}; 1 bytes differ"
    )
    with pytest.raises(VerifyError, match=re.escape(message)):
        content(rig, stick)
    with pytest.raises(VerifyError, match=re.escape(message)):
        verify_stick(rig, stick, written)


def test_what_is_unwritten_may_be_anything(rig, stick, written):
    flip(stick, 14 * MIB, 0xFF)
    content(rig, stick)
    verify_stick(rig, stick, written)


def test_the_first_of_many_is_named_and_all_are_counted(rig, stick, written):
    for offset in (9 * MIB, 2 * MIB, 2 * MIB + 1, 18 * MIB):
        flip(stick, offset, 1)
    with pytest.raises(VerifyError, match=r"first difference at 0x200000 .* 4 bytes differ"):
        content(rig, stick)
    with pytest.raises(VerifyError, match=r"first difference at 0x200000 .* 4 bytes differ"):
        verify_stick(rig, stick, written)


def test_caches_are_dropped_before_the_first_read(rig, stick, written):
    for check in (lambda t: content(rig, t), lambda t: verify_stick(rig, t, written)):
        target = FaultyTarget(stick)
        check(target)
        names = [entry[0] for entry in target.log]
        assert names[0] == "drop_caches"
        assert set(names[1:]) == {"preadinto"}


def test_nothing_is_written_after_verification(rig, stick):
    target = FaultyTarget(stick)
    execute(rig, target)
    names = [entry[0] for entry in target.log]
    assert names.index("reread_partition_table") < names.index("drop_caches")
    assert set(names[names.index("drop_caches") + 1 :]) == {"preadinto", "finish"}


def test_a_medium_that_answers_differently_the_second_time(rig, stick, written):
    target = FaultyTarget(stick)
    honest = target.preadinto

    def once_wrong(offset, buffer):
        honest(offset, buffer)
        if target.counts["preadinto"] == 1:
            buffer[100] ^= 1

    target.preadinto = once_wrong
    with pytest.raises(VerifyError, match="right when read again"):
        verify_stick(rig, target, written)


def test_an_unreadable_sector_names_its_extent(rig, stick, written):
    target = FaultyTarget(stick, fail_at(2 * MIB, errno.EIO, call="preadinto"))
    for check in (lambda: content(rig, target), lambda: verify_stick(rig, target, written)):
        with pytest.raises(TargetIOError, match=r"reading back failed at 0x\w+ .*: Input/output"):
            check()


def test_a_target_that_is_too_small(rig, stick, written):
    stick.size -= 512
    for check in (lambda: content(rig, stick), lambda: verify_stick(rig, stick, written)):
        with pytest.raises(VerifyError, match=f"holds {stick.size} bytes, the plan covers"):
            check()


def test_a_source_that_changed_is_not_blamed_on_the_medium(rig, stick, written):
    os.utime(rig.iso_path, ns=(1, 1))
    with pytest.raises(SourceChangedError):
        content(rig, stick)


def test_a_verification_that_fails_says_that_the_stick_is_written(rig, stick):
    target = FaultyTarget(stick)
    honest = target.pwrite

    def lying(offset, buffer):
        if offset == 4 * MIB:  # a bad cell: the write is acknowledged, the bytes are others
            honest(offset, memoryview(bytearray(len(buffer))))
            return len(buffer)
        return honest(offset, buffer)

    target.pwrite = lying
    with pytest.raises(VerifyError, match=r"boot\.wim.* first difference.*do not rely on it"):
        execute(rig, target)


def test_pieces(ram_path, rig):
    """Three pieces: bytes at their borders, one without a written byte, a range over two."""
    builder = ExtentMapBuilder()
    builder.add("MBR", 512, Literal(b"\1" * 512))
    builder.add("free", PIECE_SIZE - MIB - 512, Unwritten())
    builder.add("over the border", 2 * MIB, FileRange("iso", 0))
    builder.pad_to(3 * PIECE_SIZE, "free", Unwritten())
    builder.add("zeros", MIB, Zeros())
    builder.add("end", 512, Literal(b"\2" * 512))
    rig.extents = builder.build()
    rig.commit = ((0, 512), (rig.extents.end - 512, rig.extents.end))
    stick = StickFile(ram_path / "large", rig.extents.end)
    written = write(rig, stick, has_digests=True).digests
    assert [(piece.piece_index, piece.size) for piece in written] == [
        (0, 512 + MIB),
        (1, MIB),
        (3, MIB + 512),
    ]
    verify_stick(rig, stick, written)
    flip(stick, PIECE_SIZE, 1)
    with pytest.raises(VerifyError, match=rf"first difference at {PIECE_SIZE:#x} "):
        verify_stick(rig, stick, written)
    flip(stick, PIECE_SIZE, 1)
    with pytest.raises(VerifyError, match="right when read again"):
        verify_stick(rig, stick, (*written[:-1], written[0]))
    stick.close()
