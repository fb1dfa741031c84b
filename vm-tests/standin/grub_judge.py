# SPDX-License-Identifier: GPL-3.0-or-later
"""GRUB as an independent reader: finds files on any volume of a disk and hashes them.

GRUB has its own GPT, MBR, NTFS, FAT and exFAT drivers, none of which shares code with ours, with
ntfs-3g or with the kernel. It starts from a medium of its own, under SeaBIOS (a second) or OVMF,
and sees the disk through the firmware. The disk is a snapshot: nothing is written to it.
"""

from __future__ import annotations

import re
import shlex
import shutil
import tempfile
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from bootcode_qemu import Qemu

from mediamaker.errors import UsageError
from standin.tool import run_tool

_MODULES = shlex.split(
    "part_gpt part_msdos fat ntfs exfat search search_fs_file hashsum gcry_sha256 probe serial"
    " terminal echo halt test normal minicmd"
)
_END = "MM-GRUB-END"
_SAFE_PATH_RE = re.compile(r"/[A-Za-z0-9._/ $-]+")


@dataclass(frozen=True, slots=True)
class Found:
    """What GRUB says of one file: its SHA-256, GRUB's name of the partition, its file system."""

    sha256: str
    device: str
    file_system: str


def grub_hashes(
    disk_image: Path,
    paths: Iterable[str],
    *,
    firmware: Literal["bios", "uefi"] = "bios",
    sector_size: int = 512,
    timeout: float = 240,
) -> dict[str, str | None]:
    r"""SHA-256 (hex) of each path, ``\`` or ``/``, by the path given; None where no volume has it.

    The first volume that has a path counts; :func:`grub_find` also tells which it is.
    """
    found = grub_find(
        disk_image, paths, firmware=firmware, sector_size=sector_size, timeout=timeout
    )
    return {path: item.sha256 if item else None for path, item in found.items()}


def grub_find(
    disk_image: Path,
    paths: Iterable[str],
    *,
    firmware: Literal["bios", "uefi"] = "bios",
    sector_size: int = 512,
    timeout: float = 240,
) -> dict[str, Found | None]:
    """As :func:`grub_hashes`, with partition (``hd0,gpt3``) and file system (``ntfs``).

    Raises:
        ToolError: GRUB's or another program is missing or failed.
        UsageError: a path that GRUB's language could misread; 4096-byte sectors under SeaBIOS.
    """
    wanted = list(paths)
    if firmware == "bios" and sector_size != 512:
        raise UsageError(f"SeaBIOS drives no disk of {sector_size}-byte sectors; ask UEFI")
    with tempfile.TemporaryDirectory(prefix="grub-judge-") as name:
        work_dir = Path(name)
        script = work_dir / "grub.cfg"
        script.write_text(_script(wanted))
        own = _make_medium(work_dir, script, firmware)
        kind = "ide-cd" if firmware == "bios" else "ide-hd"
        disks = [
            f"file={own},format=raw,if=none,id=judge",
            f"file={disk_image},format=raw,if=none,id=target",
        ]
        sizes = f"logical_block_size={sector_size},physical_block_size={sector_size}"
        # OVMF starts the drivers of those devices only that are in the boot order.
        devices = [f"{kind},drive=judge,bootindex=0"]
        devices.append(f"virtio-blk-pci,drive=target,bootindex=1,{sizes}")
        with Qemu(work_dir, *disks, uefi=firmware == "uefi", devices=devices) as machine:
            said = machine.wait_serial(_END, timeout=timeout)
    return {path: _parse(said, number) for number, path in enumerate(wanted)}


def _script(paths: list[str]) -> str:
    lines = ["serial --unit=0 --speed=115200", "terminal_output serial"]
    for number, path in enumerate(paths):
        name = path.replace("\\", "/")
        if not _SAFE_PATH_RE.fullmatch(name):
            raise UsageError(f"{path!r} is no absolute path that GRUB's language takes as it is")
        lines += [
            "unset found",
            f"if search --no-floppy --file --set=found '{name}'; then",
            "  probe --set=kind --fs ($found)",
            f'  echo "MM-GRUB: {number} $found $kind"',
            f"  sha256sum ($found)'{name}'",
            "fi",
        ]
    return "\n".join([*lines, f'echo "{_END}"', "halt"]) + "\n"


def _parse(said: str, number: int) -> Found | None:
    line = re.search(rf"MM-GRUB: {number} (\S+) (\S+)\s+([0-9a-f]{{64}}) ", said)
    if line is None:
        return None
    return Found(sha256=line[3], device=line[1], file_system=line[2])


def _make_medium(work_dir: Path, script: Path, firmware: Literal["bios", "uefi"]) -> Path:
    if firmware == "bios":
        tree, output = work_dir / "tree", work_dir / "judge.iso"
        tree.mkdir()
        _make_image("i386-pc-eltorito", ["biosdisk", "iso9660"], tree / "grub.img", script)
        options = ["-quiet", "-b", "grub.img", "-no-emul-boot", "-boot-load-size", "4"]
        options.append("-boot-info-table")
        run_tool("genisoimage", *options, "-o", str(output), str(tree), package="genisoimage")
        return output
    program, output = work_dir / "BOOTX64.EFI", work_dir / "judge.img"
    _make_image("x86_64-efi", [], program, script)
    run_tool("mkfs.fat", "-C", str(output), "16384", package="dosfstools")
    run_tool("mmd", "-i", str(output), "::EFI", "::EFI/BOOT", package="mtools")
    run_tool("mcopy", "-i", str(output), str(program), "::EFI/BOOT", package="mtools")
    return output


def _make_image(target: str, modules: list[str], output: Path, script: Path) -> None:
    """A GRUB whose configuration runs without a menu: it is the embedded one."""
    memdisk = output.with_suffix(".tar")
    tree = output.with_suffix(".memdisk")
    (tree / "boot/grub").mkdir(parents=True)
    shutil.copyfile(script, tree / "boot/grub/grub.cfg")
    run_tool("tar", "-C", str(tree), "-cf", str(memdisk), "boot", package="tar")
    package = "grub-efi-amd64-bin" if target == "x86_64-efi" else "grub-pc-bin"
    options = ["-O", target, "-p", "(memdisk)/boot/grub", "-m", str(memdisk), "-o", str(output)]
    words = [*options, "memdisk", "tar", *_MODULES, *modules]
    run_tool("grub-mkimage", *words, package=f"{package} grub-common")
    shutil.rmtree(tree)
    memdisk.unlink()
