# SPDX-License-Identifier: GPL-3.0-or-later
"""A write that fails is tried again, the sector that never takes it is named, all is bounded."""

import errno
import os

import pytest

from mediamaker.errors import TargetIOError
from mediamaker.execute.progress import Notice
from mediamaker.execute.retry import FAILURE_COUNT_MAX
from tests.execute.engine_rig import MIB, FaultyTarget, execute, fail_at


def fail_times(offset, count, number=errno.EIO):
    """A hook: the first ``count`` writes that touch ``offset`` fail."""
    left = [count]

    def before(name, call_number, arguments):
        is_there = name == "pwrite" and arguments[0] <= offset < sum(arguments[:2])
        if is_there and left[0]:
            left[0] -= 1
            raise OSError(number, os.strerror(number))

    return before


def notices(rig, target):
    told = []
    execute(rig, target, on_event=told.append)
    return [event for event in told if isinstance(event, Notice)]


@pytest.mark.parametrize("number", [errno.EIO, errno.ENODATA, errno.ETIMEDOUT])
@pytest.mark.parametrize("offset", [0, 5 * MIB, 20 * MIB - 512])
def test_a_write_that_fails_once_is_told_and_all_is_written(rig, stick, offset, number):
    (notice,) = notices(rig, FaultyTarget(stick, fail_times(offset, 1, number)))
    assert f"failed ({os.strerror(number)}), and went well when it was retried" in notice.message
    assert str(rig.extents.find(offset).name) in notice.message
    assert stick.path.read_bytes() == rig.expected()


@pytest.mark.parametrize("count", [3, 5, 9, 14])
def test_a_sector_that_takes_it_late(rig, stick, count):
    (notice,) = notices(rig, FaultyTarget(stick, fail_times(5 * MIB, count)))
    assert "[0x400000,0x800000)" in notice.message
    assert stick.path.read_bytes() == rig.expected()


@pytest.mark.parametrize("offset", [MIB, 4 * MIB - 512, 5 * MIB + 1024, 6 * MIB])
def test_one_that_never_does_is_named_and_the_rest_before_it_written(rig, stick, offset):
    target = FaultyTarget(stick, fail_at(offset, errno.EIO))
    with pytest.raises(TargetIOError, match=rf"at {offset:#x} \(sector {offset // 512}\)"):
        execute(rig, target)
    start = rig.commit[0][1]
    found = stick.path.read_bytes()
    assert found[start:offset] == rig.expected()[start:offset]
    assert found[:512] == bytes(512)


def test_a_medium_that_fails_now_and_then_is_given_up(rig, stick, monkeypatch):
    """Each failure alone could be borne; so many can't, and each may take half a minute."""
    monkeypatch.setattr("mediamaker.execute.retry.FAILURE_COUNT_MAX", 20)

    def before(name, number, arguments):
        if name == "pwrite" and arguments[1] > 512 and arguments[0] >= MIB:
            raise OSError(errno.EIO, "Input/output error")

    target = FaultyTarget(stick, before)
    with pytest.raises(TargetIOError, match="left blank"):
        execute(rig, target)
    assert stick.path.read_bytes()[:512] == bytes(512)


def test_a_dead_medium_is_not_worried_for_long(rig, stick):
    def before(name, number, arguments):
        if name == "pwrite" and number >= 4:
            raise OSError(errno.EIO, "Input/output error")

    target = FaultyTarget(stick, before)
    with pytest.raises(TargetIOError, match="left blank"):
        execute(rig, target)
    assert target.counts["pwrite"] < 4 + FAILURE_COUNT_MAX


@pytest.mark.parametrize("number", [errno.ENODEV, errno.ENOSPC, errno.EROFS, errno.EFBIG])
def test_what_can_not_pass_is_not_tried_again(rig, stick, number):
    target = FaultyTarget(stick, fail_at(5 * MIB, number))
    with pytest.raises(TargetIOError):
        execute(rig, target)
    writes = [entry[1] for entry in target.log if entry[0] == "pwrite"]
    assert writes.count(4 * MIB) == 1


def test_a_flush_that_fails_is_never_tried_again(rig, stick):
    def before(name, number, arguments):
        if name == "flush" and number == 2:
            raise OSError(errno.EIO, "Input/output error")

    target = FaultyTarget(stick, before)
    with pytest.raises(TargetIOError, match="flushing failed"):
        execute(rig, target)
    assert target.counts["flush"] == 2


def test_a_bad_sector_in_a_table_leaves_the_others_blank(rig, stick):
    rig.commit = ((0, 2048), rig.commit[1])
    target = FaultyTarget(stick, fail_at(512, errno.EIO))
    with pytest.raises(TargetIOError, match=r"could not be blanked \(Input/output error at 0x200"):
        execute(rig, target)
    found = stick.path.read_bytes()
    assert found[:512] == bytes(512)
    assert found[1024:2048] == bytes(1024)
    assert found[rig.commit[1][0] :] == bytes(rig.commit[1][1] - rig.commit[1][0])


def test_what_can_not_be_written_but_is_blank_is_blank(rig, stick):
    """A disk that goes read-only when its tables are blank already."""

    def before(name, number, arguments):
        if name == "pwrite" and ((arguments[0] == 0 and number > 2) or arguments[0] > 19 * MIB):
            raise OSError(errno.EIO, "Input/output error")

    with stick.path.open("r+b") as file:
        file.seek(rig.commit[1][0])
        file.write(bytes(rig.commit[1][1] - rig.commit[1][0]))
    with pytest.raises(TargetIOError, match="left blank"):
        execute(rig, FaultyTarget(stick, before))


def test_a_bad_sector_that_is_blank_is_no_reason_to_say_more(rig, stick):
    """It is blank already; what lies behind it is blanked."""
    start, end = rig.commit[1]
    with stick.path.open("r+b") as file:
        file.seek(start)
        file.write(bytes(512))
    with pytest.raises(TargetIOError, match="left blank"):
        execute(rig, FaultyTarget(stick, fail_at(start, errno.EIO)))
    assert stick.path.read_bytes()[start:end] == bytes(end - start)
