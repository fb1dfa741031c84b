# SPDX-License-Identifier: GPL-3.0-or-later
"""Our exFAT boot code under SeaBIOS.

Volumes are made by mkfs.exfat or by us, and filled by ``bootcode_exfat_disk``. A boot counts only
with the token of the very BOOTMGR that this test put there.
"""

from __future__ import annotations

import struct
from collections.abc import Callable
from pathlib import Path

import pytest
from bootcode_exfat_disk import ARCHIVE, DIRECTORY, END, ExfatVolume
from bootcode_rig import (
    CODE_TEXT,
    EBDA_ROOM,
    MIB,
    START_LBA,
    TOKEN,
    boot_volume,
    boot_with_failing_reads,
    build_with_zero_end,
    disk_of,
    message,
    shim,
)
from standin.programs import build_bootmgr

from mediamaker.sources.bootcode import load_exfat_boot_code

CHAIN_TEXT = "BOOTMGR is damaged: its cluster chain is wrong"
ROOT_TEXT = "Root directory is damaged: its cluster chain is wrong"
LAYOUT_TEXT = "Not an exFAT volume, or its boot sector is damaged"


def exfat(tmp_path: Path, **changes) -> ExfatVolume:
    volume = ExfatVolume(tmp_path / "volume.img", **changes)
    volume.install_boot_code()
    return volume


# ---- what must boot -------------------------------------------------------------------------


@pytest.mark.parametrize("is_ours", [False, True], ids=["mkfs.exfat", "ours"])
@pytest.mark.parametrize("is_contiguous", [False, True], ids=["chain", "contiguous"])
@pytest.mark.parametrize("cluster_size", [512, 4096, 131072])
def test_file_in_one_piece_boots(tmp_path, bootmgr, is_ours, is_contiguous, cluster_size):
    volume = exfat(tmp_path, size=24 * MIB, cluster_size=cluster_size, is_ours=is_ours)
    volume.add_file("bootmgr", bootmgr, is_contiguous=is_contiguous)
    volume.check(bootmgr)
    boot_volume(tmp_path, volume)


def test_chain_of_a_contiguous_file_does_not_count(tmp_path, bootmgr):
    volume = exfat(tmp_path)
    clusters = volume.add_file("bootmgr", bootmgr, is_contiguous=True)
    for cluster in clusters:
        volume.set_fat_entry(cluster, 0x12345)
    boot_volume(tmp_path, volume)


@pytest.mark.parametrize(("cluster_size", "piece"), [(512, 1), (4096, 3)])
def test_scattered_file_boots(tmp_path, bootmgr, cluster_size, piece):
    volume = exfat(tmp_path, cluster_size=cluster_size)
    free = volume.free_clusters()
    pieces = [free[at : at + piece] for at in range(0, len(free), piece + 1)]
    count = -(-len(bootmgr) // cluster_size // piece) + 1
    order = [pieces[i // 2] if i % 2 else pieces[count - i // 2] for i in range(count)]
    volume.add_file("bootmgr", bootmgr, [cluster for part in order for cluster in part])
    volume.check(bootmgr)
    boot_volume(tmp_path, volume)


@pytest.mark.parametrize("name", ["BOOTMGR", "bootmgr", "BootMgr"])
def test_name_in_any_case(tmp_path, bootmgr, name):
    volume = exfat(tmp_path)
    volume.add_file(name, bootmgr)
    volume.check(bootmgr, name)
    boot_volume(tmp_path, volume)


def test_end_of_a_long_scattered_root_directory(tmp_path, bootmgr):
    """The set of entries crosses from one cluster into another."""
    volume = exfat(tmp_path, cluster_size=512)
    for index in range(60):
        volume.add_file(f"a long name before BOOTMGR {index} {'x' * (index % 20)}", b"x")
    volume.add_file("bootmgr.efi", bootmgr[:999])
    volume.add_file("bootmg", bootmgr[:999])
    while (volume.root_end() or 0) % 512 != 448:
        volume.add_file(f"fill {len(volume.chain(volume.root))}-{volume.files}", b"")
    volume.add_file("bootmgr", bootmgr)
    assert len(volume.chain(volume.root)) >= 15
    volume.check(bootmgr, is_one_piece=True)
    boot_volume(tmp_path, volume)


def test_entries_that_are_not_in_use_are_passed_over(tmp_path, bootmgr):
    volume = exfat(tmp_path)
    volume.add_file("BOOTMGR", b"deleted")
    for kind in (0x85, 0xC0, 0xC1):
        volume.write(volume.entry_offset(kind), bytes((kind & 0x7F,)))
    volume.add_file("bootmgr", bootmgr)
    boot_volume(tmp_path, volume)


def test_what_was_never_written_is_zero(tmp_path, bootmgr):
    """ValidDataLength is below DataLength, and the clusters hold dirt."""
    whole = build_bootmgr(TOKEN, size=len(bootmgr))
    zeros = 200_001
    cut = build_with_zero_end(whole, zeros)
    volume = exfat(tmp_path)
    dirty = cut[:-zeros] + b"\xaa" * zeros
    volume.add_file("bootmgr", dirty, written=len(whole) - zeros)
    boot_volume(tmp_path, volume)


def test_second_fat_is_used_when_it_is_the_active_one(tmp_path, bootmgr):
    """TexFAT: NumberOfFats 2 and ActiveFat set. The first FAT is wiped."""
    volume = exfat(tmp_path)
    volume.add_file("bootmgr", bootmgr, volume.free_clusters()[::2])
    fat, length = struct.unpack("<II", volume.read(80, 8))
    gap = struct.unpack("<I", volume.read(88, 4))[0] - fat
    assert gap >= 2 * length
    table = volume.read(fat * 512, length * 512)
    volume.write((fat + length) * 512, table)
    volume.write(fat * 512, bytes(len(table)))
    volume.write(106, b"\1")
    volume.write(110, b"\2")
    boot_volume(tmp_path, volume)


@pytest.mark.parametrize("start_lba", [1_000_000, 0xFFFF_F000])
def test_high_partitions_boot(tmp_path, bootmgr, start_lba):
    """The last one starts below 2 TiB and ends above: its LBAs need more than 32 bits."""
    volume = exfat(tmp_path, size=8 * MIB)
    volume.add_file("bootmgr", bootmgr, volume.free_clusters()[-200:])
    boot_volume(tmp_path, volume, start_lba=start_lba)


def test_reads_suit_a_strict_bios(tmp_path, bootmgr):
    volume = exfat(tmp_path, cluster_size=512)
    free = volume.free_clusters()
    volume.add_file("bootmgr", bootmgr, [*free[:5], *free[8:]])
    boot_volume(tmp_path, volume, floppy=shim(tmp_path, STRICT=1))


@pytest.mark.parametrize("is_contiguous", [False, True], ids=["chain", "contiguous"])
def test_4096_byte_sectors_boot(tmp_path, bootmgr, is_contiguous):
    volume = exfat(tmp_path, size=24 * MIB, sector_size=4096)
    volume.add_file("bootmgr", bootmgr, is_contiguous=is_contiguous)
    boot_volume(
        tmp_path,
        volume,
        start_lba=256,
        bps=4096,
        floppy=shim(tmp_path, SECTOR_SHIFT=3, STRICT=1),
    )


@pytest.mark.parametrize("si_lba", [0, 77], ids=["implausible-entry", "entry-of-another-place"])
def test_field_is_believed_when_the_partition_entry_can_not_be(tmp_path, bootmgr, si_lba):
    volume = exfat(tmp_path, partition_offset=START_LBA)
    volume.add_file("bootmgr", bootmgr)
    boot_volume(tmp_path, volume, floppy=shim(tmp_path, FIRST_LBA=START_LBA, SI_LBA=si_lba))


def test_biggest_file_below_the_ebda_boots(tmp_path):
    volume = exfat(tmp_path)
    volume.add_file("bootmgr", build_bootmgr(TOKEN, size=EBDA_ROOM))
    boot_volume(tmp_path, volume)


@pytest.mark.parametrize("where", ["stage2", "fat", "root", "data"])
@pytest.mark.parametrize("once", [True, False], ids=["once", "always"])
def test_failing_reads_are_tried_again_and_then_said(tmp_path, bootmgr, where, once):
    volume = exfat(tmp_path)
    clusters = volume.add_file("bootmgr", bootmgr, volume.free_clusters()[1:])
    offset = {
        "stage2": 512,
        "fat": volume.fat_offset + clusters[0] * 4,
        "root": volume.cluster_offset(volume.root),
        "data": volume.cluster_offset(clusters[70]),
    }[where]
    disk = disk_of(tmp_path, volume)
    boot_with_failing_reads(tmp_path, disk, START_LBA + offset // 512, once=once)


# ---- what must be refused, with its own message ---------------------------------------------

Damage = Callable[[ExfatVolume, bytes], None]


def _no_files(volume: ExfatVolume, bootmgr: bytes) -> None:
    """As it was formatted."""


def _other_names(volume: ExfatVolume, bootmgr: bytes) -> None:
    for name in ("BOOTMGR.EFI", "BOOTMGRX", "BOOTMG", "BOOT MGR", "bootmgr of a long name"):
        volume.add_file(name, bootmgr[:1000])


def _folder(volume: ExfatVolume, bootmgr: bytes) -> None:
    volume.add_file("bootmgr", bytes(4096), attributes=DIRECTORY)


def _deleted(volume: ExfatVolume, bootmgr: bytes) -> None:
    volume.add_file("bootmgr", bootmgr)
    for kind in (0x85, 0xC0, 0xC1):
        volume.write(volume.entry_offset(kind), bytes((kind & 0x7F,)))


def _file(data: bytes | None, **options: object) -> Damage:
    def damage(volume: ExfatVolume, bootmgr: bytes) -> None:
        volume.add_file("bootmgr", bootmgr if data is None else data, **options)

    return damage


def _stream(offset: int, data: bytes, *, is_contiguous: bool = False) -> Damage:
    """In the stream's entry."""

    def damage(volume: ExfatVolume, bootmgr: bytes) -> None:
        volume.add_file("bootmgr", bootmgr, is_contiguous=is_contiguous)
        volume.write(volume.entry_offset(0xC0) + offset, data)

    return damage


def _chain(position: int, value: Callable[[list[int]], int]) -> Damage:
    def damage(volume: ExfatVolume, bootmgr: bytes) -> None:
        clusters = volume.add_file("bootmgr", bootmgr, volume.free_clusters()[::2])
        volume.set_fat_entry(clusters[position], value(clusters))

    return damage


def _root(value: int, *, is_full: bool = True) -> Damage:
    def damage(volume: ExfatVolume, bootmgr: bytes) -> None:
        if is_full:
            full = (b"\x05" + bytes(31)) * (volume.cluster_size // 32)
            volume.write(volume.cluster_offset(volume.root), full)
        volume.set_fat_entry(volume.root, volume.root if value == -1 else value)

    return damage


def _root_of_three(volume: ExfatVolume, bootmgr: bytes) -> None:
    """Root, a cluster, three that lead in a circle."""
    clusters = [volume.root, *volume.free_clusters()[:4]]
    for cluster, following in zip(clusters, [*clusters[1:], clusters[2]], strict=True):
        full = (b"\x05" + bytes(31)) * (volume.cluster_size // 32)
        volume.write(volume.cluster_offset(cluster), full)
        volume.set_fat_entry(cluster, following)


def _bytes(offset: int, data: bytes) -> Damage:
    def damage(volume: ExfatVolume, bootmgr: bytes) -> None:
        volume.add_file("bootmgr", bootmgr)
        volume.write(offset, data)

    return damage


def _second_fat_that_is_not_there(volume: ExfatVolume, bootmgr: bytes) -> None:
    volume.add_file("bootmgr", bootmgr)
    volume.write(106, b"\1")


LAST_CLUSTERS = struct.pack("<I", 1000)
VOLUME_FAULTS: dict[str, tuple[Damage, str]] = {
    "no files": (_no_files, "BOOTMGR is missing"),
    "other names": (_other_names, "BOOTMGR is missing"),
    "folder": (_folder, "BOOTMGR is missing"),
    "deleted": (_deleted, "BOOTMGR is missing"),
    "empty": (_file(b""), "BOOTMGR is empty"),
    "too large by a byte": (_file(bytes(EBDA_ROOM + 1)), "BOOTMGR is too large"),
    "size over 4 GiB": (_stream(28, b"\1"), "BOOTMGR is too large"),
    "first cluster 0": (_stream(20, bytes(4)), CHAIN_TEXT),
    "first cluster past the end": (_stream(20, b"\xff\xff\xff\x7f"), CHAIN_TEXT),
    "contiguous past the end": (_stream(20, LAST_CLUSTERS, is_contiguous=True), CHAIN_TEXT),
    "chain cut": (_chain(50, lambda _: END), CHAIN_TEXT),
    "chain too long": (_chain(-1, lambda chain: chain[-1] + 1), CHAIN_TEXT),
    "chain loops": (_chain(-1, lambda chain: chain[0]), CHAIN_TEXT),
    "bad cluster": (_chain(70, lambda _: 0xFFFFFFF7), CHAIN_TEXT),
    "free cluster": (_chain(0, lambda _: 0), CHAIN_TEXT),
    "cluster 1": (_chain(3, lambda _: 1), CHAIN_TEXT),
    "cluster past the end": (_chain(90, lambda _: 0x00100000), CHAIN_TEXT),
    "root directory loops": (_root(-1), ROOT_TEXT),
    "root directory loops over three": (_root_of_three, ROOT_TEXT),
    "root directory leads nowhere": (_root(0), ROOT_TEXT),
    "root directory full": (_root(END), "BOOTMGR is missing"),
    "root cluster 0": (_bytes(96, bytes(4)), ROOT_TEXT),
    "no clusters": (_bytes(92, bytes(4)), LAYOUT_TEXT),
    "no FAT": (_bytes(84, bytes(4)), LAYOUT_TEXT),
    "FAT at sector 0": (_bytes(80, bytes(4)), LAYOUT_TEXT),
    "cluster shift": (_bytes(109, b"\x11"), LAYOUT_TEXT),
    "cluster shift 255": (_bytes(109, b"\xff"), LAYOUT_TEXT),
    "second FAT is not there": (_second_fat_that_is_not_there, LAYOUT_TEXT),
    "sector shift 8": (_bytes(108, b"\x08"), CODE_TEXT),
    "sector shift 13": (_bytes(108, b"\x0d"), CODE_TEXT),
    "stage 2 missing": (_bytes(512, bytes(508)), CODE_TEXT),
    "stage 2 without its end": (_bytes(3 * 512, bytes(508)), CODE_TEXT),
    "VBR signature missing": (_bytes(510, bytes(2)), "Active partition has no boot sector"),
}


@pytest.mark.parametrize("fault", VOLUME_FAULTS, ids=lambda fault: fault.replace(" ", "-"))
def test_faults_of_the_volume_are_named(tmp_path, bootmgr, fault):
    damage, expected = VOLUME_FAULTS[fault]
    volume = exfat(tmp_path)
    assert volume.cluster_count < 1000 + len(bootmgr) // 4096
    damage(volume, bootmgr)
    message(tmp_path, disk_of(tmp_path, volume), expected)


def test_stage2_ends_in_its_third_sector():
    """What ``stage 2 without its end`` relies on."""
    assert 2 * 508 < len(load_exfat_boot_code()) - 512 <= 3 * 508


def test_messages_wait_for_a_key_and_restart(tmp_path):
    volume = exfat(tmp_path)
    volume.add_file("other", b"x", attributes=ARCHIVE)
    message(tmp_path, disk_of(tmp_path, volume), "BOOTMGR is missing", restart=True)
