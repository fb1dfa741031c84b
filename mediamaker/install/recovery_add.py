# SPDX-License-Identifier: GPL-3.0-or-later
"""A recovery partition for a disk that has a Windows: shrink, create, fill, register.

All of it happens on an overlay first, by the tools that know the file systems. What comes out is a
:class:`PreparedRecovery`: the ranges that differ, in the order in which they may be written, and
the report of ``recovery check`` on the disk as it would be then. Only a disk on which WinRE would
start is ever written, and the undo file is complete before that.
"""

from __future__ import annotations

import errno
import hashlib
import os
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Final
from uuid import UUID

from mediamaker.errors import (
    FormatError,
    TargetIOError,
    TargetRefusedError,
    TargetTooSmallError,
    ToolError,
)
from mediamaker.execute.interrupts import check_cancelled
from mediamaker.execute.progress import OnEvent, ProgressMeter, ignore_event
from mediamaker.formats.bcd import pack_store
from mediamaker.formats.reagent import (
    WINRE_FOLDER,
    XML_SIZE_MAX,
    WinreLocation,
    enable_reagent,
    pack_reagent,
    parse_reagent,
)
from mediamaker.install.changes import Change, Region, Step, find_changes, write_changes
from mediamaker.install.disk_file import ChangeableDisk, WindowsDiskIdentity, open_plain
from mediamaker.install.fat_files import FatFiles
from mediamaker.install.ntfs_files import NtfsFiles
from mediamaker.install.ntfs_shrink import measure_shrink, shrink_ntfs
from mediamaker.install.overlay import Overlay, open_overlay
from mediamaker.install.partition_table import (
    PartitionTable,
    TableEntry,
    detect_sector_size,
    edit_table,
)
from mediamaker.install.protect_files import protect_files
from mediamaker.install.recovery_check import REAGENT_PATH, RecoveryReport, check_recovery
from mediamaker.install.recovery_sources import find_boot_sdi, find_winre
from mediamaker.install.recovery_target import check_disk, find_empty_recovery, find_loader
from mediamaker.install.recovery_volume import (
    VOLUME_LABEL,
    make_recovery_volume,
    read_exactly,
    recovery_files,
)
from mediamaker.install.tools import run_tool
from mediamaker.install.undo import check_undo_place, write_undo
from mediamaker.install.windows_disk import BootStore, WindowsDisk
from mediamaker.plan.boot_store import BootIds, register_recovery
from mediamaker.sources.identity import identify, unchanged_sources
from mediamaker.units import GIB, MIB, align_down, align_up, format_size

SIZE_MIN_DEFAULT: Final = 1024 * MIB
FREE_SIZE_DEFAULT: Final = 320 * MIB
OVERHEAD_SIZE: Final = 12 * MIB
"""What NTFS itself takes of a small volume, with room to spare."""

_MARGIN_MAX = GIB


@dataclass(frozen=True, slots=True, kw_only=True)
class AddRequest:
    """``winre`` and ``boot_sdi`` default to what is in Windows; ``size`` to what is advised.

    ``seed`` is what the new GUIDs and the volume's serial number are made of.
    """

    seed: bytes
    winre: Path | None = None
    boot_sdi: Path | None = None
    windows_number: int | None = None
    size: int | None = None
    modified_ns: int = 0


@dataclass(frozen=True, slots=True, kw_only=True)
class PreparedRecovery:
    """What is to be written, and how the disk is then; bytes and numbers of partitions."""

    overlay: Overlay
    changes: tuple[Change, ...]
    before: PartitionTable
    after: PartitionTable
    windows: TableEntry
    windows_size_after: int
    recovery: TableEntry
    winre_size: int
    report: RecoveryReport
    notes: tuple[str, ...]


@contextmanager
def prepare_recovery(
    path: Path,
    *,
    disk_size: int,
    sector_size: int,
    request: AddRequest,
    on_event: OnEvent = ignore_event,
    cancel: threading.Event | None = None,
) -> Iterator[PreparedRecovery]:
    """Compute everything for the disk or image at ``path``, which nobody else may be writing.

    Nothing is written to it.

    Raises:
        TargetRefusedError: its Windows or its table is in no state to be changed (says why).
        TargetTooSmallError: no room. SourceError: Winre.wim or boot.sdi is none, or changed.
        TargetIOError: the disk can't be read, or there is no room for scratch files.
    """
    descriptor = open_plain(path)
    try:
        read = read_exactly(descriptor)
        with _named_failures(path):
            before = WindowsDisk(read, disk_size=disk_size, sector_size=sector_size, what=str(path))
            found = check_disk(before, request.windows_number)
        windows, _, boot_store = found
        views = {
            f"partition-{entry.number}": (entry.start, entry.size)
            for entry in (windows, boot_store.entry)
        }
        with open_overlay(descriptor, disk_size, views) as overlay:
            with _named_failures(path):
                prepared = _Work(before, overlay, found, request).run(on_event, cancel)
            yield prepared
    finally:
        os.close(descriptor)


def write_recovery(
    prepared: PreparedRecovery,
    disk: ChangeableDisk,
    *,
    undo_path: Path,
    identity: WindowsDiskIdentity,
    made_at: str,
    made_by: str,
    meter: ProgressMeter,
    cancel: threading.Event | None = None,
) -> str | None:
    """Save what will be lost to ``undo_path``, then write; a warning about the kernel's view.

    Raises:
        UsageError: no undo file can be made there. TargetIOError, VerifyError: the disk failed.
        KeyboardInterrupt: ``cancel`` was set; ``undo`` is the way back.
    """
    check_undo_place(undo_path, Path(disk.name))
    write_undo(
        undo_path,
        prepared.changes,
        prepared.overlay.pread_old,
        prepared.overlay.pread,
        what=f"recovery add, partition {prepared.recovery.number}",
        made_at=made_at,
        made_by=made_by,
        target=str(Path(disk.name).absolute()),
        identity=identity,
    )
    check_cancelled(cancel)
    write_changes(prepared.changes, prepared.overlay.pread, disk, meter=meter, cancel=cancel)
    return disk.reread_partition_table()


def find_sector_size(path: Path, disk_size: int) -> int:
    """The sector size of an image file, by its GPT."""
    descriptor = open_plain(path)
    try:
        return detect_sector_size(read_exactly(descriptor), disk_size)
    finally:
        os.close(descriptor)


@contextmanager
def _named_failures(path: Path) -> Iterator[None]:
    """Of the disk or of the scratch files; a tool of others meets them through the overlay."""
    try:
        yield
    except (OSError, ToolError) as error:
        words = error.message if isinstance(error, ToolError) else str(error.strerror or error)
        if isinstance(error, ToolError) and os.strerror(errno.EIO) not in words:
            raise
        if isinstance(error, OSError) and error.errno in {errno.ENOSPC, errno.EDQUOT}:
            raise TargetIOError(
                f"no room for the scratch files for {path}: {words}; nothing was written",
                hint="set TMPDIR to a folder with room for what changes, 2 GiB or more",
            ) from error
        raise TargetIOError(
            f"{path}: reading it failed: {words}; nothing was written",
            hint="the disk may be failing: look for bad sectors (smartctl, badblocks) first",
        ) from error


class _Work:
    """One preparation, step by step."""

    def __init__(
        self,
        before: WindowsDisk,
        overlay: Overlay,
        found: tuple[TableEntry, NtfsFiles, BootStore],
        request: AddRequest,
    ) -> None:
        windows, files, boot_store = found
        self._before = before
        self._overlay = overlay
        self._windows = windows
        self._files = files
        self._boot_store = boot_store
        self._request = request
        self._what = before.describe(windows)
        self._notes: list[str] = []

    def run(self, on_event: OnEvent, cancel: threading.Event | None) -> PreparedRecovery:
        request, windows, before = self._request, self._windows, self._before
        winre = find_winre(
            request.winre, self._files, self._what, scratch=self._overlay.scratch, cancel=cancel
        )
        winre_source = identify("winre", winre)
        is_uefi = self._boot_store.firmware == "uefi"
        sdi = find_boot_sdi(request.boot_sdi, self._files, self._what, is_uefi=is_uefi)
        winre_size = winre_source.size
        number, windows_size = self._make_room(winre_size + len(sdi))
        after = self._look()
        recovery = next(item for item in after.table.entries if item.number == number)
        # Files first: ntfsresize marks the volume, and other tools then leave it alone.
        ids = BootIds.derive(request.seed)
        reagent = self._write_reagent(after.table, recovery, ids)
        self._write_store(after.table, recovery, ids)
        if windows_size != windows.size:
            shrink_ntfs(self._view(windows), windows_size, what=self._what)
            self._notes.append("Windows will check its volume once when it starts (chkdsk)")
        with unchanged_sources((winre_source,)):
            make_recovery_volume(
                self._overlay,
                recovery,
                recovery_files(winre, sdi, reagent),
                sector_size=before.table.sector_size,
                seed=request.seed,
                modified_ns=request.modified_ns,
                on_event=on_event,
                cancel=cancel,
            )
        check_cancelled(cancel)
        report = check_recovery(self._look(), windows_number=windows.number)
        if not report.would_start:
            bad = [point for point in report.points if not (point.is_good or point.is_advice)]
            raise TargetRefusedError(
                f"{self._what}: WinRE would not start afterwards: "
                + "; ".join(f"{point.name}: {point.message}" for point in bad)
                + ": nothing was written",
                hint="mediamaker recovery check goes through all of it; a disk of Windows To Go, "
                "whose store names no partition, can't have WinRE",
            )
        sector_size = before.table.sector_size
        return PreparedRecovery(
            overlay=self._overlay,
            changes=find_changes(self._overlay, self._regions(recovery), sector_size=sector_size),
            before=before.table,
            after=after.table,
            windows=windows,
            windows_size_after=windows_size,
            recovery=recovery,
            winre_size=winre_size,
            report=report,
            notes=tuple(self._notes),
        )

    def _make_room(self, content_size: int) -> tuple[int, int]:
        """The number of the recovery partition, and the size that Windows has beside it."""
        windows, before = self._windows, self._before
        size = self._recovery_size(content_size)
        empty = find_empty_recovery(before)
        if empty is not None:
            enough = self._request.size or _size_needed(content_size)
            if empty.size >= enough:
                self._notes.append(
                    f"partition {empty.number} is an empty recovery partition: it is used, and "
                    "Windows keeps its size"
                )
                return empty.number, windows.size
            self._notes.append(
                f"partition {empty.number} is an empty recovery partition, but "
                f"{format_size(empty.size)} are too small: it stays as it is"
            )
        start, windows_size = self._place(size)
        number, table_writes = edit_table(
            before.table,
            before.pread,
            shrunk=windows,
            shrunk_size=windows_size,
            new_start=start,
            new_size=size,
            new_guid=_derive_guid(self._request.seed, "recovery partition"),
            new_name=VOLUME_LABEL,
        )
        for offset, data in table_writes.items():
            self._overlay.pwrite(offset, data)
        return number, windows_size

    def _look(self) -> WindowsDisk:
        """The disk as it is in the overlay."""
        table = self._before.table
        return WindowsDisk(
            self._overlay.pread,
            disk_size=table.disk_size,
            sector_size=table.sector_size,
            what=self._before.what,
        )

    def _view(self, entry: TableEntry) -> Path:
        return self._overlay.path(f"partition-{entry.number}")

    def _recovery_size(self, content_size: int) -> int:
        advised = max(SIZE_MIN_DEFAULT, content_size + content_size // 4 + FREE_SIZE_DEFAULT)
        size = align_up(self._request.size or advised, MIB)
        needed = _size_needed(content_size)
        if size < needed:
            raise TargetTooSmallError(
                f"a recovery partition of {format_size(size)} does not hold WinRE: "
                f"{format_size(needed)} are needed",
                needed_size=needed,
                available_size=size,
                hint=f"give a bigger --size; {format_size(align_up(advised, MIB))} are advised",
            )
        return size

    def _place(self, size: int) -> tuple[int, int]:
        """Where the new partition begins, and the size that Windows has then."""
        windows, table = self._windows, self._before.table
        behind = align_up(windows.end, MIB)
        room_end = table.room_behind(windows)
        if behind + size <= room_end:
            return behind, windows.size
        start = align_down(room_end - size, MIB)
        windows_size = start - windows.start
        size_min = measure_shrink(self._view(windows), what=self._what)
        margin = min(_MARGIN_MAX, windows.size // 20)
        if windows_size < size_min + margin:
            raise TargetTooSmallError(
                f"{self._what} is too full: a recovery partition of {format_size(size)} would "
                f"leave it {format_size(max(0, windows_size))}, and it needs "
                f"{format_size(size_min + margin)} (its files, and some room to work)",
                needed_size=size_min + margin,
                available_size=max(0, windows_size),
                hint="make room in Windows (Disk Cleanup), or give a smaller --size",
            )
        return start, windows_size

    def _write_reagent(self, table: PartitionTable, recovery: TableEntry, ids: BootIds) -> bytes:
        """Write ReAgent.xml into Windows; gives its bytes, for the copy beside Winre.wim."""
        found = self._files.find(REAGENT_PATH)
        old = None
        if found is not None:
            try:
                data = self._files.read_all(found, XML_SIZE_MAX)
                old = parse_reagent(data, what=f"{self._what}: {found.path}")
            except FormatError as error:
                self._notes.append(f"{error.message}: it is written anew")
        is_gpt = table.kind == "gpt"
        place = WinreLocation(
            WINRE_FOLDER,
            recovery.start,
            disk_guid=table.disk_guid if is_gpt else None,
            disk_signature=None if is_gpt else table.disk_signature,
        )
        reagent = pack_reagent(enable_reagent(old, loader=ids.recovery, location=place))
        folder = self._files.find(REAGENT_PATH.rpartition("\\")[0])
        if folder is None or not folder.is_directory:
            self._notes.append(
                f"Windows has no folder for {REAGENT_PATH}: reagentc /enable it once in Windows"
            )
            return reagent
        target = found.path if found is not None else f"{folder.path}\\ReAgent.xml"
        self._copy_to_ntfs(self._windows, reagent, target)
        if found is None:
            # A new file has no descriptor, and anyone might change it.
            name = target.replace("\\", "/")
            protect_files(self._view(self._windows), [], [name], scratch=self._overlay.scratch)
        return reagent

    def _write_store(self, table: PartitionTable, recovery: TableEntry, ids: BootIds) -> None:
        boot_store = self._boot_store
        store = boot_store.parse(self._before.what)
        loader = find_loader(self._before, boot_store, self._windows)
        reference = table.reference(recovery)
        data = pack_store(register_recovery(store, loader, reference, ids))
        if isinstance(boot_store.files, NtfsFiles):
            self._copy_to_ntfs(boot_store.entry, data, boot_store.path)
            return
        source = self._overlay.scratch / "BCD"
        source.write_bytes(data)
        target = "::" + boot_store.path.replace("\\", "/")
        view = str(self._view(boot_store.entry))
        done = run_tool("mcopy", ["-n", "-o", "-i", view, str(source), target], package="mtools")
        if done.returncode:
            where = self._before.describe(boot_store.entry)
            raise ToolError(f"{where}: mcopy can't write {boot_store.path}: {done.said}")

    def _copy_to_ntfs(self, entry: TableEntry, data: bytes, target: str) -> None:
        source = self._overlay.scratch / "ntfs-file"
        source.write_bytes(data)
        arguments = ["--quiet", str(self._view(entry)), str(source), target.replace("\\", "/")]
        done = run_tool("ntfscp", arguments, package="ntfs-3g")
        if done.returncode:
            raise ToolError(
                f"{self._before.describe(entry)}: ntfscp can't write {target}: {done.said}"
            )

    def _regions(self, recovery: TableEntry) -> tuple[Region, ...]:
        windows, store, table = self._windows, self._boot_store, self._before.table
        bitmap, cluster_size = self._files.cluster_bitmap(), self._files.boot.cluster_size

        def is_free(offset: int) -> bool:
            index = (offset - windows.start) // cluster_size
            return index // 8 < len(bitmap) and not bitmap[index // 8] & (1 << index % 8)

        regions = [
            Region(recovery.start, recovery.end, "recovery volume", Step.NEW_VOLUME),
            Region(
                windows.start,
                min(windows.end, recovery.start) if recovery.start > windows.start else windows.end,
                "Windows volume",
                Step.FILE_SYSTEM,
                is_free,
            ),
            Region(0, table.sector_size, "MBR", Step.TABLE),
        ]
        if table.kind == "gpt":
            regions += [
                Region(table.sector_size, table.usable[0], "GPT", Step.TABLE),
                Region(table.usable[1], table.disk_size, "second copy of the GPT", Step.TABLE),
            ]
        entry, files = store.entry, store.files
        if entry.number != windows.number:
            free = None
            if isinstance(files, FatFiles):
                free = _shifted(files, entry.start)
            regions.append(Region(entry.start, entry.end, "system volume", Step.BOOT_STORE, free))
        return tuple(regions)


def _shifted(files: FatFiles, start: int) -> Callable[[int], bool]:
    return lambda offset: files.is_free(offset - start)


def _size_needed(content_size: int) -> int:
    """Bytes for the files and for NTFS itself."""
    return content_size + content_size // 64 + OVERHEAD_SIZE


def _derive_guid(seed: bytes, purpose: str) -> UUID:
    return UUID(bytes=hashlib.sha256(seed + purpose.encode()).digest()[:16], version=4)
