# SPDX-License-Identifier: GPL-3.0-or-later
"""Cuts the work of ``verify`` into jobs: trees, batches, windows, chunks of the integrity table."""

from __future__ import annotations

from collections import deque
from collections.abc import Iterator

from mediamaker.errors import FormatError
from mediamaker.formats.wim import (
    HEADER_SIZE,
    SIZE_IN_WIM_MAX,
    ResourceFlag,
    ResourceHeader,
    parse_integrity_table,
)
from mediamaker.formats.wim_file import live_rows, sorted_by_offset
from mediamaker.formats.wim_solid import SolidRun
from mediamaker.units import MIB
from mediamaker.wim.parts import WimPartFile
from mediamaker.wim.verify_jobs import (
    LARGE_BLOB_SIZE_MAX,
    SMALL_BLOB_SIZE_MAX,
    BatchJob,
    HugeBlob,
    ImageJob,
    IntegrityJob,
    Job,
    LargeBlobJob,
    SolidBlobs,
    VerifyState,
    WindowJob,
)

_METADATA = ResourceFlag.METADATA << 56


def list_jobs(state: VerifyState) -> Iterator[Job]:
    """All jobs, in the order of the file; what needs no decoding to be damage is told at once."""
    for part in state.parts:
        for number, blob in enumerate(part.wim.metadata, 1):
            yield ImageJob(part, number, blob.uncompressed_size)
    for part in state.parts:
        yield from _plain_jobs(part, state)
        for run in part.blobs.solid_runs:
            yield from _solid_jobs(part, run, state)
        yield from _integrity_jobs(part, state)


def _plain_jobs(part: WimPartFile, state: VerifyState) -> Iterator[Job]:
    table = part.wim.blobs
    rows = (i for i, row in live_rows(table, part.wim.part_number) if not row[0] & _METADATA)
    batch = BatchJob(part, state)
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
        if size > SMALL_BLOB_SIZE_MAX:
            if batch.sha1s:
                yield batch
                batch = BatchJob(part, state)
            if size <= LARGE_BLOB_SIZE_MAX:
                yield LargeBlobJob(part, state, resource, sha1)
            else:
                yield from _huge_blob_jobs(part, resource, sha1, state)
            continue
        if not batch.has_room(resource):
            yield batch
            batch = BatchJob(part, state)
        batch.add(resource, sha1)
    if batch.sha1s:
        yield batch


def _huge_blob_jobs(
    part: WimPartFile, resource: ResourceHeader, sha1: bytes, state: VerifyState
) -> Iterator[Job]:
    try:
        opened = part.blobs.open_resource(resource, f"blob {sha1.hex()}")
    except FormatError as error:
        state.add_damage(part, sha1, error.message)
        state.blob_count += 1
        return
    sink = HugeBlob(part, sha1, resource.uncompressed_size)
    for index in range(opened.window_count):
        if sink.is_done:  # damaged: what follows can't change that
            return
        yield WindowJob(part, opened, index, index * opened.window_size, sink)


def _solid_jobs(part: WimPartFile, run: SolidRun, state: VerifyState) -> Iterator[Job]:
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
    sink = SolidBlobs(part, blobs)
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
            yield WindowJob(part, opened, window, start + window * opened.window_size, sink)


def _integrity_jobs(part: WimPartFile, state: VerifyState) -> Iterator[Job]:
    header = part.wim.header
    resource = header.integrity
    if not (resource.size_in_wim or resource.offset or resource.uncompressed_size):
        return
    end = header.blob_table.end
    try:
        # It is never compressed; wimlib refuses what is not so.
        if not 0 < resource.size_in_wim == resource.uncompressed_size:
            raise FormatError(
                f"{part.path}: WIM integrity table: the header says {resource.size_in_wim} bytes "
                f"at {resource.offset:#x}, of an original size of {resource.uncompressed_size}"
            )
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
        yield IntegrityJob(part, start, min(start + table.chunk_size, end), sha1)
