# SPDX-License-Identifier: GPL-3.0-or-later
r"""How far a boot came, by what was read of the disk.

Each verdict needs its evidence, or else it is ``unknown``, with what is known. A file that was
read may not have been run, and a trace proves no boot: only what the guest says does. References:
UEFI 2.10 3.5.1.1 (``\EFI\BOOT\BOOT*.EFI``), boot-facts.md 1.1 (``\bootmgr``), 2.2 and 3 (stores).
"""

from __future__ import annotations

from dataclasses import dataclass, field
from enum import StrEnum

from mediamaker.errors import FormatError
from mediamaker.formats.bcd import Store, parse_store
from mediamaker.formats.pe import (
    ARCHITECTURES,
    DOS_HEADER_SIZE,
    PE_HEADER_SIZE,
    parse_pe_machine,
    parse_pe_offset,
)
from mediamaker.sources.disk_map import DiskMap, MappedVolume, volume_pread
from mediamaker.sources.file_map import Kind, MappedFile, PRead
from mediamaker.units import MIB
from mediamaker.vm.trace import Trace, TracedItem
from mediamaker.vm.verdict_bcd import ResolvedEntry, resolve_entry

_UEFI_NAMES = {"x64": "bootx64.efi", "x86": "bootia32.efi", "arm64": "bootaa64.efi"}
_MANAGER_PATH = "\\efi\\microsoft\\boot\\bootmgfw.efi"
_BIOS_LOADER = "\\bootmgr"
_UEFI_STORE, _BIOS_STORE = "\\efi\\microsoft\\boot\\bcd", "\\boot\\bcd"
_SDI, _WIM = "\\boot\\boot.sdi", "\\sources\\boot.wim"
_LOADER_SIZE_MAX, _STORE_SIZE_MAX = 64 * MIB, 64 * MIB
_BOOTMGR_FIRST_BYTE = 0xE9


class Outcome(StrEnum):
    """How far it came."""

    LOADER_NOT_READ = "firmware-never-read-loader"
    LOADER_UNUSABLE = "loader-unusable"
    LOADER_REFUSED = "secure-boot-refused-loader"
    BCD_NOT_FOUND = "loader-never-found-bcd"
    BCD_UNUSABLE = "bcd-unusable"
    BCD_DEVICE_MISSING = "bcd-device-missing"
    REACHED_PROGRAM = "reached-windows-loader"
    REACHED_RAMDISK = "reached-ramdisk"
    OTHER_LOADER = "other-loader-read"
    UNKNOWN = "unknown"


@dataclass(frozen=True, slots=True)
class Verdict:
    """``words`` is a sentence for people; ``known`` is what the trace and the disk show."""

    outcome: Outcome
    words: str
    known: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class _Found:
    """A file of the disk, and what was read of it."""

    volume: MappedVolume
    item: MappedFile
    traced: TracedItem | None

    @property
    def name(self) -> str:
        number = self.volume.number
        return f"{self.item.name} (partition {number})" if number else self.item.name

    @property
    def is_whole(self) -> bool:
        return self.traced is not None and self.traced.is_whole

    def show(self) -> str:
        if self.traced is None:
            return f"{self.name}: never read"
        how = ", only together with its neighbours" if self.traced.is_in_passing else ""
        return f"{self.name}: {self.traced.percent:.3g} % read, from {self.traced.first:.1f} s{how}"


def judge(
    trace: Trace,
    disk_map: DiskMap,
    pread: PRead,
    *,
    is_uefi: bool,
    architecture: str = "x64",
    is_refused: bool = False,
) -> Verdict:
    """The verdict on what ``trace`` shows of the disk that ``pread`` reads.

    ``is_refused``: the firmware itself said that Secure Boot lets the loader not start.
    """
    judged = _Judge(trace, disk_map, pread, is_uefi=is_uefi, architecture=architecture)
    outcome, words = judged.run()
    if trace.lost_count and outcome is Outcome.LOADER_NOT_READ:
        outcome, words = Outcome.UNKNOWN, "more was read than the log holds"
    if is_refused:
        outcome, words = Outcome.LOADER_REFUSED, "the firmware read a loader, and refused it"
    return Verdict(outcome, words, tuple(judged.known))


@dataclass(slots=True)
class _Judge:
    trace: Trace
    disk_map: DiskMap
    pread: PRead
    is_uefi: bool
    architecture: str
    known: list[str] = field(default_factory=list)

    def run(self) -> tuple[Outcome, str]:
        if not self.trace.request_count:
            return Outcome.LOADER_NOT_READ, "the firmware read nothing of the disk"
        self._tell_rest()
        loaders = self._find_loaders()
        self.known += [loader.show() for loader in loaders]
        reached = self._reached_ramdisk(_SDI, _WIM)
        if reached is not None:
            return Outcome.REACHED_RAMDISK, reached
        read = [loader for loader in loaders if loader.traced is not None]
        if not read:
            return self._without_loader(loaders)
        # The one that was read most of; firmware looks at others in passing.
        return self._judge_loader(
            max(read, key=lambda item: item.traced.percent if item.traced else 0)
        )

    def _judge_loader(self, loader: _Found) -> tuple[Outcome, str]:
        problem = self._find_problem(loader)
        if problem is not None:
            words = f"the firmware read {loader.name}, which is no loader: {problem}"
            return Outcome.LOADER_UNUSABLE, words
        if not loader.is_whole:
            return Outcome.UNKNOWN, f"{loader.name} was not read to its end: it hardly ran"
        if not self._wants_store(loader):
            return Outcome.OTHER_LOADER, (
                f"the firmware read {loader.name} whole; it is not Windows' boot manager, so "
                "what it needs next can't be told"
            )
        return self._judge_store(loader)

    # Loaders

    def _find_loaders(self) -> list[_Found]:
        if not self.is_uefi:
            return self._find_all(_BIOS_LOADER)
        name = _UEFI_NAMES.get(self.architecture, _UEFI_NAMES["x64"])
        removable = self._find_all(f"\\efi\\boot\\{name}", fat_only=True)
        return removable + self._find_all(_MANAGER_PATH, fat_only=True)

    def _without_loader(self, loaders: list[_Found]) -> tuple[Outcome, str]:
        if loaders:
            names = " and ".join(loader.name for loader in loaders)
            return Outcome.LOADER_NOT_READ, f"the firmware never read the loader: {names}"
        if self.is_uefi:
            name = _UEFI_NAMES.get(self.architecture, _UEFI_NAMES["x64"])
            words = f"the firmware never read a loader: no FAT volume has \\efi\\boot\\{name}"
            return Outcome.LOADER_NOT_READ, words
        if any(self._find_all(path) for path in (_BIOS_STORE, _WIM)):
            words = "the loader was never read: the disk has files of Windows, but no \\bootmgr"
            return Outcome.LOADER_NOT_READ, words
        table = self.disk_map.table
        files = list(self.trace.files())
        if table.has_boot_code and files:
            words = f"the disk's own boot code was read, then {len(files)} files: no Windows"
            return Outcome.OTHER_LOADER, words
        return Outcome.UNKNOWN, "the disk has no loader that is known here"

    def _find_problem(self, loader: _Found) -> str | None:
        """Why the file can't be started by what reads it; None when it looks sound."""
        data = self._read(loader, _LOADER_SIZE_MAX)
        if not any(data):
            return f"all of its {len(data)} bytes are zero"
        if not self.is_uefi:
            if data[0] != _BOOTMGR_FIRST_BYTE:
                return f"it begins with {data[0]:#04x}, not {_BOOTMGR_FIRST_BYTE:#04x}"
            return None
        try:
            offset = parse_pe_offset(data[:DOS_HEADER_SIZE], what="it")
            machine = parse_pe_machine(data[offset : offset + PE_HEADER_SIZE], what="it")
        except FormatError as error:
            return error.message
        found = ARCHITECTURES.get(machine, f"machine {machine:#x}")
        return None if found == self.architecture else f"it is a program for {found}"

    def _wants_store(self, loader: _Found) -> bool:
        """Whether the loader is a boot manager of Windows: it names the store that it opens."""
        if not self.is_uefi:
            return True
        data = self._read(loader, _LOADER_SIZE_MAX).upper()
        return any(name in data for name in (b"\\BCD", "\\BCD".encode("utf-16-le")))

    # The store and what it starts

    def _judge_store(self, loader: _Found) -> tuple[Outcome, str]:
        path = _UEFI_STORE if self.is_uefi else _BIOS_STORE
        found = self._find(loader.volume, path)
        if found is None:
            words = f"the loader never found the BCD: there is no {path} beside {loader.name}"
            return Outcome.BCD_NOT_FOUND, words
        self.known.append(found.show())
        if found.traced is None:
            refused = " (Secure Boot?)" if self.is_uefi else ""
            return Outcome.UNKNOWN, (
                f"{loader.name} was read whole, but nothing of {found.name}: it was not started"
                f"{refused}, or it stopped before"
            )
        try:
            store = parse_store(self._read(found, _STORE_SIZE_MAX), what=path, keep_damaged=True)
        except FormatError as error:
            return Outcome.BCD_UNUSABLE, f"the BCD was read, but is none: {error.message}"
        return self._judge_entry(store, found)

    def _judge_entry(self, store: Store, found: _Found) -> tuple[Outcome, str]:
        entry = resolve_entry(store, self.disk_map, found.volume)
        if entry is None:
            return Outcome.BCD_UNUSABLE, "the BCD was read, but it names nothing to start"
        self.known.append(f'the BCD starts "{entry.title}"')
        files = [
            (wanted, self._find(wanted.volume, wanted.path) if wanted.volume else None)
            for wanted in entry.files
        ]
        for wanted, file in files:
            absent = "not there" if wanted.volume else "its volume is not there or can't be read"
            self.known.append(file.show() if file else f"{wanted.path}: {absent}")
        if entry.missing_device is not None:
            words = f'the BCD points at a device that isn\'t there: "{entry.title}" is to be on '
            return Outcome.BCD_DEVICE_MISSING, words + entry.missing_device
        return self._judge_files(entry, [file for _, file in files])

    def _judge_files(self, entry: ResolvedEntry, files: list[_Found | None]) -> tuple[Outcome, str]:
        there = [file for file in files if file is not None]
        names = " and ".join(file.name for file in there)
        if len(there) < len(files) or not there:
            return Outcome.UNKNOWN, f'what the BCD names for "{entry.title}" is not all there'
        if not all(file.is_whole for file in there):
            return Outcome.UNKNOWN, f"the BCD was read; {names} not whole"
        if entry.is_ramdisk:
            return Outcome.REACHED_RAMDISK, f"reached the ramdisk: {names} were read whole"
        if any(file.traced is not None and file.traced.is_in_passing for file in there):
            return Outcome.UNKNOWN, f"{names} was read, but only together with its neighbours"
        return Outcome.REACHED_PROGRAM, f"reached the loader of Windows: {names} was read whole"

    def _reached_ramdisk(self, *paths: str) -> str | None:
        for volume in self.disk_map.volumes:
            files = [self._find(volume, path) for path in paths]
            self.known += [file.show() for file in files if file is not None]
            if all(file is not None and file.is_whole and _has_own(file) for file in files):
                names = " and ".join(file.name for file in files if file is not None)
                return f"reached the ramdisk: {names} were read whole"
        return None

    # Looking things up

    def _tell_rest(self) -> None:
        files = [item for item in self.trace.files() if not item.is_in_passing]
        if files:
            last = max(files, key=lambda item: item.last)
            self.known.append(
                f"{len(files)} files were read; the last was {last.name} at {last.last:.1f} s"
            )
        else:
            self.known.append("no file was read for itself")
        self.known += self.disk_map.problems[:5]

    def _find_all(self, path: str, *, fat_only: bool = False) -> list[_Found]:
        volumes = (
            volume
            for volume in self.disk_map.volumes
            if not fat_only or volume.files.file_system.startswith("FAT")
        )
        found = (self._find(volume, path) for volume in volumes)
        return [item for item in found if item is not None]

    def _find(self, volume: MappedVolume, path: str) -> _Found | None:
        item = volume.files.find(path)
        if item is None or item.kind is not Kind.FILE:
            return None
        return _Found(volume, item, self.trace.find(volume.number, item.name))

    def _read(self, found: _Found, size_max: int) -> bytes:
        return found.volume.files.read(volume_pread(self.pread, found.volume), found.item, size_max)


def _has_own(file: _Found) -> bool:
    return file.traced is not None and file.traced.own_size > 0
