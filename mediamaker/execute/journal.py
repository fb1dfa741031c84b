# SPDX-License-Identifier: GPL-3.0-or-later
"""A journal of one write: how much of it is known to be on the medium, so that it can go on.

A text file, append only, a record a line: 16 hex digits, a space, JSON. The digits are the
BLAKE2b of the record before and of this JSON, so a record counts only with all that precede it:
whatever a power cut tears, or leaves behind from an earlier file, ends the journal there, and
only means that some bytes are written again. The first record says whose journal it is; each
other one holds ``end``: every byte that the plan writes below it, outside of the commit ranges,
was written and flushed before the record was. The last one counts.

It lies beside an image file; for a device in the state folder, under the disk's key. While a run
uses it, it is locked (flock(2)).
"""

from __future__ import annotations

import fcntl
import hashlib
import json
import os
from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass, fields
from pathlib import Path
from typing import Any, Self

from mediamaker.errors import TargetRefusedError
from mediamaker.execute.textfile import flush_folder
from mediamaker.units import MIB

VERSION = 1
_SEED_OF_DIGESTS = b"mediamaker-journal 1"
_FILE_SIZE_MAX = 16 * MIB
_SIZE_MAX = 1 << 63

Facts = Mapping[str, str | int | None]
"""What tells a disk from another, as JSON: the fields of ``devices.identity.DiskIdentity``."""


@dataclass(frozen=True, slots=True)
class JournalSource:
    """A source file as it was; ``path`` is shown only."""

    path: str
    size: int
    mtime_ns: int


@dataclass(frozen=True, slots=True)
class JournalHeader:
    """Whose journal it is. ``disk`` is empty for an image file, which has a ``partial`` name."""

    plan_id: str
    seed: str
    source: str
    layout: str
    target: str
    size: int
    sector_size: int
    written_size: int
    sources: tuple[JournalSource, ...]
    disk: Facts
    made_at: str
    made_by: str
    partial: str | None = None
    undo_file: str | None = None

    @property
    def undo_path(self) -> Path | None:
        """Where the undo file of the run is, if it has one."""
        return None if self.undo_file is None else Path(self.undo_file)


@dataclass(frozen=True, slots=True)
class Journal:
    """What a journal says; from ``valid_size`` on the file is torn, or ends."""

    path: Path
    header: JournalHeader
    end: int
    valid_size: int
    last_digest: bytes


def read_journal(path: Path) -> Journal | None:
    """The journal at ``path``; None if there is none, or none that says anything."""
    try:
        with path.open("rb") as file:
            data = file.read(_FILE_SIZE_MAX)
    except OSError:
        return None
    header: JournalHeader | None = None
    end, position, digest = 0, 0, _SEED_OF_DIGESTS
    for line, record, next_digest in _iter_records(data):
        try:
            if header is None:
                header = _parse_header(record)
            else:
                end = _integer(record["end"])
        except (ValueError, TypeError, KeyError):
            break
        position += len(line)
        digest = next_digest
    if header is None or end > header.size:
        return None
    return Journal(path, header, end, position, digest)


class JournalWriter:
    """A journal that is being written; locked until it is closed.

    ``end`` is what it claims, ``flush_size`` how many bytes apart its first claims are (None: as
    the flusher has it).
    ``failure`` is why it stopped claiming more: that never stops the write itself.
    """

    def __init__(self, descriptor: int, path: Path, header: JournalHeader, end: int) -> None:
        self.path = path
        self.header = header
        self.end = end
        self.flush_size: int | None = None
        self.failure: OSError | None = None
        self._descriptor = descriptor
        self._digest = _SEED_OF_DIGESTS

    @classmethod
    def create(cls, path: Path, header: JournalHeader) -> Self:
        """A new journal, on its medium; one that was there is replaced.

        Raises:
            TargetRefusedError: another run uses it; OSError: it can't be written.
        """
        descriptor = _open_locked(path, os.O_CREAT)
        try:
            os.ftruncate(descriptor, 0)
            # Nothing of the old file may outlive it, whatever the power does from here on.
            os.fsync(descriptor)
            writer = cls(descriptor, path, header, 0)
            writer._append({"version": VERSION, **asdict(header)})
            os.fsync(descriptor)
            flush_folder(path.parent)
        except BaseException:
            os.close(descriptor)
            raise
        return writer

    @classmethod
    def resume(cls, journal: Journal) -> Self:
        """Go on with ``journal``; what is torn of it is cut off.

        Raises:
            TargetRefusedError: another run uses it; OSError: it can't be written.
        """
        descriptor = _open_locked(journal.path, 0)
        try:
            os.ftruncate(descriptor, journal.valid_size)
        except OSError:
            os.close(descriptor)
            raise
        writer = cls(descriptor, journal.path, journal.header, journal.end)
        writer._digest = journal.last_digest
        return writer

    def record(self, end: int) -> None:
        """Claim that all below ``end`` is on the medium, which it must be already."""
        if end == self.end or self.failure is not None or self._descriptor < 0:
            return
        try:
            self._append({"end": end})
            os.fdatasync(self._descriptor)
        except OSError as error:
            self.failure = error
            return
        self.end = end

    def remove(self) -> None:
        """It is of no use any more: all is well, or what it claims is wrong."""
        self.path.unlink(missing_ok=True)
        self.close()
        flush_folder(self.path.parent)

    def close(self) -> None:
        """Let go of it; closing twice is harmless."""
        descriptor, self._descriptor = self._descriptor, -1
        if descriptor >= 0:
            os.close(descriptor)

    def _append(self, record: Mapping[str, Any]) -> None:
        payload = json.dumps(record, separators=(",", ":")).encode()
        digest = _digest(self._digest, payload)
        line = digest + b" " + payload + b"\n"
        # One that is cut short (no room) would make all that follow worthless: none follow.
        if os.write(self._descriptor, line) != len(line):
            raise OSError(28, os.strerror(28))
        self._digest = digest


def remove_journal(path: Path) -> bool:
    """Remove a leftover journal; False if a run is using it.

    Raises:
        OSError: it can't be removed.
    """
    try:
        descriptor = _open_locked(path, 0)
    except FileNotFoundError:
        return True
    except TargetRefusedError:
        return False
    try:
        path.unlink(missing_ok=True)
    finally:
        os.close(descriptor)
    flush_folder(path.parent)
    return True


def _open_locked(path: Path, flags: int) -> int:
    while True:
        descriptor = os.open(
            path, os.O_RDWR | os.O_APPEND | os.O_CLOEXEC | os.O_NOFOLLOW | flags, 0o600
        )
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError as error:
            os.close(descriptor)
            raise TargetRefusedError(
                f"{path} is in use: another mediamaker writes the same target now",
                hint="wait for it, or end it",
            ) from error
        try:
            if os.path.samestat(os.fstat(descriptor), path.stat()):
                return descriptor
        except FileNotFoundError:
            pass
        os.close(descriptor)  # it was removed by whoever held the lock


def _iter_records(data: bytes) -> Iterator[tuple[bytes, Any, bytes]]:
    digest = _SEED_OF_DIGESTS
    for line in data.splitlines(keepends=True):
        stored, _, payload = line.rstrip(b"\n").partition(b" ")
        digest = _digest(digest, payload)
        if not line.endswith(b"\n") or stored != digest:
            return
        try:
            record = json.loads(payload)
        except (ValueError, RecursionError):
            return
        yield line, record, digest


def _parse_header(record: Any) -> JournalHeader:
    if record["version"] != VERSION:
        raise ValueError("another version")
    values = {field.name: record[field.name] for field in fields(JournalHeader)}
    values["sources"] = tuple(JournalSource(**source) for source in values["sources"])
    header = JournalHeader(**values)
    for number in (header.size, header.sector_size, header.written_size):
        _integer(number)
    texts = (header.plan_id, header.seed, header.source, header.target, header.layout)
    optional = [text for text in (header.partial, header.undo_file) if text is not None]
    if not all(isinstance(text, str) for text in (*texts, *optional)):
        raise ValueError("not text")
    if not isinstance(header.disk, dict):
        raise ValueError("no facts of a disk")  # noqa: TRY004 - the caller catches both alike
    return header


def _integer(value: Any) -> int:
    if type(value) is not int or not 0 <= value < _SIZE_MAX:
        raise ValueError("not a size")
    return value


def _digest(before: bytes, payload: bytes) -> bytes:
    return hashlib.blake2b(before + payload, digest_size=8).hexdigest().encode()
