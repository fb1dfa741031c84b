# SPDX-License-Identifier: GPL-3.0-or-later
"""Disks that hold less than they say: found before the stream, measured to the sector, blank."""

import random

import pytest

from mediamaker.errors import FakeCapacityError, TargetIOError
from mediamaker.execute.progress import Phase, Progress
from mediamaker.extents import ExtentMapBuilder, FileRange, Literal, Unwritten, Zeros
from mediamaker.sources.identity import identify
from tests.execute.engine_rig import KIB, MIB, OLD, FaultyTarget, Rig, StickFile, execute, fail_at

CLAIMED_SIZE = 64 * MIB


@pytest.fixture
def large_rig(ram_path):
    """A disk as ``create`` plans it: tables in the MiB at either end, free clusters between."""
    rng = random.Random(3)
    path = ram_path / "iso"
    path.write_bytes(rng.randbytes(6 * MIB))
    builder = ExtentMapBuilder()
    builder.add("MBR", 512, Literal(rng.randbytes(512)))
    builder.pad_to(MIB, "zeros", Zeros())
    builder.add("FAT 1", 300 * KIB, Literal(rng.randbytes(300 * KIB)))
    builder.add("a.bin", 6 * MIB, FileRange("iso", 0))
    builder.pad_to(CLAIMED_SIZE - MIB, "free clusters", Unwritten())
    builder.pad_to(CLAIMED_SIZE, "zeros at the end", Zeros())
    commit = ((0, MIB), (CLAIMED_SIZE - MIB, CLAIMED_SIZE))
    return Rig(builder.build(), commit, (identify("iso", path),), path)


class WrappingStick(StickFile):
    """Its address wraps at ``real_size``."""

    def __init__(self, path, real_size, sector_size=512):
        super().__init__(path, real_size)
        self.size, self.real_size, self.logical_sector_size = CLAIMED_SIZE, real_size, sector_size

    def pieces(self, offset, buffer):
        while buffer:
            at = offset % self.real_size
            part = min(len(buffer), self.real_size - at)
            yield at, buffer[:part]
            offset, buffer = offset + part, buffer[part:]

    def preadinto(self, offset, buffer):
        for at, part in self.pieces(offset, buffer):
            super().preadinto(at, part)

    def pwrite(self, offset, buffer):
        for at, part in self.pieces(offset, buffer):
            super().pwrite(at, part)
        return len(buffer)


class DroppingStick(WrappingStick):
    """What is past its end is not kept; a cache of the last ``cache_size`` bytes hides it."""

    def __init__(self, path, real_size, beyond=b"\0", cache_size=0):
        super().__init__(path, real_size)
        self.beyond, self.cache_size, self.cache = beyond, cache_size, []

    def preadinto(self, offset, buffer):
        kept = max(0, min(len(buffer), self.real_size - offset))
        if kept:
            StickFile.preadinto(self, offset, buffer[:kept])
        buffer[kept:] = self.beyond * (len(buffer) - kept)
        for at, data in self.cache:
            low, high = max(at, offset), min(at + len(data), offset + len(buffer))
            if low < high:
                buffer[low - offset : high - offset] = data[low - at : high - at]

    def pwrite(self, offset, buffer):
        self.cache.append((offset, bytes(buffer)))
        while sum(len(data) for _, data in self.cache) > self.cache_size:
            self.cache.pop(0)
        kept = max(0, min(len(buffer), self.real_size - offset))
        if kept:
            StickFile.pwrite(self, offset, buffer[:kept])
        return len(buffer)


def check_found(rig, stick, real_size):
    before = stick.path.read_bytes()
    told = []
    with pytest.raises(FakeCapacityError) as caught:
        execute(rig, stick, is_probing=True, on_event=told.append)
    error = caught.value
    assert error.exit_code == 6
    assert (error.claimed_size, error.real_size) == (CLAIMED_SIZE, real_size)
    assert "fake capacity" in error.message
    assert f"holds {real_size / MIB:.3g} MiB" in error.message or f"{real_size:#x}" in error.message
    assert "left blank" in error.message
    assert Phase.WRITE not in {event.phase for event in told if isinstance(event, Progress)}
    after = stick.path.read_bytes()
    assert after[:MIB] == bytes(MIB)
    blanked = {0, *((CLAIMED_SIZE - MIB + n) % real_size for n in range(0, MIB, 512))}
    differing = {
        at for at in range(0, len(after), 512) if after[at : at + 512] != before[at : at + 512]
    }
    assert all(at < MIB or at in blanked for at in differing), "the rest is what it was"


@pytest.mark.parametrize(
    "real_size",
    [32 * MIB, 16 * MIB, 8 * MIB, 21 * MIB + 341 * KIB, 12_345_856, 60 * MIB, 63 * MIB - 512],
)
def test_an_address_that_wraps(large_rig, ram_path, real_size):
    stick = WrappingStick(ram_path / "stick", real_size)
    check_found(large_rig, stick, real_size)
    stick.close()


@pytest.mark.parametrize("beyond", [b"\0", b"\xff", b"\xaa"])
@pytest.mark.parametrize(
    ("real_size", "cache_size"), [(32 * MIB, 0), (12_345_856, 2 * MIB), (63 * MIB + 512, 0)]
)
def test_writes_that_are_dropped(large_rig, ram_path, real_size, cache_size, beyond):
    stick = DroppingStick(ram_path / "stick", real_size, beyond, cache_size)
    check_found(large_rig, stick, real_size)
    stick.close()


def test_4096_byte_sectors(large_rig, ram_path):
    stick = WrappingStick(ram_path / "stick", 20 * MIB, 4096)
    check_found(large_rig, stick, 20 * MIB)
    stick.close()


def test_an_honest_disk_passes_and_what_is_not_written_stays(large_rig, ram_path):
    stick = StickFile(ram_path / "stick", CLAIMED_SIZE)
    target = FaultyTarget(stick)
    result = execute(large_rig, target, is_probing=True)
    assert stick.path.read_bytes() == large_rig.expected()
    assert result.write.probe_bytes_written == 4 * MIB + 2 * 512
    written = [entry[1:] for entry in target.log if entry[0] == "pwrite"]
    runs = list(large_rig.extents.written_runs(0, CLAIMED_SIZE))
    assert all(
        any(start <= at and at + size <= end for start, end in runs) for at, size in written
    ), "marks lie only where the plan writes"


def test_a_disk_full_of_copies_is_not_accused(large_rig, ram_path):
    """All that is on it may be the same everywhere, and even be the marks of an earlier run."""
    stick = StickFile(ram_path / "stick", CLAIMED_SIZE)
    seen = []

    def before(name, number, arguments):
        if name == "drop_caches" and number == 1:
            region = stick.path.read_bytes()[MIB : 5 * MIB]
            with stick.path.open("r+b") as file:
                for at in range(9 * MIB, CLAIMED_SIZE - 4 * MIB, 4 * MIB):
                    file.seek(at)
                    file.write(region)
            seen.append(number)

    execute(large_rig, FaultyTarget(stick, before), is_probing=True)
    assert seen


@pytest.mark.parametrize("offset", [2 * MIB + 1024, CLAIMED_SIZE - 512])
@pytest.mark.parametrize("call", ["pwrite", "preadinto"])
def test_a_bad_sector_in_its_way_is_named(large_rig, ram_path, offset, call):
    stick = StickFile(ram_path / "stick", CLAIMED_SIZE)
    target = FaultyTarget(stick, fail_at(offset, 5, call=call))
    with pytest.raises(TargetIOError, match="failed at") as caught:
        execute(large_rig, target, is_probing=True)
    is_exact = call == "pwrite" or offset > MIB * 60
    assert not is_exact or f"at {offset:#x} (sector {offset // 512})" in caught.value.message
    if is_exact:  # else it is the reading back that fails
        assert stick.path.read_bytes()[:512] == bytes(512)


def test_a_write_of_marks_that_fails_once_is_retried(large_rig, ram_path):
    stick = StickFile(ram_path / "stick", CLAIMED_SIZE)
    left = [1]

    def before(name, number, arguments):
        if name == "pwrite" and arguments[0] == MIB and left[0]:
            left[0] = 0
            raise OSError(5, "Input/output error")

    execute(large_rig, FaultyTarget(stick, before), is_probing=True)
    assert not left[0]
    assert stick.path.read_bytes() == large_rig.expected()


def test_bad_spots_where_nothing_is_written_are_borne(large_rig, ram_path):
    stick = StickFile(ram_path / "stick", CLAIMED_SIZE)

    def before(name, number, arguments):
        if name == "preadinto" and arguments[0] in {13 * MIB, 17 * MIB}:
            raise OSError(5, "Input/output error")

    target = FaultyTarget(stick, before)
    execute(large_rig, target, is_probing=True)
    reads = {entry[1] for entry in target.log if entry[0] == "preadinto"}
    assert reads >= {13 * MIB, 17 * MIB}
    assert stick.path.read_bytes() == large_rig.expected()


def test_a_disk_that_fails_while_it_is_probed_is_left_blank(large_rig, ram_path):
    stick = StickFile(ram_path / "stick", CLAIMED_SIZE)

    def before(name, number, arguments):
        if name == "flush" and number == 2:
            raise OSError(5, "Input/output error")

    with pytest.raises(TargetIOError, match=r"flushing failed.*left blank"):
        execute(large_rig, FaultyTarget(stick, before), is_probing=True)
    found = stick.path.read_bytes()
    assert found[:MIB] == found[-MIB:] == bytes(MIB)
    assert found[8 * MIB : -MIB] == OLD * (CLAIMED_SIZE - 9 * MIB)
