# SPDX-License-Identifier: GPL-3.0-or-later
"""Our boot stores on disks that others made, judged by the stand-in boot managers.

Their reader shares nothing with ``mediamaker.formats``; see ``test_standin_boot_manager.py`` for
what makes them refuse. Both firmwares run one store each, the Linux build the rest.
"""

import uuid
from dataclasses import replace

import manager_disk as md
import pytest
from bootcode_qemu import Qemu
from manager_rig import TOKEN, WINRE_TOKEN, once, outcome, partitions

from mediamaker.formats.bcd import pack_store, parse_store
from mediamaker.formats.bcd_devices import LocatePath
from mediamaker.plan.boot_store import (
    BootIds,
    add_windows,
    esp_recovery_store,
    installed_store,
    pe_store,
    portable_store,
    register_recovery,
    unregister_recovery,
    vhd_store,
)

IDS, OTHER_IDS = BootIds.derive(b"first"), BootIds.derive(b"second")
PATH = 0x12000002


@pytest.fixture
def references(firmware):
    return partitions(firmware)


@pytest.fixture
def installed(firmware, references):
    return installed_store(firmware=firmware, ids=IDS, **references)


@pytest.fixture
def ask(host_manager, disk):
    return lambda store: outcome(
        md.ask_host_manager(host_manager, disk.put_store(pack_store(store)))
    )


def with_path(store, guid, path):
    return store.with_object(store.object(guid).with_value(PATH, path))


WINDOWS, WINRE = f"MM-TOKEN: {TOKEN}", f"MM-WINRE: {WINRE_TOKEN}"


def test_an_installed_system_and_its_recovery(ask, installed):
    assert ask(installed) == WINDOWS
    assert ask(once(installed, IDS.recovery)) == WINRE


def test_recovery_follows_a_loader_that_is_gone(ask, installed, firmware):
    suffix = "efi" if firmware == "uefi" else "exe"
    broken = with_path(installed, IDS.os, rf"\Windows\gone.{suffix}")
    assert ask(broken) == WINRE
    without = unregister_recovery(broken, IDS.os)
    assert ask(without) == "MM-BCD-ERROR: no loader, and recovery is not enabled"


def test_a_system_without_recovery_that_gets_one(ask, firmware, references):
    bare = installed_store(firmware=firmware, ids=IDS, **{**references, "recovery": None})
    assert ask(bare) == WINDOWS
    added = register_recovery(bare, IDS.os, references["recovery"], OTHER_IDS)
    assert ask(added) == WINDOWS
    assert ask(once(added, OTHER_IDS.recovery)) == WINRE
    # Through bytes, as a store that is changed on a disk goes.
    again = parse_store(pack_store(added), what="again")
    assert ask(once(again, OTHER_IDS.recovery)) == WINRE


def test_a_second_windows_beside_the_first(ask, installed, firmware, references):
    elsewhere = references["recovery"]
    both = add_windows(
        installed,
        firmware=firmware,
        system=references["system"],
        windows=elsewhere,
        ids=OTHER_IDS,
        is_default=False,
    )
    assert ask(both) == WINDOWS
    # The other one names a partition that has no Windows, and no recovery.
    assert ask(once(both, OTHER_IDS.os)) == "MM-BCD-ERROR: no loader, and recovery is not enabled"
    default = add_windows(
        installed, firmware=firmware, system=references["system"], windows=elsewhere, ids=OTHER_IDS
    )
    assert ask(default).startswith("MM-BCD-ERROR: ")


def test_one_wrong_digit_in_each_identity(ask, firmware, references):
    right = references["windows"]
    other = uuid.UUID(int=0x99 << 64)
    wrong = (
        (replace(right, partition_guid=other), replace(right, disk_guid=other))
        if firmware == "uefi"
        else (replace(right, disk_signature=1), replace(right, offset=right.offset + 512))
    )
    said = [
        ask(installed_store(firmware=firmware, ids=IDS, **{**references, "windows": windows}))
        for windows in wrong
    ]
    if firmware == "uefi":
        assert said[0].endswith("no partition of that disk has this GUID")
        assert said[1].endswith("no disk has this GUID")
    else:
        assert said[0].endswith("no disk has this signature")
        assert said[1].endswith("no partition of that disk has this offset")


def test_the_recovery_store_of_an_esp(host_manager, manager_disks, tmp_path):
    references = partitions("uefi")
    store = esp_recovery_store(
        system=references["system"], recovery=references["recovery"], ids=OTHER_IDS
    )
    disk = manager_disks["uefi"].copy(tmp_path / "disk.img").put_store(pack_store(store))
    assert outcome(md.ask_host_manager(host_manager, disk)) == WINRE


def test_a_medium_with_a_ramdisk(ask, firmware, references):
    wim, sdi = r"\Recovery\WindowsRE\Winre.wim", r"\Recovery\WindowsRE\boot.sdi"
    for media in (references["recovery"], LocatePath(wim)):
        assert ask(pe_store(firmware, media=media, wim_path=wim, sdi_path=sdi)) == WINRE
    beside = pe_store(firmware)  # the boot manager's own volume, which has none
    assert ask(beside) == "MM-BCD-ERROR: the ramdisk's WIM file is not there"


def test_a_portable_system_that_looks_for_itself(ask, firmware):
    assert ask(portable_store(firmware, kind="locate", ids=IDS)) == WINDOWS
    # On the boot manager's own volume there is no Windows here.
    assert ask(portable_store(firmware, kind="boot", ids=IDS)).startswith("MM-BCD-ERROR: no loader")


def test_a_windows_inside_of_a_virtual_disk(
    host_manager, installed_wim, firmware, references, tmp_path, out_dir
):
    disk = md.make_vhd_disk(tmp_path / "disk", firmware, installed_wim)

    def said_for(role, path):
        store = vhd_store(
            firmware=firmware,
            system=references["system"],
            vhd_on=references[role],
            vhd_path=path,
            ids=IDS,
        )
        return outcome(md.ask_host_manager(host_manager, disk.put_store(pack_store(store))))

    gone = "MM-BCD-ERROR: the virtual disk's file is not there"
    assert said_for("windows", r"\vhd\other.vhd") == gone
    assert said_for("recovery", r"\vhd\windows.vhd") == gone
    no_vhd = "MM-BCD-ERROR: the virtual disk's file is no VHD"
    assert said_for("recovery", r"\Recovery\WindowsRE\Winre.wim") == no_vhd
    assert said_for("windows", r"\vhd\windows.vhd") == WINDOWS
    if firmware == "bios":
        with Qemu(out_dir, f"file={disk.path},format=raw,if=ide") as machine:
            assert outcome(machine.wait_serial("MM-BCD-END", timeout=60)) == WINDOWS


def test_under_firmware(disk, firmware, installed, references, out_dir):
    broken = with_path(
        installed, IDS.os, "\\Windows\\gone." + ("efi" if firmware == "uefi" else "exe")
    )
    disk.put_store(pack_store(broken))
    drive = f"file={disk.path},format=raw,if=ide"
    with Qemu(out_dir, drive, uefi=firmware == "uefi") as machine:
        assert outcome(machine.wait_serial("MM-BCD-END", timeout=90)) == WINRE


def test_one_ntfs_volume_that_starts_itself(host_manager, installed_wim, tmp_path, out_dir):
    store = portable_store("bios", kind="boot", ids=IDS)
    disk = md.make_portable_disk(tmp_path / "portable", installed_wim, pack_store(store))
    assert outcome(md.ask_host_manager(host_manager, disk)) == WINDOWS
    with Qemu(out_dir, f"file={disk.path},format=raw,if=ide") as machine:
        assert outcome(machine.wait_serial("MM-BCD-END", timeout=30)) == WINDOWS
