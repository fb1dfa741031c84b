# SPDX-License-Identifier: GPL-3.0-or-later
"""Our NTFS boot code under SeaBIOS.

Volumes are made by mkntfs and filled through ntfs-3g, see ``bootcode_ntfs_disk``. A boot counts
only with the token of the very BOOTMGR that this test put there.
"""

from __future__ import annotations

import os
import struct
import subprocess
from collections.abc import Callable
from pathlib import Path

import pytest
from bootcode_ntfs_disk import ALLOCATION, DATA, MFT, ROOT, NtfsVolume
from bootcode_qemu import Qemu
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
    drive,
    message,
    shim,
)
from standin.programs import build_bootmgr

LAYOUT_TEXT = "Not an NTFS volume, or its boot sector is damaged"
MFT_TEXT = "File table of this volume is damaged"
ROOT_TEXT = "Root directory is damaged"
FILE_TEXT = "BOOTMGR is damaged: its file record or its runs are wrong"
COMPRESSED = 0x00000800


def ntfs(tmp_path: Path, **changes) -> NtfsVolume:
    volume = NtfsVolume(tmp_path / "volume.img", **changes)
    volume.install_boot_code()
    return volume


# ---- what must boot -------------------------------------------------------------------------


@pytest.mark.parametrize("cluster_size", [512, 1024, 4096, 65536, 2 * MIB])
def test_file_boots_whatever_the_cluster_size(tmp_path, bootmgr, cluster_size):
    volume = ntfs(tmp_path, size=40 * MIB, cluster_size=cluster_size)
    volume.copy_in(bootmgr)
    volume.check(bootmgr)
    boot_volume(tmp_path, volume)


@pytest.mark.parametrize("name", ["bootmgr", "BOOTMGR", "BootMgr"])
@pytest.mark.parametrize("tool", ["ntfs-3g", "ntfscp"])
def test_name_in_any_case(tmp_path, bootmgr, name, tool):
    volume = ntfs(tmp_path)
    if tool == "ntfs-3g":
        volume.copy_in(bootmgr, name)
    else:
        source = tmp_path / "source"
        source.write_bytes(bootmgr)
        subprocess.run(["ntfscp", "-q", volume.path, source, name], check=True)
    boot_volume(tmp_path, volume)


@pytest.mark.parametrize(
    ("cluster_size", "run_clusters", "records", "is_list_outside"),
    [
        (4096, 1, 1, False),
        (4096, 3, 2, False),
        (512, 1, 7, False),
        (512, 1, 7, True),
        (512, 2, 4, True),
    ],
)
def test_scattered_file_boots(
    tmp_path, bootmgr, cluster_size, run_clusters, records, is_list_outside
):
    volume = ntfs(tmp_path, cluster_size=cluster_size)
    number = volume.copy_in(bootmgr)
    leave_free_records(volume)
    volume.scatter(
        number, run_clusters=run_clusters, records=records, is_list_outside=is_list_outside
    )
    volume.check(bootmgr)
    assert volume.info(number).count("ATTRIBUTE_LIST") == (records > 1)
    boot_volume(tmp_path, volume)


def leave_free_records(volume: NtfsVolume, count: int = 40) -> None:
    with volume.mounted() as place:
        for index in range(count):
            (place / f"spare {index}").write_bytes(b"x")
        for index in range(count):
            (place / f"spare {index}").unlink()


@pytest.mark.parametrize(
    ("cluster_size", "records", "is_list_outside"),
    [(4096, 1, False), (4096, 3, False), (1024, 4, True), (512, 6, False)],
    ids=["one-record", "list", "list-outside", "records-across-runs"],
)
def test_scattered_file_table_boots(tmp_path, bootmgr, cluster_size, records, is_list_outside):
    """BOOTMGR's record comes last: in the last run."""
    volume = ntfs(tmp_path, cluster_size=cluster_size)
    leave_free_records(volume, 10)
    with volume.mounted() as place:
        (place / "folder").mkdir()
        for index in range(150):
            (place / "folder" / f"file {index}").write_bytes(b"resident")
    number = volume.copy_in(bootmgr)
    assert number > 150
    with volume.mounted() as place:
        for index in range(10):
            (place / "folder" / f"file {index}").unlink()
    volume.scatter(MFT, records=records, is_list_outside=is_list_outside)
    volume.check(bootmgr)
    assert volume.info(MFT).count("ATTRIBUTE_LIST") == (records > 1)
    boot_volume(tmp_path, volume)


@pytest.mark.parametrize(
    ("file_count", "cluster_size", "records"),
    [(60, 4096, 0), (3000, 4096, 0), (400, 65536, 0), (400, 512, 0), (400, 512, 2)],
    ids=["one-block", "three-levels", "blocks-in-clusters", "clusters-in-blocks", "scattered"],
)
def test_big_root_directory_boots(tmp_path, bootmgr, file_count, cluster_size, records):
    volume = ntfs(
        tmp_path, size=(40 if cluster_size > 4096 else 12) * MIB, cluster_size=cluster_size
    )
    with volume.mounted() as place:
        for index in range(file_count):
            (place / f"{'abcxyzüЖ'[index % 8]} file of the root {index}").touch()
        # Neighbours in the order of the tree.
        for name in ("bootmg", "bootmgr.efi", "BOOTMGRX", "bootmgq", "bootmgs", "boot", "BOOTNXT"):
            (place / name).touch()
        (place / "bootmgr").write_bytes(bootmgr)
    leave_free_records(volume)
    if records:
        volume.scatter(ROOT, ALLOCATION, records=records)
    volume.check(bootmgr)
    assert "INDEX_ALLOCATION" in volume.info(ROOT)
    boot_volume(tmp_path, volume)


def test_folder_of_that_name_is_passed_over(tmp_path, bootmgr):
    """ntfs-3g has names that differ in case only, as POSIX does."""
    volume = ntfs(tmp_path)
    with volume.mounted() as place:
        (place / "BOOTMGR").mkdir()
        (place / "bootmgr").write_bytes(bootmgr)
    boot_volume(tmp_path, volume)


TINY = """
        bits 16
        db 0xE9
        dw main - ($ + 2)
text    db "MEDIAMAKER-STANDIN BIOS OK token=TINY", 13, 10, 0
main:
        mov si, text
.next:
        cs lodsb
        test al, al
        jz $
        mov dx, 0x3F8
        out dx, al
        jmp .next
"""


def test_resident_file_boots(tmp_path):
    source, program = tmp_path / "tiny.asm", tmp_path / "tiny"
    source.write_text(TINY)
    subprocess.run(["nasm", "-f", "bin", "-o", program, source], check=True)
    volume = ntfs(tmp_path)
    number = volume.copy_in(program.read_bytes())
    assert volume.info(number).count("Resident: \t\t No") == 0
    with Qemu(tmp_path, drive(disk_of(tmp_path, volume))) as machine:
        machine.wait_serial("BIOS OK token=TINY")


def test_what_was_never_written_is_zero(tmp_path):
    """The end of the file is allocated and past its initialised size; the clusters hold dirt."""
    data = build_bootmgr(TOKEN)
    volume = ntfs(tmp_path)
    zeros = len(data) // 3
    whole = build_with_zero_end(data, zeros)
    number = volume.copy_in(whole)
    (first, count), *_ = volume.runs(number, DATA)
    at = len(whole) - zeros
    volume.write(first * 4096 + at, b"\xaa" * (count * 4096 - at))
    where = volume.attribute_offset(number, DATA)
    volume.write(where + 0x38, struct.pack("<Q", at))
    volume.check(whole)
    boot_volume(tmp_path, volume)


def test_biggest_file_below_the_ebda_boots(tmp_path):
    volume = ntfs(tmp_path)
    volume.copy_in(build_bootmgr(TOKEN, size=EBDA_ROOM))
    boot_volume(tmp_path, volume)


def test_reads_suit_a_strict_bios(tmp_path, bootmgr):
    volume = ntfs(tmp_path, cluster_size=512)
    number = volume.copy_in(bootmgr)
    volume.scatter(number, run_clusters=201)
    assert volume.count_runs(number) >= 3
    boot_volume(tmp_path, volume, floppy=shim(tmp_path, STRICT=1))


@pytest.mark.parametrize("start_lba", [1_000_000, 0xFFFF_0000])
def test_high_partitions_boot(tmp_path, bootmgr, start_lba):
    """The last one starts below 2 TiB and ends above: its LBAs need more than 32 bits."""
    volume = ntfs(tmp_path, size=80 * MIB)
    with volume.mounted() as place:
        (place / "filler").write_bytes(os.urandom(50 * MIB))
    volume.copy_in(bootmgr)
    boot_volume(tmp_path, volume, start_lba=start_lba)


def test_4096_byte_sectors_boot(tmp_path, bootmgr):
    volume = ntfs(tmp_path, size=40 * MIB, sector_size=4096)
    assert volume.record_size == 4096
    with volume.mounted() as place:
        for index in range(200):
            (place / f"file of the root {index}").touch()
    number = volume.copy_in(bootmgr)
    volume.scatter(number)
    boot_volume(
        tmp_path,
        volume,
        start_lba=256,
        bps=4096,
        floppy=shim(tmp_path, SECTOR_SHIFT=3, STRICT=1),
    )


@pytest.mark.parametrize("si_lba", [0, 77], ids=["implausible-entry", "entry-of-another-place"])
def test_bpb_is_believed_when_the_partition_entry_can_not_be(tmp_path, bootmgr, si_lba):
    volume = ntfs(tmp_path, hidden=START_LBA)
    volume.copy_in(bootmgr)
    boot_volume(tmp_path, volume, floppy=shim(tmp_path, FIRST_LBA=START_LBA, SI_LBA=si_lba))


@pytest.mark.parametrize("where", ["boot", "table", "data"])
@pytest.mark.parametrize("once", [True, False], ids=["once", "always"])
def test_failing_reads_are_tried_again_and_then_said(tmp_path, bootmgr, where, once):
    volume = ntfs(tmp_path)
    number = volume.copy_in(bootmgr)
    offset = {
        "boot": 5 * 512,
        "table": volume.record_offset(number),
        "data": volume.runs(number, DATA)[0][0] * 4096 + 300_000,
    }[where]
    disk = disk_of(tmp_path, volume)
    boot_with_failing_reads(tmp_path, disk, START_LBA + offset // 512, once=once)


# ---- what must be refused, with its own message ---------------------------------------------

Damage = Callable[[NtfsVolume, bytes], None]


def _missing(volume: NtfsVolume, bootmgr: bytes) -> None:
    """Only names that are near it."""
    with volume.mounted() as place:
        for name in ("bootmgr.efi", "BOOTMGRX", "bootmg", "boot mgr", "ßootmgr"):
            (place / name).write_bytes(bootmgr)


def _deleted(volume: NtfsVolume, bootmgr: bytes) -> None:
    with volume.mounted() as place:
        for index in range(200):
            (place / f"file of the root {index}").touch()
        (place / "bootmgr").write_bytes(bootmgr)
    with volume.mounted() as place:
        (place / "bootmgr").unlink()


def _folder(volume: NtfsVolume, bootmgr: bytes) -> None:
    with volume.mounted() as place:
        (place / "bootmgr").mkdir()


def _empty(volume: NtfsVolume, bootmgr: bytes) -> None:
    volume.copy_in(b"")


def _too_large(volume: NtfsVolume, bootmgr: bytes) -> None:
    volume.copy_in(build_bootmgr(TOKEN, size=EBDA_ROOM + 1))


def _compressed(volume: NtfsVolume, bootmgr: bytes) -> None:
    with volume.mounted("compression") as place:
        os.setxattr(place, "system.ntfs_attrib", struct.pack("<I", COMPRESSED))
        (place / "bootmgr").write_bytes(bootmgr)
        got = os.getxattr(place / "bootmgr", "system.ntfs_attrib")
        assert struct.unpack("<I", got)[0] & COMPRESSED


def _sparse(volume: NtfsVolume, bootmgr: bytes) -> None:
    with volume.mounted() as place, (place / "bootmgr").open("wb") as file:
        file.write(bootmgr[:4096])
        file.truncate(len(bootmgr))


def _encrypted(volume: NtfsVolume, bootmgr: bytes) -> None:
    number = volume.copy_in(bootmgr)
    where = volume.attribute_offset(number, DATA)
    volume.write(where + 12, struct.pack("<H", 0x4000))


def _record(offset: int, data: bytes, number: int | None = None) -> Damage:
    def damage(volume: NtfsVolume, bootmgr: bytes) -> None:
        own = volume.copy_in(bootmgr)
        volume.write(volume.record_offset(own if number is None else number) + offset, data)

    return damage


def _attribute(offset: int, data: bytes, number: int | None = None, kind: int = DATA) -> Damage:
    def damage(volume: NtfsVolume, bootmgr: bytes) -> None:
        own = volume.copy_in(bootmgr)
        where = volume.attribute_offset(own if number is None else number, kind)
        volume.write(where + offset, data)

    return damage


def _bytes(offset: int, data: bytes) -> Damage:
    def damage(volume: NtfsVolume, bootmgr: bytes) -> None:
        volume.copy_in(bootmgr)
        volume.write(offset, data)

    return damage


def _index(offset: int, data: bytes) -> Damage:
    """In the first block of the root directory's index."""

    def damage(volume: NtfsVolume, bootmgr: bytes) -> None:
        with volume.mounted() as place:
            for index in range(200):
                (place / f"{'ax'[index % 2]} file of the root {index}").touch()
            (place / "bootmgr").write_bytes(bootmgr)
        for first, count in volume.runs(ROOT, ALLOCATION):
            for block in range(first, first + count):
                if volume.read(block * 4096, 4) == b"INDX":
                    volume.write(block * 4096 + offset, data)

    return damage


def _another_files_record(volume: NtfsVolume, bootmgr: bytes) -> None:
    """The root directory's entry is older than what has its record now."""
    number = volume.copy_in(bootmgr)
    volume.write(volume.record_offset(number) + 0x10, struct.pack("<H", 77))


RUN = 0x40  # where runs are in an attribute without a name
VOLUME_FAULTS: dict[str, tuple[Damage, str]] = {
    "missing": (_missing, "BOOTMGR is missing"),
    "deleted": (_deleted, "BOOTMGR is missing"),
    "folder": (_folder, "BOOTMGR is missing"),
    "empty": (_empty, "BOOTMGR is empty"),
    "too large by a byte": (_too_large, "BOOTMGR is too large"),
    "size over 4 GiB": (_attribute(0x34, b"\1"), "BOOTMGR is too large"),
    "compressed": (_compressed, "BOOTMGR is compressed: store it uncompressed"),
    "sparse": (_sparse, "BOOTMGR is sparse or compressed by the system: store it plainly"),
    "encrypted": (_encrypted, "BOOTMGR is encrypted: store it unencrypted"),
    "record magic": (_record(0, b"BAAD"), FILE_TEXT),
    "record torn": (_record(510, b"\xff\xff"), FILE_TEXT),
    "record not in use": (_record(0x16, b"\0\0"), FILE_TEXT),
    "record of another file": (_another_files_record, FILE_TEXT),
    "attributes past the record": (_record(0x14, b"\xf0\xff"), FILE_TEXT),
    "fixups past their sector": (_record(4, b"\xf8\x01"), FILE_TEXT),
    "number of fixups": (_record(6, b"\x09\x00"), FILE_TEXT),
    "attribute length 0": (_attribute(4, bytes(4)), FILE_TEXT),
    "attribute past the record": (_attribute(4, b"\0\0\1\0"), FILE_TEXT),
    "no data": (_attribute(0, b"\x70\0\0\0"), FILE_TEXT),
    "runs outside the attribute": (_attribute(0x20, b"\xff\x00"), FILE_TEXT),
    "run past the volume": (_attribute(RUN, b"\x41\x7b\xff\xff\xff\x7f\x00"), FILE_TEXT),
    "run before the volume": (_attribute(RUN, b"\x11\x7b\xf0\x00"), FILE_TEXT),
    "run of no clusters": (_attribute(RUN, b"\x11\x00\x50\x00"), FILE_TEXT),
    "hole": (_attribute(RUN, b"\x01\x7b\x00"), FILE_TEXT),
    "runs too short": (_attribute(RUN, b"\x11\x05\x50\x00"), FILE_TEXT),
    "no runs": (_attribute(RUN, b"\x00"), FILE_TEXT),
    "runs without end": (_attribute(RUN, b"\x11\x01\x50\x11\x01\x01\x11\x01"), FILE_TEXT),
    "run of 15 bytes": (_attribute(RUN, b"\x1f\x01\x50"), FILE_TEXT),
    "first piece missing": (_attribute(0x10, b"\x01"), FILE_TEXT),
    "root record": (_record(0, b"BAAD", ROOT), ROOT_TEXT),
    "root index missing": (_attribute(0, b"\x91", ROOT, 0x90), ROOT_TEXT),
    "root index block size": (_attribute(0x28, b"\x01", ROOT, 0x90), ROOT_TEXT),
    "root entries past the value": (_attribute(0x34, b"\xff\xff", ROOT, 0x90), ROOT_TEXT),
    "root first entry": (_attribute(0x30, b"\xff\xff", ROOT, 0x90), ROOT_TEXT),
    "index magic": (_index(0, b"BAAD"), ROOT_TEXT),
    "index torn": (_index(4094, b"\x12\x34"), ROOT_TEXT),
    "index block of another place": (_index(0x10, b"\x77"), ROOT_TEXT),
    "index entries past the block": (_index(0x1C, b"\xff\xff"), ROOT_TEXT),
    "index first entry": (_index(0x18, b"\xff\xff"), ROOT_TEXT),
    "index entry of no bytes": (_index(0x18, b"\x20\0\0\0\x80\0\0\0"), ROOT_TEXT),
    "table magic": (_record(0, b"BAAD", MFT), MFT_TEXT),
    "table run past the volume": (_attribute(RUN, b"\x41\x7b\xff\xff\xff\x7f\x00", MFT), MFT_TEXT),
    "sectors per cluster 3": (_bytes(0x0D, b"\x03"), LAYOUT_TEXT),
    "sectors per cluster 0": (_bytes(0x0D, b"\x00"), LAYOUT_TEXT),
    "sectors per cluster 2^31": (_bytes(0x0D, b"\xe1"), LAYOUT_TEXT),
    "no sectors": (_bytes(0x28, bytes(8)), LAYOUT_TEXT),
    "over 2^32 clusters": (_bytes(0x2F, b"\x7f"), LAYOUT_TEXT),
    "table past the volume": (_bytes(0x33, b"\x10"), LAYOUT_TEXT),
    "record size 0": (_bytes(0x40, b"\x00"), LAYOUT_TEXT),
    "record size 8192": (_bytes(0x40, b"\x02"), LAYOUT_TEXT),
    "record size 2^-9": (_bytes(0x40, b"\xf8"), LAYOUT_TEXT),
    "bytes per sector 0": (_bytes(0x0B, bytes(2)), CODE_TEXT),
    "stage 2 missing": (_bytes(512, bytes(7680)), CODE_TEXT),
    "stage 2 without its end": (_bytes(2048, bytes(6144)), CODE_TEXT),
    "VBR signature missing": (_bytes(510, bytes(2)), "Active partition has no boot sector"),
}


@pytest.mark.parametrize("fault", VOLUME_FAULTS, ids=lambda fault: fault.replace(" ", "-"))
def test_faults_of_the_volume_are_named(tmp_path, bootmgr, fault):
    damage, expected = VOLUME_FAULTS[fault]
    volume = ntfs(tmp_path)
    damage(volume, bootmgr)
    message(tmp_path, disk_of(tmp_path, volume), expected)


def test_index_that_leads_in_circles_is_refused(tmp_path, bootmgr):
    """A block whose entries all lead back to itself."""
    volume = ntfs(tmp_path)
    with volume.mounted() as place:
        for index in range(200):
            (place / f"a file of the root {index}").touch()
        (place / "bootmgr").write_bytes(bootmgr)
    for first, count in volume.runs(ROOT, ALLOCATION):
        for block in range(first, first + count):
            vcn = volume.read(block * 4096 + 0x10, 8)
            entry = struct.pack("<QHHHH", 0, 24, 0, 3, 0) + vcn
            start = struct.unpack("<I", volume.read(block * 4096 + 0x18, 4))[0]
            volume.write(block * 4096 + 0x1C, struct.pack("<I", start + 24))
            volume.write(block * 4096 + 0x18 + start, entry)
    message(tmp_path, disk_of(tmp_path, volume), ROOT_TEXT)


def test_messages_wait_for_a_key_and_restart(tmp_path):
    volume = ntfs(tmp_path)
    message(tmp_path, disk_of(tmp_path, volume), "BOOTMGR is missing", restart=True)
