# SPDX-License-Identifier: GPL-3.0-or-later
"""Compares every blob of a WIM with its SHA-1, on all cores, and names the files that are damaged.

Work is cut into jobs in the order of the file: many small blobs, a window of a large blob or of a
solid resource, an image's tree, a chunk of the integrity table. Threads decode (libwim's codecs
and hashlib let go of the GIL); results are taken in order by the calling thread, which continues
the hashes of what spans windows. What is in flight has a limit in bytes, so memory does not grow
with the WIM or with the number of cores.
"""

from __future__ import annotations

import hashlib
import os
import threading
import time
from collections import deque
from collections.abc import Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal, Protocol

from mediamaker.errors import FormatError
from mediamaker.execute.interrupts import check_cancelled
from mediamaker.execute.progress import OnEvent, Phase, ProgressMeter, ignore_event
from mediamaker.formats.wim import (
    HEADER_SIZE,
    SIZE_IN_WIM_MAX,
    ResourceFlag,
    ResourceHeader,
    parse_integrity_table,
)
from mediamaker.formats.wim_file import live_rows, sorted_by_offset
from mediamaker.formats.wim_solid import SolidRun
from mediamaker.sources.wim_blobs import BlobReader, ChunkedResource, Window
from mediamaker.units import MIB, format_range
from mediamaker.wim.parts import WimPartFile, open_parts

IN_FLIGHT_SIZE_MAX = 64 * MIB
IN_FLIGHT_SIZE_MAX_LARGE_CHUNKS = 512 * MIB
"""With chunks so large (solid ones have 64 MiB) that the smaller limit would idle cores."""

_SMALL_BLOB_SIZE_MAX = 4 * MIB
_BATCH_STORED_SIZE_MAX = 2 * MIB
_BATCH_SIZE_MAX = 8 * MIB
_BATCH_GAP_MAX = 64 * 1024
_METADATA = ResourceFlag.METADATA << 56
_WAIT_SECONDS = 0.2
_MISSING = "its content is in none of the files"

Reason = Literal["damaged", "missing"]


@dataclass(frozen=True, slots=True, kw_only=True)
class DamagedBlob:
    """Stored content that is not what its SHA-1 says."""

    sha1: bytes
    part_path: Path
    message: str


@dataclass(frozen=True, slots=True, kw_only=True)
class DamagedFile:
    """A file of an image whose content is damaged or missing.

    ``stream`` is empty for the file's own content; ``path`` is empty when it is the image's
    tree itself that is damaged.
    """

    image_number: int
    path: str
    stream: str
    sha1: bytes
    reason: Reason
    message: str


@dataclass(frozen=True, slots=True, kw_only=True)
class VerifyReport:
    """What was compared, and what was not as it should be.

    ``blob_count`` and ``size`` (decompressed bytes) are what was compared. ``table_damage`` is
    about what is no blob: tables and what contradicts them. ``missing_parts`` are the numbers of
    parts of a split WIM that were not given; files whose content lies there are not judged.
    """

    blob_count: int
    size: int
    damaged: tuple[DamagedFile, ...]
    damaged_blobs: tuple[DamagedBlob, ...]
    table_damage: tuple[str, ...]
    missing_parts: tuple[int, ...]
    unjudged_blob_count: int

    @property
    def is_good(self) -> bool:
        """Whether nothing that was given is damaged."""
        return not (self.damaged or self.damaged_blobs or self.table_damage)


def verify_wim(
    path: Path,
    part_paths: Sequence[Path] = (),
    *,
    threads: int | None = None,
    on_event: OnEvent = ignore_event,
    cancel: threading.Event | None = None,
) -> VerifyReport:
    """Compare every blob of the WIM at ``path`` (and of its other parts) with its SHA-1.

    Raises:
        FormatError: not a WIM at all; UsageError: the parts are not of one WIM; SourceError: a
            file can't be read, or changes meanwhile; KeyboardInterrupt: ``cancel`` was set.
    """
    with open_parts((path, *part_paths)) as opened:
        state = _State(opened.files, list(opened.damage))
        jobs = _list_jobs(state)
        meter = ProgressMeter(on_event, time.monotonic)
        meter.start(Phase.VERIFY, sum(_content_size(part) for part in opened.files))
        thread_count = threads or len(os.sched_getaffinity(0))
        _run_jobs(jobs, state, meter, thread_count, cancel)
        missing_parts = opened.missing_parts
        lost = state.referenced - _known_sha1s(state)
        unjudged_count = 0
        if missing_parts:
            unjudged_count, lost = len(lost), set()
        damaged = _name_files(state, lost)
        opened.reader.check_all()
        meter.finish()
    return VerifyReport(
        blob_count=state.blob_count,
        size=state.size,
        damaged=damaged,
        damaged_blobs=tuple(state.damaged.values()),
        table_damage=tuple(state.table_damage),
        missing_parts=missing_parts,
        unjudged_blob_count=unjudged_count,
    )


@dataclass(slots=True)
class _State:
    """What has been found; only the calling thread changes it."""

    parts: Sequence[WimPartFile]
    table_damage: list[str]
    damaged: dict[tuple[bytes, Path], DamagedBlob] = field(default_factory=dict)
    referenced: set[bytes] = field(default_factory=set)
    unreadable_images: dict[int, str] = field(default_factory=dict)
    blob_count: int = 0
    size: int = 0

    def add_damage(self, part: WimPartFile, sha1: bytes, message: str) -> None:
        blob = DamagedBlob(sha1=sha1, part_path=part.path, message=message)
        self.damaged.setdefault((sha1, part.path), blob)


class _Job(Protocol):
    """``run`` in any thread, then ``finish`` in the calling one, in the order of the jobs."""

    @property
    def weight(self) -> int: ...
    @property
    def size(self) -> int: ...
    def run(self) -> object: ...
    def finish(self, result: object, state: _State) -> None: ...


@dataclass(slots=True)
class _ImageJob:
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

    def finish(self, result: object, state: _State) -> None:
        state.blob_count += 1
        if isinstance(result, FormatError):
            blob = self.part.wim.metadata[self.number - 1]
            state.add_damage(self.part, blob.sha1, result.message)
            state.unreadable_images[self.number] = result.message
        elif isinstance(result, set):
            state.referenced |= result


@dataclass(slots=True)
class _BatchJob:
    """Small blobs that lie close together: one read, no state between them."""

    part: WimPartFile
    resources: list[ResourceHeader] = field(default_factory=list)
    sha1s: list[bytes] = field(default_factory=list)
    start: int = 0
    end: int = 0
    size: int = 0

    @property
    def weight(self) -> int:
        return self.end - self.start + _SMALL_BLOB_SIZE_MAX

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

    def run(self) -> list[tuple[bytes, str]]:
        blobs = self.part.blobs
        stored = memoryview(blobs.read_stored(self.start, self.end - self.start))
        bad: list[tuple[bytes, str]] = []
        results = blobs.decode_small(self.resources, stored, self.start)
        for sha1, result in zip(self.sha1s, results, strict=True):
            if isinstance(result, FormatError):
                bad.append((sha1, result.message))
            else:
                got = hashlib.sha1(result, usedforsecurity=False).digest()
                if got != sha1:
                    bad.append((sha1, _say_mismatch(got)))
        return bad

    def finish(self, result: object, state: _State) -> None:
        state.blob_count += len(self.sha1s)
        if isinstance(result, list):
            for sha1, message in result:
                state.add_damage(self.part, sha1, message)


class _Sink(Protocol):
    """Takes the windows of something large in their order."""

    def take(self, window: Window, start: int, state: _State) -> None: ...


@dataclass(slots=True)
class _WindowJob:
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

    def finish(self, result: object, state: _State) -> None:
        if isinstance(result, Window):
            self.sink.take(result, self.start, state)


@dataclass(slots=True)
class _LargeBlob:
    """The sink of one blob that is not solid."""

    part: WimPartFile
    sha1: bytes
    size: int
    is_done: bool = False
    hasher: hashlib._Hash = field(default_factory=lambda: hashlib.sha1(usedforsecurity=False))

    def take(self, window: Window, start: int, state: _State) -> None:
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
                state.add_damage(self.part, self.sha1, _say_mismatch(got))
        self.is_done = True
        state.blob_count += 1


@dataclass(slots=True)
class _SolidBlobs:
    """The sink of a run: ``pending`` are (start, end, SHA-1) in the order of their places."""

    part: WimPartFile
    pending: deque[tuple[int, int, bytes]]
    hasher: hashlib._Hash = field(default_factory=lambda: hashlib.sha1(usedforsecurity=False))
    message: str = ""
    current: tuple[int, int, bytes] | None = None

    def take(self, window: Window, start: int, state: _State) -> None:
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

    def _end_blob(self, sha1: bytes, state: _State) -> None:
        got = self.hasher.digest()
        if self.message or got != sha1:
            state.add_damage(self.part, sha1, self.message or _say_mismatch(got))
        self.pending.popleft()
        state.blob_count += 1


@dataclass(slots=True)
class _IntegrityJob:
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

    def finish(self, result: object, state: _State) -> None:
        if result is False:
            state.table_damage.append(
                f"{self.part.path}: {format_range(self.start, self.end)} is not what the "
                "integrity table says"
            )


def _list_jobs(state: _State) -> Iterator[_Job]:
    for part in state.parts:
        for number, blob in enumerate(part.wim.metadata, 1):
            yield _ImageJob(part, number, blob.uncompressed_size)
    for part in state.parts:
        yield from _plain_jobs(part, state)
        for run in part.blobs.solid_runs:
            yield from _solid_jobs(part, run, state)
        yield from _integrity_jobs(part, state)


def _plain_jobs(part: WimPartFile, state: _State) -> Iterator[_Job]:
    table = part.wim.blobs
    rows = (i for i, row in live_rows(table, part.wim.part_number) if not row[0] & _METADATA)
    batch = _BatchJob(part)
    last: tuple[int, ...] = ()
    for index in sorted_by_offset(table, rows):
        size_and_flags, offset, size, _, _, sha1 = table.row(index)
        stored_size = size_and_flags & SIZE_IN_WIM_MAX
        if (offset, stored_size) == last:
            # One of the two can be right at most, and its bytes are compared already.
            state.table_damage.append(
                f"{part.path}: the blob table has another row for the bytes of {sha1.hex()}"
            )
            continue
        last = offset, stored_size
        resource = ResourceHeader(stored_size, size_and_flags >> 56, offset, size)
        if size > _SMALL_BLOB_SIZE_MAX:
            if batch.sha1s:
                yield batch
                batch = _BatchJob(part)
            yield from _large_blob_jobs(part, resource, sha1, state)
            continue
        if not batch.has_room(resource):
            yield batch
            batch = _BatchJob(part)
        batch.add(resource, sha1)
    if batch.sha1s:
        yield batch


def _large_blob_jobs(
    part: WimPartFile, resource: ResourceHeader, sha1: bytes, state: _State
) -> Iterator[_Job]:
    try:
        opened = part.blobs.open_resource(resource, f"blob {sha1.hex()}")
    except FormatError as error:
        state.add_damage(part, sha1, error.message)
        state.blob_count += 1
        return
    sink = _LargeBlob(part, sha1, resource.uncompressed_size)
    for index in range(opened.window_count):
        if sink.is_done:  # damaged: what follows can't change that
            return
        yield _WindowJob(part, opened, index, index * opened.window_size, sink)


def _solid_jobs(part: WimPartFile, run: SolidRun, state: _State) -> Iterator[_Job]:
    table = part.wim.blobs
    blobs: deque[tuple[int, int, bytes]] = deque()
    rows = [table.row(index) for index in run.rows]
    state.table_damage.extend(
        f"{part.path}: the blob table says that {row[5].hex()} is an image's tree in a solid "
        "resource, which no reader takes"
        for row in rows
        if row[0] & _METADATA
    )
    for start, size, sha1 in sorted((row[1], row[0] & SIZE_IN_WIM_MAX, row[5]) for row in rows):
        if blobs and start < blobs[-1][1]:
            state.add_damage(part, sha1, f"it overlaps {blobs[-1][2].hex()} in its solid resource")
        else:
            blobs.append((start, start + size, sha1))
    sink = _SolidBlobs(part, blobs)
    for number, index in enumerate(run.resource_indexes):
        start = run.starts[number]
        try:
            opened = part.blobs.open_solid_resource(index)
        except FormatError as error:
            state.table_damage.append(error.message)
            end = start + part.wim.solid_resources[index].header.uncompressed_size
            hit = {blob for blob in blobs if blob[0] < end and blob[1] > start}
            for blob in hit:
                state.add_damage(part, blob[2], error.message)
            sink.pending = deque(blob for blob in sink.pending if blob not in hit)
            continue
        for window in range(opened.window_count):
            yield _WindowJob(part, opened, window, start + window * opened.window_size, sink)


def _integrity_jobs(part: WimPartFile, state: _State) -> Iterator[_Job]:
    header = part.wim.header
    resource = header.integrity
    if not resource.size_in_wim:
        return
    end = header.blob_table.end
    try:
        # A SHA-1 a MiB at the least: more would be a lie that costs memory.
        if resource.size_in_wim > 4096 + 20 * (end // MIB + 1):
            raise FormatError(
                f"{part.path}: WIM integrity table: {resource.size_in_wim} bytes are too many"
            )
        table = parse_integrity_table(
            part.blobs.read_stored(resource.offset, resource.size_in_wim), what=str(part.path)
        )
        count = -(-(end - HEADER_SIZE) // table.chunk_size)
        if count != len(table.sha1s):
            raise FormatError(
                f"{part.path}: WIM integrity table: expected {count} entries, "
                f"got {len(table.sha1s)}"
            )
    except FormatError as error:
        state.table_damage.append(error.message)
        return
    for index, sha1 in enumerate(table.sha1s):
        start = HEADER_SIZE + index * table.chunk_size
        yield _IntegrityJob(part, start, min(start + table.chunk_size, end), sha1)


def _run_jobs(
    jobs: Iterator[_Job],
    state: _State,
    meter: ProgressMeter,
    thread_count: int,
    cancel: threading.Event | None,
) -> None:
    limit = _in_flight_limit(state.parts, thread_count)
    pending: deque[tuple[_Job, int, Future[object]]] = deque()
    in_flight = 0
    with ThreadPoolExecutor(thread_count, thread_name_prefix="wim-verify") as pool:
        try:
            for job in jobs:
                weight = job.weight
                while pending and in_flight + weight > limit:
                    in_flight -= _finish_first(pending, state, meter, cancel)
                pending.append((job, weight, pool.submit(job.run)))
                in_flight += weight
            while pending:
                _finish_first(pending, state, meter, cancel)
        except BaseException:
            pool.shutdown(wait=False, cancel_futures=True)
            raise


def _finish_first(
    pending: deque[tuple[_Job, int, Future[object]]],
    state: _State,
    meter: ProgressMeter,
    cancel: threading.Event | None,
) -> int:
    job, weight, future = pending.popleft()
    while True:
        check_cancelled(cancel)
        try:
            result = future.result(_WAIT_SECONDS)
            break
        except TimeoutError:
            continue
    job.finish(result, state)
    state.size += job.size
    meter.update(state.size)
    return weight


def _in_flight_limit(parts: Sequence[WimPartFile], thread_count: int) -> int:
    chunk_sizes = [solid.header.chunk_size for part in parts for solid in part.wim.solid_resources]
    chunk_sizes += [part.wim.chunk_size for part in parts]
    # A window counts twice: stored and decoded.
    wanted = 2 * max(chunk_sizes, default=0) * (thread_count + 1)
    return max(IN_FLIGHT_SIZE_MAX, min(wanted, IN_FLIGHT_SIZE_MAX_LARGE_CHUNKS))


def _content_size(part: WimPartFile) -> int:
    plain = sum(row[2] for _, row in live_rows(part.wim.blobs, part.wim.part_number))
    return plain + sum(solid.header.uncompressed_size for solid in part.wim.solid_resources)


def _known_sha1s(state: _State) -> set[bytes]:
    known: set[bytes] = set()
    for part in state.parts:
        known.update(row[5] for _, row in live_rows(part.wim.blobs, part.wim.part_number))
        for run in part.blobs.solid_runs:
            known.update(part.wim.blobs.row(index)[5] for index in run.rows)
    return known


def _name_files(state: _State, lost: set[bytes]) -> tuple[DamagedFile, ...]:
    """The files whose content is among the damaged or the lost."""
    messages = dict.fromkeys(lost, _MISSING)
    messages |= {sha1: blob.message for (sha1, _), blob in state.damaged.items()}
    damaged: list[DamagedFile] = []
    for part in state.parts:
        for number, blob in enumerate(part.wim.metadata, 1):
            unreadable = state.unreadable_images.get(number)
            if unreadable is not None:
                damaged.append(
                    DamagedFile(
                        image_number=number,
                        path="",
                        stream="",
                        sha1=blob.sha1,
                        reason="damaged",
                        message=unreadable,
                    )
                )
            elif messages:
                damaged.extend(_name_files_of_image(part, number, messages, lost))
    return tuple(damaged)


def _name_files_of_image(
    part: WimPartFile, number: int, messages: dict[bytes, str], lost: set[bytes]
) -> Iterator[DamagedFile]:
    for entry in part.blobs.read_metadata(number).walk():
        for stream in entry.streams:
            message = messages.get(stream.sha1)
            if message is not None:
                yield DamagedFile(
                    image_number=number,
                    path=entry.path,
                    stream=stream.name,
                    sha1=stream.sha1,
                    reason="missing" if stream.sha1 in lost else "damaged",
                    message=message,
                )


def _say_mismatch(got: bytes) -> str:
    return f"its SHA-1 is {got.hex()}"
