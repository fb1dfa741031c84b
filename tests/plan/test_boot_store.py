# SPDX-License-Identifier: GPL-3.0-or-later
"""Made stores against real ones: the same objects, elements and values, for the same identities."""

from dataclasses import replace
from pathlib import Path
from uuid import UUID

import pytest

from mediamaker.errors import UsageError
from mediamaker.formats.bcd import BcdObject, pack_store, parse_store
from mediamaker.formats.bcd_devices import (
    BootDevice,
    FileDevice,
    GptPartition,
    LocateElement,
    LocatePath,
    MbrPartition,
    Ramdisk,
    VhdDevice,
)
from mediamaker.formats.bcd_names import object_alias, well_known
from mediamaker.plan.boot_store import (
    BootIds,
    add_windows,
    default_object,
    empty_store,
    esp_recovery_store,
    installed_store,
    pe_store,
    portable_store,
    register_recovery,
    remove_object,
    unregister_recovery,
    vhd_store,
    windows_loaders,
)

REAL = Path(__file__).parents[3] / "shared" / "bcd"
needs_real = pytest.mark.skipif(not REAL.is_dir(), reason="../shared/bcd is not here")

IDS = BootIds.derive(b"test")
DISK = UUID("58ef6851-2176-4d86-a9d6-e54bb70b7d81")
ESP, WINDOWS, RECOVERY = (GptPartition(DISK, UUID(int=number)) for number in (1, 2, 3))
MBR_SYSTEM, MBR_WINDOWS, MBR_RECOVERY = (
    MbrPartition(0xD7DA5D02, number << 20) for number in (1, 551, 9000)
)

# Objects and elements as boot-facts 4.1 to 4.3 list them, and the resume objects' locale, which
# the real stores have. By hand: none of it is from our own output.
SETTINGS = {
    "globalsettings": "14000006", "dbgsettings": "15000011", "emssettings": "16000020",
    "badmemory": "", "resumeloadersettings": "14000006", "bootloadersettings": "14000006",
    "hypervisorsettings": "250000f3 250000f4 250000f5",
}  # fmt: skip
OS = (
    "11000001 12000002 12000004 12000005 14000006 17000077 21000001 22000002 23000003 25000020 "
    "250000c2"
)
RESUME = "11000001 12000002 12000004 12000005 14000006 17000077 21000001 22000002 25000008 26000006"
MEMDIAG = "11000001 12000002 12000004 12000005 14000006 1600000b"
MANAGER = "11000001 12000004 12000005 14000006 23000003 23000006 24000001 24000010 25000004"
RE = (
    "11000001 12000002 12000004 12000005 14000006 15000065 21000001 22000002 25000020 250000c2 "
    "26000022 46000010"
)
RE_OPTIONS = "12000004 31000003 32000004"
BIOS = {"bootmgr": MANAGER, "os": OS, "resume": RESUME, "memdiag": MEMDIAG, **SETTINGS}
UEFI = {
    **BIOS,
    "bootmgr": MANAGER + " 12000002",
    "os": OS + " 16000060",
    "resume": RESUME + " 16000060",
}
MEDIA_LOADER = (
    "11000001 12000002 12000004 12000005 14000006 21000001 22000002 250000c2 26000010 26000022 "
    "260000b0"
)


def with_recovery(objects):
    return {
        **objects,
        "os": objects["os"] + " 14000008 16000009 15000066",
        "resume": objects["resume"] + " 14000008 16000009",
        "recovery": RE,
        "recovery_options": RE_OPTIONS,
    }


def ids_of(store):
    """Element ids by alias of the object, or by what it is among the ids."""
    own = {getattr(IDS, name): name for name in ("os", "resume", "recovery", "recovery_options")}
    return {
        object_alias(item.guid) or own.get(item.guid) or str(item.guid): {
            element.id for element in item.elements
        }
        for item in store.objects
    }


def expected(objects):
    return {name: {int(word, 16) for word in words.split()} for name, words in objects.items()}


def uefi(recovery=RECOVERY, **more):
    return installed_store(
        firmware="uefi", system=ESP, windows=WINDOWS, recovery=recovery, ids=IDS, **more
    )


def bios(recovery=MBR_RECOVERY):
    return installed_store(
        firmware="bios", system=MBR_SYSTEM, windows=MBR_WINDOWS, recovery=recovery, ids=IDS
    )


@pytest.mark.parametrize(
    ("store", "objects"),
    [
        (uefi(), with_recovery(UEFI)),
        (uefi(recovery=None), UEFI),
        (bios(), with_recovery(BIOS)),
        (bios(recovery=None), BIOS),
    ],
    ids=["uefi", "uefi-without", "bios", "bios-without"],
)
def test_installed_stores_have_what_the_facts_list(store, objects):
    assert ids_of(store) == expected(objects)
    assert parse_store(pack_store(store), what="made") == store
    assert {value.name for value in store.description} == {"KeyName", "System"}


def test_values_of_an_installed_store():
    store = uefi(locale="de-DE", description="Windows 11 Pro")
    manager = store.object(well_known("bootmgr"))
    assert manager.value(0x11000001) == ESP
    assert manager.value(0x24000001) == (IDS.os,)
    loader = default_object(store)
    assert loader.guid == IDS.os
    assert loader.value(0x12000004) == "Windows 11 Pro"
    assert loader.value(0x12000005) == "de-DE"
    assert loader.value(0x11000001) == loader.value(0x21000001) == WINDOWS
    assert loader.value(0x14000008) == (IDS.recovery,)
    recovery = store.object(IDS.recovery)
    assert recovery.value(0x11000001) == Ramdisk(
        IDS.recovery_options, RECOVERY, "\\Recovery\\WindowsRE\\Winre.wim"
    )
    options = store.object(IDS.recovery_options)
    assert options.value(0x31000003) == RECOVERY
    assert options.value(0x32000004) == "\\Recovery\\WindowsRE\\boot.sdi"


def test_the_recovery_store_of_an_esp():
    store = esp_recovery_store(system=ESP, recovery=RECOVERY, ids=IDS)
    manager = "11000001 12000002 12000004 12000005 14000006 23000003 24000001 25000004"
    objects = {"bootmgr": manager, "recovery": RE, "recovery_options": RE_OPTIONS, **SETTINGS}
    assert ids_of(store) == expected(objects)
    assert default_object(store).guid == IDS.recovery
    assert {value.name for value in store.description} == {"KeyName", "FirmwareModified"}


@pytest.mark.parametrize("firmware", ["uefi", "bios"])
@pytest.mark.parametrize("is_server", [False, True])
def test_media(firmware, is_server):
    store = pe_store(firmware, is_server=is_server)
    loader = MEDIA_LOADER + (" 16000060" if firmware == "uefi" else "")
    found = expected(
        {
            "bootmgr": "12000004 12000005 14000006 23000003 24000001 24000010 25000004",
            "7619dcc9-fafe-11d9-b411-000476eba25f": loader,
            "7619dcc8-fafe-11d9-b411-000476eba25f": "31000003 32000004",
            "memdiag": "11000001 12000002 12000004 12000005 14000006",
            "globalsettings": "14000006",
            "bootloadersettings": "14000006",
            "dbgsettings": "15000011 15000013 15000014",
            "emssettings": "16000020",
            "hypervisorsettings": "12000004 250000f3 250000f4 250000f5",
        }
    )
    if is_server:
        found["7619dcc9-fafe-11d9-b411-000476eba25f"].remove(0x250000C2)
    assert ids_of(store) == found
    assert store.object(well_known("emssettings")).value(0x16000020) is is_server


def test_media_by_path():
    place = LocatePath("\\sources\\boot.wim")
    store = pe_store("uefi", media=place)
    loader = default_object(store)
    assert loader.value(0x11000001).parent == place
    assert parse_store(pack_store(store), what="made") == store


@pytest.mark.parametrize("kind", ["boot", "locate"])
@pytest.mark.parametrize("firmware", ["uefi", "bios"])
def test_portable_stores_name_no_disk(firmware, kind):
    store = portable_store(firmware, kind=kind, ids=IDS)
    assert ids_of(store) == expected(UEFI if firmware == "uefi" else BIOS)
    loader = store.object(IDS.os)
    devices = loader.value(0x11000001), loader.value(0x21000001)
    if kind == "boot":
        assert devices == (BootDevice(), BootDevice())
    else:
        assert devices == (LocateElement(0x12000002), LocateElement(0x22000002))
    for item in store.objects:
        for element in item.elements:
            assert not isinstance(element.value, GptPartition | MbrPartition)


def test_a_virtual_disk_can_not_hibernate():
    store = vhd_store(
        firmware="bios", system=MBR_SYSTEM, vhd_on=MBR_WINDOWS, vhd_path="\\w.vhdx", ids=IDS
    )
    assert IDS.resume not in {item.guid for item in store.objects}
    loader = store.object(IDS.os)
    disk = VhdDevice(FileDevice(MBR_WINDOWS, "\\w.vhdx"))
    assert loader.value(0x11000001) == LocateElement(0x12000002, disk)
    assert loader.value(0x21000001) == LocateElement(0x22000002, disk)
    assert loader.value(0x23000003) is None
    assert parse_store(pack_store(store), what="made") == store


def test_nothing_mentioned_is_missing():
    stores = [uefi(), bios(), pe_store("uefi"), portable_store("bios", kind="boot", ids=IDS)]
    stores.append(esp_recovery_store(system=ESP, recovery=RECOVERY, ids=IDS))
    stores.append(
        vhd_store(firmware="uefi", system=ESP, vhd_on=WINDOWS, vhd_path="\\w.vhd", ids=IDS)
    )
    for store in stores:
        for item in store.objects:
            for element in item.elements:
                value = element.value
                guids = [value] if isinstance(value, UUID) else []
                guids += (
                    [one for one in value if isinstance(one, UUID)]
                    if isinstance(value, tuple)
                    else []
                )
                if isinstance(value, Ramdisk):
                    guids.append(value.options_guid)
                for guid in guids:
                    assert store.object(guid) is not None, (item.guid, element)


def test_ids_depend_on_the_seed_alone():
    assert BootIds.derive(b"test") == IDS
    other = BootIds.derive(b"other")
    all_ids = [getattr(ids, name) for ids in (IDS, other) for name in BootIds.__slots__]
    assert len(set(all_ids)) == 8
    assert pack_store(uefi()) == pack_store(uefi())


OTHER = BootIds.derive(b"another Windows")
OTHER_WINDOWS = GptPartition(DISK, UUID(int=4))


def test_a_second_windows_keeps_the_first():
    before = uefi()
    store = add_windows(
        before, firmware="uefi", system=ESP, windows=OTHER_WINDOWS, ids=OTHER, description="New"
    )
    manager = store.object(well_known("bootmgr"))
    assert manager.value(0x24000001) == (OTHER.os, IDS.os)
    assert manager.value(0x23000003) == OTHER.os
    assert {item.guid for item in windows_loaders(store)} == {OTHER.os, IDS.os}
    kept = [item for item in before.objects if item.guid != well_known("bootmgr")]
    assert all(store.object(item.guid) == item for item in kept)
    last = add_windows(
        before, firmware="uefi", system=ESP, windows=OTHER_WINDOWS, ids=OTHER, is_default=False
    )
    manager = last.object(well_known("bootmgr"))
    assert manager.value(0x24000001) == (IDS.os, OTHER.os)
    assert manager.value(0x23000003) == IDS.os


def test_the_same_windows_again_replaces_its_entry():
    store = add_windows(uefi(), firmware="uefi", system=ESP, windows=WINDOWS, ids=OTHER)
    assert [item.guid for item in windows_loaders(store)] == [OTHER.os]
    guids = {item.guid for item in store.objects}
    assert not guids & {IDS.os, IDS.resume, IDS.recovery, IDS.recovery_options}
    manager = store.object(well_known("bootmgr"))
    assert manager.value(0x24000001) == (OTHER.os,)
    assert manager.value(0x23000006) == OTHER.resume


def test_windows_added_to_an_empty_store_is_a_whole_one():
    store = add_windows(empty_store(), firmware="uefi", system=ESP, windows=WINDOWS, ids=IDS)
    assert store.objects == uefi(recovery=None).objects


def test_recovery_registered_and_taken_back():
    bare = uefi(recovery=None)
    store = register_recovery(bare, IDS.os, RECOVERY, IDS)
    assert store == uefi()
    assert unregister_recovery(store, IDS.os) == bare
    assert unregister_recovery(bare, IDS.os) == bare


def test_recovery_registered_again_leaves_no_old_objects():
    store = register_recovery(uefi(), IDS.os, OTHER_WINDOWS, OTHER)
    guids = {item.guid for item in store.objects}
    assert not guids & {IDS.recovery, IDS.recovery_options}
    assert store.object(IDS.os).value(0x14000008) == (OTHER.recovery,)
    assert store.object(IDS.resume).value(0x14000008) == (OTHER.recovery,)


def test_recovery_that_another_windows_uses_stays():
    store = add_windows(uefi(), firmware="uefi", system=ESP, windows=OTHER_WINDOWS, ids=OTHER)
    other = store.object(OTHER.os).with_value(0x14000008, (IDS.recovery,))
    store = unregister_recovery(store.with_object(other), IDS.os)
    assert store.object(IDS.recovery) is not None
    assert store.object(IDS.recovery_options) is not None
    store = unregister_recovery(store, OTHER.os)
    assert store.object(IDS.recovery) is None
    assert store.object(IDS.recovery_options) is None


def test_bios_recovery_starts_an_exe():
    store = register_recovery(bios(recovery=None), IDS.os, MBR_RECOVERY, IDS)
    assert store == bios()
    assert store.object(IDS.recovery).value(0x12000002) == "\\windows\\system32\\winload.exe"


def test_no_such_windows():
    for guid in (OTHER.os, IDS.resume):
        with pytest.raises(UsageError) as caught:
            register_recovery(uefi(), guid, RECOVERY, IDS)
        assert str(IDS.os) in caught.value.hint


def test_an_object_taken_out_is_mentioned_no_more():
    store = remove_object(uefi(), IDS.os)
    manager = store.object(well_known("bootmgr"))
    assert manager.value(0x23000003) is None
    assert manager.value(0x24000001) == ()
    assert default_object(store) is None


# ---- the same from the real stores' identities ----


def real(name):
    return parse_store((REAL / name).read_bytes(), what=name)


def own_ids(store):
    """The GUIDs that a real store gave its own objects."""
    loader = store.object(store.object(well_known("bootmgr")).value(0x23000003))
    sequence = loader.value(0x14000008)
    resume = loader.value(0x23000003) or IDS.resume
    if not sequence:
        return BootIds(loader.guid, resume, IDS.recovery, IDS.recovery_options)
    recovery = store.object(sequence[0])
    return BootIds(loader.guid, resume, recovery.guid, recovery.value(0x11000001).options_guid)


def differences(ours, theirs):
    """What differs: (object, element, ours, theirs); paths without regard to case."""

    def low(value):
        if isinstance(value, Ramdisk):
            return replace(value, path=value.path.lower())
        return value.lower() if isinstance(value, str) else value

    found = set()
    for guid in {item.guid for item in (*ours.objects, *theirs.objects)}:
        one, other = ours.object(guid), theirs.object(guid)
        alias = object_alias(guid) or str(guid)
        if one is None or other is None:
            found.add((alias, "ours only" if other is None else "theirs only"))
            continue
        if one.type_code != other.type_code:
            found.add((alias, "type"))
        for number in {element.id for element in (*one.elements, *other.elements)}:
            if low(one.value(number)) != low(other.value(number)):
                found.add((alias, f"{number:08x}"))
    return found


@needs_real
def test_an_installed_uefi_store_equals_a_real_one():
    theirs = real("installed-uefi-gpt-winre.bcd")
    ids = own_ids(theirs)
    loader = theirs.object(ids.os)
    manager = theirs.object(well_known("bootmgr"))
    ours = installed_store(
        firmware="uefi",
        system=manager.value(0x11000001),
        windows=loader.value(0x11000001),
        recovery=theirs.object(ids.recovery_options).value(0x31000003),
        ids=ids,
        description=loader.value(0x12000004),
    )
    firmware = {
        object_alias(item.guid) or str(item.guid)
        for item in theirs.objects
        if item.type_code in {0x10100001, 0x101FFFFF}
    }
    # Only what the running firmware has in its NVRAM differs.
    assert firmware
    assert differences(ours, theirs) == {(name, "theirs only") for name in firmware}


@needs_real
def test_an_installed_bios_store_equals_a_real_one():
    theirs = real("installed-bios-mbr-winre.bcd")
    ids = own_ids(theirs)
    loader = theirs.object(ids.os)
    ours = installed_store(
        firmware="bios",
        system=theirs.object(well_known("bootmgr")).value(0x11000001),
        windows=loader.value(0x11000001),
        recovery=theirs.object(ids.recovery_options).value(0x31000003),
        ids=ids,
        description=loader.value(0x12000004),
    )
    assert differences(ours, theirs) == set()


@needs_real
def test_a_store_of_bcdboot_equals_ours_but_for_what_windows_adds():
    theirs = real("fresh-bcdboot-bios.bcd")
    ids = own_ids(theirs)
    loader = theirs.object(ids.os)
    ours = installed_store(
        firmware="bios",
        system=theirs.object(well_known("bootmgr")).value(0x11000001),
        windows=loader.value(0x11000001),
        recovery=None,
        ids=ids,
        locale="zh-CN",
        description=loader.value(0x12000004),
    )
    # filedevice and debugoptionenabled: Windows adds them; memdiag's description is translated.
    resume = str(ids.resume)
    allowed = {(resume, "21000001"), (resume, "26000006"), ("memdiag", "12000004")}
    assert differences(ours, theirs) == allowed


@needs_real
def test_the_recovery_store_equals_a_real_one():
    theirs = real("recovery-uefi.bcd")
    recovery = theirs.object(theirs.object(well_known("bootmgr")).value(0x23000003))
    options = theirs.object(recovery.value(0x11000001).options_guid)
    ours = esp_recovery_store(
        system=theirs.object(well_known("bootmgr")).value(0x11000001),
        recovery=options.value(0x31000003),
        ids=BootIds(IDS.os, IDS.resume, recovery.guid, options.guid),
    )
    assert differences(ours, theirs) == set()
    assert {(v.name, v.data) for v in ours.description} == {
        (v.name, v.data) for v in theirs.description
    }


@needs_real
@pytest.mark.parametrize(
    ("name", "firmware", "is_server"),
    [
        ("media-19041-uefi.bcd", "uefi", False),
        ("media-27954-uefi.bcd", "uefi", False),
        ("media-19041-bios.bcd", "bios", False),
        ("media-27954-bios.bcd", "bios", False),
        ("media-server-uefi.bcd", "uefi", True),
    ],
)
def test_media_equal_real_ones(name, firmware, is_server):
    assert differences(pe_store(firmware, is_server=is_server), real(name)) == set()


@needs_real
def test_a_portable_store_has_the_elements_of_a_real_one():
    theirs = real("installed-bios-boot-device.bcd")
    ids = own_ids(theirs)
    ours = portable_store("bios", kind="boot", ids=ids)
    found = {(name, what) for name, what in differences(ours, theirs)}
    # theirs: another language and name; its resume object and memdiag name a disk (ours do not),
    # and Windows has not added filedevice and debugoptionenabled yet.
    resume = str(ids.resume)
    assert found == {
        ("bootmgr", "12000005"),
        (str(ids.os), "12000004"),
        (str(ids.os), "12000005"),
        ("memdiag", "11000001"),
        (resume, "11000001"),
        (resume, "21000001"),
        (resume, "26000006"),
    }


@needs_real
def test_the_comparison_sees_a_difference():
    theirs = real("media-27954-uefi.bcd")
    changed = theirs.with_object(
        BcdObject(well_known("emssettings"), 0x20100000).with_value(0x16000020, True)
    )
    assert differences(changed, theirs) == {("emssettings", "16000020")}


@needs_real
@pytest.mark.parametrize(
    "name", ["installed-uefi-gpt-winre.bcd", "installed-bios-mbr-winre.bcd", "recovery-uefi.bcd"]
)
def test_real_stores_get_a_windows_and_keep_what_they_have(name):
    theirs = real(name)
    store = add_windows(theirs, firmware="uefi", system=ESP, windows=WINDOWS, ids=IDS)
    again = parse_store(pack_store(store), what="made")
    assert again == store
    for item in theirs.objects:
        if item.guid != well_known("bootmgr"):
            assert again.object(item.guid) == item


@needs_real
def test_recovery_of_a_real_store_is_taken_out_and_put_back():
    theirs = real("installed-uefi-gpt-winre.bcd")
    ids = own_ids(theirs)
    partition = theirs.object(ids.recovery_options).value(0x31000003)
    without = unregister_recovery(theirs, ids.os)
    assert len(without.objects) == len(theirs.objects) - 2
    assert differences(register_recovery(without, ids.os, partition, ids), theirs) == set()
