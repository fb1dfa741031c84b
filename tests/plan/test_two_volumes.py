# SPDX-License-Identifier: GPL-3.0-or-later
"""The layout mbr-fat32-exfat: sfdisk, fsck.fat, fsck.exfat and dissect.fat judge a whole disk."""

import json
import struct
import subprocess
from dataclasses import replace
from pathlib import Path

import pytest

from mediamaker.cli.main import main
from mediamaker.errors import ExitCode, NotRepresentableError, TargetTooSmallError
from mediamaker.extents import FileRange, Piece, Zeros
from mediamaker.formats.fat import FILE_SIZE_MAX
from mediamaker.plan.build import BootCode, build_plan, measure_disk
from mediamaker.plan.codec import plan_from_json, plan_to_json
from mediamaker.plan.geometry import Geometry
from mediamaker.plan.identity import identities_from_seed, read_identities
from mediamaker.plan.request import Layout, MediaRequest
from mediamaker.plan.show import show_plan
from mediamaker.plan.two_volumes import EXPERIMENTAL, build_two_media
from mediamaker.sources.bootcode import load_fat32_boot_code, load_mbr_code
from mediamaker.sources.kinds import inspect_source
from mediamaker.sources.tree import Entry, SourceTree
from mediamaker.units import GIB, MIB, TIB
from mediamaker.volumes.fat32 import Fat32BootCode
from tests.volumes.exfat_judges import check_exfat_fsck, dump_exfat, read_exfat_with_dissect
from tests.volumes.fat_judges import check_fsck, materialise, read_with_dissect

IDS = identities_from_seed("two")
REQUEST = MediaRequest(layout=Layout.MBR_FAT32_EXFAT, volume_label="My Win 11")
ONLY_EXFAT = {"sources/INSTALL.wim", "x64/Sources/install.swm"}
FILES = {
    "bootmgr": b"\xe9\xd5\x01\xeb" + bytes(1000),
    "boot/bcd": b"regf",
    "sources/INSTALL.wim": None,
    "sources/boot.wim": None,
    "sources/install.de/x.txt": b"not an image, but in a directory of that name",
    "sources/reinstall.txt": b"1",
    "x64/Sources/install.swm": None,
    "x64/efi/install.wim": b"not where Setup looks",
}


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    root = tmp_path_factory.mktemp("source")
    content = root / "content"
    content.mkdir()
    (content / "file").write_bytes(bytes(range(256)) * 3000)
    wim = root / "a.wim"
    subprocess.run(
        ["wimlib-imagex", "capture", content, wim, "Setup", "--compress=none"],
        check=True, capture_output=True,
    )  # fmt: skip
    tree = root / "tree"
    for name, data in FILES.items():
        path = tree / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(wim.read_bytes() if data is None else data)
    return tree


def boot_code():
    sector0, stage2, number = load_fat32_boot_code()
    code = Fat32BootCode(sector0=sector0, stage2=stage2, stage2_sector_number=number)
    return BootCode(load_mbr_code(), code)


def make_plan(folder, geometry, request=REQUEST):
    return build_plan(inspect_source(folder), request, geometry, IDS, boot_code())


def contents(folder):
    """What the exFAT volume must hold."""
    return {
        path.relative_to(folder).as_posix(): None if path.is_dir() else path.read_bytes()
        for path in folder.rglob("*")
    }


def partitions(disk, folder):
    """Each partition as a file, where sfdisk sees it."""
    shown = subprocess.run(["sfdisk", "--json", disk], capture_output=True, check=True).stdout
    table = json.loads(shown)["partitiontable"]
    with disk.open("rb") as file:
        for number, entry in enumerate(table["partitions"], start=1):
            path = folder / f"p{number}.img"
            file.seek(entry["start"] * table["sectorsize"])
            path.write_bytes(file.read(entry["size"] * table["sectorsize"]))
            yield entry, path


def test_the_judges_see_both_volumes(folder, tmp_path):
    geometry = Geometry(80 * MIB)
    plan = make_plan(folder, geometry)
    files = {file.source_id: Path(file.path).read_bytes() for file in plan.sources}
    disk = materialise(plan.extents, tmp_path / "disk.img", files=files, stale=b"\xa5" * (79 * MIB))
    subprocess.run(["sfdisk", "--verify", disk], check=True, capture_output=True)
    (one, fat32), (two, exfat) = partitions(disk, tmp_path)
    assert (one["type"], one.get("bootable"), one["start"]) == ("c", True, 2048)
    assert (two["type"], two.get("bootable")) == ("7", None)
    assert two["start"] == one["start"] + one["size"]
    assert (two["start"] + two["size"]) * 512 == 79 * MIB
    check_fsck(fat32)
    whole = contents(folder)
    assert read_exfat_with_dissect(exfat) == whole
    assert read_with_dissect(fat32) == {
        path: data for path, data in whole.items() if path not in ONLY_EXFAT
    }
    directories = sum(data is None for data in whole.values())
    check_exfat_fsck(exfat, directories=directories + 1, files=len(whole) - directories)
    told = dump_exfat(exfat)
    assert told["Volume label"] == "My Win 11"
    assert int(told["Volume Serial"], 16) == IDS.derive_volume_serial("exFAT")
    assert IDS.derive_volume_serial("exFAT") != IDS.volume_serial
    (partition_offset,) = struct.unpack_from("<Q", exfat.read_bytes()[:512], 64)
    assert partition_offset == two["start"]

    def read(offset, size):
        with disk.open("rb") as file:
            file.seek(offset)
            return file.read(size)

    name, found = read_identities(read, 512)
    assert name == "mbr-fat32-exfat"
    # What the disk tells is enough to plan it again.
    again = build_plan(inspect_source(folder), REQUEST, geometry, found, boot_code())
    assert again.plan_id == plan.plan_id
    assert again.identities == plan.identities
    assert set(plan.identities) == {"disk_signature", "volume_serial"}


def test_the_plan_says_what_it_is(folder):
    plan = make_plan(folder, Geometry(80 * MIB))
    assert plan.layout is Layout.MBR_FAT32_EXFAT
    assert "experimental" in plan.layout.summary
    assert plan.warnings[0] == EXPERIMENTAL
    assert any("sources/INSTALL.wim" in note and "partition 2" in note for note in plan.notes)
    assert [p.file_system for p in plan.partitions] == ["FAT32", "exFAT"]
    assert plan_from_json(json.loads(json.dumps(plan_to_json(plan)))) == plan
    text = show_plan(plan)
    largest = [line for line in text.splitlines() if line.endswith("\\sources\\boot.wim")]
    assert len(largest) == 2, "once a volume"
    # What firmware reads of an interrupted disk is blank: both ends are written last.
    assert plan.commit == ((0, MIB), (79 * MIB, 80 * MIB))


def test_measured_is_the_least(folder):
    for sector_size in (512, 4096):
        size = measure_disk(inspect_source(folder), REQUEST, IDS, sector_size)
        plan = make_plan(folder, Geometry(size, sector_size))
        assert plan.extents.end == size
        with pytest.raises(TargetTooSmallError) as caught:
            make_plan(folder, Geometry(size - MIB, sector_size))
        assert caught.value.needed_size == size
    assert any("no BIOS boot" in words for words in plan.warnings)


def test_a_cluster_size_is_for_the_exfat_volume(folder):
    plan = make_plan(folder, Geometry(GIB), replace(REQUEST, cluster_size=256 * 1024))
    assert plan.partitions[1].cluster_size == 256 * 1024
    huge = make_plan(folder, Geometry(9 * TIB))
    assert huge.partitions[1].end <= 2 * TIB
    assert huge.extents.end == 9 * TIB


def entry(path, size):
    pieces = (Piece(size, FileRange("iso", 0)),) if size else (Piece(1, Zeros()),)
    return Entry(tuple(path.split("/")), False, size, pieces, None)


def test_what_fat32_cannot_hold_is_on_exfat_alone():
    large = FILE_SIZE_MAX + 1
    paths = {"sources/install.wim": 9 * GIB, "data/big.bin": large, "data/fits.bin": 5}
    tree = SourceTree("udf", "X", tuple(entry(p, s) for p, s in sorted(paths.items())), ())
    media = build_two_media(tree, REQUEST, IDS, 512)
    assert [child.name for child in media.boot_tree.children] == ["data"]
    assert [child.name for child in media.boot_tree.children[0].children] == ["fits.bin"]
    assert media.whole_size_needed > 13 * GIB
    assert "data/big.bin (4 GiB), sources/install.wim (9 GiB)" in media.notes[0]
    boot = SourceTree("udf", "X", (entry("sources/boot.wim", large),), ())
    with pytest.raises(NotRepresentableError, match=r"sources/boot\.wim"):
        build_two_media(boot, REQUEST, IDS, 512)


def test_create_and_verify_from_outside(folder, tmp_path, capsys):
    disk = tmp_path / "stick.img"
    words = ["create", folder, disk, "--layout", "mbr-fat32-exfat", "--size", "auto", "--json"]
    assert main(list(map(str, words))) == ExitCode.DONE
    created = json.loads(capsys.readouterr().out.splitlines()[-1])
    assert created["layout"] == "mbr-fat32-exfat"
    # The layout is what the disk says it is.
    verify = ["verify", str(disk), str(folder), "--json"]
    assert main(verify) == ExitCode.DONE
    verified = json.loads(capsys.readouterr().out.splitlines()[-1])
    assert verified["plan_id"] == created["plan_id"]
    data = bytearray(disk.read_bytes())
    at = data.rindex(b"not an image")
    data[at] ^= 1
    disk.write_bytes(data)
    assert main(verify) == ExitCode.VERIFY_FAILED
    assert "install.de" in capsys.readouterr().out
