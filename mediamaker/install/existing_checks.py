# SPDX-License-Identifier: GPL-3.0-or-later
"""Whether partitions that exist are what they are said to be, and may get a Windows."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final, assert_never

from mediamaker.errors import TargetRefusedError, TargetTooSmallError
from mediamaker.formats.gpt import TYPE_BASIC_DATA, TYPE_ESP
from mediamaker.install.fat_files import FatFiles
from mediamaker.install.image_facts import FirmwareKind, ImageFacts
from mediamaker.install.ntfs_files import NtfsFiles
from mediamaker.install.partition_table import TableEntry
from mediamaker.install.request import InstallRequest
from mediamaker.install.windows_disk import (
    BIOS_STORE,
    UEFI_STORE,
    AnyFiles,
    WindowsDisk,
)
from mediamaker.plan.boot_objects import BootIds
from mediamaker.plan.identity import Identities
from mediamaker.units import MIB, format_size

_HEAD_SIZE: Final = MIB
_MBR_WINDOWS_TYPES: Final = frozenset({0x07})
_MBR_SYSTEM_TYPES: Final = frozenset({0x07, 0x0B, 0x0C, 0xEF})


@dataclass(frozen=True, slots=True, kw_only=True)
class ExistingInstall:
    """What is to be done to which partitions; decided by looking alone."""

    request: InstallRequest
    facts: ImageFacts
    disk: WindowsDisk
    windows: TableEntry
    system: TableEntry
    system_files: AnyFiles
    ids: BootIds
    volume_serial: int
    has_store: bool

    @property
    def firmware(self) -> FirmwareKind:
        """What the boot files are for."""
        return self.request.firmwares[0]

    @property
    def store_path(self) -> str:
        """Where the boot store is, or will be."""
        return UEFI_STORE if self.firmware == "uefi" else BIOS_STORE


def check_existing(
    disk: WindowsDisk,
    request: InstallRequest,
    facts: ImageFacts,
    identities: Identities,
    *,
    windows_number: int,
    system_number: int,
    may_erase: bool,
) -> ExistingInstall:
    """The two partitions are what they are said to be, and may be used.

    Raises:
        TargetRefusedError: says why not. TargetTooSmallError: the image does not fit.
    """
    firmware = request.firmwares[0]
    windows = _entry(disk, windows_number, "--windows")
    system = _entry(disk, system_number, "--system")
    if windows.number == system.number:
        raise TargetRefusedError(
            f"{disk.what}: --windows and --system are both partition {windows.number}",
            hint="Windows is formatted; boot files need a partition of their own",
        )
    _check_windows_partition(disk, windows, facts, may_erase=may_erase)
    files = _check_system_partition(disk, system, firmware)
    path = UEFI_STORE if firmware == "uefi" else BIOS_STORE
    found = files.find(path)
    return ExistingInstall(
        request=request,
        facts=facts,
        disk=disk,
        windows=windows,
        system=system,
        system_files=files,
        ids=BootIds.derive(identities.derive_guid("BCD objects")),
        volume_serial=int.from_bytes(identities.derive_guid("volume serial of Windows")[:8]),
        has_store=found is not None,
    )


def _entry(disk: WindowsDisk, number: int, option: str) -> TableEntry:
    found = next((item for item in disk.table.entries if item.number == number), None)
    if found is None:
        known = ", ".join(str(item.number) for item in disk.table.entries) or "none"
        raise TargetRefusedError(
            f"{option}: {disk.what} has no partition {number}", hint=f"it has {known}"
        )
    return found


def _check_windows_partition(
    disk: WindowsDisk, entry: TableEntry, facts: ImageFacts, *, may_erase: bool
) -> None:
    what = disk.describe(entry)
    if disk.table.kind == "gpt":
        fits, claim = entry.type_guid == TYPE_BASIC_DATA, f"{entry.type_guid}"
    else:
        fits = entry.type_code in _MBR_WINDOWS_TYPES and not entry.is_active
        claim = f"{entry.type_code:#04x}" + (" and active" if entry.is_active else "")
    if not fits:
        raise TargetRefusedError(
            f"{what} is not for Windows: its type is {claim}, expected basic data "
            "(0x07, not active)",
            hint="name the right partition with --windows, or change its type",
        )
    if disk.is_encrypted(entry):
        raise TargetRefusedError(
            f"{what} is encrypted by BitLocker",
            hint="wipe it yourself if nobody needs what is on it: wipefs",
        )
    if entry.size < facts.volume_size_min:
        raise TargetTooSmallError(
            f"{what} has {format_size(entry.size)}, image {facts.number} needs "
            f"{format_size(facts.volume_size_min)}",
            needed_size=facts.volume_size_min,
            available_size=entry.size,
            hint="take a larger partition",
        )
    if any(disk.pread(entry.start, _HEAD_SIZE)) and not may_erase:
        raise TargetRefusedError(
            f"{what} holds {_describe_files(disk, entry)}, and --erase was not given",
            hint="add --erase if everything on this partition may be lost",
        )


def _describe_files(disk: WindowsDisk, entry: TableEntry) -> str:
    match disk.files(entry):
        case NtfsFiles() as files:
            names = [name for name in files.names("\\") if name != "." and not name.startswith("$")]
            return f"an NTFS volume with {', '.join(names[:4]) or 'no files'}"
        case FatFiles():
            return "a FAT volume"
        case None:
            return "something that is not empty"
        case other:
            assert_never(other)


def _check_system_partition(
    disk: WindowsDisk, entry: TableEntry, firmware: FirmwareKind
) -> AnyFiles:
    what = disk.describe(entry)
    if disk.table.kind == "gpt":
        if firmware == "bios":
            raise TargetRefusedError(
                f"{disk.what} has a GPT, from which BIOS firmware does not start Windows",
                hint="use --firmware uefi, or a disk with an MBR",
            )
        fits = entry.type_guid == TYPE_ESP
    else:
        fits = entry.type_code in _MBR_SYSTEM_TYPES and (entry.is_active or firmware == "uefi")
    if not fits:
        claim = entry.type_guid or f"{entry.type_code:#04x}"
        wanted = "an EFI system partition" if firmware == "uefi" else "the active partition"
        raise TargetRefusedError(
            f"{what} is not {wanted}: its type is {claim}",
            hint="name the right partition with --system",
        )
    files = disk.files(entry)
    if files is None or (firmware == "uefi" and not isinstance(files, FatFiles)):
        expected = "FAT" if firmware == "uefi" else "FAT or NTFS"
        raise TargetRefusedError(
            f"{what} holds no {expected} volume that can be read",
            hint="format it first; its files are kept by install",
        )
    return files


def describe_existing(install: ExistingInstall) -> list[str]:
    """What will become of the disk, for people."""
    disk = install.disk
    lines = [f"{disk.what}: {disk.table.kind} table, {len(disk.table.entries)} partitions"]
    for entry in disk.table.entries:
        if entry.number == install.windows.number:
            fate = f"FORMATTED, gets {install.facts.name or 'the image'}"
        elif entry.number == install.system.number:
            fate = "keeps its files, gets boot files and an entry"
        else:
            fate = "not touched"
        lines.append(f"  {entry.number:>2}  {format_size(entry.size):>10}  {fate}")
    lines.append(f"boot store {install.store_path}: {'changed' if install.has_store else 'new'}")
    return lines
