# SPDX-License-Identifier: GPL-3.0-or-later
"""Undo files: every byte that is about to be changed on a disk, and the way back.

The file, complete and flushed before the first change:

- a line ``mediamaker-undo 1``,
- a line of JSON: what was done, when and by which version, the disk's identity, ``ranges`` as
  ``[offset, size, step, name]`` in the order of writing, and where the two parts below begin,
  their sizes and SHA-256,
- a line with the SHA-256 of the JSON line; zeros up to a multiple of 4096,
- the old bytes of the ranges, one after the other,
- for each sector of them, in the same order, the first 8 bytes of the BLAKE2b of its new bytes.

The last part tells, for any state that a power cut can leave, whether each sector is old or new;
where one is neither, something else wrote there since (a started Windows), or it is another disk,
and going back would do harm: that is refused, unless it is forced.
"""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, fields
from pathlib import Path
from types import TracebackType
from typing import Any, Self

from mediamaker.devices.blockmap import disks_of_path
from mediamaker.devices.new_file import give_name, hold_file, name_beside, remove_leftovers
from mediamaker.errors import FormatError, TargetIOError, TargetRefusedError, UsageError
from mediamaker.execute.progress import ProgressMeter
from mediamaker.execute.textfile import flush_folder
from mediamaker.install.changes import (
    WRITE_SIZE,
    Change,
    Step,
    split_changes,
    write_changes,
)
from mediamaker.install.disk_file import ChangeableDisk, WindowsDiskIdentity
from mediamaker.units import MIB, align_up, format_range, format_size

VERSION = 1
_FIRST_LINE = b"mediamaker-undo 1\n"
_HEADER_SIZE_MAX = 256 * MIB
_ALIGNMENT = 4096
_DIGEST_SIZE = 8
_NO_DIGEST = "0" * 64


@dataclass(frozen=True, slots=True)
class UndoHeader:
    """What the JSON says; ``changes`` in the order of writing."""

    what: str
    made_at: str
    made_by: str
    target: str
    identity: WindowsDiskIdentity
    changes: tuple[Change, ...]
    data_offset: int
    data_size: int
    data_sha256: str
    digests_offset: int
    digests_size: int
    digests_sha256: str


@dataclass(frozen=True, slots=True)
class UndoState:
    """How many sectors of those in the file are as before, as after, and as neither.

    ``foreign_ranges`` are the first few of the last kind.
    """

    old_sectors: int
    new_sectors: int
    foreign_sectors: int
    foreign_ranges: tuple[tuple[int, int], ...]


@dataclass(frozen=True, slots=True)
class UndoResult:
    """``restored_size`` bytes were put back; all ranges were read back and are as before."""

    restored_size: int
    total_size: int
    warning: str | None


def check_undo_place(path: Path, target: Path) -> None:
    """An undo file may be made at ``path``: not there yet, and not on the disk that it is for.

    Raises:
        UsageError: names what is wrong.
    """
    folder = path.parent if path.parent != Path() else Path.cwd()
    if path.exists():
        raise UsageError(
            f"--undo {path}: is there already; it may be the way back from an earlier run",
            hint="name another file, or move that one away",
        )
    if not folder.is_dir() or not os.access(folder, os.W_OK):
        raise UsageError(f"--undo {path}: no folder that we may write to")
    real = Path(os.path.realpath(target))
    if target.is_block_device() and real.name in disks_of_path(folder):
        raise UsageError(
            f"--undo {path}: lies on {target} itself", hint="name a file on another disk"
        )


def write_undo(
    path: Path,
    changes: Sequence[Change],
    overlay_old: Callable[[int, int], bytes],
    overlay_new: Callable[[int, int], bytes],
    *,
    what: str,
    made_at: str,
    made_by: str,
    target: str,
    identity: WindowsDiskIdentity,
) -> UndoHeader:
    """Make the file for ``changes``; it has its name only once it is whole and flushed.

    Raises:
        TargetIOError: it can't be made, for want of room perhaps; UsageError: the name is taken.
    """
    sector_size = identity.sector_size
    data_size = sum(change.size for change in changes)
    digests_size = data_size // sector_size * _DIGEST_SIZE
    header = UndoHeader(
        what=what,
        made_at=made_at,
        made_by=made_by,
        target=target,
        identity=identity,
        changes=tuple(changes),
        data_offset=1 << 62,
        data_size=data_size,
        data_sha256=_NO_DIGEST,
        digests_offset=1 << 62,
        digests_size=digests_size,
        digests_sha256=_NO_DIGEST,
    )
    # Numbers are padded in front by being replaced with shorter ones: the room is for the longest.
    data_offset = align_up(len(_pack_header(header)), _ALIGNMENT)
    digests_offset = data_offset + data_size
    try:
        descriptor, partial = _open_nameless(path)
        try:
            with os.fdopen(descriptor, "r+b") as file:
                file.truncate(digests_offset + digests_size)
                old_hash, new_hash = hashlib.sha256(), hashlib.sha256()
                at, digests_at = data_offset, digests_offset
                for piece in split_changes(changes):
                    old = overlay_old(piece.offset, piece.size)
                    old_hash.update(old)
                    if old.count(0) != len(old):
                        file.seek(at)
                        file.write(old)
                    at += piece.size
                    digests = _sector_digests(overlay_new(piece.offset, piece.size), sector_size)
                    new_hash.update(digests)
                    file.seek(digests_at)
                    file.write(digests)
                    digests_at += len(digests)
                header = _replace(
                    header,
                    data_offset=data_offset,
                    data_sha256=old_hash.hexdigest(),
                    digests_offset=digests_offset,
                    digests_sha256=new_hash.hexdigest(),
                )
                file.seek(0)
                file.write(_pack_header(header))
                file.flush()
                os.fsync(file.fileno())
                _give_name(file.fileno(), partial, path)
        finally:
            if partial is not None:
                partial.unlink(missing_ok=True)
        flush_folder(path.parent)
    except OSError as error:
        raise TargetIOError(
            f"--undo {path}: can't be made: {error.strerror or error}; the disk is as it was",
            hint=f"name a file with --undo where {format_size(digests_offset + digests_size)} fit",
        ) from error
    return header


def _open_nameless(path: Path) -> tuple[int, Path | None]:
    """A file that goes with its descriptor, also after SIGKILL; elsewhere one with a name."""
    flags = os.O_RDWR | os.O_CLOEXEC
    folder = path.parent
    try:
        return os.open(folder, flags | os.O_TMPFILE, 0o600), None
    except OSError:  # FAT and others can't
        remove_leftovers(path)
        partial = name_beside(path)
        descriptor = os.open(partial, flags | os.O_CREAT | os.O_EXCL, 0o600)
        hold_file(descriptor)
        return descriptor, partial


def _give_name(descriptor: int, partial: Path | None, path: Path) -> None:
    """Raises UsageError where the name was taken meanwhile."""
    try:
        if partial is None:
            # Any src_dir_fd makes Python call linkat(2), which alone can follow a link of /proc.
            link = f"/proc/self/fd/{descriptor}"
            os.link(link, path, src_dir_fd=descriptor, follow_symlinks=True)
        else:
            give_name(partial, path)
    except (FileExistsError, TargetRefusedError):
        raise UsageError(f"--undo {path}: is there already") from None


class UndoFile:
    """An undo file, opened; its parts are compared with their digests at once."""

    def __init__(self, path: Path) -> None:
        try:
            self._descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
        except OSError as error:
            raise UsageError(f"{path}: can't be read: {error.strerror}") from error
        self.path = path
        try:
            self.header = self._read_header()
            self._check_part("old bytes", "data")
            self._check_part("digests of the new bytes", "digests")
        except BaseException:
            self.close()
            raise

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self.close()

    def close(self) -> None:
        """Let go of it; closing twice is harmless."""
        descriptor, self._descriptor = self._descriptor, -1
        if descriptor >= 0:
            os.close(descriptor)

    def pieces(self) -> Iterator[tuple[Change, bytes, bytes]]:
        """Pieces of at most 1 MiB in the order of writing: where, old bytes, new digests."""
        header = self.header
        sector_size = header.identity.sector_size
        at, digests_at = header.data_offset, header.digests_offset
        for piece in split_changes(header.changes):
            digests_size = piece.size // sector_size * _DIGEST_SIZE
            yield piece, self._read(at, piece.size), self._read(digests_at, digests_size)
            at += piece.size
            digests_at += digests_size

    def _check_part(self, what: str, name: str) -> None:
        offset, size = getattr(self.header, f"{name}_offset"), getattr(self.header, f"{name}_size")
        digest = hashlib.sha256()
        for at in range(offset, offset + size, WRITE_SIZE):
            digest.update(self._read(at, min(WRITE_SIZE, offset + size - at)))
        if digest.hexdigest() != getattr(self.header, f"{name}_sha256"):
            raise FormatError(f"{self.path}: its {what} are damaged: their SHA-256 differs")

    def _read(self, offset: int, size: int) -> bytes:
        data = os.pread(self._descriptor, size, offset)
        if len(data) != size:
            raise FormatError(f"{self.path}: is cut short at {offset + len(data):#x}")
        return data

    def _read_header(self) -> UndoHeader:
        with os.fdopen(os.dup(self._descriptor), "rb") as file:
            if file.readline(len(_FIRST_LINE)) != _FIRST_LINE:
                raise FormatError(
                    f"{self.path} is not an undo file of this version: expected it to begin with "
                    f"{_FIRST_LINE.decode().strip()!r}"
                )
            line = file.readline(_HEADER_SIZE_MAX)
            digest = file.readline(65).strip()
        if hashlib.sha256(line).hexdigest().encode() != digest:
            raise FormatError(f"{self.path}: its header is damaged: its SHA-256 differs")
        try:
            return _parse_header(json.loads(line))
        except (ValueError, TypeError, KeyError, RecursionError) as error:
            raise FormatError(f"{self.path}: its header makes no sense: {error}") from error


def check_same_target(header: UndoHeader, found: WindowsDiskIdentity, *, name: str) -> None:
    """The disk is the one that the file was made for, as far as it can be told by its outside.

    Raises:
        TargetRefusedError: says what differs.
    """
    differences: list[str] = []
    for field in fields(WindowsDiskIdentity):
        before, now = getattr(header.identity, field.name), getattr(found, field.name)
        # An image that was copied to a disk, or back, is judged by its sectors.
        is_outside = field.name not in {"size", "sector_size"}
        if is_outside and header.identity.is_device != found.is_device:
            continue
        if before != now:
            words = field.name.replace("_", " ")
            differences.append(f"{words}: expected {before}, found {now}")
    if differences:
        raise TargetRefusedError(
            f"{name} is not the disk that was changed: {'; '.join(differences)}",
            hint="nothing was written; `mediamaker devices` lists the disks",
        )


def compare_with_undo(undo: UndoFile, disk: ChangeableDisk) -> UndoState:
    """What every sector that the file knows holds now."""
    sector_size = undo.header.identity.sector_size
    old_count = new_count = foreign_count = 0
    foreign: list[tuple[int, int]] = []
    for piece, old, digests in undo.pieces():
        now = disk.pread(piece.offset, piece.size)
        if now == old:
            old_count += piece.size // sector_size
            continue
        for index, at in enumerate(range(0, piece.size, sector_size)):
            sector = now[at : at + sector_size]
            if sector == old[at : at + sector_size]:
                old_count += 1
            elif _digest(sector) == digests[index * _DIGEST_SIZE : (index + 1) * _DIGEST_SIZE]:
                new_count += 1
            else:
                foreign_count += 1
                offset = piece.offset + at
                if foreign and foreign[-1][1] == offset:
                    foreign[-1] = (foreign[-1][0], offset + sector_size)
                else:
                    foreign.append((offset, offset + sector_size))
    return UndoState(old_count, new_count, foreign_count, tuple(foreign[:4]))


def apply_undo(
    undo: UndoFile, disk: ChangeableDisk, *, meter: ProgressMeter, is_forced: bool = False
) -> UndoResult:
    """Put the old bytes back, in the reverse order of steps; a second run does no harm.

    ``is_forced``: over sectors that are neither old nor new, too.

    Raises:
        TargetRefusedError: something else wrote there since, or it is another disk.
        TargetIOError: the disk failed; VerifyError: it does not hold the old bytes afterwards.
    """
    state = compare_with_undo(undo, disk)
    if state.foreign_sectors and not is_forced:
        shown = ", ".join(format_range(start, end) for start, end in state.foreign_ranges)
        raise TargetRefusedError(
            f"{disk.name}: {state.foreign_sectors} sectors hold neither the old nor the new bytes "
            f"({shown}): the disk was in use since, or it is another one",
            hint="nothing was written; going back now would damage what was written since. If "
            "nothing was, and the disk kept other bytes than it was given: --force",
        )
    old_by_offset: dict[int, bytes] = {}
    restored = 0
    for step in sorted(Step, reverse=True):
        pieces: list[Change] = []
        old_by_offset.clear()
        batch_size = 0
        for piece, old, _ in undo.pieces():
            if piece.step != step or disk.pread(piece.offset, piece.size) == old:
                continue
            pieces.append(piece)
            old_by_offset[piece.offset] = old
            batch_size += piece.size
            if batch_size >= 64 * MIB:
                write_changes(pieces, lambda at, _: old_by_offset[at], disk, meter=meter)
                restored += batch_size
                pieces, batch_size = [], 0
                old_by_offset.clear()
        if pieces:
            write_changes(pieces, lambda at, _: old_by_offset[at], disk, meter=meter)
            restored += batch_size
    warning = disk.reread_partition_table() if restored else None
    return UndoResult(restored, undo.header.data_size, warning)


def _digest(sector: bytes) -> bytes:
    return hashlib.blake2b(sector, digest_size=_DIGEST_SIZE).digest()


def _sector_digests(data: bytes, sector_size: int) -> bytes:
    return b"".join(_digest(data[at : at + sector_size]) for at in range(0, len(data), sector_size))


def _replace(header: UndoHeader, **changed: Any) -> UndoHeader:
    values = {field.name: getattr(header, field.name) for field in fields(UndoHeader)}
    return UndoHeader(**(values | changed))


def _pack_header(header: UndoHeader) -> bytes:
    values = {field.name: getattr(header, field.name) for field in fields(UndoHeader)}
    values["identity"] = header.identity.to_json()
    del values["changes"]
    ranges = [
        [change.offset, change.size, int(change.step), change.name] for change in header.changes
    ]
    document = {"version": VERSION, **values, "ranges": ranges}
    line = json.dumps(document, ensure_ascii=True, separators=(",", ":")).encode() + b"\n"
    return _FIRST_LINE + line + hashlib.sha256(line).hexdigest().encode() + b"\n"


def _parse_header(document: Any) -> UndoHeader:
    if document["version"] != VERSION:
        raise ValueError(f"version {document['version']}, expected {VERSION}")
    identity = WindowsDiskIdentity(**document["identity"])
    changes = tuple(
        Change(int(offset), int(size), str(name), Step(step))
        for offset, size, step, name in document["ranges"]
    )
    values = {
        field.name: document[field.name]
        for field in fields(UndoHeader)
        if field.name not in {"identity", "changes"}
    }
    for name, value in values.items():
        wanted = int if name.endswith(("_offset", "_size")) else str
        if type(value) is not wanted or (isinstance(value, int) and value < 0):
            raise ValueError(f"{name} is {value!r}")
    header = UndoHeader(identity=identity, changes=changes, **values)
    sector_size = identity.sector_size
    if type(identity.size) is not int or type(identity.is_device) is not bool:
        raise ValueError("its identity has values of other types")
    if sector_size not in {512, 1024, 2048, 4096}:
        raise ValueError(f"a sector size of {sector_size}")
    for change in changes:
        if change.offset % sector_size or change.size % sector_size or change.size <= 0:
            raise ValueError(f"a range that is no whole sectors: {change.offset}, {change.size}")
        if change.offset < 0 or change.end > identity.size:
            raise ValueError(f"a range outside the disk: {change.offset}, {change.size}")
    total = sum(change.size for change in changes)
    if header.data_size != total or header.digests_size != total // sector_size * _DIGEST_SIZE:
        raise ValueError("its sizes do not agree with its ranges")
    return header
