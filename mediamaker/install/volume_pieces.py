# SPDX-License-Identifier: GPL-3.0-or-later
"""An NTFS volume in a sparse file, as extents of a plan: what is written and what is not.

Clusters that ``$Bitmap`` says are in use are written: from the file where it has data, as zeros
where it has a hole. mkntfs and libntfs-3g count on new files being zeros there (the rest of an
index block, of ``$Bitmap``, of a stream up to its initialised size), and a disk that was in use
is not. Free clusters stay as they are: no driver reads them before it has written them. What is
behind the last cluster (the copy of the boot sector) is written always.
"""

from __future__ import annotations

import errno
import os
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Final

from mediamaker.errors import FormatError, SourceError
from mediamaker.extents import ExtentMap, ExtentMapBuilder, FileRange, Source, Unwritten, Zeros
from mediamaker.install.ntfs_files import NtfsFiles
from mediamaker.sources.identity import SourceFile, identify, open_source

_EQUAL_BITS_RE: Final = re.compile(rb"\x00+|\xff+|[^\x00\xff]", re.DOTALL)


def volume_pieces(
    volume: Path, *, source_id: str, name: str, size: int | None = None
) -> tuple[SourceFile, ExtentMap]:
    """The extents of the volume in the file ``volume``, from byte 0 on, and the file's identity.

    ``name`` is theirs in the plan. ``size`` (None: the file's) is the partition's; what is behind
    the file is left unwritten.

    Raises:
        SourceError: the file can't be read; FormatError: it holds no sound NTFS volume.
    """
    source = identify(source_id, volume)
    descriptor = open_source(volume)
    try:
        files = NtfsFiles(lambda offset, size: _pread(descriptor, offset, size), str(volume))
        cluster_size = files.boot.cluster_size
        cluster_count = files.boot.size // cluster_size
        if files.boot.size > source.size:
            raise FormatError(
                f"{volume}: NTFS: expected {files.boot.size} bytes or more, got {source.size}"
            )
        builder = ExtentMapBuilder()
        for start, end, is_used in _cluster_runs(files.cluster_bitmap(), cluster_count):
            if is_used:
                low, high = start * cluster_size, end * cluster_size
                for part_end, kind in _parts(descriptor, low, high, source_id):
                    builder.pad_to(part_end, name, kind)
            else:
                builder.pad_to(end * cluster_size, f"{name}: free", Unwritten())
        tail = builder.position
        builder.pad_to(source.size, name, FileRange(source_id, tail))
    except OSError as error:
        raise SourceError(f"{volume}: can't be read: {error.strerror}") from error
    finally:
        os.close(descriptor)
    if size is not None:
        builder.pad_to(size, f"{name}: behind the volume", Unwritten())
    return source, builder.build()


def _cluster_runs(bitmap: bytes, count: int) -> Iterator[tuple[int, int, bool]]:
    """(first cluster, one past the last, whether in use) of the longest runs of one kind."""
    start, is_used = 0, bool(count and bitmap[0] & 1)
    for match in _EQUAL_BITS_RE.finditer(bitmap):
        first = match.start() * 8
        byte = bitmap[match.start()]
        if byte in {0x00, 0xFF}:
            changes: list[tuple[int, bool]] = [(first, byte == 0xFF)]
        else:
            changes = [(first + bit, bool(byte >> bit & 1)) for bit in range(8)]
        for cluster, used in changes:
            if cluster >= count:
                break
            if used != is_used:
                if cluster > start:
                    yield start, cluster, is_used
                start, is_used = cluster, used
    if count > start:
        yield start, count, is_used


def _parts(descriptor: int, start: int, end: int, source_id: str) -> Iterator[tuple[int, Source]]:
    """(where it ends, source) of the data and holes of ``[start, end)`` of the file."""
    position = start
    while position < end:
        data = _seek(descriptor, position, os.SEEK_DATA, end)
        if data > position:
            yield data, Zeros()
            position = data
        if position < end:
            hole = _seek(descriptor, position, os.SEEK_HOLE, end)
            yield hole, FileRange(source_id, position)
            position = hole


def _seek(descriptor: int, position: int, whence: int, end: int) -> int:
    try:
        return min(end, os.lseek(descriptor, position, whence))
    except OSError as error:
        if error.errno != errno.ENXIO:  # no data from here to the end of the file
            raise
        return end


def _pread(descriptor: int, offset: int, size: int) -> bytes:
    data = os.pread(descriptor, size, offset)
    if len(data) != size:
        raise FormatError(
            f"NTFS: expected {size} bytes at {offset:#x}, got {len(data)}: the volume is cut short"
        )
    return data
