# SPDX-License-Identifier: GPL-3.0-or-later
"""Journals: what is read back is what was claimed, however the file was torn."""

import errno
import json
import os
import random

import pytest

from mediamaker.errors import TargetRefusedError
from mediamaker.execute.journal import (
    JournalHeader,
    JournalSource,
    JournalWriter,
    read_journal,
    remove_journal,
)

MIB = 1 << 20


def make_header(**changed):
    values = {
        "plan_id": "ab" * 32,
        "seed": "my seed \udc80",
        "source": "/isos/Win11.iso",
        "layout": "mbr-fat32",
        "target": "/dev/sdx",
        "size": 64 * MIB,
        "sector_size": 512,
        "written_size": 10 * MIB,
        "sources": (JournalSource("/isos/Win11.iso", 123, 456),),
        "disk": {"serial": "S1", "wwn": None, "size": 64 * MIB},
        "made_at": "2026-11-22T22:00:00+00:00",
        "made_by": "0.1.0",
    }
    return JournalHeader(**{**values, **changed})


def make_journal(path, *ends):
    writer = JournalWriter.create(path, make_header())
    for end in ends:
        writer.record(end)
    writer.close()
    return path.read_bytes()


def test_says_what_it_was_told(tmp_path):
    path = tmp_path / "j"
    make_journal(path, MIB, 3 * MIB)
    journal = read_journal(path)
    assert journal.header == make_header()
    assert journal.end == 3 * MIB
    assert journal.valid_size == path.stat().st_size
    assert path.stat().st_mode & 0o777 == 0o600


def test_none_where_there_is_none(tmp_path):
    assert read_journal(tmp_path / "j") is None
    (tmp_path / "j").write_bytes(b"")
    assert read_journal(tmp_path / "j") is None
    (tmp_path / "j").write_bytes(os.urandom(1000))
    assert read_journal(tmp_path / "j") is None


def test_cut_at_every_byte_it_claims_no_more_than_it_did(tmp_path):
    path = tmp_path / "j"
    data = make_journal(path, MIB, 2 * MIB, 5 * MIB)
    lines = data.splitlines(keepends=True)
    seen = set()
    for size in range(len(data) + 1):
        path.write_bytes(data[:size])
        whole = sum(size >= sum(map(len, lines[:count])) for count in range(1, 5))
        journal = read_journal(path)
        expected = (None, 0, MIB, 2 * MIB, 5 * MIB)[whole]
        assert (journal and journal.end) == expected
        seen.add(expected)
    assert len(seen) == 5


def test_any_flipped_bit_ends_it_there(tmp_path):
    path = tmp_path / "j"
    data = make_journal(path, MIB, 2 * MIB)
    header_size = len(data.splitlines(keepends=True)[0])
    first_size = header_size + len(data.splitlines(keepends=True)[1])
    rng = random.Random(5)
    for position in [*rng.sample(range(header_size), 40), *range(header_size, len(data))]:
        torn = bytearray(data)
        torn[position] ^= 1 << rng.randrange(8)
        path.write_bytes(torn)
        journal = read_journal(path)
        if position < header_size:
            assert journal is None
        else:
            assert journal.end == (0 if position < first_size else MIB)


def test_records_of_an_older_file_behind_a_torn_one_do_not_count(tmp_path):
    path = tmp_path / "j"
    old = make_journal(path, MIB, 40 * MIB).splitlines(keepends=True)
    new = JournalWriter.create(path, make_header(plan_id="cd" * 32))
    new.record(MIB)
    new.close()
    path.write_bytes(path.read_bytes() + old[2])
    assert read_journal(path).end == MIB
    assert read_journal(path).header.plan_id == "cd" * 32


def test_goes_on_behind_what_is_torn(tmp_path):
    path = tmp_path / "j"
    data = make_journal(path, MIB, 2 * MIB)
    path.write_bytes(data[:-5])
    writer = JournalWriter.resume(read_journal(path))
    assert writer.end == MIB
    writer.record(7 * MIB)
    writer.close()
    assert read_journal(path).end == 7 * MIB
    assert json.loads(path.read_bytes().splitlines()[-1].split(b" ", 1)[1]) == {"end": 7 * MIB}


def test_a_claim_can_be_lowered(tmp_path):
    make_journal(tmp_path / "j", 5 * MIB, MIB)
    assert read_journal(tmp_path / "j").end == MIB


@pytest.mark.parametrize("end", [-1, True, 1.5, "1", None, 1 << 80])
def test_nonsense_with_a_right_digest_is_no_claim(tmp_path, end):
    path = tmp_path / "j"
    writer = JournalWriter.create(path, make_header())
    writer.record(MIB)
    writer.record(end)
    writer.close()
    assert read_journal(path).end == MIB


def test_more_than_the_disk_holds_is_nonsense_as_a_whole(tmp_path):
    make_journal(tmp_path / "j", 65 * MIB)
    assert read_journal(tmp_path / "j") is None


def test_only_one_run_at_a_time(tmp_path):
    path = tmp_path / "j"
    writer = JournalWriter.create(path, make_header())
    for again in (
        lambda: JournalWriter.create(path, make_header()),
        lambda: JournalWriter.resume(read_journal(path)),
    ):
        with pytest.raises(TargetRefusedError, match="another mediamaker"):
            again()
    assert not remove_journal(path)
    assert path.exists()
    writer.close()
    assert remove_journal(path)
    assert not path.exists()
    assert remove_journal(path)


def test_no_room_stops_claiming_and_nothing_else(tmp_path):
    writer = JournalWriter.create(tmp_path / "j", make_header())
    writer.record(MIB)
    full = os.open("/dev/full", os.O_WRONLY)
    os.dup2(full, writer._descriptor)
    os.close(full)
    writer.record(2 * MIB)
    assert writer.failure.errno == errno.ENOSPC
    assert writer.end == MIB
    writer.record(3 * MIB)
    assert writer.end == MIB
    writer.close()
    assert read_journal(tmp_path / "j").end == MIB


def test_a_link_is_not_followed(tmp_path):
    victim = tmp_path / "victim"
    victim.write_text("mine")
    (tmp_path / "j").symlink_to(victim)
    with pytest.raises(OSError, match="Too many levels of symbolic links"):
        JournalWriter.create(tmp_path / "j", make_header())
    assert victim.read_text() == "mine"
