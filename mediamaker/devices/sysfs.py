# SPDX-License-Identifier: GPL-3.0-or-later
"""The kernel's block devices as sysfs shows them, before anything is concluded from them.

References: Linux Documentation/ABI/stable/sysfs-block (``size`` and ``start`` count units of
512 bytes whatever the sector size; ``partition``, ``holders``, ``slaves``, ``hidden``,
``diskseq``), Documentation/ABI/testing/sysfs-block-dm, Documentation/admin-guide/md.rst.

A partition is what has a file ``partition`` inside a disk's directory. What belongs to what is
never read out of names: to a prefix, ``sdaa`` and ``sda1`` look alike, and ``nvme0n1`` ends in
a digit without being a partition.
"""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path

SYSFS_UNIT_SIZE = 512
"""Bytes per unit of sysfs ``size`` and ``start``; it is not the device's sector size."""

_ATTRIBUTE_SIZE_MAX = 65536
"""More than the page that an attribute may have at most."""


@dataclass(frozen=True, slots=True)
class SystemRoots:
    """Where the system is looked at; tests give trees of their own."""

    sysfs: Path = Path("/sys")
    proc: Path = Path("/proc")
    dev: Path = Path("/dev")
    run: Path = Path("/run")


@dataclass(frozen=True, slots=True)
class BlockNode:
    """One block device of the kernel, whole disk or partition.

    ``number`` is ``major:minor``; ``disk_name`` is the kernel name of the whole disk (its own
    name if it is one); ``slaves`` are what it is made of, ``holders`` what is made of it.
    """

    name: str
    directory: Path
    number: str
    disk_name: str
    partition_number: int | None
    slaves: tuple[str, ...]
    holders: tuple[str, ...]
    mapper_name: str | None
    mapper_uuid: str | None
    backing_file: str | None

    @property
    def is_partition(self) -> bool:
        """Whether it is a part of another device."""
        return self.partition_number is not None

    @property
    def is_mapper(self) -> bool:
        """Whether device-mapper made it."""
        return (self.directory / "dm").is_dir()

    @property
    def is_md(self) -> bool:
        """Whether it is a Linux software RAID array."""
        return (self.directory / "md").is_dir()

    @property
    def is_loop(self) -> bool:
        """Whether it is a loop device (major 7, kernel Documentation/admin-guide/devices.txt)."""
        return self.backing_file is not None or self.number.startswith("7:")

    @property
    def size(self) -> int:
        """Bytes; 0 without a medium."""
        return (read_integer(self.directory / "size") or 0) * SYSFS_UNIT_SIZE

    def dev_path(self, dev_root: Path) -> Path:
        """The device file; the kernel writes ``/`` in a name as ``!``."""
        return dev_root / self.name.replace("!", "/")


def read_attribute(path: Path) -> str | None:
    """A sysfs attribute without surrounding blanks; None when absent, unreadable or empty."""
    # Without a file object around it: thousands of these are read for one answer.
    try:
        descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    except OSError:
        return None
    try:
        data = os.read(descriptor, _ATTRIBUTE_SIZE_MAX)
    except OSError:
        return None
    finally:
        os.close(descriptor)
    return data.decode("utf-8", "replace").strip(" \t\r\n\0") or None


def read_integer(path: Path) -> int | None:
    """A decimal sysfs attribute, or None."""
    text = read_attribute(path)
    try:
        return None if text is None else int(text)
    except ValueError:
        return None


def read_block_nodes(roots: SystemRoots) -> dict[str, BlockNode]:
    """Every block device and partition by kernel name, without those the kernel hides.

    Hidden ones are the single paths of a multipath NVMe drive: they have no device file.
    """
    nodes: dict[str, BlockNode] = {}
    for entry in _entries(roots.sysfs / "block"):
        directory = entry.resolve()
        if read_integer(directory / "hidden"):
            continue
        disk = _read_node(entry.name, directory, entry.name)
        if disk is None:
            continue
        nodes[disk.name] = disk
        for name in _names(directory):
            # the kernel makes a partition's name of its disk's: most of the rest is not asked
            if name.startswith(entry.name) and (directory / name / "partition").is_file():
                partition = _read_node(name, directory / name, entry.name)
                if partition is not None:
                    nodes[partition.name] = partition
    return nodes


def _read_node(name: str, directory: Path, disk_name: str) -> BlockNode | None:
    number = read_attribute(directory / "dev")
    if number is None:
        return None  # unplugged while we looked
    return BlockNode(
        name=name,
        directory=directory,
        number=number,
        disk_name=disk_name,
        partition_number=read_integer(directory / "partition"),
        slaves=tuple(_names(directory / "slaves")),
        holders=tuple(_names(directory / "holders")),
        mapper_name=read_attribute(directory / "dm" / "name"),
        mapper_uuid=read_attribute(directory / "dm" / "uuid"),
        backing_file=read_attribute(directory / "loop" / "backing_file"),
    )


def _entries(directory: Path) -> list[Path]:
    return [directory / name for name in _names(directory)]


def _names(directory: Path) -> list[str]:
    try:
        return sorted(os.listdir(directory))  # noqa: PTH208 - a Path for each takes its time
    except OSError:
        return []
