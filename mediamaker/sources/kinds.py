# SPDX-License-Identifier: GPL-3.0-or-later
"""What a source is, what it boots on, and what we would make of it."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from mediamaker.errors import FormatError
from mediamaker.formats.wim_chunks import ChunkTable
from mediamaker.sources.folder import read_folder
from mediamaker.sources.iso import IsoSource, open_iso
from mediamaker.sources.loaders import (
    BootPath,
    Loaders,
    find_uefi_loaders,
    find_windows_loaders,
)
from mediamaker.sources.reader import SourceReader
from mediamaker.sources.tree import Entry, SourceTree
from mediamaker.sources.wim import WimFile, read_wim

Kind = Literal["windows-setup", "windows-pe", "hybrid", "uefi-tree", "unbootable"]
LayoutName = Literal["mbr-fat32", "gpt-fat32", "raw"]

PLATFORM_EFI = 0xEF
UNKNOWN_ARCHITECTURE = "unknown"

_SOURCES_DIRECTORIES = (("sources",), ("x64", "sources"), ("x86", "sources"))
"""The last two are on media for both, as the Media Creation Tool makes them."""
_INSTALL_NAMES = ("install.wim", "install.esd", "install.swm")


@dataclass(frozen=True, slots=True)
class SourceWim:
    """A WIM of the source and what it says about itself; of a split one, the first part.

    ``solid_tables`` are the chunks of its solid resources, where it is to be cut between them.
    """

    entry: Entry
    wim: WimFile
    solid_tables: tuple[ChunkTable, ...] = ()

    @property
    def path_text(self) -> str:
        """``sources/install.wim``."""
        return self.entry.path_text


@dataclass(frozen=True, slots=True, kw_only=True)
class Inspection:
    """Everything that a plan needs to know about a source.

    ``size`` is what the source takes in bytes: the ISO file, or a folder's files together.
    ``reasons`` say why an unbootable source is that; ``layout`` is None for it alone.
    ``warnings`` are about booting, ``notes`` about what is left out of the tree.
    """

    path: Path
    kind: Kind
    size: int
    tree: SourceTree
    iso: IsoSource | None
    architectures: tuple[str, ...]
    boot_paths: tuple[BootPath, ...]
    install_wims: tuple[SourceWim, ...]
    boot_wims: tuple[SourceWim, ...]
    layout: LayoutName | None
    reasons: tuple[str, ...]
    warnings: tuple[str, ...]
    notes: tuple[str, ...]

    @property
    def label(self) -> str:
        """The volume label of the source; empty for a folder."""
        return self.tree.label

    @property
    def file_system(self) -> str:
        """``udf``, ``joliet``, ``rockridge``, ``iso9660`` or ``folder``."""
        return self.tree.format

    @property
    def install_wim(self) -> SourceWim | None:
        """The WIM that Setup installs from."""
        return self.install_wims[0] if self.install_wims else None

    @property
    def boot_wim(self) -> SourceWim | None:
        """The WIM that the medium boots."""
        return self.boot_wims[0] if self.boot_wims else None


def inspect_source(path: Path) -> Inspection:
    """Find out what the ISO file or folder at ``path`` is; no file content is read through.

    Raises:
        SourceError: it can't be read.
        FormatError: it is damaged, or a WIM in it is; the message says where.
    """
    iso = None if path.is_dir() else open_iso(path)
    tree = read_folder(path) if iso is None else iso.tree
    with SourceReader(tree.files) as reader:
        boot_wims = tuple(_read_wims(tree, reader, ("boot.wim",)))
        install_wims = tuple(_read_wims(tree, reader, _INSTALL_NAMES))
        if boot_wims:
            loaders = find_windows_loaders(tree, reader)
        else:
            loaders = find_uefi_loaders(tree, reader)
    kind: Kind
    if boot_wims and loaders.boot_paths:
        kind = "windows-setup" if install_wims else "windows-pe"
    elif iso is not None and iso.is_hybrid:
        kind = "hybrid"
        loaders = Loaders([*_hybrid_boot_paths(iso, loaders)], [])
    elif loaders.boot_paths:
        kind = "uefi-tree"
        loaders.warnings.append("there is no loader for BIOS: it boots under UEFI only")
    else:
        kind = "unbootable"
    return Inspection(
        path=path,
        kind=kind,
        size=sum(file.size for file in tree.files),
        tree=tree,
        iso=iso,
        architectures=_architectures(loaders, install_wims or boot_wims),
        boot_paths=tuple(loaders.boot_paths),
        install_wims=install_wims,
        boot_wims=boot_wims,
        layout=_recommend_layout(kind, loaders),
        reasons=tuple(_reasons(tree, iso)) if kind == "unbootable" else (),
        warnings=tuple(loaders.warnings),
        notes=iso.notes if iso is not None else (),
    )


def _recommend_layout(kind: Kind, loaders: Loaders) -> LayoutName | None:
    match kind:
        case "windows-setup" | "windows-pe":
            return "mbr-fat32" if loaders.has("bios") else "gpt-fat32"
        case "hybrid":
            return "raw"
        case "uefi-tree":
            return "gpt-fat32"
        case "unbootable":
            return None


def _read_wims(
    tree: SourceTree, reader: SourceReader, names: tuple[str, ...]
) -> Iterator[SourceWim]:
    for directory in _SOURCES_DIRECTORIES:
        for name in names:
            entry = tree.find_file(*directory, name)
            if entry is None:
                continue
            wim = read_wim(entry.pieces, entry.size, reader, entry.path_text)
            _check_parts(tree, entry, wim)
            yield SourceWim(entry, wim)
            break


def _check_parts(tree: SourceTree, entry: Entry, wim: WimFile) -> None:
    """A split WIM has to be whole, or Setup stops half-way."""
    stem, extension = entry.path[-1].rsplit(".", 1)
    if wim.part_count > 1 and extension.lower() != "swm":
        raise FormatError(
            f"{entry.path_text}: part {wim.part_number} of {wim.part_count} of a split WIM, "
            f"expected the whole one under this name",
            hint=f"join the parts (mediamaker wim join), or call them {stem}.swm, {stem}2.swm ...",
        )
    for number in range(2, wim.part_count + 1):
        name = f"{stem}{number}.swm"
        if tree.find_file(*entry.path[:-1], name) is None:
            raise FormatError(
                f"{entry.path_text}: split into {wim.part_count} parts, but {name} is missing"
            )


def _architectures(loaders: Loaders, wims: tuple[SourceWim, ...]) -> tuple[str, ...]:
    """What can run there: of the images if there are some, else of the loaders for UEFI."""
    names = {
        image.architecture for wim in wims for image in wim.wim.images if image.architecture
    } or {path.architecture for path in loaders.boot_paths if path.firmware == "uefi"}
    return tuple(sorted(names - {UNKNOWN_ARCHITECTURE}))


def _hybrid_boot_paths(iso: IsoSource, loaders: Loaders) -> Iterator[BootPath]:
    """Ways into an image that is copied as it is: its own MBR, and its EFI system partition.

    The loaders that firmware starts lie in that partition; those in the tree are mostly copies
    and the only sign of the processor that they are for.
    """
    if any(iso.system_area[:440]):
        yield BootPath("bios", "PC", "the ISO's own MBR")
    if loaders.has("uefi"):
        yield from (path for path in loaders.boot_paths if path.firmware == "uefi")
    elif any(entry.platform_id == PLATFORM_EFI and entry.bootable for entry in iso.boot):
        yield BootPath("uefi", UNKNOWN_ARCHITECTURE, "the ISO's own EFI system partition")


def _reasons(tree: SourceTree, iso: IsoSource | None) -> Iterator[str]:
    if tree.find_file("sources", "boot.wim") is None:
        yield "it has no sources/boot.wim, thus it is not Windows media"
    else:
        yield "it has a sources/boot.wim, but no sound bootmgr and no sound efi/boot/boot*.efi"
    if not any(tree.find_file("efi", "boot", name) for name in ("bootx64.efi", "bootaa64.efi")):
        yield "it has no efi/boot/boot*.efi, thus UEFI finds nothing to start"
    if iso is None:
        yield "it is a folder, thus it has no boot sector of its own"
    elif not iso.is_hybrid:
        how = "only from a CD or DVD (El Torito)" if iso.boot else "from nothing"
        yield f"its first sector is no boot sector: as it is, it boots {how}"
