# SPDX-License-Identifier: GPL-3.0-or-later
"""``install`` and ``togo`` onto image files: the disk that comes out, read by foreign programs."""

import hashlib
import json
import subprocess

import pytest

from mediamaker.formats.bcd import parse_store
from mediamaker.formats.bcd_devices import GptPartition, LocateElement, MbrPartition
from mediamaker.formats.reagent import parse_reagent
from mediamaker.formats.regf import Hive, Key, dword_value
from mediamaker.formats.regf_pack import pack_hive
from tests.install.windows_disk_rig import boot_sdi, make_winre
from tests.install.windows_rig import LOADERS, WINRE, boot_contents, make_image, program
from tests.wim.wim_rig import mounted

MIB = 1 << 20
RECOVERY = "de94bba4-06d1-4d40-a16a-bfd50179d6ac"


@pytest.fixture(scope="module")
def image(tmp_path_factory):
    return make_image(tmp_path_factory.mktemp("image"), rich=True)


@pytest.fixture(scope="module")
def second_image(tmp_path_factory):
    """A registry is what a Windows that moves needs."""
    control_set = Key("ControlSet001", subkeys=(Key("Control"), Key("Services")))
    select = Key("Select", values=(dword_value("Current", 1), dword_value("Default", 1)))
    hive = pack_hive(Hive(Key("ROOT", subkeys=(control_set, select))))
    files = boot_contents() | {name: program(name) for name in LOADERS}
    files["Windows/System32/config/SYSTEM"] = hive
    return make_image(tmp_path_factory.mktemp("second"), files=files)


def installed(run, image, target, *words):
    code, events = run.json("install", f"{image}:1", target, "--seed", "t", *words)
    assert code == 0, events
    return events[-1]


def partitions(path):
    shown = subprocess.run(["sfdisk", "--json", path], check=True, capture_output=True).stdout
    return json.loads(shown)["partitiontable"]["partitions"]


def cut(path, start, size, out):
    words = [f"if={path}", f"of={out}", "bs=1M", f"skip={start}", f"count={size}", "conv=sparse"]
    flags = ["iflag=skip_bytes,count_bytes"]
    subprocess.run(["dd", *words, *flags], check=True, capture_output=True)
    return out


def read_fat(path, start, name):
    return subprocess.run(
        ["mtype", "-i", f"{path}@@{start}", f"::{name}"], check=True, capture_output=True
    ).stdout


@pytest.mark.parametrize("sector_size", [512, 4096])
def test_uefi(run, image, tmp_path, sector_size):
    disk = tmp_path / "disk.img"
    result = installed(
        run, image, disk, "--size", "1700MiB", "--sector-size", str(sector_size)
    )  # fmt: skip
    assert result["is_verified"]
    assert result["files_compared"] > 90
    assert result["has_winre"]
    assert result["boots"] == ["UEFI"]
    if sector_size == 512:
        judge = subprocess.run(["sgdisk", "-v", disk], capture_output=True, text=True, check=True)
        assert "No problems found" in judge.stdout
    places = result["disk"]["partitions"]
    system, msr, windows, recovery = places
    assert [item["role"] for item in places] == ["system", "msr", "windows", "recovery"]
    assert recovery["type_guid"] == RECOVERY
    assert recovery["attributes"] == "0x8000000000000001"
    assert recovery["start"] == windows["start"] + windows["size"]
    assert msr["size"] == 16 * MIB
    # The system volume: fsck.fat and mtools.
    esp = cut(disk, system["start"], system["size"], tmp_path / "esp")
    subprocess.run(["fsck.fat", "-n", esp], check=True, capture_output=True)
    manager = boot_contents()["Windows/Boot/EFI/bootmgfw.efi"]
    assert read_fat(disk, system["start"], "EFI/Microsoft/Boot/bootmgfw.efi") == manager
    assert read_fat(disk, system["start"], "EFI/Boot/bootx64.efi") == manager
    store = parse_store(read_fat(disk, system["start"], "EFI/Microsoft/Boot/BCD"), what="BCD")
    devices = {
        element.value
        for item in store.objects
        for element in item.elements
        if isinstance(element.value, GptPartition)
    }
    named = {str(device.partition_guid) for device in devices}
    assert {system["unique_guid"], windows["unique_guid"]} <= named
    # Windows' own volume: ntfsfix and ntfs-3g.
    volume = cut(disk, windows["start"], windows["size"], tmp_path / "windows")
    subprocess.run(["ntfsfix", "-n", volume], check=True, capture_output=True)
    with mounted(volume, tmp_path / "mount") as root:
        assert (root / LOADERS[0]).read_bytes() == program(LOADERS[0])
        assert not (root / WINRE).exists()  # it moved
        reagent = parse_reagent(
            (root / "Windows/System32/Recovery/ReAgent.xml").read_bytes(), what="ReAgent.xml"
        )
    assert reagent.is_enabled
    assert reagent.attribute("WinreLocation", "offset") == str(recovery["start"])
    volume = cut(disk, recovery["start"], recovery["size"], tmp_path / "recovery")
    subprocess.run(["ntfsfix", "-n", volume], check=True, capture_output=True)
    with mounted(volume, tmp_path / "mount") as root:
        assert {path.name for path in (root / "Recovery/WindowsRE").iterdir()} == {
            "Winre.wim", "boot.sdi", "ReAgent.xml",
        }  # fmt: skip


def test_bios(run, image, tmp_path):
    disk = tmp_path / "disk.img"
    result = installed(run, image, disk, "--firmware", "bios", "--size", "1500MiB")
    assert result["boots"] == ["BIOS"]
    system, _windows, recovery = partitions(disk)
    assert system["bootable"] is True
    assert (system["type"], recovery["type"]) == ("7", "27")
    volume = cut(disk, system["start"] * 512, system["size"] * 512, tmp_path / "system")
    subprocess.run(["ntfsfix", "-n", volume], check=True, capture_output=True)
    # The copy of the boot sector is the boot sector, code included.
    with volume.open("rb") as file:
        first = file.read(512)
        file.seek(-512, 2)
        assert file.read() == first
    assert first[0x1C:0x20] == system["start"].to_bytes(4, "little")
    with mounted(volume, tmp_path / "mount") as root:
        assert (root / "bootmgr").read_bytes() == boot_contents()["Windows/Boot/PCAT/bootmgr"]
        store = parse_store((root / "Boot/BCD").read_bytes(), what="BCD")
    offsets = {
        element.value.offset
        for item in store.objects
        for element in item.elements
        if isinstance(element.value, MbrPartition)
    }
    assert system["start"] * 512 in offsets


def test_same_seed_same_store_and_table(run, image, tmp_path):
    heads = []
    for name in ("a", "b"):
        installed(run, image, tmp_path / name, "--size", "1500MiB")
        system = 1 * MIB
        store = read_fat(tmp_path / name, system, "EFI/Microsoft/Boot/BCD")
        with (tmp_path / name).open("rb") as file:
            heads.append((hashlib.sha256(file.read(MIB)).hexdigest(), store))
    assert heads[0] == heads[1]


def test_custom_layout_with_data(run, image, tmp_path):
    layout = tmp_path / "mine.toml"
    layout.write_text(
        'format = 1\nname = "mine"\ntable = "gpt"\n'
        '[[partition]]\nrole = "system"\nsize = "300MiB"\n'
        '[[partition]]\nrole = "msr"\nsize = "16MiB"\n'
        '[[partition]]\nrole = "windows"\nsize = "rest"\n'
        '[[partition]]\nrole = "data"\nsize = "64MiB"\nfile_system = "ntfs"\nname = "Stuff"\n'
        '[[partition]]\nrole = "data"\nsize = "64MiB"\nfile_system = "fat32"\nname = "Share"\n'
    )
    disk = tmp_path / "disk.img"
    result = installed(run, image, disk, "--layout", layout, "--size", "900MiB")
    assert not result["has_winre"]
    assert not result["recovery_entry"]
    places = result["disk"]["partitions"]
    for place, kind in ((places[3], "ntfs"), (places[4], "vfat")):
        shown = subprocess.run(
            ["blkid", "-p", "-O", str(place["start"]), "-S", str(place["size"]), disk],
            check=True, capture_output=True, text=True,
        ).stdout  # fmt: skip
        assert f'TYPE="{kind}"' in shown
    volume = cut(disk, places[2]["start"], places[2]["size"], tmp_path / "windows")
    with mounted(volume, tmp_path / "mount") as root:
        config = (root / "Recovery/OEM/ResetConfig.xml").read_text()
    assert "<OSPartition>3</OSPartition>" in config


def test_togo_names_no_disk(run, second_image, tmp_path):
    disk = tmp_path / "togo.img"
    code, events = run.json("togo", f"{second_image}:1", disk, "--seed", "t", "--size", "800MiB")
    assert code == 0, events
    system, windows = partitions(disk)
    assert system["bootable"] is True
    start = system["start"] * 512
    for path in ("EFI/Microsoft/Boot/BCD", "Boot/BCD"):
        store = parse_store(read_fat(disk, start, path), what=path)
        values = [element.value for item in store.objects for element in item.elements]
        assert any(isinstance(value, LocateElement) for value in values)
        assert not any(isinstance(value, GptPartition | MbrPartition) for value in values)
    volume = cut(disk, windows["start"] * 512, windows["size"] * 512, tmp_path / "windows")
    with mounted(volume, tmp_path / "mount") as root:
        shown = subprocess.run(
            ["hivexget", root / "Windows/System32/config/SYSTEM",
             r"\ControlSet001\Control", "PortableOperatingSystem"],
            check=True, capture_output=True, text=True,
        ).stdout  # fmt: skip
    assert int(shown.strip(), 16) == 1


def test_a_disk_that_moves_gets_no_winre(run, second_image, tmp_path):
    disk = tmp_path / "togo.img"
    code, events = run.json("togo", f"{second_image}:1", disk, "--size", "800MiB", "--no-verify")
    assert code == 0, events
    winre = make_winre(tmp_path)
    sdi = tmp_path / "boot.sdi"
    sdi.write_bytes(boot_sdi())
    words = ("--winre", winre, "--boot-sdi", sdi, "--size", "64MiB", "--dry-run")
    code, events = run.json("recovery", "add", disk, *words)
    assert code == 4, events
    assert "would not start afterwards" in events[-1]["message"]
    assert "Windows To Go" in events[-1]["hint"]


def test_a_dry_run_shows_and_writes_nothing(run, image, tmp_path):
    disk = tmp_path / "disk.img"
    code, out, err = run.text("install", f"{image}:1", disk, "--dry-run", "--seed", "t")
    assert code == 0
    assert "nothing was written" in out
    assert "4 recovery" in err
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    ("words", "code", "message"),
    [
        (("{wim}:7", "{disk}"), 2, "no image"),
        (("{wim}:1", "{disk}", "--size", "200MiB"), 4, "windows at least"),
        (("{wim}:1", "{disk}", "--layout", "nope"), 2, "no layout is called"),
        (("{wim}:1", "{disk}", "--layout", "bios"), 2, "UEFI firmware reads only FAT"),
        (("{wim}:1", "{disk}", "--layout", "uefi", "--firmware", "bios"), 2, "only from an MBR"),
        (("{wim}:1", "{disk}", "--size", "0"), 2, "0 B"),
        (("{wim}:1", "{disk}", "--locale", ""), 2, "not a language"),
        (("{wim}:1", "{disk}", "--undo", "way-back"), 2, "no way back"),
        (("{wim}:1", "{wim}"), 4, "source itself"),
        (("{wim}:1",), 2, "no target"),
        (("{wim}:1", "/dev/nowhere"), 4, "no such device"),
        (("/nowhere.wim:1", "{disk}"), 3, "nowhere.wim"),
    ],
)
def test_bad_input(run, image, tmp_path, words, code, message):
    disk = tmp_path / "disk.img"
    given = [word.format(wim=image, disk=disk) for word in words]
    got, events = run.json("install", *given)
    assert got == code, events
    assert message in events[-1]["message"]
    assert list(tmp_path.iterdir()) == []


def test_what_is_there_is_not_replaced_without_force(run, image, tmp_path):
    disk = tmp_path / "disk.img"
    disk.write_bytes(b"mine")
    code, events = run.json("install", f"{image}:1", disk, "--size", "1500MiB")
    assert code == 4
    assert "--force" in events[-1]["hint"]
    assert disk.read_bytes() == b"mine"


def test_windows_pe_is_not_installed(run, tmp_path):
    pe = make_image(tmp_path, "pe", kind="WindowsPE", edition="WindowsPE")
    code, events = run.json("install", f"{pe}:1", tmp_path / "disk.img")
    assert code == 3
    assert "Windows PE" in events[-1]["message"]


@pytest.mark.parametrize(("mode", "is_there"), [("native", True), ("none", False)])
def test_winre_is_staged_or_nowhere(run, image, tmp_path, mode, is_there):
    disk = tmp_path / "disk.img"
    result = installed(run, image, disk, "--size", "1500MiB", "--winre", mode)
    assert not result["has_winre"]
    windows, recovery = partitions(disk)[2:]
    cut(disk, windows["start"] * 512, windows["size"] * 512, tmp_path / "windows")
    with mounted(tmp_path / "windows", tmp_path / "mount") as root:
        assert (root / "Windows/System32/Recovery/Winre.wim").exists() == is_there
    cut(disk, recovery["start"] * 512, recovery["size"] * 512, tmp_path / "recovery")
    with mounted(tmp_path / "recovery", tmp_path / "mount") as root:
        assert not (root / "Recovery").exists()


def test_winre_without_boot_sdi_is_not_registered_and_that_is_said(run, tmp_path):
    files = {name: data for name, data in boot_contents().items() if "boot.sdi" not in name}
    files |= {name: program(name) for name in LOADERS} | {WINRE: b"winre"}
    bare = make_image(tmp_path, files=files)
    code, events = run.json("install", f"{bare}:1", tmp_path / "disk.img", "--dry-run")
    assert code == 0
    assert not events[-1]["has_winre"]
    said = [event["message"] for event in events if event["event"] == "warning"]
    assert any("no boot.sdi" in message for message in said)


def test_progress_says_what_is_done_with_windows(run, image, tmp_path):
    code, events = run.json("install", f"{image}:1", tmp_path / "disk.img", "--size", "1500MiB")
    assert code == 0
    phases = [event["phase"] for event in events if event["event"] == "progress"]
    order = list(dict.fromkeys(phases))
    assert order[:3] == ["prepare", "apply", "verify"]
    assert phases.index("write") > phases.index("apply")


def test_togo_is_for_the_firmwares_that_the_image_has(run, tmp_path):
    files = {name: data for name, data in boot_contents().items() if "PCAT" not in name}
    files |= {name: program(name) for name in LOADERS}
    bare = make_image(tmp_path, files=files)
    code, events = run.json("togo", f"{bare}:1", tmp_path / "disk.img", "--dry-run")
    assert code == 0, events
    assert events[-1]["firmware"] == ["uefi"]
    said = [event["message"] for event in events if event["event"] == "warning"]
    assert any("bootmgr is not in it" in message for message in said)
    code, events = run.json(
        "togo", f"{bare}:1", tmp_path / "disk.img", "--dry-run", "--firmware", "bios"
    )
    assert code == 3


def test_a_missing_part_is_told_before_anything(run, image, tmp_path):
    parts = tmp_path / "parts"
    parts.mkdir()
    subprocess.run(
        ["wimlib-imagex", "split", image, parts / "install.swm", "0.2"],
        check=True, capture_output=True,
    )  # fmt: skip
    names = sorted(path.name for path in parts.iterdir())
    assert len(names) > 2
    (parts / "install3.swm").unlink()
    code, events = run.json("install", f"{parts / 'install.swm'}:1", tmp_path / "x", "--dry-run")
    assert code == 3
    assert "of which 3 is missing" in events[-1]["message"]
    assert "--part" in events[-1]["hint"]


def test_recovery_check_finds_an_mbr_of_large_sectors(run, image, tmp_path):
    disk = tmp_path / "disk.img"
    installed(
        run, image, disk, "--firmware", "bios", "--sector-size", "4096", "--size", "1500MiB",
        "--no-verify",
    )  # fmt: skip
    _, events = run.json("recovery", "check", disk)
    points = {point["name"]: point for point in events[-1]["points"]}
    assert events[-1]["recovery_number"] == 3, points
