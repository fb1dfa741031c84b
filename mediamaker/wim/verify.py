# SPDX-License-Identifier: GPL-3.0-or-later
"""Compares every blob of a WIM with its SHA-1, on all cores, and names the files that are damaged.

Work is cut into jobs in the order of the file: many small blobs, a large one, a window of a huge
one or of a solid resource, an image's tree, a chunk of the integrity table. Threads see to them;
blobs that need nothing but themselves go on to worker processes, one for each core. Results are
taken in order by the calling thread, which continues the hashes of what spans windows. What is in
flight has a limit in bytes, so memory does not grow with the WIM.
"""

from __future__ import annotations

import os
import threading
import time
from collections import deque
from collections.abc import Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from mediamaker.execute.interrupts import check_cancelled
from mediamaker.execute.progress import OnEvent, Phase, ProgressMeter, ignore_event
from mediamaker.formats.wim_file import live_rows
from mediamaker.units import MIB
from mediamaker.wim.parts import WimPartFile, open_parts
from mediamaker.wim.verify_jobs import DamagedBlob, Job, VerifyState
from mediamaker.wim.verify_listing import list_jobs
from mediamaker.wim.verify_worker import WorkerPool

IN_FLIGHT_SIZE_MAX = 64 * MIB
IN_FLIGHT_SIZE_MAX_LARGE_CHUNKS = 512 * MIB
"""With chunks so large (solid ones have 64 MiB) that the smaller limit would idle cores."""

WORKERS_SIZE_MIN = 256 * MIB
"""Decompressed bytes from which on processes are worth their start."""

_WAIT_SECONDS = 0.2
_MISSING = "its content is in none of the files"

Reason = Literal["damaged", "missing"]


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
        size = sum(_content_size(part) for part in opened.files)
        thread_count = threads or len(os.sched_getaffinity(0))
        has_workers = thread_count > 1 and size >= WORKERS_SIZE_MIN
        meter = ProgressMeter(on_event, time.monotonic)
        meter.start(Phase.VERIFY, size)
        with WorkerPool(opened.files, thread_count if has_workers else 0) as workers:
            state = VerifyState(opened.files, list(opened.damage), workers)
            _run_jobs(list_jobs(state), state, meter, thread_count, cancel)
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


def _run_jobs(
    jobs: Iterator[Job],
    state: VerifyState,
    meter: ProgressMeter,
    thread_count: int,
    cancel: threading.Event | None,
) -> None:
    limit = _in_flight_limit(state.parts, thread_count)
    pending: deque[tuple[Job, int, Future[object]]] = deque()
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
    pending: deque[tuple[Job, int, Future[object]]],
    state: VerifyState,
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


def _known_sha1s(state: VerifyState) -> set[bytes]:
    known: set[bytes] = set()
    for part in state.parts:
        known.update(row[5] for _, row in live_rows(part.wim.blobs, part.wim.part_number))
        for run in part.blobs.solid_runs:
            known.update(part.wim.blobs.row(index)[5] for index in run.rows)
    return known


def _name_files(state: VerifyState, lost: set[bytes]) -> tuple[DamagedFile, ...]:
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
