# SPDX-License-Identifier: GPL-3.0-or-later
r"""A stand-in install.wim: the names of a real Windows tree, contents of our own.

What a test can see of it later: the boot programs in ``Windows/Boot`` are the stand-in boot
managers (``boot_manager/``), which find and check ``\Windows\System32\winload.*`` by the boot
store and then say its token. Names from boot-facts.md 2.2, 2.4 and 5, XML from real images.
"""

from __future__ import annotations

import os
import shutil
import struct
import tempfile
from collections.abc import Iterator
from itertools import chain
from pathlib import Path
from typing import Literal

from standin import content, hives, wim
from standin.ntfs_dress import dress_volume, make_volume
from standin.programs import build_bios_manager, build_loader, build_uefi_manager
from standin.tool import run_tool

ImageArch = Literal["x86_64", "x86", "arm64"]
Scale = Literal["small", "big"]

BUILD = wim.BUILD
LANGUAGES = ("en-US", "de-DE")
EDITIONS = (
    ("Windows 11 Pro", "Professional"),
    ("Windows 11 Home", "Core"),
    ("Windows 11 Education", "Education"),
)
_CONTENT_ARCH = {"x86_64": "x64", "x86": "x86", "arm64": "arm64"}
_WIM_ARCH = {"x86_64": 9, "x86": 0, "arm64": 12}
_FILLER_SIZES: dict[Scale, int] = {"small": 4_000_000, "big": 1_500_000_000}
_VOLUME_SIZES: dict[Scale, int] = {"small": 96 << 20, "big": 2 << 30}
_UEFI_APPLICATION, _BOOT_APPLICATION = 10, 16
_FILE_TIME = 0x01DA_8412_0000_0000


def make_windows_wim(
    path: Path,
    *,
    token: str,
    winre_token: str,
    arch: ImageArch = "x86_64",
    images: int = 1,
    with_winre: bool = True,
    scale: Scale = "small",
    with_ntfs_metadata: bool = False,
) -> None:
    """Writes the WIM file at ``path``.

    The loaders of the first image say ``token``, those of image 2 ``token-2`` and so on: what
    boots tells which image was applied. Small is 10 MB of files, big 1.5 GB. With
    ``with_ntfs_metadata`` images are captured from NTFS volumes and have what only those hold;
    this mounts volumes, which root may.

    Raises:
        ToolError: a program is missing or failed.
        UsageError: an impossible token.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(prefix="windows-image-", dir=path.parent) as name:
        work_dir = Path(name)
        winre = work_dir / "Winre.wim"
        if with_winre:
            make_winre_wim(winre, token=winre_token, arch=arch)
        root = work_dir / "root"
        wim.write_files(root, chain(_boot_files(arch), _system_files(arch)))
        filler = wim._filler_files(path.name, _FILLER_SIZES[scale])
        wim.write_files(root, chain(_user_files(), filler))
        _add_links(root)
        for directory in ("Windows/Temp", "Windows/Logs", "PerfLogs"):
            (root / directory).mkdir()
        if with_winre:
            target = root / "Windows/System32/Recovery/Winre.wim"
            shutil.copyfile(winre, target)
        unfinished = work_dir / "install.wim"
        for number in range(1, images + 1):
            said = token if number == 1 else f"{token}-{number}"
            edition_name, edition = EDITIONS[(number - 1) % len(EDITIONS)]
            files = chain(_loader_files(said, arch), _hive_files(edition_name, edition))
            wim.write_files(root, files)
            source = root
            if with_ntfs_metadata:
                source = _dressed(root, work_dir, size=_VOLUME_SIZES[scale])
            _capture(
                source,
                unfinished,
                name=edition_name,
                description=edition_name,
                edition=edition,
                arch=arch,
                compression=("LZX" if scale == "small" else "XPRESS") if number == 1 else None,
            )
        unfinished.replace(path)


def _dressed(root: Path, work_dir: Path, *, size: int) -> Path:
    """An NTFS volume with the files below ``root`` and what only NTFS has."""
    plain, volume = work_dir / "plain.wim", work_dir / "volume.img"
    plain.unlink(missing_ok=True)
    volume.unlink(missing_ok=True)
    wim.set_times(root)
    options = ["--compress=none", "--no-acls", "--norpfix", "--quiet"]
    run_tool("wimlib-imagex", "capture", str(root), str(plain), *options, package="wimtools")
    make_volume(volume, size=size)
    run_tool("wimlib-imagex", "apply", str(plain), str(volume), "--quiet", package="wimtools")
    dress_volume(volume, work_dir / "mounted")
    return volume


def make_winre_wim(path: Path, *, token: str, arch: ImageArch = "x86_64") -> None:
    """A Winre.wim that can be started from a ramdisk; its image's DESCRIPTION is ``token``."""
    with tempfile.TemporaryDirectory(prefix="winre-", dir=path.parent) as name:
        root = Path(name) / "root"
        wim.write_files(root, chain(_loader_files(token, arch), _winre_files(arch)))
        _capture(
            root,
            path,
            name=f"Microsoft Windows Recovery Environment ({_CONTENT_ARCH[arch]})",
            description=token,
            edition="WindowsPE",
            arch=arch,
            compression="LZX",
            is_boot=True,
        )


def _program(label: str, size: int, arch: ImageArch, *, subsystem: int = 3) -> bytes:
    return content.program(label, size, arch=_CONTENT_ARCH[arch], subsystem=subsystem)


def _loader_files(token: str, arch: ImageArch) -> Iterator[tuple[str, bytes]]:
    for directory in ("Windows/System32", "Windows/System32/boot"):
        for name in ("winload.efi", "winload.exe"):
            frame = _program(f"{directory}/{name}", 321_987, arch, subsystem=_BOOT_APPLICATION)
            yield f"{directory}/{name}", build_loader(frame, token)


def _boot_files(arch: ImageArch) -> Iterator[tuple[str, bytes]]:
    """What bcdboot lays down; only x86_64 has programs that start."""
    boot = "Windows/Boot"
    for folder, suffix, generation in (("EFI", "", "2011"), ("EFI_EX", "_EX", "2023")):
        if arch == "x86_64":
            program = build_uefi_manager(generation)
        else:
            program = _program("bootmgfw" + suffix, 200_000, arch, subsystem=_UEFI_APPLICATION)
        yield f"{boot}/{folder}/bootmgfw{suffix}.efi", program
        body = _program(f"bootmgr{suffix}.efi", 190_000, arch, subsystem=_UEFI_APPLICATION)
        yield f"{boot}/{folder}/bootmgr{suffix}.efi", body
    memtest = _program("memtest.efi", 118_784, arch, subsystem=_UEFI_APPLICATION)
    yield f"{boot}/EFI/memtest.efi", memtest
    yield f"{boot}/EFI/boot.stl", content.noise("boot.stl", 10_449)
    yield f"{boot}/EFI/winsipolicy.p7b", content.noise("winsipolicy.p7b", 9_990)
    for name in ("kd_02_10df.dll", "kd_0C_8086.dll"):
        yield f"{boot}/EFI/{name}", _program(name, 30_000, arch)
    if arch != "arm64":
        yield f"{boot}/PCAT/bootmgr", build_bios_manager()
        yield f"{boot}/PCAT/bootnxt", b"\x01"
        for name in ("memtest.exe", "bootuwf.dll", "bootvhd.dll", "bootspaces.dll"):
            yield f"{boot}/PCAT/{name}", _program(name, 90_000, arch, subsystem=_BOOT_APPLICATION)
    for language in LANGUAGES:
        for name in ("bootmgfw.efi.mui", "bootmgr.efi.mui", "memtest.efi.mui"):
            yield f"{boot}/EFI/{language}/{name}", _program(language + name, 30_000, arch)
        if arch != "arm64":
            for name in ("bootmgr.exe.mui", "memtest.exe.mui"):
                yield f"{boot}/PCAT/{language}/{name}", _program(language + name, 20_000, arch)
        yield f"{boot}/Resources/{language}/bootres.dll.mui", _program(language, 9_000, arch)
    yield f"{boot}/Resources/bootres.dll", _program("bootres.dll", 92_472, arch)
    for font in ("segoe_slboot", "segmono_boot", "wgl4_boot", "jpn_boot"):
        yield f"{boot}/Fonts/{font}.ttf", content.font(font, 60_000)
        yield f"{boot}/FONTS_EX/{font}_EX.ttf", content.font(font + "_EX", 60_000)
    for firmware in ("EFI", "PCAT"):
        yield f"{boot}/DVD/{firmware}/boot.sdi", content.ramdisk_image()
        yield f"{boot}/DVD/{firmware}/BCD", content.hive(f"DVD/{firmware}/BCD", 16_384)


def _system_files(arch: ImageArch) -> Iterator[tuple[str, bytes]]:
    system = "Windows/System32"
    for name in ("winresume.efi", "winresume.exe", "boot/winresume.efi", "boot/winresume.exe"):
        yield f"{system}/{name}", _program(name, 150_000, arch, subsystem=_BOOT_APPLICATION)
    for name in ("ntoskrnl.exe", "hal.dll", "ntdll.dll", "kernel32.dll", "smss.exe", "bcdboot.exe"):
        yield f"{system}/{name}", _program(name, 220_000, arch)
    for language in LANGUAGES:
        for name in ("winload.efi.mui", "winload.exe.mui"):
            yield f"{system}/{language}/{name}", _program(language + name, 40_000, arch)
    yield f"{system}/config/BCD-Template", content.hive("BCD-Template", 28_672)
    yield f"{system}/Recovery/ReAgent.xml", _reagent_xml()
    yield f"{system}/drivers/etc/hosts", content.text("hosts", 824)
    yield "Windows/explorer.exe", _program("explorer.exe", 300_000, arch)
    yield "Windows/System.ini", content.text("System.ini", 219)
    yield "Program Files/Common Files/desktop.ini", content.text("desktop.ini", 174)


def _hive_files(name: str, edition: str) -> Iterator[tuple[str, bytes]]:
    version: hives.Tree = {
        "ProductName": hives.text(name),
        "EditionID": hives.text(edition),
        "InstallationType": hives.text("Client"),
        "CurrentBuild": hives.text(str(BUILD)),
        "CurrentBuildNumber": hives.text(str(BUILD)),
        "CurrentVersion": hives.text("6.3"),
        "CurrentMajorVersionNumber": (hives.DWORD, struct.pack("<I", 10)),
        "SystemRoot": hives.text("C:\\Windows"),
    }
    software: hives.Tree = {"Microsoft": {"Windows NT": {"CurrentVersion": version}}}
    system: hives.Tree = {
        "Select": {"Current": (hives.DWORD, struct.pack("<I", 1))},
        "Setup": {"SystemSetupInProgress": (hives.DWORD, struct.pack("<I", 1))},
        "ControlSet001": {"Control": {"Session Manager": {}}, "Services": {}},
    }
    for label, tree in (("SOFTWARE", software), ("SYSTEM", system)):
        body = hives.make_hive(tree, root_name="ROOT", minor_version=5, list_kind="lh")
        yield f"Windows/System32/config/{label}", body


def _user_files() -> Iterator[tuple[str, bytes]]:
    yield "Users/Default/NTUSER.DAT", content.hive("NTUSER.DAT", 262_144)
    yield "Users/Public/Documents/Über uns - 説明.txt", content.text("über", 333)
    yield "Users/Public/Documents/empty.txt", b""
    yield "Users/Public/desktop.ini", content.text("public", 174)
    yield "Windows/WinSxS/amd64_boot_31bf3856ad364e35/notes.txt", content.text("WinSxS", 5_000)


def _winre_files(arch: ImageArch) -> Iterator[tuple[str, bytes]]:
    for name in ("ntoskrnl.exe", "winpeshl.exe", "wpeinit.exe", "startrep.exe"):
        yield f"Windows/System32/{name}", _program("winre/" + name, 120_000, arch)
    yield "sources/recovery/RecEnv.exe", _program("RecEnv.exe", 200_000, arch)
    # A real one is 500 MB and more; this one at least has more than a cluster run.
    yield "Windows/System32/config/SOFTWARE", content.hive("winre SOFTWARE", 900_000)


def _add_links(root: Path) -> None:
    """Hard links and links that become reparse points, as the real tree has in thousands."""
    os.link(
        root / "Windows/WinSxS/amd64_boot_31bf3856ad364e35/notes.txt",
        root / "Windows/System32/notes.txt",
    )
    os.link(
        root / "Windows/System32/hal.dll",
        root / "Windows/WinSxS/amd64_boot_31bf3856ad364e35/hal.dll",
    )
    (root / "Users/Default User").symlink_to("Default")
    (root / "Documents and Settings").symlink_to("Users")


def _reagent_xml() -> bytes:
    """As an image has it before its first start: disabled (boot-facts.md 5)."""
    place = 'path="" id="0" offset="0" guid="{00000000-0000-0000-0000-000000000000}"'
    lines = (
        "<?xml version='1.0' encoding='utf-8'?>",
        '<WindowsRE version="2.0">',
        '  <WinreBCD id=""/>',
        f"  <WinreLocation {place}/>",
        f"  <ImageLocation {place}/>",
        f'  <PBRImageLocation {place} index="0"/>',
        f'  <PBRCustomImageLocation {place} index="0"/>',
        '  <InstallState state="0"/>',
        '  <OsInstallAvailable state="0"/>',
        '  <CustomImageAvailable state="0"/>',
        '  <WinREStaged state="0"/>',
        '  <ScheduledOperation state="4"/>',
        '  <OperationParam path=""/>',
        '  <OperationPermanent state="0"/>',
        '  <OsBuildVersion path=""/>',
        '  <OemTool state="0"/>',
        "</WindowsRE>",
    )
    return "\r\n".join(lines).encode() + b"\r\n"


def _capture(
    source: Path,
    output: Path,
    *,
    name: str,
    description: str,
    edition: str,
    arch: ImageArch,
    compression: str | None,
    is_boot: bool = False,
) -> None:
    """One more image; ``compression`` is given for the first, which makes the file.

    ``source`` is a directory or an NTFS volume, which keeps all that it has.
    """
    if source.is_dir():
        wim.set_times(source)
    is_pe = edition == "WindowsPE"
    properties = {
        "DISPLAYNAME": name,
        "DISPLAYDESCRIPTION": description,
        "FLAGS": "9" if is_pe else edition,
        "WINDOWS/ARCH": str(_WIM_ARCH[arch]),
        "WINDOWS/PRODUCTNAME": "Stand-in for a Windows operating system",
        "WINDOWS/EDITIONID": edition,
        "WINDOWS/INSTALLATIONTYPE": "WindowsPE" if is_pe else "Client",
        "WINDOWS/PRODUCTTYPE": "WinNT",
        "WINDOWS/PRODUCTSUITE": "Terminal Server",
        "WINDOWS/LANGUAGES/DEFAULT": LANGUAGES[0],
        "WINDOWS/VERSION/MAJOR": "10",
        "WINDOWS/VERSION/MINOR": "0",
        "WINDOWS/VERSION/BUILD": str(BUILD),
        "WINDOWS/VERSION/SPBUILD": "1742",
        "WINDOWS/VERSION/SPLEVEL": "0",
        "WINDOWS/VERSION/BRANCH": "ge_release",
        "WINDOWS/SYSTEMROOT": "WINDOWS",
        "CREATIONTIME/HIGHPART": f"0x{_FILE_TIME >> 32:08X}",
        "CREATIONTIME/LOWPART": f"0x{_FILE_TIME & 0xFFFF_FFFF:08X}",
    }
    for number, language in enumerate(LANGUAGES[:1] if is_pe else LANGUAGES, start=1):
        properties[f"WINDOWS/LANGUAGES/LANGUAGE[{number}]"] = language
    arguments = ["append" if compression is None else "capture", "--quiet", str(source)]
    arguments += [str(output), name, description, "--norpfix"]
    if source.is_dir():
        arguments.append("--no-acls")
    if compression is not None:
        arguments.append(f"--compress={compression}")
    if is_boot:
        arguments.append("--boot")
    arguments += [f"--image-property={key}={value}" for key, value in properties.items()]
    run_tool("wimlib-imagex", *arguments, package="wimtools")
