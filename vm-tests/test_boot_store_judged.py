# SPDX-License-Identifier: GPL-3.0-or-later
"""Our boot stores, followed by a boot manager that is not ours to write for: the stand-in's C.

Its hive and store readers share nothing with the Python, the disks are made by sgdisk, sfdisk,
mkntfs, mtools and wimlib-imagex; a token is said only when every device leads where it should.
"""

import subprocess
import sys
import uuid

import manager_disk as md
import pytest
from standin.programs import build_host_manager
from standin.windows_image import make_windows_wim

from mediamaker.formats.bcd import pack_store, parse_store
from mediamaker.formats.bcd_devices import GptPartition, MbrPartition
from mediamaker.formats.bcd_names import well_known
from mediamaker.plan.boot_store import (
    BootIds,
    add_windows,
    empty_store,
    esp_recovery_store,
    installed_store,
    portable_store,
    register_recovery,
)

TOKEN, WINRE_TOKEN = "installed-1", "recovery-1"
IDS = BootIds.derive(b"judged")
BOOT_SEQUENCE = 0x24000002


@pytest.fixture(scope="module")
def program(tmp_path_factory):
    return build_host_manager(tmp_path_factory.mktemp("host"))


@pytest.fixture(scope="module")
def wim(tmp_path_factory):
    path = tmp_path_factory.mktemp("wim") / "install.wim"
    make_windows_wim(path, token=TOKEN, winre_token=WINRE_TOKEN)
    return path


@pytest.fixture(scope="module")
def disks(wim, tmp_path_factory):
    folder = tmp_path_factory.mktemp("disks")
    return {
        firmware: md.make_disk(folder / firmware, firmware, wim) for firmware in ("uefi", "bios")
    }


@pytest.fixture(params=["uefi", "bios"])
def firmware(request):
    return request.param


@pytest.fixture
def ask(program, disks, firmware):
    def asked(store):
        packed = store if isinstance(store, bytes) else pack_store(store)
        return md.ask_host_manager(program, disks[firmware].put_store(packed))

    return asked


def places(firmware):
    """The three partitions, as our own devices name them."""
    if firmware == "uefi":
        return {
            role: GptPartition(place.disk_guid, place.guid) for role, place in md.PLACES.items()
        }
    return {role: MbrPartition(place.signature, place.start) for role, place in md.PLACES.items()}


def made(firmware, **changes):
    return installed_store(firmware=firmware, ids=IDS, **{**places(firmware), **changes})


def once(store, guid):
    """The store with this entry for the next start."""
    manager = store.object(well_known("bootmgr"))
    return store.with_object(manager.with_value(BOOT_SEQUENCE, (guid,)))


def says(said, word):
    assert word in said.splitlines(), said
    return True


def test_an_installed_store_leads_to_windows(ask, firmware):
    assert says(ask(made(firmware)), f"MM-TOKEN: {TOKEN}")


def test_and_to_its_recovery(ask, firmware):
    said = ask(once(made(firmware), IDS.recovery))
    assert says(said, f"MM-WINRE: {WINRE_TOKEN}")
    assert TOKEN not in said


def test_added_and_registered_step_by_step(ask, firmware):
    where = places(firmware)
    store = add_windows(
        empty_store(),
        firmware=firmware,
        system=where["system"],
        windows=where["windows"],
        ids=IDS,
    )
    assert says(ask(store), f"MM-TOKEN: {TOKEN}")
    store = register_recovery(store, IDS.os, where["recovery"], IDS)
    assert says(ask(once(store, IDS.recovery)), f"MM-WINRE: {WINRE_TOKEN}")


def test_a_store_that_locates_its_windows(ask, firmware):
    store = portable_store(firmware, kind="locate", ids=IDS)
    assert says(ask(store), f"MM-TOKEN: {TOKEN}")


def test_the_recovery_store_of_an_esp(program, disks):
    where = places("uefi")
    store = esp_recovery_store(system=where["system"], recovery=where["recovery"], ids=IDS)
    said = md.ask_host_manager(program, disks["uefi"].put_store(pack_store(store)))
    assert says(said, f"MM-WINRE: {WINRE_TOKEN}")


def test_a_real_volume_on_one_partition(program, wim, tmp_path):
    packed = pack_store(portable_store("bios", kind="boot", ids=IDS))
    disk = md.make_portable_disk(tmp_path / "portable", wim, packed)
    assert says(md.ask_host_manager(program, disk), f"MM-TOKEN: {TOKEN}")


def test_a_wrong_partition_is_seen(ask, firmware):
    wrong = (
        GptPartition(md.DISK_GUID, uuid.UUID(int=77))
        if firmware == "uefi"
        else MbrPartition(md.SIGNATURE, 51 << 20)
    )
    said = ask(made(firmware, windows=wrong))
    assert "MM-BCD-ERROR" in said
    assert TOKEN not in said
    said = ask(once(made(firmware, recovery=wrong), IDS.recovery))
    assert "MM-BCD-ERROR" in said
    assert WINRE_TOKEN not in said


def bcd(*words):
    subprocess.run(
        [sys.executable, "-m", "mediamaker", "bcd", *map(str, words)],
        check=True,
        capture_output=True,
    )


def test_what_the_verb_changes_is_followed(ask, firmware, tmp_path):
    path = tmp_path / "BCD"
    path.write_bytes(pack_store(made(firmware)))
    bcd("set", path, "{default}", "device", "locate")
    bcd("set", path, "{default}", "osdevice", "locate")
    bcd("set", path, "{bootmgr}", "timeout", "3")
    bcd("delete", path, "{memdiag}", "--force")
    assert says(ask(path.read_bytes()), f"MM-TOKEN: {TOKEN}")
    bcd("set", path, "{bootmgr}", "bootsequence", f"{{{IDS.recovery}}}", "--add-first")
    assert says(ask(path.read_bytes()), f"MM-WINRE: {WINRE_TOKEN}")
    bcd("delete", path, "{bootmgr}", "bootsequence")
    bcd("set", path, "{default}", "device", r"locate=\no\such\file")
    assert "MM-BCD-ERROR" in ask(path.read_bytes())


def test_a_store_of_another_writer_changed_by_us(ask, firmware):
    """The stand-in's own store, read and written by us, then with WinRE registered by us."""
    theirs = parse_store(md.installed_store(firmware).pack(), what="theirs")
    assert says(ask(theirs), f"MM-TOKEN: {TOKEN}")
    os_guid = uuid.UUID(md.OS.strip("{}"))
    store = register_recovery(theirs, os_guid, places(firmware)["recovery"], IDS)
    assert store.object(uuid.UUID(md.RECOVERY.strip("{}"))) is None
    assert says(ask(store), f"MM-TOKEN: {TOKEN}")
    assert says(ask(once(store, IDS.recovery)), f"MM-WINRE: {WINRE_TOKEN}")
