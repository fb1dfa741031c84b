# SPDX-License-Identifier: GPL-3.0-or-later
"""Machines are started for real; a boot sector made here is what they run."""

import hashlib
import os
import struct
import subprocess
import sys
import time
import zlib
from pathlib import Path

import psutil
import pytest

from mediamaker.errors import BootError, TargetRefusedError, ToolError, UsageError
from mediamaker.units import MIB
from mediamaker.vm.boot import boot_target
from mediamaker.vm.disk import Bus, Disk, check_bus, device_id
from mediamaker.vm.firmware import Firmware, OvmfFiles, find_ovmf
from mediamaker.vm.machine import Machine
from mediamaker.vm.record import read_records
from mediamaker.vm.screen import Picture, pack_png, parse_ppm, parse_serial

# xor ax, ax; mov ds, ax; mov ss, ax; mov sp, 7C00h; sti
SET_UP = bytes.fromhex("31C0 8ED8 8ED0 BC007C FB")
# Say the text at 7D00h on COM1 and on the screen, then halt:
# mov si, 7D00h; again: lodsb; test al, al; jz done; mov dx, 3F8h; out dx, al; mov ah, 0Eh;
# mov bx, 7; int 10h; jmp again; done: hlt; jmp done
SAY = bytes.fromhex("BE007D AC 84C0 740D BAF803 EE B40E BB0700 CD10 EBEE F4 EBFD")
# As SAY, but on the screen only.
SHOW = bytes.fromhex("BE007D AC 84C0 7409 B40E BB0700 CD10 EBF2 F4 EBFD")
# Write the sector at 7C00h to LBA 5 of the disk that we were started from, halt on an error:
# mov si, 7DE0h; mov ax, 4300h; int 13h; jnc +3; hlt; jmp $-1
WRITE_LBA_5 = bytes.fromhex("BEE07D B80043 CD13 7303 F4 EBFD")
ADDRESS_PACKET = struct.pack("<BBHHHQ", 16, 0, 1, 0x7C00, 0, 5)
# mov byte [0472h], 0; jmp FFFF:0000: the reset entry of a PC
RESET = bytes.fromhex("EA0000FFFF")
# lidt [7DF0h] (a table of length 0); int3: a triple fault
CRASH = bytes.fromhex("0F011EF07D CC")


def make_disk(path: Path, code: bytes, text: str = "", *, size: int = MIB) -> Path:
    assert len(code) <= 0x100
    sector = code.ljust(0x100, b"\0") + text.encode() + b"\r\n\0"
    sector = sector.ljust(0x1E0, b"\0") + ADDRESS_PACKET
    path.write_bytes((sector.ljust(510, b"\0") + b"\x55\xaa").ljust(size, b"\0"))
    return path


@pytest.fixture
def token(vm_token: str) -> str:
    return vm_token


@pytest.fixture
def talker(tmp_path: Path, token: str) -> Path:
    return make_disk(tmp_path / "talker.img", SET_UP + SAY, token)


def digest(path: Path) -> str:
    return hashlib.sha256(path.read_bytes()).hexdigest()


def read_png(path: Path) -> tuple[int, int, bytes]:
    """Width, height and pixels of a 24-bit PNG, each CRC checked; from the specification."""
    data = path.read_bytes()
    assert data[:8] == b"\x89PNG\r\n\x1a\n"
    offset, chunks = 8, {}
    while offset < len(data):
        size, kind = struct.unpack_from(">I4s", data, offset)
        body = data[offset + 8 : offset + 8 + size]
        assert struct.unpack_from(">I", data, offset + 8 + size)[0] == zlib.crc32(kind + body)
        chunks[kind] = body
        offset += 12 + size
    width, height, depth, color = struct.unpack_from(">IIBB", chunks[b"IHDR"])
    assert (depth, color) == (8, 2)
    rows = zlib.decompress(chunks[b"IDAT"])
    assert len(rows) == height * (1 + 3 * width)
    row_size = 1 + 3 * width
    assert not any(rows[row * row_size] for row in range(height))
    pixels = b"".join(rows[row * row_size + 1 : (row + 1) * row_size] for row in range(height))
    return width, height, pixels


# A boot that is proven


@pytest.mark.parametrize("bus", list(Bus))
def test_bios_boots_from_every_bus(tmp_path, talker, token, bus):
    result = boot_target(
        talker, Firmware.BIOS, bus=bus, expect=token, timeout=30, directory=tmp_path / "vm"
    )
    assert result.proven
    assert result.matched_line == token
    assert result.words.startswith(f"proven: the serial line says '{token}'")
    assert result.bytes_read == (0 if bus is Bus.SD else 512)
    assert token in result.serial_log.read_text()


def test_text_on_the_screen_alone_is_proof_too(tmp_path, token):
    disk = make_disk(tmp_path / "shower.img", SET_UP + SHOW, token)
    result = boot_target(disk, Firmware.BIOS, expect=token, timeout=30, directory=tmp_path / "vm")
    assert result.proven
    assert token not in result.serial_log.read_text()
    assert "the screen says" in result.words


@pytest.mark.parametrize("bus", [Bus.NVME, Bus.USB, Bus.VIRTIO])
def test_a_disk_of_4096_byte_sectors(tmp_path, token, bus):
    # SeaBIOS does not start from such disks, which shows that they are such.
    disk = make_disk(tmp_path / "talker.img", SET_UP + SAY, token)
    with Machine(
        "4kn",
        [Disk(disk, bus, logical_sector_size=4096)],
        firmware=Firmware.BIOS,
        directory=tmp_path / "vm",
    ) as machine:
        machine.wait_for_screen_text("No bootable device", timeout=30)


# A boot that is not


def test_uefi_that_finds_no_loader_is_not_proven(tmp_path, talker, token):
    result = boot_target(talker, Firmware.UEFI, expect=token, timeout=60, directory=tmp_path / "vm")
    assert not result.proven
    assert "opened its shell: the serial line says 'Shell>" in result.words
    assert result.bytes_read > 512
    assert result.seconds < 55
    (picture,) = result.screenshots
    assert len(set(read_png(picture)[2])) > 2


def test_nothing_bootable(tmp_path):
    blank = tmp_path / "blank.img"
    blank.write_bytes(bytes(MIB))
    result = boot_target(blank, Firmware.BIOS, timeout=30, directory=tmp_path / "vm")
    assert not result.proven
    assert "No bootable device" in result.words
    assert "512 B were read" in result.words
    assert result.seconds < 25


@pytest.mark.parametrize(
    "text", ["BOOTMGR is missing", "Operating System not found", "Missing operating system"]
)
def test_a_loader_that_gives_up_is_named(tmp_path, text):
    disk = make_disk(tmp_path / "sad.img", SET_UP + SHOW, text)
    result = boot_target(
        disk, Firmware.BIOS, expect="never said", timeout=60, directory=tmp_path / "vm"
    )
    assert not result.proven
    assert f"the screen says '{text}'" in result.words
    assert result.seconds < 30


def test_nothing_expected_is_never_proof(tmp_path, talker):
    result = boot_target(talker, Firmware.BIOS, timeout=60, still_for=2, directory=tmp_path / "vm")
    assert not result.proven
    assert "nothing to expect was named" in result.words
    assert "look at the screenshot" in result.words
    assert result.seconds < 30


def test_another_token_is_not_proof(tmp_path, talker, token):
    result = boot_target(
        talker, Firmware.BIOS, expect=token + "x", timeout=2, directory=tmp_path / "vm"
    )
    assert not result.proven
    assert "did not appear within 2 s" in result.words


@pytest.mark.parametrize("code", [RESET, CRASH], ids=["reset", "crash"])
def test_a_guest_that_resets_for_ever(tmp_path, code):
    disk = make_disk(tmp_path / "crash.img", SET_UP + code)
    result = boot_target(
        disk, Firmware.BIOS, expect="never said", timeout=60, directory=tmp_path / "vm"
    )
    assert not result.proven
    assert "resets itself again and again" in result.words
    assert result.reset_count >= 3


def test_an_empty_expectation_is_refused(tmp_path, talker):
    with pytest.raises(UsageError, match="every screen"):
        boot_target(talker, Firmware.BIOS, expect=" ", directory=tmp_path / "vm")


# What must never happen


@pytest.mark.parametrize("bus", [Bus.USB, Bus.NVME])
def test_a_snapshot_is_never_written(tmp_path, token, bus):
    disk = make_disk(tmp_path / "writer.img", SET_UP + WRITE_LBA_5 + SAY, token)
    before = digest(disk), disk.stat().st_mtime_ns
    disk.chmod(0o444)
    with Machine(
        "writer", [Disk(disk, bus)], firmware=Firmware.BIOS, directory=tmp_path / "vm"
    ) as machine:
        # The token comes after the write: the guest believes that it was done.
        machine.wait_for_serial(token, timeout=30)
        assert machine.block_stats().bytes_written == 512
    assert (digest(disk), disk.stat().st_mtime_ns) == before


def test_without_snapshot_the_same_guest_does_write(tmp_path, token):
    disk = make_disk(tmp_path / "writer.img", SET_UP + WRITE_LBA_5 + SAY, token)
    with Machine(
        "writer",
        [Disk(disk, Bus.USB, snapshot=False)],
        firmware=Firmware.BIOS,
        directory=tmp_path / "vm",
    ) as machine:
        machine.wait_for_serial(token, timeout=30)
        machine.execute("quit")
        time.sleep(0.5)
    data = disk.read_bytes()
    assert data[5 * 512 : 6 * 512] == data[:512]


def test_a_file_in_use_can_be_started(tmp_path, talker, token):
    directory = tmp_path / "vm"
    with Machine(
        "first", [Disk(talker, snapshot=False)], firmware=Firmware.BIOS, directory=directory
    ) as first:
        first.wait_for_serial(token, timeout=30)
        with Machine(
            "second", [Disk(talker)], firmware=Firmware.BIOS, directory=directory
        ) as second:
            second.wait_for_serial(token, timeout=30)
    assert first.directory != second.directory


def find_qemus(name: str) -> list[psutil.Process]:
    return [
        process
        for process in psutil.process_iter(["cmdline"])
        if f"mediamaker-{name}" in (process.info["cmdline"] or [])
    ]


def test_a_disk_that_was_pulled_does_not_keep_the_record_away(tmp_path, talker):
    disks = [Disk(talker), Disk(make_disk(tmp_path / "other.img", SET_UP + SAY, "other"))]
    with Machine("pulled", disks, firmware=Firmware.BIOS, directory=tmp_path) as machine:
        machine.execute("device_del", {"id": device_id(1)})
        time.sleep(1)  # an interrupt of QEMU's own, and no guest is asked
        with pytest.raises(UsageError, match="has no disk 1"):
            machine.block_stats(1)
    (record,) = read_records(tmp_path)
    assert [disk.name for disk in record.disks] == ["talker.img", "other.img"]
    assert record.disks[1].bytes_read is None


def test_an_exception_leaves_no_machine_and_keeps_the_logs(tmp_path, talker):
    machine = Machine("boom", [Disk(talker)], firmware=Firmware.BIOS, directory=tmp_path / "vm")
    with pytest.raises(KeyboardInterrupt), machine:  # noqa: PT012 - the block is the test
        assert find_qemus(machine.name)
        raise KeyboardInterrupt
    assert not find_qemus(machine.name)
    assert {path.name for path in machine.directory.iterdir()} >= {"serial.log", "qemu.log"}
    with pytest.raises(ToolError, match="not running"):
        machine.poll()


def test_a_killed_parent_leaves_no_machine(tmp_path, talker):
    program = (
        "import sys, time\n"
        "from pathlib import Path\n"
        "from mediamaker.vm.machine import Disk, Firmware, Machine\n"
        "m = Machine('orphan', [Disk(Path(sys.argv[1]))], firmware=Firmware.BIOS,"
        " directory=Path(sys.argv[2]))\n"
        "m.__enter__(); print(m.name, flush=True); time.sleep(60)\n"
    )
    child = subprocess.Popen(
        [sys.executable, "-c", program, talker, tmp_path / "vm"], stdout=subprocess.PIPE, text=True
    )
    with child:
        name = child.stdout.readline().strip()
        (qemu,) = find_qemus(name)
        child.kill()
    qemu.wait(timeout=10)
    assert not find_qemus(name)


# Machines


def test_a_failed_wait_tells_and_keeps_everything(tmp_path, talker, token):
    with Machine(
        "wait", [Disk(talker)], firmware=Firmware.BIOS, directory=tmp_path / "vm"
    ) as machine:
        machine.wait_for_serial(token, timeout=30)
        with pytest.raises(BootError, match="'absent' did not appear") as caught:
            machine.wait_for_serial("absent", timeout=1)
        assert token in caught.value.message
        assert str(machine.serial_log) in caught.value.hint
        assert str(machine.screenshots[-1]) in caught.value.hint


def test_screenshots_are_real_pictures(tmp_path, talker, token):
    with Machine(
        "shot", [Disk(talker)], firmware=Firmware.BIOS, directory=tmp_path / "vm"
    ) as machine:
        machine.wait_for_screen_text(token, timeout=30)
        first = machine.screenshot("said")
        machine.wait_for_still_screen(still_for=1, timeout=20)
        second = machine.screenshot("still")
        picture = machine.picture()
    assert [first.name, second.name] == ["screenshot-01-said.png", "screenshot-02-still.png"]
    width, height, pixels = read_png(first)
    assert (width, height) == (720, 400)
    assert len(set(pixels)) == 2
    assert picture.is_like(Picture(*read_png(second)))
    assert not picture.is_blank


def test_keys_reach_the_guest(tmp_path):
    # again: mov ah, 0; int 16h; mov dx, 3F8h; out dx, al; jmp again
    echo = bytes.fromhex("B400 CD16 BAF803 EE EBF6")
    disk = make_disk(tmp_path / "echo.img", SET_UP + echo)
    typed = r"""Ab1 -=[]\;'`,./!@#$%^&*()_+{}|:"~<>?Z"""
    with Machine("echo", [Disk(disk)], firmware=Firmware.BIOS, directory=tmp_path) as machine:
        machine.wait_for_screen_text("Booting from", timeout=30)
        time.sleep(0.3)
        machine.type_text(typed)
        machine.wait_for_serial(typed, timeout=10)
        with pytest.raises(UsageError, match="can't be typed"):
            machine.type_text("\N{EURO SIGN}")


def test_qemu_that_refuses_its_arguments_is_explained(tmp_path, talker):
    machine = Machine(
        "bad",
        [Disk(talker)],
        firmware=Firmware.BIOS,
        directory=tmp_path / "vm",
        extra_arguments=["-device", "no-such-device"],
    )
    with pytest.raises(ToolError, match="no-such-device"), machine:
        pytest.fail("started")


def test_missing_programs_name_their_package(tmp_path, talker, monkeypatch):
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(ToolError) as caught:
        boot_target(talker, Firmware.BIOS, directory=tmp_path / "vm")
    assert "qemu-system-x86" in caught.value.hint
    with pytest.raises(ToolError) as caught:
        find_ovmf([OvmfFiles(tmp_path / "code", tmp_path / "vars")])
    assert "apt install ovmf" in caught.value.hint


def test_bad_targets_are_refused(tmp_path, talker):
    directory = tmp_path / "vm"
    empty = tmp_path / "empty.img"
    empty.touch()
    fifo = tmp_path / "directory"
    fifo.mkdir()
    for path, words in ((empty, "is empty"), (fifo, "neither"), (tmp_path / "none", "No such")):
        with pytest.raises(TargetRefusedError, match=words):
            boot_target(path, Firmware.BIOS, directory=directory)
    with pytest.raises(UsageError, match="512 bytes"):
        boot_target(
            talker, Firmware.BIOS, bus=Bus.AHCI, logical_sector_size=4096, directory=directory
        )
    odd = tmp_path / "odd.img"
    odd.write_bytes(bytes(3 * MIB))
    with pytest.raises(UsageError, match="power of two"):
        boot_target(odd, Firmware.BIOS, bus=Bus.SD, directory=directory)


@pytest.mark.parametrize(
    ("bus", "logical_size", "physical_size"), [("sd", 512, 4096), ("usb", 4096, 512)]
)
def test_a_disk_can_not_keep_what_its_bus_does_not_know(tmp_path, bus, logical_size, physical_size):
    disk = Disk(
        tmp_path, Bus(bus), logical_sector_size=logical_size, physical_sector_size=physical_size
    )
    with pytest.raises(UsageError, match=f"can't keep {physical_size} at a time"):
        check_bus(disk, 1 << 20)


# Parsing


def test_ppm_and_png_hold_the_same_pixels(tmp_path):
    pixels = os.urandom(7 * 5 * 3)
    picture = parse_ppm(b"P6\n7 5\n255\n" + pixels)
    assert picture == Picture(7, 5, pixels)
    path = tmp_path / "random.png"
    path.write_bytes(pack_png(picture))
    assert read_png(path) == (7, 5, pixels)
    for bad in (b"", b"P5\n7 5\n255\n" + pixels, b"P6\n7 5\n255\n" + pixels[:-1]):
        with pytest.raises(ToolError):
            parse_ppm(bad)


def test_terminal_sequences_do_not_tear_a_token_apart():
    said = b"\x1b[2J\x1b[01;01H\x1b[0m\x1b[37m\x1b[40mto\x1b[01;03Hken\r\n\x1b=\xffx"
    assert parse_serial(said) == "token\n\N{REPLACEMENT CHARACTER}x"
