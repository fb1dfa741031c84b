# SPDX-License-Identifier: GPL-3.0-or-later
"""GRUB as a judge: what it hashes is what sha256sum hashes, and it can say no."""

import hashlib

import manager_disk as md
import pytest
from bootcode_disk import patch_disk, run
from standin.grub_judge import grub_find, grub_hashes
from standin.windows_image import make_windows_wim

from mediamaker.errors import UsageError

WINLOAD = r"\Windows\System32\winload.efi"
WINRE = r"\Recovery\WindowsRE\Winre.wim"


@pytest.fixture(scope="module")
def wim(tmp_path_factory):
    path = tmp_path_factory.mktemp("wim") / "install.wim"
    make_windows_wim(path, token="hashed", winre_token="hashed-re")
    return path


@pytest.fixture(scope="module")
def digests(wim, tmp_path_factory):
    folder = tmp_path_factory.mktemp("files")
    names = ("/Windows/System32/winload.efi", "/Windows/System32/Recovery/Winre.wim")
    run("wimlib-imagex", "extract", wim, "1", *names, f"--dest-dir={folder}", "--no-acls")
    return {
        path: hashlib.sha256((folder / path.rpartition("\\")[2]).read_bytes()).hexdigest()
        for path in (WINLOAD, WINRE)
    }


@pytest.mark.parametrize(("table", "firmware"), [("bios", "bios"), ("uefi", "uefi")])
def test_grub_hashes_what_is_on_the_disk(wim, digests, tmp_path, table, firmware):
    disk = md.make_disk(tmp_path / "disk", table, wim)
    found = grub_find(disk.path, [WINLOAD, WINRE, "/gone"], firmware=firmware)
    kind = "gpt" if table == "uefi" else "msdos"
    assert found["/gone"] is None
    assert {path: item.sha256 for path, item in found.items() if item} == digests
    assert found[WINLOAD].device.endswith(f",{kind}2")
    assert found[WINRE].device.endswith(f",{kind}3")
    assert found[WINRE].file_system == "ntfs"


def test_one_bit_shows(wim, digests, tmp_path):
    disk = md.make_disk(tmp_path / "disk", "uefi", wim).damage(b"MEDIAMAKER-LOAD!", distance=-500)
    hashes = grub_hashes(disk.path, [WINLOAD, WINRE])
    assert hashes[WINRE] == digests[WINRE]
    assert hashes[WINLOAD] != digests[WINLOAD]
    patch_disk(disk.path, md.PLACES["recovery"].start, bytes(512))
    assert grub_hashes(disk.path, [WINRE]) == {WINRE: None}


def test_what_grub_can_t_be_asked(tmp_path):
    with pytest.raises(UsageError, match="GRUB's language"):
        grub_hashes(tmp_path / "none", ["/a'; halt; '"])
    with pytest.raises(UsageError, match="4096-byte sectors"):
        grub_hashes(tmp_path / "none", ["/a"], sector_size=4096)
