# SPDX-License-Identifier: GPL-3.0-or-later
"""Which blobs lie in which solid resources of a WIM, and where in what they decompress to.

Learned from observing what wimlib 1.13.6 writes and reads; ``wim_blobs`` says how rows tell it.
Blobs count from the start of their *run*: its resources, decompressed, one after the other.
"""

from __future__ import annotations

from array import array
from bisect import bisect_right
from collections.abc import Iterator
from dataclasses import dataclass, field

from mediamaker.formats.wim import SIZE_IN_WIM_MAX, ResourceFlag
from mediamaker.formats.wim_blobs import SOLID_RESOURCE_MARK, ZERO_SHA1, BlobEntry
from mediamaker.formats.wim_file import WimFile

_SOLID = ResourceFlag.SOLID << 56
_FREE = ResourceFlag.FREE << 56


@dataclass(slots=True)
class SolidRun:
    """Resources by their index in ``WimFile.solid_resources``, and where each begins in the run.

    ``rows`` are the blobs' rows in table order, without those that count for nothing.
    """

    resource_indexes: list[int] = field(default_factory=list)
    starts: list[int] = field(default_factory=list)
    size: int = 0
    rows: array[int] = field(default_factory=lambda: array("I"))

    def segments(self, offset: int, size: int) -> Iterator[tuple[int, int, int]]:
        """``[offset, offset + size)`` of the run as (resource index, offset in it, size)."""
        end = offset + size
        index = bisect_right(self.starts, offset) - 1
        while offset < end:
            stop = self.starts[index + 1] if index + 1 < len(self.starts) else self.size
            taken = min(end, stop) - offset
            if taken > 0:
                yield self.resource_indexes[index], offset - self.starts[index], taken
                offset += taken
            index += 1


def blob_size(blob: BlobEntry) -> int:
    """Bytes that the blob has once decompressed; a solid one's row says it where others differ."""
    return blob.size_in_wim if blob.flags & ResourceFlag.SOLID else blob.uncompressed_size


def find_solid_runs(wim: WimFile) -> tuple[SolidRun, ...]:
    """The runs of this part, in table order."""
    runs: list[SolidRun] = []
    run: SolidRun | None = None
    resource_index = 0
    for index, row in enumerate(wim.blobs.rows()):
        size_and_flags, _, uncompressed_size, part, _, sha1 = row
        if part != wim.part_number or size_and_flags & _FREE:
            continue
        if not size_and_flags & _SOLID:
            run = None
            continue
        if run is None:
            runs.append(run := SolidRun())
        size = size_and_flags & SIZE_IN_WIM_MAX
        if uncompressed_size != SOLID_RESOURCE_MARK:
            if size and sha1 != ZERO_SHA1:
                run.rows.append(index)
        elif size:
            run.resource_indexes.append(resource_index)
            run.starts.append(run.size)
            run.size += wim.solid_resources[resource_index].header.uncompressed_size
            resource_index += 1
    return tuple(run for run in runs if run.rows or run.resource_indexes)
