# SPDX-License-Identifier: GPL-3.0-or-later
"""Whether WinRE on a disk would start when Windows does not, point by point, and why not.

The way is the one that the boot manager goes: the store, the entry of Windows, its
recoverysequence, the entry of WinRE, the partition that it names, the two files there. What only
Windows itself looks at (ReAgent.xml, the partition's type) is advice: WinRE starts without it.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import NoReturn, get_args
from uuid import UUID

from mediamaker.errors import FormatError
from mediamaker.formats.bcd import BcdObject, Store
from mediamaker.formats.bcd_devices import (
    BootDevice,
    Device,
    GptPartition,
    LocateElement,
    LocatePath,
    MbrPartition,
    Ramdisk,
    device_meaning,
)
from mediamaker.formats.bcd_names import OS_LOADER
from mediamaker.formats.reagent import XML_SIZE_MAX, parse_reagent
from mediamaker.formats.sdi import HEAD_SIZE, parse_sdi
from mediamaker.formats.wim import HEADER_SIZE, parse_wim_header
from mediamaker.install.ntfs_files import NtfsFiles
from mediamaker.install.partition_table import RECOVERY_ATTRIBUTES, TableEntry
from mediamaker.install.windows_disk import BootStore, WindowsDisk, read_head, read_whole
from mediamaker.plan.boot_store import default_object, windows_loaders

REAGENT_PATH = "\\Windows\\System32\\Recovery\\ReAgent.xml"

_DEVICE, _PATH, _DESCRIPTION = 0x11000001, 0x12000002, 0x12000004
_RECOVERY_SEQUENCE, _RECOVERY_ENABLED = 0x14000008, 0x16000009
_OS_DEVICE, _SYSTEM_ROOT, _WIN_PE = 0x21000001, 0x22000002, 0x26000022
_SDI_DEVICE, _SDI_PATH = 0x31000003, 0x32000004
_DEVICES = get_args(Device)


@dataclass(frozen=True, slots=True)
class CheckPoint:
    """One thing that was looked at; advice does not keep WinRE from starting."""

    name: str
    is_good: bool
    message: str
    is_advice: bool = False


@dataclass(frozen=True, slots=True)
class RecoveryReport:
    """All points in the order of the way; the numbers are those of partitions."""

    points: tuple[CheckPoint, ...]
    windows_number: int | None = None
    system_number: int | None = None
    recovery_number: int | None = None

    @property
    def would_start(self) -> bool:
        """Whether nothing on the way is missing or wrong."""
        return bool(self.points) and all(
            point.is_good for point in self.points if not point.is_advice
        )


def check_recovery(disk: WindowsDisk, *, windows_number: int | None = None) -> RecoveryReport:
    """Look at the WinRE of the default Windows, or of the one on partition ``windows_number``."""
    return _Check(disk, windows_number).run()


class _StopError(Exception):
    """The way ends here."""


class _Check:
    def __init__(self, disk: WindowsDisk, windows_number: int | None) -> None:
        self._disk = disk
        self._table = disk.table
        self._wanted = windows_number
        self._points: list[CheckPoint] = []
        self._windows: TableEntry | None = None
        self._system: TableEntry | None = None
        self._recovery: TableEntry | None = None

    def run(self) -> RecoveryReport:
        try:
            self._go()
        except _StopError:
            pass
        except FormatError as error:
            self._points.append(CheckPoint("readable", is_good=False, message=error.message))
        return RecoveryReport(
            tuple(self._points),
            windows_number=self._windows.number if self._windows else None,
            system_number=self._system.number if self._system else None,
            recovery_number=self._recovery.number if self._recovery else None,
        )

    def _go(self) -> None:
        kind = self._table.kind.upper()
        problems = "; ".join(self._table.problems)
        self._advise("table", not problems, problems or f"{kind}, whole")
        boot_store, store = self._find_store()
        loader = self._find_loader(store)
        recovery = self._find_recovery(store, loader)
        ramdisk = self._check_recovery_object(recovery)
        self._recovery = self._resolve("winre-partition", ramdisk.parent, boot_store)
        self._check_wim(self._recovery, ramdisk.path)
        self._check_sdi(store, ramdisk, boot_store)
        self._check_type(self._recovery)
        self._check_reagent(recovery.guid, ramdisk.path)

    def _find_store(self) -> tuple[BootStore, Store]:
        boot_store = self._disk.find_store()
        if boot_store is None:
            hidden = [item.number for item in self._table.entries if self._disk.is_encrypted(item)]
            more = f"; BitLocker hides partition {hidden[0]}" if hidden else ""
            self._stop("store", f"no partition of this disk has a boot store{more}")
        self._system = boot_store.entry
        try:
            store = boot_store.parse(self._disk.what)
        except FormatError as error:
            self._stop("store", error.message)
        self._good("store", f"{boot_store.path} on partition {boot_store.entry.number}")
        return boot_store, store

    def _find_loader(self, store: Store) -> BcdObject:
        loaders = windows_loaders(store)
        by_entry = [(self._table.find(device_meaning_of(item)), item) for item in loaders]
        if self._wanted is not None:
            chosen = [item for entry, item in by_entry if entry and entry.number == self._wanted]
            loader = chosen[0] if chosen else None
        else:
            default = default_object(store)
            loader = default if default in loaders else next(iter(loaders), None)
        if loader is None:
            where = f" on partition {self._wanted}" if self._wanted is not None else ""
            self._stop("windows", f"the store has no entry for a Windows{where}")
        self._windows = self._table.find(device_meaning_of(loader))
        name = loader.value(_DESCRIPTION)
        shown = f'"{name}" {{{loader.guid}}}'
        if self._windows is None:
            device = device_meaning_of(loader)
            if isinstance(device, GptPartition | MbrPartition):
                self._stop("windows", f"{shown} names a partition that is not on this disk")
            self._good("windows", f"{shown} names no partition of its own")
            found = self._disk.find_windows()
            self._windows = found[0][0] if found else None
            return loader
        if self._disk.is_encrypted(self._windows):
            number = self._windows.number
            self._advise("bitlocker", is_good=False, message=f"partition {number} is encrypted")
        self._good("windows", f"{shown} on partition {self._windows.number}")
        return loader

    def _find_recovery(self, store: Store, loader: BcdObject) -> BcdObject:
        if loader.value(_RECOVERY_ENABLED) is not True:
            self._bad("recoveryenabled", "it is not set: a Windows that fails is not recovered")
        else:
            self._good("recoveryenabled", "it is set")
        sequence = loader.value(_RECOVERY_SEQUENCE)
        if not isinstance(sequence, tuple) or not sequence or not isinstance(sequence[0], UUID):
            self._stop("recoverysequence", "the entry of Windows names no recovery entry")
        recovery = store.object(sequence[0])
        if recovery is None:
            self._stop("recoverysequence", f"it names {{{sequence[0]}}}, which is not there")
        self._good("recoverysequence", f"{{{recovery.guid}}}")
        return recovery

    def _check_recovery_object(self, recovery: BcdObject) -> Ramdisk:
        if recovery.type_code != OS_LOADER:
            self._bad("winre-entry", "it is no loader of an operating system")
        for element_id, name in ((_DESCRIPTION, "description"), (_PATH, "path")):
            if not isinstance(recovery.value(element_id), str):
                self._bad("winre-entry", f"it has no {name}")
        if recovery.value(_WIN_PE) is not True:
            self._bad("winre-entry", "winpe is not set")
        device = _device(recovery, _DEVICE)
        if not isinstance(device, Ramdisk):
            self._stop("winre-entry", "its device is no WIM that is loaded into memory")
        if _device(recovery, _OS_DEVICE) != device:
            self._bad("winre-entry", "osdevice is not the same as device")
        self._good("winre-entry", f"[...]{device.path}")
        return device

    def _resolve(self, name: str, device: Device, boot_store: BootStore) -> TableEntry:
        entry: TableEntry | None = None
        match device_meaning(device):
            case BootDevice():
                entry = boot_store.entry
            case GptPartition() | MbrPartition() as reference:
                entry = self._table.find(reference)
            case LocatePath(path=path):
                entry = self._locate(path)
            case LocateElement() | _:
                entry = None
        if entry is None:
            self._stop(name, f"no partition of this disk is meant by it: {device}")
        self._good(name, f"partition {entry.number}")
        return entry

    def _locate(self, path: str) -> TableEntry | None:
        for entry in self._table.entries:
            files = self._disk.files(entry)
            if files is not None and read_head(files, path, 1) is not None:
                return entry
        return None

    def _read(self, name: str, entry: TableEntry, path: str, size: int) -> tuple[bytes, int]:
        files = self._disk.files(entry)
        if files is None:
            what = "is encrypted" if self._disk.is_encrypted(entry) else "has no NTFS or FAT"
            self._stop(name, f"partition {entry.number} {what}")
        head = read_head(files, path, size)
        if head is None:
            self._stop(name, f"there is no {path} on partition {entry.number}")
        return head

    def _check_wim(self, entry: TableEntry, path: str) -> None:
        head, size = self._read("winre-file", entry, path, HEADER_SIZE)
        try:
            header = parse_wim_header(head, what=path)
        except FormatError as error:
            self._stop("winre-file", error.message)
        if not header.boot_index:
            self._bad("winre-file", f"{path} has no boot image")
        elif max(header.blob_table.end, header.xml.end) > size:
            self._bad("winre-file", f"{path} is cut short: it has {size} bytes")
        else:
            self._good("winre-file", f"{path}, image {header.boot_index} boots")

    def _check_sdi(self, store: Store, ramdisk: Ramdisk, boot_store: BootStore) -> None:
        options = None if ramdisk.options_guid is None else store.object(ramdisk.options_guid)
        if options is None:
            self._stop("sdi", f"the options {{{ramdisk.options_guid}}} are not in the store")
        path = options.value(_SDI_PATH)
        if not isinstance(path, str):
            self._stop("sdi", "the options name no ramdisksdipath")
        device = _device(options, _SDI_DEVICE) or ramdisk.parent
        entry = self._resolve("sdi-partition", device, boot_store)
        head, size = self._read("sdi", entry, path, HEAD_SIZE)
        try:
            sdi = parse_sdi(head, file_size=size, what=path)
        except FormatError as error:
            self._stop("sdi", error.message)
        if not sdi.has_partition:
            self._bad("sdi", f"{path} has no file system in it")
        else:
            self._good("sdi", path)

    def _check_type(self, entry: TableEntry) -> None:
        if self._windows is not None and entry.number == self._windows.number:
            self._advise("type", is_good=False, message="WinRE is on the partition of Windows")
            return
        if not entry.is_recovery:
            message = f"partition {entry.number} is not of the recovery type: Windows may show it"
            self._advise("type", is_good=False, message=message)
        elif self._table.kind == "gpt" and entry.attributes & RECOVERY_ATTRIBUTES != (
            RECOVERY_ATTRIBUTES
        ):
            message = f"its attributes are {entry.attributes:#018x}: it gets a drive letter"
            self._advise("type", is_good=False, message=message)
        else:
            self._advise("type", is_good=True, message="a recovery partition")

    def _check_reagent(self, guid: UUID, wim_path: str) -> None:
        for problem in self._reagent_problems(guid, wim_path):
            self._advise("reagent", is_good=False, message=problem)
            return
        self._advise("reagent", is_good=True, message="ReAgent.xml says the same")

    def _reagent_problems(self, guid: UUID, wim_path: str) -> Iterator[str]:
        files = None if self._windows is None else self._disk.files(self._windows)
        if not isinstance(files, NtfsFiles):
            yield "the volume of Windows can't be read"
            return
        try:
            data = read_whole(files, REAGENT_PATH, XML_SIZE_MAX)
            reagent = parse_reagent(data, what=REAGENT_PATH)
        except FormatError as error:
            yield error.message
            return
        place = reagent.location
        if not reagent.is_enabled:
            yield "ReAgent.xml says that WinRE is disabled: reagentc knows nothing of it"
        if reagent.loader_guid != guid:
            yield f"ReAgent.xml names the entry {reagent.loader_guid}"
        if place is None:
            yield "ReAgent.xml names no place"
            return
        assert self._recovery is not None
        if place.offset != self._recovery.start:
            is_at = self._recovery.start
            yield f"ReAgent.xml names a partition at {place.offset}, it is at {is_at}"
        if place.disk_guid != self._table.disk_guid:
            yield f"ReAgent.xml names the disk {place.disk_guid}"
        if self._table.kind == "mbr" and place.disk_signature != self._table.disk_signature:
            yield f"ReAgent.xml names the disk signature {place.disk_signature}"
        if place.path.casefold() != wim_path.rpartition("\\")[0].casefold():
            yield f"ReAgent.xml names the folder {place.path}"

    def _good(self, name: str, message: str) -> None:
        self._points.append(CheckPoint(name, is_good=True, message=message))

    def _bad(self, name: str, message: str) -> None:
        self._points.append(CheckPoint(name, is_good=False, message=message))

    def _advise(self, name: str, is_good: bool, message: str) -> None:  # noqa: FBT001 - the point
        self._points.append(CheckPoint(name, is_good, message, is_advice=True))

    def _stop(self, name: str, message: str) -> NoReturn:
        self._bad(name, message)
        raise _StopError


def device_meaning_of(loader: BcdObject) -> Device | None:
    """Where a Windows is: its osdevice, or else its device."""
    return _device(loader, _OS_DEVICE) or _device(loader, _DEVICE)


def _device(item: BcdObject, element_id: int) -> Device | None:
    value = item.value(element_id)
    if isinstance(value, _DEVICES):
        return device_meaning(value)
    return None
