# SPDX-License-Identifier: GPL-3.0-or-later
"""FAT records against values worked out by hand from fatgen103, and against what mtools writes."""

import contextlib
import datetime
import os
import subprocess

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mediamaker.errors import FormatError
from mediamaker.formats.fat import (
    ATTR_ARCHIVE,
    DirectoryEntry,
    Fat32BootSector,
    FatTimestamp,
    FsInfo,
    LongNameEntry,
    compute_short_name_checksum,
    count_long_name_entries,
    encode_timestamp,
    pack_directory_entry,
    pack_long_name,
    parse_fat32_boot_sector,
)
from mediamaker.formats.record import pack_record, parse_record, record_size

BOOT = Fat32BootSector(
    bytes_per_sector=512,
    sectors_per_cluster=8,
    reserved_sectors=0x0422,
    hidden_sectors=0x00000800,
    total_sectors=0x01DCF000,
    fat_sectors=0x00003BEF,
    volume_serial=0xA1B2C3D4,
    volume_label=b"WINDOWS    ",
    boot_code=bytes(420),
)


def test_boot_sector_is_laid_out_as_the_specification_says():
    data = pack_record(BOOT)
    assert len(data) == 512
    assert data[:0x5A].hex(" ") == (
        "eb 58 90 4d 53 44 4f 53 35 2e 30 "  # jump, MSDOS5.0
        "00 02 08 22 04 02 00 00 00 00 f8 00 00 3f 00 ff 00 "  # up to heads
        "00 08 00 00 00 f0 dc 01 ef 3b 00 00 00 00 00 00 02 00 00 00 "  # up to the root cluster
        "01 00 06 00 00 00 00 00 00 00 00 00 00 00 00 00 "  # FSInfo, backup, reserved
        "80 00 29 d4 c3 b2 a1 "
        "57 49 4e 44 4f 57 53 20 20 20 20 46 41 54 33 32 20 20 20"
    )
    assert data[510:] == b"\x55\xaa"


def test_fsinfo_signatures_and_fields_are_where_the_specification_says():
    data = pack_record(FsInfo(free_cluster_count=0x01020304, next_free_cluster=0x0A0B0C0D))
    assert data[:4] == b"RRaA"
    assert data[484:488] == b"rrAa"
    assert data[488:496].hex() == "040302010d0c0b0a"
    assert data[508:] == b"\x00\x00\x55\xaa"
    assert not any(data[4:484])
    assert not any(data[496:508])


def test_directory_entry_is_laid_out_as_the_specification_says():
    data = pack_directory_entry(
        b"BOOTMGR    ",
        ATTR_ARCHIVE,
        first_cluster=0x0123_4567,
        modified=FatTimestamp(date=0x58A6, time=0x3904, centiseconds=137),
        size=0x00064FC2,
        case_flags=0x08,
    )
    assert data.hex(" ") == (
        "42 4f 4f 54 4d 47 52 20 20 20 20 20 08 89 04 39 a6 58 a6 58 "
        "23 01 04 39 a6 58 67 45 c2 4f 06 00"
    )


@pytest.mark.parametrize(
    ("when", "expected"),
    [
        # 2024: 44 << 9 | 5 << 5 | 6; 7 << 11 | 8 << 5 | 9 >> 1; one odd second and 0.37 s
        ((2024, 5, 6, 7, 8, 9, 370_000), FatTimestamp(0x58A6, 0x3904, 137)),
        ((1980, 1, 1, 0, 0, 0, 0), FatTimestamp(0x0021, 0x0000, 0)),
        ((2107, 12, 31, 23, 59, 59, 999_999), FatTimestamp(0xFF9F, 0xBF7D, 199)),
        # outside the range it is clamped to it
        ((1979, 12, 31, 23, 59, 59, 0), FatTimestamp(0x0021, 0x0000, 0)),
        ((1969, 12, 31, 0, 0, 0, 0), FatTimestamp(0x0021, 0x0000, 0)),
        ((2108, 1, 1, 0, 0, 0, 0), FatTimestamp(0xFF9F, 0xBF7D, 199)),
        ((9999, 1, 1, 0, 0, 0, 0), FatTimestamp(0xFF9F, 0xBF7D, 199)),
        ((2000, 2, 29, 12, 0, 1, 0), FatTimestamp(0x285D, 0x6000, 100)),
    ],
)
def test_times_in_utc(when, expected):
    moment = datetime.datetime(*when, tzinfo=datetime.UTC)
    microseconds = (moment - datetime.datetime(1970, 1, 1, tzinfo=datetime.UTC)) // (
        datetime.timedelta(microseconds=1)
    )
    assert encode_timestamp(microseconds * 1000) == expected


def test_no_time_is_the_earliest_and_any_integer_has_a_time():
    assert encode_timestamp(None) == FatTimestamp(0x0021, 0, 0)
    assert encode_timestamp(10**40) == FatTimestamp(0xFF9F, 0xBF7D, 199)
    assert encode_timestamp(-(10**40)) == FatTimestamp(0x0021, 0, 0)


def test_long_name_of_thirteen_units_has_no_terminator():
    slot = pack_long_name("exactly13char", 0x5A)
    assert slot.hex(" ") == (
        "41 65 00 78 00 61 00 63 00 74 00 0f 00 5a "
        "6c 00 79 00 31 00 33 00 63 00 68 00 00 00 61 00 72 00"
    )


def test_long_name_slots_come_last_part_first_with_terminator_and_filler():
    slots = pack_long_name("fourteen chars💾", 1)  # 14 + one surrogate pair = 16 units
    assert len(slots) == 64
    assert slots[0] == 0x42
    assert slots[32] == 0x01
    assert slots[1:11].hex(" ") == "73 00 3d d8 be dc 00 00 ff ff"
    assert slots[14:26] == b"\xff" * 12
    assert slots[28:32] == b"\xff" * 4
    assert slots[33:43].decode("utf-16-le") == "fourt"


@pytest.mark.parametrize(("units", "slots"), [(1, 1), (13, 1), (14, 2), (26, 2), (255, 20)])
def test_slot_counts(units, slots):
    assert count_long_name_entries("x" * units) == slots
    assert len(pack_long_name("x" * units, 0)) == slots * 32


@pytest.mark.parametrize(
    "name", ["The quick brown.fox", "exactly13char", "a+b.conf", "Longer than one slot, two.text"]
)
def test_mtools_writes_the_same_slots(name, tmp_path):
    image = tmp_path / "disk.img"
    subprocess.run(["mkfs.fat", "-C", "-F", "32", image, "40960"], check=True, capture_output=True)
    (tmp_path / "file").write_bytes(b"x")
    environment = {"PATH": os.environ["PATH"], "LC_ALL": "C.UTF-8", "MTOOLSRC": os.devnull}
    subprocess.run(
        ["mcopy", "-i", image, tmp_path / "file", f"::{name}"], check=True, env=environment
    )
    data = image.read_bytes()
    boot = parse_fat32_boot_sector(data, what="mkfs.fat's volume")
    root = data[(boot.reserved_sectors + 2 * boot.fat_sectors) * 512 :]
    count = count_long_name_entries(name)
    entry = parse_record(DirectoryEntry, root[count * 32 :], what="mcopy's entry")
    assert entry.attributes == ATTR_ARCHIVE
    assert pack_long_name(name, compute_short_name_checksum(entry.name)) == root[: count * 32]


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ((510, b"\x00\x00"), "expected 55aa at 510, got 0000"),
        ((0x0B, b"\x03\x02"), "BPB_BytsPerSec"),
        ((0x16, b"\x09\x00"), "not FAT32"),
        ((0x24, b"\x00\x00\x00\x00"), "not FAT32"),
    ],
)
def test_what_is_no_fat32_boot_sector_is_refused(change, message):
    data = bytearray(pack_record(BOOT))
    offset, patch = change
    data[offset : offset + len(patch)] = patch
    with pytest.raises(FormatError, match=message) as caught:
        parse_fat32_boot_sector(bytes(data), what="partition 1")
    assert caught.value.message.startswith("partition 1: ")


def test_boot_sector_round_trip():
    assert parse_fat32_boot_sector(pack_record(BOOT), what="x") == BOOT


@given(st.binary(max_size=600))
def test_any_bytes_give_a_boot_sector_or_a_format_error(data):
    with contextlib.suppress(FormatError):
        assert parse_fat32_boot_sector(data, what="noise").fat_sectors


@pytest.mark.parametrize(
    ("cls", "size"),
    [(Fat32BootSector, 512), (FsInfo, 512), (DirectoryEntry, 32), (LongNameEntry, 32)],
)
def test_record_sizes(cls, size):
    assert record_size(cls) == size
    value = parse_record(cls, bytes(range(256)) * 2, what="pattern")
    assert parse_record(cls, pack_record(value), what="pattern") == value
