# SPDX-License-Identifier: GPL-3.0-or-later
"""Which disks there are, what is on them, and what uses them.

Everything comes from sysfs and procfs. psutil.disk_partitions was rejected for this: it shows
one mount namespace and no device numbers, so that a btrfs, a volume on LVM or a stick that a
sandbox holds mounted would look unused. Not listed: memory (ram, zram), loop devices without a
backing file, unconnected nbd, NVMe paths under a multipath drive. Volumes of device-mapper
and RAID are listed so that the answer to naming one is a reason.
"""

from __future__ import annotations

import os
import re
import stat
from collections.abc import Iterable
from pathlib import Path

from mediamaker.devices.blockmap import BlockMap
from mediamaker.devices.disk import Disk, DiskKind, DiskMount, DiskPartition, Holder, HolderKind
from mediamaker.devices.hardware import Hardware, read_hardware
from mediamaker.devices.signatures import Signature, read_signature, read_udev
from mediamaker.devices.sysfs import SYSFS_UNIT_SIZE, BlockNode, SystemRoots, read_integer
from mediamaker.devices.writers import read_writers
from mediamaker.errors import TargetRefusedError

__all__ = [
    "Disk",
    "DiskMount",
    "DiskPartition",
    "Holder",
    "find_disk",
    "list_disks",
    "look_up_disk",
    "read_disk",
]

SYSTEM_MOUNTPOINTS = frozenset(
    {"/", "/boot", "/boot/efi", "/boot/firmware", "/efi", "/etc", "/gnu", "/home", "/nix"}
    | {"/opt", "/root", "/srv", "/usr", "/var"}
)
"""A disk that carries one of these, seen by us or by process 1, is the system's own."""

_MEMORY_RE = re.compile(r"(ram|zram|mtdblock|ubiblock)[0-9].*")
_SECTOR_SIZE_DEFAULT = 512
_HOLDER_KINDS_BY_UUID: tuple[tuple[str, HolderKind], ...] = (
    ("LVM-", "LVM"),
    ("CRYPT-LUKS", "LUKS"),
    ("CRYPT-", "dm-crypt"),
    ("mpath-", "multipath"),
    ("DMRAID-", "RAID"),
)


def list_disks(
    *,
    sysfs_root: Path = Path("/sys"),
    proc_root: Path = Path("/proc"),
    dev_root: Path = Path("/dev"),
    run_root: Path = Path("/run"),
) -> tuple[Disk, ...]:
    """Every whole disk, in natural order of names. Never writes, never fails on one odd disk."""
    lister = _Lister(SystemRoots(sysfs_root, proc_root, dev_root, run_root))
    return tuple(sorted(lister.read_disks(), key=lambda disk: _natural(disk.name)))


def read_disk(device_number: str) -> Disk | None:
    """The disk ``major:minor`` of the running system alone, looked up freshly; None if gone."""
    return _Lister(SystemRoots()).read_numbered(device_number)


def look_up_disk(path: str | Path) -> Disk:
    """As ``find_disk``, on the running system; only that one disk is read.

    Raises:
        TargetRefusedError: as ``find_disk``.
    """
    lister = _Lister(SystemRoots())
    number = _device_number(Path(path), Path(os.path.realpath(path)))
    disk = None if number is None else lister.read_numbered(number)
    return disk or find_disk(path, lister.read_disks())


def find_disk(path: str | Path, disks: Iterable[Disk]) -> Disk:
    """The disk that ``path`` names, through symbolic links such as ``/dev/disk/by-id/...``.

    Raises:
        TargetRefusedError: no block device, a partition, or a device that is no disk.
    """
    asked = Path(path)
    real = Path(os.path.realpath(asked))
    number = _device_number(asked, real)
    listing = tuple(disks)
    for disk in listing:
        if _is_same(disk.path, disk.device_number, real, number):
            return disk
        for partition in disk.partitions:
            if _is_same(partition.path, partition.device_number, real, number):
                raise TargetRefusedError(
                    f"{asked} is partition {partition.number} of {disk.path}, not a disk",
                    hint=f"name the whole disk, {disk.path}; everything on it will be lost",
                )
    if number is None:
        raise TargetRefusedError(
            f"{asked}: there is no such device", hint="`mediamaker devices` lists the disks"
        )
    raise TargetRefusedError(
        f"{asked} (device {number}) is not a disk that can be a target",
        hint="`mediamaker devices` lists the disks",
    )


def _device_number(asked: Path, real: Path) -> str | None:
    """``major:minor`` of what is there, None when nothing is."""
    try:
        status = real.stat()
    except OSError:
        return None
    if not stat.S_ISBLK(status.st_mode):
        raise TargetRefusedError(
            f"{asked} is not a block device", hint="`mediamaker devices` lists the disks"
        )
    return f"{os.major(status.st_rdev)}:{os.minor(status.st_rdev)}"


def _is_same(path: Path, known_number: str, real: Path, number: str | None) -> bool:
    if number is not None:
        return known_number == number  # the device itself is the truth, its file's name is not
    return os.path.realpath(path) == str(real)


class _Lister:
    """One look at the whole system; disks are read out of it."""

    def __init__(self, roots: SystemRoots) -> None:
        self._roots = roots
        self._map = block_map = BlockMap(roots)
        self._mounts = [(mount, block_map.devices_of_mount(mount)) for mount in block_map.mounts]
        self._swaps = [
            (
                swap.path,
                block_map.devices_of_path(swap.path)
                if swap.is_file
                else block_map.devices_of_file(swap.path),
            )
            for swap in block_map.swaps
        ]
        self._pools = _read_imported_pools(roots.proc)
        self._writers = read_writers(block_map)

    def read_disks(self) -> list[Disk]:
        """Every listed disk."""
        nodes = self._map.nodes.values()
        return [self._read_disk(node) for node in nodes if _is_listed(node)]

    def read_numbered(self, device_number: str) -> Disk | None:
        """The listed disk of that number."""
        node = self._map.nodes.get(self._map.find_number(device_number) or "")
        return self._read_disk(node) if node is not None and _is_listed(node) else None

    def _read_disk(self, node: BlockNode) -> Disk:
        udev = read_udev(self._roots.run, node.number)
        hardware = read_hardware(node, udev)
        queue = node.directory / "queue"
        sector_size = read_integer(queue / "logical_block_size") or _SECTOR_SIZE_DEFAULT
        signature = self._read_signature(node)
        partitions = self._read_partitions(node)
        pools = self._imported_pools((signature, *(part.signature for part in partitions)))
        return Disk(
            path=node.dev_path(self._roots.dev),
            name=node.name,
            device_number=node.number,
            kind=self._read_kind(node, hardware),
            bus=hardware.bus,
            vendor=hardware.vendor,
            model=hardware.model,
            serial=hardware.serial,
            wwn=hardware.wwn,
            lun=hardware.lun,
            sequence=read_integer(node.directory / "diskseq"),
            size=node.size,
            logical_sector_size=sector_size,
            physical_sector_size=read_integer(queue / "physical_block_size") or sector_size,
            is_removable=bool(read_integer(node.directory / "removable")),
            is_memory_card=hardware.is_memory_card,
            is_read_only=bool(read_integer(node.directory / "ro")),
            is_rotational=bool(read_integer(queue / "rotational")),
            backing_file=node.backing_file,
            signature=signature,
            partitions=partitions,
            holders=self._read_holders(node),
            mounts=self._read_mounts(node, pools),
            swaps=tuple(path for path, on in self._swaps if self._is_under(node, on)),
            system_mountpoints=self._read_system_mountpoints(node, pools),
            imported_pools=pools,
            writers=tuple(
                writer
                for writer in self._writers
                if self._is_under(node, [writer.device], through_files=False)
            ),
        )

    def _read_kind(self, node: BlockNode, hardware: Hardware) -> DiskKind:
        # a loop device over a device is that device by another name, past all its guards
        is_over_device = (
            node.backing_file is not None
            and self._map.find_device_file(node.backing_file) is not None
        )
        if node.is_loop and not is_over_device:
            return "loop"
        if is_over_device or node.is_mapper or node.is_md or node.slaves:
            return "volume"
        return "optical" if hardware.is_optical else "disk"

    def _read_partitions(self, disk: BlockNode) -> tuple[DiskPartition, ...]:
        partitions = [
            DiskPartition(
                path=node.dev_path(self._roots.dev),
                name=node.name,
                device_number=node.number,
                number=node.partition_number or 0,
                start=(read_integer(node.directory / "start") or 0) * SYSFS_UNIT_SIZE,
                size=node.size,
                signature=self._read_signature(node),
                mountpoints=tuple(mount.place for mount, on in self._mounts if node.name in on),
            )
            for node in self._map.nodes.values()
            if node.is_partition and node.disk_name == disk.name
        ]
        return tuple(sorted(partitions, key=lambda partition: partition.number))

    def _read_signature(self, node: BlockNode) -> Signature:
        if node.size == 0:
            return Signature(problem="no medium")
        path = node.dev_path(self._roots.dev)
        udev = read_udev(self._roots.run, node.number)
        return read_signature(path, udev=udev)

    def _read_mounts(self, node: BlockNode, pools: tuple[str, ...]) -> tuple[DiskMount, ...]:
        mounts: list[DiskMount] = []
        for mount, on in self._mounts:
            if self._is_under(node, on, through_files=False):
                # of a file system on several disks, the member that is on this one
                own = [name for name in on if self._is_under(node, [name], through_files=False)]
                mounts.append(DiskMount(min(own, key=_natural), mount.place, mount.filesystem))
            elif mount.zfs_pool in pools:
                mounts.append(DiskMount(mount.source, mount.place, mount.filesystem))
        return tuple(mounts)

    def _read_system_mountpoints(self, node: BlockNode, pools: tuple[str, ...]) -> tuple[str, ...]:
        found: set[str] = set()
        for mount, _ in self._mounts:
            if mount.mountpoint in SYSTEM_MOUNTPOINTS and (mount.pid is None or mount.is_of_init):
                on = self._map.devices_under_layers(mount)
                if self._is_under(node, on) or mount.zfs_pool in pools:
                    found.add(mount.mountpoint)
        return tuple(sorted(found))

    def _read_holders(self, node: BlockNode) -> tuple[Holder, ...]:
        names = sorted(self._map.standing_above(node.name), key=_natural)
        return tuple(_holder(self._map.nodes[name]) for name in names)

    def _imported_pools(self, signatures: Iterable[Signature]) -> tuple[str, ...]:
        """The pools in use that this disk is or may be a member of: a label may be unreadable."""
        labels = {item.label for item in signatures if item.type == "zfs_member"}
        return tuple(pool for pool in self._pools if labels and (pool in labels or None in labels))

    def _is_under(
        self, node: BlockNode, devices: Iterable[str], *, through_files: bool = True
    ) -> bool:
        return node.name in self._map.standing_on(devices, through_files=through_files)


def _is_listed(node: BlockNode) -> bool:
    if node.is_partition or _MEMORY_RE.fullmatch(node.name):
        return False
    is_unbound_loop = node.is_loop and node.backing_file is None
    is_unconnected_nbd = node.name.startswith("nbd") and node.size == 0
    return not (is_unbound_loop or is_unconnected_nbd)


def _holder(node: BlockNode) -> Holder:
    if node.is_loop:
        return Holder(node.name, "loop", node.backing_file)
    if node.is_md:
        return Holder(node.name, "RAID", None)
    if not node.is_mapper:
        return Holder(node.name, "other", None)
    uuid = node.mapper_uuid or ""
    # a partition of a volume is called part1-LVM-..., part1-mpath-...
    kinds = (kind for mark, kind in _HOLDER_KINDS_BY_UUID if mark in uuid)
    return Holder(node.name, next(kinds, "device-mapper"), node.mapper_name)


def _read_imported_pools(proc: Path) -> tuple[str, ...]:
    """The ZFS pools in use: a folder each in /proc/spl/kstat/zfs."""
    try:
        return tuple(
            sorted(entry.name for entry in (proc / "spl/kstat/zfs").iterdir() if entry.is_dir())
        )
    except OSError:
        return ()


def _natural(name: str) -> list[tuple[int, str]]:
    """A key that puts sda before sdb before sdaa, and nvme2n1 before nvme10n1."""
    runs = re.findall(r"[0-9]+|[^0-9]+", name)
    return [(int(run), "") if run.isdecimal() else (len(run), run) for run in runs]
