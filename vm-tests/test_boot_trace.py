# SPDX-License-Identifier: GPL-3.0-or-later
"""Virtual sticks and boot traces: what was never written boots, and what was read is told.

The broken disks are made by sgdisk, mkfs.fat, mtools and wimlib (manager_disk.py); the stand-in
boot manager reads the store itself, so that what it reads is what a real one would.
"""

import hashlib
import json
import os
import subprocess
import sys
from pathlib import Path
from xml.etree import ElementTree

import manager_disk as md
import pytest
from bootcode_disk import run
from bootcode_exfat_disk import ExfatVolume
from command import mediamaker, succeed
from mini_iso import build_mini_iso
from standin.iso import standin_iso
from standin.windows_image import make_windows_wim

from mediamaker.plan.codec import plan_from_json
from mediamaker.sources.disk_map import map_disk
from mediamaker.sources.exfat_map import map_exfat
from mediamaker.vm.plan_map import map_plan
from mediamaker.vm.virtual_disk import open_plan_disk

SVG = "{http://www.w3.org/2000/svg}"
LOADERS = {
    "uefi": ("EFI/BOOT/BOOTX64.EFI", "EFI/Microsoft/Boot/bootmgfw.efi"),
    "bios": ("bootmgr",),
}
# Seconds in which firmware has tried all that it will on a disk that has nothing to say.
GIVING_UP = {"uefi": 25, "bios": 10}
STORES = {"uefi": "EFI/Microsoft/Boot/BCD", "bios": "Boot/BCD"}


def trace(subject, firmware, out_dir, *options, timeout=60, bus="nvme"):
    """What ``boot --trace`` says: the trace, the boot, and its files, which must agree."""
    finished = mediamaker(
        "boot", subject, "--firmware", firmware, "--bus", bus, "--trace",
        "--screenshot", out_dir, "--timeout", str(timeout), *options,
    )  # fmt: skip
    assert finished.exit_code in (0, 7), (finished.last, finished.errors)
    boot, found = finished.events[-1], finished.events[-2]
    assert (boot["event"], found["event"]) == ("boot", "boot_trace")
    kept = json.loads(Path(found["json_file"]).read_text())
    assert kept["items"] == found["items"]
    picture = ElementTree.parse(found["picture"]).getroot()
    assert picture.tag == f"{SVG}svg"
    assert 0 < len(picture.findall(f"{SVG}g")) <= min(60, len(kept["items"]))
    return found, boot


def files(found):
    """Files that were read, by their lower-case names; of two volumes, the first."""
    by_name = {}
    for item in found["items"]:
        if item["kind"] == "file":
            by_name.setdefault(item["name"].lower(), item)
    return by_name


# What was never written


@pytest.fixture(scope="module")
def iso():
    return standin_iso()


@pytest.fixture(scope="module")
def plan(iso, tmp_path_factory):
    path = tmp_path_factory.mktemp("plan") / "plan.json"
    succeed("plan", iso.path, "--layout", "gpt-fat32", "--seed", "vm", "--out", path)
    return path


def test_an_iso_boots_without_being_written(iso, out_dir):
    before = digest(iso.path)
    found, boot = trace(iso.path, "uefi", out_dir, "--expect", f"token={iso.token}")
    assert boot["proven"] is True, boot
    assert boot["booted"] == "source"
    assert found["verdict"] == "reached-ramdisk", found
    read = files(found)
    # The stand-in reads each of these to the end; its loader first, as firmware has it.
    for name in (r"\efi\boot\bootx64.efi", r"\boot\boot.sdi", r"\sources\boot.wim", r"\bootmgr"):
        assert read[name]["percent"] == 100, name
    assert read[r"\efi\boot\bootx64.efi"]["order"] < read[r"\sources\boot.wim"]["order"]
    assert read[r"\efi\boot\bootx64.efi"]["first"] <= read[r"\boot\boot.sdi"]["first"]
    # Files over 16 MiB are not in its list.
    assert r"\sources\install.wim" not in read or read[r"\sources\install.wim"]["percent"] < 1
    assert digest(iso.path) == before
    assert not [path for path in out_dir.rglob("*") if path.stat().st_size > 10_000_000]


def test_an_iso_boots_under_bios_and_the_verdict_goes_no_further_than_the_evidence(iso, out_dir):
    found, boot = trace(iso.path, "bios", out_dir, "--expect", f"token={iso.token}", bus="usb")
    assert boot["proven"] is True, boot
    # Its boot manager says its token and looks for no store.
    assert found["verdict"] == "unknown", found
    assert "nothing of" in found["words"]
    read = files(found)
    assert list(read) == [r"\bootmgr"]
    assert read[r"\bootmgr"]["percent"] == 100
    names = [item["name"] for item in found["items"]]
    assert names[:2] == ["MBR", "VBR"]


def test_a_plan_boots(plan, iso, out_dir):
    finished = mediamaker(
        "boot", plan, "--firmware", "uefi", "--expect", f"token={iso.token}",
        "--screenshot", out_dir,
    )  # fmt: skip
    assert finished.exit_code == 0, finished.last
    assert finished.last["booted"] == "plan"
    assert finished.last["plan_id"] == json.loads(plan.read_text())["plan_id"]
    assert all(event["event"] != "boot_trace" for event in finished.events)


@pytest.mark.parametrize(
    ("layout", "sector_size"),
    [("mbr-fat32", "512"), ("gpt-fat32", "4096"), ("mbr-fat32-exfat", "512"),
     ("mbr-fat32", "4096")],
)  # fmt: skip
def test_the_plan_and_our_readers_give_the_same_names(iso, tmp_path, layout, sector_size):
    """No boot: the extents of the plan against what FAT and exFAT of its disk say."""
    out = tmp_path / "plan.json"
    succeed("plan", iso.path, "--layout", layout, "--sector-size", sector_size, "--out", out)
    made = plan_from_json(json.loads(out.read_text()))
    with open_plan_disk(made) as disk:
        planned = map_plan(made, disk.read)
        read = map_disk(disk.read, disk.size, "disk", sector_size=int(sector_size))
    assert read.problems == ()

    def named(disk_map):
        return {
            (volume.number, item.name.casefold(), item.size, item.pieces)
            for volume in disk_map.volumes
            for item in volume.files.items
            if item.kind == "file" and item.size
        }

    assert len(named(planned)) > 400
    assert named(planned) == named(read)


# Debian's mini.iso: another loader, of which nothing is claimed


@pytest.fixture(scope="module")
def mini_iso(tmp_path_factory):
    return build_mini_iso(tmp_path_factory.mktemp("media") / "mini.iso")


def test_mini_iso_as_a_source_under_uefi(mini_iso, out_dir):
    found, boot = trace(mini_iso, "uefi", out_dir, "--as", "source", timeout=40)
    assert (boot["booted"], boot["proven"]) == ("source", False)
    assert found["verdict"] == "other-loader-read", found
    read = files(found)
    loader = read[r"\efi\boot\bootx64.efi"]
    assert (loader["percent"], loader["partition"]) == (100, 2)
    # GRUB's own files come from the ISO 9660 volume, after it.
    assert read[r"\boot\grub\grub.cfg"]["first"] >= loader["first"]
    assert read[r"\boot\grub\grub.cfg"]["percent"] == 100
    assert r"\linux" not in read, "the menu waits for a person"


def test_mini_iso_as_it_is_under_bios(mini_iso, out_dir):
    found, boot = trace(mini_iso, "bios", out_dir, timeout=40)
    assert (boot["booted"], boot["proven"]) == ("target", False)
    assert found["verdict"] == "other-loader-read", found
    read = files(found)
    assert read[r"\isolinux.bin"]["order"] < read[r"\vesamenu.c32"]["order"]
    for name in (r"\isolinux.bin", r"\isolinux.cfg", r"\vesamenu.c32"):
        assert read[name]["percent"] == 100, name


# Sticks broken on purpose


@pytest.fixture(scope="module")
def wim(tmp_path_factory):
    path = tmp_path_factory.mktemp("wim") / "install.wim"
    make_windows_wim(path, token="installed-1", winre_token="recovery-1")
    return path


@pytest.fixture(scope="module")
def whole_disks(wim, tmp_path_factory):
    folder = tmp_path_factory.mktemp("disks")
    return {name: md.make_disk(folder / name, name, wim) for name in LOADERS}


@pytest.fixture(params=list(LOADERS))
def firmware(request):
    return request.param


@pytest.fixture
def disk(whole_disks, firmware, tmp_path):
    return whole_disks[firmware].copy(tmp_path / "disk.img")


def mtools(disk, *words):
    program, *rest = words
    run(program, "-i", f"{disk.path}@@{md._STARTS['system']}", *rest)


def check_no_windows(found):
    """Nothing of the volume that Windows is on was read as a file."""
    read = files(found)
    assert not [name for name in read if "winload" in name], read


def test_a_whole_disk_reaches_the_loader_of_windows(disk, firmware, out_dir):
    found, boot = trace(disk.path, firmware, out_dir, "--expect", "MM-TOKEN: installed-1")
    assert boot["proven"] is True
    assert found["verdict"] == "reached-windows-loader", found
    order = [item["name"].lower() for item in found["items"] if item["kind"] == "file"]
    loader = r"\windows\system32\winload." + ("efi" if firmware == "uefi" else "exe")
    store = "\\" + STORES[firmware].lower().replace("/", "\\")
    assert order.index(store) < order.index(loader)
    assert files(found)[loader]["percent"] == 100


def test_loader_missing(disk, firmware, out_dir):
    for name in LOADERS[firmware]:
        mtools(disk, "mdel", f"::{name}")
    found, boot = trace(disk.path, firmware, out_dir, timeout=GIVING_UP[firmware])
    assert boot["proven"] is False
    assert found["verdict"] == "firmware-never-read-loader", found
    check_no_windows(found)


def test_loader_zeroed(disk, firmware, out_dir, tmp_path):
    for name in LOADERS[firmware]:
        mtools(disk, "mcopy", f"::{name}", tmp_path / "loader")
        size = (tmp_path / "loader").stat().st_size
        (tmp_path / "loader").write_bytes(bytes(size))
        mtools(disk, "mcopy", "-o", tmp_path / "loader", f"::{name}")
        (tmp_path / "loader").unlink()
    found, _ = trace(disk.path, firmware, out_dir, timeout=GIVING_UP[firmware])
    assert found["verdict"] == "loader-unusable", found
    assert "zero" in found["words"]
    check_no_windows(found)


def test_bcd_missing(disk, firmware, out_dir):
    mtools(disk, "mdel", f"::{STORES[firmware]}")
    found, _ = trace(disk.path, firmware, out_dir, "--expect", "MM-BCD-END")
    assert found["verdict"] == "loader-never-found-bcd", found
    check_no_windows(found)


def test_bcd_points_at_a_partition_that_is_not_there(disk, firmware, out_dir):
    places = md.elsewhere("windows", guid=md.DISK_GUID, start=md.PLACES["windows"].start + md.MIB)
    disk.put_store(md.installed_store(firmware, places).pack())
    found, _ = trace(disk.path, firmware, out_dir, "--expect", "MM-BCD-END")
    assert found["verdict"] == "bcd-device-missing", found
    named = str(md.DISK_GUID) if firmware == "uefi" else f"{md.SIGNATURE:08x}"
    assert named in found["words"].lower()
    check_no_windows(found)


def test_a_disk_with_nothing_on_it(out_dir, tmp_path):
    blank = tmp_path / "blank.img"
    with blank.open("wb") as file:
        file.truncate(8 << 20)
    found, _ = trace(blank, "bios", out_dir, timeout=20)
    assert found["verdict"] == "unknown", found
    assert found["known"][0] == "no file was read for itself"


def test_tracing_writes_nothing(disk, firmware, out_dir):
    before = digest(disk.path)
    trace(disk.path, firmware, out_dir, "--expect", "MM-BCD-END")
    assert digest(disk.path) == before


def test_chains_of_exfat_are_followed(tmp_path):
    """Volumes that fsck.exfat, GRUB and dissect judge (bootcode_exfat_disk.py)."""
    volume = ExfatVolume(tmp_path / "exfat.img")
    scattered, whole = os.urandom(9 * 4096 + 5), os.urandom(5 * 4096 - 5)
    clusters = volume.free_clusters()
    volume.add_file("Scattered.bin", scattered, clusters[40:20:-2])
    volume.add_file("whole.bin", whole, is_contiguous=True)
    found = map_exfat(volume.read, "it")
    assert found.problems == ()
    for name, data in (("scattered.BIN", scattered), ("whole.bin", whole)):
        item = found.find(f"\\{name}")
        assert found.read(volume.read, item, 1 << 20) == data
    assert len(found.find("\\scattered.bin").pieces) == 10


def digest(path):
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def test_the_text_form(whole_disks, out_dir):
    done = subprocess.run(
        [sys.executable, "-m", "mediamaker", "boot", whole_disks["bios"].path, "--firmware",
         "bios", "--trace", "--expect", "MM-BCD-END", "--screenshot", out_dir],
        capture_output=True, text=True, check=True, timeout=120,
    )  # fmt: skip
    assert "trace: reached-windows-loader" in done.stdout
    assert "\\bootmgr (partition 1)" in done.stdout
