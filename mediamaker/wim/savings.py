# SPDX-License-Identifier: GPL-3.0-or-later
"""Where the bytes went: what dropping, sharing and recompressing saved, from the blob tables.

Blobs are the same if their SHA-1s are. A blob in a solid resource is counted with its share of
what the resource takes. All figures are bytes in the file, and they add up::

    size_before = size_after + dropped + shared + recompressed + tables
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from mediamaker.extents import FileRange, Piece
from mediamaker.formats.wim import SIZE_IN_WIM_MAX, ResourceFlag
from mediamaker.formats.wim_blobs import SOLID_RESOURCE_MARK
from mediamaker.formats.wim_file import SolidResource, live_rows
from mediamaker.sources.identity import identify
from mediamaker.sources.reader import SourceReader
from mediamaker.sources.wim import WimFile, read_wim

_COMPRESSED = ResourceFlag.COMPRESSED << 56
_SOLID = ResourceFlag.SOLID << 56
_FREE = ResourceFlag.FREE << 56


@dataclass(frozen=True, slots=True, kw_only=True)
class Savings:
    """What became of the sources' bytes.

    ``dropped`` are blobs that no kept image refers to, ``shared`` is what several sources had
    each. ``recompressed``, and ``tables`` (with XML and unused room), may be below zero: then
    they take more than before.
    """

    size_before: int
    size_after: int
    dropped: int
    shared: int
    recompressed: int
    tables: int


def read_wim_file(path: Path) -> WimFile:
    """The tables of the WIM (or part) at ``path``.

    Raises:
        SourceError: it can't be read, or is no WIM.
    """
    file = identify("wim", path)
    with SourceReader([file]) as reader:
        return read_wim([Piece(file.size, FileRange("wim", 0))], file.size, reader, str(path))


def stored_sizes(wim: WimFile) -> dict[bytes, int]:
    """Bytes that each blob of this part takes in the file, by SHA-1."""
    sizes = {row[5]: row[0] & SIZE_IN_WIM_MAX for _, row in live_rows(wim.blobs, wim.part_number)}
    packed = {
        row[5]: row[0] & SIZE_IN_WIM_MAX
        for row in wim.blobs.rows()
        if row[0] & _SOLID
        and not row[0] & _FREE
        and row[2] != SOLID_RESOURCE_MARK
        and row[3] == wim.part_number
    }
    raw_size = sum(packed.values())
    taken = sum(solid.resource.size_in_wim for solid in wim.solid_resources)
    if raw_size:
        sizes.update((sha1, size * taken // raw_size) for sha1, size in packed.items())
    return sizes


def measure_savings(sources: Sequence[Sequence[WimFile]], result: WimFile) -> Savings:
    """Compare ``sources``, each one the parts of a WIM, with the ``result`` made from them."""
    after = stored_sizes(result)
    shared = dropped = 0
    first: dict[bytes, int] = {}
    for parts in sources:
        own: dict[bytes, int] = {}
        for part in parts:
            for sha1, size in stored_sizes(part).items():
                if sha1 in after:
                    own[sha1] = size
                else:
                    dropped += size
        shared += sum(size for sha1, size in own.items() if sha1 in first)
        first = own | first
    recompressed = sum(size - after[sha1] for sha1, size in first.items())
    size_before = sum(part.size for parts in sources for part in parts)
    return Savings(
        size_before=size_before,
        size_after=result.size,
        dropped=dropped,
        shared=shared,
        recompressed=recompressed,
        tables=size_before - result.size - dropped - shared - recompressed,
    )


def count_copied(sources: Sequence[Sequence[WimFile]], result: WimFile) -> int:
    """How many blobs of ``result`` are stored as they are in a source, by their sizes.

    Blobs in solid resources are if every solid resource of ``result`` is one of a source's.
    """
    known = {key for parts in sources for part in parts for key in _stored_as(part)}
    copied = sum(1 for key in _stored_as(result) if key in known)
    if result.is_solid:
        solids = {
            _solid_key(s) for parts in sources for part in parts for s in part.solid_resources
        }
        if all(_solid_key(solid) in solids for solid in result.solid_resources):
            copied += len(stored_sizes(result)) - sum(1 for _ in _stored_as(result))
    return copied


def _stored_as(wim: WimFile) -> Iterator[tuple[object, ...]]:
    """What tells a resource that is not solid from one with the same contents."""
    encoding = wim.compression, wim.chunk_size
    for _, row in live_rows(wim.blobs, wim.part_number):
        is_compressed = bool(row[0] & _COMPRESSED)
        yield row[5], row[0] & SIZE_IN_WIM_MAX, is_compressed, encoding if is_compressed else None


def _solid_key(solid: SolidResource) -> tuple[object, ...]:
    return solid.resource.size_in_wim, solid.header
