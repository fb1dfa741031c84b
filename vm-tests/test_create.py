# SPDX-License-Identifier: GPL-3.0-or-later
"""From the stand-in Windows ISO to a stick that boots: every firmware, layout and bus.

A pass needs the token, which only the boot programs know, and which they say only after they
have checked how they were loaded and what lies around them (standin/bootmgr.asm, bootx64.c).
"""

import hashlib
import mmap
import subprocess

import pytest
from command import mediamaker, succeed
from standin.iso import standin_iso

BUSES = ("usb", "ahci", "nvme", "virtio")


@pytest.fixture(scope="module")
def iso():
    return standin_iso()


@pytest.fixture(scope="module")
def sticks(iso, tmp_path_factory):
    folder = tmp_path_factory.mktemp("sticks")
    made = {}
    for layout in ("mbr-fat32", "gpt-fat32", "mbr-fat32-exfat"):
        made[layout] = folder / f"{layout}.img"
        succeed("create", iso.path, made[layout], "--layout", layout, "--seed", "vm")
    return made


def boot(path, token, firmware, bus, out_dir, *, timeout="180"):
    return mediamaker(
        "boot", path, "--firmware", firmware, "--bus", bus, "--expect", f"token={token}",
        "--screenshot", out_dir, "--timeout", timeout,
    )  # fmt: skip


@pytest.mark.parametrize("bus", BUSES)
@pytest.mark.parametrize(
    ("firmware", "layout"),
    [("bios", "mbr-fat32"), ("uefi", "mbr-fat32"), ("uefi", "gpt-fat32")],
)
def test_it_boots(sticks, iso, out_dir, firmware, layout, bus):
    finished = boot(sticks[layout], iso.token, firmware, bus, out_dir)
    assert finished.exit_code == 0, (finished.last, finished.errors)
    assert iso.token in finished.last["matched_line"]
    assert "MEDIAMAKER-STANDIN" in finished.last["matched_line"]
    assert firmware.upper() in finished.last["matched_line"]


@pytest.mark.parametrize("firmware", ["bios", "uefi"])
def test_two_volumes_boot(sticks, iso, out_dir, firmware):
    """The UEFI stand-in checks the files of the FAT32 volume; install.wim lies on the other."""
    finished = boot(sticks["mbr-fat32-exfat"], iso.token, firmware, "usb", out_dir)
    assert finished.exit_code == 0, (finished.last, finished.errors)


def test_gpt_does_not_boot_under_bios_and_nobody_says_so(sticks, iso, out_dir):
    finished = boot(sticks["gpt-fat32"], iso.token, "bios", "usb", out_dir, timeout="15")
    assert finished.exit_code == 7
    assert finished.last["proven"] is False


def test_a_stick_with_one_wrong_byte_in_bootmgr_is_not_proven(sticks, iso, out_dir, tmp_path):
    broken = tmp_path / "broken.img"
    subprocess.run(["cp", "--sparse=always", sticks["mbr-fat32"], broken], check=True)
    where = find_file(broken, "bootmgr") + 200_000
    flip(broken, where)
    finished = boot(broken, iso.token, "bios", "usb", out_dir, timeout="15")
    assert finished.exit_code == 7
    verified = mediamaker("verify", broken, iso.path)
    assert verified.exit_code == 5
    assert "\\bootmgr" in verified.last["message"]
    assert f"{where:#x}" in verified.last["message"]


def test_booting_writes_nothing(sticks, iso, out_dir):
    before = digest(sticks["mbr-fat32"])
    assert boot(sticks["mbr-fat32"], iso.token, "uefi", "usb", out_dir).exit_code == 0
    assert digest(sticks["mbr-fat32"]) == before


def find_file(image, name):
    """The offset of a file's content, which mtools reads and which stands nowhere else."""
    content = subprocess.run(
        ["mtype", "-i", f"{image}@@1M", f"::{name}"], check=True, capture_output=True
    ).stdout
    with image.open("rb") as file, mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as view:
        offset = view.find(content)
        assert offset > 0
        assert view.find(content, offset + 1) == -1
    return offset


def flip(path, offset):
    with path.open("r+b") as file:
        file.seek(offset)
        byte = file.read(1)[0]
        file.seek(offset)
        file.write(bytes([byte ^ 0xFF]))


def digest(path):
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
