# SPDX-License-Identifier: GPL-3.0-or-later
"""A stick written to a real block device, in a guest: guards, write, Linux's vfat, boot."""

import json
import subprocess

import pytest
from command import succeed
from guest import run_in_guest
from standin.iso import standin_iso

from mediamaker.units import MIB
from mediamaker.vm.disk import Bus, Disk


@pytest.fixture(scope="module")
def iso():
    return standin_iso()


@pytest.fixture(scope="module")
def sums(iso, tmp_path_factory):
    """SHA-256 of every file of the ISO, as 7-Zip unpacks it."""
    folder = tmp_path_factory.mktemp("tree")
    subprocess.run(["7z", "x", f"-o{folder}", iso.path], check=True, stdout=subprocess.DEVNULL)
    names = [path.relative_to(folder) for path in folder.rglob("*") if path.is_file()]
    shown = subprocess.run(
        ["sha256sum", *sorted(names)], cwd=folder, check=True, capture_output=True, text=True
    ).stdout
    # 7-Zip also shows what is no file of the tree.
    return "".join(line for line in shown.splitlines(keepends=True) if "[BOOT]" not in line)


def stale_disk(path, size):
    """A disk with an earlier life: GPT, ext4 in a partition, a backup table at its end."""
    with path.open("wb") as file:
        file.truncate(size)
    subprocess.run(
        ["sgdisk", "-n", "1:2048:0", "-c", "1:old", path], check=True, stdout=subprocess.DEVNULL
    )
    subprocess.run(
        ["mkfs.ext4", "-q", "-F", "-E", f"offset={MIB}", path, "100M"],
        check=True, capture_output=True,
    )  # fmt: skip
    return path


def test_a_stick_on_usb(iso, sums, out_dir, tmp_path):
    stick = stale_disk(tmp_path / "stick.img", 256 * MIB)
    (out_dir / "sums").write_text(sums)
    script = f"""
mm() {{ python3 -m mediamaker "$@"; }}
cd {out_dir.resolve()}
mm devices --json > devices.json
# Refused: no word of confirmation, a wrong one, a mounted partition.
expect() {{ local want=$1 got=0; shift; "$@" > refused.json || got=$?;
    cat refused.json; [ $got = $want ] || {{ echo "exit $got instead of $want"; exit 1; }}; }}
expect 4 mm create {iso.path} /dev/sda --json
expect 4 mm create {iso.path} /dev/sda --confirm OTHER --json
expect 4 mm create {iso.path} /dev/sda1 --confirm STICK0001 --json
mount -t ext4 /dev/sda1 /mnt
expect 4 mm create {iso.path} /dev/sda --confirm STICK0001 --json
grep -q '\\[mounted\\]' refused.json
umount /mnt
mm create {iso.path} /dev/sda --confirm STICK0001 --seed guest --json > create.json
grep -c . /sys/block/sda/sda1/size
mm verify /dev/sda {iso.path} --json > verify.json
blkid -p /dev/sda /dev/sda1
# The kernel's own driver is the judge of the volume.
mount -t vfat -o ro,utf8,shortname=mixed /dev/sda1 /mnt
cd /mnt
sha256sum --quiet --check {out_dir.resolve()}/sums
find . -type f | wc -l
cd /
umount /mnt
dmesg | grep -iE 'fat-fs|i/o error' || true
"""
    result = run_in_guest(
        script,
        disks=[Disk(stick, Bus.USB, snapshot=False, serial="STICK0001")],
        work_dir=out_dir,
        timeout=600,
        memory_size=1536 * MIB,
    )
    assert result.exit_code == 0, result.output
    assert "FAT-fs" not in result.output
    disks = json.loads((out_dir / "devices.json").read_text())["disks"]
    (usb,) = [disk for disk in disks if disk["path"] == "/dev/sda"]
    assert (usb["bus"], usb["serial"], usb["is_removable"]) == ("usb", "STICK0001", True)
    assert usb["is_target"] is True
    assert any("ext4" in words for words in usb["contents"])
    created = json.loads((out_dir / "create.json").read_text().splitlines()[-1])
    assert created["event"] == "create"
    assert created["is_verified"] is True
    assert created["out_of_order_writes"] < 10
    verified = json.loads((out_dir / "verify.json").read_text().splitlines()[-1])
    assert verified["plan_id"] == created["plan_id"]
    # No trace of the earlier life, for those who look at both ends.
    shown = subprocess.run(
        ["wipefs", "--no-act", "--noheadings", "--output", "TYPE", stick],
        capture_output=True, text=True, check=True,
    ).stdout  # fmt: skip
    assert shown.split() == ["dos"]
    # The host sees the same disk, and it boots.
    assert succeed("verify", stick, iso.path)["plan_id"] == created["plan_id"]
    for firmware in ("bios", "uefi"):
        booted = succeed(
            "boot", stick, "--firmware", firmware, "--expect", f"token={iso.token}",
            "--screenshot", out_dir, "--timeout", "180",
        )  # fmt: skip
        assert booted["proven"] is True


def test_a_fixed_disk_needs_to_be_allowed(iso, out_dir, tmp_path):
    disk = tmp_path / "nvme.img"
    with disk.open("wb") as file:
        file.truncate(128 * MIB)
    script = f"""
cd {out_dir.resolve()}
code=0
python3 -m mediamaker create {iso.path} /dev/nvme0n1 --confirm FAST0001 --json > refused.json \\
    || code=$?
[ $code = 4 ]
grep -q '\\[fixed-disk\\]' refused.json
python3 -m mediamaker create {iso.path} /dev/nvme0n1 --confirm FAST0001 --allow-fixed-disk \\
    --json > create.json
ls /dev/nvme0n1p1
"""
    result = run_in_guest(
        script,
        disks=[Disk(disk, Bus.NVME, snapshot=False, serial="FAST0001")],
        work_dir=out_dir,
        timeout=400,
        memory_size=1536 * MIB,
    )
    assert result.exit_code == 0, result.output
    assert succeed("verify", disk, iso.path)
