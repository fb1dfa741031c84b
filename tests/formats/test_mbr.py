# SPDX-License-Identifier: GPL-3.0-or-later
"""MBR bytes, judged by hand calculation and sfdisk."""

import subprocess

import pytest

from mediamaker.errors import FormatError
from mediamaker.formats.mbr import (
    Mbr,
    MbrPartition,
    pack_chs,
    pack_mbr,
    pack_protective_mbr,
    parse_mbr,
)


@pytest.mark.parametrize(
    ("lba", "chs"),
    [
        (0, (0, 1, 0)),
        (62, (0, 63, 0)),
        (63, (1, 1, 0)),
        (2048, (32, 33, 0)),  # the well known start of Windows partitions: 20 21 00
        (255 * 63, (0, 1, 1)),
        (300 * 255 * 63, (0, 0x41, 300 & 0xFF)),  # cylinder 300: high bits in the sector byte
        (1024 * 255 * 63 - 1, (254, 0xC0 | 63, 0xFF)),
        (1024 * 255 * 63, (0xFE, 0xFF, 0xFF)),
        (0xFFFFFFFF, (0xFE, 0xFF, 0xFF)),
    ],
)
def test_chs(lba, chs):
    assert tuple(pack_chs(lba)) == chs


def test_the_record_lies_where_the_specification_has_it():
    data = pack_mbr(
        Mbr(0xD7DA5D02, (MbrPartition(0x0C, 2048, 4096, is_active=True),), boot_code=b"\xfa" * 440)
    )
    assert len(data) == 512
    assert data[:440] == b"\xfa" * 440
    assert data[0x1B8:0x1BE] == bytes.fromhex("025ddad7 0000")
    assert data[0x1BE:0x1CE] == bytes.fromhex("80 202100 0c 612100 00080000 00100000")
    assert data[0x1CE:0x1FE] == bytes(48)
    assert data[0x1FE:] == b"\x55\xaa"


def test_round_trip():
    mbr = Mbr(1, (MbrPartition(7, 1, 2), None, MbrPartition(0x27, 5, 6, is_active=True), None))
    found = parse_mbr(pack_mbr(mbr))
    assert found.partitions == mbr.partitions
    assert found.disk_signature == 1


@pytest.mark.parametrize("data", [b"", bytes(511), bytes(512), bytes(510) + b"\xaa\x55"])
def test_what_is_no_mbr_is_refused(data):
    with pytest.raises(FormatError, match="MBR"):
        parse_mbr(data)


def test_what_does_not_fit_is_refused():
    with pytest.raises(FormatError, match="440"):
        pack_mbr(Mbr(1, (), boot_code=bytes(441)))
    with pytest.raises(FormatError, match="4 partitions"):
        pack_mbr(Mbr(1, (None,) * 5))
    with pytest.raises(FormatError, match="does not fit"):
        pack_mbr(Mbr(1, (MbrPartition(7, 1 << 32, 1),)))


def test_sfdisk_reads_it(tmp_path):
    disk_image = tmp_path / "disk.img"
    mbr = Mbr(0xCAFE1234, (MbrPartition(0x0C, 2048, 100 * 2048, is_active=True),))
    disk_image.write_bytes(pack_mbr(mbr))
    with disk_image.open("r+b") as file:
        file.truncate(102 << 20)
    dump = subprocess.run(
        ["sfdisk", "--dump", disk_image], capture_output=True, text=True, check=True
    ).stdout
    assert "label-id: 0xcafe1234" in dump
    assert "start=        2048, size=      204800, type=c, bootable" in dump
    verify = subprocess.run(
        ["sfdisk", "--verify", disk_image], capture_output=True, text=True, check=False
    )
    assert verify.returncode == 0, verify.stdout + verify.stderr


def test_the_protective_mbr_covers_the_disk_and_is_capped():
    assert pack_protective_mbr(204800)[0x1BE:0x1CE] == bytes.fromhex(
        "00 000200 ee be320c 01000000 ff1f0300"
    )
    assert pack_protective_mbr(1 << 33)[0x1CA:0x1CE] == b"\xff\xff\xff\xff"


def test_a_partition_of_no_sectors_at_the_start_is_packed():
    """Found by tests/fuzz/fuzz_partition_tables.py: it had an end before the disk."""
    sector = bytes(446) + b"\0\0\0\0\x0c" + bytes(11 + 48) + b"\x55\xaa"
    packed = pack_mbr(parse_mbr(sector))
    assert parse_mbr(packed) == parse_mbr(sector)
