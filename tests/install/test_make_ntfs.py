# SPDX-License-Identifier: GPL-3.0-or-later
"""Empty NTFS volumes, judged by ntfsinfo, ntfsfix, blkid, dissect.ntfs and ntfs-3g's mount."""

import os
import subprocess

import pytest
from dissect.ntfs import NTFS

from mediamaker.errors import TargetIOError, TargetRefusedError, ToolError, UsageError
from mediamaker.install.make_ntfs import make_ntfs
from mediamaker.units import MIB
from tests.wim.wim_rig import mounted, run

SERIAL = 0x1122334455667788


def make(path, size=64 * MIB, **options):
    options = {
        "sector_size": 512,
        "hidden_sectors": 2048,
        "volume_label": "Recovery",
        "volume_serial": SERIAL,
        **options,
    }
    make_ntfs(path, size=size, **options)
    return path


@pytest.mark.parametrize("sector_size", [512, 4096])
def test_the_volume_is_what_was_asked_for(tmp_path, sector_size):
    path = make(tmp_path / "v.img", sector_size=sector_size, hidden_sectors=0x12345678)
    assert path.stat().st_size == 64 * MIB
    assert path.stat().st_blocks * 512 < 8 * MIB
    run("ntfsfix", "--no-action", path)
    shown = run("ntfsinfo", "--mft", path)
    assert f"Sector Size: {sector_size}" in shown
    assert "Cluster Size: 4096" in shown
    assert "Volume Name: Recovery" in shown
    blkid = run("blkid", "-p", "-o", "export", path).splitlines()
    assert "UUID=1122334455667788" in blkid
    assert "TYPE=ntfs" in blkid
    assert f"BLOCK_SIZE={sector_size}" in blkid
    with path.open("rb") as file:
        volume = NTFS(file)
        assert (volume.serial, volume.sector_size) == (SERIAL, sector_size)
        bpb = volume.boot_sector.Bpb
        assert (bpb.HiddenSectors, bpb.Heads, bpb.SectorsPerTrack) == (0x12345678, 255, 63)
    # Both copies are the same, and the last sector is one of them.
    data = path.read_bytes()
    assert data[:512] == data[-sector_size:][:512]
    with mounted(path, tmp_path / "m") as root:
        (root / "file").write_bytes(b"x")
    run("ntfsfix", "--no-action", path)


def test_it_depends_on_the_request_only(tmp_path):
    first, second = make(tmp_path / "1.img"), tmp_path / "2.img"
    # A file that was something else before: nothing of it may show through.
    second.write_bytes(os.urandom(MIB))
    make(second)
    assert first.read_bytes() == second.read_bytes()
    assert make(tmp_path / "3.img", volume_serial=1).read_bytes() != first.read_bytes()


def test_clusters_and_no_label(tmp_path):
    path = make(tmp_path / "v.img", cluster_size=8192, volume_label="")
    shown = run("ntfsinfo", "--mft", path)
    assert "Cluster Size: 8192" in shown
    assert "LABEL=" not in run("blkid", "-p", "-o", "export", path)


def test_a_start_beyond_32_bits_keeps_its_low_half(tmp_path):
    path = make(tmp_path / "v.img", hidden_sectors=(1 << 32) + 2048)
    assert path.read_bytes()[0x1C:0x20] == (2048).to_bytes(4, "little")


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"size": MIB}, "expected 4194304 or more"),
        ({"size": 64 * MIB + 1}, "whole sectors"),
        ({"sector_size": 520}, "NTFS sectors of 520"),
        ({"cluster_size": 5000}, "clusters of 5000"),
        ({"sector_size": 4096, "cluster_size": 512}, "clusters of 512"),
        ({"volume_label": "x" * 33}, "at most 32"),
        ({"volume_serial": 1 << 64}, "64 bits"),
    ],
)
def test_nonsense_is_refused_before_the_file_is_touched(tmp_path, options, message):
    with pytest.raises(UsageError, match=message):
        make(tmp_path / "v.img", **options)
    assert not (tmp_path / "v.img").exists()


def test_no_mkntfs(tmp_path, monkeypatch):
    monkeypatch.setattr("mediamaker.install.tools.shutil.which", lambda *_, **__: None)
    with pytest.raises(ToolError, match="mkntfs is missing") as caught:
        make(tmp_path / "v.img")
    assert "ntfs-3g" in caught.value.hint


def test_mkntfs_fails(tmp_path, monkeypatch):
    program = tmp_path / "mkntfs"
    program.write_text("#!/bin/sh\necho out of luck >&2\nexit 3\n")
    program.chmod(0o755)
    monkeypatch.setenv("PATH", f"{tmp_path}:{os.environ['PATH']}")
    with pytest.raises(ToolError, match="mkntfs failed with 3: out of luck"):
        make(tmp_path / "v.img")


def test_a_directory_is_refused(tmp_path):
    with pytest.raises(TargetRefusedError, match="can't be opened for writing"):
        make(tmp_path)


def test_on_a_block_device(tmp_path):
    if os.geteuid() != 0:
        pytest.fail("this test needs root, as the ones of the devices do")
    path = tmp_path / "disk.img"
    with path.open("wb") as file:
        file.truncate(64 * MIB)
    device = subprocess.run(
        ["losetup", "--find", "--show", path], check=True, capture_output=True, text=True
    ).stdout.strip()
    try:
        make(device_path := path.__class__(device), size=48 * MIB)
        assert "UUID=1122334455667788" in run("blkid", "-p", "-o", "export", device)
        with pytest.raises(TargetRefusedError, match="expected at least"):
            make(device_path, size=128 * MIB)
        held = os.open(device, os.O_RDWR | os.O_EXCL)
        try:
            with pytest.raises(TargetRefusedError, match="busy"):
                make(device_path, size=48 * MIB)
            make(device_path, size=32 * MIB, is_held=True)
        finally:
            os.close(held)
    finally:
        subprocess.run(["losetup", "--detach", device], check=True)
    assert path.read_bytes()[0x28:0x30] == (32 * MIB // 512 - 1).to_bytes(8, "little")


def test_no_room_says_so(tmp_path):
    small = tmp_path / "small"
    small.mkdir()
    subprocess.run(["mount", "-t", "tmpfs", "-o", "size=1m", "none", small], check=True)
    try:
        with pytest.raises(TargetIOError, match=r"v\.ntfs: no room on its file system"):
            make_ntfs(
                small / "v.ntfs",
                size=256 * MIB,
                sector_size=512,
                hidden_sectors=0,
                volume_label="",
                volume_serial=1,
            )
    finally:
        subprocess.run(["umount", small], check=True)
