# SPDX-License-Identifier: GPL-3.0-or-later
"""The stand-in Windows image: what it promises, and that an install of it starts.

wimlib-imagex, hivexml and the stand-in boot managers judge; the install is mediamaker's.
"""

import os

import manager_disk as md
import pytest
from bootcode_disk import patch_disk, run
from bootcode_qemu import Qemu
from command import succeed
from standin.programs import build_host_manager
from standin.windows_image import make_windows_wim, make_winre_wim

TOKEN, WINRE_TOKEN = "image-1", "image-re"


@pytest.fixture(scope="module")
def program(tmp_path_factory):
    return build_host_manager(tmp_path_factory.mktemp("host"))


@pytest.fixture(scope="module")
def wim(tmp_path_factory):
    """Two images with all that NTFS has."""
    path = tmp_path_factory.mktemp("wim") / "install.wim"
    make_windows_wim(path, token=TOKEN, winre_token=WINRE_TOKEN, images=2, with_ntfs_metadata=True)
    return path


def last_words(said):
    return [line for line in said.splitlines() if line.startswith(("MM-TOKEN", "MM-WINRE"))]


def test_its_hives_are_hives(wim, tmp_path):
    names = [f"/Windows/System32/config/{name}" for name in ("SYSTEM", "SOFTWARE")]
    run("wimlib-imagex", "extract", wim, "2", *names, f"--dest-dir={tmp_path}", "--no-acls")
    assert 'key="Current"' in run("hivexml", tmp_path / "SYSTEM")
    assert 'value="Core"' in run("hivexml", tmp_path / "SOFTWARE")


def test_it_has_what_only_ntfs_has(wim):
    listed = run("wimlib-imagex", "dir", wim, "1", "--detailed")
    for wanted in (
        "Security Descriptor",
        "Zone.Identifier",
        "0xa000000c",
        "Link Count          = 2",
    ):
        assert wanted in listed, wanted
    assert listed.count('Short Name          = "') > listed.count('Short Name          = ""')


def test_other_architectures_and_no_winre(tmp_path):
    path = tmp_path / "arm64.wim"
    make_windows_wim(path, token=TOKEN, winre_token=WINRE_TOKEN, arch="arm64", with_winre=False)
    listed = run("wimlib-imagex", "dir", path, "1").splitlines()
    assert "/Windows/Boot/EFI/bootmgfw.efi" in listed
    assert "/Windows/Boot/PCAT/bootmgr" not in listed
    assert "/Windows/System32/Recovery/Winre.wim" not in listed
    assert "ARM64" in run("wimlib-imagex", "info", path, "1")


def test_winre_boots_from_its_only_image(tmp_path):
    path = tmp_path / "Winre.wim"
    make_winre_wim(path, token=WINRE_TOKEN)
    info = run("wimlib-imagex", "info", path)
    assert "Boot Index:     1" in info
    assert f"Description:            {WINRE_TOKEN}" in info


def spoil_loaders(path, token):
    """A bit of every loader on the disk that says this token."""
    mark, spoilt, end = b"MEDIAMAKER-LOAD!", 0, 0
    fd = os.open(path, os.O_RDONLY)
    try:
        while True:
            try:
                start = os.lseek(fd, end, os.SEEK_DATA)
            except OSError:
                return spoilt
            end = os.lseek(fd, start, os.SEEK_HOLE)
            data = os.pread(fd, end - start, start)
            at = data.find(mark)
            while at >= 0:
                if data.startswith(token.encode() + b"\0", at + 24):
                    patch_disk(path, start + at - 99, bytes([data[at - 99] ^ 1]))
                    spoilt += 1
                at = data.find(mark, at + 1)
    finally:
        os.close(fd)


@pytest.mark.parametrize("firmware", ["uefi", "bios"])
def test_an_install_starts_and_so_does_its_recovery(program, wim, tmp_path, out_dir, firmware):
    disk = md.ManagerDisk(tmp_path / "disk.img", firmware)
    options = ["--firmware", firmware, "--boot-files", "2023" if firmware == "uefi" else "2011"]
    succeed("install", f"{wim}:2", disk.path, *options)
    assert last_words(md.ask_host_manager(program, disk)) == [f"MM-TOKEN: {TOKEN}-2"]
    with Qemu(out_dir, f"file={disk.path},format=raw,if=ide", uefi=firmware == "uefi") as machine:
        said = machine.wait_serial("MM-BCD-END", timeout=120)
    assert last_words(said) == [f"MM-TOKEN: {TOKEN}-2"]
    assert ("MM-BCD: generation-2023" in said) == (firmware == "uefi")
    # winload.efi and .exe, and those in System32/boot
    assert spoil_loaders(disk.path, f"{TOKEN}-2") == 4
    assert last_words(md.ask_host_manager(program, disk)) == [f"MM-WINRE: {WINRE_TOKEN}"]
