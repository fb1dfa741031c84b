# SPDX-License-Identifier: GPL-3.0-or-later
"""The files that firmware, or a boot sector for it, starts: which are there, and are they sound?

What makes a loader useless becomes a warning that says so, and the loader is not counted: media
that were copied through text tools or onto full disks have them mangled or empty (WoeUSB#138:
a bootx64.efi of 0 bytes).

References: UEFI 2.10 section 3.5.1.1 (removable media boot behaviour: the names), and
``facts/boot-facts.md`` 1.1 (what BOOTMGR looks like) and 2.2 (the tree of Windows media).
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Literal

from mediamaker.errors import FormatError
from mediamaker.formats.pe import (
    ARCHITECTURES,
    DOS_HEADER_SIZE,
    PE_HEADER_SIZE,
    parse_pe_machine,
    parse_pe_offset,
)
from mediamaker.sources.reader import SourceReader
from mediamaker.sources.tree import Entry, SourceTree
from mediamaker.units import KIB

Firmware = Literal["bios", "uefi"]

BOOTMGR_SIZE_MAX = 510 * KIB
"""It is loaded whole at 2000:0000 and has to end below the EBDA."""
_UEFI_NAMES = {
    "bootx64.efi": "x64",
    "bootia32.efi": "x86",
    "bootaa64.efi": "arm64",
    "bootarm.efi": "arm",
}
_NAMES_BY_ARCHITECTURE = {architecture: name for name, architecture in _UEFI_NAMES.items()}


@dataclass(frozen=True, slots=True)
class BootPath:
    """One way in: which firmware, on which processor, and the file (or sector) it starts."""

    firmware: Firmware
    architecture: str
    path: str

    @property
    def serves(self) -> str:
        """``UEFI x64``."""
        return f"{self.firmware.upper()} {self.architecture}"


@dataclass(slots=True)
class Loaders:
    """What was found; ``warnings`` are sentences for people."""

    boot_paths: list[BootPath]
    warnings: list[str]

    def has(self, firmware: Firmware) -> bool:
        """Whether there is a sound loader for ``firmware``."""
        return any(path.firmware == firmware for path in self.boot_paths)


def find_windows_loaders(tree: SourceTree, reader: SourceReader) -> Loaders:
    """BOOTMGR and the UEFI loaders of Windows media, and the stores that they need."""
    found = find_uefi_loaders(tree, reader)
    bootmgr = tree.find_file("bootmgr")
    if bootmgr is None:
        found.warnings.append("bootmgr is missing: it won't boot under BIOS")
    else:
        problem = _find_bootmgr_problem(bootmgr, reader)
        if problem:
            found.warnings.append(f"{bootmgr.path_text}: {problem}: it won't boot under BIOS")
        else:
            found.boot_paths.insert(0, BootPath("bios", "PC", bootmgr.path_text))
            found.warnings.extend(_missing(tree, "BIOS", ("boot", "bcd"), ("boot", "boot.sdi")))
    if found.has("uefi"):
        bcd = ("efi", "microsoft", "boot", "bcd")
        found.warnings.extend(_missing(tree, "UEFI", bcd, ("boot", "boot.sdi")))
    elif not any(tree.find_file("efi", "boot", name) for name in _UEFI_NAMES):
        found.warnings.append(
            "the UEFI loader efi/boot/bootx64.efi is missing (as on Windows 7 media): "
            "it won't boot under UEFI"
        )
    return found


def find_uefi_loaders(tree: SourceTree, reader: SourceReader) -> Loaders:
    """The ``efi/boot/boot*.efi`` that firmware starts from removable media."""
    found = Loaders([], [])
    for name, expected in _UEFI_NAMES.items():
        entry = tree.find_file("efi", "boot", name)
        if entry is None:
            continue
        try:
            architecture = _read_architecture(entry, reader)
        except FormatError as error:
            found.warnings.append(f"{error.message}: it won't boot under UEFI on {expected}")
            continue
        if architecture != expected:
            right = _NAMES_BY_ARCHITECTURE.get(architecture)
            hint = f"; it should be called {right}" if right else ""
            found.warnings.append(
                f"{entry.path_text}: its name is for {expected}, but it is a program for "
                f"{architecture}: it won't start{hint}"
            )
            continue
        found.boot_paths.append(BootPath("uefi", architecture, entry.path_text))
    return found


def _find_bootmgr_problem(entry: Entry, reader: SourceReader) -> str | None:
    head = reader.read_pieces(entry.pieces, 0, min(entry.size, 4))
    if not head:
        return "it has 0 bytes"
    if head[0] != 0xE9:
        mangled = " (was it copied as text?)" if head[0] == 0xC3 else ""
        return f"it is no BOOTMGR: expected it to begin with 0xe9, got {head[0]:#x}{mangled}"
    if entry.size > BOOTMGR_SIZE_MAX:
        return f"it has {entry.size} bytes, at most {BOOTMGR_SIZE_MAX} fit below 640 KiB"
    return None


def _read_architecture(entry: Entry, reader: SourceReader) -> str:
    what = entry.path_text
    if entry.size < DOS_HEADER_SIZE:
        raise FormatError(f"{what}: it has {entry.size} bytes, which is no program")
    offset = parse_pe_offset(reader.read_pieces(entry.pieces, 0, DOS_HEADER_SIZE), what=what)
    if offset + PE_HEADER_SIZE > entry.size:
        raise FormatError(f"{what}: its PE header lies at {offset:#x}, past its {entry.size} bytes")
    header = reader.read_pieces(entry.pieces, offset, PE_HEADER_SIZE)
    machine = parse_pe_machine(header, what=what)
    return ARCHITECTURES.get(machine, f"machine {machine:#x}")


def _missing(tree: SourceTree, firmware: str, *paths: tuple[str, ...]) -> Iterator[str]:
    for path in paths:
        if tree.find_file(*path) is None:
            yield f"{'/'.join(path)} is missing: the boot manager under {firmware} needs it"
