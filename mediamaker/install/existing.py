# SPDX-License-Identifier: GPL-3.0-or-later
"""Windows into partitions that exist: one is formatted and filled, the system one gets an entry.

What changes on the system partition is computed on an overlay first, so that exactly those
sectors are written, after the old ones are in an undo file; all else on the disk stays as it is.
The Windows partition is lost at once: what was on it can't be brought back.
"""

from __future__ import annotations

import mmap
import os
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from mediamaker.devices.block_target import BlockTarget
from mediamaker.errors import TargetIOError, TargetRefusedError
from mediamaker.execute.interrupts import check_cancelled
from mediamaker.execute.progress import OnEvent, Phase, ProgressMeter, writes_as
from mediamaker.extents import FileRange, Literal, Unwritten, Zeros
from mediamaker.formats.bcd import pack_store, parse_store
from mediamaker.install.apply_windows import apply_windows
from mediamaker.install.boot_files import FALLBACK_NAMES, BootFile, extract_boot_files
from mediamaker.install.changes import Change, Region, Step, find_changes, write_changes
from mediamaker.install.check_windows import AppliedCheck, check_applied
from mediamaker.install.compose import NtfsPath
from mediamaker.install.disk_file import ChangeableDisk, WindowsDiskIdentity, open_plain
from mediamaker.install.existing_checks import ExistingInstall
from mediamaker.install.fat_files import FatFiles
from mediamaker.install.make_ntfs import make_ntfs
from mediamaker.install.overlay import Overlay, open_overlay
from mediamaker.install.prepared_volumes import PreparedVolume
from mediamaker.install.recovery_volume import read_exactly
from mediamaker.install.request import choose_description, choose_locale
from mediamaker.install.system_files import put_files
from mediamaker.install.undo import write_undo
from mediamaker.install.volume_pieces import volume_pieces
from mediamaker.install.windows_disk import (
    STORE_SIZE_MAX,
    WindowsDisk,
    read_whole,
)
from mediamaker.plan.boot_entries import add_windows
from mediamaker.plan.boot_store import installed_store
from mediamaker.sources.reader import SourceReader
from mediamaker.units import MIB
from mediamaker.wim.apply import ApplyResult

_COPY_SIZE: Final = 4 * MIB
_WINDOWS_LABEL: Final = "Windows"


@dataclass(frozen=True, slots=True, kw_only=True)
class ExistingResult:
    """What was done."""

    applied: ApplyResult
    check: AppliedCheck | None
    changed_size: int
    kept_fallback: bool
    seconds: float


def install_existing(
    install: ExistingInstall,
    path: Path,
    disk: ChangeableDisk,
    scratch: Path,
    *,
    undo_path: Path,
    identity: WindowsDiskIdentity,
    made_at: str,
    made_by: str,
    is_verifying: bool,
    on_event: OnEvent,
    cancel: threading.Event,
) -> ExistingResult:
    """Fill Windows, then change the system partition. ``disk`` is open for writing, ours alone.

    Raises:
        MediaError: says what is left.
    """
    began = time.monotonic()
    with _computed_changes(install, path, scratch, on_event=on_event, cancel=cancel) as found:
        overlay, changes, kept_fallback = found
        # Written before anything is lost: without it the system partition is not touched.
        write_undo(
            undo_path,
            changes,
            overlay.pread_old,
            overlay.pread,
            what=f"install, boot files on partition {install.system.number}",
            made_at=made_at,
            made_by=made_by,
            target=str(path.absolute()),
            identity=identity,
        )
        applied, check = _fill_windows(
            install,
            path,
            disk,
            scratch,
            is_verifying=is_verifying,
            on_event=on_event,
            cancel=cancel,
        )
        write_changes(
            changes,
            overlay.pread,
            disk,
            meter=ProgressMeter(on_event, time.monotonic),
            cancel=cancel,
        )
    return ExistingResult(
        applied=applied,
        check=check,
        changed_size=sum(change.size for change in changes),
        kept_fallback=kept_fallback,
        seconds=time.monotonic() - began,
    )


@contextmanager
def _computed_changes(
    install: ExistingInstall,
    path: Path,
    scratch: Path,
    *,
    on_event: OnEvent,
    cancel: threading.Event,
) -> Iterator[tuple[Overlay, tuple[Change, ...], bool]]:
    """What differs on the system partition once boot files and entry are there."""
    disk, system = install.disk, install.system
    files = extract_boot_files(
        install.request.wim_paths,
        install.facts,
        install.firmware,
        scratch,
        generation=install.request.generation if install.firmware == "uefi" else "2011",
        on_event=writes_as(on_event, Phase.PREPARE),
        cancel=cancel,
    )
    contents: dict[NtfsPath, Path | bytes] = {}
    kept_fallback = False
    for file in files:
        if _is_foreign_fallback(install, file):
            kept_fallback = True
        else:
            contents[file.target] = file.file
    store_path = tuple(install.store_path.strip("\\").split("\\"))
    contents[store_path] = _make_store(install)
    descriptor = open_plain(path)
    try:
        views = {"system": (system.start, system.size)}
        with open_overlay(
            descriptor, disk.table.disk_size, views, scratch_parent=scratch
        ) as overlay:
            put_files(
                overlay.path("system"),
                install.system_files,
                contents,
                scratch,
                what=disk.describe(system),
            )
            old_files = install.system_files
            is_free: Callable[[int], bool] | None = None
            if isinstance(old_files, FatFiles):
                fat = old_files

                def is_free_cluster(offset: int) -> bool:
                    return fat.is_free(offset - system.start)

                is_free = is_free_cluster
            region = Region(system.start, system.end, "system volume", Step.BOOT_STORE, is_free)
            changes = find_changes(overlay, (region,), sector_size=disk.table.sector_size)
            yield overlay, changes, kept_fallback
    finally:
        os.close(descriptor)


def _is_foreign_fallback(install: ExistingInstall, file: BootFile) -> bool:
    """Another system's ``bootx64.efi`` is not ours to replace: an entry of NVRAM starts Windows."""
    if file.target[-1].casefold() not in FALLBACK_NAMES.values() or len(file.target) != 3:
        return False
    path = "\\" + "\\".join(file.target)
    if install.system_files.find(path) is None:
        return False
    return read_whole(install.system_files, path, STORE_SIZE_MAX) != file.file.read_bytes()


def _make_store(install: ExistingInstall) -> bytes:
    disk = install.disk
    system, windows = disk.table.reference(install.system), disk.table.reference(install.windows)
    locale = choose_locale(install.request, install.facts)
    description = choose_description(install.facts)
    if not install.has_store:
        return pack_store(
            installed_store(
                firmware=install.firmware,
                system=system,
                windows=windows,
                recovery=None,
                ids=install.ids,
                locale=locale,
                description=description,
            )
        )
    data = read_whole(install.system_files, install.store_path, STORE_SIZE_MAX)
    what = f"{disk.describe(install.system)}: {install.store_path}"
    return pack_store(
        add_windows(
            parse_store(data, what=what),
            firmware=install.firmware,
            system=system,
            windows=windows,
            ids=install.ids,
            locale=locale,
            description=description,
        )
    )


def _fill_windows(
    install: ExistingInstall,
    path: Path,
    disk: ChangeableDisk,
    scratch: Path,
    *,
    is_verifying: bool,
    on_event: OnEvent,
    cancel: threading.Event,
) -> tuple[ApplyResult, AppliedCheck | None]:
    """Onto the partition's device; into a sparse file, and that into the range, for an image."""
    windows, table = install.windows, install.disk.table
    is_device = isinstance(disk, BlockTarget)
    volume = partition_node(path, windows.number) if is_device else scratch / "windows.ntfs"
    make_ntfs(
        volume,
        size=windows.size,
        sector_size=table.sector_size,
        hidden_sectors=windows.start // table.sector_size,
        volume_label=_WINDOWS_LABEL,
        volume_serial=install.volume_serial,
        is_held=is_device,
    )
    paths = install.request.wim_paths
    applied = apply_windows(
        paths,
        install.facts,
        volume,
        scratch=scratch,
        is_held=is_device,
        on_event=writes_as(on_event, Phase.APPLY),
        cancel=cancel,
    )
    check = None
    if is_verifying:
        check = check_applied(
            volume,
            paths,
            install.facts.number,
            is_held=is_device,
            on_event=on_event,
            cancel=cancel,
        )
        check.check(volume)
    if not is_device:
        source, extents = volume_pieces(
            volume, source_id="Windows", name="Windows volume", size=windows.size
        )
        _copy_volume(PreparedVolume(extents, (source,)), disk, windows.start, cancel)
    return applied, check


def partition_node(disk_path: Path, number: int) -> Path:
    """The device of partition ``number``, as the kernel names it.

    Raises:
        TargetRefusedError: it is not there.
    """
    name = disk_path.resolve().name
    node = Path("/dev") / f"{name}{'p' if name[-1].isdigit() else ''}{number}"
    if not node.is_block_device():
        raise TargetRefusedError(
            f"{disk_path}: the kernel shows no {node}", hint="partprobe has it look again"
        )
    return node


def _copy_volume(
    volume: PreparedVolume, disk: ChangeableDisk, start: int, cancel: threading.Event
) -> None:
    """Write a volume into its range of an image file."""
    buffer = memoryview(mmap.mmap(-1, _COPY_SIZE))
    zeros = memoryview(mmap.mmap(-1, _COPY_SIZE))
    try:
        with SourceReader(volume.sources) as reader:
            for extent in volume.extents:
                for at in range(0, extent.size, _COPY_SIZE):
                    check_cancelled(cancel)
                    size = min(_COPY_SIZE, extent.size - at)
                    match extent.source:
                        case FileRange(source_id, offset):
                            reader.preadinto(source_id, offset + at, buffer[:size])
                            _pwrite_all(disk, start + extent.start + at, buffer[:size])
                        case Literal(data):
                            buffer[:size] = data[at : at + size]
                            _pwrite_all(disk, start + extent.start + at, buffer[:size])
                        case Zeros():
                            _pwrite_all(disk, start + extent.start + at, zeros[:size])
                        case Unwritten():
                            break
        disk.flush()
    except OSError as error:
        raise TargetIOError(f"{disk.name}: writing Windows failed: {error.strerror}") from error


def _pwrite_all(disk: ChangeableDisk, offset: int, data: memoryview) -> None:
    while data:
        count = disk.pwrite(offset, data)
        offset, data = offset + count, data[count:]


def read_disk(path: Path, disk_size: int, sector_size: int) -> tuple[WindowsDisk, int]:
    """The disk as it is, and the descriptor that the caller closes."""
    descriptor = open_plain(path)
    try:
        disk = WindowsDisk(
            read_exactly(descriptor), disk_size=disk_size, sector_size=sector_size, what=str(path)
        )
    except BaseException:
        os.close(descriptor)
        raise
    return disk, descriptor
