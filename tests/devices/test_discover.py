# SPDX-License-Identifier: GPL-3.0-or-later
"""Discovery on trees laid out as kernels lay them out, and on this machine's own."""

from __future__ import annotations

import dataclasses
import os
import subprocess
from pathlib import Path

import pytest

from mediamaker.devices.blockmap import disks_of_path
from mediamaker.devices.discover import find_disk, list_disks
from mediamaker.devices.identity import check_same_disk, disk_fingerprint
from mediamaker.devices.mounts import parse_mountinfo
from mediamaker.devices.signatures import probe_signature
from mediamaker.errors import TargetRefusedError

MIB = 1 << 20
GIB = 1 << 30


def run(*command: object) -> None:
    subprocess.run([str(word) for word in command], check=True, capture_output=True)


# what a disk is


def test_usb_stick(system):
    system.usb("sdb")
    system.partition("sdb", "sdb1", 1, start=MIB, size=100 * MIB)
    disk = system.disk("sdb")
    assert (disk.kind, disk.bus) == ("disk", "usb")
    assert (disk.vendor, disk.model) == ("SanDisk", "Ultra Fit")
    assert disk.title == "SanDisk Ultra Fit"
    assert disk.serial == "4C530001230101117392"
    assert (disk.size, disk.logical_sector_size, disk.physical_sector_size) == (16 * GIB, 512, 4096)
    assert disk.is_removable
    assert not disk.is_read_only
    assert disk.path == system.roots.dev / "sdb"
    (partition,) = disk.partitions
    assert (partition.name, partition.number) == ("sdb1", 1)
    assert (partition.start, partition.size) == (MIB, 100 * MIB)


def test_sizes_are_units_of_512_bytes_also_with_4096_byte_sectors(system):
    system.usb("sdb", size=GIB, sector_size=4096)
    system.partition("sdb", "sdb1", 1, start=8 * MIB)
    disk = system.disk("sdb")
    assert (disk.size, disk.logical_sector_size) == (GIB, 4096)
    assert disk.partitions[0].start == 8 * MIB


def test_the_slots_of_a_card_reader_differ_by_lun(system):
    system.usb("sdb", port="2-1", serial="058F63666433")
    other = "pci0000:00/0000:00:14.0/usb2/2-1/2-1:1.0"
    system.scsi("sdc", other, address="6:0:0:1", size=16 * GIB, removable=True)
    disks = {disk.name: disk for disk in system.disks()}
    assert disks["sdb"].serial == disks["sdc"].serial == "058F63666433"
    assert (disks["sdb"].lun, disks["sdc"].lun) == (0, 1)


def test_usb_stick_without_a_serial(system):
    system.usb("sdb", serial=None)
    assert system.disk("sdb").serial is None


def test_udev_fills_what_sysfs_lacks_and_does_not_override_it(system):
    system.usb("sdb", serial=None)
    system.udev("sdb", ID_SERIAL_SHORT="FROM-UDEV", ID_WWN="0x5000c500", ID_MODEL="wrong")
    disk = system.disk("sdb")
    assert (disk.serial, disk.wwn, disk.model) == ("FROM-UDEV", "0x5000c500", "Ultra Fit")


def test_sata_disk_reads_the_serial_page(system):
    system.sata("sda")
    disk = system.disk("sda")
    assert (disk.bus, disk.vendor, disk.model) == ("sata", None, "WDC WD5000")
    assert disk.serial == "WD-WCC4E0000001"
    assert disk.wwn == "naa.5000000000000001"


def test_a_broken_serial_page_is_no_serial(system):
    system.sata("sda", serial=None)
    page = system.directory("sda") / "device/vpd_pg80"
    for content in (b"", b"\0", b"\0\x83\0\x04abcd", b"\0\x80\0\0", b"\0\x80\0\x04\0\0\0\0"):
        page.write_bytes(content)
        assert system.disk("sda").serial is None


def test_nvme_name_ends_in_a_digit(system):
    system.nvme("nvme0n1")
    system.partition("nvme0n1", "nvme0n1p1", 1)
    system.partition("nvme0n1", "nvme0n1p12", 12)
    disk = system.disk("nvme0n1")
    assert (disk.bus, disk.serial) == ("nvme", "S4EWNX0R000001")
    assert disk.wwn == "eui.0025385b01400001"
    assert [part.name for part in disk.partitions] == ["nvme0n1p1", "nvme0n1p12"]
    assert find_disk(system.roots.dev / "nvme0n1", system.disks()) == disk


def test_hidden_paths_of_a_multipath_nvme_are_not_listed(system):
    system.nvme("nvme0n1")
    system.write(system.directory("nvme0n1") / "hidden", 1)
    assert system.disks() == ()


def test_sd_card_and_emmc_differ(system):
    system.mmc("mmcblk0", type_="SD")
    system.partition("mmcblk0", "mmcblk0p1", 1)
    disk = system.disk("mmcblk0")
    assert (disk.bus, disk.model, disk.serial) == ("mmc", "SC32G", "0x1b2c3d4e")
    assert disk.is_memory_card
    system.write(system.directory("mmcblk0") / "device/type", "MMC")
    assert not system.disk("mmcblk0").is_memory_card


def test_virtio_disk(system):
    system.virtio("vda", serial="stick-1")
    disk = system.disk("vda")
    assert (disk.bus, disk.vendor, disk.serial, disk.is_removable) == (
        "virtio",
        None,
        "stick-1",
        False,
    )


def test_loop_is_listed_only_with_a_backing_file(system, tmp_path):
    system.loop("loop0", backing_file=tmp_path / "disk image.img")
    system.partition("loop0", "loop0p1", 1)
    system.loop("loop1")
    (disk,) = system.disks()
    assert (disk.name, disk.kind, disk.bus) == ("loop0", "loop", "loop")
    assert disk.backing_file == str(tmp_path / "disk image.img")
    assert [part.name for part in disk.partitions] == ["loop0p1"]


def test_memory_is_no_disk(system):
    system.block("zram0", "virtual/block", size=GIB)
    system.block("ram0", "virtual/block", size=GIB)
    system.block("nbd0", "virtual/block", size=0)
    assert system.disks() == ()


def test_optical_drive_is_called_so(system):
    system.scsi("sr0", "pci0000:00/ata3", address="2:0:0:0", type_=5, size=GIB, removable=True)
    assert system.disk("sr0").kind == "optical"


def test_empty_card_reader(system):
    system.usb("sdb", size=0)
    disk = system.disk("sdb")
    assert (disk.size, disk.signature.problem) == (0, "no medium")


def test_read_only_disk(system):
    system.usb("sdb", read_only=True)
    assert system.disk("sdb").is_read_only


def test_natural_order(system):
    for index, name in enumerate(("sdaa", "sdb", "sda")):
        system.sata(name, ata=index + 1)
    assert [disk.name for disk in system.disks()] == ["sda", "sdb", "sdaa"]


def test_a_disk_that_goes_away_while_we_look_is_left_out(system):
    system.usb("sdb")
    (system.directory("sdb") / "dev").unlink()
    assert system.disks() == ()


# what uses a disk


def test_sda_is_not_sdaa(system):
    system.sata("sda", ata=1)
    system.sata("sdaa", ata=2)
    system.partition("sda", "sda1", 1)
    system.partition("sdaa", "sdaa1", 1)
    system.mount("sdaa1", "/mnt/backup")
    assert system.disk("sda").mounts == ()
    assert [str(mount) for mount in system.disk("sdaa").mounts] == ["sdaa1 at /mnt/backup"]
    assert [part.name for part in system.disk("sda").partitions] == ["sda1"]
    with pytest.raises(TargetRefusedError, match=r"sdaa1 is partition 1 of .*/sdaa,"):
        find_disk(system.roots.dev / "sdaa1", system.disks())


def test_mountpoints_of_partitions_and_names_with_blanks(system):
    system.usb("sdb")
    system.partition("sdb", "sdb1", 1)
    system.partition("sdb", "sdb2", 2)
    system.mount("sdb2", "/media/me/MY STICK")
    first, second = system.disk("sdb").partitions
    assert (first.mountpoints, second.mountpoints) == ((), ("/media/me/MY STICK",))


def test_mounted_in_another_namespace_only(system):
    system.usb("sdb")
    system.partition("sdb", "sdb1", 1)
    system.mount("sdb1", "/run/media/x", pid=4711)
    (mount,) = system.disk("sdb").mounts
    assert mount.place == "/run/media/x (in the mount namespace of process 4711, firefox)"


def test_a_namespace_of_several_processes_is_read_once(system):
    system.usb("sdb")
    system.mount("sdb", "/a", pid=10)
    system.mount("sdb", "/b", pid=11)
    link = system.roots.proc / "11/ns/mnt"
    link.unlink()
    link.symlink_to((system.roots.proc / "10/ns/mnt").readlink())
    assert [mount.place[:2] for mount in system.disk("sdb").mounts] == ["/a"]


def test_namespace_links_that_may_not_be_read_do_not_hide_mounts(system):
    system.usb("sdb")
    system.mount("sdb", "/a", pid=10)
    for pid in ("10", "self"):
        (system.roots.proc / pid / "ns/mnt").unlink()
    assert len(system.disk("sdb").mounts) == 1


def test_without_procfs_nothing_fails(system):
    system.usb("sdb")
    for name in ("self/mountinfo", "swaps"):
        (system.roots.proc / name).unlink()
    assert system.disk("sdb").mounts == ()


def test_broken_lines_of_mountinfo_are_passed_over():
    data = b"\n- \n1 2 3\n1 2 8:1 / /x rw - ext4\n9 1 8:1 / /a\\040b\\134 rw - ext4 /dev/sda1 rw\n"
    (mount,) = parse_mountinfo(data, pid=None, process_name=None)
    assert (mount.number, mount.mountpoint) == ("8:1", "/a b\\")


def test_swap_partition_and_swap_through_a_mapper(system):
    system.sata("sda")
    system.partition("sda", "sda2", 2)
    system.sata("sdb", ata=2)
    system.mapper("dm-0", "sdb", label="vg-swap", uuid="LVM-abc")
    system.swap("/dev/sda2")
    system.swap("/dev/mapper/vg-swap")
    assert system.disk("sda").swaps == ("/dev/sda2",)
    assert system.disk("sdb").swaps == ("/dev/mapper/vg-swap",)


def test_swap_file(system):
    system.sata("sda")
    system.usb("sdb")
    system.mount("sda", "/data")
    system.swap("/data/swap file", "file")
    assert system.disk("sda").swaps == ("/data/swap file",)
    assert system.disk("sdb").swaps == ()


def test_system_disk_through_lvm_on_dm_crypt_on_raid(system):
    for index, name in enumerate(("sda", "sdb")):
        system.sata(name, ata=index + 1)
        system.partition(name, f"{name}3", 3)
    system.usb("sdc")
    system.md("md127", "sda3", "sdb3")
    system.mapper("dm-0", "md127", label="luks-root", uuid="CRYPT-LUKS2-0123-luks-root")
    system.mapper("dm-1", "dm-0", label="vg-root", uuid="LVM-xyz")
    system.mount("dm-1", "/", source="/dev/mapper/vg-root")
    for name in ("sda", "sdb"):
        disk = system.disk(name)
        assert disk.is_system
        assert [str(holder) for holder in disk.holders] == [
            "RAID md127",
            "LUKS luks-root (dm-0)",
            "LVM vg-root (dm-1)",
        ]
        assert [str(mount) for mount in disk.mounts] == ["dm-1 at /"]
    stick = system.disk("sdc")
    assert (stick.is_system, stick.holders, stick.mounts) == (False, (), ())
    assert system.disk("dm-1").kind == system.disk("md127").kind == "volume"


@pytest.mark.parametrize("side", ["holders", "slaves"])
def test_one_half_of_a_relation_is_enough(system, side):
    system.sata("sda")
    system.mapper("dm-0", "sda", label="vg-root", uuid="LVM-xyz", one_sided=side)
    system.mount("dm-0", "/")
    assert [holder.name for holder in system.disk("sda").holders] == ["dm-0"]
    assert system.disk("sda").is_system


@pytest.mark.parametrize(
    ("uuid", "kind"),
    [
        ("LVM-a", "LVM"),
        ("CRYPT-LUKS1-a", "LUKS"),
        ("CRYPT-PLAIN-a", "dm-crypt"),
        ("mpath-3600", "multipath"),
        ("part1-mpath-3600", "multipath"),
        ("DMRAID-x", "RAID"),
        ("something", "device-mapper"),
    ],
)
def test_kinds_of_mapper_volumes(system, uuid, kind):
    system.sata("sda")
    system.mapper("dm-0", "sda", label="x", uuid=uuid)
    assert [holder.kind for holder in system.disk("sda").holders] == [kind]


def test_btrfs_makes_up_a_number_and_spans_disks(system):
    for index, name in enumerate(("sda", "sdb", "sdc")):
        system.sata(name, ata=index + 1)
        system.partition(name, f"{name}1", 1)
    pool = system.roots.sysfs / "fs/btrfs/0aa0-uuid/devices"
    pool.mkdir(parents=True)
    for name in ("sda1", "sdb1"):
        (pool / name).symlink_to(system.directory(name))
    system.mount("0:42", "/", filesystem="btrfs", source="/dev/sda1", options="rw,subvol=/@")
    assert [system.disk(name).is_system for name in ("sda", "sdb", "sdc")] == [True, True, False]
    assert len(system.disk("sdb").mounts) == 1


def test_bcachefs_names_its_members_with_colons(system):
    for index, name in enumerate(("sda", "sdb", "sdc")):
        system.sata(name, ata=index + 1)
    system.mount("0:43", "/pool", filesystem="bcachefs", source="/dev/sda:/dev/sdc")
    assert [bool(system.disk(name).mounts) for name in ("sda", "sdb", "sdc")] == [True, False, True]


def test_fuse_mount_of_a_partition_is_found_by_its_source(system):
    system.usb("sdb")
    system.partition("sdb", "sdb1", 1)
    (system.root / "dev/disk/by-uuid").mkdir(parents=True)
    (system.root / "dev/disk/by-uuid/12AB").symlink_to("../../sdb1")
    system.mount("0:44", "/mnt", filesystem="fuse.ntfs-3g", source="/dev/disk/by-uuid/12AB")
    assert [mount.device for mount in system.disk("sdb").mounts] == ["sdb1"]


def test_zfs_root_is_found_by_the_pool_name(system):
    system.sata("sda")
    system.partition("sda", "sda1", 1)
    system.udev("sda1", ID_FS_TYPE="zfs_member", ID_FS_LABEL="rpool")
    system.sata("sdb", ata=2)
    system.udev("sdb", ID_FS_TYPE="zfs_member", ID_FS_LABEL="tank")
    (system.roots.proc / "spl/kstat/zfs/rpool").mkdir(parents=True)
    system.mount("0:45", "/", filesystem="zfs", source="rpool/ROOT/debian")
    disk = system.disk("sda")
    assert (disk.imported_pools, disk.system_mountpoints) == (("rpool",), ("/",))
    assert [mount.device for mount in disk.mounts] == ["rpool/ROOT/debian"]
    other = system.disk("sdb")
    assert (other.imported_pools, other.is_system) == ((), False)


def test_live_system_on_overlay_of_a_loop_on_the_stick(system):
    system.usb("sdb")
    system.partition("sdb", "sdb1", 1)
    system.sata("sda")
    system.loop("loop0", backing_file="/run/live/medium/live/filesystem.squashfs")
    system.mount("sdb1", "/run/live/medium", filesystem="iso9660")
    system.mount("loop0", "/run/live/rootfs", filesystem="squashfs")
    layers = "rw,lowerdir=/run/live/rootfs,upperdir=/run/live/overlay/rw,workdir=/run/live/w"
    system.mount("0:46", "/", filesystem="overlay", source="overlay", options=layers)
    assert system.disk("sdb").system_mountpoints == ("/",)
    assert not system.disk("sda").is_system


def test_system_disk_seen_through_process_1_only(system):
    system.sata("sda")
    system.mount("0:47", "/", filesystem="overlay", source="overlay")
    system.mount("sda", "/", pid=1)
    assert system.disk("sda").is_system


def test_our_own_mount_of_a_disk_does_not_hide_that_it_is_the_root_of_process_1(system):
    system.sata("sda")
    system.mount("sda", "/host")
    system.mount("sda", "/", pid=1)
    assert system.disk("sda").system_mountpoints == ("/",)


def test_a_container_root_is_no_system_disk_but_mounted(system):
    system.usb("sdb")
    system.mount("sdb", "/", pid=999)
    disk = system.disk("sdb")
    assert (disk.is_system, len(disk.mounts)) == (False, 1)


def test_loop_over_a_whole_device_holds_it(system):
    system.usb("sdb")
    system.loop("loop0", backing_file="/dev/sdb")
    system.mount("loop0", "/mnt")
    disk = system.disk("sdb")
    assert [str(holder) for holder in disk.holders] == ["loop /dev/sdb (loop0)"]
    assert [mount.device for mount in disk.mounts] == ["loop0"]


def test_loop_over_a_device_is_no_disk_of_its_own(system, tmp_path):
    system.usb("sdb")
    system.partition("sdb", "sdb1", 1)
    system.loop("loop0", backing_file="/dev/sdb1")
    system.loop("loop1", backing_file=tmp_path / "image")
    assert (system.disk("loop0").kind, system.disk("loop1").kind) == ("volume", "loop")


def test_loops_that_back_each_other_end(system):
    system.loop("loop0", backing_file="/a/file")
    system.loop("loop1", backing_file="/b/file")
    system.mount("loop1", "/a")
    system.mount("loop0", "/b")
    assert disks_of_path(Path("/a/x"), system.roots) == {"loop0", "loop1"}


def test_path_of_deeper_mount_wins_over_its_parent(system):
    system.sata("sda")
    system.usb("sdb")
    system.mount("sda", "/")
    system.mount("sdb", "/media/stick")
    assert disks_of_path(Path("/media/stick/a.iso"), system.roots) == {"sdb"}
    assert disks_of_path(Path("/media/stick2/a.iso"), system.roots) == {"sda"}


# what lies on a disk


def test_signatures_are_read_from_the_bytes(system):
    system.usb("sdb")
    for number in range(1, 4):
        system.partition("sdb", f"sdb{number}", number)
        with (system.root / f"dev/sdb{number}").open("wb") as image:
            image.truncate(16 * MIB)
    run("mkfs.vfat", "-n", "MY STICK", system.root / "dev/sdb1")
    run("mkswap", system.root / "dev/sdb2")
    signatures = [part.signature for part in system.disk("sdb").partitions]
    assert [(item.type, item.label, item.is_member) for item in signatures] == [
        ("vfat", "MY STICK", False),
        ("swap", None, True),
        (None, None, False),
    ]


def test_bytes_win_over_what_udev_remembers(system):
    system.usb("sdb")
    run("truncate", "-s", "16M", system.root / "dev/sdb")
    run("mkfs.ext4", "-q", "-L", "Größe \\1", system.root / "dev/sdb")
    system.udev("sdb", ID_FS_TYPE="vfat", ID_FS_LABEL="OLD")
    signature = system.disk("sdb").signature
    assert (signature.type, signature.label) == ("ext4", "Größe \\1")


def test_udev_answers_where_the_device_cannot_be_read(system):
    system.usb("sdb")
    system.udev("sdb", ID_FS_TYPE="crypto_LUKS", ID_FS_LABEL_ENC="a\\x20b", ID_FS_LABEL="a_b")
    signature = system.disk("sdb").signature
    assert (signature.type, signature.label, signature.is_member) == ("crypto_LUKS", "a b", True)


def test_without_bytes_and_udev_the_contents_are_unknown(system):
    system.usb("sdb")
    signature = system.disk("sdb").signature
    assert signature.type is None
    assert signature.problem is not None
    assert signature.problem.startswith("unknown")


def test_two_file_systems_at_once_are_said(tmp_path):
    image = tmp_path / "both.img"
    run("truncate", "-s", "16M", image)
    run("mkfs.ext4", "-q", image)
    ext4 = image.read_bytes()
    run("mkfs.vfat", image)
    with image.open("r+b") as both:
        both.seek(1024)
        both.write(ext4[1024:2048])
    assert probe_signature(image).problem == "several file systems at once"


# naming a disk


def test_find_disk_follows_links(system):
    system.usb("sdb")
    links = system.root / "dev/disk/by-id"
    links.mkdir(parents=True)
    (links / "usb-SanDisk").symlink_to("../../sdb")
    assert find_disk(links / "usb-SanDisk", system.disks()).name == "sdb"


def test_find_disk_refuses_a_partition_behind_a_link(system):
    system.nvme("nvme0n1")
    system.partition("nvme0n1", "nvme0n1p2", 2)
    links = system.root / "dev/disk/by-label"
    links.mkdir(parents=True)
    (links / "DATA").symlink_to("../../nvme0n1p2")
    with pytest.raises(
        TargetRefusedError, match=r"is partition 2 of .*nvme0n1, not a disk"
    ) as caught:
        find_disk(links / "DATA", system.disks())
    assert str(system.roots.dev / "nvme0n1") in str(caught.value.hint)


def test_find_disk_refuses_what_is_not_there_or_no_device(system, tmp_path):
    system.usb("sdb")
    with pytest.raises(TargetRefusedError, match="there is no such device"):
        find_disk(system.roots.dev / "sdc", system.disks())
    plain = system.root / "dev/sdb"
    plain.write_bytes(b"dd wrote a plain file into /dev")
    for path in (plain, Path("/dev/null"), tmp_path):
        with pytest.raises(TargetRefusedError, match="is not a block device"):
            find_disk(path, system.disks())


# who a disk is


def test_the_same_disk_is_the_same(system):
    system.usb("sdb")
    identity = disk_fingerprint(system.disk("sdb"))
    check_same_disk(identity, disk_fingerprint(system.disk("sdb")))


@pytest.mark.parametrize(
    ("attribute", "content", "words"),
    [
        ("size", 8 * GIB // 512, "size in bytes: expected 17179869184, found 8589934592"),
        ("diskseq", 99, "plug-in sequence number: expected 1, found 99"),
        ("queue/logical_block_size", 4096, "sector size: expected 512, found 4096"),
        ("wwid", "naa.5", "WWN: expected none, found naa.5"),
        ("device/model", "Ultra Fat", "model: expected Ultra Fit, found Ultra Fat"),
        ("device/../../../../serial", "X", "serial: expected 4C530001230101117392, found X"),
    ],
)
def test_another_disk_under_the_same_name_is_refused(system, attribute, content, words):
    system.usb("sdb")
    before = disk_fingerprint(system.disk("sdb"))
    directory = system.directory("sdb")
    system.write(Path(os.path.realpath(directory / attribute)), content)
    with pytest.raises(TargetRefusedError) as caught:
        check_same_disk(before, disk_fingerprint(system.disk("sdb")), what="/dev/sdb")
    assert words in str(caught.value)


def test_a_stored_identity_has_no_sequence_and_still_compares(system):
    system.usb("sdb")
    stored = dataclasses.replace(disk_fingerprint(system.disk("sdb")), sequence=None)
    check_same_disk(stored, disk_fingerprint(system.disk("sdb")))


# this machine


def test_the_real_system_can_be_listed():
    for disk in list_disks():
        assert disk.path == Path("/dev") / disk.name.replace("!", "/")
        listed = subprocess.run(
            ["lsblk", "-bdnro", "SIZE,LOG-SEC,RO", disk.path],
            check=False,
            capture_output=True,
            text=True,
        )
        if listed.returncode == 0:
            assert listed.stdout.split() == [
                str(disk.size),
                str(disk.logical_sector_size),
                str(int(disk.is_read_only)),
            ]


def test_the_disk_of_our_root_is_the_system_disk_of_findmnt():
    root = subprocess.run(
        ["findmnt", "-nvo", "SOURCE", "/"], check=True, capture_output=True, text=True
    ).stdout.strip()
    found = {str(disk.path): disk for disk in list_disks()}
    names = subprocess.run(
        ["lsblk", "-nspo", "NAME,TYPE", "-r", root], check=False, capture_output=True, text=True
    ).stdout.splitlines()
    disks = [line.split()[0] for line in names if line.split()[1:] == ["disk"]]
    # in a container / is an overlay of no device: then nothing may be called a system disk by it
    assert [name for name in disks if name in found and not found[name].is_system] == []
