# SPDX-License-Identifier: GPL-3.0-or-later
"""What will be lost: the partition table of a disk or image file, through libparted.

References: pyparted's ``parted`` and ``_ped`` modules, libparted's ``ped_exception_throw``
(an exception is a question; FIX and YES make libparted write, so they are never answered).

libparted opens a device for reading and writing when it may, and offers no other way. Nothing is
written without a commit, which is never called here; but closing such a device makes udev look
at it again. So this is for the disk that is the target, after the guards; a listing of all
disks takes what sysfs knows. libparted knows no volume labels: blkid gives them by range.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import _ped
import parted

from mediamaker.devices.disk import Disk
from mediamaker.devices.signatures import Signature, probe_signature
from mediamaker.units import format_range, format_size

_NO_TABLE_WORDS = "unrecognised disk label"
_WHOLE_DISK_LABEL = "loop"
"""What libparted calls a file system that has no partition table around it."""

_UNHANDLED: int = _ped.EXCEPTION_RESOLVE_UNHANDLED
_WARNING_ANSWERS: tuple[int, ...] = (
    _ped.EXCEPTION_RESOLVE_IGNORE,
    _ped.EXCEPTION_RESOLVE_OK,
    _ped.EXCEPTION_RESOLVE_NO,
    _ped.EXCEPTION_RESOLVE_CANCEL,
)
_ERROR_ANSWERS: tuple[int, ...] = (
    # OK means "go on with the copy of the table that is whole"; on I/O errors it is not offered
    _ped.EXCEPTION_RESOLVE_OK,
    _ped.EXCEPTION_RESOLVE_CANCEL,
)
_KINDS = (
    (parted.PARTITION_EXTENDED, "extended"),
    (parted.PARTITION_LOGICAL, "logical"),
)


@dataclass(frozen=True, slots=True)
class TablePartition:
    """One partition; ``start`` and ``size`` are bytes, ``kind`` is primary, logical or extended."""

    number: int
    kind: str
    start: int
    size: int
    partition_name: str | None
    flags: tuple[str, ...]
    file_system: str | None
    volume_label: str | None


@dataclass(frozen=True, slots=True)
class DiskTable:
    """``type`` is gpt, msdos, ...; None when there is no table.

    ``whole_disk`` is what lies on a disk without a table; ``problems`` are short words for what
    could not be read or is damaged.
    """

    size: int
    sector_size: int
    type: str | None
    partitions: tuple[TablePartition, ...]
    whole_disk: Signature
    problems: tuple[str, ...]


def read_table(path: Path) -> DiskTable:
    """The table on a disk or in an image file. Never raises: what fails is among ``problems``."""
    problems: list[str] = []
    if not (path.is_file() or path.is_block_device()):
        return DiskTable(0, 0, None, (), Signature(), (f"{path} is neither a file nor a disk",))
    whole_disk = probe_signature(path)
    size = sector_size = 0
    table_type: str | None = None
    partitions: tuple[TablePartition, ...] = ()
    with _quiet_libparted(problems):
        try:
            device = parted.getDevice(str(path))
            # libparted remembers devices by name, with size and contents: what has this name the
            # next time may be another disk. Reading that one by these facts has crashed.
            device.removeFromCache()
            size, sector_size = device.length * device.sectorSize, device.sectorSize
            disk = parted.newDisk(device)
            if disk.type != _WHOLE_DISK_LABEL:
                table_type = disk.type
                partitions = tuple(_read_partitions(disk, path))
        # libparted's Python layer raises several unrelated classes, SystemError among them
        except Exception as error:  # noqa: BLE001 - nothing on a disk may stop us from telling
            problems.append(str(error) or type(error).__name__)
    return DiskTable(
        size=size,
        sector_size=sector_size,
        type=table_type,
        partitions=partitions,
        whole_disk=whole_disk,
        problems=tuple(_shorten(problems, path)),
    )


def show_lost(disk: Disk | None, table: DiskTable) -> list[str]:
    """Lines that tell a person what a write destroys; ``disk`` is None for an image file."""
    lines: list[str] = []
    if disk is not None:
        about = [disk.title, f"serial {disk.serial}" if disk.serial else "", disk.bus]
        about += [format_size(disk.size)]
        lines.append(f"{disk.path}: {', '.join(word for word in about if word)}")
    if table.type is not None:
        count = len(table.partitions)
        lines.append(f"{table.type} partition table, {count} partition{'' if count == 1 else 's'}")
        lines += [_show_partition(partition) for partition in table.partitions]
    elif table.whole_disk.type is not None:
        around = table.whole_disk.table_type
        with_table = f"a {around} partition table that can't be read" if around else "no table"
        lines.append(f"the whole disk is {table.whole_disk} ({with_table})")
    elif table.whole_disk.table_type is not None:
        lines.append(f"a {table.whole_disk.table_type} partition table that can't be read")
    elif table.whole_disk.problem is None and not table.problems:
        lines.append("no partition table and no known file system; other data may still be there")
    else:
        lines.append("nothing is known of what is on it")
    lines += [f"note: {problem}" for problem in table.problems]
    return lines


def _read_partitions(disk: Any, path: Path) -> Iterator[TablePartition]:
    sector_size = disk.device.sectorSize
    has_names = disk.supportsFeature(parted.DISK_TYPE_PARTITION_NAME)
    for partition in disk.partitions:
        start = partition.geometry.start * sector_size
        size = partition.geometry.length * sector_size
        kind = next((name for flag, name in _KINDS if partition.type & flag), "primary")
        inside = Signature()
        if kind != "extended":
            inside = probe_signature(path, offset=start, size=size)
        known = partition.fileSystem.type if partition.fileSystem is not None else None
        yield TablePartition(
            number=partition.number,
            kind=kind,
            start=start,
            size=size,
            partition_name=(partition.name or None) if has_names else None,
            flags=tuple(flag for flag in partition.getFlagsAsString().split(", ") if flag),
            file_system=inside.type or known,
            volume_label=inside.label,
        )


def _show_partition(partition: TablePartition) -> str:
    words = [
        f"  {partition.number:>3}",
        format_range(partition.start, partition.start + partition.size),
        format_size(partition.size),
        partition.file_system or ("extended" if partition.kind == "extended" else "unknown"),
    ]
    words += [f'"{partition.volume_label}"'] if partition.volume_label else []
    words += [f'named "{partition.partition_name}"'] if partition.partition_name else []
    words += [f"({', '.join(partition.flags)})"] if partition.flags else []
    return "  ".join(words)


@contextlib.contextmanager
def _quiet_libparted(problems: list[str]) -> Iterator[None]:
    """Collect libparted's exceptions instead of letting it ask; one process-wide handler."""

    def answer(kind: int, options: int, message: str) -> int:
        problems.append(message)
        is_warning = kind in {_ped.EXCEPTION_TYPE_INFORMATION, _ped.EXCEPTION_TYPE_WARNING}
        answers = _WARNING_ANSWERS if is_warning else _ERROR_ANSWERS
        return next((item for item in answers if item & options), _UNHANDLED)

    _ped.register_exn_handler(answer)
    try:
        yield
    finally:
        _ped.clear_exn_handler()


def _shorten(problems: list[str], path: Path) -> Iterator[str]:
    """Each message once, on one line, without those that only say that there is no table."""
    for problem in dict.fromkeys(" ".join(problem.split()) for problem in problems):
        if _NO_TABLE_WORDS not in problem:
            # the offer to repair is not ours to make
            yield problem.removeprefix(f"{path}: ").split(", you can fix")[0]
