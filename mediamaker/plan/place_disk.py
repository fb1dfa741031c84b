# SPDX-License-Identifier: GPL-3.0-or-later
"""Where the partitions of a layout lie on a disk, and what they are called there.

::

    0        1 MiB                                                      size - 1 MiB   size
    | tables | partition 1 | partition 2 | ... the one with the rest ... |    zeros, GPT |

Everything begins and ends at whole MiB, so that 512 and 4096 byte sectors are alike and flash
is written in whole pages. Identities come from the plan's; the system partition, whichever
number it has, carries the ones from which the others are derived.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from uuid import UUID

from mediamaker.errors import TargetTooSmallError, UsageError
from mediamaker.formats.bcd_devices import GptPartition, MbrPartition, PartitionRef
from mediamaker.formats.mbr import LBA_MAX
from mediamaker.plan.disk_layout import DiskLayout, PartitionSpec, Role, Table
from mediamaker.plan.geometry import DEFAULT_SECTOR_SIZE, PARTITION_ALIGNMENT, Geometry
from mediamaker.plan.identity import Identities
from mediamaker.plan.layouts import TABLE_SIZE, Slot
from mediamaker.units import MIB, align_down, align_up, format_size
from mediamaker.volumes.fat32_geometry import CLUSTER_COUNT_AIM, measure_size

REST_SIZE_MIN = 16 * MIB
"""Of a rest that nothing is known about: room for the structures of any file system."""
_HIDDEN_SECTORS_MAX = 0xFFFFFFFF


@dataclass(frozen=True, slots=True)
class PlacedPartition:
    """A partition with an address; ``start`` and ``size`` in bytes, both whole MiB.

    ``unique_guid`` is None on an MBR. ``volume_serial`` has 64 bits for NTFS, 32 for FAT32.
    """

    number: int
    start: int
    size: int
    spec: PartitionSpec
    unique_guid: UUID | None
    volume_serial: int

    @property
    def role(self) -> Role:
        """What it is for."""
        return self.spec.role

    @property
    def end(self) -> int:
        """One past the last byte."""
        return self.start + self.size

    def reference(self, disk: PlacedDisk) -> PartitionRef:
        """How a BCD store names it."""
        if self.unique_guid is not None:
            return GptPartition(disk.disk_guid, self.unique_guid)
        return MbrPartition(disk.disk_signature, self.start)


@dataclass(frozen=True, slots=True)
class PlacedDisk:
    """A layout on a disk: every address and every identity, before anything is written.

    ``disk_guid`` is on the disk if the table is a GPT, ``disk_signature`` if it is an MBR.
    """

    geometry: Geometry
    layout: DiskLayout
    disk_guid: UUID
    disk_signature: int
    partitions: tuple[PlacedPartition, ...]

    def find(self, role: Role) -> PlacedPartition | None:
        """The first partition of ``role``."""
        return next((item for item in self.partitions if item.role is role), None)

    @property
    def system(self) -> PlacedPartition:
        """The partition that the firmware starts."""
        return self._one(Role.SYSTEM)

    @property
    def windows(self) -> PlacedPartition:
        """The partition that Windows goes on."""
        return self._one(Role.WINDOWS)

    def hidden_sectors(self, partition: PlacedPartition) -> int:
        """What its BPB says about where it lies; 0 where 32 bits do not reach."""
        sectors = partition.start // self.geometry.logical_sector_size
        return sectors if sectors <= _HIDDEN_SECTORS_MAX else 0

    def _one(self, role: Role) -> PlacedPartition:
        # DiskLayout refuses layouts without them.
        return next(item for item in self.partitions if item.role is role)


def place_disk(
    layout: DiskLayout,
    geometry: Geometry,
    identities: Identities,
    *,
    sizes_min: Mapping[Role, int] | None = None,
) -> PlacedDisk:
    """``layout`` on a disk of ``geometry``.

    ``sizes_min`` is what goes into a role's partition and how much that needs, in bytes;
    a partition of a smaller size in the layout is made larger.

    Raises:
        TargetTooSmallError: says how much each partition wants.
        UsageError: clusters smaller than the disk's sectors, or more than an MBR reaches.
    """
    slot = partition_slot(geometry, table=layout.table)
    sizes = _choose_sizes(layout, geometry, dict(sizes_min or {}), slot)
    placed = []
    start = slot.start
    for number, (spec, size) in enumerate(zip(layout.partitions, sizes, strict=True), start=1):
        _check_clusters(number, spec, geometry)
        placed.append(
            PlacedPartition(
                number=number,
                start=start,
                size=size,
                spec=spec,
                unique_guid=_unique_guid(identities, number, spec, layout),
                volume_serial=_volume_serial(identities, number, spec),
            )
        )
        start += size
    return PlacedDisk(
        geometry=geometry,
        layout=layout,
        disk_guid=identities.disk_guid,
        disk_signature=identities.disk_signature,
        partitions=tuple(placed),
    )


def partition_slot(geometry: Geometry, *, table: Table) -> Slot:
    """The range that partitions may lie in: all but both ends, as far as the table reaches."""
    end = align_down(geometry.size - TABLE_SIZE, PARTITION_ALIGNMENT)
    if table == "mbr":
        reach = align_down(LBA_MAX * geometry.logical_sector_size, PARTITION_ALIGNMENT)
        end = min(end, reach)
    return Slot(TABLE_SIZE, end)


def disk_size_needed(
    layout: DiskLayout,
    sizes_min: Mapping[Role, int] | None = None,
    *,
    sector_size: int = DEFAULT_SECTOR_SIZE,
) -> int:
    """The smallest disk for ``layout``: what ``--size auto`` takes for an image file."""
    needs = _needs(layout, dict(sizes_min or {}), sector_size)
    return TABLE_SIZE + sum(needs) + TABLE_SIZE


def _needs(layout: DiskLayout, sizes_min: dict[Role, int], sector_size: int) -> list[int]:
    """The least of each partition, whole MiB."""
    needs = []
    for spec in layout.partitions:
        # A minimum for the role data is one for each partition of it.
        wanted = max(spec.size_min or REST_SIZE_MIN, sizes_min.get(spec.role, 0))
        if spec.size is not None:
            wanted = max(spec.size, sizes_min.get(spec.role, 0))
        if spec.file_system == "fat32":
            wanted = max(wanted, _fat32_size_min(sector_size, spec.cluster_size))
        needs.append(align_up(wanted, PARTITION_ALIGNMENT))
    return needs


def _fat32_size_min(sector_size: int, cluster_size: int | None) -> int:
    """The smallest volume that has enough clusters to be FAT32 and not FAT16."""
    smallest = max(cluster_size or 0, sector_size)
    return measure_size(CLUSTER_COUNT_AIM, sector_size, smallest, PARTITION_ALIGNMENT)


def _choose_sizes(
    layout: DiskLayout, geometry: Geometry, sizes_min: dict[Role, int], slot: Slot
) -> list[int]:
    sizes = _needs(layout, sizes_min, geometry.logical_sector_size)
    spare = slot.size - sum(sizes)
    if spare < 0:
        raise _too_small(layout, geometry, sizes, slot)
    for index, spec in enumerate(layout.partitions):
        if spec.size is None:
            sizes[index] += spare
    return sizes


def _too_small(
    layout: DiskLayout, geometry: Geometry, sizes: list[int], slot: Slot
) -> TargetTooSmallError | UsageError:
    wants = ", ".join(
        f"{number} {spec.role.value} {'at least ' if spec.size is None else ''}{format_size(size)}"
        for number, (spec, size) in enumerate(zip(layout.partitions, sizes, strict=True), start=1)
    )
    needed = TABLE_SIZE + sum(sizes) + TABLE_SIZE
    if needed <= geometry.size:
        return UsageError(
            f"an MBR reaches {format_size(slot.end)} of this disk, the partitions want more: "
            f"{wants}",
            hint="take a layout with a GPT, or smaller partitions",
        )
    return TargetTooSmallError(
        f"the disk has {format_size(geometry.size)} ({geometry.size} bytes), the layout "
        f"{layout.name} needs {format_size(needed)} ({needed} bytes): {wants}, and "
        f"{format_size(2 * TABLE_SIZE)} for the tables",
        needed_size=needed,
        available_size=geometry.size,
        hint="take a larger disk (or --size for an image file), or a --layout with less",
    )


def _check_clusters(number: int, spec: PartitionSpec, geometry: Geometry) -> None:
    sector_size = geometry.logical_sector_size
    if spec.cluster_size is not None and spec.cluster_size < sector_size:
        raise UsageError(
            f"partition {number} ({spec.role.value}): clusters of {spec.cluster_size} bytes are "
            f"smaller than the disk's sectors of {sector_size} bytes",
            hint="leave cluster_size out of the layout",
        )


def _unique_guid(
    identities: Identities, number: int, spec: PartitionSpec, layout: DiskLayout
) -> UUID | None:
    if layout.table == "mbr":
        return None
    if spec.role is Role.SYSTEM:
        return identities.partition_guid
    return UUID(bytes_le=identities.derive_guid(f"partition {number}"))


def _volume_serial(identities: Identities, number: int, spec: PartitionSpec) -> int:
    derived = int.from_bytes(identities.derive_guid(f"volume serial of partition {number}")[:8])
    if spec.role is Role.SYSTEM:
        # The low 32 bits are the plan's own, so that they can be found again on the disk.
        derived = derived >> 32 << 32 | identities.volume_serial
    return derived if spec.file_system == "ntfs" else derived & 0xFFFFFFFF or 1
