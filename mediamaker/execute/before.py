# SPDX-License-Identifier: GPL-3.0-or-later
"""What was on a disk where ``create`` will overwrite it first: the undo file of a create.

Kept are, as far as they will be overwritten, and in this order until the budget is used up: both
ends of the disk (its partition tables); the ends of every old partition (boot sectors,
superblocks, and the sector before a logical one that chains it); and then as much as there is
room for of each partition's beginning, where FATs, group descriptors and first directories are.
Contents are not kept: what lies in the other ranges is gone with the first pass.

The file, complete and flushed before the first byte of the disk is changed:

- a line ``mediamaker-undo-create 1``,
- a line of JSON (:class:`BeforeHeader`), a line with its SHA-256, zeros up to a multiple of 4096,
- the old bytes of the ``saved`` ranges, one after the other.

It is not the format of ``install/undo.py`` (whose changes are all kept, old and new): here most
new bytes are not, and blank is a state of its own.
"""

from __future__ import annotations

import hashlib
import json
import os
import secrets
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, fields, replace
from pathlib import Path
from typing import Any, Self

from mediamaker.errors import FormatError, UsageError
from mediamaker.execute.journal import Facts
from mediamaker.execute.runs import intersect_runs, subtract_runs
from mediamaker.execute.steps import Run, merge_runs, runs_size
from mediamaker.execute.target import ReadableTarget
from mediamaker.execute.textfile import flush_folder
from mediamaker.units import KIB, MIB, align_up

FIRST_LINE = b"mediamaker-undo-create 1\n"
BUDGET_SIZE = 64 * MIB
PIECE_SIZE = MIB
_DISK_END_SIZE = MIB
_PARTITION_END_SIZES = (64 * KIB, MIB)
_HEADER_SIZE_MAX = 16 * MIB
_SAVED_SIZE_MAX = 1024 * MIB
_SIZE_MAX = 1 << 63
_ALIGNMENT = 4096
_DIGEST_SIZE = 8
_NO_DIGEST = "0" * 64


@dataclass(frozen=True, slots=True)
class OldPartition:
    """A partition that was there, or (``number`` 0) what filled the disk without a table.

    ``kind`` is primary, extended or logical; ``contents`` are words for people.
    """

    number: int
    kind: str
    start: int
    size: int
    contents: str

    @property
    def end(self) -> int:
        """One past the last byte."""
        return self.start + self.size


@dataclass(frozen=True, slots=True)
class BeforeHeader:
    """What the JSON says. ``written`` are the ranges that create was going to write, ``commit``
    its tables, whose new sectors have ``commit_digests``; ``saved`` is a part of ``written``."""

    plan_id: str
    source: str
    target: str
    disk: Facts
    size: int
    sector_size: int
    made_at: str
    made_by: str
    table_type: str | None
    partitions: tuple[OldPartition, ...]
    written: tuple[Run, ...]
    commit: tuple[Run, ...]
    commit_digests: str
    saved: tuple[Run, ...]
    data_offset: int = 1 << 62
    data_sha256: str = _NO_DIGEST


def choose_ranges(
    partitions: Sequence[OldPartition],
    written: Sequence[Run],
    *,
    size: int,
    sector_size: int,
    budget_size: int = BUDGET_SIZE,
) -> list[Run]:
    """What to keep of the ranges that will be overwritten, at most ``budget_size`` bytes."""
    chosen: list[Run] = []
    wanted = [[(0, _DISK_END_SIZE), (size - _DISK_END_SIZE, size)]]
    wanted += [[run for p in partitions for run in _ends(p, end)] for end in _PARTITION_END_SIZES]
    for wishes in wanted:
        for wish in wishes:
            chosen = _add(chosen, [wish], written, size, budget_size)
    # What is left of the budget goes to the beginnings, in equal parts.
    heads = [p for p in partitions if p.kind != "extended"]
    for index, partition in enumerate(heads):
        share = (budget_size - runs_size(chosen)) // (len(heads) - index) // MIB * MIB
        start = partition.start + _PARTITION_END_SIZES[-1]
        head = (start, max(start, min(partition.end, start + share)))
        chosen = _add(chosen, [head], written, size, budget_size)
    return [(start, end) for start, end in chosen if not (start % sector_size or end % sector_size)]


def lost_ranges(header: BeforeHeader, partition: OldPartition) -> list[Run]:
    """What of an old partition was overwritten (at most) and is not in the file."""
    overwritten = intersect_runs([(partition.start, partition.end)], header.written)
    return subtract_runs(overwritten, header.saved)


def sector_digests(data: bytes, sector_size: int) -> bytes:
    """8 bytes for each sector."""
    return b"".join(
        hashlib.blake2b(data[at : at + sector_size], digest_size=_DIGEST_SIZE).digest()
        for at in range(0, len(data), sector_size)
    )


def save_before(
    path: Path, header: BeforeHeader, target: ReadableTarget, *, earlier: BeforeFile | None = None
) -> BeforeHeader | None:
    """Keep the bytes of ``header.saved`` in a new file; None if the disk holds nothing there.

    ``earlier`` is the file of a run that ended before its tables were written: what that one
    overwrote is taken from it, as the disk has it no more. Bytes that can't be read are left out.

    Raises:
        OSError: the file can't be made; nothing is left of it.
    """
    if earlier is not None:
        old = earlier.header
        gone = subtract_runs(old.written, old.saved)
        header = replace(
            header,
            table_type=old.table_type,
            partitions=old.partitions,
            written=tuple(merge_runs(old.written, header.written)),
            saved=tuple(merge_runs(subtract_runs(header.saved, gone), old.saved)),
        )
    partial = path.with_name(f".{path.name}.{secrets.token_hex(4)}.partial")
    descriptor = os.open(partial, os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600)
    try:
        with os.fdopen(descriptor, "r+b") as file:
            # The room is for the longest form of the two numbers that are not known yet, and
            # for a range that breaks in two at every piece that can't be read.
            data_offset = align_up(2 * len(_pack(header)) + _ALIGNMENT, _ALIGNMENT)
            digest = hashlib.sha256()
            saved: list[Run] = []
            at, is_empty = data_offset, not header.partitions
            for start, end in _pieces(header.saved):
                try:
                    data = _read_old(target, earlier, start, end)
                except OSError:
                    continue
                is_empty = is_empty and not any(data)
                digest.update(data)
                os.pwrite(file.fileno(), data, at)
                at += len(data)
                saved = merge_runs(saved, [(start, end)])
            if is_empty:
                return None
            header = replace(
                header,
                saved=tuple(saved),
                data_offset=data_offset,
                data_sha256=digest.hexdigest(),
            )
            text = _pack(header)
            if len(text) > data_offset:
                raise OSError(27, os.strerror(27), str(path))
            os.pwrite(file.fileno(), text, 0)
            os.fsync(file.fileno())
        partial.rename(path)
    finally:
        partial.unlink(missing_ok=True)
    flush_folder(path.parent)
    return header


class BeforeFile:
    """An undo file of a create, opened; its digests are compared at once."""

    def __init__(self, path: Path) -> None:
        self.path = path
        try:
            with path.open("rb") as file:
                self.header = _read_header(file.read(_HEADER_SIZE_MAX), path)
                size = runs_size(self.header.saved)
                file.seek(self.header.data_offset)
                self._data = file.read(size)
        except OSError as error:
            raise UsageError(f"{path}: can't be read: {error.strerror}") from error
        if hashlib.sha256(self._data).hexdigest() != self.header.data_sha256:
            raise FormatError(f"{path}: its old bytes are damaged: their SHA-256 differs")

    @classmethod
    def is_one(cls, path: Path) -> bool:
        """Whether the file at ``path`` says that it is one."""
        try:
            with path.open("rb") as file:
                return file.read(len(FIRST_LINE)) == FIRST_LINE
        except OSError:
            return False

    @classmethod
    def open_or_none(cls, path: Path) -> Self | None:
        """The file, or None if it is damaged or no such file."""
        try:
            return cls(path)
        except (UsageError, FormatError):
            return None

    def pieces(self) -> Iterator[tuple[int, bytes]]:
        """Offset and old bytes, at most 1 MiB each, ascending."""
        at = 0
        for start, end in _pieces(self.header.saved):
            yield start, self._data[at : at + end - start]
            at += end - start

    def overlay(self, start: int, data: bytearray) -> None:
        """Replace what is in ``data``, of the disk from ``start`` on, by what the file has."""
        at = 0
        for low, high in self.header.saved:
            first, last = max(low, start), min(high, start + len(data))
            if first < last:
                data[first - start : last - start] = self._data[at + first - low : at + last - low]
            at += high - low


def _read_old(
    target: ReadableTarget, earlier: BeforeFile | None, start: int, end: int
) -> bytes | bytearray:
    if earlier is None:
        return target.pread(start, end - start)
    data = bytearray(target.pread(start, end - start))
    earlier.overlay(start, data)
    return data


def _add(
    chosen: list[Run], wishes: Sequence[Run], written: Sequence[Run], size: int, budget_size: int
) -> list[Run]:
    bounded = [(max(0, start), min(size, end)) for start, end in wishes]
    new = intersect_runs([run for run in bounded if run[0] < run[1]], written)
    both = merge_runs(chosen, new)
    return both if runs_size(both) <= budget_size else chosen


def _ends(partition: OldPartition, end_size: int) -> Iterator[Run]:
    if partition.kind == "logical":
        yield partition.start - min(end_size, partition.start), partition.start
    if partition.size > 2 * end_size:
        yield partition.start, partition.start + end_size
        yield partition.end - end_size, partition.end
    else:
        yield partition.start, partition.end


def _pieces(runs: Sequence[Run]) -> Iterator[Run]:
    for start, end in runs:
        for at in range(start, end, PIECE_SIZE):
            yield at, min(end, at + PIECE_SIZE)


def _pack(header: BeforeHeader) -> bytes:
    line = json.dumps({"version": 1, **asdict(header)}, separators=(",", ":")).encode() + b"\n"
    return FIRST_LINE + line + hashlib.sha256(line).hexdigest().encode() + b"\n"


def _read_header(data: bytes, path: Path) -> BeforeHeader:
    first, line, digest, *_ = [*data.split(b"\n", 3), b"", b"", b""]
    if first + b"\n" != FIRST_LINE:
        raise FormatError(
            f"{path} is no undo file of create: expected it to begin with "
            f"{FIRST_LINE.decode().strip()!r}"
        )
    if hashlib.sha256(line + b"\n").hexdigest().encode() != digest:
        raise FormatError(f"{path}: its header is damaged: its SHA-256 differs")
    try:
        header = _parse(json.loads(line))
        _check(header)
    except (ValueError, TypeError, KeyError, RecursionError) as error:
        raise FormatError(f"{path}: its header makes no sense: {error}") from error
    return header


def _parse(document: Mapping[str, Any]) -> BeforeHeader:
    if document["version"] != 1:
        raise ValueError(f"version {document['version']}, expected 1")
    values = {field.name: document[field.name] for field in fields(BeforeHeader)}
    values["partitions"] = tuple(OldPartition(**item) for item in values["partitions"])
    for name in ("written", "commit", "saved"):
        values[name] = tuple((int(start), int(end)) for start, end in values[name])
    return BeforeHeader(**values)


def _check(header: BeforeHeader) -> None:
    if header.sector_size not in {512, 1024, 2048, 4096}:
        raise ValueError(f"a sector size of {header.sector_size}")
    if not 0 < header.size < _SIZE_MAX:
        raise ValueError(f"a size of {header.size}")
    for runs in (header.written, header.commit, header.saved):
        position = -1
        for start, end in runs:
            is_whole = not (start % header.sector_size or end % header.sector_size)
            if not (position < start < end <= header.size and is_whole):
                raise ValueError(f"a range [{start}, {end})")
            position = end - 1
    if runs_size(header.saved) > _SAVED_SIZE_MAX:
        raise ValueError("more than an undo file holds")
    if len(header.commit_digests) != (
        runs_size(header.commit) // header.sector_size * _DIGEST_SIZE * 2
    ):
        raise ValueError("its digests do not match its ranges")
    bytes.fromhex(header.commit_digests)
