# SPDX-License-Identifier: GPL-3.0-or-later
"""Each guard by name, on a system that differs from a harmless stick in one respect."""

from __future__ import annotations

import os
import subprocess
from pathlib import Path

import pytest

from mediamaker.devices.discover import list_disks
from mediamaker.devices.guard import (
    RULES,
    GuardContext,
    check_confirmation,
    check_disk,
    check_may_write,
    confirmation_words,
)
from mediamaker.errors import TargetError, TargetRefusedError, TargetTooSmallError

GIB = 1 << 30
CASES = {}


def case(rule, *also):
    """Register a system on which ``rule`` speaks (and by nature ``also``)."""

    def register(build):
        assert rule not in CASES
        CASES[rule] = (build, {rule, *also})
        return build

    return register


def stick(system, name="sdb", **options):
    system.usb(name, **options)
    system.udev(name, ID_PART_TABLE_TYPE="dos")
    system.partition(name, f"{name}1", 1)
    system.udev(f"{name}1", ID_FS_TYPE="vfat")
    return name


@case("not-a-disk")
def _(system):
    stick(system)
    system.mapper("dm-0", "sdb1", label="x", uuid="LVM-x")
    system.udev("dm-0", ID_FS_TYPE="ext4")
    return "dm-0", {}


@case("system-disk", "mounted")
def _(system):
    stick(system)
    system.mount("sdb1", "/boot/efi")
    return "sdb", {}


@case("source-on-target", "mounted")
def _(system):
    stick(system)
    system.mount("sdb1", "/media/stick")
    return "sdb", {"source_paths": (Path("/media/stick/windows.iso"),)}


@case("mounted")
def _(system):
    stick(system)
    system.mount("sdb1", "/media/stick", pid=4711)
    return "sdb", {}


@case("swap")
def _(system):
    stick(system)
    system.swap("/dev/sdb1")
    return "sdb", {}


@case("lvm-in-use")
def _(system):
    stick(system)
    system.mapper("dm-0", "sdb1", label="vg-data", uuid="LVM-abc")
    return "sdb", {}


@case("raid-in-use")
def _(system):
    stick(system)
    system.md("md0", "sdb1")
    return "sdb", {}


@case("luks-in-use")
def _(system):
    stick(system)
    system.mapper("dm-0", "sdb1", label="luks-1", uuid="CRYPT-LUKS2-abc")
    return "sdb", {}


@case("zfs-in-use")
def _(system):
    stick(system)
    system.udev("sdb1", ID_FS_TYPE="zfs_member", ID_FS_LABEL="tank")
    (system.roots.proc / "spl/kstat/zfs/tank").mkdir(parents=True)
    return "sdb", {}


@case("multipath-in-use")
def _(system):
    stick(system)
    system.mapper("dm-0", "sdb", label="mpatha", uuid="mpath-3600a")
    return "sdb", {}


@case("held-by-other")
def _(system):
    stick(system)
    system.stack("bcache0", "sdb1")
    return "sdb", {}


@case("open-for-writing")
def _(system):
    stick(system)
    system.opened("sdb1", process="gparted")
    return "sdb", {}


@case("claimed")
def _(system):
    return claimed_loop(system), {}


def claimed_loop(system):
    """A loop device of the real kernel, which this process has with O_EXCL."""
    backing = system.root / "backing"
    with backing.open("wb") as file:
        file.truncate(1 << 20)
    device = subprocess.run(
        ["losetup", "--find", "--show", backing], check=True, capture_output=True, text=True
    ).stdout.strip()
    system.closing.callback(subprocess.run, ["losetup", "--detach", device], check=True)
    descriptor = os.open(device, os.O_RDONLY | os.O_EXCL)
    system.closing.callback(os.close, descriptor)
    status = os.fstat(descriptor)
    directory = system.block("loop0", "virtual/block", size=1 << 20)
    system.write(directory / "dev", f"{os.major(status.st_rdev)}:{os.minor(status.st_rdev)}")
    system.write(directory / "loop/backing_file", backing)
    (system.root / "dev/loop0").symlink_to(device)
    return "loop0"


@case("no-medium")
def _(system):
    system.usb("sdb", size=0)
    return "sdb", {"needed_size": 8 * GIB}


@case("read-only")
def _(system):
    return stick(system, read_only=True), {}


@case("fixed-disk")
def _(system):
    system.sata("sda")
    system.udev("sda", ID_PART_TABLE_TYPE="gpt")
    return "sda", {}


@case("too-small")
def _(system):
    return stick(system, size=4 * GIB), {"needed_size": 4 * GIB + 1}


@case("inactive-member")
def _(system):
    stick(system)
    system.udev("sdb1", ID_FS_TYPE="LVM2_member")
    return "sdb", {}


@case("external-disk")
def _(system):
    return stick(system, removable=False), {}


@case("unknown-contents")
def _(system):
    system.usb("sdb")
    return "sdb", {}


def verdicts_of(system, name, **options):
    context = GuardContext(roots=system.roots, **options)
    return check_disk(system.disk(name), context)


def test_every_rule_has_a_case_and_a_name_of_its_own():
    names = [rule.name for rule in RULES]
    assert sorted(CASES) == sorted(names)
    assert len(set(names)) == len(names)


@pytest.mark.parametrize("rule", sorted(CASES))
def test_rule(system, rule):
    build, expected = CASES[rule]
    name, options = build(system)
    verdicts = verdicts_of(system, name, **options)
    assert {verdict.rule for verdict in verdicts} == expected
    assert all(verdict.reason and verdict.hint for verdict in verdicts)
    context = GuardContext(roots=system.roots, **options)
    if any(verdict.is_refusal for verdict in verdicts):
        with pytest.raises(TargetError, match=rf"\[{rule}\]"):
            check_may_write(system.disk(name), context)
    else:
        assert check_may_write(system.disk(name), context) == verdicts


WARNINGS = {"inactive-member", "external-disk", "unknown-contents"}


def test_only_these_rules_are_warnings():
    assert {rule.name for rule in RULES if not rule.is_refusal} == WARNINGS


@pytest.mark.parametrize("rule", sorted(set(CASES) - WARNINGS - {"fixed-disk"}))
def test_no_option_switches_a_refusal_off(system, rule):
    name, options = CASES[rule][0](system)
    verdicts = verdicts_of(system, name, **options, allow_fixed_disk=True)
    assert rule in {verdict.rule for verdict in verdicts if verdict.is_refusal}


def test_a_harmless_stick_passes(system):
    stick(system)
    assert verdicts_of(system, "sdb", needed_size=16 * GIB) == ()


@pytest.mark.parametrize(
    ("build", "is_fixed"),
    [
        (lambda system: system.usb("x"), False),
        (lambda system: system.usb("x", removable=False), False),
        (lambda system: system.mmc("x", type_="SD"), False),
        (lambda system: system.mmc("x", type_="MMC"), True),
        (lambda system: system.loop("x", backing_file="/a"), False),
        (lambda system: system.nvme("x"), True),
        (lambda system: system.virtio("x"), True),
        (lambda system: system.sata("x"), True),
        (lambda system: system.sata("x", removable=True), False),
    ],
)
def test_what_counts_as_a_fixed_disk(system, build, is_fixed):
    build(system)
    assert ("fixed-disk" in {item.rule for item in verdicts_of(system, "x")}) == is_fixed
    allowed = verdicts_of(system, "x", allow_fixed_disk=True)
    assert "fixed-disk" not in {item.rule for item in allowed}


def test_every_reason_is_told(system):
    system.sata("sda", read_only=True)
    system.mount("sda", "/")
    with pytest.raises(TargetRefusedError) as caught:
        check_may_write(system.disk("sda"), GuardContext(roots=system.roots))
    for rule in ("system-disk", "mounted", "read-only", "fixed-disk"):
        assert f"[{rule}]" in caught.value.message


def test_too_small_alone_says_how_much(system):
    stick(system, size=4 * GIB)
    with pytest.raises(TargetTooSmallError) as caught:
        check_may_write(system.disk("sdb"), GuardContext(needed_size=5 * GIB, roots=system.roots))
    assert (caught.value.needed_size, caught.value.available_size) == (5 * GIB, 4 * GIB)


def test_source_through_a_loop_and_lvm(system):
    stick(system)
    system.sata("sda")
    system.mapper("dm-0", "sdb1", label="vg-data", uuid="LVM-abc")
    system.mount("dm-0", "/data")
    system.loop("loop0", backing_file="/data/inner.img")
    system.mount("loop0", "/inner")
    source = (Path("/inner/windows.iso"),)
    assert "source-on-target" in {v.rule for v in verdicts_of(system, "sdb", source_paths=source)}
    assert "source-on-target" in {v.rule for v in verdicts_of(system, "loop0", source_paths=source)}
    assert "source-on-target" not in {
        v.rule for v in verdicts_of(system, "sda", source_paths=source)
    }


@pytest.mark.parametrize("name", ["windows.iso", "link.iso", "hard.iso", "."])
def test_a_loop_device_over_the_source_itself(system, tmp_path, name):
    folder = tmp_path / "media"
    folder.mkdir()
    (folder / "windows.iso").write_bytes(bytes(4096))
    (folder / "link.iso").symlink_to("windows.iso")
    (folder / "hard.iso").hardlink_to(folder / "windows.iso")
    (folder / "other.iso").write_bytes(bytes(4096))
    system.loop("loop0", backing_file=folder / "windows.iso")
    found = {v.rule: v for v in verdicts_of(system, "loop0", source_paths=(folder / name,))}
    assert found["source-on-target"].is_refusal
    assert "over the source itself" in found["source-on-target"].reason
    other = verdicts_of(system, "loop0", source_paths=(folder / "other.iso",))
    assert "source-on-target" not in {verdict.rule for verdict in other}


def test_source_behind_a_link_that_leads_to_the_target(system, tmp_path):
    stick(system)
    stick_folder = tmp_path / "stick"
    stick_folder.mkdir()
    (stick_folder / "w.iso").touch()
    (tmp_path / "link.iso").symlink_to(stick_folder / "w.iso")
    system.mount("sdb1", stick_folder)
    verdicts = verdicts_of(system, "sdb", source_paths=(tmp_path / "link.iso",))
    assert "source-on-target" in {verdict.rule for verdict in verdicts}


def test_zfs_members_of_no_pool_in_use_are_a_warning(system):
    stick(system)
    system.udev("sdb1", ID_FS_TYPE="zfs_member", ID_FS_LABEL="old")
    (system.roots.proc / "spl/kstat/zfs/tank").mkdir(parents=True)
    assert [verdict.rule for verdict in verdicts_of(system, "sdb")] == ["inactive-member"]


def test_zfs_member_without_a_readable_label_counts_as_in_use(system):
    stick(system)
    system.udev("sdb1", ID_FS_TYPE="zfs_member")
    (system.roots.proc / "spl/kstat/zfs/tank").mkdir(parents=True)
    assert [verdict.rule for verdict in verdicts_of(system, "sdb")] == ["zfs-in-use"]


def test_a_pool_of_zfs_in_user_space_is_in_use(system):
    stick(system)
    system.udev("sdb1", ID_FS_TYPE="zfs_member", ID_FS_LABEL="tank")
    system.opened("sdb1")
    zfs, writing = verdicts_of(system, "sdb")
    assert (zfs.rule, writing.rule) == ("zfs-in-use", "open-for-writing")
    assert "tank (process 4711, zfs-fuse, has sdb1 open)" in zfs.reason


def test_whoever_only_reads_is_no_reason(system):
    stick(system)
    system.opened("sdb", flags=os.O_RDONLY, process="smartd")
    assert verdicts_of(system, "sdb") == ()


def test_a_claim_on_another_device_of_the_same_name_is_none(system):
    claimed_loop(system)
    system.write(system.directory("loop0") / "dev", "7:4711")
    assert verdicts_of(system, "loop0") == ()


def test_a_file_system_that_is_mounted_nowhere_any_more_is_named(system):
    claimed_loop(system)
    (system.roots.sysfs / "fs/ext4/loop0").mkdir(parents=True)
    (verdict,) = verdicts_of(system, "loop0")
    assert "ext4 on loop0" in verdict.reason


@pytest.mark.parametrize(
    "type_", ["LVM2_member", "linux_raid_member", "crypto_LUKS", "swap", "isw_raid_member"]
)
def test_inactive_members_are_named(system, type_):
    stick(system)
    system.udev("sdb1", ID_FS_TYPE=type_)
    (verdict,) = verdicts_of(system, "sdb")
    assert verdict.rule == "inactive-member"
    assert f"sdb1: {type_}" in verdict.reason


# confirmation


def test_confirmation_by_serial_ignores_case_and_blanks(system):
    stick(system, serial="AbC 123")
    disk = system.disk("sdb")
    assert confirmation_words(disk) == "AbC 123"
    for text in ("AbC 123", "  abc 123\n", "ABC  123"):
        check_confirmation(disk, text)


@pytest.mark.parametrize("text", ["", "yes", "y", "AbC 12", "AbC 1234", "/dev/sdb", "sdb"])
def test_confirmation_by_anything_else_is_refused(system, text):
    stick(system, serial="AbC 123")
    with pytest.raises(TargetRefusedError) as caught:
        check_confirmation(system.disk("sdb"), text)
    assert '--confirm "AbC 123"' in str(caught.value.hint)


def test_confirmation_without_a_serial_is_the_model_then_the_name(system):
    stick(system, serial=None)
    assert confirmation_words(system.disk("sdb")) == "SanDisk Ultra Fit"
    system.loop("loop0", backing_file="/a")
    assert confirmation_words(system.disk("loop0")) == "loop0"


# this machine


def test_the_disk_that_holds_our_root_is_refused():
    """Where / stands on a device at all: in many containers it does not, then none may match."""
    device = Path("/").stat().st_dev
    number = f"{os.major(device)}:{os.minor(device)}"
    for disk in list_disks():
        rules = {verdict.rule for verdict in check_disk(disk, GuardContext(allow_fixed_disk=True))}
        numbers = {disk.device_number, *(part.device_number for part in disk.partitions)}
        if number in numbers:
            assert {"system-disk", "mounted"} <= rules


def test_a_source_on_our_root_is_found():
    device = Path(__file__).stat().st_dev
    number = f"{os.major(device)}:{os.minor(device)}"
    for disk in list_disks():
        numbers = {disk.device_number, *(part.device_number for part in disk.partitions)}
        verdicts = check_disk(disk, GuardContext(source_paths=(Path(__file__),)))
        if number in numbers:
            assert "source-on-target" in {verdict.rule for verdict in verdicts}
