# SPDX-License-Identifier: GPL-3.0-or-later
"""How much room and time preparing a WIM takes, said before it is done."""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from mediamaker.errors import TargetTooSmallError
from mediamaker.extents import FileRange, Piece, coalesce_pieces
from mediamaker.formats.wim_blobs import SOLID_RESOURCE_MARK
from mediamaker.sources.wim import WimFile
from mediamaker.units import KIB, MIB, format_size

DECODE_BYTES_PER_SECOND: Final = 80 * MIB
COMPRESS_BYTES_PER_SECOND: Final = 40 * MIB
"""Of one core, raw bytes: LZMS decoding (which libwim does in one thread) and LZX:20, as measured
on a 2.x GHz virtual core. Good for saying "about 2 minutes" before the real speed is known."""

COPY_BYTES_PER_SECOND: Final = 200 * MIB
"""Stored bytes, from and to one disk: what is not compressed again is copied."""

_RATIO: Final = 0.5
"""What of the raw size LZX takes at most, for Windows images: 0.36 is usual."""

_LZMS_TO_LZX: Final = 1.5
"""How much larger LZX is than solid LZMS: 1.48 was measured with a boot.wim."""


@dataclass(frozen=True, slots=True, kw_only=True)
class PrepareEstimate:
    """What preparing would take: nothing if ``is_cached``."""

    is_cached: bool
    raw_size: int
    output_size: int
    copy_size: int
    available_size: int
    seconds: float

    @property
    def needed_size(self) -> int:
        """Bytes of the cache's file system."""
        return self.output_size + self.copy_size


def make_estimate(
    wim: WimFile,
    images: tuple[int, ...],
    pieces: Sequence[Piece],
    cache_dir: Path,
    *,
    is_cached: bool,
) -> PrepareEstimate:
    """What preparing ``images`` of ``wim`` would take."""
    raw_size = _raw_size(wim, images)
    copy_size = 0 if is_cached or is_whole_file(pieces) else wim.size
    output_size = 0 if is_cached else _guess_output_size(wim, raw_size)
    if is_stored_right(wim):
        output_size = min(output_size, wim.size + MIB)
        seconds = output_size / COPY_BYTES_PER_SECOND
    else:
        decode = raw_size / DECODE_BYTES_PER_SECOND
        compress = raw_size / COMPRESS_BYTES_PER_SECOND
        seconds = max(decode, (decode + compress) / (os.cpu_count() or 1))
    return PrepareEstimate(
        is_cached=is_cached,
        raw_size=raw_size,
        output_size=output_size,
        copy_size=copy_size,
        available_size=available_size_of(cache_dir),
        seconds=0.0 if is_cached else seconds + copy_size / COPY_BYTES_PER_SECOND,
    )


def is_stored_right(wim: WimFile) -> bool:
    """Whether resources are copied as they are: chosen editions of what can be split already."""
    return not wim.is_solid and (wim.compression, wim.chunk_size) == ("LZX", 32 * KIB)


def _guess_output_size(wim: WimFile, raw_size: int) -> int:
    """Half of the raw size, or more where the source itself could not be made that small."""
    every_image = tuple(range(1, len(wim.images) + 1))
    stored_size = wim.size * raw_size // max(1, _raw_size(wim, every_image))
    from_stored = min(raw_size, int(stored_size * _LZMS_TO_LZX))
    return max(int(raw_size * _RATIO), from_stored) + MIB


def _raw_size(wim: WimFile, images: tuple[int, ...]) -> int:
    """Raw bytes of all blobs, or what the XML says of the images if that is less."""
    solid_bit = 1 << 60
    blobs = sum(
        (row[0] & ((1 << 56) - 1)) if row[0] & solid_bit else row[2]
        for row in wim.blobs.rows()
        if not (row[0] & solid_bit and row[2] == SOLID_RESOURCE_MARK)
    )
    sizes = [wim.images[number - 1].total_bytes for number in images]
    if any(size is None for size in sizes):
        return blobs
    return min(blobs, sum(size for size in sizes if size is not None))


def check_room(estimate: PrepareEstimate, cache_dir: Path, what: str) -> None:
    """Raise TargetTooSmallError where the cache's file system has too little room."""
    if estimate.needed_size <= estimate.available_size:
        return
    copy = (
        f" ({format_size(estimate.copy_size)} of it for a copy while it works)"
        if estimate.copy_size
        else ""
    )
    raise TargetTooSmallError(
        f"{cache_dir}: preparing {what} needs about {format_size(estimate.needed_size)}{copy}, "
        f"{format_size(estimate.available_size)} are free",
        needed_size=estimate.needed_size,
        available_size=estimate.available_size,
        hint="choose fewer images with --images, or set XDG_CACHE_HOME to a roomier place",
    )


def announce(estimate: PrepareEstimate, images: tuple[int, ...], wim: WimFile, what: str) -> str:
    """What is going to happen, for the person who waits."""
    minutes = max(1, round(estimate.seconds / 60))
    which = (
        "all images" if len(images) == len(wim.images) else f"images {images}".replace(",)", ")")
    )
    if is_stored_right(wim):
        why = f"{which} of {what} are copied into a WIM of their own: "
    elif wim.is_solid:
        why = f"{what} can't be split as it is, so {which} are compressed again: "
    else:
        why = f"{which} of {what} are compressed again as LZX: "
    return (
        f"{why}{format_size(estimate.raw_size)} of contents, about {minutes} min, up to "
        f"{format_size(estimate.needed_size)} of {format_size(estimate.available_size)} free; "
        "kept for the next stick"
    )


def available_size_of(cache_dir: Path) -> int:
    """Bytes free where ``cache_dir`` is, or will be."""
    place = cache_dir
    while not place.exists() and place != place.parent:
        place = place.parent
    status = os.statvfs(place)
    return status.f_bavail * status.f_frsize


def is_whole_file(pieces: Sequence[Piece]) -> bool:
    """Whether the WIM may be a file of its own: one range from its first byte on."""
    match coalesce_pieces(pieces):
        case (Piece(source=FileRange(offset=0)),):
            return True
        case _:
            return False
