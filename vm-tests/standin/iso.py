# SPDX-License-Identifier: GPL-3.0-or-later
r"""A stand-in Windows Setup ISO: the container, tree and names of a real one, no foreign bytes.

As Microsoft's (boot-facts.md 2.2, 2.3): UDF 1.02 holds the tree, ISO 9660 only README.TXT, no
Joliet; El Torito has a BIOS entry and a UEFI one. genisoimage writes UDF, wimlib the WIM files:
our readers meet formats that others wrote.

For the UEFI stand-in the tree also has ``\standin.sum``, lines ``crc32 size path`` of the files
that reach a stick unchanged, and ``\standin.tok``, the token.
"""

from __future__ import annotations

import fcntl
import hashlib
import os
import secrets
import subprocess
import tempfile
import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Literal

from mediamaker.errors import ToolError
from standin import content, tree, wim
from standin.programs import build_bootaa64, build_bootmgr, build_bootx64
from standin.tool import FILE_EPOCH, run_tool, tool_environment

Variant = Literal["small", "big", "bench"]
Arch = Literal["x64", "x86", "arm64"]

LABELS: dict[Arch, str] = {
    "x64": "CCCOMA_X64FRE_EN-US_DV9",
    "x86": "CCCOMA_X86FRE_EN-US_DV9",
    "arm64": "CCCOMA_A64FRE_EN-US_DV9",
}
SUMMED_SIZE_MAX = 16 << 20
DEFAULT_CACHE = Path(__file__).resolve().parents[2] / "out" / "standin"

_HERE = Path(__file__).resolve().parent
_EFISYS_SIZE_KIB = 1440
_SMALL_INSTALL_FILLER_SIZE = 32_000_000
_BENCH_INSTALL_FILLER_SIZE = 5 << 30  # and half a GiB more of Winre.wim
_BENCH_BOOT_FILLER_SIZE = 500_000_000
_BENCH_MANIFEST_ROUNDS = 4
_SECTOR_SIZE = 2048
_README = b"""\
The contents of this disc are in a UDF file system, which your system does not show you here.\r
It is a stand-in for Windows Setup media, made by mediamaker's tests. It holds no Windows.\r
"""


@dataclass(frozen=True, slots=True)
class StandinIso:
    """A finished ISO and the token that its boot programs say once all is well."""

    path: Path
    token: str


def standin_iso(
    *,
    big: bool = False,
    bench: bool = False,
    arch: Arch = "x64",
    cache: Path | None = None,
) -> StandinIso:
    """The ISO from the cache, built if the cache has none of this builder's version.

    The token is drawn at each build and lies beside the ISO, where mediamaker has no business.
    ``cache`` defaults to ``out/standin`` of the project. Other processes may ask at once.
    """
    variant: Variant = "bench" if bench else "big" if big else "small"
    directory = cache or DEFAULT_CACHE
    directory.mkdir(parents=True, exist_ok=True)
    stem = f"{variant}-{arch}"
    path = directory / f"{stem}-{_builder_version()}.iso"
    token_path = path.with_suffix(".token")
    with _locked(directory / f"{stem}.lock"):
        if not (path.exists() and token_path.exists()):
            for stale in directory.glob(f"{stem}-*"):
                stale.unlink()
            token = new_token()
            build_iso(path, token=token, variant=variant, arch=arch)
            token_path.write_text(token)
        return StandinIso(path, token_path.read_text())


def new_token() -> str:
    """A token that no earlier build had."""
    return f"standin-{secrets.token_hex(8)}"


def build_iso(
    output: Path, *, token: str, variant: Variant = "small", arch: Arch = "x64"
) -> StandinIso:
    """Builds the ISO at ``output``; needs room beside it: 1 GiB for big, 12 GiB for bench.

    Raises:
        ToolError: a program is missing or failed.
        UsageError: an impossible token.
    """
    output.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(prefix="standin-", dir=output.parent) as name:
        work_dir = Path(name)
        root = work_dir / "tree"
        _stage(root, work_dir, token=token, variant=variant, arch=arch)
        unfinished = work_dir / "unfinished.iso"
        _master(root, unfinished, label=LABELS[arch], has_bios_boot=arch != "arm64")
        unfinished.replace(output)
    return StandinIso(output, token)


def _stage(root: Path, work_dir: Path, *, token: str, variant: Variant, arch: Arch) -> None:
    """The tree as a directory."""
    is_bench = variant == "bench"
    rounds = _BENCH_MANIFEST_ROUNDS if is_bench else 1
    # mcopy is measured with the bench ISO: it gets no file that it can't copy.
    files = tree.media_files(arch, manifest_rounds=rounds, has_alias_trap=not is_bench)
    wim.write_files(root, files)
    for directory in tree.empty_directories():
        (root / directory).mkdir(parents=True)
    wim.write_files(root, _boot_programs(token, work_dir, arch=arch))
    boot_wim, install_wim = root / "sources/boot.wim", root / "sources/install.wim"
    wim.build_boot_wim(
        boot_wim,
        work_dir,
        arch=arch,
        filler_size=_BENCH_BOOT_FILLER_SIZE if is_bench else 0,
    )
    if variant == "big":
        wim.build_big_install_wim(install_wim, work_dir, arch=arch)
    else:
        size = _BENCH_INSTALL_FILLER_SIZE if is_bench else _SMALL_INSTALL_FILLER_SIZE
        wim.build_install_wim(install_wim, work_dir, boot_wim, arch=arch, filler_size=size)
    (root / "standin.tok").write_text(token)
    (root / "standin.sum").write_bytes(_sums(root))
    (root / "README.TXT").write_bytes(_README)
    wim.set_times(root)


def _boot_programs(token: str, work_dir: Path, *, arch: Arch) -> Iterator[tuple[str, bytes]]:
    if arch == "x64":
        uefi_program = build_bootx64(token, work_dir / "uefi")
    elif arch == "arm64":
        uefi_program = build_bootaa64(token, work_dir / "uefi")
    else:
        # A name to be found by readers; nothing of 32 bits is booted.
        uefi_program = content.program("bootmgfw.efi", 400_000, arch=arch, subsystem=10)
    yield f"efi/boot/{tree.BOOT_NAMES[arch]}", uefi_program
    boot_image = _efisys(uefi_program, tree.BOOT_NAMES[arch], work_dir)
    yield "efi/microsoft/boot/efisys.bin", boot_image
    yield "efi/microsoft/boot/efisys_noprompt.bin", boot_image
    if arch != "arm64":
        yield "bootmgr", build_bootmgr(token)
        etfsboot = work_dir / "etfsboot.com"
        source = str(_HERE / "etfsboot.asm")
        run_tool("nasm", "-Werror", "-f", "bin", "-o", str(etfsboot), source, package="nasm")
        yield "boot/etfsboot.com", etfsboot.read_bytes()


def _efisys(uefi_program: bytes, name: str, work_dir: Path) -> bytes:
    """A FAT12 floppy image with the UEFI program, as firmware starts from a CD.

    The program never says its token from there: a floppy has no ``\\standin.sum``.
    """
    image, program = work_dir / "efisys.bin", work_dir / name
    program.write_bytes(uefi_program)
    os.utime(program, (FILE_EPOCH, FILE_EPOCH))
    options = ("-C", "-f", str(_EFISYS_SIZE_KIB), "-v", "EFISECTOR", "-N", "12345678")
    run_tool("mformat", "-i", str(image), *options, "::", package="mtools")
    run_tool("mmd", "-i", str(image), "::EFI", "::EFI/BOOT", package="mtools")
    target = f"::EFI/BOOT/{name.upper()}"
    run_tool("mcopy", "-m", "-i", str(image), str(program), target, package="mtools")
    body = image.read_bytes()
    image.unlink()
    return body


def _sums(root: Path) -> bytes:
    """``standin.sum``. Non-ASCII paths are left out: the UEFI program reads ASCII only."""
    lines = []
    for path in sorted(root.rglob("*")):
        name = path.relative_to(root).as_posix()
        if path.is_file() and name.isascii() and path.stat().st_size <= SUMMED_SIZE_MAX:
            body = path.read_bytes()
            # The program takes the rest of the line as the path: spaces need no quoting.
            lines.append(f"{zlib.crc32(body):08x} {len(body)} \\{name.replace('/', chr(92))}\n")
    return "".join(lines).encode("ascii")


def _master(root: Path, output: Path, *, label: str, has_bios_boot: bool) -> None:
    """Runs genisoimage and keeps what it writes as a sparse file."""
    options = ["-quiet", "-udf", "-input-charset", "utf-8", "-V", label, "-sysid", ""]
    options += ["-appid", "MEDIAMAKER STAND-IN", "-iso-level", "3", "-allow-limited-size"]
    # -D: no relocation of deep directories. Its UDF tree is made from the Joliet one, whence
    # -joliet-long, and -hide-joliet to keep a name out of UDF.
    options += ["-D", "-joliet-long", "-hide", "[!R]*"]
    for hidden in ("README.TXT", "boot/boot.cat"):
        options += ["-hide-joliet", hidden]
    if has_bios_boot:
        options += ["-b", "boot/etfsboot.com", "-no-emul-boot", "-boot-load-size", "8"]
        options += ["-c", "boot/boot.cat", "-eltorito-alt-boot"]
    else:
        options += ["-c", "boot/boot.cat"]
    options += ["-e", "efi/microsoft/boot/efisys.bin", "-no-emul-boot"]
    command = ["genisoimage", *options, str(root)]
    try:
        process = subprocess.Popen(
            command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, env=tool_environment()
        )
    except FileNotFoundError as error:
        raise ToolError(
            "genisoimage is not installed", hint="apt-get install genisoimage"
        ) from error
    with process, output.open("wb") as file:
        _copy_sparse(_pipe(process.stdout), file)
        said = _pipe(process.stderr).read().decode(errors="replace")
    # It skips what it can't hold with a warning and exits with 0: what it says is a failure.
    if process.returncode or said.strip():
        raise ToolError(f"genisoimage failed:\n{said}")
    _remove_joliet(output)


def _pipe(stream: IO[bytes] | None) -> IO[bytes]:
    assert stream is not None
    return stream


def _copy_sparse(source: IO[bytes], target: IO[bytes]) -> None:
    """Copies, leaving holes for blocks of zeros: 4.6 GiB of them cost no disk."""
    block_size = 64 * 1024
    zeros = bytes(block_size)
    size = 0
    while block := source.read(block_size):
        if block == zeros:
            target.seek(block_size, os.SEEK_CUR)
        else:
            target.write(block)
        size += len(block)
    target.truncate(size)


def _remove_joliet(path: Path) -> None:
    """Microsoft's ISOs have none, and a reader that falls back to it must not get away with it.

    genisoimage can't write UDF without: its descriptor becomes a second set terminator
    (ECMA-119 8.3 allows several).
    """
    with path.open("r+b") as file:
        for sector in range(16, 32):
            file.seek(sector * _SECTOR_SIZE)
            descriptor = file.read(7)
            if descriptor == b"\x02CD001\x01":
                file.seek(sector * _SECTOR_SIZE)
                file.write(b"\xffCD001\x01".ljust(_SECTOR_SIZE, b"\0"))
                return
    raise ToolError("genisoimage wrote no Joliet descriptor where one was expected")


def _builder_version() -> str:
    digest = hashlib.sha256()
    for path in sorted(_HERE.iterdir()):
        if path.suffix in {".py", ".asm", ".c", ".h", ".ld"}:
            digest.update(path.name.encode() + b"\0" + path.read_bytes())
    return digest.hexdigest()[:12]


@contextmanager
def _locked(path: Path) -> Iterator[None]:
    with path.open("w") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        yield
