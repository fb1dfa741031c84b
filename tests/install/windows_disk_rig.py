# SPDX-License-Identifier: GPL-3.0-or-later
"""Image files with an installed Windows, made by other tools than the ones that are tested.

sgdisk and sfdisk make the tables, mkfs.fat and mtools the ESP, mkntfs and ntfscp the NTFS volumes.
The boot store is ours, which tests of its own judge.
"""

import os
import random
import shutil
import struct
import subprocess
import tempfile
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from uuid import UUID

from standin.windows_image import _reagent_xml, make_winre_wim

from mediamaker.formats.bcd import pack_store
from mediamaker.formats.bcd_devices import GptPartition, MbrPartition
from mediamaker.plan.boot_store import BootIds, installed_store

MIB = 1 << 20
TYPE_ESP = "c12a7328-f81f-11d2-ba4b-00a0c93ec93b"
TYPE_MSR = "e3c9e316-0b5c-4db8-817d-f92df00215ae"
TYPE_DATA = "ebd0a0a2-b9e5-4433-87c0-68b6b72699c7"
ENVIRONMENT = {
    **os.environ,
    "PATH": f"{os.environ['PATH']}:/usr/sbin:/sbin",
    "MTOOLSRC": "/dev/null",
}
IDS = BootIds.derive(b"windows disk rig")
SIGNATURE = 0xD7DA5D02
DISK_GUID = UUID("b575b7ab-ef69-4f18-b573-57f6aee83854")


def tool(*words, **options):
    done = subprocess.run(
        [str(word) for word in words], env=ENVIRONMENT, capture_output=True, check=False, **options
    )
    assert done.returncode == 0, f"{words}: {done.stdout.decode()} {done.stderr.decode()}"
    return done.stdout.decode(errors="replace")


@contextmanager
def folder_in_memory():
    """The flushes of a hundred undo files to a real disk would take minutes."""
    with tempfile.TemporaryDirectory(prefix="mediamaker-test-", dir="/dev/shm") as name:
        yield Path(name)


def make_winre(folder):
    path = folder / "winre.wim"
    make_winre_wim(path, token="WINRE-RIG")
    return path


@dataclass(frozen=True)
class Part:
    number: int
    start: int
    size: int


def boot_sdi():
    """A head as the real one has, and little behind it."""
    data = bytearray(64 << 10)
    data[:8] = b"$SDI0001"
    struct.pack_into("<4s12xQQQ", data, 0x400, b"PART", 0x2000, len(data) - 0x2000, 7)
    return bytes(data)


def make_windows_volume(path, size, *, start_sectors, filler_size, tail, sdi="EFI"):
    """An NTFS volume with what tells a Windows, ``filler_size`` bytes of files, some at its end."""
    with path.open("wb") as file:
        file.truncate(size)
    tool(
        "mkntfs", "-F", "-Q", "-q", "-L", "Windows", "-p", start_sectors, "-H", 255, "-S", 63, path
    )
    mountpoint = path.with_suffix(".mnt")
    mountpoint.mkdir()
    tool("ntfs-3g", path, mountpoint)
    try:
        root = mountpoint / "Windows"
        for folder in ("System32/Recovery", f"Boot/DVD/{sdi}", "System32/config"):
            (root / folder).mkdir(parents=True, exist_ok=True)
        (root / "System32/winload.efi").write_bytes(b"MM-TOKEN:RIG")
        (root / "System32/winload.exe").write_bytes(b"MM-TOKEN:RIG")
        (root / "System32/Recovery/ReAgent.xml").write_bytes(_reagent_xml())
        (root / f"Boot/DVD/{sdi}/boot.sdi").write_bytes(boot_sdi())
        chance = random.Random(3)
        many = root / "WinSxS"
        many.mkdir()
        for number in range(700):  # an index of several blocks
            (many / f"amd64_component_{number:05}_31bf3856ad364e35").write_bytes(b"x" * 20)
        if tail:
            # Everything is taken, then the highest part of it is free again: that is where the
            # files go, which a shrunk volume has no room for.
            free = shutil.disk_usage(mountpoint).free - (2 << 20)
            blockers = []
            for name, size in (
                ("middle", free - 2 * filler_size),
                ("high", filler_size + (1 << 20)),
                ("low", filler_size - (2 << 20)),
            ):
                blockers.append(mountpoint / name)
                with blockers[-1].open("wb") as file:
                    for _ in range(size >> 20):
                        file.write(b"x" * (1 << 20))
            blockers.pop(1).unlink()
        for number in range(4):
            (mountpoint / f"filler{number}.bin").write_bytes(chance.randbytes(filler_size // 4))
        if tail:
            for path_taken in blockers:
                path_taken.unlink()
    finally:
        tool("umount", mountpoint)
        mountpoint.rmdir()
    return path


def splice(disk, volume, start):
    with disk.open("r+b") as out, volume.open("rb") as file:
        out.seek(start)
        shutil.copyfileobj(file, out, 1 << 20)


class WindowsDiskRig:
    def __init__(self, path, parts, kind, sector_size=512):
        self.path = path
        self.parts = parts
        self.kind = kind
        self.sector_size = sector_size

    def part(self, role):
        return self.parts[role]

    def read(self, part, offset=0, size=None):
        with self.path.open("rb") as file:
            file.seek(part.start + offset)
            return file.read(part.size - offset if size is None else size)

    def write(self, offset, data):
        with self.path.open("r+b") as file:
            file.seek(offset)
            file.write(data)

    def extract(self, part, path):
        with self.path.open("rb") as file, path.open("wb") as out:
            file.seek(part.start)
            left = part.size
            while left:
                data = file.read(min(1 << 20, left))
                if data.count(0) == len(data):
                    out.seek(len(data), 1)
                else:
                    out.write(data)
                left -= len(data)
            out.truncate(part.size)
        return path


def make_gpt_disk(
    folder, *, windows_size=100 * MIB, filler_size=20 * MIB, tail=True, gap=0, has_data=True
):
    disk = folder / "gpt.img"
    esp = Part(1, MIB, 36 * MIB)
    msr = Part(2, esp.start + esp.size, 4 * MIB)
    windows = Part(3, msr.start + msr.size, windows_size)
    data = Part(4, windows.start + windows.size + gap, 8 * MIB)
    total = data.start + data.size + 2 * MIB
    with disk.open("wb") as file:
        file.truncate(total)
    parts = {"esp": esp, "msr": msr, "windows": windows}
    if has_data:
        parts["data"] = data
    words = ["sgdisk", "-a", "1", "-U", DISK_GUID]
    types = {"esp": TYPE_ESP, "msr": TYPE_MSR, "windows": TYPE_DATA, "data": TYPE_DATA}
    for role, part in parts.items():
        first, last = part.start // 512, (part.start + part.size) // 512 - 1
        words += ["-n", f"{part.number}:{first}:{last}", "-t", f"{part.number}:{types[role]}"]
        words += ["-c", f"{part.number}:{role} ü", "-u", f"{part.number}:{_guid(role)}"]
    tool(*words, "-A", "2:set:62", disk)
    volume = folder / "windows.ntfs"
    make_windows_volume(
        volume,
        windows.size,
        start_sectors=windows.start // 512,
        filler_size=filler_size,
        tail=tail,
    )
    splice(disk, volume, windows.start)
    volume.unlink()
    fat = folder / "esp.fat"
    with fat.open("wb") as file:
        file.truncate(esp.size)
    tool("mkfs.fat", "-F", "32", "-s", "1", fat)
    store = folder / "BCD"
    store.write_bytes(
        pack_store(
            installed_store(
                firmware="uefi",
                system=GptPartition(DISK_GUID, _guid("esp")),
                windows=GptPartition(DISK_GUID, _guid("windows")),
                recovery=None,
                ids=IDS,
            )
        )
    )
    tool("mmd", "-i", fat, "::/EFI", "::/EFI/Microsoft", "::/EFI/Microsoft/Boot")
    (folder / "boot.bin").write_bytes(random.Random(9).randbytes(300_000))
    tool("mcopy", "-i", fat, folder / "boot.bin", "::/EFI/Microsoft/Boot/bootmgfw.efi")
    tool("mcopy", "-i", fat, store, "::/EFI/Microsoft/Boot/BCD")
    splice(disk, fat, esp.start)
    for path in (fat, store, folder / "boot.bin"):
        path.unlink()
    if has_data:
        rig = WindowsDiskRig(disk, parts, "gpt")
        rig.write(data.start, random.Random(5).randbytes(data.size))
    return WindowsDiskRig(disk, parts, "gpt")


def make_mbr_disk(folder, *, windows_size=100 * MIB, filler_size=20 * MIB, tail=True, extra=0):
    """A system partition that is active, Windows, and ``extra`` more primary partitions."""
    disk = folder / "mbr.img"
    system = Part(1, MIB, 24 * MIB)
    windows = Part(2, system.start + system.size, windows_size)
    parts = {"system": system, "windows": windows}
    position = windows.start + windows.size
    for index in range(extra):
        parts[f"extra{index}"] = Part(3 + index, position, 4 * MIB)
        position += 4 * MIB
    with disk.open("wb") as file:
        file.truncate(position + MIB)
    lines = ["label: dos", f"label-id: {SIGNATURE:#x}"]
    for role, part in parts.items():
        active = ", bootable" if role == "system" else ""
        lines.append(f"start={part.start // 512}, size={part.size // 512}, type=7{active}")
    tool("sfdisk", "-q", disk, input="\n".join(lines).encode())
    volume = folder / "windows.ntfs"
    make_windows_volume(
        volume,
        windows.size,
        start_sectors=windows.start // 512,
        filler_size=filler_size,
        tail=tail,
        sdi="PCAT",
    )
    splice(disk, volume, windows.start)
    volume.unlink()
    with volume.open("wb") as file:
        file.truncate(system.size)
    tool("mkntfs", "-F", "-Q", "-q", "-p", 2048, "-H", 255, "-S", 63, volume)
    store = pack_store(
        installed_store(
            firmware="bios",
            system=MbrPartition(SIGNATURE, system.start),
            windows=MbrPartition(SIGNATURE, windows.start),
            recovery=None,
            ids=IDS,
        )
    )
    mountpoint = folder / "system.mnt"
    mountpoint.mkdir()
    tool("ntfs-3g", volume, mountpoint)
    try:
        (mountpoint / "Boot").mkdir()
        (mountpoint / "Boot/BCD").write_bytes(store)
        (mountpoint / "bootmgr").write_bytes(bytes(400_000))
    finally:
        tool("umount", mountpoint)
        mountpoint.rmdir()
    splice(disk, volume, system.start)
    volume.unlink()
    rig = WindowsDiskRig(disk, parts, "mbr")
    for index in range(extra):
        rig.write(parts[f"extra{index}"].start, random.Random(index).randbytes(4 * MIB))
    return rig


def copy_rig(rig, folder):
    path = scratch_copy(rig.path, folder / rig.path.name)
    return WindowsDiskRig(path, rig.parts, rig.kind, rig.sector_size)


def _guid(role):
    return UUID(bytes=(role.encode() * 16)[:16])


def scratch_copy(path: Path, target: Path) -> Path:
    subprocess.run(["cp", "--sparse=always", path, target], check=True)
    return target
