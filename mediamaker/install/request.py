# SPDX-License-Identifier: GPL-3.0-or-later
"""What a person asks an installation for, and how much room that takes."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from enum import StrEnum
from pathlib import Path
from typing import Final, assert_never

from mediamaker.errors import SourceError, UsageError
from mediamaker.install.boot_files import plan_boot_files
from mediamaker.install.image_facts import (
    BootGeneration,
    FirmwareKind,
    ImageFacts,
    check_installable,
    image_facts,
)
from mediamaker.plan.disk_layout import DiskLayout, Role
from mediamaker.units import GIB, KIB, MIB, align_up

RECOVERY_SIZE_MIN: Final = 1024 * MIB
_RECOVERY_SPARE_SIZE: Final = 320 * MIB
"""Of a recovery partition that must be free, so that Windows can service WinRE (KB5028997)."""
_WINDOWS_SIZE_USUAL: Final = 32 * GIB
_VOLUME_OVERHEAD_SIZE: Final = 32 * MIB
_CLUSTER_SIZE: Final = 4 * KIB
_WINDOWS_11_BUILD: Final = 22000


class WinreMode(StrEnum):
    """Where the recovery environment goes."""

    REGISTERED = "registered"
    NATIVE = "native"
    NONE = "none"


@dataclass(frozen=True, slots=True, kw_only=True)
class InstallRequest:
    """``wim_paths`` are the WIM or all parts of a split one; ``image`` a number, a name or None.

    ``firmwares`` get boot files and a store each. ``is_portable``: stores that name no disk, and
    a Windows that knows that it moves (Windows To Go).
    """

    wim_paths: tuple[Path, ...]
    image: str | int | None
    firmwares: tuple[FirmwareKind, ...]
    layout: DiskLayout
    is_custom_layout: bool = False
    generation: BootGeneration = "2011"
    winre: WinreMode = WinreMode.REGISTERED
    locale: str | None = None
    is_portable: bool = False
    modified_ns: int = 0

    @property
    def has_recovery_partition(self) -> bool:
        """Whether the layout has a partition for WinRE."""
        return self.layout.find(Role.RECOVERY) is not None

    @property
    def leaves_out_winre(self) -> bool:
        """Whether nobody wants WinRE: staged, Windows' own setup would enable it all the same."""
        return self.winre is WinreMode.NONE and not self.is_portable


def read_image_facts(request: InstallRequest) -> ImageFacts:
    """The image's facts; it can be installed, and the firmware starts such a disk.

    Raises:
        UsageError: no such image, or a layout that is not for the firmware;
            SourceError: it can't be installed for this firmware.
    """
    check_layout(request)
    facts = image_facts(request.wim_paths, request.image)
    for firmware in request.firmwares:
        check_installable(
            facts, firmware, generation=request.generation, what=str(request.wim_paths[0])
        )
    return facts


def read_fitting_image(
    request: InstallRequest,
) -> tuple[InstallRequest, ImageFacts, tuple[str, ...]]:
    """As :func:`read_image_facts`, for those firmwares that can start the image.

    Returns the request for them, the facts, and why each of the others can't.

    Raises:
        UsageError: no such image; SourceError: none of them starts it.
    """
    facts = image_facts(request.wim_paths, request.image)
    fitting: list[FirmwareKind] = []
    reasons: list[str] = []
    for firmware in request.firmwares:
        try:
            check_installable(
                facts, firmware, generation=request.generation, what=str(request.wim_paths[0])
            )
        except SourceError as error:
            reasons.append(error.message)
        else:
            fitting.append(firmware)
    if not fitting:
        return request, read_image_facts(request), ()
    request = replace(request, firmwares=tuple(fitting))
    check_layout(request)
    return request, facts, tuple(reasons)


def check_layout(request: InstallRequest) -> None:
    """The layout is one that the firmware can start from; for Windows To Go, one of both.

    Raises:
        UsageError: no firmware that was asked for comes to the boot files.
    """
    reasons = [_why_not_started(request.layout, firmware) for firmware in request.firmwares]
    if None in reasons:
        return
    raise UsageError(
        f"--layout {request.layout.name} is not for {' or '.join(request.firmwares).upper()}: "
        + "; ".join(reason for reason in reasons if reason is not None),
        hint="leave out --layout, or name the --firmware that it is for",
    )


def _why_not_started(layout: DiskLayout, firmware: FirmwareKind) -> str | None:
    found = layout.find(Role.SYSTEM)
    match firmware:
        case "bios":
            return None if layout.table == "mbr" else "BIOS starts Windows only from an MBR"
        case "uefi":
            is_fat = found is not None and found[1].file_system == "fat32"
            return None if is_fat else "UEFI firmware reads only FAT, its system partition is NTFS"
        case _:
            assert_never(firmware)


def fills_recovery(request: InstallRequest, facts: ImageFacts) -> bool:
    """Whether Winre.wim moves to the recovery partition and is registered there."""
    return (
        request.winre is WinreMode.REGISTERED
        and request.has_recovery_partition
        and not request.is_portable
        and facts.winre_size is not None
    )


def measure_roles(request: InstallRequest, facts: ImageFacts) -> Mapping[Role, int]:
    """Bytes that what goes onto the partition of each role needs, its volume's tables too."""
    boot_size = sum(
        align_up(file.size, _CLUSTER_SIZE) + _CLUSTER_SIZE
        for firmware in request.firmwares
        for file in plan_boot_files(facts, firmware, generation=request.generation)
    )
    sizes = {
        Role.SYSTEM: boot_size + _VOLUME_OVERHEAD_SIZE,
        Role.WINDOWS: facts.volume_size_min,
    }
    if request.has_recovery_partition and facts.winre_size is not None:
        sizes[Role.RECOVERY] = recovery_partition_size(facts.winre_size)
    return sizes


def roomy_sizes(sizes: Mapping[Role, int]) -> Mapping[Role, int]:
    """``sizes`` with a Windows partition in which Windows can work, for files that grow.

    Reference: Microsoft Learn, "UEFI/GPT-based hard drive partitions" (20 GB or more).
    """
    needed = sizes[Role.WINDOWS]
    return {**sizes, Role.WINDOWS: max(_WINDOWS_SIZE_USUAL, align_up(2 * needed, MIB))}


def recovery_partition_size(winre_size: int) -> int:
    """Bytes for a recovery partition: WinRE, what a later one is larger, and room to service it.

    Reference: Microsoft Learn, "UEFI/GPT-based hard drive partitions" (recovery tools partition).
    """
    wanted = winre_size + winre_size // 4 + _RECOVERY_SPARE_SIZE
    return max(RECOVERY_SIZE_MIN, align_up(wanted, MIB))


def choose_description(facts: ImageFacts) -> str:
    """What boot menus call it: as bcdboot does, the product without its edition."""
    build = facts.build or ""
    number = build.split(".")[2] if build.count(".") >= 2 else build
    if "server" in f"{facts.edition or ''} {facts.name}".casefold():
        return "Windows Server"
    if number.isdecimal() and number.isascii() and int(number) >= _WINDOWS_11_BUILD:
        return "Windows 11"
    if number.isdecimal():
        return "Windows 10"
    return facts.name or "Windows"


def has_boot_language(facts: ImageFacts, locale: str) -> bool:
    """Whether the image has the boot manager's texts in this language."""
    folder = f"/{locale.casefold()}/"
    return any(folder in file.path.casefold() for file in facts.boot_files)


def choose_locale(request: InstallRequest, facts: ImageFacts) -> str:
    """The language of boot menus: as asked for, else the image's."""
    return request.locale or facts.default_language or next(iter(facts.languages), "en-US")
