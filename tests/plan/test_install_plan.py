# SPDX-License-Identifier: GPL-3.0-or-later
"""Whole disks for an installed Windows: carried out by the engine, judged by sgdisk, sfdisk,
pyparted, blkid, mkntfs' own tools and fsck.fat, on image files and on loop devices with sectors of
512 and 4096 bytes. The latter need root."""

import hashlib
import json
import os
import subprocess
import sys
import time
from contextlib import contextmanager
from pathlib import Path
from uuid import UUID

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from mediamaker.devices.block_target import BlockTarget
from mediamaker.devices.file_target import FileTarget
from mediamaker.devices.table import read_table
from mediamaker.errors import PlanError
from mediamaker.execute.create import execute_plan
from mediamaker.execute.progress import ProgressMeter, ignore_event
from mediamaker.execute.steps import check_commit
from mediamaker.execute.writer import write_extents
from mediamaker.extents import ExtentMapBuilder, FileRange, Literal, Unwritten, Zeros
from mediamaker.plan.codec import plan_from_json, plan_to_json
from mediamaker.plan.disk_layout import Role
from mediamaker.plan.geometry import Geometry
from mediamaker.plan.identity import identities_from_seed
from mediamaker.plan.install import (
    ImageToApply,
    WriteExtents,
    build_install_plan,
    plan_steps,
)
from mediamaker.plan.layout_file import load_layout
from mediamaker.plan.place_disk import disk_size_needed, place_disk
from mediamaker.plan.request import ExtraFile
from mediamaker.plan.show_install import install_to_json, show_disk_change, show_install
from mediamaker.sources.identity import identify
from mediamaker.sources.reader import SourceReader
from mediamaker.units import GIB, MIB, TIB
from mediamaker.volumes.fat32 import Fat32Request, build_fat32
from mediamaker.volumes.tree import build_tree

IDS = identities_from_seed("install")
MBR_CODE = b"\xeb\xfe"

UEFI = """
name = "small-uefi"
table = "gpt"
[[partition]]
role = "system"
[[partition]]
role = "msr"
[[partition]]
role = "windows"
size = "rest"
[[partition]]
role = "recovery"
size = "32MiB"
[[partition]]
role = "data"
size = "16MiB"
name = "Extra"
volume_label = "Extra"
[[partition]]
role = "data"
size = "8MiB"
file_system = "none"
"""
BIOS = """
name = "small-bios"
table = "mbr"
[[partition]]
role = "system"
size = "16MiB"
[[partition]]
role = "windows"
size = "rest"
[[partition]]
role = "recovery"
size = "32MiB"
[[partition]]
role = "data"
size = "64MiB"
file_system = "fat32"
"""
LAYOUTS = {"gpt": UEFI, "mbr": BIOS}
WINDOWS_SIZE = 64 * MIB


def run(*command):
    return subprocess.run(command, check=True, capture_output=True, text=True).stdout


def ask(*command):
    done = subprocess.run(command, check=False, capture_output=True, text=True)
    return done.returncode, done.stdout


@contextmanager
def loop_device(path: Path, *options):
    device = run("losetup", "--find", "--show", *map(str, options), str(path)).strip()
    try:
        yield Path(device)
    finally:
        run("losetup", "--detach", device)


def place(table, sector_size):
    layout = load_layout(LAYOUTS[table], what=table)
    size = disk_size_needed(layout, {Role.WINDOWS: WINDOWS_SIZE}, sector_size=sector_size)
    return place_disk(layout, Geometry(size, sector_size), IDS)


def fat_volume(placed, partition):
    return build_fat32(
        Fat32Request(
            size=partition.size,
            sector_size=placed.geometry.logical_sector_size,
            hidden_sectors=placed.hidden_sectors(partition),
            volume_label=partition.spec.volume_label,
            volume_serial=partition.volume_serial,
            tree=build_tree([]),
        )
    ).extents


def make_ntfs_file(path, placed, partition):
    with path.open("wb") as file:
        file.truncate(partition.size)
    run_mkntfs(path, placed, partition)


def run_mkntfs(path, placed, partition):
    run(
        "mkntfs", "--quiet", "--fast", "--force", "--label", partition.spec.volume_label,
        "--sector-size", str(placed.geometry.logical_sector_size),
        "--partition-start", str(placed.hidden_sectors(partition)),
        "--heads", "255", "--sectors-per-track", "63", str(path),
    )  # fmt: skip


def sparse_volume(source_id, path):
    """The data of a sparse file; its holes are left unwritten, which is the worst case."""
    builder = ExtentMapBuilder()
    size = path.stat().st_size
    with path.open("rb") as file:
        position = 0
        while position < size:
            try:
                start = os.lseek(file.fileno(), position, os.SEEK_DATA)
            except OSError:
                start = size
            builder.pad_to(start, "hole", Unwritten())
            if start == size:
                break
            position = os.lseek(file.fileno(), start, os.SEEK_HOLE)
            builder.add("NTFS", position - start, FileRange(source_id, start))
    builder.pad_to(size, "hole", Unwritten())
    return builder.build()


def make_plan(folder, table, sector_size, *, has_step):
    """A plan with real volumes, and its source files."""
    placed = place(table, sector_size)
    volumes, sources = {}, []
    for partition in placed.partitions:
        match partition.spec.file_system:
            case "fat32":
                volumes[partition.number] = fat_volume(placed, partition)
            case "ntfs" if partition.role is Role.WINDOWS and has_step:
                volumes[partition.number] = None
            case "ntfs":
                path = folder / f"volume{partition.number}.img"
                make_ntfs_file(path, placed, partition)
                source_id = f"volume{partition.number}"
                sources.append(identify(source_id, path))
                volumes[partition.number] = sparse_volume(source_id, path)
    plan = build_install_plan(placed, volumes, sources=tuple(sources), mbr_code=MBR_CODE)
    return placed, plan


def probe(device, partition):
    """What blkid takes the volume for; None if it finds nothing, "ambivalent" if too much."""
    code, text = ask(
        "blkid", "--cache-file", "/dev/null", "--probe", "--output", "export", "--offset",
        str(partition.start), "--size", str(partition.size), str(device),
    )  # fmt: skip
    if code == 8:
        return "ambivalent"
    values = dict(line.split("=", 1) for line in text.splitlines() if "=" in line)
    return values.get("TYPE")


EXPECTED_PROBE = {"fat32": "vfat", "ntfs": "ntfs", None: None}


def ask_libparted(device):
    """In a process of its own: libparted keeps a device's sector size under its path."""
    code = (
        "import json, pathlib, sys; from mediamaker.devices.table import read_table\n"
        "table = read_table(pathlib.Path(sys.argv[1]))\n"
        "assert table.problems == (), table.problems\n"
        "print(json.dumps([(item.start, item.size) for item in table.partitions]))"
    )
    return json.loads(run(sys.executable, "-c", code, device))


def check_with_judges(device, placed):
    """``device`` is an image file with 512-byte sectors, or a block device."""
    code, text = ask("sfdisk", "--verify", device)
    assert code == 0, text
    table = json.loads(run("sfdisk", "--json", device))["partitiontable"]
    sector_size = placed.geometry.logical_sector_size
    assert table["sectorsize"] == sector_size
    assert table["label"] == ("gpt" if placed.layout.table == "gpt" else "dos")
    found = [(item["start"], item["size"]) for item in table["partitions"]]
    assert found == [
        (partition.start // sector_size, partition.size // sector_size)
        for partition in placed.partitions
    ]
    if placed.layout.table == "gpt":
        verdict = run("sgdisk", "-v", device)
        assert "No problems found" in verdict, verdict
        assert UUID(table["id"]) == placed.disk_guid
        for item, partition in zip(table["partitions"], placed.partitions, strict=True):
            assert UUID(item["type"]) == partition.spec.type_guid
            assert UUID(item["uuid"]) == partition.unique_guid
            assert item["name"] == partition.spec.name
        shown = run("sgdisk", "-i", "4", device)
        assert "DE94BBA4-06D1-4D40-A16A-BFD50179D6AC" in shown
        assert "Attribute flags: 8000000000000001" in shown
    else:
        assert int(table["id"], 16) == placed.disk_signature
        assert [int(item["type"], 16) for item in table["partitions"]] == [7, 7, 0x27, 0x0C]
        assert [item.get("bootable", False) for item in table["partitions"]] == [True] + 3 * [False]
    assert ask_libparted(device) == [
        [partition.start, partition.size] for partition in placed.partitions
    ]
    for partition in placed.partitions:
        expected = EXPECTED_PROBE[partition.spec.file_system]
        assert probe(device, partition) == expected, partition.number


@pytest.mark.parametrize("table", LAYOUTS)
def test_an_image_file_is_written_verified_and_judged(tmp_path, table):
    placed, plan = make_plan(tmp_path, table, 512, has_step=False)
    path = tmp_path / "disk.img"
    with SourceReader(plan.sources) as reader:
        execute_plan(
            extents=plan.extents,
            commit=plan.commit,
            plan_id=plan.plan_id,
            reader=reader,
            target=FileTarget.create(path, plan.geometry.size),
        )
    check_with_judges(str(path), placed)
    # Each volume is where it should be, whole.
    for partition in placed.partitions:
        volume = tmp_path / f"volume{partition.number}.img"
        if volume.exists():
            with path.open("rb") as file:
                file.seek(partition.start)
                assert file.read(partition.size) == volume.read_bytes()
            run("ntfsfix", "--no-action", str(volume))
    with path.open("rb") as file:
        assert (file.read(2) == MBR_CODE) == (table == "mbr")
    # The plan as a file is enough to verify the disk with, by the verb that there is.
    plan_file = tmp_path / "plan.json"
    plan_file.write_text(json.dumps(plan_to_json(plan)))
    said = run(sys.executable, "-m", "mediamaker", "verify", path, "--plan", plan_file)
    assert "verified" in said
    with path.open("r+b") as file:
        file.seek(placed.windows.start + 3)
        file.write(b"X")
    code, _ = ask(sys.executable, "-m", "mediamaker", "verify", path, "--plan", plan_file)
    assert code == 5


def leave_an_earlier_life(path, placed):
    """ext4, swap and a RAID member wherever a partition will be."""
    with path.open("wb") as file:
        file.truncate(placed.geometry.size)
    for partition in placed.partitions:
        old = path.with_name("old.img")
        with old.open("wb") as file:
            file.truncate(partition.size)
        run("mkfs.ext4", "-q", "-F", "-b", "4096", str(old))
        raid_offset = (partition.size - 8192) & ~4095
        raid = bytearray(256)
        raid[:8] = 0xA92B4EFC.to_bytes(4, "little") + (1).to_bytes(4, "little")
        raid[144:152] = (raid_offset // 512).to_bytes(8, "little")
        with old.open("r+b") as file, path.open("r+b") as disk:
            file.seek(raid_offset)
            file.write(raid)
            for position in (0, partition.size - 2 * MIB):
                file.seek(position)
                disk.seek(partition.start + position)
                disk.write(file.read(2 * MIB))
        old.unlink()
        assert probe(path, partition) in {"ext4", "linux_raid_member", "ambivalent"}


@pytest.mark.parametrize("sector_size", [512, 4096])
@pytest.mark.parametrize("table", LAYOUTS)
def test_a_used_disk_is_cleared_applied_to_and_judged(tmp_path, table, sector_size):
    placed, plan = make_plan(tmp_path, table, sector_size, has_step=True)
    path = tmp_path / "disk"
    leave_an_earlier_life(path, placed)
    wim = tmp_path / "install.wim"
    wim.write_bytes(b"not read here")
    image = ImageToApply((identify("wim", wim),), 1, "Windows")
    install = plan_steps(plan, placed, image)
    clear, apply, write = install.steps
    windows = placed.windows
    with loop_device(path, "--sector-size", sector_size) as device:
        target = BlockTarget.open(device)
        with SourceReader(()) as reader:
            write_extents(
                extents=clear.extents,
                commit=clear.commit,
                reader=reader,
                target=target,
                meter=ProgressMeter(ignore_event, time.monotonic),
                has_digests=False,
            )
        target.finish()
        assert probe(device, windows) is None, "the old volumes must be gone before the new one"
        # The step itself: a new volume where the plan says; libwim's part is not needed here.
        assert (apply.partition, apply.image) == (windows, image)
        options = ("--offset", windows.start, "--sizelimit", windows.size)
        with loop_device(path, "--sector-size", sector_size, *options) as volume:
            run_mkntfs(volume, placed, windows)
            run("sync", str(volume))
            before = hashlib.sha256(Path(volume).read_bytes()).hexdigest()
        with SourceReader(plan.sources) as reader:
            execute_plan(
                extents=write.extents,
                commit=write.commit,
                plan_id=plan.plan_id,
                reader=reader,
                target=BlockTarget.open(device),
            )
        check_with_judges(str(device), placed)
    with path.open("rb") as file:
        file.seek(windows.start)
        content = file.read(windows.size)
    assert hashlib.sha256(content).hexdigest() == before, "the engine wrote into Windows' volume"
    assert content[0x1C:0x20] == (windows.start // sector_size).to_bytes(4, "little")


def test_what_the_plan_says_of_itself(tmp_path):
    placed, plan = make_plan(tmp_path, "gpt", 512, has_step=False)
    assert plan_from_json(json.loads(json.dumps(plan_to_json(plan)))) == plan
    assert plan.layout.value == "windows-gpt"
    assert plan.commit == ((0, MIB), (plan.geometry.size - MIB, plan.geometry.size))
    assert plan.boots == ("UEFI",)
    assert plan.identities["disk_guid"] == str(IDS.disk_guid)
    assert plan.identities["partition_1"] == str(IDS.partition_guid)
    assert plan.identities["volume_1"].replace("-", "") == f"{IDS.volume_serial:08X}"
    assert [partition.type_name for partition in plan.partitions[:4]] == [
        "EFI system", "Microsoft reserved", "basic data", "Windows recovery",
    ]  # fmt: skip
    assert any("20" in text or "18.6 GiB" in text for text in plan.warnings)
    again = make_plan(tmp_path, "gpt", 512, has_step=True)[1]
    assert again.plan_id != plan.plan_id
    install = plan_steps(plan, placed, None)
    assert [type(step) for step in install.steps] == [WriteExtents]
    assert install.steps[0].extents is plan.extents
    assert plan_from_json(install_to_json(install)["plan"]) == plan


def test_every_byte_near_a_volumes_ends_is_written(tmp_path):
    placed, plan = make_plan(tmp_path, "gpt", 512, has_step=False)
    for partition in placed.partitions:
        for start, end in (
            (partition.start, partition.start + MIB),
            (partition.end - MIB, partition.end),
        ):
            kinds = {type(extent.source) for extent in plan.extents.within(start, end)}
            assert kinds <= {Zeros, Literal, FileRange}, partition.number
    msr = placed.find(Role.MSR)
    assert {type(e.source) for e in plan.extents.within(msr.start, msr.end)} == {Zeros}
    # Free clusters stay unwritten: a disk is not wiped.
    inside = plan.extents.within(placed.windows.start + MIB, placed.windows.end - MIB)
    assert Unwritten in {type(extent.source) for extent in inside}
    # What a volume does write is not touched.
    boot = plan.extents.find(placed.windows.start)
    assert boot.source == FileRange("volume3", 0)


def test_the_clearing_step_reaches_all_that_could_look_valid(tmp_path):
    placed, plan = make_plan(tmp_path, "gpt", 512, has_step=True)
    clear = plan_steps(plan, placed, ImageToApply((), 1, "x")).steps[0]
    assert isinstance(clear, WriteExtents)
    assert clear.extents.end == plan.geometry.size
    # Flushed before the rest is cleared: an old table must not lead to volumes that are gone.
    assert clear.commit == plan.commit == ((0, MIB), (plan.geometry.size - MIB, plan.geometry.size))
    size, windows = plan.geometry.size, placed.windows
    zeros = [(e.start, e.end) for e in clear.extents if isinstance(e.source, Zeros)]
    assert zeros == [
        (0, MIB),
        # The marks of a disk that is asked what it holds lie here.
        (MIB, 5 * MIB),
        (windows.start, windows.start + MIB),
        (windows.end - MIB, windows.end),
        (size - MIB, size),
    ]
    assert {type(extent.source) for extent in clear.extents} == {Zeros, Unwritten}


def test_an_install_is_named_by_its_steps_too(tmp_path):
    placed, plan = make_plan(tmp_path, "gpt", 512, has_step=True)
    one = plan_steps(plan, placed, ImageToApply((), 1, "Pro"))
    other = plan_steps(plan, placed, ImageToApply((), 2, "Pro"))
    extras = (ExtraFile(("Recovery", "OEM", "ResetConfig.xml"), b"<Reset/>", ""),)
    third = plan_steps(plan, placed, ImageToApply((), 1, "Pro", extras))
    assert len({one.install_id, other.install_id, third.install_id}) == 3
    assert one.install_id == plan_steps(plan, placed, ImageToApply((), 1, "Pro")).install_id
    shown = json.loads(json.dumps(install_to_json(third, with_extents=False)))
    assert [step["kind"] for step in shown["steps"]] == [
        "write_extents", "apply_image", "write_extents",
    ]  # fmt: skip
    assert shown["steps"][1]["extras"][0]["path"] == ["Recovery", "OEM", "ResetConfig.xml"]
    assert shown["partitions"][3]["attributes"] == "0x8000000000000001"
    assert "extents" not in shown["plan"]


def test_steps_and_plan_must_agree(tmp_path):
    placed, plan = make_plan(tmp_path, "gpt", 512, has_step=True)
    with pytest.raises(PlanError, match="no image is given"):
        plan_steps(plan, placed, None)
    placed, plan = make_plan(tmp_path, "gpt", 512, has_step=False)
    with pytest.raises(PlanError, match="has the Windows volume in it already"):
        plan_steps(plan, placed, ImageToApply((), 1, "x"))


def simple_volume(size):
    builder = ExtentMapBuilder()
    builder.add("VBR", 4096, Literal(bytes(4096)))
    builder.pad_to(size, "free", Unwritten())
    return builder.build()


def test_volumes_must_fit_their_partitions():
    placed = place("gpt", 512)
    good = {
        partition.number: simple_volume(partition.size)
        for partition in placed.partitions
        if partition.spec.file_system is not None
    }
    build_install_plan(placed, good, sources=())
    for change, expected in (
        ({7: simple_volume(MIB)}, "no such partition"),
        ({0: None}, "no such partition"),
        ({2: simple_volume(MIB)}, "has no file system, but a volume is given"),
        ({1: None}, "only that of Windows may be a step's"),
        ({4: simple_volume(32 * MIB + 4096)}, r"the partition holds 33554432 bytes \(32 MiB\)"),
    ):
        with pytest.raises(PlanError, match=expected):
            build_install_plan(placed, good | change, sources=())
    del good[3]
    with pytest.raises(PlanError, match="has no volume"):
        build_install_plan(placed, good, sources=())


def test_a_volume_smaller_than_its_partition_is_followed_by_zeros_at_the_end():
    placed = place("gpt", 512)
    volumes = {
        partition.number: simple_volume(partition.size - 4 * MIB)
        for partition in placed.partitions
        if partition.spec.file_system is not None
    }
    plan = build_install_plan(placed, volumes, sources=())
    end = placed.windows.end
    assert isinstance(plan.extents.find(end - 1).source, Zeros)
    assert isinstance(plan.extents.find(end - MIB).source, Zeros)
    assert isinstance(plan.extents.find(end - MIB - 1).source, Unwritten)


def test_warnings_of_disks_that_will_not_do_what_one_may_expect():
    placed = place("mbr", 4096)
    volumes = {partition.number: simple_volume(partition.size) for partition in placed.partitions}
    plan = build_install_plan(placed, volumes, sources=(), mbr_code=MBR_CODE)
    assert plan.boots == ()
    assert any("no BIOS boot" in text for text in plan.warnings)
    assert plan.extents.find(0).source.data[:2] == b"\0\0"
    layout = load_layout(BIOS, what="bios")
    placed = place_disk(layout, Geometry(3 * TIB), IDS)
    volumes = {partition.number: simple_volume(partition.size) for partition in placed.partitions}
    plan = build_install_plan(placed, volumes, sources=(), mbr_code=MBR_CODE)
    assert any("does not reach the last" in text for text in plan.warnings)
    assert plan.extents.end == 3 * TIB


def test_the_picture_of_before_and_after(tmp_path):
    old = tmp_path / "old.img"
    with old.open("wb") as file:
        file.truncate(4 * GIB)
    subprocess.run(
        ["sfdisk", "-q", old],
        input='label: gpt\nstart=2048,size=2097152,name="Old one"\nstart=4196352,size=204800\n',
        text=True,
        check=True,
        capture_output=True,
    )
    layout = load_layout(UEFI.replace('"32MiB"', '"1GiB"'), what="x")
    placed = place_disk(layout, Geometry(4 * GIB), IDS)
    lines = show_disk_change(read_table(old), placed)
    assert lines[0] == "before: gpt table, 2 partitions"
    assert any("[0x100000,0x40100000)" in line and "(Old one)" in line for line in lines)
    # What lies between and behind the old partitions is free.
    assert sum(line.strip().startswith("free ") for line in lines) == 2
    after = lines.index("after: gpt table, 6 partitions")
    assert [line.split()[0] for line in lines[-6:]] == ["1", "2", "3", "4", "5", "6"]
    assert "platform-required, no-drive-letter" in lines[-3]
    bar = lines[after + 1 : after + 5]
    assert len({len(line) for line in bar}) == 1
    assert max(map(len, lines[after + 1 : after + 5])) <= 76
    assert show_disk_change(None, placed)[0] == "before: nothing, the file is new"


def test_labels_of_the_old_disk_reach_the_terminal_without_control_characters(tmp_path):
    placed, plan = make_plan(tmp_path, "gpt", 512, has_step=True)
    old = tmp_path / "old.img"
    with old.open("wb") as file:
        file.truncate(64 * MIB)
    subprocess.run(
        ["sfdisk", "-q", old], input='label: gpt\nsize=8192,name="a\\x1b[2Jb"\n', text=True,
        check=True, capture_output=True,
    )  # fmt: skip
    install = plan_steps(plan, placed, ImageToApply((), 1, "\x1b[31mred"))
    text = show_install(install, read_table(old))
    assert all(line.isprintable() for line in text.splitlines())
    assert "?[31mred" in text


@settings(max_examples=60, deadline=None)
@given(
    table=st.sampled_from(["gpt", "mbr"]),
    sector_size=st.sampled_from([512, 4096]),
    extra_sectors=st.integers(0, 3 * MIB // 512),
)
def test_any_disk_is_covered_and_committed_in_whole_sectors(table, sector_size, extra_sectors):
    layout = load_layout(LAYOUTS[table], what=table)
    size = disk_size_needed(layout, {Role.WINDOWS: WINDOWS_SIZE}, sector_size=sector_size)
    size += extra_sectors * sector_size
    placed = place_disk(layout, Geometry(size, sector_size), IDS)
    volumes = {
        partition.number: simple_volume(partition.size)
        for partition in placed.partitions
        if partition.spec.file_system is not None
    }
    for windows in (volumes[placed.windows.number], None):
        changed = volumes | {placed.windows.number: windows}
        plan = build_install_plan(placed, changed, sources=(), mbr_code=MBR_CODE)
        assert (plan.extents.start, plan.extents.end) == (0, size)
        check_commit(plan.extents, plan.commit, sector_size)
        assert plan.commit[-1][1] == size
        for partition in placed.partitions:
            inside = plan.extents.find(partition.start)
            assert inside.start == partition.start, "an extent goes across a partition's border"
