# SPDX-License-Identifier: GPL-3.0-or-later
"""``mediamaker bcd`` from outside; hivex reads what was written."""

import json
import re
import subprocess
from pathlib import Path
from uuid import UUID

import pytest

from mediamaker.formats.bcd import pack_store, parse_store
from mediamaker.formats.bcd_devices import GptPartition, LocatePath, MbrPartition
from mediamaker.formats.bcd_names import well_known
from mediamaker.formats.regf import Hive, Key, Value, parse_hive
from mediamaker.formats.regf_pack import pack_hive

REAL = Path(__file__).parents[3] / "shared" / "bcd"
REAL_STORES = sorted(REAL.glob("*.bcd"))
DISK = "58ef6851-2176-4d86-a9d6-e54bb70b7d81"
ESP, WINDOWS, RECOVERY = (
    f"gpt:{DISK}:0000000{number}-0000-0000-0000-000000000000" for number in (1, 2, 3)
)


def parsed(path):
    return parse_store(path.read_bytes(), what=str(path))


@pytest.fixture
def store(run, tmp_path):
    path = tmp_path / "BCD"
    code, events = run.json(
        "bcd", "create", path, "--kind", "installed", "--system", ESP, "--windows", WINDOWS,
        "--recovery", RECOVERY, "--seed", "x", "--description", "Windows 11",
    )  # fmt: skip
    assert (code, len(events)) == (0, 1)
    return path


def default_of(path):
    found = parsed(path)
    return found.object(found.object(well_known("bootmgr")).value(0x23000003))


def hivex_get(path, *keys):
    """A value as hivexget prints it: another reader than ours."""
    where = "\\".join(keys[:-1])
    return subprocess.run(
        ["hivexget", path, where, keys[-1]], check=True, capture_output=True, text=True
    ).stdout


# ---- show ----


@pytest.mark.skipif(not REAL_STORES, reason="../shared/bcd is not here")
@pytest.mark.parametrize("path", REAL_STORES, ids=lambda path: path.stem)
def test_show_of_real_stores(run, path):
    code, out, err = run.text("bcd", "show", path)
    assert (code, err) == (0, "")
    unknown = set(re.findall(r"(?m)^custom:\w+|^Unknown object.*|raw=\w+", out))
    assert unknown <= {"custom:21000026"}
    code, (event,) = run.json("bcd", "show", path)
    assert code == 0
    assert event["problems"] == []
    # Lossless: with the JSON alone the store's elements can be made again, byte for byte.
    stored = {
        (item["guid"], element["id"]): (element["registry_type"], element["data"])
        for item in event["objects"]
        for element in item["elements"]
    }
    root = parse_hive(path.read_bytes(), what="it").root
    there = {
        (str(UUID(key.name)), element.name.lower()): (value.type_code, value.data.hex())
        for key in root.subkey("Objects").subkeys
        if key.subkey("Elements")
        for element in key.subkey("Elements").subkeys
        for value in [element.value("Element")]
    }
    assert stored == there


def test_show_reads_like_bcdedit(run, store):
    code, out, _ = run.text("bcd", "show", store, "{default}")
    assert code == 0
    lines = out.splitlines()
    assert lines[:3] == [
        "Windows Boot Loader",
        "-------------------",
        "identifier              {default}",
    ]
    assert f"device                  partition={WINDOWS}" in lines
    assert "recoveryenabled         Yes" in lines
    assert "nx                      OptIn" in lines
    assert "allowedinmemorysettings 0x15000075" in lines
    assert "systemroot              \\Windows" in lines


def test_show_order_aliases_and_verbose(run, store):
    _, out, _ = run.text("bcd", "show", store)
    assert out.startswith("Windows Boot Manager\n")
    assert out.index("Windows Boot Loader") < out.index("Resume from Hibernate")
    assert "inherit                 {dbgsettings}\n                        {emssettings}" in out
    _, verbose, _ = run.text("bcd", "show", store, "{bootmgr}", "-v")
    assert "identifier                       {9dea862c-5cdd-4e70-acc1-f32b344d4795}" in verbose
    assert "25000004 timeout                 30" in verbose


def test_show_by_type(run, store):
    _, (event,) = run.json("bcd", "show", store, "--type", "osloader")
    assert {item["type_name"] for item in event["objects"]} == {"osloader"}
    assert len(event["objects"]) == 2
    _, out, _ = run.text("bcd", "show", store, "--type", "bootsector")
    assert out == "No such objects.\n"
    code, events = run.json("bcd", "show", store, "--type", "nonsense")
    assert code == 2
    assert "osloader" in events[-1]["hint"]


def test_a_hostile_string_stays_on_its_line(run, store):
    run.json("bcd", "set", store, "default", "description", "a\nidentifier  {x}\x1b[2J\u202e")
    _, out, _ = run.text("bcd", "show", store, "{default}")
    (line,) = [line for line in out.splitlines() if line.startswith("description")]
    assert line.endswith(r"a\nidentifier  {x}\x1b[2J\u202e")


# ---- set ----


@pytest.mark.parametrize(
    ("who", "element", "words", "shown"),
    [
        ("{bootmgr}", "timeout", ["5"], "5"),
        ("bootmgr", "timeout", ["0x10"], "16"),
        ("{default}", "bootmenupolicy", ["legacy"], "Legacy"),
        ("{default}", "nx", ["AlwaysOn"], "AlwaysOn"),
        ("{default}", "testsigning", ["on"], "Yes"),
        ("{default}", "recoveryenabled", ["no"], "No"),
        ("{default}", "description", ["Größe \U0001f4bf"], "Größe \U0001f4bf"),
        ("{default}", "osdevice", [f"partition={RECOVERY}"], f"partition={RECOVERY}"),
        (
            "{default}", "device", ["partition=mbr:D7DA5D02:0x100000"],
            "partition=mbr:d7da5d02:1048576",
        ),
        ("{default}", "device", ["boot"], "boot"),
        ("{default}", "device", ["locate"], "locate=custom:12000002"),
        ("{default}", "osdevice", ["locate"], "locate=custom:22000002"),
        ("{default}", "device", [r"locate=\sources\boot.wim"], r"locate=\sources\boot.wim"),
        (
            "{default}", "device", [r"ramdisk=[boot]\sources\boot.wim,{ramdiskoptions}"],
            r"ramdisk=[boot]\sources\boot.wim,{ramdiskoptions}",
        ),
        (
            "{default}", "device", [rf"ramdisk=[{RECOVERY}]\w.wim,{{bootmgr}}"],
            rf"ramdisk=[{RECOVERY}]\w.wim,{{bootmgr}}",
        ),
        (
            "{default}", "device", [rf"vhd=[{WINDOWS}]\a]b.vhdx,locate=custom:12000002"],
            rf"vhd=[{WINDOWS}]\a]b.vhdx,locate=custom:12000002",
        ),
        ("{default}", "device", [r"file=[locate=\x.img]\x.img"], r"file=[locate=\x.img]\x.img"),
        ("{default}", "custom:26000022", ["yes"], "Yes"),
        ("{default}", "allowedinmemorysettings", ["0x15000075", "7"], "0x15000075 0x7"),
        ("{bootmgr}", "displayorder", ["{default}", "{memdiag}"], "{default} {memdiag}"),
        ("{globalsettings}", "advancedoptions", ["true"], "Yes"),
    ],
)  # fmt: skip
def test_set_and_what_is_shown_is_understood(run, store, who, element, words, shown):
    code, events = run.json("bcd", "set", store, who, element, *words)
    assert code == 0
    change = next(event for event in events if event["event"] == "bcd-change")
    assert change["is_changed"] is True
    assert " ".join(change["after"]["text"]) == shown
    assert parsed(store)  # strict: boot managers would take it
    # What is shown is understood: setting it again changes nothing.
    code, events = run.json("bcd", "set", store, who, element, *change["after"]["text"])
    again = next(event for event in events if event["event"] == "bcd-change")
    assert (code, again["is_changed"], again["backup"]) == (0, False, None)


def test_set_writes_what_another_reader_sees(run, store):
    run.json("bcd", "set", store, "{bootmgr}", "timeout", "7")
    manager = "{9dea862c-5cdd-4e70-acc1-f32b344d4795}"
    shown = hivex_get(store, "Objects", manager, "Elements", "25000004", "Element")
    assert shown == "\x07" + "\0" * 7
    run.json("bcd", "set", store, "{default}", "description", "Seen by hivex")
    guid = f"{{{default_of(store).guid}}}"
    shown = hivex_get(store, "Objects", guid, "Elements", "12000004", "Element")
    assert "Seen by hivex" in shown


def test_lists_first_last_and_remove(run, store):
    def order():
        return parsed(store).object(well_known("bootmgr")).value(0x24000001)

    default, memory = default_of(store).guid, well_known("memdiag")
    run.json("bcd", "set", store, "{bootmgr}", "displayorder", "{memdiag}", "--add-first")
    assert order() == (memory, default)
    run.json("bcd", "set", store, "{bootmgr}", "displayorder", "{memdiag}", "--add-last")
    assert order() == (default, memory)
    run.json("bcd", "set", store, "{bootmgr}", "displayorder", "{default}", "--remove")
    assert order() == (memory,)
    run.json("bcd", "set", store, "{bootmgr}", "displayorder", "{memdiag}", "--remove")
    assert order() is None


def test_backup_mode_and_atomic_replacement(run, store):
    before = store.read_bytes()
    store.chmod(0o640)
    inode = store.stat().st_ino
    _, (event,) = run.json("bcd", "set", store, "{bootmgr}", "timeout", "5")
    backup = Path(event["backup"])
    assert backup == store.with_name("BCD.bak")
    assert backup.read_bytes() == before
    assert store.stat().st_ino != inode
    assert store.stat().st_mode & 0o777 == 0o640
    assert sorted(path.name for path in store.parent.iterdir()) == ["BCD", "BCD.bak"]
    backup.unlink()
    run.json("bcd", "set", store, "{bootmgr}", "timeout", "6", "--no-backup")
    assert not backup.exists()


def test_dry_run_writes_nothing(run, store):
    before = store.read_bytes()
    for words in (
        ("set", store, "{bootmgr}", "timeout", "5"),
        ("delete", store, "{default}"),
        ("create", store, "--object", "new", "--type", "osloader"),
    ):
        code, events = run.json("bcd", *words, "--dry-run")
        assert (code, events[0]["is_dry_run"], events[0]["backup"]) == (0, True, None)
    assert store.read_bytes() == before
    assert [path.name for path in store.parent.iterdir()] == ["BCD"]


def test_a_link_is_followed(run, store, tmp_path):
    link = tmp_path / "link"
    link.symlink_to(store)
    run.json("bcd", "set", link, "{bootmgr}", "timeout", "9")
    assert link.is_symlink()
    assert parsed(store).object(well_known("bootmgr")).value(0x25000004) == 9


def test_a_failed_write_leaves_the_store(run, store):
    before = store.read_bytes()
    (store.parent / "BCD.bak").mkdir()
    code, events = run.json("bcd", "set", store, "{bootmgr}", "timeout", "5")
    assert code != 0
    assert events[-1]["event"] == "error"
    assert store.read_bytes() == before


def test_a_mention_of_what_is_not_there_is_a_warning(run, store):
    code, events = run.json("bcd", "set", store, "{bootmgr}", "bootsequence", "{ntldr}")
    assert code == 0
    assert [event["event"] for event in events] == ["warning", "bcd-change"]


@pytest.mark.parametrize(
    ("words", "message", "hint"),
    [
        (("{ntldr}", "path", "\\x"), "no object {ntldr}", "--object"),
        (("{current}", "path", "\\x"), "{current}", "{default}"),
        (("{nonsense}", "path", "\\x"), "is no object", "{bootmgr}"),
        (("{bootmgr}", "timeuot", "5"), "no element 'timeuot'", "timeout"),
        (("{bootmgr}", "osdevice", "boot"), "no element 'osdevice'", "custom:"),
        (("{bootmgr}", "timeout", "soon"), "'soon' is no value", "number"),
        (("{bootmgr}", "timeout", "99999999999999999999"), "is no value", "2^64"),
        (("{bootmgr}", "timeout", "1", "2"), "one value", "quotation"),
        (("{default}", "nx", "Sometimes"), "is no value", "OptIn"),
        (("{default}", "winpe", "perhaps"), "neither yes nor no", "yes"),
        (("{default}", "device", "C:"), "is no device", "partition=gpt:"),
        (("{default}", "device", "partition=C:"), "is no partition", "SIGNATURE"),
        (("{default}", "device", "partition=mbr:123456789:0"), "is no partition", "gpt:"),
        (("{default}", "device", "ramdisk=boot.wim"), "expected [DEVICE]", "ramdisk="),
        (("{default}", "device", "ramdisk=[boot]boot.wim"), "is not a path", "backslashes"),
        (("{default}", "device", "locate=/x"), "is not a path", "backslashes"),
        (("{default}", "timeout", "5"), "no element 'timeout'", ""),
        (("{bootmgr}", "timeout", "5", "--add-last"), "is no list", "--add-last"),
        (("{default}", "custom:18000001", "x"), "not known", ""),
    ],
)
def test_what_set_refuses(run, store, words, message, hint):
    before = store.read_bytes()
    code, events = run.json("bcd", "set", store, *words)
    assert code == 2
    assert message in events[-1]["message"]
    assert hint in (events[-1]["hint"] or "")
    assert store.read_bytes() == before


# ---- delete ----


def test_delete_an_element(run, store):
    assert run.json("bcd", "delete", store, "{default}", "recoverysequence")[0] == 0
    assert default_of(store).value(0x14000008) is None
    code, events = run.json("bcd", "delete", store, "{default}", "recoverysequence")
    assert code == 2
    assert "--missing-ok" in events[-1]["hint"]
    code, events = run.json("bcd", "delete", store, "{default}", "recoverysequence", "--missing-ok")
    assert (code, events[0]["is_changed"]) == (0, False)


def test_delete_an_object_and_its_mentions(run, store):
    guid = default_of(store).guid
    assert run.json("bcd", "delete", store, "{default}")[0] == 0
    found = parsed(store)
    assert found.object(guid) is None
    assert found.object(well_known("bootmgr")).value(0x24000001) == ()
    code, events = run.json("bcd", "delete", store, f"{{{guid}}}")
    assert code == 2
    assert run.json("bcd", "delete", store, f"{{{guid}}}", "--missing-ok")[0] == 0
    code, events = run.json("bcd", "set", store, "{default}", "nx", "OptIn")
    assert "has no {default}" in events[-1]["message"]


def test_delete_keeps_links_when_asked(run, store):
    guid = default_of(store).guid
    run.json("bcd", "delete", store, "{default}", "--keep-links")
    assert parsed(store).object(well_known("bootmgr")).value(0x24000001) == (guid,)


def test_a_well_known_object_is_deleted_with_force_alone(run, store):
    code, events = run.json("bcd", "delete", store, "{bootmgr}")
    assert code == 2
    assert "--force" in events[-1]["hint"]
    assert run.json("bcd", "delete", store, "{bootmgr}", "--force")[0] == 0


# ---- create ----


def test_the_same_seed_gives_the_same_store(run, store, tmp_path):
    again, other = tmp_path / "again", tmp_path / "other"
    words = ["--kind", "installed", "--system", ESP, "--windows", WINDOWS, "--recovery", RECOVERY]
    words += ["--description", "Windows 11"]
    run.json("bcd", "create", again, *words, "--seed", "x")
    run.json("bcd", "create", other, *words)
    assert again.read_bytes() == store.read_bytes()
    assert default_of(other).guid != default_of(store).guid


@pytest.mark.parametrize(
    ("words", "count"),
    [
        (("empty",), 0),
        (("recovery", "--system", ESP, "--recovery", RECOVERY), 10),
        (("media",), 9),
        (("media", "--firmware", "bios", "--server", "--media", r"locate=\sources\boot.wim"), 9),
        (("vhd", "--system", ESP, "--vhd-on", WINDOWS, "--vhd", r"\w.vhdx"), 10),
        (("portable", "--device", "boot", "--firmware", "bios"), 11),
        (("portable",), 11),
        (("installed", "--firmware", "bios", "--system", "mbr:1:1048576",
          "--windows", "mbr:1:0x22700000"), 11),
    ],
)  # fmt: skip
def test_kinds(run, tmp_path, words, count):
    path = tmp_path / "BCD"
    code, (event,) = run.json("bcd", "create", path, "--kind", *words)
    assert code == 0
    assert len(event["objects"]) == count == len(parsed(path).objects)
    subprocess.run(["hivexml", path], check=True, capture_output=True)


def test_values_reach_the_store(run, tmp_path):
    path = tmp_path / "BCD"
    run.json(
        "bcd", "create", path, "--kind", "media", "--media", r"locate=\pe\b.wim", "--wim",
        r"\pe\b.wim", "--locale", "de-DE", "--description", "WinPE",
    )  # fmt: skip
    loader = default_of(path)
    assert loader.value(0x11000001).parent == LocatePath(r"\pe\b.wim")
    assert (loader.value(0x12000004), loader.value(0x12000005)) == ("WinPE", "de-DE")
    bios = tmp_path / "bios"
    run.json(
        "bcd", "create", bios, "--kind", "installed", "--firmware", "bios",
        "--system", "mbr:d7da5d02:1048576", "--windows", "mbr:d7da5d02:0x24400000",
    )  # fmt: skip
    assert default_of(bios).value(0x11000001) == MbrPartition(0xD7DA5D02, 0x24400000)


def test_windows_added_to_a_store(run, store):
    first = default_of(store).guid
    code, (event,) = run.json(
        "bcd", "create", store, "--kind", "installed", "--add", "--system", ESP,
        "--windows", RECOVERY, "--description", "Second",
    )  # fmt: skip
    assert code == 0
    assert event["backup"].endswith("BCD.bak")
    assert default_of(store).value(0x12000004) == "Second"
    assert default_of(store).value(0x11000001) == GptPartition(
        UUID(DISK), UUID(RECOVERY.rpartition(":")[2])
    )
    assert parsed(store).object(first) is not None


def test_windows_added_behind_the_others(run, store):
    first = default_of(store).guid
    code, _ = run.json(
        "bcd", "create", store, "--kind", "installed", "--add", "--keep-default",
        "--system", ESP, "--windows", RECOVERY,
    )  # fmt: skip
    assert code == 0
    order = parsed(store).object(well_known("bootmgr")).value(0x24000001)
    assert (order[0], len(order)) == (first, 2)
    assert default_of(store).guid == first


def test_objects_are_made(run, store):
    _, (event,) = run.json(
        "bcd", "create", store, "--object", "new", "--like", "{default}", "--description", "Copy"
    )
    copy = parsed(store).object(UUID(event["object"]))
    assert copy.value(0x12000004) == "Copy"
    assert copy.value(0x21000001) == default_of(store).value(0x21000001)
    code, (event,) = run.json("bcd", "create", store, "--object", "{ramdiskoptions}")
    assert code == 0
    assert parsed(store).object(well_known("ramdiskoptions")).type_code == 0x30000000
    code, (event,) = run.json(
        "bcd", "create", store, "--object", "new", "--type", "bootsector", "--description", "grub"
    )
    assert parsed(store).object(UUID(event["object"])).type_code == 0x10400008
    code, out, _ = run.text("bcd", "create", store, "--object", "new", "--type", "osloader")
    assert code == 0
    assert UUID(out.strip().strip("{}"))  # a script takes it from here
    assert parsed(store).object(UUID(out.strip().strip("{}"))) is not None


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (("--kind", "installed"), "needs to know the partition of the boot manager"),
        (("--kind", "installed", "--system", "C:"), "is no partition"),
        (("--kind", "vhd", "--system", ESP), "needs the disk's path"),
        (("--kind", "media", "--media", r"file=[boot]\x"), "files are on partitions"),
        (("--kind", "media", "--wim", "sources/boot.wim"), "is not a path"),
        (("--kind", "nonsense"), "invalid choice"),
        ((), "required"),
    ],
)
def test_what_create_refuses(run, tmp_path, words, message):
    path = tmp_path / "BCD"
    code, events = run.json("bcd", "create", path, *words)
    assert code == 2
    assert message in events[-1]["message"]
    assert not path.exists()


def test_a_store_that_is_there_is_not_replaced(run, store):
    before = store.read_bytes()
    code, _ = run.json("bcd", "create", store, "--kind", "empty")
    assert code == 4
    assert store.read_bytes() == before
    assert run.json("bcd", "create", store, "--kind", "empty", "--dry-run")[0] == 4
    code, (event,) = run.json("bcd", "create", store, "--kind", "empty", "--force")
    assert code == 0
    assert Path(event["backup"]).read_bytes() == before
    assert parsed(store).objects == ()
    code, events = run.json("bcd", "create", store, "--object", "new")
    assert code == 2
    assert "--type" in events[-1]["hint"]


def test_an_object_that_is_there_is_not_replaced(run, store):
    code, events = run.json("bcd", "create", store, "--object", "{bootmgr}")
    assert code == 2
    assert "bcd set" in events[-1]["hint"]


@pytest.mark.skipif(not REAL_STORES, reason="../shared/bcd is not here")
@pytest.mark.parametrize(
    "path", [path for path in REAL_STORES if "empty" not in path.stem], ids=lambda path: path.stem
)
def test_one_element_of_a_real_store_changes_nothing_else(run, tmp_path, path):
    store = tmp_path / "BCD"
    store.write_bytes(path.read_bytes())
    assert run.json("bcd", "set", store, "{bootmgr}", "timeout", "77")[0] == 0

    def elements(name):
        _, (event,) = run.json("bcd", "show", name)
        return {
            (item["guid"], item["type"], element["id"], element["data"])
            for item in event["objects"]
            for element in item["elements"]
        }

    before, after = elements(path), elements(store)
    manager = str(well_known("bootmgr"))
    assert after - before == {(manager, "10100002", "25000004", "4d00000000000000")}
    assert {row[:3] for row in before - after} <= {(manager, "10100002", "25000004")}
    subprocess.run(["hivexml", store], check=True, capture_output=True)


def test_a_store_that_another_program_changes_meanwhile(run, store, monkeypatch):
    from mediamaker.cli import bcd_change  # noqa: PLC0415

    real = bcd_change.read_file
    seen = []

    def read(path):
        if seen:
            path.write_bytes(path.read_bytes() + b"x")
        seen.append(path)
        return real(path)

    monkeypatch.setattr(bcd_change, "read_file", read)
    code, events = run.json("bcd", "set", store, "{bootmgr}", "timeout", "5")
    assert code == 3
    assert "another program" in events[-1]["message"]
    assert not store.with_name("BCD.bak").exists()


# ---- export, and bad input ----


def test_export(run, store, tmp_path):
    out = tmp_path / "copy"
    assert run.json("bcd", "export", store, out)[0] == 0
    assert parsed(out) == parsed(store)
    assert run.json("bcd", "export", store, out)[0] == 4
    assert run.json("bcd", "export", store, out, "--force", "--as", "json")[0] == 0
    document = json.loads(out.read_text())
    _, (shown,) = run.json("bcd", "show", store)
    assert document["objects"] == shown["objects"]
    assert run.json("bcd", "export", store, tmp_path / "text", "--as", "text")[0] == 0
    assert "Windows Boot Manager" in (tmp_path / "text").read_text()


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (None, "No such file"),
        (b"", ""),
        (b"MZ" + bytes(9000), ""),
        (pack_hive(Hive(Key("ROOT", subkeys=(Key("ControlSet001"),)))), "no key Objects"),
    ],
    ids=["missing", "empty", "another file", "another hive"],
)
@pytest.mark.parametrize("verb", ["show", "set", "delete", "export"])
def test_what_is_no_store(run, tmp_path, verb, content, message):
    path = tmp_path / "BCD"
    if content is not None:
        path.write_bytes(content)
    more = {
        "show": (),
        "set": ("{bootmgr}", "timeout", "5"),
        "delete": ("{bootmgr}", "timeout"),
        "export": (tmp_path / "out",),
    }[verb]
    code, events = run.json("bcd", verb, path, *more)
    assert code == 3
    assert str(path) in events[-1]["message"]
    assert message in events[-1]["message"]
    assert not (tmp_path / "out").exists()


def test_a_folder_and_a_device_are_no_store(run, tmp_path):
    for path in (tmp_path, Path("/dev/zero")):
        code, events = run.json("bcd", "show", path)
        assert code == 3
        assert "is no file" in events[-1]["message"]


def test_a_damaged_element_is_shown_and_mended(run, store):
    data = store.read_bytes()
    root = parse_hive(data, what="it").root
    guid = f"{{{default_of(store).guid}}}"
    hive = parse_hive(data, what="it")
    element = root.find("Objects", guid, "Elements", "26000022") or Key("26000022")
    bad = Key(element.name, values=(_boolean_of_eight_bytes(),))
    elements = root.find("Objects", guid, "Elements").with_subkey(bad)
    item = root.find("Objects", guid).with_subkey(elements)
    root = root.with_subkey(root.subkey("Objects").with_subkey(item))
    store.write_bytes(pack_hive(Hive(root, minor_version=hive.minor_version)))
    code, events = run.json("bcd", "show", store)
    assert code == 0
    assert "1 byte, got 8" in events[0]["problems"][0]
    assert events[1]["event"] == "warning"
    code, events = run.json("bcd", "export", store, store.with_name("out"))
    assert code == 3
    assert run.json("bcd", "delete", store, "{default}", "winpe")[0] == 0
    assert parsed(store)


def _boolean_of_eight_bytes():
    return Value("Element", 3, bytes(8))


def test_text_forms(run, store):
    _, out, _ = run.text("bcd", "set", store, "{bootmgr}", "timeout", "5")
    assert out.splitlines()[0] == "{bootmgr} timeout: 30 -> 5"
    _, out, _ = run.text("bcd", "set", store, "{bootmgr}", "timeout", "5")
    assert "unchanged" in out
    _, out, _ = run.text("bcd", "delete", store, "{default}", "--dry-run")
    assert "deleted (dry run" in out


def test_a_packed_store_is_equal_after_show(run, store):
    before = store.read_bytes()
    run.json("bcd", "show", store)
    assert store.read_bytes() == before == pack_store(parsed(store))
