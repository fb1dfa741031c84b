# SPDX-License-Identifier: GPL-3.0-or-later
"""The NTFS volume of a recovery partition: made in a sparse file, then taken into the overlay."""

from __future__ import annotations

import hashlib
import os
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Final

from mediamaker.errors import FormatError
from mediamaker.execute.interrupts import check_cancelled
from mediamaker.execute.progress import OnEvent
from mediamaker.formats.reagent import WINRE_FOLDER
from mediamaker.install.compose import compose_ntfs
from mediamaker.install.disk_file import open_plain
from mediamaker.install.make_ntfs import make_ntfs
from mediamaker.install.ntfs_files import NtfsFiles
from mediamaker.install.overlay import Overlay
from mediamaker.install.partition_table import TableEntry
from mediamaker.plan.boot_store import RECOVERY_SDI, RECOVERY_WIM
from mediamaker.units import MIB

VOLUME_LABEL: Final = "Recovery"
_COPY_SIZE = 4 * MIB


def make_recovery_volume(
    overlay: Overlay,
    recovery: TableEntry,
    files: dict[str, Path | bytes],
    *,
    sector_size: int,
    seed: bytes,
    modified_ns: int,
    on_event: OnEvent,
    cancel: threading.Event | None,
) -> None:
    """Fill the partition ``recovery`` with a new volume that has ``files`` in WinRE's folder."""
    volume = overlay.scratch / "recovery.ntfs"
    digest = hashlib.sha256(seed + b"volume serial").digest()
    make_ntfs(
        volume,
        size=recovery.size,
        sector_size=sector_size,
        hidden_sectors=recovery.start // sector_size,
        volume_label=VOLUME_LABEL,
        volume_serial=int.from_bytes(digest[:8], "little"),
    )
    folder = tuple(part for part in WINRE_FOLDER.split("\\") if part)
    compose_ntfs(
        volume,
        {(*folder, name): content for name, content in files.items()},
        scratch=overlay.scratch,
        modified_ns=modified_ns,
        on_event=on_event,
        cancel=cancel,
    )
    splice_volume(volume, overlay, recovery, cancel)
    volume.unlink()


def recovery_files(winre: Path, sdi: bytes, reagent: bytes) -> dict[str, Path | bytes]:
    """What WinRE's folder has."""
    return {RECOVERY_WIM: winre, RECOVERY_SDI: sdi, "ReAgent.xml": reagent}


def splice_volume(
    volume: Path, overlay: Overlay, recovery: TableEntry, cancel: threading.Event | None
) -> None:
    """Take what the finished volume uses; its free clusters keep what the disk has there.

    A hole of the sparse file in a used cluster reads as zeros, and zeros are written.
    """
    descriptor = open_plain(volume)
    try:
        files = NtfsFiles(read_exactly(descriptor), str(volume))
        bitmap, cluster_size = files.cluster_bitmap(), files.boot.cluster_size
        count = files.boot.size // cluster_size
        index = 0
        while index < count:
            if bitmap[index // 8] == 0 and index % 8 == 0:
                index += 8
                continue
            if not bitmap[index // 8] & (1 << index % 8):
                index += 1
                continue
            start = index
            limit = min(count, start + _COPY_SIZE // cluster_size)
            while index < limit and bitmap[index // 8] & (1 << index % 8):
                index += 1
            check_cancelled(cancel)
            data = os.pread(descriptor, (index - start) * cluster_size, start * cluster_size)
            overlay.pwrite(recovery.start + start * cluster_size, data)
        # The copy of the boot sector is behind the last cluster.
        tail = os.pread(descriptor, recovery.size - count * cluster_size, count * cluster_size)
        if tail:
            overlay.pwrite(recovery.start + count * cluster_size, tail)
    finally:
        os.close(descriptor)


def read_exactly(descriptor: int) -> Callable[[int, int], bytes]:
    """Reads the file behind ``descriptor``; what is cut short is an error."""

    def pread(offset: int, size: int) -> bytes:
        data = os.pread(descriptor, size, offset)
        if len(data) != size:
            raise FormatError(f"expected {size} bytes at {offset:#x}, got {len(data)}")
        return data

    return pread
