# SPDX-License-Identifier: GPL-3.0-or-later
"""From a stand-in Windows image to disks that boot: UEFI, BIOS, To Go, and their WinRE.

A pass needs a token that only the installed loader (or the installed Winre.wim) has. The boot
managers are stand-ins that read the boot store themselves (standin/boot_manager): they come to
the loader only if every GUID, signature and offset is that of the real disk. GRUB, whose NTFS
driver is not ours, hashes what was installed.
"""

import hashlib
import subprocess

import pytest
from command import mediamaker, succeed
from guest import run_in_guest
from standin.grub_judge import grub_hashes
from standin.windows_image import make_windows_wim

from mediamaker.units import MIB
from mediamaker.vm.disk import Bus, Disk

TOKEN = "installed-5417"
WINRE_TOKEN = "recovery-8823"
LOADERS = {"uefi": "winload.efi", "bios": "winload.exe"}


@pytest.fixture(scope="module")
def wim(tmp_path_factory):
    path = tmp_path_factory.mktemp("windows") / "install.wim"
    make_windows_wim(path, token=TOKEN, winre_token=WINRE_TOKEN)
    return path


@pytest.fixture(scope="module")
def disks(wim, tmp_path_factory):
    """Each made once: the disk and what install said of it."""
    folder = tmp_path_factory.mktemp("disks")
    made = {}
    for firmware in ("uefi", "bios"):
        path = folder / f"{firmware}.img"
        result = succeed(
            "install", f"{wim}:1", path, "--firmware", firmware, "--seed", "vm", "--size", "4GiB"
        )
        made[firmware] = path, result
    path = folder / "togo.img"
    made["togo"] = path, succeed("togo", f"{wim}:1", path, "--seed", "vm", "--size", "2GiB")
    return made


def boot(path, firmware, expected, out_dir, bus="nvme", timeout="90"):
    return mediamaker(
        "boot", path, "--firmware", firmware, "--bus", bus, "--expect", expected,
        "--screenshot", out_dir, "--timeout", timeout,
    )  # fmt: skip


def copy(path, target):
    subprocess.run(["cp", path, target], check=True)
    return target


def places(result):
    return {item["role"]: item for item in result["disk"]["partitions"]}


def find_in(path, data, start, size):
    """Where ``data``, which is there once, lies in a range of the disk."""
    with path.open("rb") as file:
        file.seek(start)
        found = file.read(size)
    at = found.find(data)
    assert at >= 0
    assert found.find(data, at + 1) == -1
    return start + at


def extract(wim, path):
    return subprocess.run(
        ["wimlib-imagex", "extract", wim, "1", path, "--to-stdout"],
        check=True, capture_output=True,
    ).stdout  # fmt: skip


@pytest.mark.parametrize(
    ("kind", "firmware", "bus"),
    [
        ("uefi", "uefi", "nvme"),
        ("uefi", "uefi", "usb"),
        ("bios", "bios", "ahci"),
        ("bios", "bios", "usb"),
        ("togo", "uefi", "usb"),
        ("togo", "bios", "usb"),
    ],
)
def test_it_boots(disks, out_dir, kind, firmware, bus):
    finished = boot(disks[kind][0], firmware, f"MM-TOKEN: {TOKEN}", out_dir, bus)
    assert finished.exit_code == 0, (finished.last, finished.errors)


def test_winre_boots_when_it_is_asked_for(disks, out_dir, tmp_path):
    """A one-time entry in the store (bootsequence), as a person would set it."""
    disk, result = disks["uefi"]
    disk = copy(disk, tmp_path / "disk.img")
    volume, name = f"{disk}@@{places(result)['system']['start']}", "::EFI/Microsoft/Boot/BCD"
    store = tmp_path / "BCD"
    subprocess.run(["mcopy", "-i", volume, name, store], check=True)
    succeed("bcd", "set", store, "{bootmgr}", "bootsequence", f"{{{result['recovery_entry']}}}")
    subprocess.run(["mcopy", "-o", "-i", volume, store, name], check=True)
    finished = boot(disk, "uefi", f"MM-WINRE: {WINRE_TOKEN}", out_dir)
    assert finished.exit_code == 0, (finished.last, finished.errors)


@pytest.mark.parametrize("firmware", ["uefi", "bios"])
def test_winre_boots_when_the_loader_is_broken(disks, wim, out_dir, tmp_path, firmware):
    disk, result = disks[firmware]
    disk = copy(disk, tmp_path / "disk.img")
    windows = places(result)["windows"]
    loader = extract(wim, f"/Windows/System32/{LOADERS[firmware]}")
    at = find_in(disk, loader[:4096], windows["start"], windows["size"])
    with disk.open("r+b") as file:
        file.seek(at)
        file.write(bytes(len(loader)))
    finished = boot(disk, firmware, f"MM-WINRE: {WINRE_TOKEN}", out_dir)
    assert finished.exit_code == 0, (finished.last, finished.errors)


@pytest.mark.parametrize("firmware", ["uefi", "bios"])
def test_a_disk_that_is_another_one_does_not_boot(disks, out_dir, tmp_path, firmware):
    """One digit of the disk's identity: what the store names is nowhere."""
    disk = copy(disks[firmware][0], tmp_path / "disk.img")
    if firmware == "uefi":
        words = ["sgdisk", "--disk-guid=R", disk]
    else:
        words = ["sfdisk", "--disk-id", disk, "0x12345678"]
    subprocess.run(words, check=True, capture_output=True)
    finished = boot(disk, firmware, f"MM-TOKEN: {TOKEN}", out_dir, timeout="30")
    assert finished.exit_code == 7
    assert finished.last["proven"] is False


def test_grub_reads_what_was_installed(disks, wim):
    for firmware in ("uefi", "bios"):
        disk, _ = disks[firmware]
        paths = [f"/Windows/System32/{LOADERS[firmware]}", "/Recovery/WindowsRE/Winre.wim"]
        sources = [paths[0], "/Windows/System32/Recovery/Winre.wim"]
        hashes = grub_hashes(disk, paths)
        expected = [hashlib.sha256(extract(wim, source)).hexdigest() for source in sources]
        assert [hashes[path] for path in paths] == expected


@pytest.mark.parametrize(
    ("bus", "firmware", "device", "serial"),
    [
        (Bus.NVME, "uefi", "/dev/nvme0n1", "FAST0002"),
        (Bus.USB, "bios", "/dev/sda", "STICK0002"),
        (Bus.AHCI, "uefi", "/dev/sda", "SATA0002"),
    ],
)
def test_onto_a_real_block_device(wim, out_dir, tmp_path, bus, firmware, device, serial):
    """Guards, --erase, partitions known to the kernel before the table, and then that very disk."""
    disk = tmp_path / "disk.img"
    with disk.open("wb") as file:
        file.truncate(2560 * MIB)
    subprocess.run(
        ["sgdisk", "-n", "1:2048:+100M", "-c", "1:old", disk], check=True, capture_output=True
    )
    script = f"""
mm() {{ python3 -m mediamaker "$@"; }}
cd {out_dir.resolve()}
expect() {{ local want=$1 got=0; shift; "$@" > refused.json || got=$?;
    cat refused.json; [ $got = $want ] || {{ echo "exit $got instead of $want"; exit 1; }}; }}
options="--firmware {firmware} --allow-fixed-disk --seed guest --json"
expect 4 mm install {wim}:1 {device} --confirm {serial} $options
grep -q -- '--erase' refused.json
mm install {wim}:1 {device} --erase --confirm {serial} $options > install.json
lsblk -no NAME,SIZE {device}
blkid -p {device}
"""
    result = run_in_guest(
        script,
        disks=[Disk(disk, bus, snapshot=False, serial=serial)],
        work_dir=out_dir,
        timeout=900,
        memory_size=2048 * MIB,
    )
    assert result.exit_code == 0, result.output
    bus_name = {Bus.NVME: "nvme", Bus.USB: "usb", Bus.AHCI: "ahci"}[bus]
    finished = boot(disk, firmware, f"MM-TOKEN: {TOKEN}", out_dir, bus_name)
    assert finished.exit_code == 0, (finished.last, finished.errors)
    if firmware == "uefi":
        judge = subprocess.run(["sgdisk", "-v", disk], check=True, capture_output=True, text=True)
        assert "No problems found" in judge.stdout
