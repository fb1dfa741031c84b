# SPDX-License-Identifier: GPL-3.0-or-later
"""``install --windows P --system P`` into image files: what is asked for changes, nothing else."""

import subprocess

import pytest

from mediamaker.formats.bcd import parse_store
from mediamaker.plan.boot_entries import windows_loaders
from tests.cli.test_install import cut, read_fat
from tests.install.windows_rig import LOADERS, boot_contents, make_image, program
from tests.wim.wim_rig import mounted

MIB = 1 << 20
START = {1: MIB, 2: 120 * MIB, 3: 136 * MIB, 4: 400 * MIB, 5: 410 * MIB}
SIZE = {1: 100 * MIB, 2: 16 * MIB, 3: 260 * MIB, 4: 8 * MIB, 5: 260 * MIB}


@pytest.fixture(scope="module")
def image(tmp_path_factory):
    return make_image(tmp_path_factory.mktemp("parts-image"))


def quiet(*words, **more):
    return subprocess.run(
        [str(word) for word in words], check=True, capture_output=True, **more
    ).stdout


@pytest.fixture(scope="module")
def uefi_disk(tmp_path_factory):
    """An ESP with another system, an MSR, two places for Windows, and somebody's data."""
    path = tmp_path_factory.mktemp("parts-disk") / "uefi.img"
    with path.open("wb") as file:
        file.truncate(680 * MIB)
    types = {1: "ef00", 2: "0c01", 3: "0700", 4: "8300", 5: "0700"}
    words = []
    for number, code in types.items():
        end = (START[number] + SIZE[number]) // 512 - 1
        words += ["-n", f"{number}:{START[number] // 512}:{end}", "-t", f"{number}:{code}"]
    quiet("sgdisk", *words, path)
    quiet("mkfs.fat", "-F", "32", "-s", "1", "--offset", "2048", path, SIZE[1] // 1024)
    quiet("mmd", "-i", f"{path}@@1M", "::/EFI", "::/EFI/other", "::/EFI/Boot")
    quiet("mcopy", "-i", f"{path}@@1M", "-", "::/EFI/other/grub.efi", input=b"other system")
    quiet("mcopy", "-i", f"{path}@@1M", "-", "::/EFI/Boot/bootx64.efi", input=b"its loader")
    with path.open("r+b") as file:
        file.seek(START[4])
        file.write(bytes(range(256)) * 4096)
    return path


@pytest.fixture
def disk(uefi_disk, tmp_path):
    path = tmp_path / "disk.img"
    quiet("cp", uefi_disk, path)
    return path


def parts(run, image, disk, *words, windows=3, system=1):
    return run.json(
        "install", f"{image}:1", "--windows", f"{disk}:{windows}", "--system",
        f"{disk}:{system}", "--seed", "t", *words,
    )  # fmt: skip


def same(one, other, start, size):
    words = ["cmp", "-n", str(size), "-i", str(start), one, other]
    return subprocess.run(words, check=False, capture_output=True).returncode == 0


def test_what_is_not_named_stays(run, image, uefi_disk, disk, tmp_path):
    code, events = parts(run, image, disk)
    assert code == 0, events
    assert events[-1]["is_verified"]
    assert same(disk, uefi_disk, 0, MIB)
    assert same(disk, uefi_disk, START[2], SIZE[2])
    assert same(disk, uefi_disk, START[4], 680 * MIB - START[4])
    assert "No problems found" in quiet("sgdisk", "-v", disk).decode()
    esp = cut(disk, START[1], SIZE[1], tmp_path / "esp")
    quiet("fsck.fat", "-n", esp)
    assert read_fat(disk, MIB, "EFI/other/grub.efi") == b"other system"
    manager = boot_contents()["Windows/Boot/EFI/bootmgfw.efi"]
    assert read_fat(disk, MIB, "EFI/Microsoft/Boot/bootmgfw.efi") == manager
    # Another system's fallback is kept, and that is said.
    assert read_fat(disk, MIB, "EFI/Boot/bootx64.efi") == b"its loader"
    assert any("is kept" in event.get("message", "") for event in events)
    volume = cut(disk, START[3], SIZE[3], tmp_path / "windows")
    quiet("ntfsfix", "-n", volume)
    with mounted(volume, tmp_path / "mount") as root:
        assert (root / LOADERS[0]).read_bytes() == program(LOADERS[0])
    with volume.open("rb") as file:
        file.seek(0x1C)
        assert int.from_bytes(file.read(4), "little") == START[3] // 512


def test_a_second_windows_keeps_the_first_ones_entry_and_undo_takes_it_back(
    run, image, disk, tmp_path, monkeypatch
):
    assert parts(run, image, disk, "--undo", tmp_path / "first.undo")[0] == 0
    before = quiet("sha256sum", cut(disk, START[1], SIZE[1], tmp_path / "esp")).split()[0]
    monkeypatch.chdir(disk.parent)
    code, events = parts(
        run, image, disk.name, "--seed", "other", "--undo", tmp_path / "second.undo", windows=5
    )
    assert code == 0, events
    store = parse_store(read_fat(disk, MIB, "EFI/Microsoft/Boot/BCD"), what="BCD")
    loaders = windows_loaders(store)
    assert len(loaders) == 2
    assert events[-1]["boot_entry"] in {str(item.guid) for item in loaders}
    # The undo file knows its disk from any folder.
    monkeypatch.chdir("/")
    code, out, err = run.text("undo", tmp_path / "second.undo")
    assert code == 0
    assert f"{disk}: is as it was before" in out
    assert "it was formatted" in err
    after = quiet("sha256sum", cut(disk, START[1], SIZE[1], tmp_path / "esp")).split()[0]
    assert after == before


@pytest.mark.parametrize(
    ("change", "words", "numbers", "message"),
    [
        ("data", (), (3, 1), "--erase was not given"),
        ("bitlocker", ("--erase",), (3, 1), "BitLocker"),
        (None, ("--erase",), (4, 1), "not for Windows"),
        (None, ("--erase",), (3, 5), "not an EFI system partition"),
        (None, ("--erase",), (3, 3), "both partition 3"),
        (None, ("--erase",), (9, 1), "no partition 9"),
        (None, ("--firmware", "bios"), (3, 1), "GPT"),
    ],
)
def test_refused(run, image, disk, change, words, numbers, message):
    with disk.open("r+b") as file:
        file.seek(START[3])
        if change == "data":
            file.write(b"something")
        elif change == "bitlocker":
            file.write(b"\xeb\x58\x90-FVE-FS-")
    before = disk.stat().st_mtime_ns
    code, events = parts(run, image, disk, *words, windows=numbers[0], system=numbers[1])
    assert code == 4, events
    assert message in events[-1]["message"]
    assert disk.stat().st_mtime_ns == before


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (("--windows", "{disk}:3"), "belong together"),
        (("--windows", "{disk}:3", "--system", "{disk}"), "neither a partition"),
        (("--windows", "{disk}:3", "--system", "{image}:1"), "two disks"),
        (("{disk}", "--windows", "{disk}:3"), "contradict"),
        (("--windows", "{disk}:3", "--system", "{disk}:1", "--winre", "none"), "--winre none"),
        (("--windows", "{disk}:3", "--system", "{disk}:1", "--force"), "--force is for whole"),
    ],
)
def test_usage(run, image, disk, words, message):
    given = [word.format(disk=disk, image=image) for word in words]
    code, events = run.json("install", f"{image}:1", *given)
    assert code == 2
    assert message in events[-1]["message"]


def test_a_dry_run_changes_nothing(run, image, disk):
    before = disk.stat().st_mtime_ns
    code, out, err = run.text(
        "install", f"{image}:1", "--windows", f"{disk}:3", "--system", f"{disk}:1", "--dry-run"
    )
    assert code == 0
    assert "nothing was written" in out
    assert "FORMATTED" in err
    assert disk.stat().st_mtime_ns == before
    assert not disk.with_name("disk.img.undo").exists()


def test_bios_with_an_ntfs_system_partition(run, image, tmp_path):
    disk = tmp_path / "bios.img"
    with disk.open("wb") as file:
        file.truncate(400 * MIB)
    table = "start=2048,size=204800,type=7,bootable\nstart=206848,size=532480,type=7\n"
    quiet("sfdisk", disk, input=table.encode())
    system = tmp_path / "system"
    with system.open("wb") as file:
        file.truncate(100 * MIB)
    quiet("mkntfs", "-q", "-F", "-p", "2048", system)
    quiet("dd", f"if={system}", f"of={disk}", "bs=1M", "seek=1", "conv=notrunc,sparse")
    code, events = parts(run, image, disk, "--firmware", "bios", "--erase", windows=2)
    assert code == 0, events
    volume = cut(disk, MIB, 100 * MIB, tmp_path / "system-after")
    quiet("ntfsfix", "-n", volume)
    with mounted(volume, tmp_path / "mount") as root:
        assert (root / "bootmgr").read_bytes() == boot_contents()["Windows/Boot/PCAT/bootmgr"]
        store = parse_store((root / "Boot/BCD").read_bytes(), what="BCD")
    assert len(windows_loaders(store)) == 1
