# SPDX-License-Identifier: GPL-3.0-or-later
"""A write that goes on gives the bytes of one that was never interrupted."""

import errno
import os
import random

import pytest

from mediamaker.errors import TargetIOError, TargetRefusedError, UsageError, VerifyError
from mediamaker.execute.create import execute_plan
from mediamaker.execute.journal import JournalHeader, JournalWriter, read_journal
from mediamaker.execute.progress import Notice
from mediamaker.execute.resume import check_claim
from mediamaker.extents import ExtentMapBuilder, FileRange, Literal, Unwritten, Zeros
from mediamaker.sources.identity import identify
from tests.execute.engine_rig import (
    MIB,
    FaultyTarget,
    Rig,
    StickFile,
    make_meter,
    make_rig,
)

HEADER = JournalHeader(
    plan_id="0" * 64,
    seed="s",
    source="iso",
    layout="mbr-fat32",
    target="stick",
    size=60 * MIB,
    sector_size=512,
    written_size=1,
    sources=(),
    disk={},
    made_at="",
    made_by="",
)


@pytest.fixture(autouse=True)
def _claims_every_4_mib(monkeypatch):
    monkeypatch.setattr("mediamaker.execute.flusher.WINDOW_SIZE_FIRST", 4 * MIB)
    monkeypatch.setattr("mediamaker.execute.flusher.WINDOW_SIZE_MAX", 4 * MIB)


def make_long_rig(folder):
    """A disk of 60 MiB with some fifteen writes."""
    iso_path = folder / "long.iso"
    iso_path.write_bytes(random.Random(3).randbytes(14 * MIB))
    builder = ExtentMapBuilder()
    builder.add("MBR", 512, Literal(b"M" * 512))
    builder.pad_to(MIB, "gap", Zeros())
    for number in range(4):
        builder.add(f"\\{number}.wim", 14 * MIB, FileRange("iso", 0))
    builder.pad_to(59 * MIB, "free clusters", Unwritten())
    builder.pad_to(60 * MIB, "end", Zeros())
    return Rig(
        extents=builder.build(),
        commit=((0, 512), (59 * MIB, 60 * MIB)),
        files=(identify("iso", iso_path),),
        iso_path=iso_path,
    )


@pytest.fixture(params=[True, False], ids=["durable", "cached"])
def durable(request):
    return request.param


@pytest.fixture
def long_rig(ram_path):
    return make_long_rig(ram_path)


@pytest.fixture
def long_stick(ram_path, long_rig, durable):
    stick = StickFile(ram_path / "long stick", long_rig.extents.end, is_durable=durable)
    yield stick
    stick.close()


@pytest.fixture
def stick(ram_path, rig, durable):
    stick = StickFile(ram_path / "stick", rig.extents.end, is_durable=durable)
    yield stick
    stick.close()


def reopen(stick):
    """The stick after it was let go of; its bytes are as they were left."""
    again = StickFile.__new__(StickFile)
    again.__dict__.update(stick.__dict__, closed=False, _descriptor=os.open(stick.path, os.O_RDWR))
    return again


def run(rig, target, path, **options):
    """One run, going on with the journal that is there."""
    found = read_journal(path)
    journal = JournalWriter.create(path, HEADER) if not found else JournalWriter.resume(found)
    claimed = journal.end
    try:
        with rig.reader() as reader:
            execute_plan(
                extents=rig.extents,
                commit=rig.commit,
                plan_id="0" * 64,
                reader=reader,
                target=target,
                journal=journal,
                **options,
            )
    finally:
        journal.close()
    return claimed


def break_at(number):
    """From the write of this number on nothing works any more, as after SIGKILL or an unplug."""

    def before(name, _, __):
        if name in {"abort", "finish"}:
            return
        if counts["dead"] or (name == "pwrite" and counts["left"] == 0):
            counts["dead"] = True
            raise OSError(errno.ENODEV, "gone")
        counts["left"] -= name == "pwrite"

    counts = {"left": number, "dead": False}
    return before


def assert_half(rig, content):
    """Sector 0 is blank or was never reached, so it is not valid."""
    assert content[:512] != rig.expected()[:512]


class TestInterrupted:
    @pytest.mark.parametrize("number", range(1, 8))
    def test_once_at_each_write(self, rig, stick, tmp_path, number):
        with pytest.raises(TargetIOError):
            run(rig, FaultyTarget(stick, break_at(number)), tmp_path / "j")
        assert_half(rig, stick.path.read_bytes())
        run(rig, reopen(stick), tmp_path / "j")
        assert stick.path.read_bytes() == rig.expected()
        assert not (tmp_path / "j").exists()

    def test_again_and_again_and_each_time_further(self, long_rig, long_stick, tmp_path):
        rig, stick = long_rig, long_stick
        rng = random.Random(4)
        claims = []
        for _ in range(4):
            with pytest.raises(TargetIOError):
                run(
                    rig,
                    FaultyTarget(reopen(stick), break_at(rng.randrange(4, 7))),
                    tmp_path / "j",
                )
            assert_half(rig, stick.path.read_bytes())
            claims.append(read_journal(tmp_path / "j").end)
        assert claims == sorted(claims)
        assert 4 * MIB <= claims[-1] < 60 * MIB
        assert run(rig, reopen(stick), tmp_path / "j") == claims[-1]
        assert stick.path.read_bytes() == rig.expected()
        assert not (tmp_path / "j").exists()

    def test_what_is_claimed_is_not_written_again(self, long_rig, long_stick, tmp_path):
        with pytest.raises(TargetIOError):
            run(long_rig, FaultyTarget(long_stick, break_at(11)), tmp_path / "j")
        claimed = read_journal(tmp_path / "j").end
        assert claimed >= 12 * MIB
        target = FaultyTarget(reopen(long_stick))
        run(long_rig, target, tmp_path / "j")
        writes = [entry[1:] for entry in target.log if entry[0] == "pwrite"]
        in_commit = [run for run in writes if run[0] == 0 or run[0] >= 59 * MIB]
        assert len(in_commit) == 4
        assert min(offset for offset, _ in writes if 0 < offset < 59 * MIB) == claimed

    def test_everything_was_written_but_the_commit(self, rig, stick, tmp_path):
        def before(name, number, arguments):
            if name == "flush" and number == 3:  # the commit's first
                before.dead = True
            if before.dead and name in {"flush", "pwrite"}:
                raise OSError(errno.EIO, "broken")

        before.dead = False
        with pytest.raises(TargetIOError):
            run(rig, FaultyTarget(stick, before), tmp_path / "j")
        assert read_journal(tmp_path / "j").end == rig.extents.end
        run(rig, reopen(stick), tmp_path / "j")
        assert stick.path.read_bytes() == rig.expected()

    def test_with_a_torn_journal(self, rig, stick, tmp_path):
        with pytest.raises(TargetIOError):
            run(rig, FaultyTarget(stick, break_at(7)), tmp_path / "j")
        data = (tmp_path / "j").read_bytes()
        (tmp_path / "j").write_bytes(data[:-3])
        run(rig, reopen(stick), tmp_path / "j")
        assert stick.path.read_bytes() == rig.expected()

    def test_receipts_have_the_digests_of_an_uninterrupted_run(self, rig, stick, tmp_path):
        with rig.reader() as reader:
            whole = execute_plan(
                extents=rig.extents,
                commit=rig.commit,
                plan_id="0" * 64,
                reader=reader,
                target=reopen(stick),
                has_digests=True,
            )
        with pytest.raises(TargetIOError):
            run(rig, FaultyTarget(reopen(stick), break_at(7)), tmp_path / "j")
        journal = JournalWriter.resume(read_journal(tmp_path / "j"))
        assert journal.end
        with rig.reader() as reader:
            result = execute_plan(
                extents=rig.extents,
                commit=rig.commit,
                plan_id="0" * 64,
                reader=reader,
                target=reopen(stick),
                has_digests=True,
                journal=journal,
            )
        assert result.digests == whole.digests


class TestBeforeItGoesOn:
    @pytest.fixture
    def rig(self, long_rig):
        return long_rig

    @pytest.fixture
    def left(self, rig, long_stick, tmp_path):
        """A stick on which some 40 MiB are claimed."""
        with pytest.raises(TargetIOError):
            run(rig, FaultyTarget(long_stick, break_at(14)), tmp_path / "j")
        return long_stick

    def change(self, stick, offset, data):
        with stick.path.open("r+b") as file:
            file.seek(offset)
            file.write(data)

    @pytest.mark.parametrize("offset", [0, 60 * MIB - 512])
    def test_a_table_was_made_since(self, rig, left, tmp_path, offset):
        self.change(left, offset, b"NEW TABLE")
        content = left.path.read_bytes()
        target = reopen(left)
        with pytest.raises(TargetRefusedError, match="neither blank nor planned"):
            run(rig, target, tmp_path / "j")
        assert left.path.read_bytes() == content
        assert target.closed

    def check(self, rig, stick, path, *, tail_size):
        events = []
        with rig.reader() as reader:
            journal = JournalWriter.resume(read_journal(path))
            try:
                check_claim(
                    extents=rig.extents,
                    commit=rig.commit,
                    reader=reader,
                    target=reopen(stick),
                    journal=journal,
                    meter=make_meter(),
                    on_event=events.append,
                    tail_size=tail_size,
                )
            finally:
                journal.close()
        return journal.end, [event for event in events if isinstance(event, Notice)]

    def test_all_is_well(self, rig, left, tmp_path):
        claimed = read_journal(tmp_path / "j").end
        assert self.check(rig, left, tmp_path / "j", tail_size=MIB) == (claimed, [])

    def test_the_beginning_was_written_to(self, rig, left, tmp_path):
        self.change(left, MIB, b"another volume")
        with pytest.raises(TargetRefusedError, match=r"another disk") as caught:
            self.check(rig, left, tmp_path / "j", tail_size=MIB)
        assert "0.wim" in caught.value.message

    def test_a_flush_was_a_lie(self, rig, left, tmp_path):
        claimed = read_journal(tmp_path / "j").end
        self.change(left, claimed - 4096, b"\xaa" * 4096)
        end, notices = self.check(rig, left, tmp_path / "j", tail_size=MIB)
        assert end == claimed - 4 * MIB
        assert len(notices) == 1
        assert read_journal(tmp_path / "j").end == end
        run(rig, reopen(left), tmp_path / "j")
        assert left.path.read_bytes() == rig.expected()

    def test_a_change_that_no_look_meets_is_found_in_the_end(self, rig, left, tmp_path):
        with rig.reader() as reader:
            journal = JournalWriter.resume(read_journal(tmp_path / "j"))
            target = FaultyTarget(reopen(left))

            def before(name, number, arguments):
                if name == "pwrite" and number == 1:
                    self.change(left, 5 * MIB, b"\xaa" * 512)

            target.before = before
            with pytest.raises(VerifyError):
                execute_plan(
                    extents=rig.extents,
                    commit=rig.commit,
                    plan_id="0" * 64,
                    reader=reader,
                    target=target,
                    journal=journal,
                )
        assert not (tmp_path / "j").exists(), "its claims were wrong"

    def test_unverified_it_may_not_go_on(self, rig, left, tmp_path):
        content = left.path.read_bytes()
        with pytest.raises(UsageError, match="always read back"):
            run(rig, reopen(left), tmp_path / "j", is_verifying=False)
        assert left.path.read_bytes() == content


@pytest.mark.parametrize("sector_size", [512, 4096])
def test_other_disks(ram_path, tmp_path, sector_size):
    rig = make_rig(ram_path, sector_size=sector_size, seed=7)
    stick = StickFile(ram_path / "stick", rig.extents.end)
    stick.logical_sector_size = sector_size
    with pytest.raises(TargetIOError):
        run(rig, FaultyTarget(stick, break_at(6)), tmp_path / "j")
    assert read_journal(tmp_path / "j").end
    run(rig, reopen(stick), tmp_path / "j")
    assert stick.path.read_bytes() == rig.expected()
