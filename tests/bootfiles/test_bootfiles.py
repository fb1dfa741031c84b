# SPDX-License-Identifier: GPL-3.0-or-later
"""The checked-in boot programs are what their sources make, and nothing else is loaded."""

import hashlib
import re
import shutil
import subprocess
import tomllib
from pathlib import Path

import pytest

from mediamaker.errors import ToolError
from mediamaker.sources import bootcode

BOOTFILES = Path(__file__).resolve().parents[2] / "bootfiles"
FILES = {
    entry["name"]: entry
    for entry in tomllib.loads((BOOTFILES / "MANIFEST.toml").read_text())["file"]
}
BPB = slice(0x03, 0x5A)


def test_manifest_names_every_binary_and_source():
    assert {path.name for path in BOOTFILES.glob("*.bin")} == FILES.keys()
    assert {path.name for path in BOOTFILES.glob("*.asm")} == {
        entry["source"] for entry in FILES.values()
    }
    for entry in FILES.values():
        assert entry["licence"] == "GPL-3.0-or-later"
        assert entry["what"]
        assert entry["origin"]


def test_every_include_is_there_and_used():
    included = {
        name
        for path in BOOTFILES.glob("*.asm")
        for name in re.findall(r'^ *%include "(.+)"', path.read_text(), re.MULTILINE)
    }
    assert included == {path.name for path in BOOTFILES.glob("*.inc")}


@pytest.mark.parametrize("name", FILES)
def test_source_assembles_to_the_committed_bytes(tmp_path, name):
    entry = FILES[name]
    for source in (BOOTFILES / entry["source"], *BOOTFILES.glob("*.inc")):
        shutil.copy(source, tmp_path)
    subprocess.run(entry["assemble"], cwd=tmp_path, check=True)
    assert (tmp_path / name).read_bytes() == (BOOTFILES / name).read_bytes()


@pytest.mark.parametrize("name", FILES)
def test_manifest_digest(name):
    digest = hashlib.sha256((BOOTFILES / name).read_bytes()).hexdigest()
    assert digest == FILES[name]["sha256"]


def test_mbr_code_leaves_room_for_signature_and_table():
    assert len(bootcode.load_mbr_code()) == 440


def test_fat32_boot_code_fits_its_places():
    sector0, stage2, stage2_sector_number = bootcode.load_fat32_boot_code()
    assert len(sector0) == 512
    assert sector0[:3] == b"\xeb\x58\x90"
    assert not any(sector0[BPB])
    assert sector0[510:] == b"\x55\xaa"
    assert stage2
    assert len(stage2) % 512 == 0
    # mtools' mlabel overwrites 6-13; mkfs.fat and Windows reserve 32.
    assert stage2_sector_number >= 14
    assert stage2_sector_number + len(stage2) // 512 <= 32


def test_source_and_manifest_agree_about_the_place_of_stage2():
    source = (BOOTFILES / "fat32-vbr.asm").read_text()
    number = re.search(r"^STAGE2_SECTOR\s+equ\s+(\d+)", source, re.MULTILINE)
    assert int(number[1]) == bootcode.load_fat32_boot_code().stage2_sector_number


@pytest.fixture
def copied(tmp_path, monkeypatch):
    """bootfiles as an installed package has them: inside the package."""
    package = tmp_path / "mediamaker"
    shutil.copytree(BOOTFILES, package / "bootfiles")
    monkeypatch.setattr(bootcode, "__file__", str(package / "sources" / "bootcode.py"))
    return package / "bootfiles"


def test_package_data_are_found(copied):
    assert bootcode.find_bootfiles() == copied
    assert bootcode.load_mbr_code() == (BOOTFILES / "mbr.bin").read_bytes()


def test_altered_program_is_refused(copied):
    data = bytearray((copied / "mbr.bin").read_bytes())
    data[17] ^= 1
    (copied / "mbr.bin").write_bytes(data)
    with pytest.raises(ToolError, match=r"mbr\.bin is not the one.*expected sha256") as caught:
        bootcode.load_mbr_code()
    assert "git checkout" in caught.value.hint


def test_missing_program_is_refused(copied):
    (copied / "fat32-vbr.bin").unlink()
    with pytest.raises(ToolError, match=r"fat32-vbr\.bin: No such file"):
        bootcode.load_fat32_boot_code()


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("format = 2\n", "not a manifest of format 1"),
        ("format = 1\nfile = 3\n", "not a manifest of format 1"),
        ("format = 1\nfile = []\n", "does not name mbr.bin"),
        ("][", "MANIFEST.toml"),
    ],
)
def test_strange_manifest_is_refused(copied, text, said):
    (copied / "MANIFEST.toml").write_text(text)
    with pytest.raises(ToolError, match=said):
        bootcode.load_mbr_code()


def test_no_bootfiles_at_all(tmp_path, monkeypatch):
    monkeypatch.setattr(bootcode, "__file__", str(tmp_path / "a" / "b" / "bootcode.py"))
    with pytest.raises(ToolError, match="boot programs are missing"):
        bootcode.load_mbr_code()


def test_ntfs_boot_code_fits_its_place():
    code = bootcode.load_ntfs_boot_code()
    assert code[:3] == b"\xeb\x52\x90"
    assert not any(code[0x03:0x54])
    assert code[510:512] == b"\x55\xaa"
    assert 512 < len(code) <= 8192
    assert len(code) % 512 == 0


def test_exfat_boot_code_fits_its_places():
    code = bootcode.load_exfat_boot_code()
    assert code[:3] == b"\xeb\x76\x90"
    assert not any(code[3:120])
    assert code[510:512] == b"\x55\xaa"
    assert 512 < len(code) <= 512 + 8 * 508
