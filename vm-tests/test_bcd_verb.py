# SPDX-License-Identifier: GPL-3.0-or-later
"""What ``mediamaker bcd`` writes, judged by the stand-in boot managers.

``test_boot_stores.py`` judges the stores that plans make; here are those that the verb makes and
changes, and one that was written by others.
"""

import uuid

import manager_disk as md
import pytest
from manager_rig import TOKEN, WINRE_TOKEN, once, partitions

from mediamaker.cli.main import main
from mediamaker.formats.bcd import pack_store, parse_store
from mediamaker.formats.bcd_text import format_partition
from mediamaker.plan.boot_store import (
    BootIds,
    installed_store,
    register_recovery,
)

IDS = BootIds.derive(b"judged")


@pytest.fixture
def ask(host_manager, disk):
    def asked(store):
        packed = store if isinstance(store, bytes) else pack_store(store)
        return md.ask_host_manager(host_manager, disk.put_store(packed))

    return asked


def made(firmware, **changes):
    return installed_store(firmware=firmware, ids=IDS, **{**partitions(firmware), **changes})


def says(said, word):
    assert word in said.splitlines(), said
    return True


@pytest.fixture
def bcd(capsys):
    """Runs the verb; what it prints."""

    def run(*words):
        assert main(["bcd", *map(str, words)]) == 0
        return capsys.readouterr().out.strip()

    return run


def test_a_store_that_the_verb_makes_is_followed(ask, bcd, firmware, tmp_path):
    path = tmp_path / "BCD"
    where = {role: format_partition(item) for role, item in partitions(firmware).items()}
    words = [f"--{role}={where[role]}" for role in ("system", "windows")]
    bcd("create", path, "--kind", "installed", "--firmware", firmware, *words)
    assert says(ask(path.read_bytes()), f"MM-TOKEN: {TOKEN}")
    # Another entry for the same Windows takes the place of the first, now with recovery.
    words.append(f"--recovery={where['recovery']}")
    bcd("create", path, "--kind", "installed", "--add", "--firmware", firmware, *words)
    assert says(ask(path.read_bytes()), f"MM-TOKEN: {TOKEN}")
    suffix = "efi" if firmware == "uefi" else "exe"
    bcd("set", path, "{default}", "path", rf"\Windows\gone.{suffix}")
    assert says(ask(path.read_bytes()), f"MM-WINRE: {WINRE_TOKEN}")
    bcd("set", path, "{default}", "device", f"partition={where['recovery']}")
    bcd("delete", path, "{default}", "recoverysequence")
    assert "MM-BCD-ERROR" in ask(path.read_bytes())


def test_an_entry_for_a_ramdisk_made_by_hand(ask, bcd, firmware, tmp_path):
    path = tmp_path / "BCD"
    where = format_partition(partitions(firmware)["recovery"])
    path.write_bytes(pack_store(made(firmware)))
    bcd("create", path, "--object", "{ramdiskoptions}", "--description", "by hand")
    bcd("set", path, "{ramdiskoptions}", "ramdisksdidevice", f"partition={where}")
    bcd("set", path, "{ramdiskoptions}", "ramdisksdipath", r"\Recovery\WindowsRE\boot.sdi")
    guid = bcd("create", path, "--object", "new", "--type", "osloader", "--description", "PE")
    ramdisk = rf"ramdisk=[{where}]\Recovery\WindowsRE\Winre.wim,{{ramdiskoptions}}"
    for element, value in (
        ("device", ramdisk),
        ("osdevice", ramdisk),
        ("systemroot", r"\windows"),
        ("path", r"\windows\system32\winload." + ("efi" if firmware == "uefi" else "exe")),
        ("winpe", "yes"),
    ):
        bcd("set", path, guid, element, value)
    bcd("set", path, "{bootmgr}", "displayorder", guid, "--add-first")
    bcd("set", path, "{bootmgr}", "default", guid)
    assert says(ask(path.read_bytes()), f"MM-WINRE: {WINRE_TOKEN}")


def test_what_the_verb_changes_is_followed(ask, bcd, firmware, tmp_path):
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
    store = register_recovery(theirs, os_guid, partitions(firmware)["recovery"], IDS)
    assert store.object(uuid.UUID(md.RECOVERY.strip("{}"))) is None
    assert says(ask(store), f"MM-TOKEN: {TOKEN}")
    assert says(ask(once(store, IDS.recovery)), f"MM-WINRE: {WINRE_TOKEN}")
