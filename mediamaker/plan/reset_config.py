# SPDX-License-Identifier: GPL-3.0-or-later
r"""What push-button reset needs to know of a layout that is not Microsoft's default.

Recovery media that a person makes in Windows repartition a disk in the default way, unless
``C:\Recovery\OEM`` holds a ResetConfig.xml and the diskpart script that it names.

References: Microsoft Learn, "Bare metal reset/recovery: enable your users to create recovery
media" (the script neither selects nor cleans the disk, and gives letters to the system, Windows
and recovery partitions), "ResetConfig XML reference", and the diskpart commands ``create
partition``, ``format``, ``shrink``, ``set id``, ``gpt attributes`` and ``active``. None of it was
run by a Windows here.
"""

from __future__ import annotations

from collections.abc import Iterator

from mediamaker.formats.reagent import pack_reset_config
from mediamaker.plan.describe_install import WINDOWS_SIZE_DOCUMENTED
from mediamaker.plan.disk_layout import PartitionSpec, Role
from mediamaker.plan.layout_defaults import default_type_code, default_type_guid
from mediamaker.plan.layouts import TABLE_SIZE
from mediamaker.plan.place_disk import PlacedDisk, PlacedPartition
from mediamaker.units import MIB, align_down

FOLDER = ("Recovery", "OEM")
CONFIG_NAME = "ResetConfig.xml"
SCRIPT_NAME = "ResetPartitions.txt"

_LETTERS = {Role.SYSTEM: "S", Role.WINDOWS: "W", Role.RECOVERY: "R"}


def build_reset_files(placed: PlacedDisk) -> dict[tuple[str, ...], bytes]:
    """Both files by their path on the Windows volume."""
    recovery = placed.find(Role.RECOVERY)
    config = pack_reset_config(
        partition_script=SCRIPT_NAME,
        windows_number=placed.windows.number,
        recovery_number=recovery.number if recovery is not None else None,
        disk_size_min=_disk_size_min(placed),
    )
    script = "\r\n".join([*_script_lines(placed), ""]).encode("ascii")
    return {(*FOLDER, CONFIG_NAME): config, (*FOLDER, SCRIPT_NAME): script}


def _disk_size_min(placed: PlacedDisk) -> int:
    """The smallest disk that a reset may repartition; this one is never too small."""
    needed = 2 * TABLE_SIZE
    for partition in placed.partitions:
        if partition.spec.size is not None:
            needed += partition.size
        else:
            is_windows = partition.role is Role.WINDOWS
            needed += max(partition.spec.size_min, WINDOWS_SIZE_DOCUMENTED if is_windows else 0)
    return min(needed, align_down(placed.geometry.size, MIB))


def _script_lines(placed: PlacedDisk) -> Iterator[str]:
    yield f"rem == {SCRIPT_NAME}: the disk has the focus and is empty =="
    if placed.layout.table == "gpt":
        yield "convert gpt"
    for partition in placed.partitions:
        yield f"rem == {partition.number}. {partition.role.value} =="
        yield from _partition_lines(placed, partition)
    yield "list volume"


def _partition_lines(placed: PlacedDisk, partition: PlacedPartition) -> Iterator[str]:
    spec = partition.spec
    kind = "primary"
    if placed.layout.table == "gpt":
        kind = {Role.SYSTEM: "efi", Role.MSR: "msr"}.get(spec.role, kind)
    size = "" if spec.size is None else f" size={partition.size // MIB}"
    yield f"create partition {kind}{size}"
    if spec.size is None:
        # The rest is taken whole, and what comes behind it is cut off its end again.
        behind = sum(other.size for other in placed.partitions[partition.number :])
        if behind:
            yield f"shrink minimum={behind // MIB}"
    if spec.file_system is not None:
        yield _format_line(spec)
    if spec.role in _LETTERS:
        yield f'assign letter="{_LETTERS[spec.role]}"'
    if spec.is_active:
        yield "active"
    yield from _type_lines(placed, spec)


def _format_line(spec: PartitionSpec) -> str:
    words = ["format quick", f"fs={spec.file_system}"]
    if spec.volume_label:
        # diskpart reads scripts in the code page of whatever runs it, and knows no escapes.
        label = "".join(
            char if char.isascii() and char not in '"%' else "_" for char in spec.volume_label
        )
        words.append(f'label="{label}"')
    if spec.cluster_size is not None:
        words.append(f"unit={spec.cluster_size}")
    return " ".join(words)


def _type_lines(placed: PlacedDisk, spec: PartitionSpec) -> Iterator[str]:
    """Where diskpart would make another type, or other attributes."""
    if placed.layout.table == "gpt":
        made_as = Role.DATA if spec.role is Role.RECOVERY else spec.role
        if spec.type_guid != default_type_guid(made_as):
            yield f'set id="{spec.type_guid}"'
        if spec.attributes:
            yield f"gpt attributes={spec.attributes:#018x}"
    elif spec.type_code != default_type_code(Role.DATA, spec.file_system):
        yield f"set id={spec.type_code:02x}"
