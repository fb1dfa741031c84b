# SPDX-License-Identifier: GPL-3.0-or-later
"""Two entries of a table change and no more; sgdisk and sfdisk judge, with both sector sizes."""

import json
import os
import subprocess
from contextlib import contextmanager
from uuid import UUID

import pytest

from mediamaker.errors import FormatError, TargetRefusedError
from mediamaker.install.partition_table import (
    RECOVERY_ATTRIBUTES,
    check_table,
    detect_sector_size,
    edit_table,
    has_free_entry,
    read_partition_table,
)
from tests.install.windows_disk_rig import MIB, tool

SIZE = 64 * MIB
NEW = UUID("12345678-1234-4234-8234-123456789abc")


def look(path, sector_size=512):
    data = path.read_bytes()

    def pread(offset, size):
        return data[offset : offset + size]

    table = read_partition_table(pread, disk_size=len(data), sector_size=sector_size, what="disk")
    return table, pread


def apply(path, writes):
    with path.open("r+b") as file:
        for offset, data in writes.items():
            file.seek(offset)
            file.write(data)


def edit(path, number, size, start, new_size, sector_size=512):
    table, pread = look(path, sector_size)
    shrunk = next(item for item in table.entries if item.number == number)
    new_number, writes = edit_table(
        table,
        pread,
        shrunk=shrunk,
        shrunk_size=size,
        new_start=start,
        new_size=new_size,
        new_guid=NEW,
        new_name="Recovery",
    )
    apply(path, writes)
    return new_number, writes


def blank(tmp_path):
    path = tmp_path / "disk.img"
    with path.open("wb") as file:
        file.truncate(SIZE)
    return path


@contextmanager
def loop_device(path, sector_size):
    done = subprocess.run(
        ["losetup", "--find", "--show", "--sector-size", str(sector_size), path],
        capture_output=True,
        text=True,
        check=True,
    )
    device = done.stdout.strip()
    try:
        yield device
    finally:
        subprocess.run(["losetup", "--detach", device], check=True)


@pytest.mark.skipif(os.geteuid() != 0, reason="loop devices need root")
@pytest.mark.parametrize("sector_size", [512, 4096])
def test_gpt(tmp_path, sector_size):
    path = blank(tmp_path)
    with loop_device(path, sector_size) as device:
        tool(
            *("sgdisk", "-n", "1:1M:+8M", "-n", "2:10M:+30M", "-n", "7:50M:+4M"),
            *("-c", "7:Dä tä", "-A", "7:set:60", device),
        )
        before = json.loads(tool("sfdisk", "--json", device))["partitiontable"]
    data = path.read_bytes()
    assert detect_sector_size(lambda at, size: data[at : at + size], SIZE) == sector_size
    number, writes = edit(path, 2, 16 * MIB, 26 * MIB, 12 * MIB, sector_size)
    assert number == 8, "behind all others"
    assert all(
        offset % sector_size == len(new) % sector_size == 0 for offset, new in writes.items()
    )
    with loop_device(path, sector_size) as device:
        assert "No problems found" in tool("sgdisk", "-v", device)
        after = json.loads(tool("sfdisk", "--json", device))["partitiontable"]
    new = after["partitions"].pop()
    assert new["uuid"].lower() == str(NEW)
    assert new["start"] * sector_size == 26 * MIB
    assert new["size"] * sector_size == 12 * MIB
    assert sorted(new["attrs"].split()) == ["GUID:63", "RequiredPartition"]
    before["partitions"][1]["size"] = 16 * MIB // sector_size
    for table in (before, after):
        table.pop("device")
        for item in table["partitions"]:
            item.pop("node")
    assert after == before
    table, _ = look(path, sector_size)
    assert table.entries[-1].attributes == RECOVERY_ATTRIBUTES
    assert table.problems == ()


def test_mbr_with_four_entries_has_no_room(tmp_path):
    path = blank(tmp_path)
    lines = "label: dos\n" + "".join(f"start={2048 * n}, size=2048\n" for n in range(1, 5))
    tool("sfdisk", "-q", path, input=lines.encode())
    table, _ = look(path)
    assert not has_free_entry(table)
    with pytest.raises(TargetRefusedError, match="four primary"):
        edit(path, 4, MIB // 2, 20 * MIB, MIB)


def test_an_overlap_is_refused(tmp_path):
    path = blank(tmp_path)
    tool("sgdisk", "-n", "1:1M:+8M", "-n", "2:10M:+30M", path)
    with pytest.raises(TargetRefusedError, match="overlap 2"):
        edit(path, 1, 4 * MIB, 8 * MIB, 4 * MIB)


@pytest.mark.parametrize("kind", ["hybrid", "moved", "dynamic"])
def test_what_we_leave_alone(tmp_path, kind):
    path = blank(tmp_path)
    if kind == "dynamic":
        tool("sfdisk", "-q", path, input=b"label: dos\nstart=2048, type=42\n")
    else:
        tool("sgdisk", "-n", "1:1M:+8M", path)
    if kind == "hybrid":
        tool("sgdisk", "-h", "1", path)
    if kind == "moved":
        with path.open("r+b") as file:
            file.truncate(2 * SIZE)
    table, _ = look(path)
    with pytest.raises(TargetRefusedError):
        check_table(table, "disk")


def test_no_table_is_an_error(tmp_path):
    with pytest.raises(FormatError, match=r"disk.*: no partition table: MBR"):
        look(blank(tmp_path))
    path = blank(tmp_path)
    tool("sgdisk", "-n", "1:1M:+8M", path)
    with path.open("r+b") as file:
        file.seek(512)
        file.write(bytes(512))
        file.seek(SIZE - 512)
        file.write(bytes(512))
    with pytest.raises(FormatError, match=r"first copy .*second copy"):
        look(path)
