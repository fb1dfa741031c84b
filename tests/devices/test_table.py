# SPDX-License-Identifier: GPL-3.0-or-later
"""What will be lost, of tables that sgdisk and sfdisk wrote; sfdisk says what is right."""

from __future__ import annotations

import hashlib
import json
import shutil
import subprocess
from pathlib import Path

import pytest

from mediamaker.devices.table import read_table, show_lost

MIB = 1 << 20
SECTOR = 512


def run(*command: object, text: str | None = None) -> str:
    words = [str(word) for word in command]
    return subprocess.run(words, check=True, capture_output=True, text=True, input=text).stdout


def blank(path: Path, size: int = 16 * MIB) -> Path:
    with path.open("wb") as image:
        image.truncate(size)
    return path


@pytest.fixture(scope="module")
def gpt_by_sgdisk(tmp_path_factory):
    image = blank(tmp_path_factory.mktemp("gpt") / "gpt.img")
    first = ("-n1:2048:+5M", "-t1:EF00", "-c1:EFI sys")
    run("sgdisk", *first, "-n3:0:0", "-t3:0700", "-c3:Dätä", image)
    return image


@pytest.fixture
def gpt(gpt_by_sgdisk, tmp_path):
    return Path(shutil.copy(gpt_by_sgdisk, tmp_path))


@pytest.fixture
def mbr(tmp_path):
    image = blank(tmp_path / "mbr.img")
    script = """label: dos
    start=2048, size=4096, type=c, bootable
    start=8192, size=20480, type=5
    start=10240, size=4096, type=83
    start=18432, size=4096, type=7
    """
    run("sfdisk", "-q", image, text=script)
    return image


def overwrite(image: Path, offset: int, data: bytes) -> None:
    with image.open("r+b") as file:
        file.seek(offset)
        file.write(data)


@pytest.mark.parametrize("kind", ["gpt", "mbr"])
def test_partitions_are_those_of_sfdisk(kind, request):
    image = request.getfixturevalue(kind)
    judge = json.loads(run("sfdisk", "--json", image))["partitiontable"]
    table = read_table(image)
    assert table.problems == ()
    assert (table.size, table.sector_size) == (16 * MIB, SECTOR)
    assert table.type == {"gpt": "gpt", "dos": "msdos"}[judge["label"]]
    expected = {
        int(item["node"].removeprefix(str(image))): (item["start"], item["size"])
        for item in judge["partitions"]
    }
    got = {item.number: (item.start // SECTOR, item.size // SECTOR) for item in table.partitions}
    assert got == expected


def test_gpt_names_and_flags(gpt):
    first, third = read_table(gpt).partitions
    assert (first.number, first.partition_name, set(first.flags)) == (1, "EFI sys", {"boot", "esp"})
    assert (third.number, third.partition_name, third.flags) == (3, "Dätä", ("msftdata",))


def test_mbr_kinds_and_flags(mbr):
    table = read_table(mbr)
    kinds = {item.number: item.kind for item in table.partitions}
    assert kinds == {1: "primary", 2: "extended", 5: "logical", 6: "logical"}
    assert "boot" in table.partitions[0].flags
    assert {item.partition_name for item in table.partitions} == {None}


def test_file_systems_and_labels_inside_partitions(gpt, tmp_path):
    volume = blank(tmp_path / "fat", 5 * MIB)
    run("mkfs.vfat", "-n", "MY STICK", volume)
    overwrite(gpt, 2048 * SECTOR, volume.read_bytes())
    swap = blank(tmp_path / "swap", 1 * MIB)
    run("mkswap", swap)
    start = read_table(gpt).partitions[1].start
    overwrite(gpt, start, swap.read_bytes())
    first, third = read_table(gpt).partitions
    assert (first.file_system, first.volume_label) == ("vfat", "MY STICK")
    assert third.file_system == "swap"
    lines = show_lost(None, read_table(gpt))
    assert lines[0] == "gpt partition table, 2 partitions"
    assert "[0x100000,0x600000)" in lines[1]
    for words in ("5 MiB", "vfat", '"MY STICK"', 'named "EFI sys"', "esp"):
        assert words in lines[1]


def test_a_disk_is_named_with_what_a_person_knows(system, gpt):
    system.usb("sdb")
    lines = show_lost(system.disk("sdb"), read_table(gpt))
    assert lines[0].endswith(
        "/dev/sdb: SanDisk Ultra Fit, serial 4C530001230101117392, usb, 16 GiB"
    )


def test_a_file_system_without_a_table(tmp_path):
    image = blank(tmp_path / "fs.img")
    run("mkfs.ext4", "-q", "-L", "backup", image)
    table = read_table(image)
    assert (table.type, table.whole_disk.type, table.problems) == (None, "ext4", ())
    assert show_lost(None, table) == ['the whole disk is ext4, "backup" (no table)']


def test_nothing_on_it_is_not_called_empty(tmp_path):
    table = read_table(blank(tmp_path / "blank.img"))
    assert (table.type, table.partitions, table.problems) == (None, (), ())
    (line,) = show_lost(None, table)
    assert "other data may still be there" in line


def damage_primary(image: Path) -> None:
    overwrite(image, SECTOR + 48, b"\xff\xff\xff")


def damage_backup(image: Path) -> None:
    overwrite(image, image.stat().st_size - SECTOR, bytes(SECTOR))


def grow(image: Path) -> None:
    with image.open("r+b") as file:
        file.truncate(20 * MIB)


@pytest.mark.parametrize(
    ("damage", "words"),
    [
        (damage_primary, "The primary GPT table is corrupt"),
        (damage_backup, "The backup GPT table is corrupt"),
        (grow, "Not all of the space available"),
    ],
)
def test_a_damaged_table_is_shown_said_and_never_repaired(gpt, damage, words, capfd):
    damage(gpt)
    before = hashlib.sha256(gpt.read_bytes()).digest()
    table = read_table(gpt)
    assert hashlib.sha256(gpt.read_bytes()).digest() == before
    assert [item.number for item in table.partitions] == [1, 3]
    assert [problem for problem in table.problems if words in problem] == list(table.problems)
    assert len(table.problems) == 1
    assert show_lost(None, table)[-1].startswith(f"note: {words}")
    assert capfd.readouterr() == ("", "")


def test_a_table_damaged_at_both_ends_is_said_to_be_there(gpt):
    damage_primary(gpt)
    damage_backup(gpt)
    table = read_table(gpt)
    assert (table.type, table.partitions) == (None, ())
    assert any("corrupt" in line or "can't be read" in line for line in show_lost(None, table))


def test_overlapping_partitions_do_not_end_in_an_exception(mbr):
    entry = 446 + 16
    overwrite(mbr, entry + 4, b"\x0c")
    overwrite(mbr, entry + 8, (3072).to_bytes(4, "little"))
    table = read_table(mbr)
    assert table.problems
    assert any("overlap" in line for line in show_lost(None, table))


def test_reading_leaves_every_byte_and_the_time_alone(gpt, mbr):
    for image in (gpt, mbr):
        before, time_ns = hashlib.sha256(image.read_bytes()).digest(), image.stat().st_mtime_ns
        read_table(image)
        assert hashlib.sha256(image.read_bytes()).digest() == before
        assert image.stat().st_mtime_ns == time_ns


def test_what_is_no_disk_gets_words_not_an_exception(tmp_path, capfd):
    empty = blank(tmp_path / "empty", 0)
    for path in (empty, tmp_path / "missing", tmp_path, Path("/dev/null")):
        table = read_table(path)
        assert table.type is None
        assert table.problems
        assert show_lost(None, table)[0] == "nothing is known of what is on it"
    assert capfd.readouterr() == ("", "")
