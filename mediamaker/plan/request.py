# SPDX-License-Identifier: GPL-3.0-or-later
"""What the user asked for: after parsing, before thinking."""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum

FAT32_FILE_SIZE_MAX = 0xFFFFFFFF
"""Microsoft FAT specification 1.03: DIR_FileSize is 32 bits."""


class Layout(StrEnum):
    """How a disk is arranged."""

    MBR_FAT32 = "mbr-fat32"
    GPT_FAT32 = "gpt-fat32"
    RAW = "raw"

    @property
    def summary(self) -> str:
        """One line of help."""
        return _SUMMARIES[self]


_SUMMARIES = {
    Layout.MBR_FAT32: "one active FAT32 partition; boots under BIOS and UEFI",
    Layout.GPT_FAT32: "GPT with one FAT32 partition; boots under UEFI only",
    Layout.RAW: "the source as it is, byte for byte (hybrid ISOs)",
}


@dataclass(frozen=True, slots=True)
class MediaRequest:
    """Choices that shape a plan; ``None`` means: as suits the source."""

    layout: Layout | None = None
    volume_label: str | None = None
    cluster_size: int | None = None
    part_size_max: int = FAT32_FILE_SIZE_MAX
