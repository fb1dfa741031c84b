# SPDX-License-Identifier: GPL-3.0-or-later
"""What the tests of our boot code share: a boot under SeaBIOS, and what it must say.

A boot counts only with the token of the very BOOTMGR that the test put there.
"""

from __future__ import annotations

import struct
import subprocess
import zlib
from pathlib import Path

from bootcode_disk import VolumeFile, make_disk
from bootcode_qemu import Qemu

HERE = Path(__file__).resolve().parent
MIB = 1 << 20
TOKEN = "BOOTCODE-7f3a"
START_LBA = 2048
VERDICT = r"STANDIN BIOS (OK|FAIL)"
EBDA_ROOM = 0x9FC00 - 0x20000  # what SeaBIOS leaves between 2000:0000 and its EBDA
CODE_TEXT = "Boot code of this volume is damaged"


def disk_of(tmp_path: Path, volume: VolumeFile, *, start_lba: int = START_LBA) -> Path:
    """A disk with this NTFS or exFAT volume."""
    return make_disk(tmp_path / "disk.img", volume, start_lba=start_lba, type_code="7")


def drive(disk: Path) -> str:
    return f"if=ide,format=raw,file={disk}"


def boot(tmp_path: Path, disk: Path, *, hidden: int = START_LBA, bps: int = 512, **options) -> None:
    """The stand-in says this run's token, and what it was handed."""
    with Qemu(tmp_path, drive(disk), **options) as machine:
        text = machine.wait_serial(VERDICT)
    assert f"BIOS OK token={TOKEN} dl=80 bps={bps:04x} hidden={hidden:08x}" in text


def boot_volume(
    tmp_path: Path, volume: VolumeFile, *, start_lba: int = START_LBA, **options
) -> None:
    """:func:`boot`, of a disk with this NTFS or exFAT volume."""
    boot(tmp_path, disk_of(tmp_path, volume, start_lba=start_lba), hidden=start_lba, **options)


def message(
    tmp_path: Path, disk: Path, expected: str, *, restart: bool = False, floppy: Path | None = None
) -> None:
    """The boot stops with this on screen."""
    with Qemu(tmp_path, drive(disk), floppy=floppy) as machine:
        screen = machine.wait_screen("Press any key to restart")
        # SeaBIOS leaves its own line unfinished or not; ours ends where it should.
        assert any(line.endswith(expected) for line in screen.splitlines()), screen
        assert TOKEN not in machine.serial()
        if restart:
            machine.press("spc")
            machine.wait_end()


def shim(tmp_path: Path, **values: int) -> Path:
    """A boot floppy, see ``bootcode_shim.asm``."""
    settings = {
        "SECTOR_SHIFT": 0,
        "STRICT": 0,
        "FIRST_LBA": 0,
        "SECTOR_COUNT": 1,
        "LOAD_SEGMENT": 0,
        "LOAD_OFFSET": 0x7C00,
        "PASS_DL": 0x80,
        "SI_LBA": 0,
        "SET_BPS": -1,
        "SET_HIDDEN": -1,
    }
    assert values.keys() <= settings.keys()
    output = tmp_path / "floppy.img"
    defines = [f"-D{name}={value}" for name, value in (settings | values).items()]
    subprocess.run(
        ["nasm", "-Werror", "-f", "bin", *defines, "-o", output, HERE / "bootcode_shim.asm"],
        check=True,
    )
    with output.open("r+b") as floppy:
        floppy.truncate(1_474_560)
    return output


def failing_reads(disk: Path, sector: int, *, once: bool) -> str:
    """A drive that answers reads of one sector with EIO."""
    return (
        f"if=ide,driver=raw,file.driver=blkdebug,file.image.driver=file,file.image.filename={disk}"
        f",file.inject-error.0.event=read_aio,file.inject-error.0.sector={sector}"
        f",file.inject-error.0.once={'on' if once else 'off'}"
    )


def boot_with_failing_reads(tmp_path: Path, disk: Path, sector: int, *, once: bool) -> None:
    """Reads are tried again; ones that always fail are said."""
    with Qemu(tmp_path, failing_reads(disk, sector, once=once)) as machine:
        if once:
            assert f"BIOS OK token={TOKEN} " in machine.wait_serial(VERDICT)
            assert machine.failed_reads() == 1
        else:
            assert "Disk read error" in machine.wait_screen("Press any key to restart")
            assert machine.failed_reads() >= 3


def build_with_zero_end(data: bytes, zeros: int) -> bytes:
    """The stand-in with its filling's end zero, and the checksum that belongs to it."""
    changed = bytearray(data[: len(data) - zeros] + bytes(zeros))
    changed[0x24:0x28] = bytes(4)
    struct.pack_into("<I", changed, 0x24, zlib.crc32(changed))
    return bytes(changed)
