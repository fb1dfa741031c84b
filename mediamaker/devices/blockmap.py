# SPDX-License-Identifier: GPL-3.0-or-later
"""How block devices, file systems and files stand on each other, read once.

Downwards: a partition stands on its disk, a device-mapper or RAID volume on its slaves, a loop
device on its backing file, a file on the file system that holds it, a file system on its
device (on all of them for btrfs; on its layers for overlay). ``standing_on`` walks all of it,
so that "the disk of /" is right through LVM on dm-crypt on RAID on partitions.

References: kernel Documentation/filesystems/overlayfs.rst (layers are mount options),
``/sys/fs/btrfs/UUID/devices`` (members of each mounted btrfs), proc(5).
"""

from __future__ import annotations

import os
import stat
from collections.abc import Iterable
from pathlib import Path, PurePosixPath

from mediamaker.devices.mounts import Mount, Swap, read_mounts, read_swaps
from mediamaker.devices.sysfs import BlockNode, SystemRoots, read_block_nodes

_OVERLAY_LAYERS = ("lowerdir", "upperdir", "workdir")


class BlockMap:
    """A snapshot of the system's block devices and mounts."""

    def __init__(self, roots: SystemRoots) -> None:
        self.roots = roots
        self.nodes: dict[str, BlockNode] = read_block_nodes(roots)
        self.mounts: tuple[Mount, ...] = read_mounts(roots)
        self.swaps: tuple[Swap, ...] = read_swaps(roots)
        self._names_by_number = {node.number: node.name for node in self.nodes.values()}
        self._names_by_mapper = {
            node.mapper_name: node.name for node in self.nodes.values() if node.mapper_name
        }
        # the kernel notes each relation at both ends; a half that is missing is made up for
        self._slaves = {name: set(node.slaves) for name, node in self.nodes.items()}
        for node in self.nodes.values():
            for holder in node.holders:
                self._slaves.setdefault(holder, set()).add(node.name)
        self._pools = _read_btrfs_pools(roots.sysfs / "fs" / "btrfs")

    def find_number(self, number: str) -> str | None:
        """The kernel name of ``major:minor``."""
        return self._names_by_number.get(number)

    def devices_of_file(self, path: str) -> frozenset[str]:
        """As ``find_device_file``, as a set."""
        name = self.find_device_file(path)
        return frozenset([name] if name else [])

    def find_device_file(self, path: str) -> str | None:
        """The kernel name behind a path such as ``/dev/mapper/vg-root`` or ``/dev/disk/by-*/x``."""
        relative = path.removeprefix("/dev/")
        if relative == path:
            return self._find_special_file(Path(path))
        mapper_name = self._names_by_mapper.get(relative.removeprefix("mapper/"))
        if relative.startswith("mapper/") and mapper_name is not None:
            return mapper_name
        real = os.path.realpath(self.roots.dev / relative)
        inside = os.path.relpath(real, os.path.realpath(self.roots.dev))
        name = inside.replace("/", "!")
        return name if name in self.nodes else self._find_special_file(Path(real))

    def devices_of_mount(self, mount: Mount) -> frozenset[str]:
        """The block devices that a mounted file system lies on directly."""
        found: set[str] = set()
        if not mount.is_anonymous:
            name = self.find_number(mount.number)
            found.update([name] if name else [])
        if not found and mount.source.startswith("/"):
            # bcachefs joins its members with colons; a colon is also legal in a path
            parts = mount.source.split(":/")
            sources = [mount.source, parts[0], *("/" + part for part in parts[1:])]
            found.update(name for name in map(self.find_device_file, sources) if name)
        if mount.filesystem == "btrfs":
            for members in self._pools:
                if found & members:
                    found |= members
        return frozenset(found & self.nodes.keys())

    def standing_on(self, names: Iterable[str], *, through_files: bool) -> frozenset[str]:
        """``names`` and every device under them, partitions and whole disks.

        ``through_files`` also goes from a loop device through its backing file to the disk
        that holds the file; without it only devices that stand directly on devices count.
        """
        found: set[str] = set()
        waiting = [name for name in names if name in self.nodes]
        while waiting:
            name = waiting.pop()
            if name in found:
                continue
            found.add(name)
            node = self.nodes[name]
            under: set[str] = {node.disk_name, *self._slaves[name]}
            if node.backing_file is not None:
                device = self.find_device_file(node.backing_file)
                if device is not None:
                    under.add(device)
                elif through_files:
                    under |= self.devices_of_path(node.backing_file)
            waiting.extend(under & self.nodes.keys())
        return frozenset(found)

    def standing_above(self, name: str) -> frozenset[str]:
        """Every other whole device that stands on ``name`` or on a partition of it."""
        return frozenset(
            other
            for other, node in self.nodes.items()
            if other != name
            and not node.is_partition
            and name in self.standing_on([other], through_files=False)
        )

    def devices_of_path(self, path: str | Path) -> frozenset[str]:
        """The block devices that the file or folder at ``path`` lies on directly.

        Both ways of asking count: the mount table by path (right for btrfs and overlay, whose
        ``st_dev`` is no device's number) and ``st_dev`` (right where one mount hides another).
        """
        return self._devices_of_path(Path(os.path.realpath(path)), visited=set())

    def _devices_of_path(self, path: Path, *, visited: set[Mount]) -> frozenset[str]:
        found: set[str] = set()
        try:
            status = path.stat()
        except OSError:
            pass  # gone, or a path of another namespace: the mount table still answers
        else:
            device = status.st_rdev if stat.S_ISBLK(status.st_mode) else status.st_dev
            name = self.find_number(f"{os.major(device)}:{os.minor(device)}")
            found.update([name] if name else [])
        mount = self.mount_of_path(path)
        if mount is not None and mount not in visited:
            visited.add(mount)
            found |= self.devices_of_mount(mount)
            if mount.filesystem == "overlay":
                for layer in _overlay_layers(mount):
                    found |= self._devices_of_path(Path(layer), visited=visited)
        return frozenset(found)

    def devices_under_layers(self, mount: Mount) -> frozenset[str]:
        """As ``devices_of_mount``, and for overlay the devices that hold its layers."""
        found = set(self.devices_of_mount(mount))
        if mount.filesystem == "overlay":
            for layer in _overlay_layers(mount):
                found |= self._devices_of_path(Path(layer), visited={mount})
        return frozenset(found)

    def mount_of_path(self, path: Path) -> Mount | None:
        """The mount of ours that holds ``path``: the deepest, and of equals the latest."""
        pure = PurePosixPath(path)
        best: Mount | None = None
        for mount in self.mounts:
            if mount.pid is not None or not pure.is_relative_to(mount.mountpoint):
                continue
            if best is None or len(mount.mountpoint) >= len(best.mountpoint):
                best = mount
        return best

    def _find_special_file(self, path: Path) -> str | None:
        try:
            status = path.stat()
        except OSError:
            return None
        if not stat.S_ISBLK(status.st_mode):
            return None
        return self.find_number(f"{os.major(status.st_rdev)}:{os.minor(status.st_rdev)}")


def disks_of_path(path: Path, roots: SystemRoots | None = None) -> frozenset[str]:
    """Kernel names of every whole disk that ``path`` lies on, through loop, LVM, LUKS and RAID."""
    block_map = BlockMap(roots or SystemRoots())
    under = block_map.standing_on(block_map.devices_of_path(path), through_files=True)
    return frozenset(name for name in under if not block_map.nodes[name].is_partition)


def _overlay_layers(mount: Mount) -> list[str]:
    layers: list[str] = []
    for option in mount.options:
        key, _, value = option.partition("=")
        if key.rstrip("+") in _OVERLAY_LAYERS:
            layers += [layer for layer in value.split(":") if layer.startswith("/")]
    return layers


def _read_btrfs_pools(directory: Path) -> tuple[frozenset[str], ...]:
    try:
        return tuple(
            frozenset(device.name for device in devices.iterdir())
            for devices in sorted(directory.glob("*/devices"))
        )
    except OSError:
        return ()
