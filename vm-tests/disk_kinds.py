# SPDX-License-Identifier: GPL-3.0-or-later
"""Every kind of disk that must not be written, each built for real: the disks, and how.

Each disk is known by its serial: the kernel names USB disks in the order in which it finds them.
Debian packages: lvm2, mdadm, cryptsetup-bin, dmsetup, multipath-tools, zfs-fuse, btrfs-progs,
e2fsprogs, fdisk. The kernel's ZFS is not in Debian main; zfs-fuse is a ZFS in user space, with
the same format on the disk.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from mediamaker.units import MIB
from mediamaker.vm.disk import Bus, Disk

WWN = "0x5000c50015ea71aa"


@dataclass(frozen=True, slots=True)
class Kind:
    """``rules`` speak while it is in use, ``rules_after`` when it is not any more.

    Without a ``bus`` it is attached by ``make_disks`` in a way of its own.
    """

    serial: str
    what: str
    size: int
    rules: tuple[str, ...]
    rules_after: tuple[str, ...] = ()
    bus: Bus | None = Bus.USB


KINDS = (
    Kind("CLEAN", "a blank USB stick", 64 * MIB, ()),
    Kind("SMALL", "a USB stick that is too small", 24 * MIB, ()),
    Kind("MOUNTED", "a USB stick with a mounted file system", 24 * MIB, ("mounted",)),
    Kind("NSMOUNT", "mounted in another mount namespace only", 24 * MIB, ("mounted",)),
    Kind("DETACHED", "detached by `umount -l` with a file still open", 24 * MIB, ("claimed",)),
    Kind("SOURCE", "the stick that holds the source", 24 * MIB, ("source-on-target", "mounted")),
    Kind("SWAP", "swap in use", 24 * MIB, ("swap",), ("inactive-member",)),
    Kind("LVM", "physical volume of an active group", 24 * MIB, ("lvm-in-use",),
         ("inactive-member",)),
    Kind("RAID", "member of a running mdadm array", 24 * MIB, ("raid-in-use",),
         ("inactive-member",)),
    Kind("LUKS", "LUKS, opened", 24 * MIB, ("luks-in-use",), ("inactive-member",)),
    Kind("PLAIN", "dm-crypt without a header, opened", 24 * MIB, ("luks-in-use",)),
    Kind("ZFS", "member of a pool of zfs-fuse in use", 80 * MIB, ("zfs-in-use", "open-for-writing"),
         ("inactive-member",)),
    Kind("MPATH", "a path of a multipath disk", 64 * MIB, ("multipath-in-use", "fixed-disk"),
         ("fixed-disk",), bus=None),
    Kind("BTRFSA", "btrfs over two disks, mounted by the other one", 112 * MIB, ("mounted",)),
    Kind("BTRFSB", "btrfs over two disks, mounted", 112 * MIB, ("mounted",)),
    Kind("LINEAR", "part of a device-mapper volume (dm-linear)", 24 * MIB, ("held-by-other",)),
    Kind("LOOPED", "a loop device over the whole disk", 24 * MIB, ("held-by-other",)),
    Kind("WRITER", "a program has it open for writing", 24 * MIB, ("open-for-writing",)),
    Kind("FIXED", "an NVMe disk", 64 * MIB, ("fixed-disk",), ("fixed-disk",), bus=Bus.NVME),
    Kind("READONLY", "a write-protected USB stick", 24 * MIB, ("read-only",), ("read-only",),
         bus=None),
    Kind("EMPTY", "a card reader without a card", 24 * MIB, ("no-medium",), ("no-medium",),
         bus=None),
)  # fmt: skip
SWAPPED = ("SWAPA", "SWAPB")
"""Two sticks that are one after the other in one USB port."""

PREPARE = r"""
ln -sf /proc/self/fd /dev/fd
say() { echo "== $* at $(cut -d. -f1 /proc/uptime) s"; }
tell() { echo "$*" > /dev/ttyS0; }
# The host looks at the images, or does something to the machine, and answers with a file.
ask() { sync; tell "ask $1"; until [ -e "answer-$1" ]; do sleep 0.2; done; }
modprobe -a virtio_scsi dm_mod dm_crypt raid1 dm_multipath dm_service_time btrfs ext4
udevadm settle
declare -A DISK
while read -r path serial; do
    DISK[$serial]=$path
done < <(lsblk --nodeps --noheadings --output PATH,SERIAL | awk 'NF == 2')
"""
BUILD = r"""
say build
ask eject
ext4() {
    sfdisk --quiet "$1" <<< $'label: gpt\n,,L'
    udevadm settle
    mkfs.ext4 -q -F -E lazy_itable_init=0,lazy_journal_init=0 "${1}1"
}
mkdir -p /mnt/{mounted,hidden,detached,source,btrfs}
for serial in MOUNTED NSMOUNT DETACHED SOURCE; do ext4 ${DISK[$serial]}; done
mount ${DISK[MOUNTED]}1 /mnt/mounted
unshare --mount bash -c "mount ${DISK[NSMOUNT]}1 /mnt/hidden; touch hidden; exec sleep inf" &
echo $! > hidden.pid
mount ${DISK[DETACHED]}1 /mnt/detached
echo text > /mnt/detached/file
sleep inf < /mnt/detached/file &
reader=$!
until [ "$(readlink /proc/$reader/fd/0)" = /mnt/detached/file ]; do sleep 0.1; done
umount --lazy /mnt/detached
mount ${DISK[SOURCE]}1 /mnt/source
cp -r "$source" /mnt/source/tree
# reading the source would note the time of that
mount -o remount,ro /mnt/source
mkswap --quiet ${DISK[SWAP]} 2> /dev/null
swapon ${DISK[SWAP]}
say lvm
pvcreate -q ${DISK[LVM]}
vgcreate -q office ${DISK[LVM]}
lvcreate -q -n papers -L 8M office
say raid
mdadm --create /dev/md/mirror --run --level=1 --raid-devices=2 --metadata=1.2 \
    ${DISK[RAID]} missing
say crypt
printf key | cryptsetup luksFormat -q --type luks1 --pbkdf-force-iterations 1000 ${DISK[LUKS]} -
printf key | cryptsetup open ${DISK[LUKS]} secret -
printf key | cryptsetup open --type plain -c aes-xts-plain64 -s 256 -h sha256 ${DISK[PLAIN]} plain -
echo "0 8192 linear ${DISK[LINEAR]} 0" | dmsetup create joined
loop=$(losetup --find --show ${DISK[LOOPED]})
say zfs
zfs-fuse
until zpool list > /dev/null; do sleep 0.2; done
zpool create tank ${DISK[ZFS]}
say btrfs
mkfs.btrfs -q -f ${DISK[BTRFSA]} ${DISK[BTRFSB]} > /dev/null
udevadm settle
mount ${DISK[BTRFSB]} /mnt/btrfs
sleep inf 8<> ${DISK[WRITER]} &
writer=$!
say multipath
cat > /etc/multipath.conf << 'END'
defaults {
    find_multipaths no
}
blacklist {
    protocol "usb|nvme.*|scsi:usb|ata|scsi:ata"
    device {
        vendor ".*"
    }
}
blacklist_exceptions {
    device {
        vendor "QEMU"
        product "PATH.*"
    }
}
END
multipathd
for attempt in $(seq 100); do
    [ "$(lsblk -no TYPE ${DISK[MPATH]} | tail -1)" = mpath ] && break
    sleep 0.2
done
until [ -e hidden ]; do sleep 0.1; done
sync
udevadm settle
"""
JUDGES = r"""
say judges
{
    lsblk -o NAME,SERIAL,SIZE,RO,TYPE,FSTYPE,MOUNTPOINTS
    pvs; lvs; cat /proc/mdstat; cat /proc/swaps; dmsetup table --showkeys < /dev/null | cut -c1-60
    zpool status; multipath -ll; btrfs filesystem show /mnt/btrfs; losetup --list
    findmnt --task $(cat hidden.pid) --noheadings -o SOURCE,TARGET /mnt/hidden
    ls -l /proc/$reader/fd/0 /proc/$writer/fd/8; ls -d /sys/fs/ext4/sd*
} > judges.txt 2>&1
lsblk --json --bytes -o NAME,PATH,SERIAL,SIZE,RO,TYPE,FSTYPE,MOUNTPOINTS > lsblk.json
pvs --noheadings -o pv_name,vg_name,vg_attr,lv_count > pvs.txt
zpool status > zpool.txt
btrfs filesystem show /mnt/btrfs > btrfs.txt
findmnt --task $(cat hidden.pid) --noheadings -o SOURCE,TARGET /mnt/hidden > hidden.txt
findmnt --noheadings -o SOURCE > mounts.txt
kill -STOP $(pidof zfs-fuse)
"""
TAKE_OUT_OF_USE = r"""
say take out of use
kill -CONT $(pidof zfs-fuse)
kill $reader $writer $(cat hidden.pid)
umount /mnt/mounted /mnt/source /mnt/btrfs
swapoff ${DISK[SWAP]}
vgchange -q -an office
mdadm --quiet --stop /dev/md/mirror
cryptsetup close secret
cryptsetup close plain
dmsetup remove joined
losetup --detach $loop
zpool export tank
kill $(pidof zfs-fuse)
kill $(pidof multipathd)
udevadm settle
multipath -F
udevadm settle
sleep 1
"""


def make_disks(folder: Path) -> tuple[list[Disk], list[str]]:
    """Blank images in ``folder``, ``SERIAL.img``: those that ``Disk`` can say, and the others."""
    for kind in KINDS:
        _make_image(folder, kind.serial, kind.size)
    disks = [
        Disk(image(folder, kind.serial), kind.bus, snapshot=False, serial=kind.serial)
        for kind in KINDS
        if kind.bus is not None
    ]
    arguments: list[str] = []
    for number in (0, 1):
        arguments += _drive(f"path{number}", image(folder, "MPATH"))
        arguments += _device(f"virtio-scsi-pci,id=scsi{number}")
        arguments += _device(
            f"scsi-hd,bus=scsi{number}.0,drive=path{number},share-rw=on,serial=MPATH,wwn={WWN},"
            "product=PATH"
        )
    for serial, options in (("READONLY", "readonly=on"), ("EMPTY", "")):
        arguments += _drive(serial, image(folder, serial), options)
        arguments += _stick(serial)
    return disks, arguments


def make_swapped(folder: Path) -> list[str]:
    """The two sticks, of which the first is plugged in."""
    arguments = []
    for serial in SWAPPED:
        _make_image(folder, serial, 64 * MIB)
        arguments += _drive(serial, image(folder, serial))
    return arguments + _stick(SWAPPED[0])


def _make_image(folder: Path, serial: str, size: int) -> None:
    with image(folder, serial).open("wb") as file:
        file.truncate(size)


def _stick(serial: str) -> list[str]:
    return [
        *_device(f"qemu-xhci,id=port-{serial}"),
        *_device(
            f"usb-storage,id=stick-{serial},bus=port-{serial}.0,removable=on,drive={serial},"
            f"serial={serial}"
        ),
    ]


def image(folder: Path, serial: str) -> Path:
    """Where the bytes of a disk are."""
    return folder / f"{serial}.img"


def _drive(name: str, path: Path, options: str = "") -> list[str]:
    # two paths lead to one image, so QEMU may not lock it
    words = [f"if=none,id={name}", f"file={path}", "format=raw", "file.locking=off"]
    return ["-drive", ",".join([*words, options] if options else words)]


def _device(words: str) -> list[str]:
    return ["-device", words]
