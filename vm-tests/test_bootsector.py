# SPDX-License-Identifier: GPL-3.0-or-later
"""``mediamaker bootsector write`` makes disks of other people's formatters start BOOTMGR."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest
from bootcode_disk import Volume, make_disk, patch_disk
from bootcode_exfat_disk import ExfatVolume
from bootcode_ntfs_disk import NtfsVolume
from bootcode_qemu import Qemu
from bootcode_rig import VERDICT, drive
from standin.programs import build_bootmgr

MIB = 1 << 20
TOKEN = "BOOTSECT-51c0"


def ntfs(path: Path, bootmgr: bytes) -> NtfsVolume:
    volume = NtfsVolume(path)
    volume.copy_in(bootmgr)
    return volume


def exfat(path: Path, bootmgr: bytes) -> ExfatVolume:
    volume = ExfatVolume(path)
    volume.add_file("bootmgr", bootmgr)
    return volume


def fat32(path: Path, bootmgr: bytes) -> Volume:
    volume = Volume(path, size=40 * MIB, sectors_per_cluster=1)
    volume.copy_in(bootmgr, "/bootmgr")
    return volume


def bootsector(tmp_path: Path, *words: object) -> None:
    subprocess.run(
        [sys.executable, "-m", "mediamaker", "bootsector", *map(str, words)],
        check=True,
        env={"PATH": "/usr/bin:/bin", "HOME": str(tmp_path)},
        cwd=Path(__file__).resolve().parent.parent,
    )


@pytest.mark.parametrize("make", [ntfs, exfat, fat32])
def test_written_boot_code_boots_and_restored_does_not(tmp_path, make):
    volume = make(tmp_path / "volume.img", build_bootmgr(TOKEN))
    disk = make_disk(tmp_path / "disk.img", volume, type_code="7")
    patch_disk(disk, 0, bytes(440))
    before = disk.read_bytes()
    backup = tmp_path / "old.json"
    bootsector(tmp_path, "write", disk, "--partition", 1, "--mbr", "--backup", backup)
    with Qemu(tmp_path, drive(disk)) as machine:
        text = machine.wait_serial(VERDICT)
    assert f"BIOS OK token={TOKEN} dl=80 bps=0200 hidden=00000800" in text
    bootsector(tmp_path, "restore", disk, backup)
    assert disk.read_bytes() == before


def test_mounted_volume_is_refused(tmp_path):
    volume = ntfs(tmp_path / "volume.img", b"x")
    before = volume.path.read_bytes()[:8192]
    losetup = ["losetup", "--find", "--show", volume.path]
    loop = subprocess.run(losetup, capture_output=True, text=True, check=True).stdout.strip()
    place = tmp_path / "place"
    place.mkdir()
    try:
        subprocess.run(["ntfs-3g", loop, place], check=True)
        try:
            with pytest.raises(subprocess.CalledProcessError) as caught:
                bootsector(tmp_path, "write", loop)
            assert caught.value.returncode == 4
        finally:
            subprocess.run(["umount", place], check=True)
    finally:
        subprocess.run(["losetup", "-d", loop], check=True)
    assert volume.path.read_bytes()[:8192] == before
