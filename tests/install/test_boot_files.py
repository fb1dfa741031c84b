# SPDX-License-Identifier: GPL-3.0-or-later
"""What is laid down on the system volume, and that it is the image's own files."""

from dataclasses import replace

import pytest

from mediamaker.errors import FormatError, SourceError
from mediamaker.install.boot_files import (
    extract_boot_files,
    extract_recovery_files,
    plan_boot_files,
)
from mediamaker.install.image_facts import image_facts
from tests.install.windows_rig import WINRE, boot_contents, make_image, program
from tests.wim.wim_rig import run


@pytest.fixture(scope="module")
def path(tmp_path_factory):
    return make_image(tmp_path_factory.mktemp("boot"))


HOME = "EFI/Microsoft/Boot"
# Targets as bcdboot lays them down, each with the file of the image that it is.
UEFI = {
    f"{HOME}/bootmgfw.efi": "EFI/bootmgfw.efi",
    f"{HOME}/bootmgr.efi": "EFI/bootmgr.efi",
    f"{HOME}/memtest.efi": "EFI/memtest.efi",
    f"{HOME}/boot.stl": "EFI/boot.stl",
    f"{HOME}/en-US/bootmgfw.efi.mui": "EFI/en-US/bootmgfw.efi.mui",
    f"{HOME}/Fonts/segoe_slboot.ttf": "Fonts/segoe_slboot.ttf",
    f"{HOME}/Fonts/wgl4_boot.ttf": "Fonts/wgl4_boot.ttf",
    f"{HOME}/Resources/bootres.dll": "Resources/bootres.dll",
    f"{HOME}/Resources/en-US/bootres.dll.mui": "Resources/en-US/bootres.dll.mui",
    "EFI/Boot/bootx64.efi": "EFI/bootmgfw.efi",
}
NEWER = {
    f"{HOME}/bootmgfw.efi": "EFI_EX/bootmgfw_EX.efi",
    f"{HOME}/bootmgr.efi": "EFI_EX/bootmgr_EX.efi",
    f"{HOME}/Fonts/segoe_slboot.ttf": "FONTS_EX/segoe_slboot_EX.ttf",
    f"{HOME}/Fonts/wgl4_boot.ttf": "FONTS_EX/wgl4_boot_EX.ttf",
    "EFI/Boot/bootx64.efi": "EFI_EX/bootmgfw_EX.efi",
}
BIOS = {
    "bootmgr": "PCAT/bootmgr",
    "bootnxt": "PCAT/bootnxt",
    "Boot/memtest.exe": "PCAT/memtest.exe",
    "Boot/bootuwf.dll": "PCAT/bootuwf.dll",
    "Boot/de-DE/bootmgr.exe.mui": "PCAT/de-DE/bootmgr.exe.mui",
    "Boot/Fonts/segoe_slboot.ttf": "Fonts/segoe_slboot.ttf",
    "Boot/Fonts/wgl4_boot.ttf": "Fonts/wgl4_boot.ttf",
    "Boot/Resources/bootres.dll": "Resources/bootres.dll",
    "Boot/Resources/en-US/bootres.dll.mui": "Resources/en-US/bootres.dll.mui",
}


@pytest.mark.parametrize(
    ("firmware", "generation", "expected"),
    [
        ("uefi", "2011", UEFI),
        ("uefi", "2023", UEFI | NEWER),
        ("bios", "2011", BIOS),
        ("bios", "2023", BIOS),
    ],
)
def test_targets_and_contents(tmp_path, path, firmware, generation, expected):
    facts = image_facts([path], 1)
    files = extract_boot_files([path], facts, firmware, tmp_path, generation=generation)
    contents = boot_contents()
    assert {"/".join(file.target): file.file.read_bytes() for file in files} == {
        target: contents[f"Windows/Boot/{name}"] for target, name in expected.items()
    }
    planned = plan_boot_files(facts, firmware, generation=generation)
    assert [file.target for file in planned] == [file.target for file in files]
    assert [file.size for file in planned] == [file.file.stat().st_size for file in files]


@pytest.mark.parametrize(
    ("architecture", "name"), [("x86", "bootia32.efi"), ("arm64", "bootaa64.efi")]
)
def test_the_fallback_name(path, architecture, name):
    facts = replace(image_facts([path], 1), architecture=architecture)
    targets = {file.target for file in plan_boot_files(facts, "uefi")}
    assert ("EFI", "Boot", name) in targets


def test_an_architecture_without_a_fallback_name(path):
    facts = replace(image_facts([path], 1), architecture="ia64")
    with pytest.raises(SourceError, match="ia64"):
        plan_boot_files(facts, "uefi")


def test_no_boot_manager(tmp_path):
    path = make_image(tmp_path, files=boot_contents(without=("EFI", "EFI_EX")))
    with pytest.raises(SourceError, match="no boot files for UEFI"):
        extract_boot_files([path], image_facts([path], 1), "uefi", tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_recovery_files(tmp_path, path):
    files = extract_recovery_files([path], image_facts([path], 1), tmp_path)
    assert files.winre.read_bytes() == b"not really a WIM" * 1000
    assert files.sdi.read_bytes() == boot_contents()["Windows/Boot/DVD/EFI/boot.sdi"]


def test_an_image_without_recovery(tmp_path):
    path = make_image(tmp_path, files={"Windows/x": b"x"})
    files = extract_recovery_files([path], image_facts([path], 1), tmp_path)
    assert (files.winre, files.sdi) == (None, None)


def test_from_a_split_wim(tmp_path):
    big = {WINRE: bytes(range(256)) * 8192, "Windows/Boot/EFI/bootmgfw.efi": program("x") * 4000}
    path = make_image(tmp_path, files=boot_contents() | big, options=["--compress=none"])
    run("wimlib-imagex", "split", path, tmp_path / "s.swm", "1")
    parts = sorted(tmp_path.glob("s*.swm"), key=lambda part: (len(part.name), part))
    assert len(parts) > 1
    facts = image_facts(parts, 1)
    files = extract_boot_files(parts, facts, "uefi", tmp_path)
    found = {file.target[-1]: file.file.read_bytes() for file in files}
    assert found["bootx64.efi"] == big["Windows/Boot/EFI/bootmgfw.efi"]
    assert extract_recovery_files(parts, facts, tmp_path).winre.read_bytes() == big[WINRE]


def test_a_damaged_boot_file(tmp_path):
    marker = b"a text that is easy to find " * 4000
    path = make_image(
        tmp_path,
        files=boot_contents() | {"Windows/Boot/EFI/bootmgfw.efi": marker},
        options=["--compress=none"],
    )
    data = path.read_bytes()
    assert data.count(marker[:4096]) >= 1
    path.write_bytes(data.replace(marker[:28] * 100, b"X" + (marker[:28] * 100)[1:], 1))
    with pytest.raises(FormatError, match=r"damaged.*SHA-1"):
        extract_boot_files([path], image_facts([path], 1), "uefi", tmp_path)
