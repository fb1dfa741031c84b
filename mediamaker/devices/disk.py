# SPDX-License-Identifier: GPL-3.0-or-later
"""What is known of a whole disk: plain facts, no judgement (``guard`` judges)."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from mediamaker.devices.signatures import Signature
from mediamaker.devices.writers import Writer

DiskKind = Literal["disk", "loop", "optical", "volume"]
"""A volume is what the kernel makes of other devices: device-mapper, RAID, bcache, loop."""

HolderKind = Literal[
    "LVM", "RAID", "LUKS", "multipath", "dm-crypt", "device-mapper", "loop", "other"
]


@dataclass(frozen=True, slots=True)
class Holder:
    """A kernel device that stands on a disk; ``label`` is the volume's own name."""

    name: str
    kind: HolderKind
    label: str | None

    def __str__(self) -> str:
        shown = self.label if self.label not in {None, self.name} else None
        return f"{self.kind} {shown} ({self.name})" if shown else f"{self.kind} {self.name}"


@dataclass(frozen=True, slots=True)
class DiskMount:
    """A mounted file system that stands on a disk, perhaps through its ``device``'s layers."""

    device: str
    place: str
    filesystem: str

    def __str__(self) -> str:
        return f"{self.device} at {self.place}"


@dataclass(frozen=True, slots=True)
class DiskPartition:
    """A partition as the kernel knows it; ``start`` and ``size`` are bytes."""

    path: Path
    name: str
    device_number: str
    number: int
    start: int
    size: int
    signature: Signature
    mountpoints: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class Disk:
    """A whole disk. ``name`` is the kernel's, ``device_number`` is ``major:minor``."""

    path: Path
    name: str
    device_number: str
    kind: DiskKind
    bus: str
    vendor: str | None
    model: str | None
    serial: str | None
    wwn: str | None
    lun: int | None
    sequence: int | None
    size: int
    logical_sector_size: int
    physical_sector_size: int
    is_removable: bool
    is_memory_card: bool
    is_read_only: bool
    is_rotational: bool
    backing_file: str | None
    signature: Signature
    partitions: tuple[DiskPartition, ...]
    holders: tuple[Holder, ...]
    mounts: tuple[DiskMount, ...]
    swaps: tuple[str, ...]
    system_mountpoints: tuple[str, ...]
    imported_pools: tuple[str, ...]
    writers: tuple[Writer, ...]

    @property
    def is_portable(self) -> bool:
        """Sticks, cards and cased disks: what is sold with a fake capacity."""
        return self.bus == "usb" or self.is_removable or self.is_memory_card

    @property
    def is_system(self) -> bool:
        """Whether the running system stands on it."""
        return bool(self.system_mountpoints)

    @property
    def signatures(self) -> tuple[Signature, ...]:
        """Of the disk and of every partition."""
        return (self.signature, *(partition.signature for partition in self.partitions))

    @property
    def title(self) -> str:
        """Vendor and model as one line; may be empty."""
        words = [word for word in (self.vendor, self.model) if word]
        if len(words) == 2 and words[1].lower().startswith(words[0].lower()):
            words = words[1:]
        return " ".join(words)
