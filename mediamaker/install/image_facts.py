# SPDX-License-Identifier: GPL-3.0-or-later
"""What an installation has to know of an image of Windows before it touches a disk.

Read with libwim from the WIM's XML and from a few directories of the image's tree; contents are
read only where the XML does not say for which processor the image is. Names are compared as
Windows does, without regard to case.

References: the files that bcdboot copies (``Windows/Boot``), where WinRE is staged
(``Windows/System32/Recovery/Winre.wim``), and what WinPE calls itself in the XML.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final, Literal

from mediamaker.errors import FormatError, SourceError
from mediamaker.execute.progress import ignore_event
from mediamaker.formats.pe import (
    ARCHITECTURES,
    DOS_HEADER_SIZE,
    PE_HEADER_SIZE,
    parse_pe_machine,
    parse_pe_offset,
)
from mediamaker.formats.wim import HEADER_SIZE, parse_wim_header
from mediamaker.formats.wim_xml import WimImageInfo, parse_wim_xml
from mediamaker.install.image_tree import ImageTree, data_size, is_plain_file
from mediamaker.units import KIB, MIB, align_up
from mediamaker.wim.images import resolve_image
from mediamaker.wim.meter import WimMeter
from mediamaker.wim.parts import open_parts
from mediamaker.wim.tree import cat
from mediamaker.wim.writing import ImageSource, open_source_wim
from mediamaker.wimlib.wim import Wim

FirmwareKind = Literal["uefi", "bios"]
BootGeneration = Literal["2011", "2023"]
"""Whose certificate signed the boot files: Windows Production PCA 2011 or Windows UEFI CA 2023."""

WINRE_PATH: Final = "Windows/System32/Recovery/Winre.wim"
BOOT_DIRECTORY: Final = "Windows/Boot"
_SDI_PATHS: Final = ("Windows/Boot/DVD/EFI/boot.sdi", "Windows/Boot/DVD/PCAT/boot.sdi")
_LOADER_PATHS: Final = {
    "uefi": "Windows/System32/winload.efi",
    "bios": "Windows/System32/winload.exe",
}
_BOOT_MANAGER_PATHS: Final = {
    ("uefi", "2011"): "Windows/Boot/EFI/bootmgfw.efi",
    ("uefi", "2023"): "Windows/Boot/EFI_EX/bootmgfw_EX.efi",
    ("bios", "2011"): "Windows/Boot/PCAT/bootmgr",
    ("bios", "2023"): "Windows/Boot/PCAT/bootmgr",
}
_FIRMWARE_ARCHITECTURES: Final = {"uefi": ("x64", "x86", "arm64"), "bios": ("x64", "x86")}
_PE_SHELL_PATH: Final = "Windows/System32/winpeshl.exe"
_PARTS_SHOWN: Final = 5
_HEAD_SIZE_MAX: Final = 64 * KIB
_RECORD_SIZE: Final = KIB
_CLUSTER_SIZE: Final = 4 * KIB
_OVERHEAD_SIZE: Final = 128 * MIB
"""The journal, the bitmap, the file table's first records and the index blocks' slack."""


@dataclass(frozen=True, slots=True)
class ImageFile:
    """A file of the image; ``size`` is in bytes."""

    path: str
    size: int


@dataclass(frozen=True, slots=True, kw_only=True)
class ImageFacts:
    """An image; ``number`` from 1. Paths are as the image writes them, without a leading slash.

    ``raw_size`` is the size of all contents; ``file_count`` counts names, directories too.
    ``boot_files`` are those below ``Windows/Boot``; ``loader_paths`` and ``boot_manager_paths``
    have what is there of those that a firmware starts.
    """

    number: int
    name: str
    description: str
    architecture: str | None
    build: str | None
    edition: str | None
    languages: tuple[str, ...]
    default_language: str | None
    raw_size: int
    file_count: int
    is_pe: bool
    winre_path: str | None
    winre_size: int | None
    sdi_path: str | None
    boot_files: tuple[ImageFile, ...]
    loader_paths: tuple[str, ...]
    boot_manager_paths: tuple[str, ...]

    @property
    def volume_size_min(self) -> int:
        """Bytes that a volume needs to hold the image, and hardly a byte more."""
        table_size = self.file_count * (_RECORD_SIZE + _CLUSTER_SIZE // 2)
        return align_up(self.raw_size + table_size + _OVERHEAD_SIZE, MIB)

    def has_boot_files(self, firmware: FirmwareKind, generation: BootGeneration = "2011") -> bool:
        """Whether the boot manager for this firmware is in the image."""
        wanted = _BOOT_MANAGER_PATHS[firmware, generation].casefold()
        return any(path.casefold() == wanted for path in self.boot_manager_paths)


def image_facts(paths: Sequence[Path], image: str | int | None) -> ImageFacts:
    """The facts of ``image`` (number, name, None for the only one) of the WIM of these files.

    The first path is the WIM, or the first part of a split one; the others are its parts.

    Raises:
        UsageError: no such image; SourceError: the WIM can't be read or is damaged.
    """
    _check_parts(paths)
    meter = WimMeter(ignore_event)
    source = ImageSource(path=paths[0], part_paths=tuple(paths[1:]))
    with open_source_wim(source, meter) as wim:
        number = resolve_image(wim, image, paths[0])
        return _read_facts(wim, number, paths)


def _check_parts(paths: Sequence[Path]) -> None:
    """All parts of a split WIM are there: known before a plan is shown, from the headers alone.

    Raises:
        SourceError: some are not.
    """
    numbers, count = set(), 1
    for path in paths:
        try:
            with path.open("rb") as file:
                header = parse_wim_header(file.read(HEADER_SIZE), what=str(path))
        except (OSError, FormatError):
            return  # whoever opens it says what is wrong
        numbers.add(header.part_number)
        count = header.part_count
    missing = sorted(set(range(1, count + 1)) - numbers)
    if missing:
        shown = ", ".join(map(str, missing[:_PARTS_SHOWN])) + (
            ", ..." if len(missing) > _PARTS_SHOWN else ""
        )
        raise SourceError(
            f"{paths[0]} is one of {count} parts of a split WIM, of which {shown} "
            f"{'is' if len(missing) == 1 else 'are'} missing",
            hint="put them beside it under their usual names (install2.swm, ...), or name each "
            "with --part",
        )


def check_installable(
    facts: ImageFacts,
    firmware: FirmwareKind,
    *,
    generation: BootGeneration = "2011",
    what: str = "the image",
    pe_is_wanted: bool = False,
) -> None:
    """Whether a machine with this firmware can start the image once it is applied.

    Raises:
        SourceError: it is WinPE, lacks boot files, or is for another processor.
    """
    name = f"{what}: image {facts.number}" + (f" ({facts.name})" if facts.name else "")
    if facts.is_pe and not pe_is_wanted:
        raise SourceError(
            f"{name} is Windows PE, which runs from memory and is not installed",
            hint="choose another image: mediamaker wim info shows them",
        )
    if not facts.boot_files and not facts.loader_paths:
        raise SourceError(
            f"{name} is not Windows: it has neither {BOOT_DIRECTORY} nor {_LOADER_PATHS[firmware]}",
            hint="mediamaker wim ls shows what is in it",
        )
    fitting = _FIRMWARE_ARCHITECTURES[firmware]
    if facts.architecture is not None and facts.architecture not in fitting:
        raise SourceError(
            f"{name} is for {facts.architecture}, which {firmware.upper()} firmware does not "
            f"start: expected {' or '.join(fitting)}",
            hint="use --firmware uefi" if firmware == "bios" else None,
        )
    if not facts.has_boot_files(firmware, generation):
        other: FirmwareKind = "bios" if firmware == "uefi" else "uefi"
        wanted = _BOOT_MANAGER_PATHS[firmware, generation]
        hint = None
        if generation == "2023" and facts.has_boot_files(firmware, "2011"):
            hint = "use --boot-files 2011: the image is older than the certificate of 2023"
        elif facts.has_boot_files(other):
            hint = f"it has those for {other.upper()}: use --firmware {other}"
        raise SourceError(f"{name} has no boot files: {wanted} is not in it", hint=hint)
    loader = _LOADER_PATHS[firmware]
    if not any(path.casefold() == loader.casefold() for path in facts.loader_paths):
        raise SourceError(f"{name}: its loader {loader} is not in it")


def _read_facts(wim: Wim, number: int, paths: Sequence[Path]) -> ImageFacts:
    what = str(paths[0])
    described = parse_wim_xml(wim.xml(), what=what)
    info = next((one for one in described if one.number == number), WimImageInfo(number=number))
    tree = ImageTree(wim, number)
    boot_files = tuple(
        ImageFile(entry.path.lstrip("/"), data_size(entry))
        for entry in tree.walk(BOOT_DIRECTORY)
        if is_plain_file(entry)
    )
    loaders = _present(tree, _LOADER_PATHS.values())
    managers = _present(tree, dict.fromkeys(_BOOT_MANAGER_PATHS.values()))
    winre = tree.find(WINRE_PATH)
    winre_size = data_size(winre) if winre is not None and is_plain_file(winre) else None
    sdi = next(iter(_present(tree, _SDI_PATHS)), None)
    architecture = info.architecture
    if architecture is None:
        architecture = _read_architecture(paths, number, (*loaders, *managers))
    return ImageFacts(
        number=number,
        name=info.name,
        description=info.description or "",
        architecture=architecture,
        build=info.build,
        edition=info.edition,
        languages=info.languages,
        default_language=info.default_language,
        # The XML counts a file once for each of its names, and says how much that is too much.
        raw_size=max(
            0,
            _read_number(wim, number, "TOTALBYTES") - _read_number(wim, number, "HARDLINKBYTES"),
        ),
        file_count=_read_number(wim, number, "FILECOUNT") + _read_number(wim, number, "DIRCOUNT"),
        is_pe=_is_pe(info, tree),
        winre_path=None if winre is None or winre_size is None else winre.path.lstrip("/"),
        winre_size=winre_size,
        sdi_path=sdi,
        boot_files=boot_files,
        loader_paths=loaders,
        boot_manager_paths=managers,
    )


def _present(tree: ImageTree, paths: Iterable[str]) -> tuple[str, ...]:
    """Those of ``paths`` that are files of the image, written as there."""
    found = (tree.find(path) for path in paths)
    return tuple(
        entry.path.lstrip("/") for entry in found if entry is not None and is_plain_file(entry)
    )


def _is_pe(info: WimImageInfo, tree: ImageTree) -> bool:
    """By what the XML calls it; else WinPE has a shell of its own, and WinRE is one."""
    if info.installation_type or info.edition:
        return "windowspe" in ((info.installation_type or "") + (info.edition or "")).casefold()
    return tree.find(_PE_SHELL_PATH) is not None


def _read_number(wim: Wim, number: int, tag: str) -> int:
    text = (wim.property(number, tag) or "").strip()
    return int(text) if text.isascii() and text.isdigit() else 0


def _read_architecture(paths: Sequence[Path], number: int, programs: Iterable[str]) -> str | None:
    """What the first of ``programs`` that is a PE file is made for."""
    with open_parts(paths) as parts:
        for program in programs:
            head = bytearray()

            def keep(data: memoryview, head: bytearray = head) -> None:
                head.extend(data[: max(0, _HEAD_SIZE_MAX - len(head))])

            try:
                cat(parts, number, program, keep)
                offset = parse_pe_offset(bytes(head[:DOS_HEADER_SIZE]), what=program)
                header = bytes(head[offset : offset + PE_HEADER_SIZE])
                return ARCHITECTURES.get(parse_pe_machine(header, what=program))
            except FormatError:
                continue
    return None
