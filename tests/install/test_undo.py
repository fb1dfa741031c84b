# SPDX-License-Identifier: GPL-3.0-or-later
"""Whatever moment the power goes: the old bytes, or the undo file brings them back."""

import hashlib
import json
import os
import random
import subprocess
import threading
import time
from dataclasses import replace

import pytest

from mediamaker.errors import FormatError, TargetIOError, TargetRefusedError, UsageError
from mediamaker.execute.progress import ProgressMeter, ignore_event
from mediamaker.install.changes import Change, Region, Step, find_changes, write_changes
from mediamaker.install.disk_file import ImageFile, identify
from mediamaker.install.overlay_store import OverlayStore
from mediamaker.install.undo import (
    UndoFile,
    apply_undo,
    check_same_target,
    check_undo_place,
    compare_with_undo,
    write_undo,
)

SIZE = 2 << 20
SECTOR = 512
REGIONS = (
    Region(0, 64 * SECTOR, "table", Step.TABLE),
    Region(64 * SECTOR, 1 << 20, "boot", Step.BOOT_STORE),
    Region(1 << 20, SIZE, "windows", Step.FILE_SYSTEM, is_free=lambda offset: offset >= 3 << 19),
)


class PowerCutError(BaseException):
    """Nothing may catch it, as nothing runs on after the power went."""


class FailingDisk(ImageFile):
    """A disk that does ``writes_left`` writes, then a part of one, then no more."""

    writes_left = 1 << 30
    torn_sectors = 0

    def pwrite(self, offset, buffer):
        if self.writes_left == 0:
            super().pwrite(offset, buffer[: self.torn_sectors * SECTOR])
            raise PowerCutError
        self.writes_left -= 1
        return super().pwrite(offset, buffer)


def meter():
    return ProgressMeter(ignore_event, time.monotonic)


@pytest.fixture
def rig(tmp_path):
    """A disk, an overlay of it with changes everywhere, and the undo file of those."""
    return Rig(tmp_path)


class Rig:
    def __init__(self, tmp_path):
        self.path = tmp_path / "disk.img"
        chance = random.Random(11)
        self.old = chance.randbytes(SIZE)
        self.path.write_bytes(self.old)
        self.base = os.open(self.path, os.O_RDONLY)
        copy = tmp_path / "copy.img"
        copy.write_bytes(self.old)
        flags = os.O_RDWR | os.O_CREAT
        self.store = OverlayStore(
            os.open(copy, os.O_RDONLY),
            os.open(tmp_path / "side", flags),
            os.open(tmp_path / "map", flags),
            SIZE,
        )
        for _ in range(24):
            offset = chance.randrange(SIZE - 5000)
            self.store.pwrite(offset, chance.randbytes(chance.choice([1, 512, 5000])))
        self.store.pwrite(1 << 20, bytes(200 << 10))
        self.store.pwrite(700, b"table")
        self.new = self.store.pread(0, SIZE)
        self.changes = find_changes(self.store, REGIONS, sector_size=SECTOR)
        self.undo_path = tmp_path / "disk.undo"
        self.identity = identify(self.path, size=SIZE, sector_size=SECTOR)
        self.header = write_undo(
            self.undo_path,
            self.changes,
            self.store.pread_old,
            self.store.pread,
            what="test",
            made_at="2026-01-01T00:00:00Z",
            made_by="test",
            target=str(self.path),
            identity=self.identity,
        )

    def open(self, *, writable=True):
        return FailingDisk.open(self.path, sector_size=SECTOR, writable=writable)

    def write(self, disk):
        write_changes(self.changes, self.store.pread, disk, meter=meter())

    def undo(self, disk, **options):
        with UndoFile(self.undo_path) as undo:
            return apply_undo(undo, disk, meter=meter(), **options)


def test_changes_are_written_in_the_order_of_safety(rig):
    steps = [change.step for change in rig.changes]
    assert steps == sorted(steps)
    assert {Step.FREE_SPACE, Step.FILE_SYSTEM, Step.BOOT_STORE, Step.TABLE} == set(steps)
    for change in rig.changes:
        is_free = change.offset >= 3 << 19
        assert (change.step == Step.FREE_SPACE) == is_free


def test_there_and_back(rig):
    with rig.open() as disk:
        rig.write(disk)
        assert rig.path.read_bytes() == rig.new
        result = rig.undo(disk)
        assert result.restored_size > 0
        assert rig.path.read_bytes() == rig.old
        again = rig.undo(disk)
    assert again.restored_size == 0
    assert rig.path.read_bytes() == rig.old


@pytest.mark.parametrize("torn_sectors", [0, 1])
def test_the_power_goes_at_every_write(rig, torn_sectors):
    with rig.open() as disk:
        rig.write(disk)
        write_count = (1 << 30) - disk.writes_left
    rig.path.write_bytes(rig.old)
    assert write_count > 20
    for count in range(write_count):
        with rig.open() as disk:
            disk.writes_left, disk.torn_sectors = count, torn_sectors
            with pytest.raises(PowerCutError):
                rig.write(disk)
        after_cut = rig.path.read_bytes()
        changed = count > 0 or torn_sectors > 0
        assert (after_cut != rig.old) == changed
        with rig.open() as disk:
            rig.undo(disk)
        assert rig.path.read_bytes() == rig.old, f"after {count} writes"


def test_the_power_goes_at_every_write_of_the_undo(rig):
    with rig.open() as disk:
        rig.write(disk)
    count = 0
    while True:
        rig.path.write_bytes(rig.new)
        with rig.open() as disk:
            disk.writes_left, disk.torn_sectors = count, 1
            try:
                rig.undo(disk)
                break
            except PowerCutError:
                count += 1
        with rig.open() as disk:
            rig.undo(disk)
        assert rig.path.read_bytes() == rig.old
    assert count > 5


def test_what_the_free_space_step_wrote_is_in_nothing_that_was_used(rig):
    free_count = sum(change.step == Step.FREE_SPACE for change in rig.changes)
    with rig.open() as disk:
        disk.writes_left = free_count
        with pytest.raises(PowerCutError):
            rig.write(disk)
    assert rig.path.read_bytes()[: 3 << 19] == rig.old[: 3 << 19]


def test_a_disk_that_was_used_since_is_refused(rig):
    with rig.open() as disk:
        rig.write(disk)
    offset = rig.changes[-1].offset
    with rig.path.open("r+b") as file:
        file.seek(offset)
        file.write(b"Windows was here")
    before = rig.path.read_bytes()
    with rig.open() as disk, pytest.raises(TargetRefusedError, match="1 sectors hold neither"):
        rig.undo(disk)
    assert rig.path.read_bytes() == before
    # Who knows that the disk did that by itself may insist.
    with rig.open() as disk:
        rig.undo(disk, is_forced=True)
    assert rig.path.read_bytes() == rig.old


def test_another_disk_is_refused(rig, tmp_path):
    other = tmp_path / "other.img"
    other.write_bytes(random.Random(5).randbytes(SIZE))
    before = other.read_bytes()
    with (
        ImageFile.open(other, sector_size=SECTOR, writable=True) as disk,
        pytest.raises(TargetRefusedError, match="another"),
    ):
        rig.undo(disk)
    assert other.read_bytes() == before
    with UndoFile(rig.undo_path) as undo:
        state = compare_with_undo(undo, rig.open(writable=False))
        assert state.new_sectors == state.foreign_sectors == 0
        smaller = replace(rig.identity, size=SIZE - SECTOR)
        with pytest.raises(TargetRefusedError, match="size"):
            check_same_target(undo.header, smaller, name="x")
        device = replace(rig.identity, is_device=True, serial="A")
        check_same_target(undo.header, device, name="x")
        header = replace(undo.header, identity=device)
        with pytest.raises(TargetRefusedError, match="serial: expected A, found B"):
            check_same_target(header, replace(device, serial="B"), name="x")


def test_every_damaged_byte_of_the_file_is_noticed(rig, tmp_path):
    data = rig.undo_path.read_bytes()
    header = rig.header
    spots = [0, 20, 200, header.data_offset + 5, header.digests_offset + 5, len(data) - 1]
    damaged = tmp_path / "damaged.undo"
    for spot in spots:
        changed = bytearray(data)
        changed[spot] ^= 1
        damaged.write_bytes(changed)
        with pytest.raises(FormatError, match=r"damaged\.undo"):
            UndoFile(damaged)
    for size in (0, 10, 300, header.data_offset + 100, len(data) - 1):
        damaged.write_bytes(data[:size])
        with pytest.raises(FormatError, match=r"damaged\.undo"):
            UndoFile(damaged)
    with pytest.raises(UsageError):
        UndoFile(tmp_path / "missing")


@pytest.mark.parametrize(
    "change",
    [
        {"version": 2},
        {"data_offset": "x"},
        {"data_offset": -1},
        {"data_size": 1},
        {"digests_size": 0},
        {"what": 5},
        {"ranges": 5},
        {"ranges": [[1, 2, 3]]},
        {"ranges": [[0, 511, 1, "x"]]},
        {"ranges": [[-512, 512, 1, "x"]]},
        {"ranges": [[SIZE, 512, 1, "x"]]},
        {"ranges": [[0, 512, 9, "x"]]},
        {"ranges": [["a", "b", "c", "d"]]},
        {"identity": {}},
        {"identity": {"is_device": False, "size": "x", "sector_size": 512}},
        {"identity": {"is_device": False, "size": SIZE, "sector_size": 0}},
        None,
    ],
)
def test_a_header_that_makes_no_sense_is_refused(rig, tmp_path, change):
    """With a digest that is right: somebody made it so."""
    _, line, _ = rig.undo_path.read_bytes().split(b"\n", 2)
    document = json.loads(line) | change if change is not None else []
    line = json.dumps(document).encode() + b"\n"
    made = tmp_path / "made.undo"
    digest = hashlib.sha256(line).hexdigest().encode()
    made.write_bytes(b"mediamaker-undo 1\n" + line + digest + b"\n" + bytes(100_000))
    with pytest.raises(FormatError, match=r"made\.undo"):
        UndoFile(made)


def test_the_file_is_as_documented(rig):
    """Read by hand, as the docstring says, without a line of ours."""
    data = rig.undo_path.read_bytes()
    first, line, digest, _ = data.split(b"\n", 3)
    assert first == b"mediamaker-undo 1"
    assert hashlib.sha256(line + b"\n").hexdigest().encode() == digest
    header = json.loads(line)
    at = header["data_offset"]
    assert at % 4096 == 0
    digests_at = header["digests_offset"]
    for offset, size, _step, _name in header["ranges"]:
        assert data[at : at + size] == rig.old[offset : offset + size]
        for sector in range(offset, offset + size, SECTOR):
            expected = hashlib.blake2b(rig.new[sector : sector + SECTOR], digest_size=8).digest()
            assert data[digests_at : digests_at + 8] == expected
            digests_at += 8
        at += size
    assert digests_at == len(data)
    assert rig.undo_path.stat().st_mode & 0o077 == 0, "it holds what was on the disk"


def test_a_name_that_is_taken_is_refused(rig, tmp_path):
    with pytest.raises(UsageError, match="already"):
        check_undo_place(rig.undo_path, rig.path)
    with pytest.raises(UsageError, match="folder"):
        check_undo_place(tmp_path / "no" / "x", rig.path)
    check_undo_place(tmp_path / "new.undo", rig.path)


def test_no_room_for_the_file_is_told_and_leaves_nothing(rig, tmp_path):
    place = tmp_path / "small"
    place.mkdir()
    subprocess.run(["mount", "-t", "tmpfs", "-o", "size=8k", "tmpfs", place], check=True)
    try:
        with pytest.raises(TargetIOError, match=r"--undo .*No space left.*is as it was") as caught:
            write_undo(
                place / "undo",
                rig.changes,
                rig.store.pread_old,
                rig.store.pread,
                what="test",
                made_at="now",
                made_by="test",
                target="x",
                identity=rig.identity,
            )
        assert "--undo" in caught.value.hint
        assert list(place.iterdir()) == []
    finally:
        subprocess.run(["umount", place], check=True)


def test_a_failing_disk_is_told_and_named(rig):
    class Broken(FailingDisk):
        def pwrite(self, _offset, _buffer):
            raise OSError(5, "Input/output error")

    with (
        Broken.open(rig.path, sector_size=SECTOR, writable=True) as disk,
        pytest.raises(TargetIOError, match=r'writing "windows"') as caught,
    ):
        rig.write(disk)
    assert "undo" in caught.value.hint


def test_one_writer_at_a_time(rig):
    with rig.open(), pytest.raises(TargetRefusedError, match="locked"):
        rig.open()
    assert Change(0, 512, "x", Step.TABLE).end == 512


def test_ctrl_c_says_what_is_left_and_undo_restores(rig):
    cancel = threading.Event()

    class Interrupting(FailingDisk):
        def pwrite(self, offset, buffer):
            cancel.set()
            return super().pwrite(offset, buffer)

    with Interrupting.open(rig.path, sector_size=SECTOR, writable=True) as disk:
        with pytest.raises(KeyboardInterrupt) as caught:
            write_changes(rig.changes, rig.store.pread, disk, meter=meter(), cancel=cancel)
        assert "undo" in caught.value.__notes__[0]
        assert rig.path.read_bytes() != rig.old
        rig.undo(disk)
    assert rig.path.read_bytes() == rig.old
