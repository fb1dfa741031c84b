# SPDX-License-Identifier: GPL-3.0-or-later
"""A recovery partition is added to image files with a Windows; foreign tools judge the result."""

import hashlib
import json
import shutil
import struct
import subprocess
import tempfile
import time
from contextlib import contextmanager
from pathlib import Path
from uuid import UUID

import pytest
from dissect.ntfs import NTFS

from mediamaker.errors import FormatError, TargetRefusedError, TargetTooSmallError, UsageError
from mediamaker.execute.progress import ProgressMeter, ignore_event
from mediamaker.formats.bcd import parse_store
from mediamaker.formats.bcd_devices import GptPartition, MbrPartition, Ramdisk
from mediamaker.install.changes import Step, split_changes
from mediamaker.install.disk_file import ImageFile, identify, open_disk
from mediamaker.install.recovery_add import AddRequest, prepare_recovery, write_recovery
from mediamaker.install.recovery_check import check_recovery
from mediamaker.install.undo import UndoFile, apply_undo
from mediamaker.install.windows_disk import WindowsDisk
from mediamaker.install.windows_volume import is_log_clean
from tests.install.windows_disk_rig import (
    DISK_GUID,
    ENVIRONMENT,
    IDS,
    MIB,
    SIGNATURE,
    Part,
    copy_rig,
    folder_in_memory,
    make_gpt_disk,
    make_mbr_disk,
    make_winre,
    tool,
)

SIZE = 32 * MIB
SEED = b"seed of the test"


@pytest.fixture(scope="module")
def folder():
    with folder_in_memory() as path:
        yield path


@pytest.fixture
def tmp_path(folder):
    path = Path(tempfile.mkdtemp(dir=folder))
    yield path
    shutil.rmtree(path)


@pytest.fixture(scope="module")
def winre(folder):
    return make_winre(folder)


@pytest.fixture(scope="module")
def gpt_disk(folder):
    return make_gpt_disk(folder)


@pytest.fixture(scope="module")
def mbr_disk(folder):
    return make_mbr_disk(folder, extra=1)


@pytest.fixture
def rig(request, tmp_path):
    """A copy of the disk that the test's ``rig`` parameter names."""
    return copy_rig(request.getfixturevalue(f"{request.param}_disk"), tmp_path)


@contextmanager
def prepared(rig, winre, **options):
    request = AddRequest(seed=SEED, winre=winre, **{"size": SIZE, **options})
    size = rig.path.stat().st_size
    with prepare_recovery(rig.path, disk_size=size, sector_size=512, request=request) as found:
        yield found


def meter():
    return ProgressMeter(ignore_event, time.monotonic)


def write(rig, found, undo_path, disk):
    return write_recovery(
        found,
        disk,
        undo_path=undo_path,
        identity=identify(rig.path, size=rig.path.stat().st_size, sector_size=512),
        made_at="2026-01-01T00:00:00Z",
        made_by="test",
        meter=meter(),
    )


def add(rig, winre, undo_path, **options):
    with prepared(rig, winre, **options) as found, open_disk(rig.path, writable=True) as disk:
        write(rig, found, undo_path, disk)
        return found


def undo(rig, undo_path):
    with UndoFile(undo_path) as file, open_disk(rig.path, writable=True) as disk:
        return apply_undo(file, disk, meter=meter())


def digest(path):
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def look(rig):
    data = rig.path.read_bytes()
    return WindowsDisk(
        lambda offset, size: data[offset : offset + size],
        disk_size=len(data),
        sector_size=512,
        what="x",
    )


def judge_ntfs(rig, part, tmp_path):
    """ntfsfix, ntfsresize's consistency check, and the driver."""
    volume = rig.extract(part, tmp_path / "judged.ntfs")
    said = tool("ntfsfix", "-n", volume)
    assert "processed successfully" in said
    said = tool("ntfsresize", "--info", "-f", "-f", volume)
    assert "You might resize" in said
    boot = volume.read_bytes()[:512]
    sectors = int.from_bytes(boot[0x28:0x30], "little")
    with volume.open("rb") as file:
        file.seek(part.size - 512)
        assert file.read(512) == boot, "the copy of the boot sector"
    assert (sectors + 1) * 512 <= part.size
    assert int.from_bytes(boot[0x1C:0x20], "little") == part.start // 512
    return volume


def tree_of(volume, tmp_path):
    """path: SHA-256 of every file, by ntfs-3g."""
    mountpoint = tmp_path / "judge.mnt"
    mountpoint.mkdir()
    tool("ntfs-3g", "-o", "ro", volume, mountpoint)
    try:
        return {
            str(path.relative_to(mountpoint)): digest(path)
            for path in mountpoint.rglob("*")
            if path.is_file()
        }
    finally:
        tool("umount", mountpoint)
        mountpoint.rmdir()


def sfdisk(rig):
    document = json.loads(tool("sfdisk", "--json", rig.path))["partitiontable"]
    parts = {}
    for item in document.pop("partitions"):
        parts[int(item.pop("node").removeprefix(str(rig.path)))] = item
    return document, parts


@pytest.mark.parametrize("rig", ["gpt", "mbr"], indirect=True)
def test_there_and_back(rig, winre, tmp_path):
    """The whole way: nothing else changes, WinRE would start, and undo restores every byte."""
    before_all = digest(rig.path)
    before_table, before_parts = sfdisk(rig)
    windows = rig.part("windows")
    others = {role: rig.read(part) for role, part in rig.parts.items() if role != "windows"}
    before_tree = tree_of(rig.extract(windows, tmp_path / "w.ntfs"), tmp_path)
    undo_path = tmp_path / "disk.undo"

    found = add(rig, winre, undo_path)

    # clusters really had to move
    moved = sum(c.size for c in found.changes if c.step == Step.FREE_SPACE)
    assert moved > 4 * MIB
    # the table: one entry shorter, one new, the others as they were
    after_table, after_parts = sfdisk(rig)
    assert after_table == before_table
    new = after_parts.pop(found.recovery.number)
    shrunk = after_parts[windows.number]
    assert shrunk["size"] * 512 == found.windows_size_after < windows.size
    before_parts[windows.number]["size"] = shrunk["size"]
    assert after_parts == before_parts
    assert new["start"] * 512 == windows.start + found.windows_size_after
    assert (new["size"], new["start"] % 2048) == (SIZE // 512, 0)
    if rig.kind == "gpt":
        assert new["type"].lower() == "de94bba4-06d1-4d40-a16a-bfd50179d6ac"
        assert sorted(new["attrs"].split()) == ["GUID:63", "RequiredPartition"]
        assert "No problems found" in tool("sgdisk", "-v", rig.path)
    else:
        assert new["type"] == "27"
    assert "No errors" in tool("sfdisk", "--verify", rig.path)
    # every other partition: byte for byte, but for the boot store
    store_role = "esp" if rig.kind == "gpt" else "system"
    for role, old in others.items():
        if role != store_role:
            assert rig.read(rig.part(role)) == old, role
    assert before_all != digest(rig.path)
    # the volumes, by foreign tools
    windows_after = Part(windows.number, windows.start, found.windows_size_after)
    volume = judge_ntfs(rig, windows_after, tmp_path)
    after_tree = tree_of(volume, tmp_path)
    reagent = "Windows/System32/Recovery/ReAgent.xml"
    assert {k: v for k, v in after_tree.items() if k != reagent} == {
        k: v for k, v in before_tree.items() if k != reagent
    }
    recovery_part = Part(found.recovery.number, found.recovery.start, SIZE)
    volume = judge_ntfs(rig, recovery_part, tmp_path)
    with volume.open("rb") as file:
        root = NTFS(file)
        opened = root.mft.get("Recovery/WindowsRE/Winre.wim").open().read()
    assert opened == winre.read_bytes()
    recovery_tree = tree_of(volume, tmp_path)
    assert set(recovery_tree) == {
        f"Recovery/WindowsRE/{name}" for name in ("Winre.wim", "boot.sdi", "ReAgent.xml")
    }
    assert recovery_tree["Recovery/WindowsRE/ReAgent.xml"] == after_tree[reagent]
    # the boot store, read by another way than ours
    store = read_store(rig, tmp_path)
    (loader,) = [item for item in store.objects if item.guid == IDS.os]
    (guid,) = loader.value(0x14000008)
    device = store.object(guid).value(0x11000001)
    if rig.kind == "gpt":
        reference = GptPartition(DISK_GUID, UUID(new["uuid"]))
    else:
        reference = MbrPartition(SIGNATURE, new["start"] * 512)
    assert isinstance(device, Ramdisk)
    assert (device.parent, device.path) == (reference, r"\Recovery\WindowsRE\Winre.wim")
    assert check_recovery(look(rig)).would_start
    # adding twice is refused
    with pytest.raises(TargetRefusedError, match="already"), prepared(rig, winre):
        pass

    assert undo(rig, undo_path).restored_size > 0
    assert digest(rig.path) == before_all


def read_store(rig, tmp_path):
    path = tmp_path / "read.bcd"
    path.unlink(missing_ok=True)
    if rig.kind == "gpt":
        image = f"{rig.path}@@{rig.part('esp').start}"
        tool("mcopy", "-n", "-i", image, "::/EFI/Microsoft/Boot/BCD", path)
        fat = rig.extract(rig.part("esp"), tmp_path / "esp.fat")
        tool("fsck.fat", "-n", fat)
    else:
        volume = rig.extract(rig.part("system"), tmp_path / "system.ntfs")
        path.write_bytes(
            subprocess.run(
                ["ntfscat", volume, "/Boot/BCD"], env=ENVIRONMENT, capture_output=True, check=True
            ).stdout
        )
    return parse_store(path.read_bytes(), what="judge")


@pytest.mark.parametrize("rig", ["gpt"], indirect=True)
def test_nothing_is_written_by_a_dry_run(rig, winre):
    before = digest(rig.path)
    with prepared(rig, winre) as found:
        assert found.report.would_start
        assert found.changes
        assert [change.step for change in found.changes] == sorted(c.step for c in found.changes)
    assert digest(rig.path) == before


@pytest.mark.parametrize("rig", ["gpt"], indirect=True)
def test_equal_requests_make_equal_disks(rig, winre, tmp_path):
    """But for the times of files: libntfs-3g and mtools write what the clock says."""
    with prepared(rig, winre) as one:
        pass
    with prepared(rig, winre) as two:
        assert two.recovery == one.recovery
        assert two.after == one.after


class PowerCutError(BaseException):
    pass


class FailingFile(ImageFile):
    writes_left = 1 << 30
    torn_size = 0

    def pwrite(self, offset, buffer):
        if self.writes_left == 0:
            super().pwrite(offset, buffer[: min(self.torn_size, len(buffer) - 512)])
            raise PowerCutError
        self.writes_left -= 1
        return super().pwrite(offset, buffer)


@pytest.mark.parametrize("rig", ["gpt", "mbr"], indirect=True)
def test_the_power_goes_at_any_write(rig, winre, tmp_path):
    """At the first write of every step, at the last of all, and at some between."""
    before = digest(rig.path)
    original = tmp_path / "original.img"
    subprocess.run(["cp", "--sparse=always", rig.path, original], check=True)
    with prepared(rig, winre) as found:
        pieces = list(split_changes(found.changes))
        firsts = {
            index
            for index, piece in enumerate(pieces)
            if index == 0 or piece.step != pieces[index - 1].step
        }
        chosen = sorted(firsts | {len(pieces) - 1} | set(range(5, len(pieces), 13)))
        assert len(firsts) >= 4
        for index in chosen:
            undo_path = tmp_path / f"{index}.undo"
            with FailingFile.open(rig.path, sector_size=512, writable=True) as disk:
                disk.writes_left, disk.torn_size = index, 1536
                with pytest.raises(PowerCutError):
                    write(rig, found, undo_path, disk)
            if pieces[index].step < Step.TABLE:
                # the old table still stands, and so do all partitions
                assert rig.read(Part(0, 0, 34 * 512)) == original.read_bytes()[: 34 * 512]
            undo(rig, undo_path)
            assert digest(rig.path) == before, index
            undo_path.unlink()


def refused(rig, winre, match, error=TargetRefusedError, **options):
    before = digest(rig.path)
    with pytest.raises(error, match=match) as caught, prepared(rig, winre, **options):
        pass
    assert digest(rig.path) == before, "something was changed"
    assert caught.value.hint
    return caught.value


@pytest.mark.parametrize("rig", ["gpt", "mbr"], indirect=True)
def test_a_dirty_volume_is_refused(rig, winre, tmp_path):
    windows = rig.part("windows")
    volume = rig.extract(windows, tmp_path / "w.ntfs")
    tool("ntfsfix", volume)  # marks it for a check, as its purpose is
    rig.write(windows.start, volume.read_bytes())
    error = refused(rig, winre, "dirty")
    assert "chkdsk" in error.hint


@pytest.mark.parametrize("rig", ["gpt"], indirect=True)
@pytest.mark.parametrize(
    ("head", "is_refused"),
    [(b"hibr", True), (b"HIBR", True), (b"huh!", True), (b"wake", False), (bytes(4), False)],
)
def test_a_hibernated_windows_is_refused(rig, winre, tmp_path, head, is_refused):
    windows = rig.part("windows")
    volume = rig.extract(windows, tmp_path / "w.ntfs")
    source = tmp_path / "hiberfil.sys"
    source.write_bytes(head + bytes(100_000))
    tool("ntfscp", "-q", volume, source, "/hiberfil.sys")
    rig.write(windows.start, volume.read_bytes())
    if is_refused:
        error = refused(rig, winre, "hibernated")
        assert "shutdown" in error.hint
    else:
        with prepared(rig, winre) as found:
            assert found.report.would_start


@pytest.mark.parametrize("rig", ["gpt"], indirect=True)
def test_a_log_with_work_in_it_is_refused(rig, winre):
    """A restart page that says that a client has the log open (bytes by the format's own text)."""
    windows = rig.part("windows")
    data = bytearray(rig.read(windows))
    disk = look(rig)
    entry = next(item for item in disk.table.entries if item.number == windows.number)
    files = disk.files(entry)
    record = files._record(2)
    (log,) = [item for item in record.attributes if item.kind == 0x80]
    at = log.runs[0].offset
    page = bytearray(4096)
    struct.pack_into("<4sHHQIIH", page, 0, b"RSTR", 0x1E, 9, 0, 4096, 4096, 0x30)
    struct.pack_into("<QHHHH", page, 0x30, 5, 1, 0xFFFF, 0, 0)
    data[at : at + 4096] = page
    rig.write(windows.start, data)
    refused(rig, winre, "not shut down cleanly")
    struct.pack_into("<QHHHH", page, 0x30, 5, 1, 0, 0xFFFF, 2)
    assert is_log_clean(bytes(page) + bytes(4096))
    assert is_log_clean(b"\xff" * 8192)
    assert not is_log_clean(bytes(8192))


@pytest.mark.parametrize("rig", ["gpt", "mbr"], indirect=True)
@pytest.mark.parametrize("number", [None, True])
def test_bitlocker_is_refused(rig, winre, number):
    windows = rig.part("windows")
    rig.write(windows.start + 3, b"-FVE-FS-")
    chosen = windows.number if number else None
    error = refused(rig, winre, "BitLocker", windows_number=chosen)
    assert "manage-bde" in error.hint


@pytest.mark.parametrize("rig", ["gpt"], indirect=True)
@pytest.mark.parametrize(("where", "word"), [(512, "first"), (-512, "second"), (1024, "first")])
def test_a_gpt_with_one_damaged_copy_is_refused(rig, winre, where, word):
    size = rig.path.stat().st_size
    offset = where if where > 0 else size + where
    rig.write(offset + 60, b"damage")
    error = refused(rig, winre, f"{word} copy is damaged")
    assert "sgdisk" in error.hint


@pytest.mark.parametrize("rig", ["gpt"], indirect=True)
def test_a_gpt_whose_copies_differ_is_refused(rig, winre, tmp_path):
    other = tmp_path / "other.img"
    shutil.copyfile(rig.path, other)
    tool("sgdisk", "-c", "4:other", other)
    size = rig.path.stat().st_size
    rig.write(size - 33 * 512, other.read_bytes()[-33 * 512 :])
    refused(rig, winre, "copies differ")


@pytest.mark.parametrize("rig", ["gpt"], indirect=True)
def test_too_little_room_says_how_much(rig, winre):
    error = refused(rig, winre, "too full", TargetTooSmallError, size=80 * MIB)
    assert error.needed_size > 12 * MIB
    error = refused(rig, winre, "does not hold WinRE", TargetTooSmallError, size=2 * MIB)
    assert error.needed_size > winre.stat().st_size
    refused(rig, winre, "too full", TargetTooSmallError, size=None)


def test_four_primary_partitions_are_refused(folder, winre, tmp_path):
    rig = make_mbr_disk(tmp_path, extra=2)
    error = refused(rig, winre, "four primary")
    assert "partition" in error.hint


def test_room_behind_windows_is_used_without_shrinking(tmp_path, winre):
    rig = make_gpt_disk(tmp_path, windows_size=48 * MIB, gap=36 * MIB, tail=False)
    windows = rig.part("windows")
    before = rig.read(windows)
    undo_path = tmp_path / "u"
    found = add(rig, winre, undo_path)
    assert found.windows_size_after == windows.size
    assert found.recovery.start == windows.start + windows.size
    after = rig.read(windows)
    changed = sum(
        before[at : at + 512] != after[at : at + 512] for at in range(0, windows.size, 512)
    )
    assert changed < 40, "only ReAgent.xml and what knows of it"
    assert "No problems" in tool("sgdisk", "-v", rig.path)
    assert check_recovery(look(rig)).would_start


@pytest.mark.parametrize("rig", ["gpt"], indirect=True)
def test_bad_sources_are_refused(rig, winre, tmp_path):
    no_wim = tmp_path / "no.wim"
    no_wim.write_bytes(b"no WIM at all" * 100)
    before = digest(rig.path)
    for options in (
        {"winre": no_wim},
        {"winre": tmp_path / "missing"},
        {"winre": winre, "boot_sdi": no_wim},
        {"winre": winre, "boot_sdi": tmp_path / "missing"},
    ):
        request = AddRequest(seed=SEED, size=SIZE, **options)
        with (
            pytest.raises(FormatError),
            prepare_recovery(
                rig.path, disk_size=rig.path.stat().st_size, sector_size=512, request=request
            ),
        ):
            pass
    not_bootable = tmp_path / "plain.wim"
    shutil.copyfile(winre, not_bootable)
    with not_bootable.open("r+b") as file:
        file.seek(0x78)
        file.write(bytes(4))
    with pytest.raises(FormatError, match="boot image"), prepared(rig, not_bootable):
        pass
    with pytest.raises(TargetRefusedError, match=r"Winre\.wim") as caught, prepared(rig, None):
        pass
    assert "--winre" in caught.value.hint
    with (
        pytest.raises(TargetRefusedError, match="no partition 9"),
        prepared(rig, winre, windows_number=9),
    ):
        pass
    assert digest(rig.path) == before


@pytest.mark.parametrize("rig", ["gpt"], indirect=True)
def test_a_windows_without_reagent_gets_one_that_is_protected(rig, winre, tmp_path):
    windows = rig.part("windows")
    volume = rig.extract(windows, tmp_path / "w.ntfs")
    mountpoint = tmp_path / "mnt"
    mountpoint.mkdir()
    tool("ntfs-3g", volume, mountpoint)
    (mountpoint / "Windows/System32/Recovery/ReAgent.xml").unlink()
    tool("umount", mountpoint)
    rig.write(windows.start, volume.read_bytes())
    found = add(rig, winre, tmp_path / "u")
    assert all(point.is_good for point in check_recovery(look(rig)).points)
    shrunk = Part(windows.number, windows.start, found.windows_size_after)
    volume = rig.extract(shrunk, tmp_path / "w.ntfs")
    said = tool("ntfssecaudit", "-v", volume, "/Windows/System32/Recovery/ReAgent.xml")
    assert "No errors were found" in said
    assert "Security key : none" not in said
    assert "O:" in said or "owner" in said.lower()


@pytest.mark.parametrize("rig", ["gpt"], indirect=True)
def test_an_undo_file_that_is_there_stops_it(rig, winre, tmp_path):
    taken = tmp_path / "taken"
    taken.write_text("important")
    before = digest(rig.path)
    with pytest.raises(UsageError, match="already"):
        add(rig, winre, taken)
    assert digest(rig.path) == before
    assert taken.read_text() == "important"
