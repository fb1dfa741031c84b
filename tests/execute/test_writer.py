# SPDX-License-Identifier: GPL-3.0-or-later
"""The engine's promises about order, interruption and errors, on a stick that is a file."""

import errno
import hashlib
import itertools
import os
import re
import signal
import threading
import time

import pytest

from mediamaker.errors import (
    PlanError,
    SourceChangedError,
    TargetIOError,
    TargetTooSmallError,
)
from mediamaker.execute.steps import FILL_SIZE
from mediamaker.extents import ExtentMap, Zeros
from tests.execute.engine_rig import (
    MIB,
    OLD,
    FaultyTarget,
    StickFile,
    execute,
    fail_at,
    make_rig,
    write,
)


def assert_blank(rig, stick):
    for start, end in rig.commit:
        assert stick.pread(start, end - start) == bytes(end - start)


def assert_no_threads():
    names = [t.name for t in threading.enumerate() if t.name in {"fill", "hash", "flush"}]
    assert names == []


def test_every_written_byte_is_as_planned_and_unwritten_ones_are_left(rig, stick):
    result = write(rig, stick)
    assert stick.path.read_bytes() == rig.expected()
    commit_size = sum(end - start for start, end in rig.commit)
    assert result.bytes_written == rig.extents.written_size + commit_size


@pytest.mark.parametrize("sector_size", [512, 4096])
def test_short_writes_are_continued(ram_path, sector_size):
    rig = make_rig(ram_path, sector_size=sector_size)
    stick = StickFile(ram_path / "stick", rig.extents.end)
    write(rig, FaultyTarget(stick, short_writes=True))
    assert stick.path.read_bytes() == rig.expected()
    stick.close()


def test_order_is_invalidate_flush_stream_flush_commit_flush_sector_0_flush(rig, stick):
    target = FaultyTarget(stick)
    contents = {}

    def before(name, number, arguments):
        if name == "flush":
            contents[number] = stick.path.read_bytes()

    target.before = before
    write(rig, target)
    names = [entry[0] for entry in target.log]
    assert names == ["pwrite"] * 2 + ["flush"] + ["pwrite"] * (len(names) - 8) + [
        "flush",
        "pwrite",
        "flush",
        "pwrite",
        "flush",
    ]
    commit = [(start, end - start) for start, end in rig.commit]
    assert [entry[1:] for entry in target.log[:2]] == commit
    assert [target.log[-4][1:], target.log[-2][1:]] == commit[::-1]
    stream = [entry[1:] for entry in target.log[3:-5]]
    assert all(a + size <= b for (a, size), (b, _) in itertools.pairwise(stream))
    for start, end in rig.commit:
        assert contents[1][start:end] == contents[2][start:end] == bytes(end - start)
    # Everything else is on its way before the commit begins.
    expected = rig.expected()
    first, last = rig.commit
    assert contents[2][first[1] : last[0]] == expected[first[1] : last[0]]
    # And the backup GPT is on the medium before the sector that makes the disk valid.
    assert contents[3][512:] == expected[512:]
    assert contents[3][:512] == bytes(512)


def test_sector_0_is_a_write_of_its_own_and_the_last(rig, stick):
    # As in real plans, the first commit range is more than the MBR.
    rig.commit = ((0, 2048), rig.commit[1])
    target = FaultyTarget(stick)
    write(rig, target)
    writes = [entry[1:] for entry in target.log if entry[0] == "pwrite"]
    assert writes[-2:] == [(512, 1536), (0, 512)]
    assert stick.path.read_bytes() == rig.expected()


def test_out_of_order_writes_are_counted_and_few(rig, stick):
    target = FaultyTarget(stick)
    result = write(rig, target)
    writes = [entry[1:] for entry in target.log if entry[0] == "pwrite"]
    ends = [0] + [offset + size for offset, size in writes]
    jumps = sum(end != offset for end, (offset, _) in zip(ends, writes, strict=False))
    assert result.out_of_order_writes == jumps
    assert jumps < 10
    assert result.forward_skips == 1  # over the free clusters; the rest is (in)validation
    assert max(size for _, size in writes) == FILL_SIZE


def test_digests_are_of_the_finished_disk(ram_path, rig, stick):
    result = write(rig, stick, has_digests=True)
    digest = hashlib.sha256()
    for start, end in rig.extents.written_runs(0, rig.extents.end):
        digest.update(rig.expected()[start:end])
    assert [piece.sha256 for piece in result.digests] == [digest.hexdigest()]
    assert result.digests[0].size == rig.extents.written_size


class TestInterrupted:
    """Whatever happens whenever: the stick is blank."""

    CALL_COUNT = 8  # invalidate 2, stream 4, commit 2

    @pytest.mark.parametrize("kind", [KeyboardInterrupt, OSError])
    @pytest.mark.parametrize("number", range(1, CALL_COUNT + 1))
    def test_at_a_write(self, rig, stick, number, kind):
        def before(name, call_number, arguments):
            if name == "pwrite" and call_number == number:
                # Not one that would be tried again.
                raise OSError(errno.EPERM, "broken") if kind is OSError else kind

        with pytest.raises(TargetIOError if kind is OSError else kind) as caught:
            write(rig, FaultyTarget(stick, before))
        assert_blank(rig, stick)
        assert_no_threads()
        assert "left blank" in "".join(caught.value.__notes__)

    @pytest.mark.parametrize("kind", [KeyboardInterrupt, OSError])
    @pytest.mark.parametrize("number", [1, 2, 3, 4])
    def test_at_a_flush(self, rig, stick, number, kind):
        def before(name, call_number, arguments):
            if name == "flush" and call_number == number:
                raise OSError(errno.EIO, "broken") if kind is OSError else kind

        with pytest.raises(TargetIOError if kind is OSError else kind):
            write(rig, FaultyTarget(stick, before))
        assert_blank(rig, stick)

    def test_the_number_of_writes_above_is_all_of_them(self, rig, stick):
        target = FaultyTarget(stick)
        write(rig, target)
        assert target.counts["pwrite"] == self.CALL_COUNT
        assert target.counts["flush"] == 4

    def test_by_ctrl_c_again_and_again(self, rig, stick):
        """sudo passes SIGINT on, so one Ctrl-C comes twice, even while the disk is blanked."""

        def before(name, call_number, arguments):
            if name == "pwrite" and call_number >= self.CALL_COUNT:
                os.kill(os.getpid(), signal.SIGINT)

        target = FaultyTarget(stick, before, short_writes=True)
        with pytest.raises(KeyboardInterrupt) as caught:
            execute(rig, target)
        assert "left blank" in "".join(caught.value.__notes__)
        with stick.path.open("rb") as file:
            for start, end in rig.commit:
                file.seek(start)
                assert file.read(end - start) == bytes(end - start)
        assert signal.getsignal(signal.SIGINT) is signal.default_int_handler

    def test_by_cancel(self, rig, stick):
        cancel = threading.Event()

        def before(name, number, arguments):
            if name == "pwrite" and number == 4:
                cancel.set()

        with pytest.raises(KeyboardInterrupt):
            write(rig, FaultyTarget(stick, before), cancel=cancel)
        assert_blank(rig, stick)
        assert_no_threads()

    @pytest.mark.parametrize("is_durable", [True, False])
    def test_ctrl_c_is_prompt(self, ram_path, rig, is_durable):
        stick = StickFile(ram_path / "slow", rig.extents.end, is_durable=is_durable)
        times = []

        def before(name, number, arguments):
            if name == "pwrite" and number == 4:
                times.append(time.monotonic())
                os.kill(os.getpid(), signal.SIGINT)
            time.sleep(0.05)

        with pytest.raises(KeyboardInterrupt):
            execute(rig, FaultyTarget(stick, before))
        assert time.monotonic() - times[0] < 1
        assert stick.path.read_bytes()[:512] == bytes(512)
        assert_no_threads()


class TestBadTarget:
    def test_eio_says_where_and_that_the_disk_is_blank(self, rig, stick):
        offset = 5 * MIB
        with pytest.raises(TargetIOError) as caught:
            write(rig, FaultyTarget(stick, fail_at(offset, errno.EIO)))
        message = str(caught.value)
        assert str(stick.path) in message
        assert "at 0x500000 (sector 10240)" in message  # the bad sector itself
        assert '"\\sources\\boot.wim"' in message
        assert "left blank" in message
        assert_blank(rig, stick)

    def test_that_can_not_even_be_blanked(self, rig, stick):
        seen = []

        def before(name, number, arguments):
            if name == "pwrite" and arguments[0] == 0:
                seen.append(number)
                if len(seen) > 2:
                    raise OSError(errno.EIO, "Input/output error")
            if name == "flush" and number == 4:
                raise OSError(errno.EIO, "Input/output error")

        with pytest.raises(TargetIOError, match=r"could not be blanked \(Input/output error at"):
            write(rig, FaultyTarget(stick, before))
        # The other commit range was tried in spite of it.
        start, end = rig.commit[1]
        assert stick.pread(start, end - start) == bytes(end - start)

    @pytest.mark.parametrize("number", [errno.ENODEV, errno.ENXIO, errno.ENOMEDIUM])
    def test_that_vanishes(self, rig, stick, number):
        with pytest.raises(TargetIOError, match="vanished while writing at 0x400000"):
            write(rig, FaultyTarget(stick, fail_at(5 * MIB, number)))

    def test_whose_node_is_gone_after_an_eio(self, rig, stick):
        target = FaultyTarget(stick, fail_at(5 * MIB, errno.EIO))
        target.is_present = lambda: False
        with pytest.raises(TargetIOError, match="vanished"):
            write(rig, target)

    def test_that_writes_nothing(self, rig, stick):
        target = FaultyTarget(stick)
        target.pwrite = lambda *_: 0
        with pytest.raises(TargetIOError, match="wrote nothing"):
            write(rig, target)

    def test_that_is_too_small(self, rig, stick):
        stick.size = rig.extents.end - 512
        with pytest.raises(TargetTooSmallError) as caught:
            write(rig, stick)
        assert caught.value.needed_size == rig.extents.end
        assert stick.path.read_bytes() == OLD * rig.extents.end

    def test_background_flush_that_fails(self, ram_path, monkeypatch):
        monkeypatch.setattr("mediamaker.execute.flusher.WINDOW_SIZE_FIRST", 4 * MIB)
        rig = make_rig(ram_path)
        stick = StickFile(ram_path / "stick", rig.extents.end, is_durable=False)

        def before(name, number, arguments):
            if name == "flush_data":
                raise OSError(errno.EIO, os.strerror(errno.EIO))

        # The answer may come after the last write; then it must be the final flush that tells.
        with pytest.raises(TargetIOError, match="flushing failed: Input/output error"):
            write(rig, FaultyTarget(stick, before))
        assert_blank(rig, stick)
        assert_no_threads()
        stick.close()


class TestChangingSource:
    def test_touched_while_writing(self, rig, stick):
        def before(name, number, arguments):
            if name == "pwrite" and number == 5:
                os.utime(rig.iso_path, ns=(1, 1))

        with pytest.raises(SourceChangedError, match=r"modification time.*left blank"):
            write(rig, FaultyTarget(stick, before))
        assert_blank(rig, stick)

    def test_touched_after_the_last_read(self, rig, stick):
        def before(name, number, arguments):
            if name == "flush" and number == 2:
                os.utime(rig.iso_path, ns=(1, 1))

        with pytest.raises(SourceChangedError):
            write(rig, FaultyTarget(stick, before))
        assert_blank(rig, stick)

    def test_shrunk_before_it_is_read(self, rig, stick):
        os.truncate(rig.iso_path, 3 * MIB)
        with pytest.raises(SourceChangedError, match="left blank"):
            write(rig, stick)
        assert_blank(rig, stick)


class TestBadCommit:
    @pytest.mark.parametrize(
        ("commit", "message"),
        [
            (((0, 100),), "not whole sectors of 512"),
            (((512, 512),), "empty"),
            (((512, 1024), (0, 512)), "out of order"),
            (((0, 1024), (512, 2048)), "out of order"),
            (((20 * MIB, 20 * MIB + 512),), "not within"),
            (((16 * MIB, 16 * MIB + 512),), "does not write"),
        ],
    )
    def test_is_refused_before_anything_is_written(self, rig, stick, commit, message):
        rig.commit = commit
        with pytest.raises(PlanError, match=re.escape(message)):
            write(rig, stick)
        assert stick.path.read_bytes() == OLD * rig.extents.end

    def test_too_much_to_hold(self, rig, ram_path):
        size = 17 * MIB
        stick = StickFile(ram_path / "big", size)
        extents = list(rig.extents)[:1]
        rig.extents = ExtentMap(
            (*extents, type(extents[0])(512, size - 512, "zeros", Zeros())), start=0
        )
        rig.commit = ((0, size),)
        with pytest.raises(PlanError, match="over the limit"):
            write(rig, stick)
        stick.close()
