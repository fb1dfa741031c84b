# SPDX-License-Identifier: GPL-3.0-or-later
"""What bcdboot copies from ``Windows/Boot`` to the system volume, taken from the image itself.

UEFI: ``EFI``, ``Fonts`` and ``Resources`` into ``EFI/Microsoft/Boot``, and the boot manager once
more under the name that firmware starts when it has no entry of its own. BIOS: ``PCAT`` without
``bootmgr`` and ``bootnxt``, which lie in the root, ``Fonts`` and ``Resources`` into ``Boot``.

Of the generation 2023 are the files of ``EFI_EX`` and ``FONTS_EX``, which lose the ``_EX`` at the
end of their names and take the place of their namesakes (as in Microsoft's
Make2023BootableMedia.ps1). ``BCD-Template`` is not used: the store is made for the plan.
"""

from __future__ import annotations

import threading
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import Final, assert_never

from mediamaker.errors import SourceError
from mediamaker.execute.progress import OnEvent, ignore_event
from mediamaker.install.image_facts import (
    BOOT_DIRECTORY,
    BootGeneration,
    FirmwareKind,
    ImageFacts,
)
from mediamaker.volumes.tree import case_key
from mediamaker.wim.extract import extract_paths
from mediamaker.wim.parts import open_parts

TargetPath = tuple[str, ...]
FALLBACK_NAMES: Final = {"x64": "bootx64.efi", "x86": "bootia32.efi", "arm64": "bootaa64.efi"}
_UEFI_HOME: Final = ("EFI", "Microsoft", "Boot")
_FALLBACK_HOME: Final = ("EFI", "Boot")
_BIOS_HOME: Final = ("Boot",)
_BIOS_ROOT_NAMES: Final = ("bootmgr", "bootnxt")
_GENERATION_SUFFIX: Final = "_EX"
_BOOT_MANAGER: Final = "bootmgfw.efi"


@dataclass(frozen=True, slots=True)
class PlannedBootFile:
    """A file that goes to ``target`` of the system volume; ``path`` is the image's."""

    target: TargetPath
    path: str
    size: int


@dataclass(frozen=True, slots=True)
class BootFile:
    """A file for ``target`` of the system volume, whose content is in ``file``."""

    target: TargetPath
    file: Path


@dataclass(frozen=True, slots=True, kw_only=True)
class RecoveryFiles:
    """What WinRE needs, as files here; None for what the image doesn't have."""

    winre: Path | None
    sdi: Path | None


def plan_boot_files(
    facts: ImageFacts, firmware: FirmwareKind, *, generation: BootGeneration = "2011"
) -> tuple[PlannedBootFile, ...]:
    """Where each boot file of the image goes, by target; nothing is read for it.

    Raises:
        SourceError: the boot manager, or the fallback name for the architecture, is missing.
    """
    chosen: dict[str, PlannedBootFile] = {}

    def choose(target: TargetPath, path: str, size: int) -> None:
        # Later ones, of the newer generation, take the place of those before.
        chosen["/".join(case_key(name) for name in target)] = PlannedBootFile(target, path, size)

    directories = _directories(firmware, generation)
    for directory, home in directories:
        for file in facts.boot_files:
            names = _names_below(file.path, directory)
            if names is None:
                continue
            if directory.endswith(_GENERATION_SUFFIX):
                names = (*names[:-1], _drop_suffix(names[-1]))
            is_root = firmware == "bios" and directory == "PCAT" and len(names) == 1
            if is_root and names[0].casefold() in _BIOS_ROOT_NAMES:
                choose(names, file.path, file.size)
            else:
                choose((*home, *names), file.path, file.size)
    manager = (*_UEFI_HOME, _BOOT_MANAGER) if firmware == "uefi" else (_BIOS_ROOT_NAMES[0],)
    found = chosen.get("/".join(case_key(name) for name in manager))
    if found is None:
        raise SourceError(
            f"image {facts.number} has no boot files for {firmware.upper()} firmware in "
            f"{BOOT_DIRECTORY}"
        )
    if firmware == "uefi":
        fallback = FALLBACK_NAMES.get(facts.architecture or "")
        if fallback is None:
            raise SourceError(
                f"image {facts.number}: what UEFI starts on {facts.architecture or 'an unknown'} "
                f"architecture is not known: expected {', '.join(FALLBACK_NAMES)}"
            )
        choose((*_FALLBACK_HOME, fallback), found.path, found.size)
    return tuple(sorted(chosen.values(), key=lambda file: file.target))


def extract_boot_files(
    paths: Sequence[Path],
    facts: ImageFacts,
    firmware: FirmwareKind,
    scratch: Path,
    *,
    generation: BootGeneration = "2011",
    on_event: OnEvent = ignore_event,
    cancel: threading.Event | None = None,
) -> tuple[BootFile, ...]:
    """The boot files, extracted from the image into the directory ``scratch``, by target.

    Raises:
        SourceError: they are not in the image, or damaged; TargetIOError: no room in ``scratch``.
    """
    planned = plan_boot_files(facts, firmware, generation=generation)
    home = scratch / f"boot-{firmware}-{generation}"
    tops = {PurePosixPath(file.path).parts[2] for file in planned}
    with open_parts(paths) as parts:
        extract_paths(
            parts,
            facts.number,
            [_top_path(planned, top) for top in sorted(tops)],
            home,
            on_event=on_event,
            cancel=cancel,
        )
    return tuple(
        BootFile(file.target, home.joinpath(*PurePosixPath(file.path).parts[2:]))
        for file in planned
    )


def extract_recovery_files(
    paths: Sequence[Path],
    facts: ImageFacts,
    scratch: Path,
    *,
    on_event: OnEvent = ignore_event,
    cancel: threading.Event | None = None,
) -> RecoveryFiles:
    """``Winre.wim`` and ``boot.sdi`` of the image, in the directory ``scratch``.

    Raises:
        SourceError: damaged; TargetIOError: no room in ``scratch``.
    """
    home = scratch / "recovery"
    wanted = {
        name: path
        for name, path in (("winre", facts.winre_path), ("sdi", facts.sdi_path))
        if path is not None
    }
    if wanted:
        with open_parts(paths) as parts:
            extract_paths(
                parts, facts.number, list(wanted.values()), home, on_event=on_event, cancel=cancel
            )
    files = {name: home / PurePosixPath(path).name for name, path in wanted.items()}
    return RecoveryFiles(winre=files.get("winre"), sdi=files.get("sdi"))


def _directories(
    firmware: FirmwareKind, generation: BootGeneration
) -> tuple[tuple[str, TargetPath], ...]:
    """Directories of ``Windows/Boot`` and where their files go; the later one wins."""
    match firmware:
        case "uefi":
            common: tuple[tuple[str, TargetPath], ...] = (
                ("Resources", (*_UEFI_HOME, "Resources")),
                ("Fonts", (*_UEFI_HOME, "Fonts")),
                ("EFI", _UEFI_HOME),
            )
            newer: tuple[tuple[str, TargetPath], ...] = (
                ("FONTS_EX", (*_UEFI_HOME, "Fonts")),
                ("EFI_EX", _UEFI_HOME),
            )
            return common + newer if generation == "2023" else common
        case "bios":
            return (
                ("Resources", (*_BIOS_HOME, "Resources")),
                ("Fonts", (*_BIOS_HOME, "Fonts")),
                ("PCAT", _BIOS_HOME),
            )
        case _:
            assert_never(firmware)


def _names_below(path: str, directory: str) -> TargetPath | None:
    """The names of ``path`` below ``Windows/Boot/<directory>``; None when it is not there."""
    names = PurePosixPath(path).parts
    if len(names) < 4 or names[2].casefold() != directory.casefold():
        return None
    return names[3:]


def _drop_suffix(name: str) -> str:
    stem, dot, extension = name.rpartition(".")
    if not dot:
        stem, extension = name, ""
    if stem.upper().endswith(_GENERATION_SUFFIX):
        stem = stem[: -len(_GENERATION_SUFFIX)]
    return f"{stem}{dot}{extension}"


def _top_path(planned: Sequence[PlannedBootFile], top: str) -> str:
    """The path of the directory ``top`` of ``Windows/Boot``, as the image writes it."""
    path = next(file.path for file in planned if PurePosixPath(file.path).parts[2] == top)
    return "/".join(PurePosixPath(path).parts[:3])
