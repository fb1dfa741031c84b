# SPDX-License-Identifier: GPL-3.0-or-later
"""ResetConfig.xml and the partition script: against what Microsoft documents.

No diskpart is here; ``run_script`` is a small model of the documented commands on an empty disk,
which must come to the very partitions that the plan has.
"""

import re
from uuid import UUID
from xml.etree import ElementTree as ET

import pytest

from mediamaker.plan.disk_layout import Role
from mediamaker.plan.geometry import Geometry
from mediamaker.plan.identity import identities_from_seed
from mediamaker.plan.layout_file import load_layout
from mediamaker.plan.place_disk import place_disk
from mediamaker.plan.reset_config import build_reset_files
from mediamaker.sources.layout_files import read_builtin_layout
from mediamaker.units import GIB, MIB

IDS = identities_from_seed("reset")
CUSTOM = """
table = "gpt"
[[partition]]
role = "system"
[[partition]]
role = "msr"
[[partition]]
role = "windows"
size = "100GiB"
cluster_size = "8KiB"
volume_label = 'W"indöws'
[[partition]]
role = "recovery"
[[partition]]
role = "data"
size = "rest"
attributes = ["hidden"]
volume_label = ""
[[partition]]
role = "data"
size = "512MiB"
file_system = "none"
type_guid = "0fc63daf-8483-4772-8e79-3d69d8477de4"
"""
CUSTOM_MBR = """
table = "mbr"
[[partition]]
role = "windows"
size = "40GiB"
[[partition]]
role = "system"
file_system = "fat32"
[[partition]]
role = "data"
size = "1GiB"
type_code = 0x17
"""
TEXTS = {
    "uefi": read_builtin_layout("uefi"),
    "bios": read_builtin_layout("bios"),
    "custom": CUSTOM,
    "custom-mbr": CUSTOM_MBR,
}
TYPES = {
    "efi": "c12a7328-f81f-11d2-ba4b-00a0c93ec93b",
    "msr": "e3c9e316-0b5c-4db8-817d-f92df00215ae",
    "primary": "ebd0a0a2-b9e5-4433-87c0-68b6b72699c7",
}


def reset_files(text, size=256 * GIB):
    placed = place_disk(load_layout(text, what="x"), Geometry(size), IDS)
    files = build_reset_files(placed)
    assert set(files) == {
        ("Recovery", "OEM", "ResetConfig.xml"),
        ("Recovery", "OEM", "ResetPartitions.txt"),
    }
    script = files["Recovery", "OEM", "ResetPartitions.txt"].decode("ascii")
    assert script.count("\n") == script.count("\r\n")
    return placed, files["Recovery", "OEM", "ResetConfig.xml"], script.splitlines()


def run_script(lines, disk_mib):
    """The partitions that the documented commands make of a disk of so many MiB."""
    is_gpt = lines[1] == "convert gpt"
    partitions, position = [], 1
    for line in lines:
        words = line.split()
        match words:
            case ["rem", *_] | ["list", "volume"] | ["convert", "gpt"]:
                continue
            case ["create", "partition", kind, *rest]:
                size = disk_mib - 1 - position
                if rest:
                    size = int(re.fullmatch(r"size=(\d+)", rest[0])[1])
                type_name = TYPES[kind] if is_gpt else "07"
                partitions.append({"size": size, "type": type_name, "start": position})
                position += size
            case ["shrink", minimum]:
                cut = int(re.fullmatch(r"minimum=(\d+)", minimum)[1])
                partitions[-1]["size"] -= cut
                position -= cut
            case ["format", "quick", *options]:
                assert all(re.fullmatch(r'(fs|unit)=\w+|label="[^"%]*"', item) for item in options)
                partitions[-1] |= dict(item.split("=") for item in options)
                if not is_gpt and partitions[-1]["fs"] == "fat32":
                    partitions[-1]["type"] = "0c"
            case ["assign", letter]:
                partitions[-1]["letter"] = re.fullmatch(r'letter="([A-Z])"', letter)[1]
            case ["active"]:
                partitions[-1]["active"] = True
            case ["set", identity]:
                partitions[-1]["type"] = identity.removeprefix("id=").strip('"')
            case ["gpt", attributes]:
                partitions[-1]["attributes"] = int(attributes.removeprefix("attributes="), 16)
            case _:
                raise AssertionError(line)
    return partitions


@pytest.mark.parametrize("name", TEXTS)
def test_the_script_makes_the_disk_of_the_plan(name):
    placed, _, lines = reset_files(TEXTS[name])
    assert not any(line.split()[0] in {"select", "clean"} for line in lines)
    made = run_script(lines, placed.geometry.size // MIB)
    assert [(item["start"] * MIB, item["size"] * MIB) for item in made] == [
        (partition.start, partition.size) for partition in placed.partitions
    ]
    for item, partition in zip(made, placed.partitions, strict=True):
        spec = partition.spec
        assert item.get("fs") == spec.file_system
        assert item.get("active", False) == spec.is_active
        assert item.get("attributes", 0) == spec.attributes
        if placed.layout.table == "gpt":
            assert UUID(item["type"]) == spec.type_guid
        else:
            assert int(item["type"], 16) == spec.type_code
        wanted = {Role.SYSTEM: "S", Role.WINDOWS: "W", Role.RECOVERY: "R"}.get(spec.role)
        assert item.get("letter") == wanted


def test_recovery_is_made_with_the_documented_commands():
    lines = reset_files(TEXTS["uefi"])[2]
    start = lines.index("rem == 4. recovery ==")
    assert lines[start + 1 : start + 6] == [
        "create partition primary size=1024",
        'format quick fs=ntfs label="Recovery"',
        'assign letter="R"',
        'set id="de94bba4-06d1-4d40-a16a-bfd50179d6ac"',
        "gpt attributes=0x8000000000000001",
    ]
    lines = reset_files(TEXTS["bios"])[2]
    assert lines[-2:] == ["set id=27", "list volume"]


def test_words_that_diskpart_could_misread_are_left_out():
    lines = reset_files(CUSTOM)[2]
    assert 'format quick fs=ntfs label="W_ind_ws" unit=8192' in lines
    assert "format quick fs=ntfs" in lines


@pytest.mark.parametrize(("name", "windows", "recovery"), [("uefi", 3, 4), ("bios", 2, 3)])
def test_the_configuration_names_the_partitions(name, windows, recovery):
    _, config, _ = reset_files(TEXTS[name])
    disk = ET.fromstring(config).find("SystemDisk")
    values = {item.tag: item.text for item in disk}
    assert values["DiskpartScriptPath"] == "ResetPartitions.txt"
    assert values["OSPartition"] == str(windows)
    assert values["WindowsREPartition"] == str(recovery)
    assert values["WindowsREPath"] == "Recovery\\WindowsRE"
    # Required; 20 GB of Windows and what the layout fixes, not this disk's 256 GiB.
    assert 20_000 < int(values["MinSize"]) < 22_000
    assert config.decode("utf-8").startswith('<?xml version="1.0" encoding="utf-8"?>')


def test_a_layout_without_recovery_names_none():
    """Both elements or neither: with one of them nobody could repartition."""
    disk = ET.fromstring(reset_files(CUSTOM_MBR)[1]).find("SystemDisk")
    tags = [item.tag for item in disk]
    assert "WindowsREPartition" not in tags
    assert "WindowsREPath" not in tags
    assert disk.findtext("OSPartition") == "1"
    assert int(disk.findtext("MinSize")) == 40 * 1024 + 100 + 1024 + 2


def test_the_disk_itself_is_never_too_small():
    disk = ET.fromstring(reset_files(TEXTS["uefi"], size=4 * GIB + 512)[1]).find("SystemDisk")
    assert int(disk.findtext("MinSize")) == 4096
