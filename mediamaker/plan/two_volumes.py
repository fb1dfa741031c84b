# SPDX-License-Identifier: GPL-3.0-or-later
"""The layout ``mbr-fat32-exfat``: what lies on which of its two volumes, and both volumes.

Partition 1, FAT32 and active, has what firmware and boot managers read: everything except
``sources/install.*`` (also below ``x64`` and ``x86``) and other files that FAT32 can't hold.
Partition 2, exFAT, has the whole source as it is: no file is split or recompressed.

Partition 1 is as small as its files let it be, partition 2 gets the rest of the disk.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, replace

from mediamaker.formats.exfat import exfat_label
from mediamaker.formats.fat import FILE_SIZE_MAX
from mediamaker.plan.geometry import PARTITION_ALIGNMENT, Geometry
from mediamaker.plan.identity import Identities
from mediamaker.plan.layouts import TABLE_SIZE, Slot, partition_slot
from mediamaker.plan.media import build_media
from mediamaker.plan.request import Layout, MediaRequest
from mediamaker.sources.tree import Entry, SourceTree
from mediamaker.units import align_up, format_size
from mediamaker.volumes.exfat import ExfatRequest, ExfatVolume, build_exfat, measure_exfat
from mediamaker.volumes.fat32 import measure_fat32
from mediamaker.volumes.tree import DirectoryNode, TreeItem, build_tree

EXPERIMENTAL = (
    "experimental: Windows Setup has not been seen to take its install.wim from a second, exFAT "
    "partition"
)
_SETUP_DIRECTORIES = (("sources",), ("x64", "sources"), ("x86", "sources"))
_BOOT_WIM = "boot.wim"


@dataclass(frozen=True, slots=True)
class TwoMedia:
    """The trees of both volumes, what they need, and what was decided on the way to them."""

    boot_tree: DirectoryNode
    boot_size: int
    """Bytes of partition 1."""
    whole_tree: DirectoryNode
    whole_size_needed: int
    notes: tuple[str, ...]

    @property
    def size_needed(self) -> int:
        """Bytes that both partitions need together."""
        return self.boot_size + self.whole_size_needed


def build_two_media(
    tree: SourceTree, request: MediaRequest, identities: Identities, sector_size: int
) -> TwoMedia:
    """What lies where. ``request.cluster_size`` is for the exFAT volume.

    Raises:
        NotRepresentableError: a name that can't be, or a boot.wim that FAT32 can't hold.
    """
    left_out = [entry for entry in tree.entries if _is_left_out(entry)]
    kept = tuple(entry for entry in tree.entries if not _is_left_out(entry))
    media = build_media(replace(tree, entries=kept), (), request, identities)
    whole_tree = build_tree(
        TreeItem(entry.path, None if entry.is_dir else entry.pieces, entry.modified_ns)
        for entry in tree.entries
    )
    return TwoMedia(
        boot_tree=media.tree,
        boot_size=align_up(measure_fat32(media.tree, sector_size), PARTITION_ALIGNMENT),
        whole_tree=whole_tree,
        whole_size_needed=measure_exfat(whole_tree, sector_size, request.cluster_size),
        notes=(*media.notes, *_notes(left_out)),
    )


def partition_two_slots(geometry: Geometry, media: TwoMedia) -> tuple[Slot, Slot]:
    """The ranges of both partitions.

    Raises:
        TargetTooSmallError: they don't fit; says how much does.
    """
    both = partition_slot(geometry, Layout.MBR_FAT32_EXFAT, volume_size_needed=media.size_needed)
    border = TABLE_SIZE + media.boot_size
    return Slot(both.start, border), Slot(border, both.end)


def build_whole_volume(
    media: TwoMedia,
    slot: Slot,
    request: MediaRequest,
    identities: Identities,
    *,
    sector_size: int,
    label: str,
) -> ExfatVolume:
    """The exFAT volume of partition 2; its serial is derived from that of partition 1."""
    return build_exfat(
        ExfatRequest(
            size=slot.size,
            sector_size=sector_size,
            partition_offset_sectors=slot.start // sector_size,
            volume_label=exfat_label(label),
            volume_serial=identities.derive_volume_serial("exFAT"),
            tree=media.whole_tree,
            cluster_size=request.cluster_size,
        )
    )


def _is_left_out(entry: Entry) -> bool:
    if entry.is_dir:
        return False
    *directory, name = (step.casefold() for step in entry.path)
    if tuple(directory) in _SETUP_DIRECTORIES:
        if name.startswith("install."):
            return True
        if name == _BOOT_WIM:
            return False  # What boots has to be there; if it is too large, that is an error.
    return entry.size > FILE_SIZE_MAX


def _notes(left_out: Iterable[Entry]) -> list[str]:
    names = [f"{entry.path_text} ({format_size(entry.size)})" for entry in left_out]
    if not names:
        return []
    left = ", ".join(names)
    return [
        f"partition 1 has everything but {left}; partition 2 has the whole source, nothing is split"
    ]
