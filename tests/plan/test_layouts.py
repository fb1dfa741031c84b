# SPDX-License-Identifier: GPL-3.0-or-later
"""Whole disks around a volume, judged by sfdisk and sgdisk."""

import subprocess

import pytest

from mediamaker.errors import TargetTooSmallError
from mediamaker.extents import ExtentMapBuilder, FileRange, Literal, Unwritten, Zeros
from mediamaker.plan.geometry import Geometry
from mediamaker.plan.identity import identities_from_seed, read_identities
from mediamaker.plan.layouts import (
    arrange_gpt,
    arrange_mbr,
    arrange_raw,
    disk_size_for,
    partition_slot,
)
from mediamaker.plan.request import Layout
from mediamaker.units import GIB, MIB, TIB

IDS = identities_from_seed("test")


def fake_volume(size):
    """A volume whose VBR tells the serial where a FAT32 one does."""
    vbr = bytearray(512)
    vbr[0x43:0x47] = IDS.volume_serial.to_bytes(4, "little")
    builder = ExtentMapBuilder()
    builder.add("VBR", 512, Literal(bytes(vbr)))
    builder.pad_to(size, "free", Unwritten())
    return builder.build()


def arrange(layout, geometry):
    slot = partition_slot(geometry, layout, volume_size_needed=MIB)
    volume = fake_volume(slot.size)
    if layout is Layout.MBR_FAT32:
        return slot, arrange_mbr(geometry, IDS, slot, volume, b"\xeb\xfe")
    return slot, arrange_gpt(geometry, IDS, slot, volume, "Stick")


def write(extents, path):
    with path.open("wb") as file:
        file.truncate(extents.end)
        for extent in extents:
            if isinstance(extent.source, Literal):
                file.seek(extent.start)
                file.write(extent.source.data)


@pytest.mark.parametrize("layout", [Layout.MBR_FAT32, Layout.GPT_FAT32])
@pytest.mark.parametrize(
    "size", [3 * MIB, 16 * GIB, 16 * GIB - 512, 7_743_995_904, 2 * TIB + 5 * MIB, 9 * TIB]
)
def test_every_disk_is_covered_and_the_judges_are_content(tmp_path, layout, size):
    geometry = Geometry(size)
    slot, arrangement = arrange(layout, geometry)
    assert arrangement.extents.start == 0
    assert arrangement.extents.end == size
    assert slot.start == MIB
    assert slot.end % MIB == 0
    # Both ends, where earlier lives of the disk leave tables and superblocks, are written.
    for start, end in ((0, MIB), (size - MIB, size)):
        kinds = {type(extent.source) for extent in arrangement.extents.within(start, end)}
        assert kinds <= {Zeros, Literal}
    assert arrangement.commit[0] == (0, MIB)
    assert arrangement.commit[-1][1] == size
    path = tmp_path / "disk.img"
    write(arrangement.extents, path)
    found_layout, found = read_identities(lambda at, count: read_at(path, at, count), 512)
    assert found_layout == layout.value
    assert found.volume_serial == IDS.volume_serial
    verify = subprocess.run(
        ["sfdisk", "--verify", path], capture_output=True, text=True, check=False
    )
    assert verify.returncode == 0, verify.stdout + verify.stderr
    if layout is Layout.GPT_FAT32:
        shown = subprocess.run(["sgdisk", "-v", path], capture_output=True, text=True, check=True)
        assert "No problems found" in shown.stdout, shown.stdout
        assert (found.disk_guid, found.partition_guid) == (IDS.disk_guid, IDS.partition_guid)
    else:
        assert found.disk_signature == IDS.disk_signature


def read_at(path, offset, size):
    with path.open("rb") as file:
        file.seek(offset)
        return file.read(size)


@pytest.mark.parametrize("layout", [Layout.MBR_FAT32, Layout.GPT_FAT32])
def test_sectors_of_4096_bytes(layout):
    geometry = Geometry(GIB, 4096)
    _, arrangement = arrange(layout, geometry)
    assert arrangement.extents.end == GIB
    first = next(iter(arrangement.extents))
    assert first.size == 4096
    if layout is Layout.MBR_FAT32:
        assert first.source.data[:2] == b"\0\0", "boot code for 512-byte sectors must not run"


def test_too_small_says_how_much_is_needed():
    with pytest.raises(TargetTooSmallError) as caught:
        partition_slot(Geometry(64 * MIB), Layout.MBR_FAT32, volume_size_needed=63 * MIB - 1)
    assert caught.value.needed_size == disk_size_for(63 * MIB - 1) == 65 * MIB
    assert "65 MiB" in caught.value.message
    slot = partition_slot(Geometry(65 * MIB), Layout.MBR_FAT32, volume_size_needed=63 * MIB)
    assert slot.size == 63 * MIB


def test_raw_copies_the_source_and_covers_the_end():
    arrangement = arrange_raw(Geometry(16 * GIB), "iso", 5 * MIB + 2048)
    sources = [(e.name, e.start, e.end, type(e.source).__name__) for e in arrangement.extents]
    assert sources == [
        ("head of the ISO", 0, MIB, "FileRange"),
        ("rest of the ISO", MIB, 5 * MIB + 2048, "FileRange"),
        ("zeros behind the ISO", 5 * MIB + 2048, 6 * MIB, "Zeros"),
        ("unused", 6 * MIB, 16 * GIB - MIB, "Unwritten"),
        ("zeros at the end", 16 * GIB - MIB, 16 * GIB, "Zeros"),
    ]
    assert arrangement.commit == ((0, MIB), (16 * GIB - MIB, 16 * GIB))
    rest = next(e for e in arrangement.extents if e.name == "rest of the ISO")
    assert rest.source == FileRange("iso", MIB)


@pytest.mark.parametrize("size", [2048, MIB, MIB + 2048, 6 * MIB])
def test_raw_on_a_disk_of_just_that_size(size):
    arrangement = arrange_raw(Geometry(size), "iso", size)
    assert arrangement.extents.end == size
    assert arrangement.extents.written_size == size
    assert arrangement.commit[0][0] == 0
    with pytest.raises(TargetTooSmallError):
        arrange_raw(Geometry(size), "iso", size + 2048)
