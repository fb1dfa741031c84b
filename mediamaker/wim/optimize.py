# SPDX-License-Identifier: GPL-3.0-or-later
"""Chosen images of one or several WIMs as one new file, as small as its purpose allows.

========  ==================  ==========================================================
purpose   compression         why
========  ==================  ==========================================================
fat32     LZX, 32 KiB         what every Windows Setup and DISM reads, and can be split;
                              resources are recompressed only as far as ``fit_size`` needs
network   LZX, 32 KiB         everything at the thorough level (100): the smallest that
                              Windows PE still reads and decodes as fast; larger chunks
                              are smaller still, but Microsoft's readers refuse them
archive   LZMS, solid         smallest of all, slow to read, and never to be split
========  ==================  ==========================================================

``solid`` overrides what the purpose says: network with it is LZMS in solid resources of 64 MiB
chunks, archive without it LZMS blob by blob. A file has one compression, so XPRESS, LZMS and
solid sources become LZX whole; only WIMs that are not compressed stay so as far as they fit.
"""

from __future__ import annotations

import threading
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Final, Literal, assert_never

from mediamaker.errors import NotRepresentableError, UsageError
from mediamaker.execute.progress import OnEvent
from mediamaker.sources.wim import WimFile
from mediamaker.units import KIB, MIB, format_size
from mediamaker.wim.fit import make_fit
from mediamaker.wim.meter import WimMeter
from mediamaker.wim.output import open_output
from mediamaker.wim.savings import (
    Savings,
    count_copied,
    measure_savings,
    read_wim_file,
    stored_sizes,
)
from mediamaker.wim.writing import (
    Encoding,
    ImageSource,
    WrittenImage,
    check_not_a_source,
    write_images,
)
from mediamaker.wimlib.flags import WriteFlags

Purpose = Literal["fat32", "network", "archive"]

SOLID_CHUNK_SIZE: Final = 64 * MIB
_LZX_USUAL: Final = Encoding(compression="LZX", chunk_size=32 * KIB, level=50)
_LZX_THOROUGH: Final = replace(_LZX_USUAL, level=100, recompress=True)
_PLAIN: Final = Encoding(compression="none", chunk_size=None)


@dataclass(frozen=True, slots=True, kw_only=True)
class OptimizeResult:
    """The new file; of its blobs ``copied_count`` are stored as they were in a source."""

    path: Path
    images: tuple[WrittenImage, ...]
    boot_index: int
    encoding: Encoding
    blob_count: int
    copied_count: int
    savings: Savings


def optimize_wim(
    sources: Sequence[ImageSource],
    path: Path,
    *,
    purpose: Purpose = "fat32",
    fit_size: int | None = None,
    solid: bool | None = None,
    replace_existing: bool = False,
    integrity: bool = False,
    threads: int = 0,
    on_event: OnEvent,
    cancel: threading.Event | None = None,
) -> OptimizeResult:
    """Write ``sources`` into the new file ``path``, of at most ``fit_size`` bytes if that is given.

    Raises:
        UsageError: purpose and options contradict each other, or no such image.
        NotRepresentableError: it does not fit, however it is compressed.
    """
    if not sources:
        raise UsageError("name at least one WIM to optimize")
    check_not_a_source(sources, path)
    meter = WimMeter(on_event, cancel=cancel)
    flags = WriteFlags.CHECK_INTEGRITY if integrity else WriteFlags.NO_CHECK_INTEGRITY
    encoding = _encoding(purpose, solid=solid)
    parts = [
        [read_wim_file(part) for part in (source.path, *source.part_paths)] for source in sources
    ]
    may_shed = purpose == "fat32" and fit_size is not None
    if may_shed and _are_plain(parts):
        encoding = _PLAIN
    with open_output(path, replace=replace_existing) as partial:
        images = write_images(
            sources, partial, encoding, threads=threads, meter=meter, extra_flags=flags
        )
        size = partial.stat().st_size
        if fit_size is not None and size > fit_size:
            fits = False
            if may_shed:
                meter.notify(
                    f"{path.name}: {format_size(size)} is {format_size(size - fit_size)} too much; "
                    "compressing again what promises most, until it fits"
                )
                fit = make_fit(
                    partial,
                    fit_size,
                    name=str(path),
                    integrity=integrity,
                    threads=threads,
                    on_event=on_event,
                    cancel=cancel,
                )
                fits, size = fit.fits, fit.size
            if not fits:
                raise _does_not_fit(path, size, fit_size, purpose)
        result = read_wim_file(partial)
    return OptimizeResult(
        path=path,
        images=images,
        boot_index=result.boot_index,
        encoding=encoding,
        blob_count=len(stored_sizes(result)),
        copied_count=0 if encoding.recompress else count_copied(parts, result),
        savings=measure_savings(parts, result),
    )


def _encoding(purpose: Purpose, *, solid: bool | None) -> Encoding:
    match purpose:
        case "fat32":
            if solid:
                raise UsageError(
                    "a solid WIM can't be split, so it is nothing for FAT32",
                    hint="leave out --solid, or use --for archive",
                )
            return _LZX_USUAL
        case "network":
            return _lzms(is_solid=True) if solid else _LZX_THOROUGH
        case "archive":
            return _lzms(is_solid=solid is not False)
        case _:
            assert_never(purpose)


def _are_plain(sources: Sequence[Sequence[WimFile]]) -> bool:
    """Whether nothing in the sources is compressed."""
    return all(wim.compression == "none" and not wim.is_solid for parts in sources for wim in parts)


def _lzms(*, is_solid: bool) -> Encoding:
    chunk_size = SOLID_CHUNK_SIZE if is_solid else 128 * KIB
    return Encoding(compression="LZMS", chunk_size=chunk_size, is_solid=is_solid)


def _does_not_fit(path: Path, size: int, fit_size: int, purpose: Purpose) -> NotRepresentableError:
    ways = "choose fewer images with --images"
    if purpose == "fat32":
        ways += ", or split it: mediamaker wim split"
    elif purpose == "network":
        ways += ", or compress it as --for archive"
    return NotRepresentableError(
        f"{path}: would have {size} bytes at the least, which is {size - fit_size} more than "
        f"the {fit_size} that it must fit",
        hint=ways,
    )
