# SPDX-License-Identifier: GPL-3.0-or-later
"""What the user asked for: after parsing, before thinking."""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum

from mediamaker.formats.fat import FILE_SIZE_SAFE_MAX


class Layout(StrEnum):
    """How a disk is arranged."""

    MBR_FAT32 = "mbr-fat32"
    MBR_FAT32_EXFAT = "mbr-fat32-exfat"
    GPT_FAT32 = "gpt-fat32"
    RAW = "raw"

    @property
    def summary(self) -> str:
        """One line of help."""
        return _SUMMARIES[self]


class InstalledLayout(StrEnum):
    """The table of a disk that gets an installed Windows; a ``DiskLayout`` says the rest."""

    GPT = "windows-gpt"
    MBR = "windows-mbr"

    @property
    def summary(self) -> str:
        """One line of help."""
        return _INSTALLED_SUMMARIES[self]


PlanLayout = Layout | InstalledLayout


def parse_plan_layout(text: str) -> PlanLayout:
    """The layout of that value.

    Raises:
        ValueError: there is none.
    """
    return InstalledLayout(text) if text in set(InstalledLayout) else Layout(text)


_INSTALLED_SUMMARIES = {
    InstalledLayout.GPT: "GPT with an installed Windows",
    InstalledLayout.MBR: "MBR with an installed Windows",
}

_SUMMARIES = {
    Layout.MBR_FAT32: "one active FAT32 partition; boots under BIOS and UEFI",
    Layout.MBR_FAT32_EXFAT: (
        "an active FAT32 partition that boots, and all files whole on a second one, exFAT; "
        "experimental"
    ),
    Layout.GPT_FAT32: "GPT with one FAT32 partition; boots under UEFI only",
    Layout.RAW: "the source as it is, byte for byte (hybrid ISOs)",
}


@dataclass(frozen=True, slots=True)
class ExtraFile:
    """A small file that the source lacks; ``note`` tells the person why it is added."""

    path: tuple[str, ...]
    data: bytes
    note: str


@dataclass(frozen=True, slots=True)
class MediaRequest:
    """Choices that shape a plan; ``None`` means: as suits the source.

    ``part_size_max``: an install.wim larger than this is split into parts no larger. FAT32 holds
    4 GiB - 1, but the default stays what fsck.fat 4.2 can check without damage.
    """

    layout: Layout | None = None
    volume_label: str | None = None
    cluster_size: int | None = None
    part_size_max: int = FILE_SIZE_SAFE_MAX
    extras: tuple[ExtraFile, ...] = ()
