# SPDX-License-Identifier: GPL-3.0-or-later
"""``mediamaker bootsector`` on disks made by sfdisk and other people's formatters."""

import json
import subprocess
from pathlib import Path

import pytest

from mediamaker.cli.main import main
from tests.volumes.exfat_judges import check_exfat_fsck

MIB = 1 << 20
BOOTFILES = Path(__file__).resolve().parents[2] / "bootfiles"
STARTS = {1: 1 * MIB, 2: 6 * MIB, 3: 11 * MIB, 4: 46 * MIB}
SIZES = {1: 4 * MIB, 2: 4 * MIB, 3: 34 * MIB, 4: MIB}
MAKERS = {
    1: ["mkntfs", "-q", "-F", "-Q", "-s", "512", "-p", "2048", "-H", "255", "-S", "63"],
    2: ["mkfs.exfat"],
    3: ["mkfs.fat", "-F", "32"],
}


@pytest.fixture(autouse=True)
def state(tmp_path, monkeypatch):
    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path / "state"))
    return tmp_path / "state" / "mediamaker" / "bootsector"


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    """NTFS, exFAT, FAT32, and a partition that nothing is in."""
    folder = tmp_path_factory.mktemp("made")
    disk = folder / "disk.img"
    with disk.open("xb") as file:
        file.truncate(48 * MIB)
    lines = "label: dos\nlabel-id: 0xdeadbeef\nunit: sectors\n" + "".join(
        f"start={start // 512}, size={SIZES[number] // 512}, type=7"
        f"{', bootable' if number == 1 else ''}\n"
        for number, start in STARTS.items()
    )
    subprocess.run(["sfdisk", "-q", "--no-reread", disk], input=lines, text=True, check=True)
    for number, maker in MAKERS.items():
        volume = folder / f"{number}.img"
        with volume.open("xb") as file:
            file.truncate(SIZES[number])
        subprocess.run([*maker, volume], check=True, capture_output=True)
        with disk.open("r+b") as file:
            file.seek(STARTS[number])
            file.write(volume.read_bytes())
    return disk


@pytest.fixture
def disk(made, tmp_path):
    copy = tmp_path / "disk.img"
    subprocess.run(["cp", "--sparse=always", made, copy], check=True)
    return copy


def volume_of(disk: Path, number: int) -> Path:
    path = disk.with_name(f"volume{number}.img")
    with disk.open("rb") as file:
        file.seek(STARTS[number])
        path.write_bytes(file.read(SIZES[number]))
    return path


def judge(disk: Path, *numbers: int) -> None:
    if 1 in numbers:
        subprocess.run(["ntfsfix", "-n", volume_of(disk, 1)], check=True, capture_output=True)
    if 2 in numbers:
        check_exfat_fsck(volume_of(disk, 2), directories=1, files=0)
    if 3 in numbers:
        subprocess.run(["fsck.fat", "-n", volume_of(disk, 3)], check=True, capture_output=True)


def owners(run, target):
    code, (event,) = run.json("bootsector", "show", target)
    assert code == 0
    return {area["number"]: area["owner"] for area in event["areas"]}


def test_show_before_and_after(run, disk):
    assert owners(run, disk) == {0: "none", 1: "none", 2: "none", 3: "none", 4: "none"}
    words = ["--partition", 1, "--partition", 2, "--partition", 3, "--mbr"]
    code, events = run.json("bootsector", "write", disk, *words)
    assert code == 0
    assert [event["event"] for event in events] == ["warning", "warning", "bootsector-write"]
    assert "partition 2 is not active, partition 1 is" in events[0]["message"]
    assert owners(run, disk) == {
        0: "mediamaker",
        1: "mediamaker",
        2: "mediamaker",
        3: "mediamaker",
        4: "none",
    }
    code, (event,) = run.json("bootsector", "show", disk)
    assert [area["said_start_lba"] for area in event["areas"][1:4]] == [
        STARTS[number] // 512 for number in (1, 2, 3)
    ]
    judge(disk, 1, 2, 3)
    table = subprocess.run(["sfdisk", "-d", disk], capture_output=True, text=True, check=True)
    assert "label-id: 0xdeadbeef" in table.stdout
    assert disk.read_bytes()[:440] == (BOOTFILES / "mbr.bin").read_bytes()


def test_only_what_was_named_changes(run, disk, made):
    assert run.json("bootsector", "write", disk, "--partition", 2)[0] == 0
    before, after = made.read_bytes(), disk.read_bytes()
    region = slice(STARTS[2], STARTS[2] + 24 * 512)
    assert after[region] != before[region]
    assert after[: region.start] + after[region.stop :] == (
        before[: region.start] + before[region.stop :]
    )


def test_restore_gives_back_every_byte(run, disk, made, tmp_path):
    backup = tmp_path / "old.json"
    words = ["--partition", 1, "--partition", 2, "--partition", 3, "--mbr", "--backup", backup]
    assert run.json("bootsector", "write", disk, *words)[0] == 0
    assert disk.read_bytes() != made.read_bytes()
    code, (event,) = run.json("bootsector", "restore", disk, backup)
    assert code == 0
    assert event["areas"] == ["partition 1", "partition 2", "partition 3", "MBR"]
    assert disk.read_bytes() == made.read_bytes()


def test_backup_of_all_restores_after_damage(run, disk, made, tmp_path):
    backup = tmp_path / "old.json"
    code, (event,) = run.json("bootsector", "backup", disk, backup)
    assert code == 0
    assert event["areas"][0] == "MBR"
    with disk.open("r+b") as file:
        file.write(b"\xcc" * 440)
        file.seek(STARTS[1] + 0x54)
        file.write(b"\xcc" * 400)
        file.seek(STARTS[3] + 16 * 512)
        file.write(b"\xcc" * 512)
    saved = json.loads(backup.read_text())
    saved["areas"] = [area for area in saved["areas"] if area["number"] != 4]
    backup.write_text(json.dumps(saved))
    assert run.json("bootsector", "restore", disk, backup)[0] == 0
    assert disk.read_bytes() == made.read_bytes()


def test_default_backup_is_in_the_state_folder(run, disk, state, made):
    code, events = run.json("bootsector", "write", disk, "--mbr")
    assert code == 0
    (backup,) = state.iterdir()
    assert events[-1]["backup"] == str(backup)
    assert events[-1]["changed_size"] == 512
    assert run.json("bootsector", "restore", disk, backup)[0] == 0
    assert disk.read_bytes() == made.read_bytes()


def test_dry_run_touches_nothing(run, disk, made, state):
    code, out, _ = run.text("bootsector", "write", disk, "--partition", 1, "--dry-run")
    assert code == 0
    assert "would change" in out
    assert disk.read_bytes() == made.read_bytes()
    assert not state.exists()


def test_second_write_changes_nothing(run, disk):
    assert run.json("bootsector", "write", disk, "--partition", 1)[0] == 0
    _, events = run.json("bootsector", "write", disk, "--partition", 1)
    assert events[-1]["changed_size"] == 0


@pytest.mark.parametrize("number", [1, 2, 3])
def test_image_of_one_volume(run, disk, number):
    volume = volume_of(disk, number)
    code, events = run.json("bootsector", "write", volume, "--start-lba", 9999)
    assert code == 0
    code, (event,) = run.json("bootsector", "show", volume)
    (area,) = event["areas"]
    assert (area["number"], area["owner"], area["start_lba"]) == (None, "mediamaker", 9999)
    assert run.json("bootsector", "restore", volume, events[-1]["backup"])[0] == 0
    assert volume.read_bytes() == volume_of(disk, number).read_bytes()


def test_loop_device_with_partitions(run, disk):
    """A device in use by a mount is refused; then its partition's own device is written."""
    loop = subprocess.run(
        ["losetup", "--find", "--show", disk], capture_output=True, text=True, check=True
    ).stdout.strip()
    try:
        code, (event,) = run.json("bootsector", "write", loop, "--partition", 1, "--mbr")
        assert code == 0
        assert event["areas"] == ["partition 1", "MBR"]
        assert owners(run, loop)[1] == "mediamaker"
        code, (event,) = run.json("bootsector", "write", disk, "--mbr")
        assert code == 4
        assert loop in event["message"]
    finally:
        subprocess.run(["losetup", "-d", loop], check=True)


def test_gpt_disk(run, disk):
    subprocess.run(["sgdisk", "-g", disk], check=True, capture_output=True)
    code, events = run.json("bootsector", "write", disk, "--partition", 1)
    assert code == 0
    assert "GPT" in events[0]["message"]
    assert owners(run, disk)[1] == "mediamaker"
    subprocess.run(["sgdisk", "-v", disk], check=True, capture_output=True)


REFUSED = {
    "nothing named": (["write", "DISK"], 2, "which boot sector"),
    "no such partition": (["write", "DISK", "--partition", 7], 2, "has 1, 2, 3, 4"),
    "partition 0": (["write", "DISK", "--partition", 0], 2, "numbered from 1"),
    "empty partition": (["write", "DISK", "--partition", 4], 3, "no NTFS, exFAT or FAT32"),
    "start of a disk": (["write", "DISK", "--mbr", "--start-lba", 1], 2, "--start-lba"),
    "partition of a volume": (["write", "VOLUME", "--partition", 1], 2, "one volume"),
    "negative start": (["write", "VOLUME", "--start-lba", "-1"], 2, "no sector"),
    "start over 32 bits": (["write", "VOLUME", "--start-lba", 1 << 32], 3, "4294967295"),
    "sector size": (["show", "DISK", "--sector-size", 100], 2, "--sector-size 100"),
    "no such file": (["show", "ABSENT"], 4, "No such file"),
    "no disk": (["show", "EMPTY"], 3, "holds 3 bytes"),
    "no backup": (["restore", "DISK", "EMPTY"], 3, "not JSON"),
    "absent backup": (["restore", "DISK", "ABSENT"], 3, "No such file"),
    "another JSON": (["restore", "DISK", "JSON"], 3, "expected mediamaker_boot_backup 1"),
    "backup exists": (["backup", "DISK", "EMPTY"], 2, "never overwritten"),
}


@pytest.mark.parametrize("case", REFUSED)
def test_refused(run, disk, tmp_path, case):
    words, expected, said = REFUSED[case]
    (tmp_path / "empty").write_bytes(b"abc")
    (tmp_path / "json").write_text("{}")
    places = {
        "DISK": disk,
        "VOLUME": volume_of(disk, 1),
        "EMPTY": tmp_path / "empty",
        "ABSENT": tmp_path / "absent",
        "JSON": tmp_path / "json",
    }
    before = disk.read_bytes()
    code, events = run.json("bootsector", *(places.get(word, word) for word in words))
    assert code == expected
    assert said in f"{events[-1]['message']} {events[-1]['hint']}"
    assert disk.read_bytes() == before


def _alter(change):
    def alter(backup: Path, disk: Path) -> None:
        saved = json.loads(backup.read_text())
        change(saved)
        backup.write_text(json.dumps(saved))

    return alter


def _write(offset: int, data: bytes):
    def write(backup: Path, disk: Path) -> None:
        with disk.open("r+b") as file:
            file.seek(offset)
            file.write(data)

    return write


DOUBTS = {
    "other serial": (_write(STARTS[1] + 0x48, b"\xff"), 4, "another volume"),
    "other disk signature": (_write(0x1B8, b"\xff"), 4, "another disk signature"),
    "volume gone": (_write(STARTS[1], bytes(512)), 4, "holds no NTFS"),
    "partition moved": (_write(0x1BE + 8, b"\0\x10"), 4, "is not there"),
    "bytes altered": (
        _alter(lambda saved: saved["areas"][0]["pieces"][0].update(base64="AAAA")),
        3,
        "not what their sum says",
    ),
    "no pieces": (_alter(lambda saved: saved["areas"][0].update(pieces=[])), 3, "damaged"),
    "no areas": (_alter(lambda saved: saved.pop("areas")), 3, "damaged"),
    "offset of words": (
        _alter(lambda saved: saved["areas"][0]["pieces"][0].update(offset="x")),
        3,
        "damaged",
    ),
}


@pytest.mark.parametrize("case", DOUBTS)
def test_backup_of_something_else_is_refused(run, disk, tmp_path, case):
    doubt, expected, said = DOUBTS[case]
    backup = tmp_path / "old.json"
    words = ["--partition", 1, "--mbr", "--backup", backup]
    assert run.json("bootsector", "write", disk, *words)[0] == 0
    doubt(backup, disk)
    before = disk.read_bytes()
    code, events = run.json("bootsector", "restore", disk, backup)
    assert code == expected
    assert said in events[-1]["message"]
    assert disk.read_bytes() == before


def test_help_names_every_sub_verb(capsys):
    with pytest.raises(SystemExit):
        main(["bootsector", "--help"])
    said = capsys.readouterr().out
    assert all(f"    {verb} " in said for verb in ("show", "write", "backup", "restore"))
