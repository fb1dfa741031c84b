# SPDX-License-Identifier: GPL-3.0-or-later
"""The cache of prepared WIMs: its place, names, records and lock.

A finished file has a record beside it with its size and what its tables are; one without is not
finished. The name says what source, images and compression it was made from and with.
"""

from __future__ import annotations

import contextlib
import fcntl
import hashlib
import json
import os
import threading
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from mediamaker.errors import SourceError, TargetRefusedError
from mediamaker.execute.interrupts import check_cancelled
from mediamaker.execute.progress import Notice, OnEvent
from mediamaker.formats.wim import pack_wim_header
from mediamaker.sources.wim import WimFile
from mediamaker.units import KIB
from mediamaker.wim.savings import read_wim_file
from mediamaker.wim.writing import Encoding

FORMAT_VERSION: Final = 1
"""Counts up when what is prepared from the same source becomes something else."""

PREPARED_ENCODING: Final = Encoding(compression="LZX", chunk_size=32 * KIB, level=20)
"""The quick level: 3 % larger than the usual one, in a fifth of the time."""

_WAIT_SECONDS: Final = 0.2


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


@dataclass(frozen=True, slots=True, kw_only=True)
class CachedWim:
    """A file of the cache; one that is not ``is_usable`` is unfinished or was changed."""

    path: Path
    size: int
    mtime_ns: int
    is_usable: bool
    image_names: tuple[str, ...]


def list_cache(cache_dir: Path) -> tuple[CachedWim, ...]:
    """What the cache holds, the newest first."""
    found = []
    for path in cache_dir.glob("*.wim"):
        try:
            status = path.stat()
        except OSError:  # removed meanwhile
            continue
        names: tuple[str, ...] = ()
        with contextlib.suppress(SourceError):
            names = tuple(image.name for image in read_wim_file(path).images)
        found.append(
            CachedWim(
                path=path,
                size=status.st_size,
                mtime_ns=status.st_mtime_ns,
                is_usable=find_finished(cache_dir, path.stem) is not None,
                image_names=names,
            )
        )
    return tuple(sorted(found, key=lambda item: -item.mtime_ns))


def clear_cache(
    cache_dir: Path,
    *,
    on_event: OnEvent | None = None,
    cancel: threading.Event | None = None,
) -> int:
    """Remove what the cache holds; how many bytes that were. Waits for one who prepares.

    Raises:
        TargetRefusedError: it can't be removed.
    """
    if not cache_dir.is_dir():
        return 0
    with locked(cache_dir, cancel=cancel, on_event=on_event):
        size = measure_cache(cache_dir)
        try:
            for path in (*cache_dir.glob("*.wim"), *cache_dir.glob("*.json")):
                path.unlink(missing_ok=True)
        except OSError as error:
            raise TargetRefusedError(f"{error.filename}: {error.strerror}") from error
        remove_leftovers(cache_dir)
    return size


def make_record(wim: WimFile) -> dict[str, Any]:
    """What is written beside a finished file, to know it again."""
    return {
        "format_version": FORMAT_VERSION,
        "size": wim.size,
        "tables_sha256": _digest_tables(wim),
    }


def find_finished(cache_dir: Path, key: str) -> Path | None:
    """The finished file, if it still is what its record says: size, header and tables."""
    path = cache_dir / f"{key}.wim"
    try:
        record = json.loads((cache_dir / f"{key}.json").read_text(encoding="ascii"))
        if path.stat().st_size != record["size"]:
            return None
        return path if make_record(read_wim_file(path)) == record else None
    except (OSError, ValueError, KeyError, TypeError, SourceError):
        return None


def _digest_tables(wim: WimFile) -> str:
    digest = hashlib.sha256(pack_wim_header(wim.header))
    digest.update(wim.blobs.data)
    digest.update(wim.xml)
    return digest.hexdigest()


def make_key(wim: WimFile, images: tuple[int, ...]) -> str:
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


@contextmanager
def locked(
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


def remove_leftovers(cache_dir: Path) -> None:
    """What a killed run left; called under the lock, so nobody is using it."""
    for path in (*cache_dir.glob(".*.partial*"), cache_dir / ".source.wim"):
        with contextlib.suppress(OSError):
            path.unlink(missing_ok=True)
