# SPDX-License-Identifier: GPL-3.0-or-later
"""GPT bytes, judged by sgdisk, sfdisk and pyparted."""

import subprocess
from uuid import UUID

import parted
import pytest

from mediamaker.errors import FormatError
from mediamaker.formats.gpt import (
    TYPE_BASIC_DATA,
    Gpt,
    GptPartition,
    pack_gpt,
    parse_gpt_entries,
    parse_gpt_header,
)
from mediamaker.formats.mbr import pack_protective_mbr

DISK = UUID("11223344-5566-4788-99aa-bbccddeeff00")
PART = UUID("a1a2a3a4-b1b2-41c2-8d1d-e1e2e3e4e5e6")
GPT = Gpt(DISK, (GptPartition(TYPE_BASIC_DATA, PART, 2048, 100 * 2048 - 1, "Windows-Medium é"),))


def write_disk(path, gpt, sectors, sector_size=512):
    packed = pack_gpt(gpt, disk_sectors=sectors, sector_size=sector_size)
    with path.open("wb") as file:
        file.truncate(sectors * sector_size)
        file.write(pack_protective_mbr(sectors).ljust(sector_size, b"\0"))
        file.write(packed.primary_header + packed.entry_array)
        file.seek(packed.backup_array_lba * sector_size)
        file.write(packed.entry_array + packed.backup_header)
    assert path.stat().st_size == sectors * sector_size
    return packed


def test_sgdisk_finds_nothing_wrong(tmp_path):
    path = tmp_path / "disk.img"
    write_disk(path, GPT, 102 * 2048)
    verify = subprocess.run(["sgdisk", "-v", path], capture_output=True, text=True, check=True)
    assert "No problems found" in verify.stdout, verify.stdout
    shown = subprocess.run(["sgdisk", "-i", "1", path], capture_output=True, text=True, check=True)
    assert str(PART).upper() in shown.stdout
    assert str(TYPE_BASIC_DATA).upper() in shown.stdout
    assert "First sector: 2048" in shown.stdout
    assert "'Windows-Medium é'" in shown.stdout


def test_sfdisk_and_pyparted_read_it(tmp_path):
    path = tmp_path / "disk.img"
    write_disk(path, GPT, 102 * 2048)
    dump = subprocess.run(["sfdisk", "--dump", path], capture_output=True, text=True, check=True)
    assert f"label-id: {str(DISK).upper()}" in dump.stdout
    verify = subprocess.run(
        ["sfdisk", "--verify", path], capture_output=True, text=True, check=False
    )
    assert verify.returncode == 0, verify.stdout + verify.stderr
    disk = parted.newDisk(parted.getDevice(str(path)))
    assert disk.type == "gpt"
    (partition,) = disk.partitions
    assert (partition.geometry.start, partition.geometry.end) == (2048, 100 * 2048 - 1)


@pytest.mark.parametrize("sector_size", [512, 4096])
def test_both_copies_parse_and_mirror_each_other(tmp_path, sector_size):
    sectors = 110 * (1 << 20) // sector_size
    gpt = Gpt(DISK, (GptPartition(TYPE_BASIC_DATA, PART, 256, 511, "x", attributes=1 << 63),))
    packed = write_disk(tmp_path / "disk.img", gpt, sectors, sector_size)
    primary, backup = (
        parse_gpt_header(data) for data in (packed.primary_header, packed.backup_header)
    )
    assert (primary.my_lba, primary.alternate_lba) == (1, sectors - 1)
    assert (backup.my_lba, backup.alternate_lba) == (sectors - 1, 1)
    assert backup.partition_entry_lba == packed.backup_array_lba
    assert primary.first_usable_lba == 2 + 16384 // sector_size
    assert parse_gpt_entries(primary, packed.entry_array) == gpt


def test_fdisk_reads_4096_byte_sectors(tmp_path):
    path = tmp_path / "disk.img"
    gpt = Gpt(DISK, (GptPartition(TYPE_BASIC_DATA, PART, 256, 25599, "x"),))
    write_disk(path, gpt, 102 * 256, 4096)
    shown = subprocess.run(
        ["fdisk", "-b", "4096", "-l", path], capture_output=True, text=True, check=True
    )
    assert not shown.stderr
    assert f"Disk identifier: {str(DISK).upper()}" in shown.stdout
    assert "256 25599 25344 99M Microsoft basic data" in " ".join(shown.stdout.split())


def test_damage_is_refused(tmp_path):
    packed = write_disk(tmp_path / "disk.img", GPT, 102 * 2048)
    for index in (0, 0x0C, 0x10, 0x18, 0x38, 0x58):
        damaged = bytearray(packed.primary_header)
        damaged[index] ^= 1
        with pytest.raises(FormatError, match="GPT header"):
            parse_gpt_header(bytes(damaged))
    header = parse_gpt_header(packed.primary_header)
    with pytest.raises(FormatError, match="CRC"):
        parse_gpt_entries(header, b"\1" + packed.entry_array[1:])


def test_what_does_not_fit_is_refused():
    outside = Gpt(DISK, (GptPartition(TYPE_BASIC_DATA, PART, 33, 100, "x"),))
    with pytest.raises(FormatError, match=r"LBA 33\.\.100 is not within 34\.\."):
        pack_gpt(outside, disk_sectors=4096, sector_size=512)
    named = Gpt(DISK, (GptPartition(TYPE_BASIC_DATA, PART, 34, 100, "x" * 37),))
    with pytest.raises(FormatError, match="37 UTF-16 units"):
        pack_gpt(named, disk_sectors=4096, sector_size=512)
