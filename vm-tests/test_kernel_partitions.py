# SPDX-License-Identifier: GPL-3.0-or-later
"""Partitions without a table on real disks: the kernel shows them, mkntfs and libwim fill them."""

import json
import subprocess
from pathlib import Path

from guest import run_in_guest

from mediamaker.units import MIB
from mediamaker.vm.disk import Bus, Disk

PROGRAM = """
import json, os, subprocess, sys
from pathlib import Path
from mediamaker.devices.kernel_partitions import PartitionRange, kernel_partitions
from mediamaker.errors import MediaError
from mediamaker.execute.progress import ignore_event
from mediamaker.install.apply_windows import apply_windows
from mediamaker.install.image_facts import image_facts
from mediamaker.install.make_ntfs import make_ntfs

MIB = 1 << 20
disk, wim, scratch = sys.argv[1:4]
ranges = [PartitionRange(1, MIB, 8 * MIB), PartitionRange(3, 16 * MIB, 40 * MIB)]
said = {"before": sorted(os.listdir(f"/sys/block/{disk}"))}
# A partition that somebody mounted: the disk can't even be opened exclusively.
descriptor = os.open(f"/dev/{disk}", os.O_RDWR | os.O_EXCL)
with kernel_partitions(descriptor, ranges) as paths:
    said["during"] = {number: str(path) for number, path in paths.items()}
    said["sizes"] = [
        int(subprocess.check_output(["blockdev", "--getsize64", path])) for path in paths.values()
    ]
    windows = paths[3]
    make_ntfs(windows, size=40 * MIB, sector_size=512, hidden_sectors=32768,
              volume_label="Windows", volume_serial=0x1234, is_held=True)
    # Nobody can mount it while we hold the disk.
    said["mount"] = subprocess.run(["mount", "-t", "vfat", windows, "/mnt"],
                                   capture_output=True, text=True).stderr
    facts = image_facts([Path(wim)], 1)
    apply_windows([Path(wim)], facts, windows, scratch=Path(scratch), is_held=True,
                  on_event=ignore_event)
said["after"] = sorted(os.listdir(f"/sys/block/{disk}"))
os.close(descriptor)
# The table on the disk is the old one still: the kernel finds it again.
subprocess.run(["blockdev", "--rereadpt", f"/dev/{disk}"], check=True)
said["again"] = sorted(os.listdir(f"/sys/block/{disk}"))
# In use: held without O_EXCL by somebody who has the partition open for itself.
descriptor = os.open(f"/dev/{disk}", os.O_RDWR)
name = next(n for n in said["again"] if n.startswith(disk))
user = os.open(f"/dev/{name}", os.O_RDWR | os.O_EXCL)
try:
    with kernel_partitions(descriptor, ranges):
        said["refused"] = "no"
except MediaError as error:
    said["refused"] = error.message
print("JSON" + json.dumps(said))
"""


def old_disk(path):
    with path.open("wb") as file:
        file.truncate(64 * MIB)
    subprocess.run(["sgdisk", "-n", "1:2048:100000", path], check=True, stdout=subprocess.DEVNULL)
    return path


def test_on_nvme_and_usb(out_dir, tmp_path):
    tree = tmp_path / "tree"
    (tree / "Windows" / "System32").mkdir(parents=True)
    (tree / "Windows" / "System32" / "kernel").write_bytes(bytes(range(256)) * 20_000)
    wim = out_dir / "x.wim"
    wim.unlink(missing_ok=True)
    subprocess.run(
        ["wimlib-imagex", "capture", tree, wim, "x"], check=True, stdout=subprocess.DEVNULL
    )
    (out_dir / "program.py").write_text(PROGRAM)
    out = out_dir.resolve()
    script = f"""
for disk in nvme0n1 sda; do
    python3 {out}/program.py $disk {out}/x.wim {out}
done
"""
    disks = [
        Disk(old_disk(tmp_path / "nvme.img"), Bus.NVME, snapshot=False, serial="FAST0001"),
        Disk(old_disk(tmp_path / "usb.img"), Bus.USB, snapshot=False, serial="STICK0001"),
    ]
    result = run_in_guest(
        script, disks=disks, work_dir=out_dir, timeout=600, memory_size=1024 * MIB
    )
    assert result.exit_code == 0, result.output
    lines = [line[4:] for line in result.output.splitlines() if line.startswith("JSON")]
    for line, name in zip(lines, ("nvme0n1p{}", "sda{}"), strict=True):
        said = json.loads(line)
        assert name.format(1) in said["before"]
        assert said["during"] == {"1": f"/dev/{name.format(1)}", "3": f"/dev/{name.format(3)}"}
        assert said["sizes"] == [8 * MIB, 40 * MIB]
        assert "already mounted or mount point busy" in said["mount"]
        assert not [entry for entry in said["after"] if entry.startswith(name.format(""))]
        assert [entry for entry in said["again"] if entry.startswith(name.format(""))] == [
            name.format(1)
        ]
        assert "partition 1 is in use" in said["refused"]
    for disk in (tmp_path / "nvme.img", tmp_path / "usb.img"):
        check_volume(disk, tmp_path)


def check_volume(disk, tmp_path):
    """Foreign tools look at the bytes of the disk on the host."""
    volume = tmp_path / "volume.img"
    with disk.open("rb") as file:
        file.seek(16 * MIB)
        volume.write_bytes(file.read(40 * MIB))
    subprocess.run(["ntfsfix", "--no-action", volume], check=True, stdout=subprocess.DEVNULL)
    shown = subprocess.check_output(
        ["ntfscat", volume, "Windows/System32/kernel"], stderr=subprocess.DEVNULL
    )
    assert shown == bytes(range(256)) * 20_000
    with disk.open("rb") as file:
        file.seek(16 * MIB)
        head = file.read(512)
    assert int.from_bytes(head[0x1C:0x20], "little") == 32768
    # The old table is as it was.
    done = subprocess.run(["sgdisk", "-v", disk], capture_output=True, text=True, check=True)
    assert "No problems found" in done.stdout
    assert Path(disk).stat().st_size == 64 * MIB
