# SPDX-License-Identifier: GPL-3.0-or-later
"""Small images with the names of Windows, captured by wimlib-imagex from a real NTFS volume."""

import os
import random
import struct

from tests.wim.wim_rig import make_volume, mounted, run, set_symbolic_link

MIB = 1 << 20
ACL = bytes.fromhex(
    "0100048014000000240000000000000034000000010200000000000520000000200200000102000000000005"
    "200000002002000002001c000100000000031400ff011f00010100000000000100000000"
)
OTHER_ACL = ACL.replace(bytes.fromhex("ff011f00"), bytes.fromhex("a9001200"))
MACHINES = {9: 0x8664, 0: 0x14C, 12: 0xAA64}

LOADERS = ("Windows/System32/winload.efi", "Windows/System32/winload.exe")
WINRE = "Windows/System32/Recovery/Winre.wim"
BOOT = {
    "EFI": ("bootmgfw.efi", "bootmgr.efi", "memtest.efi", "boot.stl", "en-US/bootmgfw.efi.mui"),
    "EFI_EX": ("bootmgfw_EX.efi", "bootmgr_EX.efi"),
    "PCAT": ("bootmgr", "bootnxt", "memtest.exe", "bootuwf.dll", "de-DE/bootmgr.exe.mui"),
    "Fonts": ("segoe_slboot.ttf", "wgl4_boot.ttf"),
    "FONTS_EX": ("segoe_slboot_EX.ttf", "wgl4_boot_EX.ttf"),
    "Resources": ("bootres.dll", "en-US/bootres.dll.mui"),
    "DVD": ("EFI/boot.sdi", "PCAT/boot.sdi"),
}


def program(text, machine=0x8664):
    """As much of a PE file as says what processor it is for."""
    dos = b"MZ".ljust(0x3C, b"\0") + struct.pack("<I", 0x80)
    return dos.ljust(0x80, b"\0") + b"PE\0\0" + struct.pack("<H", machine) + text.encode() * 40


def boot_contents(machine=0x8664, without=()):
    return {
        f"Windows/Boot/{folder}/{name}": program(f"{folder}/{name}", machine)
        for folder, names in BOOT.items()
        if folder not in without
        for name in names
    }


def fill(root, files, *, seed=1, rich=True):
    """``files``, and beside them what else Windows has: links, streams, descriptors, names."""
    rng = random.Random(seed)
    for name, data in files.items():
        path = root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(data)
    (root / "Users" / "Public").mkdir(parents=True, exist_ok=True)
    if not rich:
        return
    files_made = []
    for number in range(60):
        directory = root / f"Windows/WinSxS/part {number % 7} é"
        directory.mkdir(parents=True, exist_ok=True)
        path = directory / f"a long name {number}.manifest"
        path.write_bytes(rng.randbytes(rng.choice([0, 1, 600, 5000, 70_000])))
        if number % 3 == 0:
            os.setxattr(path, "system.ntfs_dos_name", f"ALONGN~{number}.MAN".encode())
        if number % 5 == 0:
            os.link(path, root / f"Windows/System32/linked{number}.dll")
        if number % 4 == 0:
            (directory / f"{path.name}:stream").write_bytes(rng.randbytes(rng.choice([9, 9000])))
        if number % 2 == 0:
            os.setxattr(path, "system.ntfs_acl", rng.choice([ACL, OTHER_ACL]))
        if number % 6 == 0:
            os.setxattr(path, "system.ntfs_attrib", (0x26).to_bytes(4, "little"))
        times = b"".join(rng.randrange(10**17, 10**18).to_bytes(8, "little") for _ in range(3))
        os.setxattr(path, "system.ntfs_times", times)
        files_made.append(path)
    set_symbolic_link(root / "Users" / "All Users", "..\\ProgramData")
    (root / "big.bin").write_bytes(rng.randbytes(5 * MIB))
    (root / "directory with a stream").mkdir()
    (root / "directory with a stream:note").write_bytes(b"of a directory")


def make_image(
    tmp_path,
    name="install",
    *,
    files=None,
    arch=9,
    kind="Client",
    edition="Professional",
    rich=False,
    seed=1,
    options=(),
):
    """The path of a WIM with one image (or one more, when there is one of that name)."""
    machine = MACHINES.get(arch, 0x8664)
    if files is None:
        files = boot_contents(machine) | {name: program(name, machine) for name in LOADERS}
        files[WINRE] = b"not really a WIM" * 1000
        files["Windows/System32/Recovery/ReAgent.xml"] = b"<WindowsRE version='2.0'/>"
    volume = make_volume(tmp_path / f"{name}-source.img", 40 * MIB)
    with mounted(volume, tmp_path / f"{name}-mount") as root:
        fill(root, files, seed=seed, rich=rich)
    path = tmp_path / f"{name}.wim"
    properties = [f"--image-property=WINDOWS/{key}={value}" for key, value in (
        ("ARCH", arch), ("INSTALLATIONTYPE", kind), ("EDITIONID", edition),
        ("VERSION/MAJOR", 10), ("VERSION/MINOR", 0), ("VERSION/BUILD", 22621),
        ("LANGUAGES/LANGUAGE", "de-DE"), ("LANGUAGES/DEFAULT", "de-DE"),
    ) if value is not None]  # fmt: skip
    if path.exists():
        run("wimlib-imagex", "append", volume, path, f"Windows {edition} 2", *properties, *options)
    else:
        run("wimlib-imagex", "capture", volume, path, f"Windows {edition}", *properties, *options)
    volume.unlink()
    return path
