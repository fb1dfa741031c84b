# SPDX-License-Identifier: GPL-3.0-or-later
"""``recovery add`` on disks that were installed without WinRE: Windows boots, and WinRE when it
does not; ``undo`` gives the disk back byte for byte.

The boot managers are the stand-ins that read the boot store and the disk themselves.
"""

import hashlib
import subprocess
from importlib import resources

import pytest
from command import mediamaker, succeed
from guest import run_in_guest
from standin.grub_judge import grub_hashes
from standin.windows_image import make_windows_wim

from mediamaker.units import MIB
from mediamaker.vm.disk import Bus, Disk

TOKEN = "installed-6021"
WINRE_TOKEN = "recovery-6021"
LOADERS = {"uefi": "winload.efi", "bios": "winload.exe"}


@pytest.fixture(scope="module")
def wim(tmp_path_factory):
    path = tmp_path_factory.mktemp("windows") / "install.wim"
    make_windows_wim(path, token=TOKEN, winre_token=WINRE_TOKEN)
    return path


@pytest.fixture(params=["uefi", "bios"])
def installed(request, wim, tmp_path):
    """(firmware, disk, what install said) of a disk that has no recovery partition."""
    firmware = request.param
    text = (resources.files("mediamaker") / "layouts" / f"{firmware}.toml").read_text()
    head, *parts = text.split("[[partition]]")
    kept = [part for part in parts if 'role = "recovery"' not in part]
    assert len(kept) == len(parts) - 1
    layout = tmp_path / "layout.toml"
    layout.write_text("[[partition]]".join([head, *kept]))
    disk = tmp_path / "disk.img"
    result = succeed(
        "install", f"{wim}:1", disk, "--firmware", firmware, "--layout", layout,
        "--winre", "native", "--seed", "recovery", "--size", "2GiB",
    )  # fmt: skip
    return firmware, disk, result


def boot(disk, firmware, expected, out_dir):
    finished = mediamaker(
        "boot", disk, "--firmware", firmware, "--expect", expected,
        "--screenshot", out_dir, "--timeout", "90",
    )  # fmt: skip
    assert finished.exit_code == 0, (finished.last, finished.errors)


def digest(path):
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def extract(wim, path):
    return subprocess.run(
        ["wimlib-imagex", "extract", wim, "1", path, "--to-stdout"],
        check=True, capture_output=True,
    ).stdout  # fmt: skip


def test_windows_boots_then_winre_then_all_is_as_before(installed, wim, tmp_path, out_dir):
    firmware, disk, _ = installed
    before = digest(disk)
    assert mediamaker("recovery", "check", disk).exit_code == 5
    added = succeed("recovery", "add", disk, "--undo", tmp_path / "undo")
    assert added["report"]["would_start"]
    succeed("recovery", "check", disk)
    boot(disk, firmware, f"MM-TOKEN: {TOKEN}", out_dir)
    # GRUB's own NTFS driver reads both volumes
    winre = extract(wim, "/Windows/System32/Recovery/Winre.wim")
    loader = extract(wim, f"/Windows/System32/{LOADERS[firmware]}")
    paths = ["/Recovery/WindowsRE/Winre.wim", f"/Windows/System32/{LOADERS[firmware]}"]
    hashes = grub_hashes(disk, paths)
    assert [hashes[path] for path in paths] == [
        hashlib.sha256(data).hexdigest() for data in (winre, loader)
    ]
    # with a loader that is broken, WinRE starts
    broken = tmp_path / "broken.img"
    subprocess.run(["cp", "--sparse=always", disk, broken], check=True)
    windows = added["windows"]
    with broken.open("r+b") as file:
        file.seek(windows["start"])
        at = file.read(windows["size_after"]).find(loader[:4096])
        assert at >= 0
        file.seek(windows["start"] + at)
        file.write(bytes(len(loader)))
    boot(broken, firmware, f"MM-WINRE: {WINRE_TOKEN}", out_dir)
    broken.unlink()
    succeed("undo", tmp_path / "undo", disk)
    assert digest(disk) == before
    boot(disk, firmware, f"MM-TOKEN: {TOKEN}", out_dir)


def test_on_a_real_block_device(installed, tmp_path, out_dir):
    """NVMe with a GPT, a USB disk with an MBR; in a guest, then that very disk."""
    firmware, disk, result = installed
    bus, device = (Bus.NVME, "/dev/nvme0n1") if firmware == "uefi" else (Bus.USB, "/dev/sda")
    before = tmp_path / "before.img"
    subprocess.run(["cp", disk, before], check=True)
    script = f"""
cd {out_dir.resolve()}
code=0
python3 -m mediamaker recovery add {device} --confirm OTHER --undo undo --json > refused.json \\
    || code=$?
[ $code = 4 ]
python3 -m mediamaker recovery add {device} --confirm WIN0001 --undo undo --json > add.json
lsblk -no NAME,SIZE {device}
"""
    ran = run_in_guest(
        script,
        disks=[Disk(disk, bus, snapshot=False, serial="WIN0001")],
        work_dir=out_dir,
        timeout=600,
        memory_size=2048 * MIB,
    )
    assert ran.exit_code == 0, ran.output
    changed = {"system", "windows"}
    for place in result["disk"]["partitions"]:
        if place["role"] not in changed:
            words = ["cmp", "-n", str(place["size"]), "-i", str(place["start"]), before, disk]
            subprocess.run(words, check=True)
    succeed("recovery", "check", disk)
    boot(disk, firmware, f"MM-TOKEN: {TOKEN}", out_dir)
    succeed("undo", out_dir / "undo", disk)
    assert digest(disk) == digest(before)
