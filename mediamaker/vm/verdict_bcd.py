# SPDX-License-Identifier: GPL-3.0-or-later
"""What a boot store would start, and whether the disk has it: the way that a boot manager goes."""

from __future__ import annotations

from dataclasses import dataclass
from typing import get_args
from uuid import UUID

from mediamaker.formats.bcd import BcdObject, Store
from mediamaker.formats.bcd_devices import (
    BootDevice,
    Device,
    FileDevice,
    GptPartition,
    LocateElement,
    LocatePath,
    MbrPartition,
    Ramdisk,
    RawDevice,
    VhdDevice,
    device_meaning,
)
from mediamaker.formats.bcd_names import well_known
from mediamaker.formats.bcd_text import format_partition
from mediamaker.plan.boot_store import default_object
from mediamaker.sources.disk_map import DiskMap, MappedVolume

_DEVICE, _PATH, _DESCRIPTION = 0x11000001, 0x12000002, 0x12000004
_BOOT_SEQUENCE = 0x24000002
_SDI_DEVICE, _SDI_PATH = 0x31000003, 0x32000004
_DEVICES = get_args(Device)


@dataclass(frozen=True, slots=True)
class StoreFile:
    """A file that the entry needs; ``volume`` is None when its partition is not there."""

    volume: MappedVolume | None
    path: str


@dataclass(frozen=True, slots=True)
class ResolvedEntry:
    """What the boot manager starts when nobody chooses.

    ``missing_device`` is the device, in words, that the disk does not have. ``files`` are what
    is loaded: a ramdisk's SDI file and WIM, or the program.
    """

    title: str
    missing_device: str | None
    is_ramdisk: bool
    files: tuple[StoreFile, ...]


def resolve_entry(
    store: Store, disk_map: DiskMap, boot_volume: MappedVolume
) -> ResolvedEntry | None:
    """The entry that ``store`` starts, which lies on ``boot_volume``; None when it names none."""
    entry = _first_object(store)
    if entry is None:
        return None
    return _Resolver(store, disk_map, boot_volume).resolve(entry)


def _first_object(store: Store) -> BcdObject | None:
    """The entry for one start alone, or else the default one."""
    manager = store.object(well_known("bootmgr"))
    once = None if manager is None else manager.value(_BOOT_SEQUENCE)
    for guid in once if isinstance(once, tuple) else ():
        found = store.object(guid) if isinstance(guid, UUID) else None
        if found is not None:
            return found
    return default_object(store)


class _Resolver:
    def __init__(self, store: Store, disk_map: DiskMap, boot_volume: MappedVolume) -> None:
        self._store = store
        self._map = disk_map
        self._boot_volume = boot_volume
        self._missing: str | None = None

    def resolve(self, entry: BcdObject) -> ResolvedEntry:
        title = entry.value(_DESCRIPTION)
        device = _device(entry, _DEVICE)
        files: list[StoreFile] = []
        if isinstance(device, Ramdisk):
            options = self._store.object(device.options_guid) if device.options_guid else None
            if options is not None:
                files += self._sdi_file(options, device)
            files.append(StoreFile(self._volume(device.parent, entry), device.path))
        else:
            path = entry.value(_PATH)
            volume = None if device is None else self._volume(device, entry)
            if isinstance(path, str):
                files.append(StoreFile(volume, path))
        return ResolvedEntry(
            title=title if isinstance(title, str) else f"{{{entry.guid}}}",
            missing_device=self._missing,
            is_ramdisk=isinstance(device, Ramdisk),
            files=tuple(files),
        )

    def _sdi_file(self, options: BcdObject, ramdisk: Ramdisk) -> list[StoreFile]:
        path = options.value(_SDI_PATH)
        device = _device(options, _SDI_DEVICE) or ramdisk.parent
        return [StoreFile(self._volume(device, options), path)] if isinstance(path, str) else []

    def _volume(  # noqa: PLR0911 - one for each kind
        self, device: Device, owner: BcdObject
    ) -> MappedVolume | None:
        """Where the files of ``device`` lie; what is missing is remembered."""
        match device:
            case BootDevice():
                return self._boot_volume
            case GptPartition() | MbrPartition():
                return self._partition(device)
            case LocatePath(path=path):
                return self._locate(path)
            case LocateElement(element_id=element_id):
                wanted = owner.value(element_id)
                return self._locate(wanted) if isinstance(wanted, str) else None
            case Ramdisk(parent=parent) | FileDevice(parent=parent):
                return self._volume(device_meaning(parent), owner)
            case VhdDevice(file=file):
                return self._volume(file, owner)
            case RawDevice():
                return None

    def _partition(self, reference: GptPartition | MbrPartition) -> MappedVolume | None:
        table = self._map.table
        for partition in table.partitions:
            if isinstance(reference, GptPartition):
                is_it = (
                    table.disk_guid == reference.disk_guid
                    and partition.unique_guid == reference.partition_guid
                )
            else:
                is_it = (
                    table.kind == "mbr"
                    and table.disk_signature == reference.disk_signature
                    and partition.start == reference.offset
                )
            if is_it:
                return next(
                    (v for v in self._map.volumes if v.partition.start == partition.start), None
                )
        self._missing = self._missing or format_partition(reference)
        return None

    def _locate(self, path: str) -> MappedVolume | None:
        for volume in self._map.volumes:
            if volume.files.find(path) is not None:
                return volume
        self._missing = self._missing or f"a partition with {path}"
        return None


def _device(item: BcdObject, element_id: int) -> Device | None:
    value = item.value(element_id)
    return device_meaning(value) if isinstance(value, _DEVICES) else None
