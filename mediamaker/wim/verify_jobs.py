# SPDX-License-Identifier: GPL-3.0-or-later
# ruff: noqa: D102 - Job and _Sink say what the methods of the classes here are
"""The jobs of ``verify``, and what they find.

``run`` decodes and hashes in any thread; ``finish`` is called by one thread, in the order of the
jobs, and continues the hashes of what spans windows.
"""

from __future__ import annotations

import hashlib
from collections import deque
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Protocol

from mediamaker.errors import FormatError
from mediamaker.formats.wim import ResourceHeader
from mediamaker.sources.wim_blobs import WINDOW_SIZE, BlobReader, ChunkedResource, Window
from mediamaker.units import MIB, format_range
from mediamaker.wim.parts import WimPartFile
from mediamaker.wim.verify_worker import (
    BadBlobs,
    BlobsRequest,
    WorkerPool,
    check_large_blobs,
    check_small_blobs,
    say_mismatch,
)

SMALL_BLOB_SIZE_MAX = 4 * MIB
"""What is larger is decoded in windows."""

LARGE_BLOB_SIZE_MAX = 64 * MIB
"""What is larger is shared by all threads, a window each; else one could be left alone with it."""

_BATCH_STORED_SIZE_MAX = 2 * MIB
_BATCH_SIZE_MAX = 8 * MIB
_BATCH_GAP_MAX = 64 * 1024


@dataclass(frozen=True, slots=True, kw_only=True)
class DamagedBlob:
    """Stored content that is not what its SHA-1 says."""

    sha1: bytes
    part_path: Path
    message: str


@dataclass(slots=True)
class VerifyState:
    """What has been found; only the calling thread changes it."""

    parts: Sequence[WimPartFile]
    table_damage: list[str]
    workers: WorkerPool
    damaged: dict[tuple[bytes, Path], DamagedBlob] = field(default_factory=dict)
    referenced: set[bytes] = field(default_factory=set)
    unreadable_images: dict[int, str] = field(default_factory=dict)
    blob_count: int = 0
    size: int = 0

    def add_damage(self, part: WimPartFile, sha1: bytes, message: str) -> None:
        blob = DamagedBlob(sha1=sha1, part_path=part.path, message=message)
        self.damaged.setdefault((sha1, part.path), blob)


class Job(Protocol):
    """``run`` in any thread, then ``finish`` in the calling one, in the order of the jobs."""

    @property
    def weight(self) -> int: ...
    @property
    def size(self) -> int: ...
    def run(self) -> object: ...
    def finish(self, result: object, state: VerifyState) -> None: ...


@dataclass(slots=True)
class ImageJob:
    """An image's tree: its SHA-1, whether it makes sense, and what it refers to."""

    part: WimPartFile
    number: int
    size: int

    @property
    def weight(self) -> int:
        return 2 * self.size

    def run(self) -> set[bytes] | FormatError:
        try:
            with BlobReader(
                self.part.wim, self.part.pieces, self.part.reader, what=self.part.path.name
            ) as blobs:
                return set(blobs.read_metadata(self.number).scan_sha1s())
        except FormatError as error:
            return error

    def finish(self, result: object, state: VerifyState) -> None:
        state.blob_count += 1
        if isinstance(result, FormatError):
            blob = self.part.wim.metadata[self.number - 1]
            state.add_damage(self.part, blob.sha1, result.message)
            state.unreadable_images[self.number] = result.message
        elif isinstance(result, set):
            state.referenced |= result


@dataclass(slots=True)
class BatchJob:
    """Small blobs that lie close together: one read, no state between them."""

    part: WimPartFile
    state: VerifyState
    resources: list[ResourceHeader] = field(default_factory=list)
    sha1s: list[bytes] = field(default_factory=list)
    start: int = 0
    end: int = 0
    size: int = 0

    @property
    def weight(self) -> int:
        return self.end - self.start + SMALL_BLOB_SIZE_MAX

    def has_room(self, resource: ResourceHeader) -> bool:
        return not self.sha1s or (
            resource.offset <= self.end + _BATCH_GAP_MAX
            and resource.end - self.start <= _BATCH_STORED_SIZE_MAX
            and self.size + resource.uncompressed_size <= _BATCH_SIZE_MAX
        )

    def add(self, resource: ResourceHeader, sha1: bytes) -> None:
        if not self.sha1s:
            self.start = resource.offset
        self.end = max(self.end, resource.end)
        self.size += resource.uncompressed_size
        self.resources.append(resource)
        self.sha1s.append(sha1)

    def run(self) -> BadBlobs:
        request = BlobsRequest(
            self.state.parts.index(self.part), self.start, self.end, self.resources, self.sha1s
        )
        answer = self.state.workers.check(request, is_small=True)
        return check_small_blobs(self.part.blobs, request) if answer is None else answer

    def finish(self, result: object, state: VerifyState) -> None:
        state.blob_count += len(self.sha1s)
        if isinstance(result, list):
            for sha1, message in result:
                state.add_damage(self.part, sha1, message)


@dataclass(slots=True)
class LargeBlobJob:
    """One blob of some windows, which one thread or worker takes from its start to its end."""

    part: WimPartFile
    state: VerifyState
    resource: ResourceHeader
    sha1: bytes

    @property
    def size(self) -> int:
        return self.resource.uncompressed_size

    @property
    def weight(self) -> int:
        return 4 * WINDOW_SIZE

    def run(self) -> BadBlobs:
        request = BlobsRequest(
            self.state.parts.index(self.part),
            self.resource.offset,
            self.resource.end,
            (self.resource,),
            (self.sha1,),
        )
        answer = self.state.workers.check(request, is_small=False)
        return check_large_blobs(self.part.blobs, request) if answer is None else answer

    def finish(self, result: object, state: VerifyState) -> None:
        state.blob_count += 1
        if isinstance(result, list):
            for sha1, message in result:
                state.add_damage(self.part, sha1, message)


class _Sink(Protocol):
    """Takes the windows of something large in their order."""

    def take(self, window: Window, start: int, state: VerifyState) -> None: ...


@dataclass(slots=True)
class WindowJob:
    """A window of a large blob or of a solid resource, ``start`` bytes into it or its run."""

    part: WimPartFile
    resource: ChunkedResource
    index: int
    start: int
    sink: _Sink

    @property
    def size(self) -> int:
        done = self.index * self.resource.window_size
        return min(self.resource.window_size, self.resource.chunks.size - done)

    @property
    def weight(self) -> int:
        return 2 * self.size

    def run(self) -> Window:
        return self.part.blobs.decode_window(self.resource, self.index)

    def finish(self, result: object, state: VerifyState) -> None:
        if isinstance(result, Window):
            self.sink.take(result, self.start, state)


@dataclass(slots=True)
class HugeBlob:
    """The sink of one blob that is not solid."""

    part: WimPartFile
    sha1: bytes
    size: int
    is_done: bool = False
    hasher: hashlib._Hash = field(default_factory=lambda: hashlib.sha1(usedforsecurity=False))

    def take(self, window: Window, start: int, state: VerifyState) -> None:
        if self.is_done:
            return
        if window.failures:
            state.add_damage(self.part, self.sha1, window.failures[0].message)
        else:
            self.hasher.update(window.data)
            if start + len(window.data) < self.size:
                return
            got = self.hasher.digest()
            if got != self.sha1:
                state.add_damage(self.part, self.sha1, say_mismatch(got))
        self.is_done = True
        state.blob_count += 1


@dataclass(slots=True)
class SolidBlobs:
    """The sink of a run: ``pending`` are (start, end, SHA-1) in the order of their places."""

    part: WimPartFile
    pending: deque[tuple[int, int, bytes]]
    hasher: hashlib._Hash = field(default_factory=lambda: hashlib.sha1(usedforsecurity=False))
    message: str = ""
    current: tuple[int, int, bytes] | None = None

    def take(self, window: Window, start: int, state: VerifyState) -> None:
        end = start + len(window.data)
        with memoryview(window.data) as view:
            while self.pending and self.pending[0][0] < end:
                if self.pending[0] != self.current:  # the last one ended, or lost its resource
                    self.current = self.pending[0]
                    self.hasher, self.message = hashlib.sha1(usedforsecurity=False), ""
                blob_start, blob_end, sha1 = self.current
                low, high = max(blob_start, start), min(blob_end, end)
                for failure in window.failures:
                    if failure.start + start < high and failure.end + start > low:
                        self.message = self.message or failure.message
                if not self.message:
                    self.hasher.update(view[low - start : high - start])
                if blob_end > end:
                    return
                self._end_blob(sha1, state)

    def _end_blob(self, sha1: bytes, state: VerifyState) -> None:
        got = self.hasher.digest()
        if self.message or got != sha1:
            state.add_damage(self.part, sha1, self.message or say_mismatch(got))
        self.pending.popleft()
        state.blob_count += 1


@dataclass(slots=True)
class IntegrityJob:
    """A chunk of the bytes that the integrity table covers."""

    part: WimPartFile
    start: int
    end: int
    sha1: bytes
    size: int = 0

    @property
    def weight(self) -> int:
        return self.end - self.start

    def run(self) -> bool:
        hasher = hashlib.sha1(usedforsecurity=False)
        for start in range(self.start, self.end, MIB):
            hasher.update(self.part.blobs.read_stored(start, min(MIB, self.end - start)))
        return hasher.digest() == self.sha1

    def finish(self, result: object, state: VerifyState) -> None:
        if result is False:
            state.table_damage.append(
                f"{self.part.path}: {format_range(self.start, self.end)} is not what the "
                "integrity table says"
            )
