# SPDX-License-Identifier: GPL-3.0-or-later
"""The stand-in boot managers are judges of ours, so they are judged: on disks that others made.

Whatever is wrong with a store or a disk must end in MM-BCD-ERROR and no token. Most of it runs
the boot manager's C as a Linux program; firmware runs enough of it to show that it is the same.
"""

import random
import subprocess
import uuid
from pathlib import Path

import dissect.regf
import manager_disk as md
import pytest
from bootcode_disk import patch_disk, run
from bootcode_qemu import Qemu
from manager_disk import BOOTMGR, OS, RECOVERY, RECOVERY_OPTIONS, RESUME
from manager_rig import TOKEN, WINRE_TOKEN, outcome
from standin import hives
from standin.grub_judge import grub_find

STORES = Path(__file__).resolve().parents[2] / "shared/bcd"
LOADER_MARK = b"MEDIAMAKER-LOAD!"


@pytest.fixture
def store(firmware):
    return md.installed_store(firmware)


@pytest.fixture
def ask(host_manager, disk):
    def asked(packed=None):
        if packed is not None:
            disk.put_store(packed)
        return md.ask_host_manager(host_manager, disk)

    return asked


def refused(said, reason):
    assert outcome(said) == f"MM-BCD-ERROR: {reason}", said
    assert TOKEN not in said
    assert WINRE_TOKEN not in said
    return True


def test_a_good_disk_says_its_token(ask, firmware):
    said = ask()
    assert outcome(said) == f"MM-TOKEN: {TOKEN}", said
    assert "is disk 0 partition 2 at 0x3200000" in said
    assert all(len(line) < 80 for line in said.splitlines())


@pytest.mark.parametrize("kind", ["lf", "lh", "li", "ri"])
@pytest.mark.parametrize("version", [3, 5, 6])
def test_every_form_that_real_managers_take(ask, store, kind, version):
    said = ask(store.pack(list_kind=kind, minor_version=version))
    assert outcome(said) == f"MM-TOKEN: {TOKEN}", said


def test_the_entry_of_one_time_comes_first(ask, store):
    store.elements[BOOTMGR][0x24000002] = md.guids(RECOVERY)
    said = ask(store.pack())
    assert outcome(said) == f"MM-WINRE: {WINRE_TOKEN}", said
    assert TOKEN not in said
    assert "sdi" in said


def test_displayorder_serves_where_no_default_is(ask, store):
    del store.elements[BOOTMGR][0x23000003]
    assert outcome(ask(store.pack())) == f"MM-TOKEN: {TOKEN}"


def test_devices_located_by_element_and_by_path(ask, store):
    store.elements[OS][0x11000001] = md.device(md.locate_element(0x12000002))
    store.elements[OS][0x21000001] = md.device(md.locate_element(0x22000002))
    path = r"\Windows\System32\config\SYSTEM"
    store.elements[RESUME][0x11000001] = md.device(md.locate_path(path))
    said = ask(store.pack())
    assert outcome(said) == f"MM-TOKEN: {TOKEN}", said
    store.elements[OS][0x11000001] = md.device(md.locate_path(r"\Windows\nothing"))
    assert refused(ask(store.pack()), "no partition has the path to locate")


@pytest.mark.parametrize(
    ("flaw", "reason"),
    [
        ("checksum", "hive header checksum"),
        ("sequence", "hive sequence numbers differ"),
        ("version", "hive version"),
        ("unsorted", "subkeys of the hive are not sorted"),
        ("no-security", "a key of the hive has no security cell"),
        ("hbin", "a bin of the hive without its signature"),
        ("free", "a key of the hive is not where its list says"),
    ],
)
def test_a_broken_hive(ask, store, flaw, reason):
    assert refused(ask(store.pack(flaw=flaw)), reason)


def test_a_store_without_description(ask, store):
    assert refused(ask(store.pack(has_description=False)), "the store has no Description")


def test_a_store_that_is_cut_off(ask, store):
    packed = store.pack()
    assert refused(ask(packed[: len(packed) - 4096]), "hive size")
    assert refused(ask(b""), "not a hive")


OTHER = uuid.UUID("99999999-0000-4000-8000-000000000000")
WRONG_PLACES = {
    "partition GUID": ("uefi", {"guid": OTHER}, "no partition of that disk has this GUID"),
    "disk GUID": ("uefi", {"disk_guid": OTHER}, "no disk has this GUID"),
    "signature": ("bios", {"signature": 0xDEADBEEE}, "no disk has this signature"),
    "offset": ("bios", {"start": 51 << 20}, "no partition of that disk has this offset"),
    "offset in sectors": (
        "bios", {"start": (50 << 20) // 512}, "no partition of that disk has this offset"
    ),
}  # fmt: skip


@pytest.mark.parametrize("case", WRONG_PLACES)
@pytest.mark.parametrize("role", ["windows", "recovery"])
def test_a_device_that_is_not_there(host_manager, manager_disks, tmp_path, case, role):
    firmware, changes, reason = WRONG_PLACES[case]
    store = md.installed_store(firmware, md.elsewhere(role, **changes))
    if role == "recovery":
        store.elements[BOOTMGR][0x24000002] = md.guids(RECOVERY)
    disk = manager_disks[firmware].copy(tmp_path / "disk.img").put_store(store.pack())
    assert refused(md.ask_host_manager(host_manager, disk), reason)


def test_the_system_partition_is_not_the_windows_partition(ask, firmware):
    # There, readable, of the right disk, and still the wrong one; recovery is tried and says so.
    places = {**md.PLACES, "windows": md.PLACES["recovery"]}
    said = ask(md.installed_store(firmware, places).pack())
    assert outcome(said) == f"MM-WINRE: {WINRE_TOKEN}"
    assert "MM-BCD: loader fails: the loader is not there" in said


def test_a_gpt_device_under_bios(host_manager, manager_disks, tmp_path):
    store = md.installed_store("bios")
    store.elements[OS][0x11000001] = md.device(md.partition(md.PLACES["windows"], "uefi"))
    disk = manager_disks["bios"].copy(tmp_path / "disk.img").put_store(store.pack())
    reason = "a GPT partition in a store for BIOS"
    assert refused(md.ask_host_manager(host_manager, disk), reason)


@pytest.mark.parametrize(
    ("guid", "element", "body", "reason"),
    [
        (BOOTMGR, 0x23000003, hives.text("{00000000-0000-0000-0000-000000000001}"),
         "the entry is not in the store"),
        (BOOTMGR, 0x23000003, hives.text(OS.strip("{}")), "an element names an object by no GUID"),
        (BOOTMGR, 0x24000001, md.guids(OS, "{00000000-0000-0000-0000-000000000001}"),
         "displayorder names an object that is not in the store"),
        (OS, 0x12000004, None, "the entry lacks a description"),
        (OS, 0x12000002, None, "the entry lacks a path"),
        (OS, 0x11000001, None, "an entry lacks a device"),
        (OS, 0x11000001, hives.text("partition=C:"), "an element has the wrong registry type"),
        (OS, 0x11000001, (hives.BINARY, bytes(16) + md.boot() + bytes(8)),
         "a device whose size is not that of its element"),
        (OS, 0x21000001, None, "an entry lacks a device"),
        (OS, 0x22000002, None, "the entry lacks the system root"),
        (OS, 0x22000002, hives.text("\\WINNT"), "the system's hive is not below the system root"),
        (OS, 0x23000003, hives.text("{00000000-0000-0000-0000-000000000001}"),
         "an object that the entry names is not in the store"),
        (RESUME, 0x11000001, None, "an entry lacks a device"),
    ],
)  # fmt: skip
def test_a_store_that_is_wrong(ask, store, guid, element, body, reason):
    if body is None:
        del store.elements[guid][element]
    else:
        store.elements[guid][element] = body
    assert refused(ask(store.pack()), reason)


def test_a_display_order_of_the_wrong_type(ask, store):
    store.elements[BOOTMGR][0x24000001] = hives.text(OS)
    del store.elements[BOOTMGR][0x23000003]
    assert refused(ask(store.pack()), "an element has the wrong registry type")


def test_no_default_and_no_displayorder(ask, store):
    del store.elements[BOOTMGR][0x23000003], store.elements[BOOTMGR][0x24000001]
    assert refused(ask(store.pack()), "no default and no displayorder")


def test_an_entry_for_the_other_firmware(ask, store, firmware):
    name = {"uefi": "winload.exe", "bios": "winload.efi"}[firmware]
    store.elements[OS][0x12000002] = hives.text(rf"\Windows\system32\{name}")
    reason = "the entry's path is for the other kind of firmware"
    assert refused(ask(store.pack()), reason)


def test_a_missing_loader_leads_to_recovery(ask, store, firmware):
    suffix = {"uefi": "efi", "bios": "exe"}[firmware]
    store.elements[OS][0x12000002] = hives.text(rf"\Windows\gone.{suffix}")
    said = ask(store.pack())
    assert outcome(said) == f"MM-WINRE: {WINRE_TOKEN}", said
    assert "MM-BCD: loader fails: the loader is not there" in said
    store.elements[OS][0x16000009] = md.flag(False)
    assert refused(ask(store.pack()), "no loader, and recovery is not enabled")
    store.elements[OS][0x16000009] = hives.BINARY, b"\1" + bytes(7)
    assert refused(ask(store.pack()), "no loader, and recovery is not enabled")
    store.elements[OS][0x16000009] = md.flag(True)
    del store.elements[OS][0x14000008]
    assert refused(ask(store.pack()), "no loader, and no recovery sequence")


def test_a_damaged_loader_leads_to_recovery(ask, disk):
    disk.damage(LOADER_MARK, distance=-1000)
    said = ask()
    assert outcome(said) == f"MM-WINRE: {WINRE_TOKEN}", said
    assert "MM-BCD: loader fails: checksum of the loader" in said
    assert TOKEN not in said


def _without_winre(store, firmware):
    broken = md.installed_store(firmware, winre="gone.wim")
    store.elements[RECOVERY] = broken.elements[RECOVERY]


def _without_sdi(store, _firmware):
    store.elements[RECOVERY_OPTIONS][0x32000004] = hives.text(r"\Recovery\boot.sdi")


def _without_options(store, _firmware):
    del store.elements[RECOVERY_OPTIONS], store.types[RECOVERY_OPTIONS]


def _without_sdi_path(store, _firmware):
    del store.elements[RECOVERY_OPTIONS][0x32000004]


def _without_winpe(store, _firmware):
    del store.elements[RECOVERY][0x26000022]


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        (_without_winre, "the ramdisk's WIM file is not there"),
        (_without_sdi, "boot.sdi is not there"),
        (_without_options, "the ramdisk's options object is not in the store"),
        (_without_sdi_path, "the ramdisk's options lack the path of boot.sdi"),
        (_without_winpe, "an entry with a ramdisk that is no WinPE"),
    ],
)
def test_a_recovery_that_would_not_start(ask, store, firmware, change, reason):
    store.elements[BOOTMGR][0x24000002] = md.guids(RECOVERY)
    change(store, firmware)
    assert refused(ask(store.pack()), reason)


def test_a_winre_without_boot_index(host_manager, manager_disks, tmp_path):
    disk = manager_disks["uefi"].copy(tmp_path / "disk.img")
    store = md.installed_store("uefi")
    store.elements[BOOTMGR][0x24000002] = md.guids(RECOVERY)
    disk.put_store(store.pack())
    with disk.path.open("rb") as file:
        file.seek(md._STARTS["recovery"])
        recovery = file.read(md._SIZES["recovery"])
    patch_disk(disk.path, md._STARTS["recovery"] + recovery.index(b"MSWIM\0\0\0") + 0x78, b"\0")
    assert refused(md.ask_host_manager(host_manager, disk), "the WIM file has no boot index")


@pytest.mark.parametrize("copy", ["first", "second"])
def test_a_gpt_with_a_damaged_copy(host_manager, manager_disks, tmp_path, copy):
    disk = manager_disks["uefi"].copy(tmp_path / "disk.img")
    offset = {"first": 512, "second": disk.path.stat().st_size - 512}[copy]
    patch_disk(disk.path, offset + 56, b"\xff")
    said = md.ask_host_manager(host_manager, disk)
    assert refused(said, "no disk has this GUID")
    assert "disk 0 damaged: GPT header checksum" in said


def test_identities_changed_on_the_disk(ask, disk, firmware):
    if firmware == "uefi":
        run("sgdisk", "-u", f"2:{OTHER}", disk.path)
        reason = "no partition of that disk has this GUID"
    else:
        run("sfdisk", "--no-reread", "--disk-id", disk.path, "0x12345678")
        reason = "no disk has this signature"
    assert refused(ask(), reason)


@pytest.mark.parametrize("path", sorted(STORES.glob("*.bcd")), ids=lambda path: path.stem)
def test_real_stores_are_read_as_dissect_reads_them(host_manager, path):
    done = subprocess.run(
        [host_manager, "store", path], capture_output=True, text=True, check=True,
        env={"ASAN_OPTIONS": "detect_leaks=0"},
    )  # fmt: skip
    expected = []
    with path.open("rb") as file:
        for item in dissect.regf.RegistryHive(file).open("Objects").subkeys():
            subkeys = {key.name: key for key in item.subkeys()}
            type_code = f" {subkeys['Description'].value('Type').value:08x}"
            expected.append(f"object {item.name}{type_code}")
            for element in subkeys["Elements"].subkeys() if "Elements" in subkeys else ():
                value = element.value("Element")
                data = bytes(value.data).hex()
                expected.append(f"element {element.name.lower()} type {value.type} {data}")
    assert done.stdout.splitlines() == expected


def test_mutants_are_read_or_refused_without_a_stray_access(host_manager, tmp_path):
    # gcc's sanitizers watch; a header's checksum covers no byte behind it.
    rng, packed, path = random.Random(4), md.installed_store("uefi").pack(), tmp_path / "mutant"
    verdicts = set()
    for _ in range(150):
        mutant = bytearray(packed)
        for _ in range(rng.choice([1, 4, 40])):
            at = rng.randrange(4096, len(mutant))
            mutant[at] = rng.choice([0, 1, 0x7F, 0x80, 0xFF, rng.randrange(256)])
        path.write_bytes(mutant)
        done = subprocess.run(
            [host_manager, "store", path], capture_output=True, check=False,
            env={"ASAN_OPTIONS": "detect_leaks=0:exitcode=99"},
        )  # fmt: skip
        assert not done.stderr, done.stderr
        verdicts.add(done.returncode)
    assert verdicts == {0, 1}


def boot(disk, work_dir, *, timeout):
    drive = f"file={disk.path},format=raw,if=none,id=disk"
    kind = "ide-hd" if disk.sector_size == 512 else "virtio-blk-pci"
    sizes = f"logical_block_size={disk.sector_size},physical_block_size={disk.sector_size}"
    device = f"{kind},drive=disk,{sizes}"
    with Qemu(work_dir, drive, uefi=disk.firmware == "uefi", devices=[device]) as machine:
        return machine.wait_serial("MM-BCD-END", timeout=timeout)


def _good(_store):
    return f"MM-TOKEN: {TOKEN}"


def _recovery_once(store):
    store.elements[BOOTMGR][0x24000002] = md.guids(RECOVERY)
    return f"MM-WINRE: {WINRE_TOKEN}"


def _wrong_windows(store):
    type_code, right = store.elements[OS][0x11000001]
    wrong = bytearray(right)
    wrong[0x38] ^= 1  # disk GUID on GPT, signature on MBR
    store.elements[OS][0x11000001] = type_code, bytes(wrong)
    return "MM-BCD-ERROR: no disk has this"


@pytest.mark.parametrize("change", [_good, _recovery_once, _wrong_windows])
def test_under_firmware(disk, store, change, out_dir):
    expected = change(store)
    disk.put_store(store.pack())
    said = boot(disk, out_dir, timeout=90)
    assert outcome(said).startswith(expected), said


def test_bios_from_one_ntfs_volume(host_manager, installed_wim, tmp_path, out_dir):
    store = md.installed_store("bios")
    for guid, element in ((OS, 0x11000001), (OS, 0x21000001), (RESUME, 0x11000001)):
        store.elements[guid][element] = md.device(md.boot())
    disk = md.make_portable_disk(tmp_path / "portable", installed_wim, store.pack())
    assert outcome(md.ask_host_manager(host_manager, disk)) == f"MM-TOKEN: {TOKEN}"
    said = boot(disk, out_dir, timeout=30)
    assert outcome(said) == f"MM-TOKEN: {TOKEN}"
    assert "at 0x100000 ntfs" in said


def test_4096_byte_sectors(host_manager, installed_wim, tmp_path, out_dir):
    disk = md.make_4kn_disk(tmp_path / "disk", installed_wim)
    assert outcome(md.ask_host_manager(host_manager, disk)) == f"MM-TOKEN: {TOKEN}"
    said = boot(disk, out_dir, timeout=120)
    assert outcome(said) == f"MM-TOKEN: {TOKEN}"
    name = r"\Windows\System32\winload.efi"
    found = grub_find(disk.path, [name], firmware="uefi", sector_size=4096)[name]
    assert found is not None
    assert found.device.endswith("gpt2")
