# SPDX-License-Identifier: GPL-3.0-or-later
"""A plan is for one disk as it was shown: real (loop) devices that change meanwhile. Needs root."""

import os
import subprocess
from dataclasses import replace
from pathlib import Path

import pytest

from mediamaker.devices.discover import find_disk, list_disks
from mediamaker.devices.target import BlockTarget, bind_disk
from mediamaker.errors import TargetRefusedError

MIB = 1 << 20
SIZE = 8 * MIB


def run(*command, **options):
    return subprocess.run(
        command, check=True, capture_output=True, text=True, **options
    ).stdout.strip()


@pytest.fixture
def backing(tmp_path):
    path = tmp_path / "backing"
    path.write_bytes(b"\xa5" * SIZE)
    return path


@pytest.fixture
def device(backing):
    name = run("losetup", "--find", "--show", backing)
    yield name
    run("losetup", "--detach", name)


def bind(device):
    return bind_disk(find_disk(device, list_disks()))


def write(device, offset, data=b"other"):
    """As another program would, by the name and through the page cache."""
    descriptor = os.open(device, os.O_WRONLY)
    try:
        os.pwrite(descriptor, data, offset)
    finally:
        os.close(descriptor)


def test_the_same_disk_is_opened(device):
    bound = bind(device)
    write(device, 4 * MIB)  # contents are not the disk's identity
    with BlockTarget.open(Path(device), expected=bound) as target:
        target.check_unchanged()


@pytest.mark.parametrize(
    ("offset", "words"),
    [
        (0, "the beginning of the disk [0x0,0x100000) has other bytes"),
        (MIB - 5, "the beginning of the disk"),
        (SIZE - MIB, "the end of the disk [0x700000,0x800000) has other bytes"),
        (SIZE - 5, "the end of the disk"),
    ],
)
def test_other_bytes_where_tables_are(device, offset, words):
    bound = bind(device)
    write(device, offset)
    with pytest.raises(TargetRefusedError) as caught:
        BlockTarget.open(Path(device), expected=bound)
    assert words in caught.value.message
    assert "nothing was written" in caught.value.hint


def test_a_refused_disk_is_let_go_of(device):
    bound = bind(device)
    write(device, 0)
    with pytest.raises(TargetRefusedError):
        BlockTarget.open(Path(device), expected=bound)
    os.close(os.open(device, os.O_RDONLY | os.O_EXCL))


def test_partitioned_by_sfdisk_meanwhile(device):
    bound = bind(device)
    run("sfdisk", "--quiet", device, input="label: dos\n,4M,c\n")
    with pytest.raises(TargetRefusedError, match=r"expected no table .* found a dos table"):
        BlockTarget.open(Path(device), expected=bound)


def test_another_disk_under_the_same_name(device, backing, tmp_path):
    bound = bind(device)
    other = tmp_path / "other"
    other.write_bytes(backing.read_bytes())
    run("losetup", "--detach", device)
    run("losetup", device, other)
    with pytest.raises(TargetRefusedError, match="plug-in sequence number"):
        BlockTarget.open(Path(device), expected=bound)
    assert other.read_bytes() == backing.read_bytes()


def test_another_disk_between_the_listing_and_the_binding(device, tmp_path):
    disk = find_disk(device, list_disks())
    other = tmp_path / "other"
    other.write_bytes(bytes(SIZE))
    run("losetup", "--detach", device)
    run("losetup", device, other)
    with pytest.raises(TargetRefusedError, match="plug-in sequence number"):
        bind_disk(disk)


def test_a_name_that_leads_to_another_disk(device, tmp_path):
    link = tmp_path / "by-id"
    link.symlink_to(device)
    bound = bind(link)
    other = tmp_path / "other"
    other.write_bytes(b"\xa5" * SIZE)
    second = run("losetup", "--find", "--show", other)
    try:
        link.unlink()
        link.symlink_to(second)
        with pytest.raises(TargetRefusedError, match="device number: expected 7:"):
            BlockTarget.open(link, expected=bound)
    finally:
        run("losetup", "--detach", second)


def test_changed_by_somebody_while_it_is_open(device):
    bound = bind(device)
    with BlockTarget.open(Path(device), expected=bound) as target:
        write(device, 0)  # O_EXCL keeps nobody out who does not ask for it
        with pytest.raises(TargetRefusedError, match="beginning of the disk"):
            target.check_unchanged()


def test_the_name_is_given_away_while_it_is_open(device, tmp_path):
    link = tmp_path / "by-id"
    link.symlink_to(device)
    with BlockTarget.open(link, expected=bind(link)) as target:
        link.unlink()
        with pytest.raises(TargetRefusedError, match="for another device now, or for none"):
            target.check_unchanged()


def test_what_could_not_be_read_then_says_nothing_now(device):
    bound = bind(device)
    areas = tuple(replace(area, sha256=None) for area in bound.areas)
    write(device, 0)
    BlockTarget.open(Path(device), expected=replace(bound, areas=areas)).close()
