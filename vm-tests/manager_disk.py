# SPDX-License-Identifier: GPL-3.0-or-later
"""Disks with an installed stand-in Windows, made without mediamaker's own install code.

sgdisk, sfdisk, mkfs.fat, mtools, mkntfs and wimlib-imagex lay them out; the boot store is made
here, from boot-facts.md 3.4, 3.5 and 4.2. They judge the judges: the stand-in boot managers.
"""

from __future__ import annotations

import shutil
import struct
import subprocess
import uuid
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, Literal

from bootcode_disk import BOOTFILES, Volume, patch_disk, run
from standin import content, hives

Firmware = Literal["uefi", "bios"]
MIB = 1 << 20

BOOTMGR = "{9dea862c-5cdd-4e70-acc1-f32b344d4795}"
OS = "{b5a7b8c1-0000-4000-8000-000000000001}"
RESUME = "{b5a7b8c1-0000-4000-8000-000000000002}"
RECOVERY = "{b5a7b8c1-0000-4000-8000-000000000003}"
RECOVERY_OPTIONS = "{b5a7b8c1-0000-4000-8000-000000000004}"
DISK_GUID = uuid.UUID("11112222-3333-4444-5555-666677778888")
SIGNATURE = 0xDEADBEEF
_STARTS = {"system": MIB, "windows": 50 * MIB, "recovery": 140 * MIB}
_SIZES = {"system": 48 * MIB, "windows": 88 * MIB, "recovery": 24 * MIB}
_DISK_SIZE = 168 * MIB


@dataclass(frozen=True, slots=True)
class Place:
    """A partition as a device element names it, or would if it were there."""

    start: int
    guid: uuid.UUID
    disk_guid: uuid.UUID = DISK_GUID
    signature: int = SIGNATURE


PLACES = {
    role: Place(start, uuid.UUID(int=0xABCD << 64 | number))
    for number, (role, start) in enumerate(_STARTS.items(), start=1)
}


# Devices, as whole element values (boot-facts.md 3.5)


def _device(descriptor: bytes, options: str = "") -> bytes:
    return (uuid.UUID(options).bytes_le if options else bytes(16)) + descriptor


def _descriptor(type_code: int, body: bytes, *, flags: int = 0) -> bytes:
    return struct.pack("<IIII", type_code, flags, 16 + len(body), 0) + body


def partition(place: Place, firmware: Firmware) -> bytes:
    if firmware == "uefi":
        body = place.guid.bytes_le + struct.pack("<II", 0, 0) + place.disk_guid.bytes_le
        return _descriptor(6, body.ljust(56, b"\0"))
    body = struct.pack("<QQIII", place.start, 0, 0, 1, place.signature)
    return _descriptor(6, body.ljust(56, b"\0"))


def boot() -> bytes:
    return _descriptor(5, bytes(56))


def locate_element(element: int) -> bytes:
    return _descriptor(8, struct.pack("<IIIH", 0, element, 0, 0))


def locate_path(path: str) -> bytes:
    return _descriptor(8, struct.pack("<III", 1, 0, 0) + _utf16(path))


def ramdisk(parent: bytes, path: str) -> bytes:
    inner = parent + _utf16(path)
    head = struct.pack("<IQQIIII", 3, 0, 0, 0, 1, len(inner) + 12, 5)
    return _descriptor(0, head + inner, flags=1)


def _utf16(text: str) -> bytes:
    return (text + "\0").encode("utf-16-le")


# Elements and objects


def guids(*names: str) -> tuple[int, bytes]:
    return hives.MULTI_SZ, ("".join(name + "\0" for name in names) + "\0").encode("utf-16-le")


def integer(value: int) -> tuple[int, bytes]:
    return hives.BINARY, struct.pack("<Q", value)


def flag(value: bool) -> tuple[int, bytes]:
    return hives.BINARY, bytes([value])


def device(descriptor: bytes, options: str = "") -> tuple[int, bytes]:
    return hives.BINARY, _device(descriptor, options)


@dataclass(slots=True)
class Store:
    """Objects with their elements, to be changed by a test before it packs them."""

    types: dict[str, int] = field(default_factory=dict)
    elements: dict[str, dict[int, tuple[int, bytes]]] = field(default_factory=dict)

    def pack(self, *, has_description: bool = True, **options: Any) -> bytes:
        objects: dict[str, hives.Tree] = {}
        for guid, elements in self.elements.items():
            objects[guid] = {
                "Description": {"Type": (hives.DWORD, struct.pack("<I", self.types[guid]))},
                "Elements": {f"{id_:08x}": {"Element": body} for id_, body in elements.items()},
            }
        tree: dict[str, hives.Tree | tuple[int, bytes]] = {"Objects": objects}
        if has_description:
            tree["Description"] = {"KeyName": hives.text("BCD00000000")}
        return hives.make_hive(tree, **options)


def installed_store(
    firmware: Firmware, places: Mapping[str, Place] = PLACES, *, winre: str = "Winre.wim"
) -> Store:
    """As boot-facts.md 4.2 and 4.3 have it."""
    suffix = "efi" if firmware == "uefi" else "exe"
    system, windows, recovery = (
        partition(places[role], firmware) for role in ("system", "windows", "recovery")
    )
    winre_device = ramdisk(recovery, rf"\Recovery\WindowsRE\{winre}")
    store = Store()
    store.types = {
        BOOTMGR: 0x10100002, OS: 0x10200003, RESUME: 0x10200004, RECOVERY: 0x10200003,
        RECOVERY_OPTIONS: 0x30000000,
    }  # fmt: skip
    store.elements = {
        BOOTMGR: {
            0x11000001: device(system),
            0x12000004: hives.text("Windows Boot Manager"),
            0x23000003: hives.text(OS),
            0x24000001: guids(OS),
            0x25000004: integer(30),
        },
        OS: {
            0x11000001: device(windows),
            0x12000002: hives.text(rf"\Windows\system32\winload.{suffix}"),
            0x12000004: hives.text("Windows 11"),
            0x14000008: guids(RECOVERY),
            0x16000009: flag(True),
            0x17000077: integer(0x15000075),
            0x21000001: device(windows),
            0x22000002: hives.text(r"\Windows"),
            0x23000003: hives.text(RESUME),
            0x250000C2: integer(1),
        },
        RESUME: {
            0x11000001: device(windows),
            0x12000002: hives.text(rf"\Windows\system32\winresume.{suffix}"),
            0x12000004: hives.text("Windows Resume Application"),
            0x21000001: device(windows),
            0x22000002: hives.text(r"\hiberfil.sys"),
        },
        RECOVERY: {
            0x11000001: device(winre_device, RECOVERY_OPTIONS),
            0x12000002: hives.text(rf"\windows\system32\winload.{suffix}"),
            0x12000004: hives.text("Windows Recovery Environment"),
            0x21000001: device(winre_device, RECOVERY_OPTIONS),
            0x22000002: hives.text(r"\windows"),
            0x26000022: flag(True),
            0x46000010: flag(True),
        },
        RECOVERY_OPTIONS: {
            0x12000004: hives.text("Windows Recovery"),
            0x31000003: device(recovery),
            0x32000004: hives.text(r"\Recovery\WindowsRE\boot.sdi"),
        },
    }
    return store


def elsewhere(role: str, **changes: Any) -> dict[str, Place]:
    """The places of the real disk, but one of them as it is not."""
    return {**PLACES, role: replace(PLACES[role], **changes)}


# Disks


@dataclass(frozen=True, slots=True)
class ManagerDisk:
    """A disk image; the system volume is FAT32 and takes a store by mtools."""

    path: Path
    firmware: Firmware
    sector_size: int = 512

    def copy(self, path: Path) -> ManagerDisk:
        run("cp", "--sparse=always", self.path, path)
        return replace(self, path=path)

    def put_store(self, packed: bytes) -> ManagerDisk:
        """Replaces the boot store."""
        name = "EFI/Microsoft/Boot/BCD" if self.firmware == "uefi" else "Boot/BCD"
        source = self.path.with_suffix(".bcd")
        source.write_bytes(packed)
        run("mcopy", "-o", "-i", f"{self.path}@@{_STARTS['system']}", source, f"::{name}")
        return self

    def damage(self, mark: bytes, *, distance: int) -> ManagerDisk:
        """Flips a bit ``distance`` bytes after each place of ``mark`` in the Windows volume."""
        with self.path.open("rb") as file:
            file.seek(_STARTS["windows"])
            volume = file.read(_SIZES["windows"])
        place = volume.find(mark)
        assert place >= 0, mark
        while place >= 0:
            at = place + distance
            patch_disk(self.path, _STARTS["windows"] + at, bytes([volume[at] ^ 1]))
            place = volume.find(mark, place + 1)
        return self


def make_disk(directory: Path, firmware: Firmware, wim: Path) -> ManagerDisk:
    """System, Windows and recovery volumes, filled from the image; the store is a good one."""
    disk = _make_disk(directory, firmware, wim, _Layout(_STARTS, _SIZES, _DISK_SIZE))
    if firmware == "bios":
        patch_disk(disk.path, 0, (BOOTFILES / "mbr.bin").read_bytes()[:440])
    return disk


def make_4kn_disk(directory: Path, wim: Path) -> ManagerDisk:
    """As :func:`make_disk` for UEFI, with 4096-byte sectors; as root, sgdisk needs the device.

    Its FAT32 has 65525 clusters of a sector at least, so it is larger.
    """
    more = 256 * MIB
    starts = {role: at if role == "system" else at + more for role, at in _STARTS.items()}
    sizes = {**_SIZES, "system": _SIZES["system"] + more}
    return _make_disk(directory, "uefi", wim, _Layout(starts, sizes, _DISK_SIZE + more, 4096))


def make_vhd_disk(directory: Path, firmware: Firmware, wim: Path) -> ManagerDisk:
    r"""As :func:`make_disk`, but its Windows is in \vhd\windows.vhd on the Windows partition."""
    inside, folder = directory.with_name("inside"), directory.with_name("holder")
    inside.mkdir()
    (folder / "vhd").mkdir(parents=True)
    raw, size = inside / "raw", 72 * MIB
    layout = _Layout({"windows": MIB}, {"windows": size}, size + 2 * MIB)
    with raw.open("xb") as file:
        file.truncate(layout.disk_size)
    lines = f"label: dos\nstart={MIB // 512}, size={size // 512}, type=7\n"
    run("sfdisk", "--quiet", "--no-reread", raw, given=lines)
    _splice(raw, MIB, _make_ntfs(inside, "windows", wim, layout))
    options = "subformat=fixed,force_size=on"
    vhd = folder / "vhd/windows.vhd"
    run("qemu-img", "convert", "-f", "raw", "-O", "vpc", "-o", options, raw, vhd)
    holder = directory.with_name("holder.wim")
    run("wimlib-imagex", "capture", folder, holder, "--no-acls", "--compress=XPRESS")
    outer = _Layout(_STARTS, _SIZES, _DISK_SIZE)
    disk = _make_disk(directory, firmware, wim, outer, windows=holder)
    if firmware == "bios":
        patch_disk(disk.path, 0, (BOOTFILES / "mbr.bin").read_bytes()[:440])
    return disk


@dataclass(frozen=True, slots=True)
class _Layout:
    starts: Mapping[str, int]
    sizes: Mapping[str, int]
    disk_size: int
    sector_size: int = 512


def _make_disk(
    directory: Path,
    firmware: Firmware,
    wim: Path,
    layout: _Layout,
    *,
    windows: Path | None = None,
) -> ManagerDisk:
    directory.mkdir(parents=True)
    path = directory / "disk.img"
    with path.open("xb") as file:
        file.truncate(layout.disk_size)
    run("wimlib-imagex", "extract", wim, "1", "/Windows/Boot",
        "/Windows/System32/Recovery/Winre.wim", f"--dest-dir={directory}", "--no-acls")  # fmt: skip
    _write_table(path, firmware, layout)
    _splice(path, layout.starts["system"], _make_system(directory, firmware, layout))
    recovery = directory / "recovery/Recovery/WindowsRE"
    recovery.mkdir(parents=True)
    shutil.copyfile(directory / "Winre.wim", recovery / "Winre.wim")
    (recovery / "boot.sdi").write_bytes(content.ramdisk_image())
    tree = directory / "recovery.wim"
    run("wimlib-imagex", "capture", directory / "recovery", tree, "--no-acls", "--compress=none")
    for role, image in (("windows", windows or wim), ("recovery", tree)):
        _splice(path, layout.starts[role], _make_ntfs(directory, role, image, layout))
    disk = ManagerDisk(path, firmware, layout.sector_size)
    return disk.put_store(installed_store(firmware).pack())


def make_portable_disk(directory: Path, wim: Path, packed: bytes) -> ManagerDisk:
    r"""One active NTFS volume for BIOS with \bootmgr, \Boot\BCD (``packed``) and Windows."""
    directory.mkdir(parents=True)
    path, own = directory / "disk.img", directory / "own.wim"
    with path.open("xb") as disk:
        disk.truncate(_STARTS["windows"] + _SIZES["windows"])
    start, size = _STARTS["system"], _SIZES["windows"]
    lines = f"label: dos\nlabel-id: {SIGNATURE:#x}\n"
    lines += f"start={start // 512}, size={size // 512}, type=7, bootable\n"
    run("sfdisk", "--quiet", "--no-reread", path, given=lines)
    patch_disk(path, 0, (BOOTFILES / "mbr.bin").read_bytes()[:440])
    run("wimlib-imagex", "export", wim, "1", own)
    run("wimlib-imagex", "extract", wim, "1", "/Windows/Boot/PCAT/bootmgr",
        f"--dest-dir={directory}", "--no-acls")  # fmt: skip
    (directory / "store").write_bytes(packed)
    added = f"add {directory}/bootmgr /bootmgr\nadd {directory}/store /Boot/BCD\n"
    run("wimlib-imagex", "update", own, "1", given=added)
    layout = _Layout({"windows": start}, {"windows": size}, start + size)
    volume = _make_ntfs(directory, "windows", own, layout)
    code = (BOOTFILES / "ntfs-vbr.bin").read_bytes()
    patch_disk(volume, 0, code[:3])
    patch_disk(volume, 0x54, code[0x54:])
    _splice(path, start, volume)
    return ManagerDisk(path, "bios")


def _write_table(path: Path, firmware: Firmware, layout: _Layout) -> None:
    unit = layout.sector_size
    places = [(role, at // unit, layout.sizes[role] // unit) for role, at in layout.starts.items()]
    if firmware == "bios":
        codes = {"system": "c, bootable", "windows": "7", "recovery": "27"}
        lines = [f"label: dos\nlabel-id: {SIGNATURE:#x}"]
        lines += [f"start={start}, size={size}, type={codes[role]}" for role, start, size in places]
        run("sfdisk", "--quiet", "--no-reread", path, given="\n".join(lines) + "\n")
        return
    codes = {"system": "ef00", "windows": "0700", "recovery": "2700"}
    words = ["-a", "1", "-U", str(DISK_GUID)]
    for number, (role, start, size) in enumerate(places, start=1):
        words += ["-n", f"{number}:{start}:{start + size - 1}", "-t", f"{number}:{codes[role]}"]
        words += ["-u", f"{number}:{PLACES[role].guid}"]
    if unit == 512:
        run("sgdisk", *words, path)
        return
    device = run("losetup", "--find", "--show", "--sector-size", unit, path).strip()
    try:
        run("sgdisk", *words, device)
    finally:
        run("losetup", "--detach", device)


def _make_system(directory: Path, firmware: Firmware, layout: _Layout) -> Path:
    volume = Volume(
        directory / "system.img",
        size=layout.sizes["system"],
        sectors_per_cluster=1,
        sector_size=layout.sector_size,
        hidden=layout.starts["system"] // layout.sector_size,
    )
    boot_dir = directory / "Boot"
    if firmware == "uefi":
        volume.mtools("mmd", "::EFI", "::EFI/Microsoft", "::EFI/Microsoft/Boot", "::EFI/BOOT")
        manager = boot_dir / "EFI/bootmgfw.efi"
        for name in ("EFI/Microsoft/Boot/bootmgfw.efi", "EFI/BOOT/BOOTX64.EFI"):
            volume.mtools("mcopy", manager, f"::{name}")
    else:
        volume.mtools("mmd", "::Boot")
        volume.mtools("mcopy", boot_dir / "PCAT/bootmgr", "::bootmgr")
        volume.install_boot_code()
    return volume.path


def _make_ntfs(directory: Path, role: str, wim: Path, layout: _Layout) -> Path:
    path = directory / f"{role}.img"
    with path.open("xb") as file:
        file.truncate(layout.sizes[role])
    hidden = layout.starts[role] // layout.sector_size
    sectors = ("-s", layout.sector_size, "-p", hidden, "-H", 255, "-S", 63)
    run("mkntfs", "-F", "-Q", "-q", *sectors, path)
    run("wimlib-imagex", "apply", wim, "1", path)
    return path


def _splice(disk: Path, start: int, volume: Path) -> None:
    run("dd", f"if={volume}", f"of={disk}", "bs=1M", f"seek={start // MIB}",
        "conv=notrunc,sparse", "status=none")  # fmt: skip
    volume.unlink()


def ask_host_manager(program: Path, disk: ManagerDisk) -> str:
    """What the boot manager as a Linux program says about a disk."""
    words = [disk.firmware, "0", _STARTS["system"], disk.sector_size, disk.path]
    done = subprocess.run(
        [str(program), *map(str, words)],
        capture_output=True,
        text=True,
        check=False,
        env={"ASAN_OPTIONS": "detect_leaks=0"},
    )
    assert done.returncode == 0, done.stderr
    return done.stdout
