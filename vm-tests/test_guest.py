# SPDX-License-Identifier: GPL-3.0-or-later
"""A guest has real block devices and real file system drivers, and tells the truth."""

import hashlib
import os
import subprocess

import pytest
from guest import Guest, run_in_guest

from mediamaker.errors import BootError
from mediamaker.units import MIB
from mediamaker.vm.disk import Bus, Disk


def make_fat(path, content: bytes):
    path.write_bytes(bytes(40 * MIB))
    subprocess.run(["mkfs.fat", "-F", "32", "-n", "STICK", path], check=True, capture_output=True)
    subprocess.run(["mmd", "-i", path, "::sources"], check=True)
    subprocess.run(["mcopy", "-i", path, "-", "::sources/boot.wim"], input=content, check=True)
    return path


def test_a_stick_is_a_real_disk(out_dir, tmp_path):
    content = os.urandom(3 * MIB + 17)
    stick = make_fat(tmp_path / "stick.img", content)
    fast = tmp_path / "fast.img"
    fast.write_bytes(bytes(8 * MIB))
    before = hashlib.sha256(stick.read_bytes()).hexdigest()
    script = f"""
lsblk --nodeps --noheadings --output NAME,TRAN,RM,SERIAL /dev/sda /dev/nvme0n1
readlink -f /sys/block/sda
mount -o ro /dev/sda /mnt
grep ' /mnt ' /proc/mounts
sha256sum < /mnt/sources/boot.wim
umount /mnt
dd if=/dev/urandom of=/dev/sda bs=1M count=1 conv=fsync status=none
printf 'written in the guest' | dd of=/dev/nvme0n1 bs=512 seek=3 conv=sync,fsync status=none
ls -l /dev/disk/by-id/usb-*STICK123*
command -v mediamaker
touch {tmp_path}/not-on-the-host
"""
    result = run_in_guest(
        script,
        disks=[
            Disk(stick, Bus.USB, serial="STICK123"),
            Disk(fast, Bus.NVME, snapshot=False, serial="FAST456"),
        ],
        work_dir=out_dir,
        timeout=180,
    )
    assert result.exit_code == 0, result.output
    lines = [line.split() for line in result.output.splitlines()]
    assert ["sda", "usb", "1", "STICK123"] in lines
    assert ["nvme0n1", "nvme", "0", "FAST456"] in lines
    assert "/usb" in result.output
    assert "/dev/sda /mnt vfat ro" in result.output
    assert hashlib.sha256(content).hexdigest() in result.output
    # The stick was a snapshot, the other disk was not, and the rest was the guest's memory.
    assert hashlib.sha256(stick.read_bytes()).hexdigest() == before
    assert fast.read_bytes()[3 * 512 :].startswith(b"written in the guest")
    assert not (tmp_path / "not-on-the-host").exists()


def test_a_script_that_fails_is_reported(out_dir):
    result = run_in_guest("echo before\nsh -c 'exit 42'\necho after\n", work_dir=out_dir)
    assert result.exit_code == 42
    assert result.output == "before\n"


def test_a_guest_that_dies_has_no_result(out_dir):
    with Guest("echo c > /proc/sysrq-trigger", work_dir=out_dir) as guest:
        with pytest.raises(BootError, match="did not say how its script ended"):
            guest.wait(timeout=120)
        assert guest.machine.seconds < 100


def test_a_stick_of_4096_byte_sectors(out_dir, tmp_path):
    """Not just a number: what is not a whole sector can't be written."""
    stick = tmp_path / "stick.img"
    stick.write_bytes(bytes(8 * MIB))
    script = """
lsblk --nodeps --noheadings --output NAME,TRAN,RM,SERIAL,LOG-SEC,PHY-SEC /dev/sda
(dd if=/dev/urandom of=/dev/sda bs=512 count=1 oflag=direct 2>&1 || true) | grep -c 'Invalid arg'
printf 'a sector' | dd of=/dev/sda bs=4096 seek=3 conv=sync,fsync status=none
"""
    disk = Disk(stick, Bus.USB, snapshot=False, serial="STICK4K", logical_sector_size=4096)
    result = run_in_guest(script, disks=[disk], work_dir=out_dir, timeout=180)
    assert result.exit_code == 0, result.output
    lines = [line.split() for line in result.output.splitlines()]
    assert lines == [["sda", "usb", "1", "STICK4K", "4096", "4096"], ["1"]]
    assert stick.read_bytes() == bytes(3 * 4096) + b"a sector".ljust(8 * MIB - 3 * 4096, b"\0")
