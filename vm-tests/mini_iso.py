# SPDX-License-Identifier: GPL-3.0-or-later
"""Debian's ``mini.iso``: the smallest hybrid ISO of a real installer.

Debian publishes ``mini.iso`` on its mirrors, but no package carries it: the package
``debian-installer-12-netboot-amd64`` holds only the tree for booting over the network. So it is
built here the way debian-installer's own build makes it, from what Debian ships:

- kernel, initrd, menus (``boot-screens``), splash screen and GRUB configuration from the
  netboot package; the menus name their files by the paths of the network tree, so that prefix is
  taken off, as the files lie in the root of a mini.iso;
- ISOLINUX and its MBR for hybrid images from ``isolinux``, its modules from ``syslinux-common``;
- GRUB for CDs from ``grub-efi-amd64-bin``, whose built-in configuration searches for
  ``/.disk/mini-info``, in a small FAT image that is an El Torito entry and a partition at once;
- ``xorriso``, with an MBR, and a GPT beside it, that make the ISO a disk.

What differs from the published file: GRUB is the unsigned build and there is no shim, so it does
not start under Secure Boot.
"""

import os
import shutil
import subprocess
from pathlib import Path

NETBOOT = Path("/usr/lib/debian-installer/images/12/amd64/text/debian-installer/amd64")
ISOLINUX = Path("/usr/lib/ISOLINUX")
SYSLINUX_MODULES = Path("/usr/lib/syslinux/modules/bios")
GRUB = Path("/usr/lib/grub/x86_64-efi")
MODULES = ("ldlinux.c32", "libcom32.c32", "libutil.c32", "vesamenu.c32")
# One date for every file, so that two builds give the same bytes: the package's own.
SOURCE_DATE_EPOCH = int((NETBOOT / "linux").stat().st_mtime) if NETBOOT.exists() else 0
KIB = 1024


def build_mini_iso(out: Path) -> Path:
    """Build the ISO as ``out`` (about 60 MB, a few seconds), unless it is there already."""
    if out.exists():
        return out
    work = out.with_name(f"{out.name}.{os.getpid()}.work")
    shutil.rmtree(work, ignore_errors=True)
    (work / "efi").mkdir(parents=True)
    try:
        grafts = {
            "linux": NETBOOT / "linux",
            "initrd.gz": NETBOOT / "initrd.gz",
            "isolinux.bin": ISOLINUX / "isolinux.bin",
            "splash.png": NETBOOT / "boot-screens/splash.png",
            ".disk/mini-info": _write(work / "mini-info", b"Debian GNU/Linux 12 mini.iso amd64\n"),
            "boot/grub/efi.img": _build_efi_image(work / "efi.img"),
            "boot/grub/font.pf2": NETBOOT / "grub/font.pf2",
            "boot/grub/grub.cfg": _write_relocated(NETBOOT / "grub/grub.cfg", work),
        }
        grafts |= {name: SYSLINUX_MODULES / name for name in MODULES}
        for menu in sorted((NETBOOT / "boot-screens").iterdir()):
            if menu.suffix in (".cfg", ".txt"):
                name = "isolinux.cfg" if menu.name == "syslinux.cfg" else menu.name
                grafts[name] = _write_relocated(menu, work)
        for module in sorted((NETBOOT / "grub/x86_64-efi").iterdir()):
            grafts[f"boot/grub/x86_64-efi/{module.name}"] = module
        image = work / "mini.iso"
        _run(
            *("xorriso", "-as", "mkisofs", "-quiet", "-r", "-J", "-V", "Debian mini.iso"),
            *("-o", image, "-b", "isolinux.bin", "-c", "boot.cat", "-no-emul-boot"),
            *("-boot-load-size", "4", "-boot-info-table"),
            *("-isohybrid-mbr", ISOLINUX / "isohdpfx.bin"),
            *("-eltorito-alt-boot", "-e", "boot/grub/efi.img", "-no-emul-boot"),
            *("-isohybrid-gpt-basdat", "--set_all_file_dates", f"={SOURCE_DATE_EPOCH}"),
            "-graft-points",
            *(f"{name}={path}" for name, path in sorted(grafts.items())),
        )
        image.rename(out)
    finally:
        shutil.rmtree(work)
    return out


def _build_efi_image(path: Path) -> Path:
    """A FAT volume with GRUB where UEFI looks on removable media."""
    loader = GRUB / "monolithic/gcdx64.efi"
    size_kib = -(-(loader.stat().st_size + 64 * KIB) // (32 * KIB)) * 32
    _run("mkfs.fat", "-C", "--invariant", "-n", "DEB_EFI", path, str(size_kib))
    _run("mmd", "-i", path, "::efi", "::efi/boot")
    _run("mcopy", "-i", path, loader, "::efi/boot/bootx64.efi")
    return path


def _write_relocated(source: Path, work: Path) -> Path:
    """A menu of the network tree with the paths of a mini.iso, whose root holds the files."""
    text = source.read_bytes()
    for prefix in (b"/debian-installer/amd64/", b"debian-installer/amd64/"):
        root = b"/" if prefix.startswith(b"/") else b""
        text = text.replace(prefix + b"boot-screens/", root).replace(prefix, root)
    return _write(work / source.name, text)


def _write(path: Path, data: bytes) -> Path:
    path.write_bytes(data)
    os.utime(path, (SOURCE_DATE_EPOCH, SOURCE_DATE_EPOCH))
    return path


def _run(*command) -> None:
    environment = os.environ | {"SOURCE_DATE_EPOCH": str(SOURCE_DATE_EPOCH), "TZ": "UTC"}
    done = subprocess.run(
        command, env=environment, stdin=subprocess.DEVNULL, capture_output=True, check=False
    )
    if done.returncode != 0:
        raise RuntimeError(f"{command[0]} failed: {done.stderr.decode(errors='replace')}")
