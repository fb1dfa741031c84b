# SPDX-License-Identifier: GPL-3.0-or-later
"""Each thing that keeps WinRE from starting is named; what only Windows minds is advice."""

import random
import shutil
import tempfile
import time
from pathlib import Path
from uuid import UUID

import pytest

from mediamaker.execute.progress import ProgressMeter, ignore_event
from mediamaker.formats.bcd import pack_store, parse_store
from mediamaker.formats.bcd_devices import GptPartition, Ramdisk
from mediamaker.install.disk_file import identify, open_disk
from mediamaker.install.recovery_add import AddRequest, prepare_recovery, write_recovery
from mediamaker.install.recovery_check import check_recovery
from mediamaker.install.windows_disk import WindowsDisk
from tests.install.windows_disk_rig import (
    DISK_GUID,
    IDS,
    MIB,
    folder_in_memory,
    make_gpt_disk,
    make_winre,
    tool,
)

STORE = "::/EFI/Microsoft/Boot/BCD"


@pytest.fixture(scope="module")
def folder():
    with folder_in_memory() as path:
        yield path


@pytest.fixture(scope="module")
def good(folder):
    """A disk on which WinRE would start, and the bytes of it."""
    rig = make_gpt_disk(folder, windows_size=48 * MIB, gap=40 * MIB, tail=False)
    size = rig.path.stat().st_size
    request = AddRequest(seed=b"check", winre=make_winre(folder), size=32 * MIB)
    with (
        open_disk(rig.path, writable=True) as disk,
        prepare_recovery(rig.path, disk_size=size, sector_size=512, request=request) as found,
    ):
        write_recovery(
            found,
            disk,
            undo_path=folder / "undo",
            identity=identify(rig.path, size=size, sector_size=512),
            made_at="",
            made_by="",
            meter=ProgressMeter(ignore_event, time.monotonic),
        )
    original = rig.path.read_bytes()
    return rig, original, found.recovery


@pytest.fixture
def disk(good):
    """The good disk, to be broken; it is whole again for the next test."""
    rig, original, recovery = good
    yield rig, recovery
    rig.path.write_bytes(original)


def check(rig, **options):
    data = rig.path.read_bytes()
    disk = WindowsDisk(
        lambda offset, size: data[offset : offset + size],
        disk_size=len(data),
        sector_size=512,
        what="disk",
    )
    return check_recovery(disk, **options)


def bad_points(report):
    return {point.name for point in report.points if not point.is_good}


def edit_store(rig, change):
    image = f"{rig.path}@@{rig.part('esp').start}"
    with tempfile.TemporaryDirectory() as name:
        path = Path(name) / "BCD"
        tool("mcopy", "-n", "-i", image, STORE, path)
        path.write_bytes(pack_store(change(parse_store(path.read_bytes(), what="x"))))
        tool("mcopy", "-n", "-o", "-i", image, path, STORE)


def edit_object(rig, find, change):
    def edit(store):
        item = store.object(find(store))
        return store.with_object(change(item))

    edit_store(rig, edit)


def os_guid(store):
    del store
    return IDS.os


def recovery_guid(store):
    return store.object(IDS.os).value(0x14000008)[0]


def options_guid(store):
    return store.object(recovery_guid(store)).value(0x11000001).options_guid


def test_a_good_disk_is_good(disk):
    rig, recovery = disk
    report = check(rig)
    assert report.would_start
    assert bad_points(report) == set()
    assert (report.system_number, report.windows_number) == (1, 3)
    assert report.recovery_number == recovery.number
    assert check(rig, windows_number=3).would_start


OTHER = UUID(int=7)
LOOK = (
    # name of the case, object, change, the bad point
    ("disabled", os_guid, lambda item: item.with_value(0x16000009, False), "recoveryenabled"),
    ("unlinked", os_guid, lambda item: item.without_element(0x14000008), "recoverysequence"),
    ("dangling", os_guid, lambda item: item.with_value(0x14000008, (OTHER,)), "recoverysequence"),
    ("not-pe", recovery_guid, lambda item: item.without_element(0x26000022), "winre-entry"),
    ("no-name", recovery_guid, lambda item: item.without_element(0x12000004), "winre-entry"),
    ("no-device", recovery_guid, lambda item: item.without_element(0x11000001), "winre-entry"),
    ("os-device", recovery_guid, lambda item: item.without_element(0x21000001), "winre-entry"),
    ("no-sdi-path", options_guid, lambda item: item.without_element(0x32000004), "sdi"),
    ("sdi-path", options_guid, lambda item: item.with_value(0x32000004, "\\no.sdi"), "sdi"),
    (
        "sdi-place",
        options_guid,
        lambda item: item.with_value(0x31000003, GptPartition(DISK_GUID, OTHER)),
        "sdi-partition",
    ),
)


@pytest.mark.parametrize(
    ("find", "change", "point"), [row[1:] for row in LOOK], ids=[row[0] for row in LOOK]
)
def test_what_is_wrong_in_the_store_is_named(disk, find, change, point):
    rig, _ = disk
    edit_object(rig, find, change)
    report = check(rig)
    assert not report.would_start
    assert point in bad_points(report)


def test_a_partition_that_is_not_there(disk):
    rig, _ = disk

    def move(item):
        device = item.value(0x11000001)
        moved = Ramdisk(device.options_guid, GptPartition(DISK_GUID, OTHER), device.path)
        return item.with_value(0x11000001, moved).with_value(0x21000001, moved)

    edit_object(rig, recovery_guid, move)
    assert bad_points(check(rig)) == {"winre-partition"}


def test_a_windows_that_is_not_there(disk):
    rig, _ = disk
    edit_object(
        rig, os_guid, lambda item: item.with_value(0x21000001, GptPartition(DISK_GUID, OTHER))
    )
    assert bad_points(check(rig)) == {"windows"}
    assert bad_points(check(rig, windows_number=3)) == {"windows"}


def test_files_that_are_missing_or_none(disk):
    rig, recovery = disk
    volume = rig.extract(recovery, rig.path.with_suffix(".ntfs"))
    wim = rig.path.with_suffix(".wim")
    wim.write_bytes(b"no WIM" * 100)
    for name, point in (("Winre.wim", "winre-file"), ("boot.sdi", "sdi")):
        broken = rig.path.with_suffix(".broken")
        shutil.copyfile(volume, broken)
        tool("ntfscp", "-q", broken, wim, f"/Recovery/WindowsRE/{name}")
        rig.write(recovery.start, broken.read_bytes())
        assert bad_points(check(rig)) == {point}


def test_a_wim_without_a_boot_image(disk):
    rig, recovery = disk
    data = rig.read(recovery)
    at = data.index(b"MSWIM\0\0\0")
    rig.write(recovery.start + at + 0x78, bytes(4))
    report = check(rig)
    assert bad_points(report) == {"winre-file"}
    assert any("boot image" in point.message for point in report.points)


def test_what_only_windows_minds_is_advice(disk):
    rig, recovery = disk
    tool("sgdisk", "-t", f"{recovery.number}:0700", rig.path)
    report = check(rig)
    assert report.would_start
    assert bad_points(report) == {"type"}
    tool("sgdisk", "-t", f"{recovery.number}:2700", "-A", f"{recovery.number}:clear:63", rig.path)
    assert bad_points(check(rig)) == {"type"}
    assert check(rig).would_start


def test_reagent_that_says_otherwise_is_advice(disk):
    rig, _ = disk
    windows = rig.part("windows")
    data = rig.read(windows)
    at = data.index(b'<InstallState state="1"')
    rig.write(windows.start + at, b'<InstallState state="0"')
    report = check(rig)
    assert report.would_start
    assert bad_points(report) == {"reagent"}
    assert any("disabled" in point.message for point in report.points)


def test_bitlocker_hides_windows_but_not_winre(disk):
    rig, _ = disk
    rig.write(rig.part("windows").start + 3, b"-FVE-FS-")
    report = check(rig)
    assert report.would_start
    assert bad_points(report) == {"bitlocker", "reagent"}


def test_no_store_and_a_damaged_one(disk):
    rig, _ = disk
    esp = rig.part("esp")
    image = f"{rig.path}@@{esp.start}"
    data = rig.read(esp)
    rig.write(esp.start, data.replace(b"regf", b"gone"))  # the replaced one is there too
    assert bad_points(check(rig)) == {"store"}
    tool("mdel", "-i", image, STORE)
    assert bad_points(check(rig)) == {"store"}
    rig.write(esp.start, bytes(4096))
    assert bad_points(check(rig)) == {"store"}


@pytest.mark.parametrize("seed", range(40))
def test_no_damage_ends_in_anything_but_a_report(disk, seed):
    """Bytes at random in the file systems' own structures."""
    rig, recovery = disk
    chance = random.Random(seed)
    with rig.path.open("r+b") as file:
        for part in (rig.part("esp"), rig.part("windows"), recovery):
            for _ in range(60):
                file.seek(part.start + chance.randrange(256 * 1024))
                file.write(chance.randbytes(chance.choice([1, 2, 8])))
    report = check(rig)
    assert report.points
