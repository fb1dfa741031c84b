# SPDX-License-Identifier: GPL-3.0-or-later
"""Boot code goes into volumes of other people's formatters, whose checkers then judge them."""

import subprocess
from pathlib import Path

import pytest

from mediamaker.errors import FormatError
from mediamaker.formats.boot_sectors import (
    find_file_system,
    identify_mbr,
    identify_vbr,
    install_boot,
    install_exfat_boot,
    install_fat32_boot,
    install_ntfs_boot,
    measure_boot_area,
    read_start_lba,
    restore_boot,
)
from mediamaker.sources.bootcode import load_our_boot_code
from tests.volumes.exfat_judges import check_exfat_fsck

MIB = 1 << 20
OURS = load_our_boot_code()
MAKERS = {
    "ntfs": ["mkntfs", "-q", "-F", "-Q", "-s", "512", "-p", "0", "-H", "255", "-S", "63"],
    "exfat": ["mkfs.exfat"],
    "fat32": ["mkfs.fat", "-F", "32"],
}
# What describes the volume, by the specifications: BPB and file system information.
KEPT = {
    "ntfs": (slice(3, 0x1C), slice(0x20, 0x54)),
    "exfat": (slice(3, 64), slice(72, 120)),
    "fat32": (slice(3, 0x1C), slice(0x20, 0x5A)),
}
PLACES = [
    ("ntfs", 0x1C, 4),
    ("exfat", 64, 8),
    ("fat32", 0x1C, 4),
]
LBA = 206_848


def make(folder: Path, kind: str) -> Path:
    image = folder / f"{kind}.img"
    with image.open("xb") as file:
        file.truncate(40 * MIB)
    subprocess.run([*MAKERS[kind], image], check=True, capture_output=True)
    return image


@pytest.fixture(scope="module", params=MAKERS)
def volume(request, tmp_path_factory):
    return request.param, make(tmp_path_factory.mktemp(request.param), request.param)


def head_of(image: Path) -> bytes:
    with image.open("rb") as file:
        sector0 = file.read(512)
        file.seek(0)
        return file.read(measure_boot_area(sector0))


def judge(kind: str, image: Path) -> None:
    if kind == "exfat":
        check_exfat_fsck(image, directories=1, files=0)
        return
    checker = {"ntfs": ["ntfsfix", "-n"], "fat32": ["fsck.fat", "-n"]}[kind]
    subprocess.run([*checker, image], check=True, capture_output=True)


def test_formatters_volumes_stay_what_they_are(volume, tmp_path):
    kind, made = volume
    image = tmp_path / "copy.img"
    subprocess.run(["cp", "--sparse=always", made, image], check=True)
    head = head_of(image)
    assert find_file_system(head) == kind
    new = install_boot(head, OURS, start_lba=LBA)
    assert len(new) == len(head)
    for part in KEPT[kind]:
        assert new[part] == head[part]
    ((_, offset, size),) = (place for place in PLACES if place[0] == kind)
    assert int.from_bytes(new[offset : offset + size], "little") == LBA
    assert read_start_lba(new) == LBA
    with image.open("r+b") as file:
        file.write(new)
        if kind == "ntfs":  # the caller's: sector 0 again in the last one
            file.seek(-512, 2)
            file.write(new[:512])
    judge(kind, image)


def test_installing_twice_changes_nothing(volume):
    _, made = volume
    once = install_boot(head_of(made), OURS, start_lba=LBA)
    assert install_boot(once, OURS, start_lba=LBA) == once


def test_restore_gives_back_every_byte(volume):
    _, made = volume
    head = head_of(made)
    assert restore_boot(install_boot(head, OURS, start_lba=LBA), head) == head


def test_restore_keeps_what_the_volume_has_become(volume):
    """A new label or a flag is not boot code's."""
    kind, made = volume
    head = head_of(made)
    changed = bytearray(install_boot(head, OURS, start_lba=LBA))
    at = {"ntfs": 0x15, "exfat": 112, "fat32": 0x47}[kind]  # media, percent in use, label
    changed[at] ^= 1
    restored = restore_boot(bytes(changed), head)
    assert restored[at] == changed[at]
    assert restored[:at] + head[at : at + 1] + restored[at + 1 :] == head


def test_restore_of_another_volume_is_refused(volume):
    kind, made = volume
    head = head_of(made)
    other = bytearray(head)
    other[{"ntfs": 0x48, "exfat": 100, "fat32": 0x43}[kind]] ^= 1
    with pytest.raises(FormatError, match="another volume"):
        restore_boot(bytes(other), head)
    with pytest.raises(FormatError, match="no known file system"):
        restore_boot(bytes(len(head)), head)


def test_owner_of_volume_boot_code(volume):
    kind, made = volume
    head = head_of(made)
    assert identify_vbr(head, ours=OURS).owner == "none"
    new = install_boot(head, OURS, start_lba=LBA)
    found = identify_vbr(new, ours=OURS)
    assert (found.owner, found.loads) == ("mediamaker", "\\BOOTMGR")
    # One byte of stage 2 makes it somebody else's.
    where = {"ntfs": 1000, "exfat": 700, "fat32": 16 * 512 + 100}[kind]
    altered = new[:where] + bytes([new[where] ^ 1]) + new[where + 1 :]
    assert identify_vbr(altered, ours=OURS).owner != "mediamaker"


@pytest.mark.parametrize(
    ("name", "spelled", "loads"),
    [
        ("BOOTMGR", "ascii", "\\BOOTMGR"),
        ("BOOTMGR", "utf-16-le", "\\BOOTMGR"),
        ("NTLDR", "ascii", "\\NTLDR"),
    ],
)
def test_code_that_names_a_loader(name, spelled, loads):
    head = bytearray(b"\x90" * 8192)
    head[3:11] = b"NTFS    "
    head[400:402] = b"xy"
    text = name.encode(spelled)
    head[600 : 600 + len(text)] = text
    found = identify_vbr(bytes(head))
    assert (found.owner, found.loads) == ("windows-like", loads)


@pytest.mark.parametrize(
    ("path", "owner"),
    [
        ("/usr/lib/syslinux/mbr/mbr.bin", "syslinux"),
        ("/usr/lib/syslinux/mbr/gptmbr.bin", "syslinux"),
        ("/usr/lib/grub/i386-pc/boot.img", "grub"),
    ],
)
def test_owner_of_free_mbr_code(path, owner):
    assert identify_mbr(Path(path).read_bytes().ljust(512, b"\0"), ours=OURS).owner == owner


def test_owner_of_mbr_code():
    assert identify_mbr(OURS.mbr + bytes(72), ours=OURS).owner == "mediamaker"
    assert identify_mbr(bytes(512), ours=OURS).owner == "none"
    assert identify_mbr(b"\xfa" * 512, ours=OURS).owner == "unknown"
    words = b"Invalid partition table\0Error loading operating system\0Missing operating system"
    assert identify_mbr(words.ljust(512, b"\x90")).owner == "windows-like"


def test_code_that_hands_back_to_the_firmware_starts_nothing(tmp_path):
    head = bytearray(head_of(make(tmp_path, "fat32")))
    head[0x5A:0x1FE] = b"\xcd\x18\xf4\xeb\xfd".ljust(0x1FE - 0x5A, b"\0")
    assert identify_vbr(bytes(head), ours=OURS).owner == "none"
    head[0x5A] = 0xFA
    assert identify_vbr(bytes(head), ours=OURS).owner == "unknown"


def test_no_boot_code_for_other_volumes():
    assert find_file_system(b"\0" * 510 + b"\x55\xaa") is None
    assert find_file_system(b"short") is None
    assert measure_boot_area(bytes(512)) == 0
    with pytest.raises(FormatError, match="no NTFS, exFAT or FAT32 volume"):
        install_boot(bytes(8192), OURS, start_lba=1)


def test_ntfs_bounds(tmp_path):
    head = head_of(make(tmp_path, "ntfs"))
    with pytest.raises(FormatError, match="expected 8192 bytes, got 512"):
        install_ntfs_boot(head[:512], OURS.ntfs, hidden_sectors=1)
    with pytest.raises(FormatError, match="not an NTFS volume"):
        install_ntfs_boot(bytes(8192), OURS.ntfs, hidden_sectors=1)
    with pytest.raises(FormatError, match="expected 512 to 8192 bytes, got 8704"):
        install_ntfs_boot(head, OURS.ntfs.ljust(8704, b"\0"), hidden_sectors=1)
    with pytest.raises(FormatError, match="55 AA"):
        install_ntfs_boot(head, bytes(1024), hidden_sectors=1)
    with pytest.raises(FormatError, match="4294967295"):
        install_ntfs_boot(head, OURS.ntfs, hidden_sectors=1 << 32)
    whole = install_ntfs_boot(head, OURS.ntfs, hidden_sectors=(1 << 32) - 1)
    assert whole[0x1C:0x20] == b"\xff\xff\xff\xff"


def test_exfat_bounds(tmp_path):
    head = head_of(make(tmp_path, "exfat"))
    with pytest.raises(FormatError, match="expected 12288 bytes"):
        install_exfat_boot(head[:-1], OURS.exfat, partition_offset_lba=1)
    with pytest.raises(FormatError, match="not exFAT"):
        install_exfat_boot(bytes(12288), OURS.exfat, partition_offset_lba=1)
    with pytest.raises(FormatError, match="expected 512 to 4576 bytes"):
        install_exfat_boot(head, OURS.exfat.ljust(4577, b"\0"), partition_offset_lba=1)


def test_fat32_without_room_is_refused(tmp_path):
    image = tmp_path / "small.img"
    with image.open("xb") as file:
        file.truncate(40 * MIB)
    subprocess.run(["mkfs.fat", "-F", "32", "-R", "18", image], check=True, capture_output=True)
    with pytest.raises(FormatError, match="wants sectors 16 to 18") as caught:
        install_fat32_boot(
            head_of(image),
            OURS.fat32_sector0,
            OURS.fat32_stage2,
            stage2_sector_number=OURS.fat32_stage2_sector_number,
            hidden_sectors=1,
        )
    assert "32 reserved sectors" in caught.value.hint


def test_any_field_of_sector_0_may_be_wrong(volume):
    """Nothing but FormatError comes of it, and a check that passes gives what it should."""
    _, made = volume
    head = head_of(made)
    for offset in (*range(120), 510, 511):
        for value in (0x00, 0xFF):
            changed = head[:offset] + bytes((value,)) + head[offset + 1 :]
            size = measure_boot_area(changed)
            assert (size > 0) <= (find_file_system(changed) is not None)
            assert identify_vbr(changed, ours=OURS).owner != "mediamaker"
            for act in (
                lambda: install_boot(changed, OURS, start_lba=LBA),  # noqa: B023 - called at once
                lambda: restore_boot(changed, head),  # noqa: B023 - called at once
            ):
                try:
                    assert len(act()) == len(head)
                except FormatError:
                    continue
