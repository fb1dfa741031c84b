# SPDX-License-Identifier: GPL-3.0-or-later
"""Reads the streams of a volume in the order in which they lie, and compares their SHA-1.

Small ones that lie close together are read at once, large ones piece by piece; reading and
hashing overlap, as several threads do both. So it takes about as long as reading the volume.
"""

from __future__ import annotations

import hashlib
import os
import threading
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, field
from typing import Final

from mediamaker.errors import FormatError, TargetIOError
from mediamaker.execute.interrupts import check_cancelled
from mediamaker.execute.progress import ProgressMeter
from mediamaker.install.volume_records import VolumeRecords, VolumeStream
from mediamaker.units import KIB, MIB

EMPTY_SHA1: Final = bytes(20)
"""What a WIM has for a stream without bytes."""

_SMALL_SIZE_MAX: Final = MIB
_BATCH_SIZE_MAX: Final = 4 * MIB
_GAP_SIZE_MAX: Final = 64 * KIB
_THREAD_COUNT_MAX: Final = 4


@dataclass(frozen=True, slots=True)
class WantedStream:
    """A stream that should have the SHA-1 ``sha1``; ``label`` names it for people."""

    stream: VolumeStream
    sha1: bytes
    label: str


@dataclass(slots=True)
class _Batch:
    """Streams in ``[start, end)``, read at once; or a single one, read by itself."""

    items: list[WantedStream] = field(default_factory=list)
    start: int = 0
    end: int = 0
    is_single: bool = False

    @property
    def size(self) -> int:
        return sum(item.stream.size for item in self.items)


def hash_value(data: bytes) -> bytes:
    """The SHA-1 of ``data`` as a WIM has it."""
    return hashlib.sha1(data, usedforsecurity=False).digest() if data else EMPTY_SHA1


def find_changed(
    volume: VolumeRecords,
    wanted: Iterable[WantedStream],
    *,
    meter: ProgressMeter,
    cancel: threading.Event | None,
) -> Iterator[tuple[WantedStream, str]]:
    """Those whose contents are not what they should be, and why; in no order.

    Raises:
        TargetIOError: the volume can't be read; KeyboardInterrupt: ``cancel`` was set.
    """
    batches = _make_batches(wanted)
    worker_count = min(_THREAD_COUNT_MAX, os.cpu_count() or 1)
    done = 0
    with ThreadPoolExecutor(worker_count, thread_name_prefix="mediamaker-check") as pool:
        running: deque[tuple[_Batch, Future[list[tuple[WantedStream, str]]]]] = deque()
        try:
            while running or batches:
                check_cancelled(cancel)
                while batches and len(running) < 2 * worker_count:
                    batch = batches.popleft()
                    running.append((batch, pool.submit(_check_batch, volume, batch, cancel)))
                batch, future = running.popleft()
                try:
                    yield from future.result()
                except OSError as error:
                    raise TargetIOError(
                        f"{batch.items[0].label}: can't be read back: {error.strerror}"
                    ) from error
                done += batch.size
                meter.update(done)
        finally:
            for _, future in running:
                future.cancel()


def _make_batches(wanted: Iterable[WantedStream]) -> deque[_Batch]:
    batches: deque[_Batch] = deque()
    for item in sorted(wanted, key=_first_offset):
        start = _first_offset(item)
        end = start + item.stream.size
        if not _is_small(item.stream):
            batches.append(_Batch([item], start, end, is_single=True))
            continue
        last = batches[-1] if batches else None
        if (
            last is None
            or last.is_single
            or not last.end <= start <= last.end + _GAP_SIZE_MAX
            or end - last.start > _BATCH_SIZE_MAX
        ):
            batches.append(_Batch([item], start, end))
        else:
            last.items.append(item)
            last.end = end
    return batches


def _first_offset(item: WantedStream) -> int:
    return next((run.offset for run in item.stream.runs if run.offset is not None), 0)


def _is_small(stream: VolumeStream) -> bool:
    """It lies in one place, has nothing that is only said to be zeros, and is not large."""
    return (
        len(stream.runs) == 1
        and stream.runs[0].offset is not None
        and stream.size <= min(_SMALL_SIZE_MAX, stream.initialized_size, stream.runs[0].size)
    )


def _check_batch(
    volume: VolumeRecords, batch: _Batch, cancel: threading.Event | None
) -> list[tuple[WantedStream, str]]:
    changed: list[tuple[WantedStream, str]] = []

    def compare(item: WantedStream, sha1: bytes) -> None:
        if sha1 != item.sha1:
            changed.append((item, f"expected SHA-1 {item.sha1.hex()}, got {sha1.hex()}"))

    if batch.is_single:
        _check_single(volume, batch.items[0], compare, changed, cancel)
        return changed
    data = memoryview(volume.pread(batch.start, batch.end - batch.start))
    for item in batch.items:
        start = _first_offset(item) - batch.start
        content = data[start : start + item.stream.size]
        compare(item, hashlib.sha1(content, usedforsecurity=False).digest())
    return changed


def _check_single(
    volume: VolumeRecords,
    item: WantedStream,
    compare: Callable[[WantedStream, bytes], None],
    changed: list[tuple[WantedStream, str]],
    cancel: threading.Event | None,
) -> None:
    hasher = hashlib.sha1(usedforsecurity=False)
    try:
        for piece in volume.iterate_stream(item.stream):
            check_cancelled(cancel)
            hasher.update(piece)
    except FormatError as error:
        changed.append((item, error.message))
    else:
        compare(item, hasher.digest() if item.stream.size else EMPTY_SHA1)
