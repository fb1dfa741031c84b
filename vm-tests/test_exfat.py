# SPDX-License-Identifier: GPL-3.0-or-later
"""Linux's own exfat driver reads a volume that we made, writes to it, and fsck agrees."""

import hashlib
import os

from guest import run_in_guest

from mediamaker.extents import Literal, Piece, Zeros
from mediamaker.units import KIB, MIB
from mediamaker.vm.disk import Bus, Disk
from mediamaker.volumes.tree import TreeItem, build_tree
from tests.volumes.exfat_judges import make_exfat
from tests.volumes.fat_judges import materialise, ns

MODIFIED_NS = ns(2024, 2, 29, 23, 59, 59) + 870_000_000
MODIFIED_TEXT = "2024-02-29 23:59:59.870000000 +0000"
CONTENTS = {
    "bootmgr": os.urandom(100_000),
    "sources/boot.wim": os.urandom(3 * MIB + 7),
    "sources/empty": b"",
    "Ünïcode/emoji 💾 and 日本語.txt": b"names",
    "Ünïcode/" + "x" * 250 + ".txt": b"long",
    # A surrogate pair that lies in two directory entries.
    "14 characters_💾.txt": b"cut",
    # Over one cluster of names.
    **{f"many/a file with a long name, number {n:04}": b"%d" % n for n in range(900)},
}


def test_linux_reads_and_writes_a_volume_of_ours(out_dir, tmp_path):
    items = [
        TreeItem(
            tuple(path.split("/")), (Piece(len(data), Literal(data)),) if data else (), MODIFIED_NS
        )
        for path, data in CONTENTS.items()
    ]
    zeros = TreeItem(("sources", "install.wim"), (Piece(5 * 1024 * MIB, Zeros()),), MODIFIED_NS)
    volume = make_exfat(
        build_tree([*items, zeros]), 12 * 1024 * MIB, cluster_size=64 * KIB, volume_label="Stick"
    )
    disk = materialise(volume.extents, tmp_path / "exfat.img")
    sums = "".join(
        f"{hashlib.sha256(data).hexdigest()}  ./{path}\n" for path, data in CONTENTS.items()
    )
    (out_dir / "sums").write_text(sums)
    script = f"""
mount -t exfat -o ro /dev/vda /mnt
cd /mnt
sha256sum --quiet --check {out_dir.resolve()}/sums
find . -type f | wc -l
stat -c '%s' sources/install.wim
TZ=UTC stat -c '%y' bootmgr sources/boot.wim SOURCES/BOOT.WIM
df --output=avail -B1 . | tail -1
# Reading beyond 4 GiB.
dd if=sources/install.wim bs=1M skip=5110 status=none | tr -d '\\0' | wc -c
cd /
umount /mnt
# The free clusters are free, and directories can grow: fsck.exfat judges what the driver did.
mount -t exfat /dev/vda /mnt
cp /bin/busybox /mnt/new
for n in $(seq 600); do echo $n > "/mnt/many/one more file with a long name, number $n"; done
rm -r "/mnt/Ünïcode"
rm /mnt/sources/boot.wim
cd /mnt
grep -v -e nïcode -e boot.wim {out_dir.resolve()}/sums | sha256sum --quiet --check
cmp /bin/busybox new
cd /
umount /mnt
fsck.exfat -n /dev/vda
dmesg | grep -iE 'exfat|i/o error' || true
"""
    result = run_in_guest(
        script,
        disks=[Disk(disk, Bus.VIRTIO, snapshot=False)],
        work_dir=out_dir,
        timeout=300,
        with_udev=False,
    )
    assert result.exit_code == 0, result.output
    lines = result.output.splitlines()
    expected = [
        str(len(CONTENTS) + 1),
        str(zeros.pieces[0].size),
        *[MODIFIED_TEXT] * 3,
        str(volume.free_size),
        "0",
    ]
    assert lines[: len(expected)] == expected, result.output
    assert any(line.startswith("/dev/vda: clean.") for line in lines), result.output
    assert "exFAT-fs" not in result.output
