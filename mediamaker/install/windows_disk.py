# SPDX-License-Identifier: GPL-3.0-or-later
"""A disk with an installed Windows: which partition has it, and which has the boot store.

Everything is read through one function, so that the same look is taken at a disk, an image file,
and at what either would be after a change (an overlay).
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from pathlib import PureWindowsPath

from mediamaker.errors import FormatError
from mediamaker.formats.bcd import Store, parse_store
from mediamaker.formats.gpt import TYPE_ESP
from mediamaker.formats.ntfs import BOOT_SECTOR_SIZE
from mediamaker.install.fat_files import FatFiles
from mediamaker.install.ntfs_files import NtfsFiles
from mediamaker.install.partition_table import PartitionTable, TableEntry, read_partition_table
from mediamaker.install.windows_volume import is_bitlocker
from mediamaker.units import MIB

PRead = Callable[[int, int], bytes]
AnyFiles = NtfsFiles | FatFiles

UEFI_STORE = "\\EFI\\Microsoft\\Boot\\BCD"
BIOS_STORE = "\\Boot\\BCD"
LOADERS = ("\\Windows\\System32\\winload.efi", "\\Windows\\System32\\winload.exe")
STORE_SIZE_MAX = 16 * MIB


@dataclass(frozen=True, slots=True)
class BootStore:
    """The store found at ``path`` of the partition ``entry``, whose file system is ``files``."""

    entry: TableEntry
    path: str
    files: AnyFiles
    data: bytes

    @property
    def firmware(self) -> str:
        """What the store is for."""
        return "uefi" if PureWindowsPath(self.path) == PureWindowsPath(UEFI_STORE) else "bios"

    def parse(self, what: str) -> Store:
        """Its objects.

        Raises:
            FormatError: damaged.
        """
        return parse_store(self.data, what=f"{what}, partition {self.entry.number}: {self.path}")


class WindowsDisk:
    """The partitions of the disk that ``pread`` reads."""

    def __init__(self, pread: PRead, *, disk_size: int, sector_size: int, what: str) -> None:
        self.pread = pread
        self.what = what
        self.table: PartitionTable = read_partition_table(
            pread, disk_size=disk_size, sector_size=sector_size, what=what
        )
        self._files: dict[int, AnyFiles | None] = {}

    def describe(self, entry: TableEntry) -> str:
        """What a person calls the partition."""
        return f"{self.what}, partition {entry.number}"

    def pread_in(self, entry: TableEntry) -> PRead:
        """Reads the partition alone."""
        return partial(_pread_range, self.pread, entry.start, entry.size)

    def is_encrypted(self, entry: TableEntry) -> bool:
        """Whether BitLocker hides what is in the partition."""
        return entry.size >= BOOT_SECTOR_SIZE and is_bitlocker(
            self.pread(entry.start, BOOT_SECTOR_SIZE)
        )

    def files(self, entry: TableEntry) -> AnyFiles | None:
        """The files of the partition; None for a file system that we don't read."""
        if entry.number not in self._files:
            self._files[entry.number] = self._open(entry)
        return self._files[entry.number]

    def find_windows(self) -> tuple[tuple[TableEntry, str], ...]:
        """Each partition that has a Windows, and the path of its loader."""
        found: list[tuple[TableEntry, str]] = []
        for entry in self.table.entries:
            files = self.files(entry)
            if not isinstance(files, NtfsFiles):
                continue
            for path in LOADERS:
                if _find(files, path) is not None:
                    found.append((entry, path))
                    break
        return tuple(found)

    def find_store(self) -> BootStore | None:
        """The boot store that the firmware would come to; None when there is none.

        Raises:
            FormatError: it is there and can't be read.
        """
        path = UEFI_STORE if self.table.kind == "gpt" else BIOS_STORE
        for entry in sorted(self.table.entries, key=_store_rank):
            files = self.files(entry)
            file = None if files is None else _find(files, path)
            if files is None or file is None:
                continue
            data = read_whole(files, path, STORE_SIZE_MAX)
            return BootStore(entry, file, files, data)
        return None

    def _open(self, entry: TableEntry) -> AnyFiles | None:
        if entry.size < MIB or entry.end > self.table.disk_size:
            return None
        pread, what = self.pread_in(entry), self.describe(entry)
        kinds: tuple[type[NtfsFiles] | type[FatFiles], ...] = (NtfsFiles, FatFiles)
        for kind in kinds:
            try:
                return kind(pread, what)
            except FormatError:
                continue
        return None


def read_whole(files: AnyFiles, path: str, size_max: int) -> bytes:
    """The file at ``path``.

    Raises:
        FormatError: it is not there, too big, or can't be read.
    """
    if isinstance(files, NtfsFiles):
        found = files.find(path)
        if found is not None:
            return files.read_all(found, size_max)
    else:
        file = files.find(path)
        if file is not None:
            return files.read_all(file, size_max)
    raise FormatError(f"{path}: there is no such file")


def read_head(files: AnyFiles, path: str, size: int) -> tuple[bytes, int] | None:
    """The first ``size`` bytes of the file at ``path`` and its whole size; None if it is missing.

    Raises:
        FormatError: it can't be read.
    """
    if isinstance(files, NtfsFiles):
        found = files.find(path)
        return None if found is None else (files.read(found, 0, size), found.size)
    file = files.find(path)
    return None if file is None else (files.read(file, 0, size), file.size)


def _find(files: AnyFiles, path: str) -> str | None:
    """The path of the file as it is spelled there; None for what is not there or not readable."""
    try:
        found = files.find(path)
    except FormatError:
        return None
    return None if found is None or found.is_directory else found.path


def _store_rank(entry: TableEntry) -> tuple[bool, int]:
    return (not (entry.type_guid == TYPE_ESP or entry.is_active), entry.number)


def _pread_range(pread: PRead, start: int, limit: int, offset: int, size: int) -> bytes:
    if offset < 0 or offset + size > limit:
        raise FormatError(f"{size} bytes at {offset:#x} are outside the partition's {limit}")
    return pread(start + offset, size)
