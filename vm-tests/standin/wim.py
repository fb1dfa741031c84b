# SPDX-License-Identifier: GPL-3.0-or-later
"""boot.wim and install.wim of the stand-in ISO, written by wimlib.

wimlib-imagex is the author of the format here, so our WIM reader and splitter meet files that
another implementation made. Layouts differ on purpose: the small files are rewritten in one run
(resources in order, without gaps), the big one grows image by image as DISM's /Append-Image does
(metadata in between, stale tables left as gaps).
"""

from __future__ import annotations

import os
import shutil
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from itertools import chain
from pathlib import Path

from standin import content
from standin.tool import FILE_EPOCH, run_tool

BUILD = 26100
_WIM_ARCH = {"x64": 9, "x86": 0, "arm64": 12}
_FILE_TIME = 0x01DA_8412_0000_0000
"""FILETIME in April 2024, in the XML of each image."""


@dataclass(frozen=True, slots=True)
class Edition:
    """One image: where its files are and what its XML says."""

    name: str
    edition_id: str
    installation_type: str
    directory: Path


def write_files(directory: Path, files: Iterable[tuple[str, bytes]]) -> None:
    """Writes ``files`` below ``directory``, each with a time of its own."""
    for path, body in files:
        target = directory / path
        target.parent.mkdir(parents=True, exist_ok=True)
        target.write_bytes(body)
    set_times(directory)


def set_times(directory: Path) -> None:
    """Gives every file and directory a fixed time that differs from its neighbours'."""
    paths = [directory, *directory.rglob("*")]
    for path in sorted(paths, reverse=True):
        # Odd and even seconds: FAT keeps two-second steps, and must not round up.
        stamp = FILE_EPOCH + sum(path.relative_to(directory).as_posix().encode()) * 61
        os.utime(path, (stamp, stamp), follow_symlinks=False)


def build_boot_wim(output: Path, work_dir: Path, *, arch: str, filler_size: int = 0) -> None:
    """Two images, the second bootable; ``filler_size`` bytes of noise make it as big as wanted."""
    directory = work_dir / "boot"
    compression = "none" if filler_size else "LZX"
    write_files(directory, chain(_windows_pe_files(arch), _filler_files("boot.wim", filler_size)))
    first = Edition(f"Microsoft Windows PE ({arch})", "WindowsPE", "WindowsPE", directory)
    _append(output, first, arch=arch, compression=compression)
    write_files(directory, _windows_setup_files(arch))
    second = Edition(f"Microsoft Windows Setup ({arch})", "WindowsPE", "WindowsPE", directory)
    _append(output, second, arch=arch, is_boot=True, is_update=True)
    shutil.rmtree(directory)
    _finish(output, "boot.wim", image_count=2, is_stored=compression == "none")


def build_install_wim(
    output: Path, work_dir: Path, boot_wim: Path, *, arch: str, filler_size: int
) -> None:
    """Three editions that share most files: LZX up to 100 MB of filler, above that stored."""
    directory = work_dir / "install"
    compression = "none" if filler_size > 100_000_000 else "LZX"
    winre = directory / "Windows/System32/Recovery/Winre.wim"
    winre.parent.mkdir(parents=True)
    _wimlib("export", str(boot_wim), "1", str(winre), "Microsoft Windows Recovery Environment")
    _fix_guid(winre, "winre.wim")
    write_files(directory, chain(_installed_files(arch), _filler_files("install.wim", filler_size)))
    editions = (
        ("Windows 11 Home", "Core"),
        ("Windows 11 Education", "Education"),
        ("Windows 11 Pro", "Professional"),
    )
    for index, (name, edition_id) in enumerate(editions):
        own = f"Windows/System32/Licenses/{edition_id}/license.rtf"
        write_files(directory, [(own, content.text(edition_id, 20_000))])
        edition = Edition(name, edition_id, "Client", directory)
        first_compression = compression if index == 0 else None
        _append(output, edition, arch=arch, compression=first_compression, is_update=index > 0)
        shutil.rmtree((directory / own).parent)
    shutil.rmtree(directory)
    is_stored = compression == "none"
    _finish(output, "install.wim", image_count=len(editions), is_stored=is_stored)


def build_big_install_wim(output: Path, work_dir: Path, *, arch: str) -> None:
    """Over 4 GiB in five stored images, almost all of it holes both here and in the file.

    After each image the zeros just written become holes again: never is more than one image's
    worth of them on the disk or in the page cache. One capture of all took twice the time.
    """
    names = (
        ("Windows 11 Home", "Core"),
        ("Windows 11 Home Single Language", "CoreSingleLanguage"),
        ("Windows 11 Education", "Education"),
        ("Windows 11 Pro", "Professional"),
        ("Windows 11 Pro for Workstations", "ProfessionalWorkstation"),
    )
    for index, (name, edition_id) in enumerate(names):
        directory = work_dir / f"big-{edition_id}"
        write_files(directory, _installed_files(arch))
        payload = directory / f"Windows/System32/DriverStore/payload-{edition_id}.bin"
        payload.parent.mkdir(parents=True, exist_ok=True)
        # Sizes differ: equal ones would make wimlib read each blob twice to compare.
        _write_sparse(payload, 985_000_000 + 30_011 * index)
        set_times(directory)
        edition = Edition(name, edition_id, "Client", directory)
        compression = "none" if index == 0 else None
        _append(output, edition, arch=arch, compression=compression)
        dig_holes(output)
        shutil.rmtree(directory)
    _finish(output, "install.wim", image_count=len(names), is_stored=True)


def dig_holes(path: Path) -> None:
    """Turns runs of zeros into holes, where the file system can."""
    run_tool("fallocate", "--dig-holes", str(path), package="util-linux")


def _write_sparse(path: Path, size: int) -> None:
    block_size = 64 * 1024
    with path.open("wb") as file:
        file.truncate(size)
        for part, offset in enumerate((0, size // 3, size // 2, size - block_size)):
            file.seek(offset)
            file.write(content.noise(f"{path.name}/{part}", block_size))


def _windows_pe_files(arch: str) -> Iterator[tuple[str, bytes]]:
    system = "Windows/System32"
    for name, size in (("winload.efi", 400_000), ("winload.exe", 380_000)):
        yield f"{system}/boot/{name}", content.program(name, size, arch=arch, subsystem=16)
    for name in ("ntoskrnl.exe", "wpeinit.exe", "winpeshl.exe", "startnet.cmd", "drvload.exe"):
        yield f"{system}/{name}", content.program(name, 250_000, arch=arch)
    # What CA-2023 media are made from (boot-facts.md 2.4).
    boot = "Windows/Boot"
    for name in ("EFI/bootmgfw.efi", "EFI/bootmgr.efi", "EFI_EX/bootmgfw_EX.efi"):
        yield f"{boot}/{name}", content.program(name, 200_000, arch=arch, subsystem=10)
    yield f"{boot}/EFI_EX/bootmgr_EX.efi", content.program("ex", 200_000, arch=arch, subsystem=10)
    yield f"{boot}/EFI/boot.stl", content.noise("boot.stl", 10_449)
    yield f"{boot}/DVD_EX/EFI/en-US/efisys_EX.bin", content.noise("efisys_EX", 100_000)
    for font in ("segoe_slboot", "segmono_boot"):
        yield f"{boot}/FONTS/{font}.ttf", content.font(font, 60_000)
        yield f"{boot}/FONTS_EX/{font}_EX.ttf", content.font(font + "_EX", 60_000)
    for number in range(12):
        name = f"{system}/drivers/driver{number:02d}.sys"
        yield name, content.program(name, 90_000, arch=arch, subsystem=1)


def _windows_setup_files(arch: str) -> Iterator[tuple[str, bytes]]:
    yield "setup.exe", content.program("setup.exe", 95_168, arch=arch, subsystem=2)
    for name in ("setup.exe", "setupcore.dll", "wimgapi.dll", "winsetup.dll"):
        yield f"sources/{name}", content.program("pe/" + name, 300_000, arch=arch)


def _installed_files(arch: str) -> Iterator[tuple[str, bytes]]:
    for name in ("ntoskrnl.exe", "hal.dll", "kernel32.dll", "ntdll.dll"):
        path = f"Windows/System32/{name}"
        yield path, content.program("installed/" + name, 150_000, arch=arch)
    yield "Windows/System32/Recovery/ReAgent.xml", content.text("ReAgent.xml", 1_200)
    yield "Windows/Boot/EFI/bootmgfw.efi", content.program("fw", 150_000, arch=arch, subsystem=10)
    yield "Program Files/Common Files/desktop.ini", content.text("desktop.ini", 174)
    yield "Users/Public/Documents/Über uns - 説明.txt", content.text("über", 333)


def _filler_files(label: str, size: int) -> Iterator[tuple[str, bytes]]:
    """About ``size`` bytes that don't compress, as many files of the sizes Windows has."""
    pool = content.noise(label, min(size, 64 << 20))
    done = index = 0
    while done < size:
        # 20 KB to some MB, most of them small; the odd prefix makes each file its own blob.
        wanted = min(size - done, 20_000 + (index * 2_654_435_761 & 0xFFFF_FFFF) % 900_000)
        prefix = f"{label} {index:08d} ".encode()
        offset = index * 48_271_003 % max(1, len(pool) - wanted)
        body = prefix + pool[offset : offset + wanted - len(prefix)]
        folder = f"Windows/WinSxS/amd64_component_31bf3856ad364e35_10.0.26100.{index // 40}"
        yield f"{folder}/file-{index:06d}.dll", body
        done += len(body)
        index += 1


def _append(
    output: Path,
    edition: Edition,
    *,
    arch: str,
    compression: str | None = None,
    is_boot: bool = False,
    is_update: bool = False,
) -> None:
    """One more image; ``compression`` is given for the first, which makes the file."""
    properties = {
        "DISPLAYNAME": edition.name,
        "DISPLAYDESCRIPTION": edition.name,
        "FLAGS": "9" if edition.edition_id == "WindowsPE" else edition.edition_id,
        "WINDOWS/ARCH": str(_WIM_ARCH[arch]),
        "WINDOWS/PRODUCTNAME": "Stand-in for a Windows operating system",
        "WINDOWS/EDITIONID": edition.edition_id,
        "WINDOWS/INSTALLATIONTYPE": edition.installation_type,
        "WINDOWS/PRODUCTTYPE": "WinNT",
        "WINDOWS/PRODUCTSUITE": "Terminal Server",
        "WINDOWS/LANGUAGES/LANGUAGE": "en-US",
        "WINDOWS/LANGUAGES/DEFAULT": "en-US",
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
    arguments = ["append" if compression is None else "capture", str(edition.directory)]
    arguments += [str(output), edition.name, edition.name, "--no-acls", "--norpfix"]
    if compression is not None:
        arguments.append(f"--compress={compression}")
    if is_boot:
        arguments.append("--boot")
    if is_update:
        arguments.append("--update-of=1")  # files with the first image's times aren't read again
    for name, value in properties.items():
        arguments.append(f"--image-property={name}={value}")
    _wimlib(*arguments)


def _finish(output: Path, label: str, *, image_count: int, is_stored: bool) -> None:
    if not is_stored:
        # As DISM's export would: without the gaps that appending left. A stored file is here
        # because it is big, and not worth writing twice.
        _wimlib("optimize", str(output))
    # info is the one command that leaves this time alone when it is given.
    high, low = _FILE_TIME >> 32, _FILE_TIME & 0xFFFF_FFFF
    properties = [f"--image-property=LASTMODIFICATIONTIME/HIGHPART=0x{high:08X}"]
    properties += [f"--image-property=LASTMODIFICATIONTIME/LOWPART=0x{low:08X}"]
    for number in range(1, image_count + 1):
        _wimlib("info", str(output), str(number), *properties)
    _fix_guid(output, label)


def _fix_guid(output: Path, label: str) -> None:
    """wimlib draws the GUID (header offset 0x18); no checksum covers it."""
    with output.open("r+b") as file:
        file.seek(0x18)
        file.write(content.noise(f"guid of {label}", 16))


def _wimlib(command: str, *arguments: str) -> None:
    run_tool("wimlib-imagex", command, "--quiet", *arguments, package="wimtools")
