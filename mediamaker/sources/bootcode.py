# SPDX-License-Identifier: GPL-3.0-or-later
"""Our own boot programs, as they were assembled and checked in.

They lie in ``mediamaker/bootfiles`` of an installed package and in the repository's
``bootfiles`` of a clone. ``MANIFEST.toml`` beside them says their SHA-256: a boot program that
is not the one that was tested is never written to a disk.
"""

from __future__ import annotations

import hashlib
import tomllib
from pathlib import Path
from typing import Any, NamedTuple

from mediamaker.errors import ToolError
from mediamaker.formats.boot_sectors import OurBootCode

MANIFEST_NAME = "MANIFEST.toml"
MBR_NAME = "mbr.bin"
FAT32_VBR_NAME = "fat32-vbr.bin"
NTFS_VBR_NAME = "ntfs-vbr.bin"
EXFAT_VBR_NAME = "exfat-vbr.bin"
ACCEL_PROBE_NAME = "accel-probe.bin"

_SECTOR0_SIZE = 512
_FORMAT = 1
_HINT = "reinstall mediamaker, or in a clone: git checkout -- bootfiles"


class Fat32BootFile(NamedTuple):
    """The two parts of FAT32 boot code and where the second one goes.

    ``sector0`` is 512 bytes with the BPB area (0x03..0x59) left zero; ``stage2`` is a whole
    number of 512-byte pieces, to be stored from ``stage2_sector_number`` of the volume on.
    """

    sector0: bytes
    stage2: bytes
    stage2_sector_number: int


def load_mbr_code() -> bytes:
    """The code of the master boot record: bytes 0x000..0x1B7.

    Raises:
        ToolError: it is missing, or not what the manifest says.
    """
    return _load(MBR_NAME)[0]


def load_fat32_boot_code() -> Fat32BootFile:
    """The boot code of a FAT32 volume that starts ``\\BOOTMGR``.

    Raises:
        ToolError: it is missing, or not what the manifest says.
    """
    data, entry = _load(FAT32_VBR_NAME)
    stage2_sector_number = entry.get("stage2_sector_number")
    if not isinstance(stage2_sector_number, int):
        raise ToolError(
            f"{MANIFEST_NAME}: {FAT32_VBR_NAME} has no stage2_sector_number", hint=_HINT
        )
    return Fat32BootFile(data[:_SECTOR0_SIZE], data[_SECTOR0_SIZE:], stage2_sector_number)


def load_ntfs_boot_code() -> bytes:
    """The boot code of an NTFS volume that starts ``\\BOOTMGR``.

    It is ``$Boot`` as :func:`mediamaker.formats.boot_sectors.install_ntfs_boot` wants it, with
    the BPB area (0x03..0x53) left zero.

    Raises:
        ToolError: it is missing, or not what the manifest says.
    """
    return _load(NTFS_VBR_NAME)[0]


def load_exfat_boot_code() -> bytes:
    """The boot code of an exFAT volume that starts ``\\BOOTMGR``.

    Sector 0 (512 bytes, 0x03..0x77 left zero), then what
    :func:`mediamaker.formats.boot_sectors.install_exfat_boot` spreads over the extended boot
    sectors.

    Raises:
        ToolError: it is missing, or not what the manifest says.
    """
    return _load(EXFAT_VBR_NAME)[0]


def load_our_boot_code() -> OurBootCode:
    """All of it, to install or to recognise.

    Raises:
        ToolError: some is missing, or not what the manifest says.
    """
    fat32 = load_fat32_boot_code()
    return OurBootCode(
        mbr=load_mbr_code(),
        ntfs=load_ntfs_boot_code(),
        exfat=load_exfat_boot_code(),
        fat32_sector0=fat32.sector0,
        fat32_stage2=fat32.stage2,
        fat32_stage2_sector_number=fat32.stage2_sector_number,
    )


def load_accel_probe(text: str) -> bytes:
    """A boot sector that says ``text`` (ASCII) on COM1, once it is through protected mode.

    Raises:
        ToolError: it is missing, or not what the manifest says.
    """
    data, entry = _load(ACCEL_PROBE_NAME)
    start, mask = int(entry["text_offset"]), int(entry["text_mask"])
    masked = bytes(byte ^ mask for byte in text.encode("ascii"))
    assert 0 not in masked
    assert start + len(masked) < _SECTOR0_SIZE - 2
    return data[:start] + masked + data[start + len(masked) :]


def find_bootfiles() -> Path:
    """The folder that holds the manifest.

    Raises:
        ToolError: there is none.
    """
    package = Path(__file__).resolve().parent.parent
    places = (package / "bootfiles", package.parent / "bootfiles")
    for place in places:
        if (place / MANIFEST_NAME).is_file():
            return place
    raise ToolError(
        "boot programs are missing: no " + MANIFEST_NAME + " in " + " or ".join(map(str, places)),
        hint=_HINT,
    )


def _load(name: str) -> tuple[bytes, dict[str, Any]]:
    """The bytes of one boot program and its manifest entry."""
    folder = find_bootfiles()
    entry = _read_manifest(folder).get(name)
    if entry is None:
        raise ToolError(f"{folder / MANIFEST_NAME} does not name {name}", hint=_HINT)
    try:
        data = (folder / name).read_bytes()
    except OSError as error:
        raise ToolError(
            f"boot program {folder / name}: {error.strerror or error}", hint=_HINT
        ) from error
    got = hashlib.sha256(data).hexdigest()
    if got != entry.get("sha256"):
        raise ToolError(
            f"boot program {folder / name} is not the one that was tested: "
            f"expected sha256 {entry.get('sha256')}, got {got}",
            hint=_HINT,
        )
    return data, entry


def _read_manifest(folder: Path) -> dict[str, dict[str, Any]]:
    """Manifest entries by file name."""
    path = folder / MANIFEST_NAME
    try:
        manifest = tomllib.loads(path.read_text("utf-8"))
    except (OSError, UnicodeDecodeError, tomllib.TOMLDecodeError) as error:
        raise ToolError(f"{path}: {error}", hint=_HINT) from error
    files = manifest.get("file")
    if manifest.get("format") != _FORMAT or not isinstance(files, list):
        raise ToolError(f"{path}: not a manifest of format {_FORMAT}", hint=_HINT)
    return {entry["name"]: entry for entry in files if isinstance(entry, dict) and "name" in entry}
