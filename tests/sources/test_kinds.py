# SPDX-License-Identifier: GPL-3.0-or-later
"""What a source is, what it boots on, and what is wrong with its loaders."""

import shutil
import struct
import subprocess
from pathlib import Path

import pytest

from mediamaker.errors import FormatError
from mediamaker.sources.kinds import inspect_source
from mediamaker.sources.loaders import BOOTMGR_SIZE_MAX, BootPath
from tests.hostile.iso9660_image import Iso9660Image

MEMTEST = Path("/usr/lib/memtest86+/memtest86+x64.iso")
GRUB_RESCUE = Path("/usr/lib/grub-rescue/grub-rescue-cdrom.iso")
X64, X86, ARM64, RISCV64 = 0x8664, 0x14C, 0xAA64, 0x5064
BOOTMGR = b"\xe9\xd5\x01\xeb" + bytes(1000)


def pe(machine: int, pe_offset: int = 0x80) -> bytes:
    head = b"MZ".ljust(0x3C, b"\0") + struct.pack("<I", pe_offset)
    return head.ljust(pe_offset, b"\0") + b"PE\0\0" + struct.pack("<H", machine) + bytes(100)


@pytest.fixture(scope="session")
def wims(tmp_path_factory):
    """An install.wim of two x64 editions, its parts, and a boot.wim; made by wimlib."""
    root = tmp_path_factory.mktemp("wims")
    content = root / "content"
    content.mkdir()
    (content / "file").write_bytes(b"content" * 1000)
    for number in range(3):
        (content / f"large{number}").write_bytes(bytes((number,)) * 700_000)
    install = root / "install.wim"
    for name in ("Home", "Pro"):
        command = "capture" if name == "Home" else "append"
        _wimlib(command, content, install, name, "--compress=none")
    for number in (1, 2):
        _wimlib("info", install, str(number), "--image-property", "WINDOWS/ARCH=9")
    (root / "small").mkdir()
    (root / "small/file").write_bytes(b"x")
    _wimlib("capture", root / "small", root / "boot.wim", "Setup")
    (root / "parts").mkdir()
    _wimlib("split", install, root / "parts/install.swm", "1")
    return root


def _wimlib(command, *arguments):
    subprocess.run(["wimlib-imagex", command, *arguments], check=True, capture_output=True)


@pytest.fixture
def windows(tmp_path, wims):
    """The tree of Windows media for x64."""
    root = tmp_path / "windows"
    files = {
        "bootmgr": BOOTMGR,
        "boot/bcd": b"regf",
        "boot/boot.sdi": b"sdi",
        "efi/boot/bootx64.efi": pe(X64),
        "efi/microsoft/boot/bcd": b"regf",
    }
    for name, data in files.items():
        path = root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(data)
    (root / "sources").mkdir()
    shutil.copy(wims / "boot.wim", root / "sources")
    shutil.copy(wims / "install.wim", root / "sources")
    return root


BIOS_PATH = BootPath("bios", "PC", "bootmgr")
UEFI_PATH = BootPath("uefi", "x64", "efi/boot/bootx64.efi")


def test_windows_setup(windows):
    found = inspect_source(windows)
    assert (found.kind, found.layout) == ("windows-setup", "mbr-fat32")
    assert found.architectures == ("x64",)
    assert found.boot_paths == (BIOS_PATH, UEFI_PATH)
    assert [path.serves for path in found.boot_paths] == ["BIOS PC", "UEFI x64"]
    assert found.warnings == ()
    assert found.reasons == ()
    assert found.install_wim.path_text == "sources/install.wim"
    assert [image.name for image in found.install_wim.wim.images] == ["Home", "Pro"]
    assert found.boot_wim.path_text == "sources/boot.wim"
    assert found.file_system == "folder"
    assert found.size == sum(p.stat().st_size for p in windows.rglob("*") if p.is_file())


def test_windows_setup_in_an_iso(windows, tmp_path):
    path = tmp_path / "windows.iso"
    subprocess.run(
        ["genisoimage", "-quiet", "-udf", "-V", "CCCOMA_X64FRE", "-o", path, windows], check=True
    )
    found = inspect_source(path)
    assert (found.kind, found.layout) == ("windows-setup", "mbr-fat32")
    assert (found.label, found.file_system) == ("CCCOMA_X64FRE", "udf")
    assert found.size == path.stat().st_size
    assert [image.name for image in found.install_wim.wim.images] == ["Home", "Pro"]
    assert found.boot_paths == (BIOS_PATH, UEFI_PATH)


def test_windows_pe(windows):
    (windows / "sources/install.wim").unlink()
    found = inspect_source(windows)
    assert (found.kind, found.layout) == ("windows-pe", "mbr-fat32")
    assert found.install_wim is None


def test_windows_that_is_for_uefi_only(windows):
    (windows / "bootmgr").unlink()
    (windows / "efi/boot/bootx64.efi").unlink()
    (windows / "efi/boot/bootaa64.efi").write_bytes(pe(ARM64))
    found = inspect_source(windows)
    assert (found.kind, found.layout) == ("windows-setup", "gpt-fat32")
    assert found.boot_paths == (BootPath("uefi", "arm64", "efi/boot/bootaa64.efi"),)
    assert found.warnings == ("bootmgr is missing: it won't boot under BIOS",)


def test_windows_7_has_no_uefi_loader(windows):
    (windows / "efi/boot/bootx64.efi").unlink()
    found = inspect_source(windows)
    assert (found.kind, found.layout) == ("windows-setup", "mbr-fat32")
    assert found.boot_paths == (BIOS_PATH,)
    assert any("efi/boot/bootx64.efi is missing" in warning for warning in found.warnings)


@pytest.mark.parametrize(
    ("name", "data", "says"),
    [
        ("bootmgr", BOOTMGR[:3].decode("latin-1").encode(), "was it copied as text?"),
        ("bootmgr", b"", "it has 0 bytes: it won't boot under BIOS"),
        ("bootmgr", b"MZ", "expected it to begin with 0xe9, got 0x4d"),
        ("bootmgr", b"\xe9" * (BOOTMGR_SIZE_MAX + 1), "522241 bytes, at most 522240"),
        ("efi/boot/bootx64.efi", b"", "it has 0 bytes, which is no program"),
        ("efi/boot/bootx64.efi", b"\0" * 100, r"expected b'MZ', got b'\x00\x00'"),
        ("efi/boot/bootx64.efi", pe(X64)[:0x82], "its PE header lies at 0x80, past its 130 bytes"),
        ("efi/boot/bootx64.efi", pe(X64).replace(b"PE\0\0", b"NE\0\0"), "not a UEFI program"),
        ("efi/boot/bootx64.efi", pe(X86), "a program for x86: it won't start; it should be called"),
        ("efi/boot/bootx64.efi", pe(RISCV64), "a program for machine 0x5064: it won't start"),
    ],
)
def test_a_useless_loader_is_a_warning_and_does_not_count(name, data, says, windows):
    (windows / name).write_bytes(data)
    found = inspect_source(windows)
    assert found.kind == "windows-setup"
    (warning,) = found.warnings
    assert warning.startswith(name)
    assert says in warning
    assert found.boot_paths == ((UEFI_PATH,) if name == "bootmgr" else (BIOS_PATH,))
    assert found.layout == ("gpt-fat32" if name == "bootmgr" else "mbr-fat32")


@pytest.mark.parametrize("name", ["boot/bcd", "boot/boot.sdi", "efi/microsoft/boot/bcd"])
def test_what_the_boot_manager_needs(name, windows):
    (windows / name).unlink()
    assert all(f"{name} is missing" in warning for warning in inspect_source(windows).warnings)
    assert inspect_source(windows).warnings


def test_names_are_found_whatever_their_case(windows):
    for path in ("bootmgr", "sources/install.wim", "efi/boot/bootx64.efi"):
        source = windows / path
        source.rename(source.with_name(source.name.upper()))
    found = inspect_source(windows)
    assert found.kind == "windows-setup"
    assert [path.path for path in found.boot_paths] == ["BOOTMGR", "efi/boot/BOOTX64.EFI"]


def test_split_install_images(windows, wims):
    (windows / "sources/install.wim").unlink()
    parts = sorted((wims / "parts").iterdir())
    assert len(parts) > 1
    for part in parts:
        shutil.copy(part, windows / "sources")
    found = inspect_source(windows)
    assert found.kind == "windows-setup"
    assert found.install_wim.path_text == "sources/install.swm"
    assert found.install_wim.wim.part_count == len(parts)
    (windows / "sources" / parts[-1].name).unlink()
    with pytest.raises(FormatError, match=rf"{len(parts)} parts, but {parts[-1].name} is missing"):
        inspect_source(windows)


def test_a_part_under_the_name_of_the_whole(windows, wims):
    shutil.copy(wims / "parts/install2.swm", windows / "sources/install.wim")
    with pytest.raises(FormatError, match=r"part 2 of .* expected the whole one"):
        inspect_source(windows)


def test_a_damaged_install_wim_is_named(windows):
    (windows / "sources/install.wim").write_bytes(b"garbage" * 100)
    with pytest.raises(FormatError, match=r"sources/install\.wim is not a WIM"):
        inspect_source(windows)


def test_media_for_two_architectures(windows):
    for name in ("x64", "x86"):
        shutil.copytree(windows / "sources", windows / name / "sources")
    shutil.rmtree(windows / "sources")
    found = inspect_source(windows)
    assert found.kind == "windows-setup"
    assert [wim.path_text for wim in found.install_wims] == [
        "x64/sources/install.wim",
        "x86/sources/install.wim",
    ]


def test_debian_s_memtest():
    found = inspect_source(MEMTEST)
    assert (found.kind, found.layout) == ("hybrid", "raw")
    assert found.architectures == ("x64",)
    assert [path.serves for path in found.boot_paths] == ["BIOS PC", "UEFI x64"]


def test_debian_s_grub_rescue():
    found = inspect_source(GRUB_RESCUE)
    assert (found.kind, found.layout) == ("hybrid", "raw")
    assert [path.serves for path in found.boot_paths] == ["BIOS PC"]


def test_a_uefi_tree(tmp_path):
    root = tmp_path / "tree"
    (root / "EFI/BOOT").mkdir(parents=True)
    (root / "EFI/BOOT/BOOTX64.EFI").write_bytes(pe(X64))
    (root / "EFI/BOOT/BOOTIA32.EFI").write_bytes(pe(X86))
    found = inspect_source(root)
    assert (found.kind, found.layout) == ("uefi-tree", "gpt-fat32")
    assert found.architectures == ("x64", "x86")
    assert found.warnings == ("there is no loader for BIOS: it boots under UEFI only",)


def test_unbootable_has_reasons(tmp_path, windows):
    (tmp_path / "photos").mkdir()
    found = inspect_source(tmp_path / "photos")
    assert (found.kind, found.layout, found.boot_paths) == ("unbootable", None, ())
    assert "no sources/boot.wim" in found.reasons[0]
    (windows / "bootmgr").unlink()
    (windows / "efi/boot/bootx64.efi").write_bytes(b"")
    found = inspect_source(windows)
    assert found.kind == "unbootable"
    assert "no sound bootmgr" in found.reasons[0]


def test_an_iso_that_boots_only_from_a_cd(tmp_path):
    root = tmp_path / "tree"
    root.mkdir()
    (root / "boot.img").write_bytes(b"\xfa" * 2048)
    path = tmp_path / "test.iso"
    subprocess.run(
        ["genisoimage", "-quiet", "-b", "boot.img", "-no-emul-boot", "-o", path, root], check=True
    )
    found = inspect_source(path)
    assert found.kind == "unbootable"
    assert found.reasons[-1].endswith("it boots only from a CD or DVD (El Torito)")
    path.write_bytes(Iso9660Image().build())
    assert inspect_source(path).reasons[-1].endswith("it boots from nothing")
