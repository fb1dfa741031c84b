# SPDX-License-Identifier: GPL-3.0-or-later
"""Makes a WIM fit: compresses no more of it again than that needs.

The resources that promise most come first: those that are not compressed, large before small;
then, at the thorough level, those that are, by what is compressible in them. As soon as the file
would fit, the rest is copied as it is.
"""

from __future__ import annotations

import contextlib
import hashlib
import os
import tempfile
import threading
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Final

from mediamaker.errors import TargetIOError
from mediamaker.execute.interrupts import check_cancelled
from mediamaker.execute.progress import OnEvent, Phase, ProgressMeter
from mediamaker.extents import FileRange, Piece
from mediamaker.formats.wim import (
    HEADER_SIZE,
    SHA1_SIZE,
    IntegrityTable,
    ResourceFlag,
    ResourceHeader,
    pack_integrity_table,
    pack_wim_header,
    parse_wim_header,
)
from mediamaker.plan.repack import PackedResource, find_resources, repack_wim, repacked_size
from mediamaker.sources.identity import identify
from mediamaker.sources.reader import SourceReader
from mediamaker.sources.wim import read_wim
from mediamaker.sources.wim_blobs import BlobReader
from mediamaker.units import MIB
from mediamaker.wim.output import open_output
from mediamaker.wim.recompress import Recompressor
from mediamaker.wim.write_pieces import Content, check_room, write_contents

LEVEL_USUAL: Final = 50
LEVEL_THOROUGH: Final = 100
INTEGRITY_CHUNK_SIZE: Final = 10 * MIB
"""What wimlib and DISM use; any would do."""

_INTEGRITY_HEAD_SIZE: Final = 12


@dataclass(frozen=True, slots=True, kw_only=True)
class FitResult:
    """``size`` of the file, or what it would have at the least if it does not fit."""

    fits: bool
    size: int
    recompressed_count: int
    resource_count: int


def make_fit(
    path: Path,
    fit_size: int,
    *,
    name: str,
    integrity: bool = False,
    threads: int = 0,
    on_event: OnEvent,
    cancel: threading.Event | None = None,
) -> FitResult:
    """Replace the WIM at ``path`` (LZX of 32 KiB, or not compressed) by one that fits.

    If it can't be made to fit, the file is left as it was. ``name`` is for messages; with
    ``integrity`` there is an integrity table, which counts.

    Raises:
        FormatError: it is damaged; TargetTooSmallError, TargetIOError: no room to work.
    """
    source = identify("wim", path)
    pieces = [Piece(source.size, FileRange("wim", 0))]
    with SourceReader([source]) as reader, _scratch_file(path.parent) as scratch:
        wim = read_wim(pieces, source.size, reader, name)
        resources = find_resources(wim)
        tail_size = len(wim.xml)
        size = repacked_size(wim, resources)
        extra_size = _integrity_size(size - tail_size) if integrity else 0
        with BlobReader(wim, pieces, reader, what=name) as blobs:
            kept: dict[int, Piece] = {}
            shed = _ShedMeter(kept, size - (fit_size - extra_size), on_event)
            packer = Recompressor(
                blobs, scratch, "scratch", threads=threads, on_gain=shed.show, cancel=cancel
            )
            size = _shed(packer, resources, kept, shed, size, is_plain=wim.compression == "none")
        result = FitResult(
            fits=size + extra_size <= fit_size,
            size=size + extra_size,
            recompressed_count=len(kept),
            resource_count=len(resources),
        )
        if not result.fits:
            return result
        part = repack_wim(wim, pieces, resources, kept, name=name)
        files = [source, identify("scratch", Path(f"/proc/self/fd/{scratch}"))]
        check_room(part.size, path.parent)
        with SourceReader(files) as both, open_output(path, replace=True) as partial:
            write_contents(
                [Content(partial, name, part.size, part.pieces)],
                both,
                share_alignment=None,
                on_event=on_event,
                cancel=cancel,
            )
            if integrity:
                _append_integrity_table(partial, name, cancel)
    return replace(result, size=path.stat().st_size)


class _ShedMeter:
    """Shows how much of what is too much is gone, also while a large resource is packed."""

    def __init__(self, kept: Mapping[int, Piece], excess: int, on_event: OnEvent) -> None:
        self._kept = kept
        self._excess = max(0, excess)
        self._gone = self._shown = 0
        self._meter = ProgressMeter(on_event, time.monotonic)
        self._meter.start(Phase.PREPARE, self._excess)

    @property
    def is_done(self) -> bool:
        """Whether it fits."""
        return self._gone >= self._excess

    def add(self, gain: int) -> None:
        """A resource is kept as it is packed."""
        self._gone += gain
        self._update(self._gone)

    def show(self, item: PackedResource, gain: int) -> None:
        """A resource is being packed; not for the second time, when the gain is of the first."""
        if item.resource.offset not in self._kept:
            self._update(self._gone + gain)

    def finish(self) -> None:
        """It fits."""
        self._meter.finish()

    def _update(self, size: int) -> None:
        # What looked like a gain may not be one in the end; a bar that goes back helps nobody.
        self._shown = max(self._shown, min(size, self._excess))
        self._meter.update(self._shown)


def _shed(
    packer: Recompressor,
    resources: Sequence[PackedResource],
    kept: dict[int, Piece],
    shed: _ShedMeter,
    size: int,
    *,
    is_plain: bool,
) -> int:
    """Pack resources into ``kept`` until it fits or nothing is left; what the size is then."""
    with packer:
        for level in (LEVEL_USUAL, LEVEL_THOROUGH) if is_plain else (LEVEL_THOROUGH,):
            if shed.is_done:
                break
            ordered = sorted(resources, key=lambda item: -expected_gain(item, is_plain=is_plain))
            with contextlib.closing(packer.pack(ordered, level)) as packed:
                for item, piece in packed:
                    before = kept.get(item.resource.offset)
                    size_before = item.resource.size_in_wim if before is None else before.size
                    if piece.size >= size_before:
                        packer.forget(piece)
                        continue
                    kept[item.resource.offset] = piece
                    size -= size_before - piece.size
                    shed.add(size_before - piece.size)
                    if shed.is_done:
                        break
    if shed.is_done:
        shed.finish()
    return size


def expected_gain(item: PackedResource, *, is_plain: bool) -> float:
    """A guess at the bytes that compressing ``item`` saves, good enough for an order.

    Text packed to a third has most of what a better level finds; a film packed to 99 % has
    nothing. What is not compressed among others that are was tried before, and did not shrink.
    """
    size, raw_size = item.resource.size_in_wim, item.resource.uncompressed_size
    if not item.resource.flags & ResourceFlag.COMPRESSED:
        return raw_size if is_plain else raw_size / (1 << 40)
    return size * (raw_size - size) / max(1, raw_size)


def _integrity_size(covered_end: int) -> int:
    """Bytes of the table for the file from the end of its header to ``covered_end``."""
    chunk_count = -(-(covered_end - HEADER_SIZE) // INTEGRITY_CHUNK_SIZE)
    return _INTEGRITY_HEAD_SIZE + SHA1_SIZE * chunk_count


def _append_integrity_table(path: Path, name: str, cancel: threading.Event | None) -> None:
    try:
        with path.open("r+b") as file:
            header = parse_wim_header(file.read(HEADER_SIZE), what=name)
            sha1s = []
            for start in range(HEADER_SIZE, header.blob_table.end, INTEGRITY_CHUNK_SIZE):
                check_cancelled(cancel)
                end = min(start + INTEGRITY_CHUNK_SIZE, header.blob_table.end)
                file.seek(start)
                sha1s.append(hashlib.sha1(file.read(end - start), usedforsecurity=False).digest())
            table = pack_integrity_table(
                IntegrityTable(chunk_size=INTEGRITY_CHUNK_SIZE, sha1s=tuple(sha1s))
            )
            offset = file.seek(0, os.SEEK_END)
            file.write(table)
            place = ResourceHeader(len(table), 0, offset, len(table))
            file.seek(0)
            file.write(pack_wim_header(replace(header, integrity=place)))
            file.flush()
            os.fsync(file.fileno())
    except OSError as error:
        raise TargetIOError(f"{name}: writing failed: {error.strerror}") from error


@contextlib.contextmanager
def _scratch_file(directory: Path) -> Iterator[int]:
    """A file without a name for what is packed: even SIGKILL leaves nothing of it."""
    try:
        with tempfile.TemporaryFile(dir=directory) as file:
            yield file.fileno()
    except OSError as error:
        raise TargetIOError(f"{directory}: a scratch file: {error.strerror}") from error
