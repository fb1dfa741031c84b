# SPDX-License-Identifier: GPL-3.0-or-later
"""From block reads to names, and from names to verdicts: each needs its evidence."""

from __future__ import annotations

import json
import subprocess
import uuid
from dataclasses import replace
from xml.etree import ElementTree

import pytest

from mediamaker.formats.bcd import pack_store
from mediamaker.formats.bcd_devices import GptPartition, LocatePath
from mediamaker.plan.boot_store import pe_store
from mediamaker.sources.disk_map import map_disk
from mediamaker.sources.file_map import Kind
from mediamaker.units import KIB, MIB
from mediamaker.vm.nbd import BlockRead, ReadLog
from mediamaker.vm.trace import build_trace
from mediamaker.vm.trace_picture import draw_timeline
from mediamaker.vm.trace_show import show_trace, trace_to_json
from mediamaker.vm.verdict import Outcome, judge

START = MIB
LOADER = r"\efi\boot\bootx64.efi"
STORE = r"\efi\microsoft\boot\bcd"
SDI, WIM = r"\boot\boot.sdi", r"\sources\boot.wim"


def run(*command):
    subprocess.run([str(word) for word in command], check=True, capture_output=True, timeout=60)


def pe_program(text=b""):
    """A UEFI program for x64 as far as anybody looks, of 40 KiB."""
    data = bytearray(40 * KIB)
    data[:2], data[0x3C] = b"MZ", 0x80
    data[0x80:0x86] = b"PE\0\0\x64\x86"
    data[0x98:0x9A] = b"\x0b\x02"
    data[0x1000 : 0x1000 + len(text)] = text
    return bytes(data)


BOOT_MANAGER = pe_program("\\EFI\\Microsoft\\Boot\\BCD".encode("utf-16-le"))
FILES = {
    LOADER: BOOT_MANAGER,
    STORE: pack_store(pe_store("uefi")),
    SDI: b"sdi" * 30_000,
    WIM: b"wim" * 300_000,
    r"\setup.exe": b"MZ" * 3000,
}


class Stick:
    """A disk with one FAT volume, made by sfdisk or sgdisk, mkfs.fat and mtools."""

    def __init__(self, folder, files, *, table="mbr"):
        self.path = folder / "stick.img"
        volume = folder / "volume.img"
        for path, size in ((self.path, 32 * MIB), (volume, 24 * MIB)):
            with path.open("wb") as file:
                file.truncate(size)
        if table == "gpt":
            run("sgdisk", "-n", "1:2048:+24M", "-t", "1:ef00", self.path)
        else:
            subprocess.run(
                ["sfdisk", "--quiet", self.path], check=True, capture_output=True,
                input=b"label: dos\nstart=2048, size=49152, type=c, bootable\n",
            )  # fmt: skip
        run("mkfs.fat", "-F", "16", "-s", "2", volume)
        made = set()
        for name, data in files.items():
            parts = name.strip("\\").split("\\")
            for depth in range(1, len(parts)):
                if parts[:depth] not in [list(item) for item in made]:
                    run("mmd", "-i", volume, "::" + "/".join(parts[:depth]))
                    made.add(tuple(parts[:depth]))
            (folder / "file").write_bytes(data)
            run("mcopy", "-i", volume, folder / "file", "::" + "/".join(parts))
        with self.path.open("r+b") as file:
            file.seek(START)
            file.write(volume.read_bytes())
        self.data = self.path.read_bytes()
        self.map = map_disk(self.pread, len(self.data), "stick")

    def pread(self, offset, size):
        return self.data[offset : offset + size]

    def place(self, name):
        """(start, size) on the disk; every file is in one piece."""
        ((start, size),) = self.map.volumes[0].files.find(name).pieces
        return START + start, size

    def reads(self, *names):
        """Each file whole, in reads of 32 KiB, a second apart."""
        found = [BlockRead(0.0, 0, 512), BlockRead(0.1, START, 512)]
        for seconds, name in enumerate(names, 1):
            start, size = self.place(name)
            found += [
                BlockRead(seconds + at / size / 10, start + at, min(32 * KIB, size - at))
                for at in range(0, size, 32 * KIB)
            ]
        return found

    def trace(self, reads):
        return build_trace(ReadLog(tuple(reads)), self.map)

    def judge(self, reads, *, is_uefi=True):
        return judge(self.trace(reads), self.map, self.pread, is_uefi=is_uefi)


@pytest.fixture(scope="module")
def stick(tmp_path_factory):
    return Stick(tmp_path_factory.mktemp("stick"), FILES)


# Names


def test_order_amount_and_time(stick):
    start, size = stick.place(WIM)
    reads = [
        *stick.reads(LOADER),
        BlockRead(5.0, start, 4096),
        BlockRead(5.1, start + 2048, 4096),
        BlockRead(9.0, start, 4096),
    ]
    trace = stick.trace(reads)
    assert [item.name for item in trace.items] == ["MBR", "boot sector", LOADER, WIM]
    assert [item.order for item in trace.items] == [1, 2, 3, 4]
    loader, wim = trace.items[2:]
    assert (loader.percent, loader.is_whole, loader.first) == (100, True, 1.0)
    assert (wim.read_size, wim.request_size, wim.request_count) == (6144, 12288, 3)
    assert wim.size == size
    assert not wim.is_whole
    assert [(burst.first, burst.last, burst.size) for burst in wim.bursts] == [
        (5.0, 5.1, 8192),
        (9.0, 9.0, 4096),
    ]
    assert (trace.seconds, trace.request_count) == (9.0, len(reads))
    assert trace.find(1, WIM.upper()) is wim
    assert trace.find(0, WIM) is None


def test_one_byte_short_of_all_is_not_100_percent(stick):
    start, size = stick.place(WIM)
    (item,) = stick.trace([BlockRead(0, start, size - 1)]).items
    assert item.percent < 100
    assert not item.is_whole


def test_in_passing_is_known_from_wanted(stick):
    start, size = stick.place(LOADER)
    after = next(name for name in FILES if name != LOADER and stick.place(name)[0] >= start + size)
    low, high = start + size - 1024, stick.place(after)[0] + 512
    items = {item.name: item for item in stick.trace([BlockRead(0, low, high - low)]).items}
    assert items[LOADER].is_in_passing
    assert items[after].is_in_passing
    items = {
        item.name: item
        for item in stick.trace([BlockRead(0, low, high - low), BlockRead(1, start, 512)]).items
    }
    assert not items[LOADER].is_in_passing
    assert items[after].is_in_passing


def test_what_has_no_name_is_counted_too(stick):
    (item,) = stick.trace([BlockRead(0, 30 * MIB, 4096)]).items
    assert (item.kind, item.read_size) == (None, 4096)


# Verdicts


def test_nothing_read_at_all(stick):
    verdict = stick.judge([])
    assert verdict.outcome is Outcome.LOADER_NOT_READ
    assert "nothing of the disk" in verdict.words


def test_the_loader_is_there_and_was_not_read(stick):
    verdict = stick.judge(stick.reads())
    assert verdict.outcome is Outcome.LOADER_NOT_READ
    assert LOADER in verdict.words


def test_a_lost_log_is_no_evidence_of_absence(stick):
    log = ReadLog(tuple(stick.reads()))
    log.lost_count = 1
    verdict = judge(build_trace(log, stick.map), stick.map, stick.pread, is_uefi=True)
    assert verdict.outcome is Outcome.UNKNOWN


def test_half_a_loader_is_unknown(stick):
    start, _ = stick.place(LOADER)
    verdict = stick.judge([*stick.reads(), BlockRead(2, start, 4096)])
    assert verdict.outcome is Outcome.UNKNOWN
    assert "not read to its end" in verdict.words


def test_the_store_is_there_and_was_not_read(stick):
    verdict = stick.judge(stick.reads(LOADER))
    assert verdict.outcome is Outcome.UNKNOWN
    assert "nothing of" in verdict.words


def test_reached_the_ramdisk(stick):
    verdict = stick.judge(stick.reads(LOADER, STORE, SDI, WIM))
    assert verdict.outcome is Outcome.REACHED_RAMDISK


def test_all_but_the_end_of_the_wim_is_not_the_ramdisk(stick):
    reads = stick.reads(LOADER, STORE, SDI, WIM)[:-1]
    verdict = stick.judge(reads)
    assert verdict.outcome is Outcome.UNKNOWN
    assert any(WIM in known and "100" not in known for known in verdict.known)


def broken(tmp_path, *, without=(), **changed):
    files = {name: data for name, data in FILES.items() if name not in without}
    return Stick(tmp_path, files | {r"\x": b"x"} | changed.get("files", {}),
                 table=changed.get("table", "mbr"))  # fmt: skip


def test_no_loader(tmp_path):
    stick = broken(tmp_path, without=[LOADER])
    verdict = stick.judge(stick.reads())
    assert verdict.outcome is Outcome.LOADER_NOT_READ
    assert "no FAT volume has" in verdict.words


@pytest.mark.parametrize(
    ("data", "why"),
    [
        (bytes(40 * KIB), "zero"),
        (b"text" * 9000, "MZ"),
        (BOOT_MANAGER[:0x84] + b"\x64\xaa" + BOOT_MANAGER[0x86:], "arm64"),
    ],
)
def test_a_loader_that_is_none(tmp_path, data, why):
    stick = broken(tmp_path, files={LOADER: data})
    verdict = stick.judge(stick.reads(LOADER))
    assert verdict.outcome is Outcome.LOADER_UNUSABLE
    assert why in verdict.words


def test_no_store(tmp_path):
    stick = broken(tmp_path, without=[STORE])
    verdict = stick.judge(stick.reads(LOADER))
    assert verdict.outcome is Outcome.BCD_NOT_FOUND


def test_another_loader_is_not_blamed_for_having_no_store(tmp_path):
    stick = broken(tmp_path, without=[STORE], files={LOADER: pe_program(b"GRUB")})
    assert stick.judge(stick.reads(LOADER)).outcome is Outcome.OTHER_LOADER


@pytest.mark.parametrize("data", [b"\0" * 9000, b"regf" + bytes(9000)])
def test_a_store_that_is_none(tmp_path, data):
    stick = broken(tmp_path, files={STORE: data})
    assert stick.judge(stick.reads(LOADER, STORE)).outcome is Outcome.BCD_UNUSABLE


@pytest.mark.parametrize("is_there", [True, False])
def test_a_partition_by_its_guids(tmp_path, is_there):
    (tmp_path / "first").mkdir()
    table = broken(tmp_path / "first", table="gpt").map.table
    guid = table.partitions[0].unique_guid if is_there else uuid.UUID(int=7)
    folder = tmp_path / "second"
    folder.mkdir()
    store = pack_store(pe_store("uefi", media=GptPartition(table.disk_guid, guid)))
    stick = broken(folder, table="gpt", files={STORE: store})
    # sgdisk gave it identities of its own: those of the first disk belong there.
    run("sgdisk", "-U", table.disk_guid, "-u", f"1:{table.partitions[0].unique_guid}", stick.path)
    stick.data = stick.path.read_bytes()
    stick.map = map_disk(stick.pread, len(stick.data), "stick")
    verdict = stick.judge(stick.reads(LOADER, STORE))
    if is_there:
        assert verdict.outcome is Outcome.UNKNOWN
    else:
        assert verdict.outcome is Outcome.BCD_DEVICE_MISSING
        assert str(guid) in verdict.words.lower()


@pytest.mark.parametrize(("path", "is_there"), [(r"\setup.exe", True), (r"\other", False)])
def test_a_partition_by_a_path(tmp_path, path, is_there):
    store = pack_store(pe_store("uefi", media=LocatePath(path)))
    stick = broken(tmp_path, files={STORE: store})
    outcome = stick.judge(stick.reads(LOADER, STORE)).outcome
    assert outcome is (Outcome.UNKNOWN if is_there else Outcome.BCD_DEVICE_MISSING)


def test_bios(tmp_path):
    files = {r"\bootmgr": b"\xe9" + bytes(9000), r"\boot\bcd": pack_store(pe_store("bios"))}
    stick = Stick(tmp_path, files | {SDI: FILES[SDI], WIM: FILES[WIM]})
    names = (r"\bootmgr", r"\boot\bcd", SDI, WIM)
    expected = [Outcome.LOADER_NOT_READ, *[Outcome.UNKNOWN] * 3, Outcome.REACHED_RAMDISK]
    for count, outcome in enumerate(expected):
        assert stick.judge(stick.reads(*names[:count]), is_uefi=False).outcome is outcome


# Shown


def test_the_picture_is_the_same_for_the_same_trace(stick):
    reads = stick.reads(LOADER, STORE, SDI, WIM)
    verdict = stick.judge(reads)
    picture = draw_timeline(stick.trace(reads), verdict)
    assert picture == draw_timeline(stick.trace(reads), verdict)
    root = ElementTree.fromstring(picture)
    rows = root.findall("{http://www.w3.org/2000/svg}g")
    titles = [row[0].text for row in rows]
    assert titles[2:] == [LOADER, STORE, SDI, WIM]
    bars = [row.findall("{http://www.w3.org/2000/svg}rect")[1] for row in rows[2:]]
    places = [float(bar.get("x")) for bar in bars]
    assert places == sorted(places)
    assert places[0] < places[-1]


def test_the_picture_of_nothing_and_of_hostile_names(stick):
    ElementTree.fromstring(draw_timeline(stick.trace([]), stick.judge([])))
    trace = stick.trace(stick.reads(LOADER))
    odd = "\\<a href='x'>&\x01\ud800" + "n" * 200
    items = tuple(replace(item, name=odd) for item in trace.items)
    ElementTree.fromstring(draw_timeline(replace(trace, items=items), stick.judge([])))


def test_text_and_json_say_the_same(stick):
    reads = stick.reads(LOADER, STORE)
    trace, verdict = stick.trace(reads), stick.judge(reads)
    text = show_trace(trace, verdict)
    packed = json.loads(json.dumps(trace_to_json(trace, verdict)))
    assert packed["verdict"] in text
    assert [item["name"] for item in packed["items"]] == [item.name for item in trace.items]
    for item in packed["items"]:
        if item["kind"] == Kind.FILE:
            assert item["name"] in text
    assert packed["reads"] == len(reads)
