# SPDX-License-Identifier: GPL-3.0-or-later
"""Which Windows of a disk gets a recovery partition, and what speaks against it.

Every reason that can be told by looking is told here, before anything is computed.
"""

from __future__ import annotations

from uuid import UUID

from mediamaker.errors import FormatError, TargetRefusedError
from mediamaker.install.ntfs_files import NtfsFiles
from mediamaker.install.partition_table import (
    TableEntry,
    check_table,
    has_free_entry,
    no_free_entry,
)
from mediamaker.install.recovery_check import check_recovery, device_meaning_of
from mediamaker.install.windows_disk import BootStore, WindowsDisk
from mediamaker.install.windows_volume import check_windows_volume, find_volume_problems
from mediamaker.plan.boot_store import windows_loaders


def check_disk(
    disk: WindowsDisk, windows_number: int | None
) -> tuple[TableEntry, NtfsFiles, BootStore]:
    """Everything that can be refused by looking.

    Raises:
        TargetRefusedError: says why.
    """
    check_table(disk.table, disk.what)
    windows = choose_windows(disk, windows_number)
    report = check_recovery(disk, windows_number=windows.number)
    if report.would_start:
        raise TargetRefusedError(
            f"{disk.what}: WinRE is registered already, on partition {report.recovery_number}",
            hint="mediamaker recovery check shows it",
        )
    files = check_windows_volume(disk.pread_in(windows), disk.describe(windows))
    if not has_free_entry(disk.table) and find_empty_recovery(disk) is None:
        error = no_free_entry()
        error.message = f"{disk.what}: {error.message}"
        raise error
    boot_store = disk.find_store()
    if boot_store is None:
        raise TargetRefusedError(
            f"{disk.what}: no partition has a boot store: WinRE can't be registered",
            hint="is this the disk that Windows starts from?",
        )
    if boot_store.entry.number != windows.number and isinstance(boot_store.files, NtfsFiles):
        what = disk.describe(boot_store.entry)
        for problem in find_volume_problems(disk.pread_in(boot_store.entry), what):
            raise TargetRefusedError(f"{problem.message}: nothing was changed", hint=problem.hint)
    find_loader(disk, boot_store, windows)
    return windows, files, boot_store


def find_empty_recovery(disk: WindowsDisk) -> TableEntry | None:
    """A recovery partition without a single file, as ``install --winre native`` leaves one."""
    for entry in disk.table.entries:
        files = disk.files(entry) if entry.is_recovery else None
        if isinstance(files, NtfsFiles) and all(
            name == "." or name.startswith("$") for name in files.names("\\")
        ):
            return entry
    return None


def choose_windows(disk: WindowsDisk, number: int | None) -> TableEntry:
    """The partition ``number``, or the only one that has a Windows.

    Raises:
        TargetRefusedError: there is none, or several.
    """
    if number is not None:
        found = next((item for item in disk.table.entries if item.number == number), None)
        if found is None:
            known = ", ".join(str(item.number) for item in disk.table.entries)
            raise TargetRefusedError(
                f"{disk.what} has no partition {number}", hint=f"it has {known}"
            )
        return found
    windows = [entry for entry, _ in disk.find_windows()]
    if len(windows) > 1:
        numbers = ", ".join(str(entry.number) for entry in windows)
        raise TargetRefusedError(
            f"{disk.what} has a Windows on partitions {numbers}",
            hint="say which one is meant: --windows NUMBER",
        )
    if windows:
        return windows[0]
    for entry in disk.table.entries:
        if disk.is_encrypted(entry):
            check_windows_volume(disk.pread_in(entry), disk.describe(entry))
    raise TargetRefusedError(
        f"{disk.what}: no partition has a Windows (NTFS with Windows\\System32\\winload)",
        hint="mediamaker install makes one",
    )


def find_loader(disk: WindowsDisk, boot_store: BootStore, windows: TableEntry) -> UUID:
    """The entry of the boot store that starts the Windows on ``windows``."""
    try:
        loaders = windows_loaders(boot_store.parse(disk.what))
    except FormatError as error:
        raise TargetRefusedError(
            f"{error.message}: nothing was changed", hint="mediamaker bcd show says more"
        ) from error
    reference = disk.table.reference(windows)
    for loader in loaders:
        if device_meaning_of(loader) == reference:
            return loader.guid
    portable = [item for item in loaders if disk.table.find(device_meaning_of(item)) is None]
    if len(loaders) == 1 and portable:
        return loaders[0].guid
    raise TargetRefusedError(
        f"{disk.what}: no entry of {boot_store.path} starts the Windows on partition "
        f"{windows.number}",
        hint="mediamaker bcd show says which there are; repair it first (bcdboot in Windows)",
    )
