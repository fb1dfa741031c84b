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

import contextlib
import errno
import fcntl
import hashlib
import json
import os
import threading
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from mediamaker.errors import (
    NotRepresentableError,
    SourceError,
    TargetIOError,
    TargetRefusedError,
    TargetTooSmallError,
    UsageError,
)
from mediamaker.execute.interrupts import check_cancelled
from mediamaker.execute.progress import Notice, OnEvent, Phase, ProgressMeter
from mediamaker.extents import FileRange, Piece, coalesce_pieces
from mediamaker.formats.wim import pack_wim_header
from mediamaker.formats.wim_blobs import SOLID_RESOURCE_MARK
from mediamaker.sources.reader import SourceReader
from mediamaker.sources.wim import WimFile, read_wim
from mediamaker.units import KIB, MIB, format_size
from mediamaker.wim.meter import WimMeter
from mediamaker.wim.output import open_outputs
from mediamaker.wim.savings import read_wim_file
from mediamaker.wim.writing import Encoding, ImageSource, write_images

FORMAT_VERSION: Final = 1
"""Counts up when what is prepared from the same source becomes something else."""

PREPARED_ENCODING: Final = Encoding(compression="LZX", chunk_size=32 * KIB, level=20)
"""The quick level: 3 % larger than the usual one, in a fifth of the time."""

DECODE_BYTES_PER_SECOND: Final = 80 * MIB
COMPRESS_BYTES_PER_SECOND: Final = 40 * MIB
"""Of one core, raw bytes: LZMS decoding (which libwim does in one thread) and LZX:20, as measured
on a 2.x GHz virtual core. Good for saying "about 2 minutes" before the real speed is known."""

_RATIO: Final = 0.5
"""What of the raw size LZX takes at most, for Windows images: 0.36 is usual."""

_LZMS_TO_LZX: Final = 1.5
"""How much larger LZX is than solid LZMS: 1.48 was measured with a boot.wim."""

_COPY_SIZE: Final = 64 * MIB
_WAIT_SECONDS: Final = 0.2


@dataclass(frozen=True, slots=True, kw_only=True)
class PreparedWim:
    """A finished file; ``cache_size`` is of all that the cache holds, in bytes."""

    path: Path
    is_cached: bool
    seconds: float
    size_before: int
    size_after: int
    cache_size: int


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


def default_cache_dir(environment: Mapping[str, str] | None = None) -> Path:
    """``$XDG_CACHE_HOME/mediamaker/prepared``, by default below ``~/.cache``."""
    variables = os.environ if environment is None else environment
    base = variables.get("XDG_CACHE_HOME", "")
    # The specification has paths that are not absolute ignored.
    cache_home = Path(base) if base.startswith("/") else Path.home() / ".cache"
    return cache_home / "mediamaker" / "prepared"


def measure_cache(cache_dir: Path) -> int:
    """Bytes that finished files in the cache take."""
    total = 0
    for path in cache_dir.glob("*.wim"):
        with contextlib.suppress(OSError):
            total += path.stat().st_size
    return total


def clear_cache(cache_dir: Path) -> int:
    """Remove what the cache holds; how many bytes that were.

    Raises:
        TargetRefusedError: it can't be removed.
    """
    if not cache_dir.is_dir():
        return 0
    with _locked(cache_dir, cancel=None, on_event=None):
        size = measure_cache(cache_dir)
        try:
            for path in (*cache_dir.glob("*.wim"), *cache_dir.glob("*.json")):
                path.unlink(missing_ok=True)
        except OSError as error:
            raise TargetRefusedError(f"{error.filename}: {error.strerror}") from error
        _remove_leftovers(cache_dir)
    return size


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
    is_cached = _find_finished(cache_dir, _make_key(wim, chosen)) is not None
    return _estimate(wim, chosen, pieces, cache_dir, is_cached=is_cached)


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
    key = _make_key(wim, chosen)
    try:
        cache_dir.mkdir(parents=True, exist_ok=True, mode=0o700)
    except OSError as error:
        raise TargetRefusedError(
            f"{cache_dir}: can't be made: {error.strerror}",
            hint="set XDG_CACHE_HOME to a directory that you may write to",
        ) from error
    with _locked(cache_dir, cancel=cancel, on_event=on_event):
        _remove_leftovers(cache_dir)
        path = _find_finished(cache_dir, key)
        is_cached = path is not None
        if path is None:
            estimate = _estimate(wim, chosen, pieces, cache_dir, is_cached=False)
            _check_room(estimate, cache_dir, what)
            on_event(Notice(_announce(estimate, chosen, wim, what)))
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
    partial_path = path
    for old in (path, record_path):
        old.unlink(missing_ok=True)
    try:
        with open_outputs([record_path, path], replace=True) as (partial_record, partial):
            partial_path = partial
            source = ImageSource(path=source_path, images=images)
            write_images([source], partial, PREPARED_ENCODING, threads=threads, meter=meter)
            record = json.dumps(_record(read_wim_file(partial)))
            partial_record.write_text(record, encoding="ascii")
    except SourceError as error:
        detail = error.message.removeprefix("the new WIM: ").removeprefix("writing ")
        detail = detail.replace(str(source_path), what).replace(f"{partial_path}: ", "")
        error.message = f"{what}: can't be made non-solid: {detail}"
        raise


def _record(wim: WimFile) -> dict[str, Any]:
    return {
        "format_version": FORMAT_VERSION,
        "size": wim.size,
        "tables_sha256": _digest_tables(wim),
    }


def _find_finished(cache_dir: Path, key: str) -> Path | None:
    """The finished file, if it still is what its record says: size, header and tables."""
    path = cache_dir / f"{key}.wim"
    try:
        record = json.loads((cache_dir / f"{key}.json").read_text(encoding="ascii"))
        if path.stat().st_size != record["size"]:
            return None
        return path if _record(read_wim_file(path)) == record else None
    except (OSError, ValueError, KeyError, TypeError, SourceError):
        return None


def _digest_tables(wim: WimFile) -> str:
    digest = hashlib.sha256(pack_wim_header(wim.header))
    digest.update(wim.blobs.data)
    digest.update(wim.xml)
    return digest.hexdigest()


def _make_key(wim: WimFile, images: tuple[int, ...]) -> str:
    """Whatever changes the result changes this."""
    encoding = PREPARED_ENCODING
    parts = {
        "format_version": FORMAT_VERSION,
        "size": wim.size,
        "tables_sha256": _digest_tables(wim),
        "images": images,
        "encoding": [encoding.compression, encoding.chunk_size, encoding.level],
    }
    return hashlib.sha256(json.dumps(parts, sort_keys=True).encode()).hexdigest()[:40]


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


def _estimate(
    wim: WimFile,
    images: tuple[int, ...],
    pieces: Sequence[Piece],
    cache_dir: Path,
    *,
    is_cached: bool,
) -> PrepareEstimate:
    raw_size = _raw_size(wim, images)
    core_count = os.cpu_count() or 1
    decode = raw_size / DECODE_BYTES_PER_SECOND
    compress = raw_size / COMPRESS_BYTES_PER_SECOND
    return PrepareEstimate(
        is_cached=is_cached,
        raw_size=raw_size,
        output_size=0 if is_cached else _guess_output_size(wim, raw_size),
        copy_size=0 if is_cached or _whole_file(pieces) else wim.size,
        available_size=_available(cache_dir),
        seconds=0.0 if is_cached else max(decode, (decode + compress) / core_count),
    )


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


def _check_room(estimate: PrepareEstimate, cache_dir: Path, what: str) -> None:
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


def _announce(estimate: PrepareEstimate, images: tuple[int, ...], wim: WimFile, what: str) -> str:
    minutes = max(1, round(estimate.seconds / 60))
    which = (
        "all images" if len(images) == len(wim.images) else f"images {images}".replace(",)", ")")
    )
    return (
        f"{what} can't be split as it is, so {which} are compressed again: "
        f"{format_size(estimate.raw_size)} of contents, about {minutes} min, up to "
        f"{format_size(estimate.needed_size)} of {format_size(estimate.available_size)} free; "
        "kept for the next stick"
    )


def _available(cache_dir: Path) -> int:
    place = cache_dir
    while not place.exists() and place != place.parent:
        place = place.parent
    status = os.statvfs(place)
    return status.f_bavail * status.f_frsize


def _whole_file(pieces: Sequence[Piece]) -> bool:
    """Whether the WIM may be a file of its own: one range from its first byte on."""
    match coalesce_pieces(pieces):
        case (Piece(source=FileRange(offset=0)),):
            return True
        case _:
            return False


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
    if _whole_file(runs):
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


@contextmanager
def _locked(
    cache_dir: Path, *, cancel: threading.Event | None, on_event: OnEvent | None
) -> Iterator[None]:
    """One at a time; who waits is told so, and finds the other's result afterwards."""
    path = cache_dir / ".lock"
    try:
        descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    except OSError as error:
        raise TargetRefusedError(
            f"{path}: {error.strerror}",
            hint="set XDG_CACHE_HOME to a directory that you may write to",
        ) from error
    try:
        is_told = False
        while True:
            try:
                fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
                break
            except BlockingIOError:
                if not is_told and on_event is not None:
                    on_event(Notice("another mediamaker is preparing a WIM; waiting for it"))
                is_told = True
            check_cancelled(cancel)
            time.sleep(_WAIT_SECONDS)
        yield
    finally:
        os.close(descriptor)


def _remove_leftovers(cache_dir: Path) -> None:
    """What a killed run left; called under the lock, so nobody is using it."""
    for path in (*cache_dir.glob(".*.partial*"), cache_dir / ".source.wim"):
        with contextlib.suppress(OSError):
            path.unlink(missing_ok=True)
