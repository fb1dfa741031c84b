# SPDX-License-Identifier: GPL-3.0-or-later
"""Builds the stand-ins for BOOTMGR and bootx64.efi, each with a token of its own.

A test that sees the token knows that *this* build was started as the real program must be,
and not one left over from an earlier run. Nothing here is shipped.
"""

from __future__ import annotations

import functools
import hashlib
import re
import shlex
import struct
import subprocess
import tempfile
import zlib
from pathlib import Path

from mediamaker.errors import ToolError, UsageError

HERE = Path(__file__).resolve().parent

BOOTMGR_MAGIC = b"MEDIAMAKER-BIOS!"
BOOTX64_MAGIC = b"MEDIAMAKER-UEFI!"
LOADER_MAGIC = b"MEDIAMAKER-LOAD!"
TOKEN_MAGIC = b"MEDIAMAKER-TOKN!"
TOKEN_SIZE_MAX = 32
"""Keeps the UEFI verdict under 80 columns, where the firmware's serial console breaks lines."""

MANAGER = HERE / "boot_manager"
_MANAGER_PARTS = (
    "text", "disks", "ntfs", "fat", "files", "hive", "store", "device", "loader", "vhd", "manager"
)  # fmt: skip
# Without the last option memset's own loop would be compiled into a call of memset.
_UEFI_COMPILE = shlex.split(
    "-O2 -Wall -Wextra -Werror -m64 -ffreestanding -fshort-wchar -fpie"
    " -fvisibility=hidden -fno-stack-protector -mno-red-zone -fcf-protection=none"
    " -fno-asynchronous-unwind-tables -fno-ident -fno-tree-loop-distribute-patterns"
)
_UEFI_LINK = shlex.split(
    "-m i386pep --subsystem 10 -e efi_main --image-base 0 -s --no-insert-timestamp"
)

# clang has every target in one package, and lld writes PE files itself: binutils 2.40 can't, for
# aarch64.
_ARM_COMPILE = shlex.split(
    "--target=aarch64-unknown-windows -std=c11 -O2 -Wall -Wextra -Werror -ffreestanding"
    " -fshort-wchar -fno-stack-protector -fno-builtin"
)
_ARM_LINK = shlex.split("/nologo /subsystem:efi_application /entry:efi_main /nodefaultlib /Brepro")

_TOKEN_RE = re.compile(rf"[A-Za-z0-9-]{{1,{TOKEN_SIZE_MAX}}}")
_HEADER = struct.Struct("<II40s")  # length, CRC-32 with itself zero, token
_CRC_OFFSET = 4


def build_bootmgr(token: str, *, size: int = 493_000) -> bytes:
    """A BOOTMGR of ``size`` bytes that says ``token`` when it was started by the contract.

    The default is as big as today's real ones and on purpose not a whole number of sectors.

    Raises:
        ToolError: nasm is missing or failed.
        UsageError: a token or a size that can't be.
    """
    with tempfile.TemporaryDirectory() as name:
        output = Path(name) / "bootmgr"
        _run(
            ["nasm", "-Werror", "-f", "bin", "-o", str(output), str(HERE / "bootmgr.asm")],
            package="nasm",
        )
        program = output.read_bytes()
    return _patch(_fill(program, size), BOOTMGR_MAGIC, token)


def build_bootx64(token: str, work_dir: Path) -> bytes:
    """A PE32+ UEFI application that says ``token`` when its volume is whole.

    ``work_dir`` takes the object file and the program. See ``bootx64.c`` for what it reads
    from its volume (``\\standin.sum``, ``\\standin.tok``).

    Raises:
        ToolError: gcc or ld is missing or failed.
        UsageError: a token that can't be.
    """
    return _patch(_build_x64("bootx64", work_dir), BOOTX64_MAGIC, token)


def build_bootaa64(token: str, work_dir: Path) -> bytes:
    """As :func:`build_bootx64`, from the same source, for aarch64.

    Raises:
        ToolError: clang or lld is missing or failed.
        UsageError: a token that can't be.
    """
    return _patch(_build_arm("bootx64", work_dir), BOOTX64_MAGIC, token)


def build_token_program(token: str, work_dir: Path, *, is_arm: bool = False) -> bytes:
    """A UEFI application that says ``token`` and reads nothing: one that may be signed.

    Raises:
        ToolError: a compiler is missing or failed.
        UsageError: a token that can't be.
    """
    build = _build_arm if is_arm else _build_x64
    return _patch(build("token", work_dir), TOKEN_MAGIC, token)


def _build_x64(name: str, work_dir: Path) -> bytes:
    work_dir.mkdir(parents=True, exist_ok=True)
    compiled, linked = work_dir / f"{name}.o", work_dir / f"{name}.efi"
    source, script = str(HERE / f"{name}.c"), str(HERE / "bootx64.ld")
    _run(["gcc", *_UEFI_COMPILE, "-std=c11", "-c", "-o", str(compiled), source], package="gcc")
    _run(["ld", *_UEFI_LINK, "-T", script, "-o", str(linked), str(compiled)], package="binutils")
    return linked.read_bytes()


def _build_arm(name: str, work_dir: Path) -> bytes:
    work_dir.mkdir(parents=True, exist_ok=True)
    compiled, linked = work_dir / f"{name}-arm.o", work_dir / f"{name}-arm.efi"
    source = str(HERE / f"{name}.c")
    _run(["clang", *_ARM_COMPILE, "-c", "-o", str(compiled), source], package="clang")
    _run(["lld-link", *_ARM_LINK, f"/out:{linked}", str(compiled)], package="lld")
    return linked.read_bytes()


def build_loader(frame: bytes, token: str) -> bytes:
    """A winload that the stand-in boot managers take for whole, from the bytes of a PE file.

    Length, CRC-32 and token lie behind ``LOADER_MAGIC`` at the end: a boot manager that says
    the token has read every byte.

    Raises:
        UsageError: a token that can't be.
    """
    return _patch(frame + LOADER_MAGIC + bytes(_HEADER.size), LOADER_MAGIC, token)


def build_uefi_manager(generation: str) -> bytes:
    """The stand-in for bootmgfw.efi, x86_64, which says ``generation`` ("2011" or "2023").

    Raises:
        ToolError: gcc or ld is missing or failed.
    """
    return _patch(_link_uefi_manager(), BOOTX64_MAGIC, f"generation-{generation}")


def build_bios_manager(*, size: int = 493_000) -> bytes:
    """The stand-in for BOOTMGR, ``size`` bytes long, of which it checks every one in memory.

    Raises:
        ToolError: nasm, gcc or ld is missing or failed.
        UsageError: a size that can't be.
    """
    return _patch(_fill(_link_bios_manager(), size), BOOTMGR_MAGIC, "boot-manager")


@functools.cache
def _link_uefi_manager() -> bytes:
    with tempfile.TemporaryDirectory() as name:
        work_dir = Path(name)
        options = [*_UEFI_COMPILE, "-std=c11"]
        objects = _compile(("uefi", *_MANAGER_PARTS), options, work_dir)
        program = work_dir / "bootmgfw.efi"
        script = ["-T", str(HERE / "bootx64.ld")]
        _run(["ld", *_UEFI_LINK, *script, "-o", str(program), *objects], package="binutils")
        return program.read_bytes()


@functools.cache
def _link_bios_manager() -> bytes:
    with tempfile.TemporaryDirectory() as name:
        return _build_bios_program(Path(name))


def _build_bios_program(work_dir: Path) -> bytes:
    options = shlex.split(
        "-std=c11 -m32 -march=i386 -Os -Wall -Wextra -Werror -ffreestanding -fshort-wchar"
        " -fno-pic -fno-pie -fno-stack-protector -fcf-protection=none -mno-sse -mno-mmx"
        " -fno-asynchronous-unwind-tables -fno-ident -fno-tree-loop-distribute-patterns"
    )
    objects = _compile(("bios", *_MANAGER_PARTS), options, work_dir)
    start, linked, program = (work_dir / name for name in ("start.o", "bios.elf", "bootmgr"))
    source = str(MANAGER / "bios.asm")
    _run(["nasm", "-Werror", "-f", "elf32", "-o", str(start), source], package="nasm")
    script = ["-m", "elf_i386", "-n", "-T", str(MANAGER / "bios.ld")]
    _run(["ld", *script, "-o", str(linked), str(start), *objects], package="binutils")
    copy = ["objcopy", "-O", "binary", "-j", ".file", str(linked), str(program)]
    _run(copy, package="binutils")
    return program.read_bytes()


def build_host_manager(work_dir: Path) -> Path:
    """The same boot manager as a Linux program, with the sanitizers of gcc; see ``host.c``.

    Raises:
        ToolError: gcc is missing or failed.
    """
    work_dir.mkdir(parents=True, exist_ok=True)
    program = work_dir / "boot-manager"
    options = shlex.split("-std=c11 -O1 -g -Wall -Wextra -Werror -fsanitize=address,undefined")
    sources = [str(MANAGER / f"{name}.c") for name in ("host", *_MANAGER_PARTS)]
    _run(["gcc", *options, "-o", str(program), *sources], package="gcc libc6-dev")
    return program


def _compile(names: tuple[str, ...], options: list[str], work_dir: Path) -> list[str]:
    work_dir.mkdir(parents=True, exist_ok=True)
    objects = []
    for name in names:
        objects.append(str(work_dir / f"{name}.o"))
        source = str(MANAGER / f"{name}.c")
        _run(["gcc", *options, "-c", "-o", objects[-1], source], package="gcc")
    return objects


def _fill(program: bytes, size: int) -> bytes:
    """``program`` with filling that never repeats: a sector in the wrong place must show."""
    if size < len(program):
        raise UsageError(f"stand-in BOOTMGR: {size} bytes are fewer than its {len(program)}")
    filling = hashlib.shake_256(b"mediamaker stand-in BOOTMGR").digest(size - len(program))
    built = program + filling
    # What loaders and tools recognise BOOTMGR by, and the boot sector mark that it lacks.
    if built[0] != 0xE9 or built[2] != 0x01 or built[510:512] == b"\x55\xaa":
        raise ToolError("stand-in BOOTMGR: does not start like a BOOTMGR")
    return built


def _patch(program: bytes, magic: bytes, token: str) -> bytes:
    """``program`` with length, token and CRC-32 in the header that follows ``magic``."""
    if not _TOKEN_RE.fullmatch(token):
        raise UsageError(
            f"stand-in token {token!r}: 1 to {TOKEN_SIZE_MAX} letters, digits and hyphens wanted"
        )
    if program.count(magic) != 1:
        raise ToolError(f"stand-in: {magic!r} is there {program.count(magic)} times, not once")
    offset = program.index(magic) + len(magic)
    patched = bytearray(program)
    _HEADER.pack_into(patched, offset, len(program), 0, token.encode("ascii"))
    struct.pack_into("<I", patched, offset + _CRC_OFFSET, zlib.crc32(patched))
    return bytes(patched)


def _run(arguments: list[str], *, package: str) -> None:
    try:
        done = subprocess.run(arguments, capture_output=True, text=True, check=False)
    except FileNotFoundError as error:
        raise ToolError(
            f"{arguments[0]} is not installed", hint=f"apt-get install {package}"
        ) from error
    if done.returncode:
        raise ToolError(f"{' '.join(arguments)} failed:\n{done.stdout}{done.stderr}")
