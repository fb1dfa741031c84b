# SPDX-License-Identifier: GPL-3.0-or-later
"""Devices for ranges of a disk without a table: here by loop devices (vm-tests have BLKPG)."""

import os
import subprocess
from pathlib import Path

import pytest

from mediamaker.devices.kernel_partitions import PartitionRange, kernel_partitions
from mediamaker.errors import TargetRefusedError, ToolError
from mediamaker.units import MIB

RANGES = [PartitionRange(1, MIB, 4 * MIB), PartitionRange(3, 8 * MIB, 6 * MIB)]


@pytest.fixture
def disk(tmp_path):
    path = tmp_path / "disk.img"
    with path.open("wb") as file:
        file.truncate(16 * MIB)
    command = ["losetup", "--find", "--show", "--sector-size", "4096", path]
    device = subprocess.run(command, check=True, capture_output=True, text=True).stdout.strip()
    yield path, Path(device)
    subprocess.run(["losetup", "--detach", device], check=True)


def size_of(path):
    return int(subprocess.check_output(["blockdev", "--getsize64", path]))


def test_what_is_written_there_is_in_the_disk(disk):
    image, device = disk
    descriptor = os.open(device, os.O_RDWR | os.O_EXCL)
    try:
        with kernel_partitions(descriptor, RANGES) as paths:
            assert sorted(paths) == [1, 3]
            for one in RANGES:
                path = paths[one.number]
                assert path != device
                assert size_of(path) == one.size
                assert int(subprocess.check_output(["blockdev", "--getss", path])) == 4096
                path.write_bytes(b"%d" % one.number * 4096)
        gone = [path for path in paths.values() if path.is_block_device()]
        assert all(size_of(path) == 0 for path in gone)
    finally:
        os.close(descriptor)
    data = image.read_bytes()
    for one in RANGES:
        assert data[one.start : one.start + 4096] == b"%d" % one.number * 4096
    assert sum(map(bool, data)) == 2 * 4096


def test_an_error_takes_them_away_too(disk):
    _, device = disk
    descriptor = os.open(device, os.O_RDWR | os.O_EXCL)
    try:
        with pytest.raises(KeyError), kernel_partitions(descriptor, RANGES) as paths:
            raise KeyError
        assert all(size_of(path) == 0 for path in paths.values() if path.is_block_device())
    finally:
        os.close(descriptor)


def test_only_block_devices_have_partitions(tmp_path):
    with (
        (tmp_path / "x").open("w+b") as file,
        pytest.raises(ToolError, match="block devices"),
        kernel_partitions(file.fileno(), RANGES),
    ):
        pass


@pytest.mark.parametrize("start", [15 * MIB, 32 * MIB])
def test_a_range_that_the_disk_does_not_have(disk, start):
    _, device = disk
    descriptor = os.open(device, os.O_RDWR)
    try:
        with (
            pytest.raises(TargetRefusedError, match="outside of the disk"),
            kernel_partitions(descriptor, [PartitionRange(1, start, 4 * MIB)]),
        ):
            pass
    finally:
        os.close(descriptor)
