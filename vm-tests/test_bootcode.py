# SPDX-License-Identifier: GPL-3.0-or-later
"""Our MBR and FAT32 boot code under SeaBIOS, and that the stand-ins can say no.

Every disk is made by sfdisk, mkfs.fat and mtools (``bootcode_disk``). A boot counts only with
the token of the very BOOTMGR that this test put there.
"""

from __future__ import annotations

import itertools
import struct
import zlib
from collections.abc import Callable
from pathlib import Path

import pytest
from bootcode_disk import CLUSTER_END, STAGE2_SECTOR, Volume, count_runs, make_disk, patch_disk
from bootcode_qemu import Qemu
from bootcode_rig import (
    CODE_TEXT,
    EBDA_ROOM,
    MIB,
    START_LBA,
    TOKEN,
    VERDICT,
    boot,
    boot_with_failing_reads,
    drive,
    message,
    shim,
)
from standin.programs import build_bootmgr, build_bootx64

from mediamaker.errors import ToolError, UsageError

ENTRY_1 = 0x1BE  # the first partition entry of an MBR


def small_volume(tmp_path: Path, **changes) -> Volume:
    """512-byte clusters: the longest chains in the smallest volume."""
    options = {"size": 40 * MIB, "sectors_per_cluster": 1} | changes
    volume = Volume(tmp_path / "volume.img", **options)
    volume.install_boot_code()
    return volume


# ---- what must boot -------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("sectors_per_cluster", "size"),
    [(1, 40 * MIB), (8, 300 * MIB), (64, 2200 * MIB), (128, 4400 * MIB)],
    ids=["512B", "4KiB", "32KiB", "64KiB"],
)
def test_contiguous_file_boots_whatever_the_cluster_size(
    tmp_path, bootmgr, sectors_per_cluster, size
):
    volume = small_volume(tmp_path, size=size, sectors_per_cluster=sectors_per_cluster)
    volume.copy_in(bootmgr, "/BOOTMGR")
    assert count_runs(volume.file_chain("BOOTMGR")) == 1
    boot(tmp_path, make_disk(tmp_path / "disk.img", volume))


def test_fragmented_file_behind_a_long_fragmented_root_directory_boots(tmp_path, bootmgr):
    volume = small_volume(tmp_path)
    # Single-cluster files, every other one deleted: the free space starts as 1100 holes.
    fillers = tmp_path / "fillers"
    fillers.mkdir()
    for number in range(2200):
        (fillers / f"D{number:04}").write_bytes(b"x")
    volume.mtools("mmd", "::/D")
    volume.mtools("mcopy", *sorted(fillers.iterdir()), "::/D")
    volume.mtools("mdel", "::/D/D???[13579]")
    volume.allocate_from_start()
    for number in range(60):
        (fillers / f"a long name before BOOTMGR {number}").write_bytes(b"y")
    volume.mtools("mcopy", *fillers.glob("a long*"), "::/")
    volume.copy_in(bootmgr, "/BOOTMGR")
    root = volume.root_chain()
    assert len(root) >= 15
    assert count_runs(root) >= 10
    assert count_runs(volume.file_chain("BOOTMGR")) >= 900
    # The entry lies in the last part of the root directory.
    assert volume.root_entry_offset(b"BOOTMGR    ") >= volume.cluster_offset(root[-2])
    boot(tmp_path, make_disk(tmp_path / "disk.img", volume))


def test_reads_suit_a_strict_bios(tmp_path, bootmgr):
    """Contiguous, so that reads would be long; a fragment first, so that they are not aligned."""
    volume = small_volume(tmp_path)
    volume.copy_in(b"h" * 512 * 5, "/HOLE")
    volume.copy_in(b"s", "/STAY")
    volume.mtools("mdel", "::/HOLE")
    volume.allocate_from_start()
    volume.copy_in(bootmgr, "/BOOTMGR")
    assert count_runs(volume.file_chain("BOOTMGR")) == 2
    boot(tmp_path, make_disk(tmp_path / "disk.img", volume), floppy=shim(tmp_path, STRICT=1))


def test_upper_four_bits_of_fat_entries_do_not_count(tmp_path, bootmgr):
    volume = small_volume(tmp_path)
    volume.copy_in(bootmgr, "/BOOTMGR")
    for cluster in volume.root_chain() + volume.file_chain("BOOTMGR"):
        volume.set_fat_entry(cluster, volume.fat_entry(cluster) | 0xA0000000)
    boot(tmp_path, make_disk(tmp_path / "disk.img", volume))


def test_fragments_of_several_clusters_boot(tmp_path, bootmgr):
    volume = small_volume(tmp_path, size=300 * MIB, sectors_per_cluster=8)
    for number in range(40):  # holes of 1, 2, 3 ... clusters
        volume.copy_in(b"h" * 4096 * (number % 7 + 1), f"/HOLE{number}")
        volume.copy_in(b"s", f"/STAY{number}")
    volume.mtools("mdel", "::/HOLE*")
    volume.allocate_from_start()
    volume.copy_in(bootmgr, "/BOOTMGR")
    assert 25 <= count_runs(volume.file_chain("BOOTMGR")) <= 45
    boot(tmp_path, make_disk(tmp_path / "disk.img", volume))


@pytest.mark.parametrize(
    "changes",
    [
        {"fats": 1},
        {"reserved_sectors": 19},
        {"reserved_sectors": 4096},
        {"hidden": 987_654},
    ],
    ids=lambda changes: "-".join(f"{key}-{value}" for key, value in changes.items()),
)
def test_volume_variants_boot(tmp_path, bootmgr, changes):
    volume = small_volume(tmp_path, **changes)
    volume.copy_in(bootmgr, "/bootmgr")  # lower case, as on Windows' own media
    boot(tmp_path, make_disk(tmp_path / "disk.img", volume))


def test_boot_code_survives_a_new_label(tmp_path, bootmgr):
    """mlabel writes 8 sectors where the backup boot sector is one (mtools 4.0.32)."""
    volume = small_volume(tmp_path)
    volume.copy_in(bootmgr, "/BOOTMGR")
    volume.mtools("mlabel", "::WINDOWS")
    boot(tmp_path, make_disk(tmp_path / "disk.img", volume))


def test_active_fat_is_used_when_fats_are_not_mirrored(tmp_path, bootmgr):
    volume = small_volume(tmp_path)
    volume.copy_in(bootmgr, "/BOOTMGR")
    volume.write(0x28, struct.pack("<H", 0x0081))
    volume.wipe_first_fat()
    boot(tmp_path, make_disk(tmp_path / "disk.img", volume))


@pytest.mark.parametrize("start_lba", [1_000_000, 0x9000_0000, 0xFFFF_0000])
def test_high_partitions_boot(tmp_path, bootmgr, start_lba):
    """The last one starts below 2 TiB and ends above: its LBAs need more than 32 bits."""
    volume = small_volume(tmp_path)
    for number in range(3):  # moves BOOTMGR past LBA 2^32 in the last case
        volume.copy_in(bytes(11 * MIB), f"/FILLER{number}")
    volume.copy_in(bootmgr, "/BOOTMGR")
    boot(
        tmp_path,
        make_disk(tmp_path / "disk.img", volume, start_lba=start_lba),
        hidden=start_lba,
    )


def test_active_partition_need_not_be_the_first(tmp_path, bootmgr):
    volume = small_volume(tmp_path)
    volume.copy_in(bootmgr, "/BOOTMGR")
    others = "start=2048, size=2048, type=83\nstart=4096, size=2048, type=7"
    disk = make_disk(tmp_path / "disk.img", volume, start_lba=6144, others=others)
    boot(tmp_path, disk, hidden=6144)


def test_usb_stick_boots(tmp_path, bootmgr):
    volume = small_volume(tmp_path)
    volume.copy_in(bootmgr, "/BOOTMGR")
    disk = make_disk(tmp_path / "disk.img", volume)
    devices = f"if=none,id=stick,format=raw,file={disk}"
    with Qemu(
        tmp_path, devices, devices=["qemu-xhci", "usb-storage,drive=stick,bootindex=0"]
    ) as machine:
        text = machine.wait_serial(VERDICT)
    assert f"BIOS OK token={TOKEN} dl=80 bps=0200 hidden=00000800" in text


def test_4096_byte_sectors_boot(tmp_path, bootmgr):
    volume = small_volume(tmp_path, size=300 * MIB, sector_size=4096)
    for number in range(30):
        volume.copy_in(b"h" * 4096, f"/HOLE{number}")
        volume.copy_in(b"s", f"/STAY{number}")
    volume.mtools("mdel", "::/HOLE*")
    volume.allocate_from_start()
    volume.copy_in(bootmgr, "/BOOTMGR")
    assert count_runs(volume.file_chain("BOOTMGR")) >= 20
    disk = make_disk(tmp_path / "disk.img", volume, start_lba=256)
    boot(tmp_path, disk, hidden=256, bps=4096, floppy=shim(tmp_path, SECTOR_SHIFT=3, STRICT=1))


@pytest.mark.parametrize("si_lba", [0, 77], ids=["implausible-entry", "entry-of-another-place"])
def test_bpb_is_believed_when_the_partition_entry_can_not_be(tmp_path, bootmgr, si_lba):
    volume = small_volume(tmp_path, hidden=START_LBA)
    volume.copy_in(bootmgr, "/BOOTMGR")
    disk = make_disk(tmp_path / "disk.img", volume)
    boot(tmp_path, disk, floppy=shim(tmp_path, FIRST_LBA=START_LBA, SI_LBA=si_lba))


def test_biggest_file_below_the_ebda_boots(tmp_path):
    volume = small_volume(tmp_path)
    volume.copy_in(build_bootmgr(TOKEN, size=EBDA_ROOM), "/BOOTMGR")
    boot(tmp_path, make_disk(tmp_path / "disk.img", volume))


@pytest.mark.parametrize("where", ["vbr", "stage2", "fat", "data"])
@pytest.mark.parametrize("once", [True, False], ids=["once", "always"])
def test_failing_reads_are_tried_again_and_then_said(tmp_path, bootmgr, where, once):
    volume = small_volume(tmp_path)
    volume.copy_in(bootmgr, "/BOOTMGR")
    first = volume.file_chain("BOOTMGR")[0]
    sector = (
        START_LBA
        + {
            "vbr": 0,
            "stage2": STAGE2_SECTOR,
            "fat": volume.fat_entry_offset(first) // 512,
            "data": volume.cluster_offset(first) // 512 + 700,
        }[where]
    )
    disk = make_disk(tmp_path / "disk.img", volume)
    boot_with_failing_reads(tmp_path, disk, sector, once=once)


# ---- what must be refused, with its own message ---------------------------------------------


@pytest.mark.parametrize("stage", ["mbr", "vbr", "stage2"])
def test_messages_wait_for_a_key_and_restart(tmp_path, stage):
    volume = small_volume(tmp_path)
    if stage == "vbr":
        volume.write(STAGE2, bytes(512))
    disk = make_disk(tmp_path / "disk.img", volume)
    if stage == "mbr":
        patch_disk(disk, ENTRY_1, b"\0")
    expected = {"mbr": "No active partition", "vbr": CODE_TEXT, "stage2": "BOOTMGR is missing"}
    message(tmp_path, disk, expected[stage], restart=True)


def _only_a_directory(volume: Volume, bootmgr: bytes) -> None:
    volume.mtools("mmd", "::/BOOTMGR")


def _deleted(volume: Volume, bootmgr: bytes) -> None:
    volume.copy_in(bootmgr, "/BOOTMGR")
    volume.mtools("mdel", "::/BOOTMGR")


def _only_a_label(volume: Volume, bootmgr: bytes) -> None:
    volume.mtools("mlabel", "::BOOTMGR")


def _other_names(volume: Volume, bootmgr: bytes) -> None:
    for name in ("BOOTMGR.EFI", "BOOTMGRX", "BOOTMG", "bootmgr of a long name"):
        volume.copy_in(bootmgr[:1000], f"/{name}")


def _empty(volume: Volume, bootmgr: bytes) -> None:
    volume.copy_in(b"", "/BOOTMGR")


def _too_large(volume: Volume, bootmgr: bytes) -> None:
    volume.copy_in(build_bootmgr(TOKEN, size=EBDA_ROOM + 1), "/BOOTMGR")


def _size_near_4_gib(volume: Volume, bootmgr: bytes) -> None:
    volume.copy_in(bootmgr, "/BOOTMGR")
    volume.write(volume.root_entry_offset(b"BOOTMGR    ") + 28, b"\xff\xff\xff\xff")


def _chain(position: int, value: Callable[[list[int]], int]) -> Callable[[Volume, bytes], None]:
    def damage(volume: Volume, bootmgr: bytes) -> None:
        volume.copy_in(bootmgr, "/BOOTMGR")
        chain = volume.file_chain("BOOTMGR")
        volume.set_fat_entry(chain[position], value(chain))

    return damage


def _leaves_the_volume(*, after_last_cluster: bool) -> Callable[[Volume, bytes], None]:
    """The FAT has entries for more clusters than there are; the chain's end uses one."""

    def damage(volume: Volume, bootmgr: bytes) -> None:
        volume.copy_in(bootmgr, "/BOOTMGR")
        chain = volume.file_chain("BOOTMGR")
        absent = volume.last_cluster + 1
        assert volume.fat_entry_offset(absent + 1) <= volume.fat_entry_offset(0, fat=1)
        volume.set_fat_entry(absent, CLUSTER_END)
        if after_last_cluster:
            volume.set_fat_entry(absent - 1, absent)
            volume.set_fat_entry(chain[-3], absent - 1)
        else:
            volume.set_fat_entry(chain[-2], absent)

    return damage


def _first_cluster(value: int) -> Callable[[Volume, bytes], None]:
    def damage(volume: Volume, bootmgr: bytes) -> None:
        volume.copy_in(bootmgr, "/BOOTMGR")
        entry = volume.root_entry_offset(b"BOOTMGR    ")
        volume.write(entry + 20, struct.pack("<H", value >> 16))
        volume.write(entry + 26, struct.pack("<H", value & 0xFFFF))

    return damage


def _root(*entries: tuple[int, int]) -> Callable[[Volume, bytes], None]:
    """The root directory full to its last entry, and its chain altered."""

    def damage(volume: Volume, bootmgr: bytes) -> None:
        full = b"".join(b"FILLER%02d   \x20" % number + bytes(20) for number in range(16))
        for cluster in {2, *(cluster for cluster, _ in entries)}:
            volume.write(volume.cluster_offset(cluster), full)
        for cluster, value in entries:
            volume.set_fat_entry(cluster, value)

    return damage


def _bytes(offset: int, data: bytes) -> Callable[[Volume, bytes], None]:
    def damage(volume: Volume, bootmgr: bytes) -> None:
        volume.copy_in(bootmgr, "/BOOTMGR")
        volume.write(offset, data)

    return damage


CHAIN_TEXT = "BOOTMGR is damaged: its cluster chain is wrong"
ROOT_TEXT = "Root directory is damaged: its cluster chain is wrong"
LAYOUT_TEXT = "Not a FAT32 volume, or its boot sector is damaged"
STAGE2 = STAGE2_SECTOR * 512

VOLUME_FAULTS = {
    "directory": (_only_a_directory, "BOOTMGR is missing"),
    "deleted": (_deleted, "BOOTMGR is missing"),
    "volume label": (_only_a_label, "BOOTMGR is missing"),
    "other names": (_other_names, "BOOTMGR is missing"),
    "empty": (_empty, "BOOTMGR is empty"),
    "too large by a byte": (_too_large, "BOOTMGR is too large"),
    "size near 4 GiB": (_size_near_4_gib, "BOOTMGR is too large"),
    "chain cut": (_chain(500, lambda _: 0x0FFFFFFF), CHAIN_TEXT),
    "chain short by one": (_chain(-2, lambda _: 0x0FFFFFF8), CHAIN_TEXT),
    "chain loops": (_chain(-1, lambda chain: chain[0]), CHAIN_TEXT),
    "chain loops on itself": (_chain(10, lambda chain: chain[10]), CHAIN_TEXT),
    "bad cluster": (_chain(700, lambda _: 0x0FFFFFF7), CHAIN_TEXT),
    "free cluster": (_chain(0, lambda _: 0), CHAIN_TEXT),
    "cluster 1": (_chain(3, lambda _: 1), CHAIN_TEXT),
    "cluster past the end": (_chain(900, lambda _: 0x00100000), CHAIN_TEXT),
    "chain jumps out of the volume": (_leaves_the_volume(after_last_cluster=False), CHAIN_TEXT),
    "chain runs out of the volume": (_leaves_the_volume(after_last_cluster=True), CHAIN_TEXT),
    "first cluster 0": (_first_cluster(0), CHAIN_TEXT),
    "first cluster past the end": (_first_cluster(0x0ABCDEF0), CHAIN_TEXT),
    "root directory loops": (_root((2, 3), (3, 2)), ROOT_TEXT),
    "root directory leads nowhere": (_root((2, 0)), ROOT_TEXT),
    "root directory full": (_root((2, 0x0FFFFFFF)), "BOOTMGR is missing"),
    "sectors per cluster 3": (_bytes(0x0D, b"\x03"), LAYOUT_TEXT),
    "sectors per cluster 0": (_bytes(0x0D, b"\x00"), LAYOUT_TEXT),
    "FAT16 by its BPB": (_bytes(0x16, b"\x40\x00"), LAYOUT_TEXT),
    "no FAT": (_bytes(0x10, b"\x00"), LAYOUT_TEXT),
    "FAT bigger than the volume": (_bytes(0x24, b"\xff\xff\xff\x00"), LAYOUT_TEXT),
    "active FAT is not there": (_bytes(0x28, b"\x82\x00"), LAYOUT_TEXT),
    "root cluster 0": (_bytes(0x2C, bytes(4)), ROOT_TEXT),
    "bytes per sector 0": (_bytes(0x0B, bytes(2)), CODE_TEXT),
    "stage 2 missing": (_bytes(STAGE2, bytes(1536)), CODE_TEXT),
    "stage 2 without its end": (_bytes(STAGE2 + 1024, bytes(512)), CODE_TEXT),
    "VBR signature missing": (_bytes(510, bytes(2)), "Active partition has no boot sector"),
}


@pytest.mark.parametrize("fault", VOLUME_FAULTS, ids=lambda fault: fault.replace(" ", "-"))
def test_faults_of_the_volume_are_named(tmp_path, bootmgr, fault):
    damage, expected = VOLUME_FAULTS[fault]
    volume = small_volume(tmp_path)
    damage(volume, bootmgr)
    message(tmp_path, make_disk(tmp_path / "disk.img", volume), expected)


def test_cluster_past_the_end_of_the_fat_is_refused(tmp_path, bootmgr):
    """A BPB whose FAT is too short for its clusters: what follows it is not taken for FAT."""
    volume = small_volume(tmp_path)
    volume.copy_in(bytes(16 * MIB), "/FILLER")
    volume.copy_in(bootmgr, "/BOOTMGR")
    data_offset = volume.cluster_offset(2)
    # 32 sectors of FAT hold 4096 clusters; reserved sectors grow so that the data stay put.
    fat_offset = data_offset - 32 * 512
    chain = volume.file_chain("BOOTMGR")
    assert chain[0] >= 4096
    volume.write(0x24, struct.pack("<I", 32))
    volume.write(0x10, b"\x01")
    volume.write(0x0E, struct.pack("<H", fat_offset // 512))
    volume.write(fat_offset, struct.pack("<3I", 0x0FFFFFF8, CLUSTER_END, CLUSTER_END))
    # In FILLER, where a longer FAT would be: the chain, so that only the check can stop it.
    entries = [*chain[1:], CLUSTER_END]
    volume.write(fat_offset + chain[0] * 4, struct.pack(f"<{len(entries)}I", *entries))
    message(tmp_path, make_disk(tmp_path / "disk.img", volume), CHAIN_TEXT)


@pytest.mark.parametrize("si_lba", [0, 77])
def test_neither_entry_nor_bpb_leads_to_stage_2(tmp_path, bootmgr, si_lba):
    volume = small_volume(tmp_path, hidden=50)
    volume.copy_in(bootmgr, "/BOOTMGR")
    disk = make_disk(tmp_path / "disk.img", volume)
    floppy = shim(tmp_path, FIRST_LBA=START_LBA, SI_LBA=si_lba)
    message(tmp_path, disk, CODE_TEXT, floppy=floppy)


TABLE_FAULTS = {
    "none active": ({ENTRY_1: b"\x00"}, "No active partition"),
    "two active": ({ENTRY_1 + 32: b"\x80"}, "More than one active partition"),
    "status byte": ({ENTRY_1 + 48: b"\x7f"}, "Partition table is damaged"),
    "active but unused": ({ENTRY_1 + 4: b"\x00"}, "Partition table is damaged"),
    "active at LBA 0": ({ENTRY_1 + 8: bytes(4)}, "Partition table is damaged"),
    "past the disk": ({ENTRY_1 + 8: b"\x00\x00\x00\xf0"}, "Disk read error"),
}


@pytest.mark.parametrize("fault", TABLE_FAULTS, ids=lambda fault: fault.replace(" ", "-"))
def test_faults_of_the_partition_table_are_named(tmp_path, bootmgr, fault):
    changes, expected = TABLE_FAULTS[fault]
    volume = small_volume(tmp_path)
    volume.copy_in(bootmgr, "/BOOTMGR")
    disk = make_disk(tmp_path / "disk.img", volume)
    for offset, data in changes.items():
        patch_disk(disk, offset, data)
    message(tmp_path, disk, expected)


# ---- the stand-ins can say no ---------------------------------------------------------------


def refusal(tmp_path: Path, disk: Path, expected: str, **options) -> None:
    with Qemu(tmp_path, drive(disk), **options) as machine:
        text = machine.wait_serial(rf"FAIL {expected}")
        # What it does after its last line can't be waited for; a second boot line would be seen.
        assert "BIOS OK" not in text
        assert TOKEN not in machine.serial() + machine.screen()


def _flip(offset: int) -> Callable[[bytes], bytes]:
    return lambda data: data[:offset] + bytes([data[offset] ^ 1]) + data[offset + 1 :]


def _swap_sectors(data: bytes) -> bytes:
    first, second = slice(100 * 512, 101 * 512), slice(101 * 512, 102 * 512)
    changed = bytearray(data)
    changed[first], changed[second] = data[second], data[first]
    return bytes(changed)


@pytest.mark.parametrize(
    "alter",
    [_flip(0x1000), _flip(250_000), _flip(492_999), _swap_sectors],
    ids=["byte-near-the-start", "byte-in-the-middle", "last-byte", "two-sectors-swapped"],
)
def test_altered_bootmgr_gets_no_token(tmp_path, bootmgr, alter):
    volume = small_volume(tmp_path)
    volume.copy_in(alter(bootmgr), "/BOOTMGR")
    disk = make_disk(tmp_path / "disk.img", volume)
    refusal(tmp_path, disk, "checksum of the whole file expected")


HANDOVERS = {
    "as it should be": ({}, None),
    "wrong bytes per sector": ({"SET_BPS": 0x400}, "bytes per sector at 0:7C0B expected 00000200"),
    "no hidden sectors": ({"SET_HIDDEN": 0}, "hidden sectors at 0:7C1C start a partition"),
    "wrong hidden sectors": ({"SET_HIDDEN": 2049}, "hidden sectors at 0:7C1C start a partition"),
    "floppy in dl": ({"PASS_DL": 0}, "dl is a hard disk expected 00000080 got 00000000"),
    "absent disk in dl": ({"PASS_DL": 0x81}, "int 13h 48h status"),
    "a sector short": ({"SECTOR_COUNT": 962}, "checksum of the whole file expected"),
    "another segment": (
        {"LOAD_SEGMENT": 0x1FFF, "LOAD_OFFSET": 16},
        "code segment expected 00002000 got 00001fff",
    ),
}


@pytest.mark.parametrize("handover", HANDOVERS, ids=lambda name: name.replace(" ", "-"))
def test_stand_in_checks_the_handover(tmp_path, bootmgr, handover):
    """A loader that hands over what we tell it to; first row: it can do it right."""
    changes, expected = HANDOVERS[handover]
    volume = small_volume(tmp_path)
    volume.copy_in(bootmgr, "/BOOTMGR")
    chain = volume.file_chain("BOOTMGR")
    assert count_runs(chain) == 1
    good = {
        "FIRST_LBA": START_LBA + volume.cluster_offset(chain[0]) // 512,
        "SECTOR_COUNT": -(-len(bootmgr) // 512),
        "LOAD_SEGMENT": 0x2000,
        "LOAD_OFFSET": 0,
        "SET_BPS": 512,
        "SET_HIDDEN": START_LBA,
    }
    floppy = shim(tmp_path, **(good | changes))
    disk = make_disk(tmp_path / "disk.img", volume)
    if expected is None:
        boot(tmp_path, disk, floppy=floppy)
    else:
        refusal(tmp_path, disk, expected, floppy=floppy)


def test_stand_in_wants_a_boot_sector_in_its_partition(tmp_path, bootmgr):
    volume = small_volume(tmp_path)
    volume.copy_in(bootmgr, "/BOOTMGR")
    disk = make_disk(tmp_path / "disk.img", volume)
    # A second entry leads elsewhere; the loader hands over that one's start.
    patch_disk(disk, ENTRY_1 + 16 + 4, b"\x0c\0\0\0" + struct.pack("<II", 50, 60))
    first = START_LBA + volume.cluster_offset(volume.file_chain("BOOTMGR")[0]) // 512
    floppy = shim(
        tmp_path,
        FIRST_LBA=first,
        SECTOR_COUNT=963,
        LOAD_SEGMENT=0x2000,
        LOAD_OFFSET=0,
        SET_BPS=512,
        SET_HIDDEN=50,
    )
    refusal(tmp_path, disk, "VBR signature expected 0000aa55 got 00000000", floppy=floppy)


# ---- UEFI -----------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def bootx64(tmp_path_factory) -> bytes:
    return build_bootx64(TOKEN, tmp_path_factory.mktemp("bootx64"))


def uefi_disk(tmp_path: Path, program: bytes, files: dict[str, bytes], **written: bytes) -> Path:
    """``files`` are what standin.sum promises, ``written`` what differs on the volume."""
    volume = small_volume(tmp_path)
    volume.mtools("mmd", "::/EFI", "::/EFI/BOOT", "::/sources")
    volume.copy_in(program, "/EFI/BOOT/BOOTX64.EFI")
    lines = [
        f"{zlib.crc32(data):08x} {len(data)} \\{path.replace('/', chr(92))}\n"
        for path, data in files.items()
    ]
    volume.copy_in("".join(lines).encode(), "/standin.sum")
    for path, data in (files | written).items():
        if data is not None:
            volume.copy_in(data, f"/{path}")
    return make_disk(tmp_path / "disk.img", volume)


FILES = {
    "sources/boot.wim": bytes(itertools.islice(itertools.cycle(range(251)), 3 * MIB + 5)),
    "sources/a file with a long name.xml": b"<long/>",
    "empty": b"",
}


def test_uefi_stand_in_says_its_token_when_all_is_there(tmp_path, bootx64):
    disk = uefi_disk(tmp_path, bootx64, FILES, **{"standin.tok": TOKEN.encode() + b"\n"})
    with Qemu(tmp_path, drive(disk), uefi=True) as machine:
        text = machine.wait_serial("STANDIN UEFI (OK|FAIL)", timeout=90)
    assert f"MEDIAMAKER-STANDIN UEFI OK token={TOKEN} files=3" in text


def test_uefi_stand_in_names_every_fault_and_keeps_its_token(tmp_path, bootx64):
    """All faults in one boot: a boot of OVMF takes seconds, and none may hide another."""
    altered = bytearray(FILES["sources/boot.wim"])
    altered[2 * MIB] ^= 1
    program = bootx64 + b"one byte more than it should be"
    promised = FILES | {"missing.txt": b"not there", "last": b"reached"}
    disk = uefi_disk(
        tmp_path,
        program,
        promised,
        **{
            "sources/boot.wim": bytes(altered),
            "empty": b"no longer",
            "missing.txt": None,
            "standin.tok": TOKEN.encode() + b"-old",
            "last": b"REACHED",
        },
    )
    with Qemu(tmp_path, drive(disk), uefi=True) as machine:
        text = machine.wait_serial(r"FAIL CRC-32 of \\last", timeout=90)
    fail = "MEDIAMAKER-STANDIN UEFI FAIL "
    crc = zlib.crc32(FILES["sources/boot.wim"])
    assert fail + "size of \\EFI\\BOOT\\BOOTX64.EFI" in text
    assert fail + f"CRC-32 of \\sources\\boot.wim expected 0x{crc:x}" in text
    assert fail + "size of \\empty expected 0x0 got 0x9" in text
    assert fail + "opening \\missing.txt" in text
    assert fail + "token, first difference at, in \\standin.tok" in text
    assert "long name.xml" not in text
    assert "UEFI OK" not in text
    assert TOKEN not in text


# ---- building the stand-ins -----------------------------------------------------------------


@pytest.mark.parametrize("token", ["", "two words", "x" * 33, "línea"])
def test_tokens_that_would_not_survive_a_console_are_refused(token):
    with pytest.raises(UsageError, match="1 to 32 letters"):
        build_bootmgr(token)


@pytest.mark.parametrize(
    ("build", "hint"),
    [
        (lambda _: build_bootmgr(TOKEN), "apt-get install nasm"),
        (lambda work_dir: build_bootx64(TOKEN, work_dir), "apt-get install gcc"),
    ],
)
def test_missing_build_tool_names_its_package(tmp_path, monkeypatch, build, hint):
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(ToolError, match="is not installed") as caught:
        build(tmp_path)
    assert caught.value.hint == hint


def test_uefi_stand_in_is_an_efi_application(bootx64):
    """PE32+ for x64, subsystem 10, by the offsets of the PE specification."""
    header = struct.unpack_from("<I", bootx64, 0x3C)[0]
    assert bootx64[header : header + 4] == b"PE\0\0"
    assert struct.unpack_from("<H", bootx64, header + 4)[0] == 0x8664
    assert struct.unpack_from("<H", bootx64, header + 24)[0] == 0x20B
    assert struct.unpack_from("<H", bootx64, header + 24 + 68)[0] == 10
