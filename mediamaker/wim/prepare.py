# SPDX-License-Identifier: GPL-3.0-or-later
"""Makes a WIM that can't be split into one that can, once: a cache for ``create``.

A solid install.wim or install.esd is written again as LZX with chunks of 32 KiB, which every
Windows Setup reads and which can be split between any two blobs. The result lies in
``$XDG_CACHE_HOME/mediamaker/prepared`` under a name made from what the source's tables say (the
blob table has the SHA-1 of all its contents), the chosen images and how it is compressed; so the
second stick of the same ISO needs no preparing.

libwim reads files, not ranges of files. A WIM inside an ISO is first copied beside the result
(shared with the ISO where the file system can), which is in the space that is asked for, and is
removed afterwards. All is done under a lock, and nothing has its name before it is complete.
"""

from __future__ import annotations

import errno
import json
import os
import threading
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from mediamaker.errors import (
    NotRepresentableError,
    SourceError,
    TargetIOError,
    TargetRefusedError,
    UsageError,
)
from mediamaker.execute.interrupts import check_cancelled
from mediamaker.execute.progress import Notice, OnEvent, Phase, ProgressMeter
from mediamaker.extents import FileRange, Piece, coalesce_pieces
from mediamaker.sources.reader import SourceReader
from mediamaker.sources.wim import WimFile, read_wim
from mediamaker.units import MIB
from mediamaker.wim.meter import WimMeter
from mediamaker.wim.output import open_outputs
from mediamaker.wim.prepare_cache import (
    PREPARED_ENCODING,
    find_finished,
    locked,
    make_key,
    make_record,
    measure_cache,
    remove_leftovers,
)
from mediamaker.wim.prepare_estimate import (
    PrepareEstimate,
    announce,
    check_room,
    is_whole_file,
    make_estimate,
)
from mediamaker.wim.savings import read_wim_file
from mediamaker.wim.writing import ImageSource, write_images

_COPY_SIZE: Final = 64 * MIB


@dataclass(frozen=True, slots=True, kw_only=True)
class PreparedWim:
    """A finished file; ``cache_size`` is of all that the cache holds, in bytes."""

    path: Path
    is_cached: bool
    seconds: float
    size_before: int
    size_after: int
    cache_size: int


def estimate_preparation(
    pieces: Sequence[Piece],
    size: int,
    reader: SourceReader,
    what: str,
    *,
    images: tuple[int, ...] | None,
    cache_dir: Path,
) -> PrepareEstimate:
    """What :func:`prepare_install_wim` would need; writes nothing.

    Raises:
        UsageError: no such image; SourceError: the WIM can't be read or is a part.
    """
    wim = read_wim(pieces, size, reader, what)
    chosen = _check_images(wim, images, what)
    is_cached = find_finished(cache_dir, make_key(wim, chosen)) is not None
    return make_estimate(wim, chosen, pieces, cache_dir, is_cached=is_cached)


def prepare_install_wim(
    pieces: Sequence[Piece],
    size: int,
    reader: SourceReader,
    what: str,
    *,
    images: tuple[int, ...] | None,
    cache_dir: Path,
    on_event: OnEvent,
    cancel: threading.Event | None = None,
    threads: int = 0,
) -> PreparedWim:
    """A non-solid WIM with ``images`` (None: all) of the one whose bytes are ``pieces``.

    Raises:
        UsageError: no such image; SourceError: it can't be read, is damaged or is a part.
        TargetTooSmallError: the cache's file system has too little room; says how much is needed.
        KeyboardInterrupt: ``cancel`` was set. Nothing is left then.
    """
    started = time.monotonic()
    wim = read_wim(pieces, size, reader, what)
    chosen = _check_images(wim, images, what)
    key = make_key(wim, chosen)
    try:
        cache_dir.mkdir(parents=True, exist_ok=True, mode=0o700)
    except OSError as error:
        raise TargetRefusedError(
            f"{cache_dir}: can't be made: {error.strerror}",
            hint="set XDG_CACHE_HOME to a directory that you may write to",
        ) from error
    with locked(cache_dir, cancel=cancel, on_event=on_event):
        remove_leftovers(cache_dir)
        path = find_finished(cache_dir, key)
        is_cached = path is not None
        if path is None:
            estimate = make_estimate(wim, chosen, pieces, cache_dir, is_cached=False)
            check_room(estimate, cache_dir, what)
            on_event(Notice(announce(estimate, chosen, wim, what)))
            path = cache_dir / f"{key}.wim"
            with _as_file(
                pieces, size, reader, cache_dir, on_event=on_event, cancel=cancel
            ) as source_path:
                meter = WimMeter(on_event, phase=Phase.PREPARE, cancel=cancel)
                _write(source_path, path, chosen, meter, threads=threads, what=what)
            reader.check_all()
        return PreparedWim(
            path=path,
            is_cached=is_cached,
            seconds=time.monotonic() - started,
            size_before=size,
            size_after=path.stat().st_size,
            cache_size=measure_cache(cache_dir),
        )


def _write(
    source_path: Path,
    path: Path,
    images: tuple[int, ...],
    meter: WimMeter,
    *,
    threads: int,
    what: str,
) -> None:
    """The result and, named after it, the record that says that it is whole."""
    record_path = path.with_suffix(".json")
    for old in (path, record_path):
        old.unlink(missing_ok=True)
    try:
        with open_outputs([record_path, path], replace=True) as (partial_record, partial):
            source = ImageSource(path=source_path, images=images)
            write_images([source], partial, PREPARED_ENCODING, threads=threads, meter=meter)
            record = json.dumps(make_record(read_wim_file(partial)))
            partial_record.write_text(record, encoding="ascii")
    except SourceError as error:
        detail = error.message.removeprefix("the new WIM: ").removeprefix("writing ")
        detail = detail.replace(str(source_path), what).replace(f"{path.resolve()}: ", "")
        error.message = f"{what}: can't be made non-solid: {detail}"
        raise


def _check_images(wim: WimFile, images: tuple[int, ...] | None, what: str) -> tuple[int, ...]:
    if wim.part_count != 1:
        raise NotRepresentableError(
            f"{what}: is part {wim.part_number} of {wim.part_count} of a split WIM",
            hint="join the parts first: mediamaker wim join",
        )
    count = len(wim.images)
    chosen = tuple(range(1, count + 1)) if images is None else tuple(sorted(set(images)))
    if not chosen or not all(1 <= number <= count for number in chosen):
        raise UsageError(
            f"{what}: has the images 1 to {count}, not {', '.join(map(str, chosen)) or 'none'}",
            hint="mediamaker wim info shows them; choose with --images",
        )
    return chosen


@contextmanager
def _as_file(
    pieces: Sequence[Piece],
    size: int,
    reader: SourceReader,
    cache_dir: Path,
    *,
    on_event: OnEvent,
    cancel: threading.Event | None,
) -> Iterator[Path]:
    """A path by which libwim finds exactly the WIM's bytes, for the length of the block."""
    runs = coalesce_pieces(pieces)
    if is_whole_file(runs):
        match runs[0].source:
            case FileRange(source_id):
                with reader.opened(source_id) as descriptor:
                    # More than the WIM may lie in the file, which libwim does not mind.
                    yield Path(f"/proc/self/fd/{descriptor}")
                    return
            case _:
                pass
    copy_path = cache_dir / ".source.wim"
    try:
        _copy_pieces(runs, size, reader, copy_path, on_event=on_event, cancel=cancel)
        yield copy_path
    finally:
        copy_path.unlink(missing_ok=True)


def _copy_pieces(
    pieces: Sequence[Piece],
    size: int,
    reader: SourceReader,
    path: Path,
    *,
    on_event: OnEvent,
    cancel: threading.Event | None,
) -> None:
    meter = ProgressMeter(on_event, time.monotonic)
    meter.start(Phase.PREPARE, size)
    try:
        target = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_CLOEXEC, 0o600)
        try:
            position = 0
            for piece in pieces:
                for done in range(0, piece.size, _COPY_SIZE):
                    check_cancelled(cancel)
                    count = min(_COPY_SIZE, piece.size - done)
                    _copy_range(piece, done, count, reader, target=target, position=position)
                    position += count
                    meter.update(position)
        finally:
            os.close(target)
    except OSError as error:
        raise TargetIOError(f"{path}: copying the WIM failed: {error.strerror}") from error
    meter.finish()


def _copy_range(
    piece: Piece, offset: int, size: int, reader: SourceReader, *, target: int, position: int
) -> None:
    match piece.source:
        case FileRange(source_id, base):
            done = 0
            with reader.opened(source_id) as descriptor:
                while done < size:
                    try:
                        # Shares the blocks where the file system can; otherwise the kernel copies.
                        count = os.copy_file_range(
                            descriptor, target, size - done, base + offset + done, position + done
                        )
                    except OSError as error:
                        if error.errno not in {errno.EXDEV, errno.EINVAL, errno.ENOTSUP}:
                            raise
                        break
                    if count == 0:
                        break
                    done += count
            if done < size:
                data = reader.pread(source_id, base + offset + done, size - done)
                _write_all(target, data, position + done)
        case _:
            _write_all(target, reader.read_pieces([piece], offset, size), position)


def _write_all(target: int, data: bytes, position: int) -> None:
    view = memoryview(data)
    while view:
        count = os.pwrite(target, view, position)
        view, position = view[count:], position + count
