# SPDX-License-Identifier: GPL-3.0-or-later
"""Undo of a create: the old table, boot sectors and superblocks back to where they were.

The order is that of a write, so that an interrupted undo leaves a disk that looks blank, and a
second one goes on: the new tables become zeros; what was kept goes back, but for the old tables;
these, from the last to the first; sector 0 alone. Then all is read back and compared.

It is refused where the tables are neither the old nor the new ones nor blank: somebody has made
another disk of it since, and what is on it now would be the next thing lost.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Protocol

from mediamaker.errors import TargetIOError, TargetRefusedError, VerifyError
from mediamaker.execute.before import BeforeFile, BeforeHeader, lost_ranges, sector_digests
from mediamaker.execute.pipeline import aligned_buffer
from mediamaker.execute.progress import Phase, ProgressMeter
from mediamaker.execute.runs import intersect_runs, is_within, subtract_runs
from mediamaker.execute.steps import Run, merge_runs, runs_size
from mediamaker.units import MIB, format_range, format_size

_BUFFER_SIZE = MIB
_DIGEST_SIZE = 8


class WritableDisk(Protocol):
    """What old bytes go back to; it raises plain ``OSError``."""

    @property
    def name(self) -> str:
        """What a person calls it."""

    def pread(self, offset: int, size: int) -> bytes:
        """Exactly ``size`` bytes."""

    def pwrite(self, offset: int, buffer: memoryview) -> int:
        """Write some bytes of a page-aligned ``buffer``; how many."""

    def flush(self) -> None:
        """What was written is on the medium."""

    def drop_caches(self) -> None:
        """Make the next reads come from the medium."""


@dataclass(frozen=True, slots=True)
class TableState:
    """How many sectors of the tables are as they were before, as create made them, blank, and
    neither; ``foreign_range`` is the first of the last kind."""

    old_sectors: int
    new_sectors: int
    blank_sectors: int
    foreign_sectors: int
    foreign_range: Run | None


def compare_tables(before: BeforeFile, disk: WritableDisk) -> TableState:
    """Whose tables are on the disk now.

    Raises:
        TargetIOError: it can't be read.
    """
    try:
        return _compare_tables(before, disk)
    except OSError as error:
        raise _failure(disk, "reading its tables", error) from error


def _compare_tables(before: BeforeFile, disk: WritableDisk) -> TableState:
    header = before.header
    sector_size = header.sector_size
    digests = bytes.fromhex(header.commit_digests)
    counts = {"old": 0, "new": 0, "blank": 0, "foreign": 0}
    foreign: Run | None = None
    index = 0
    for start, end in header.commit:
        for at in range(start, end, _BUFFER_SIZE):
            size = min(_BUFFER_SIZE, end - at)
            now = disk.pread(at, size)
            old = bytearray(now)
            before.overlay(at, old)
            found = sector_digests(now, sector_size)
            for offset in range(0, size, sector_size):
                sector = now[offset : offset + sector_size]
                position = offset // sector_size * _DIGEST_SIZE
                wanted = digests[index : index + _DIGEST_SIZE]
                index += _DIGEST_SIZE
                is_saved = is_within(header.saved, at + offset)
                if found[position : position + _DIGEST_SIZE] == wanted:
                    kind = "new"
                elif not any(sector):
                    kind = "blank"
                elif is_saved and sector == old[offset : offset + sector_size]:
                    kind = "old"
                else:
                    kind = "foreign"
                    foreign = foreign or (at + offset, at + offset + sector_size)
                counts[kind] += 1
    return TableState(counts["old"], counts["new"], counts["blank"], counts["foreign"], foreign)


def show_recoverable(header: BeforeHeader) -> list[str]:
    """Lines that say of each old partition what is back after the undo, and what is gone."""
    table = f"{header.table_type} partition table" if header.table_type else "no partition table"
    kept, written = format_size(runs_size(header.saved)), format_size(runs_size(header.written))
    lines = [
        f"{table}, as it was at {header.made_at}; kept: {kept} of the {written} to be overwritten"
    ]
    for partition in header.partitions:
        if partition.kind == "extended":
            continue
        who = f"partition {partition.number}" if partition.number else "the whole disk"
        where = format_range(partition.start, partition.end)
        about = f"  {who} {where} {format_size(partition.size)} {partition.contents}: "
        lost = lost_ranges(header, partition)
        touched = intersect_runs([(partition.start, partition.end)], header.written)
        if not touched:
            lines.append(about + "all of it is as it was")
        elif not lost:
            lines.append(about + "all of it is back: what was overwritten was kept")
        elif runs_size(lost) * 100 >= partition.size * 98:
            lines.append(about + "its contents are gone: nearly all of it was overwritten")
        else:
            gone = ", ".join(format_range(start, end) for start, end in lost[:4])
            gone += f" and {len(lost) - 4} more ranges" if len(lost) > 4 else ""
            rest = partition.size - runs_size(lost)
            lines.append(
                about
                + f"its beginning is back and {format_size(rest)} are as they were; gone for good "
                f"are {format_size(runs_size(lost))}: {gone}. Files and records there are lost: "
                "copy what you need off it, do not write to it"
            )
    if not header.partitions:
        lines.append("  no partitions were known")
    return lines


def put_back(
    before: BeforeFile, disk: WritableDisk, *, meter: ProgressMeter, is_forced: bool = False
) -> int:
    """Write what was kept; returns how many bytes were other than before.

    ``is_forced``: over tables that are neither old nor create's, too.

    Raises:
        TargetRefusedError: the disk has other tables by now.
        TargetIOError: it failed; VerifyError: it does not hold the old bytes afterwards.
    """
    header = before.header
    state = compare_tables(before, disk)
    if state.foreign_range is not None and not is_forced:
        raise TargetRefusedError(
            f"{disk.name}: {state.foreign_sectors} sectors of its tables are neither as before nor "
            f"as create made them (first {format_range(*state.foreign_range)}): it was partitioned "
            "or formatted since",
            hint="nothing was written; going back would lose what is on it now. If nobody did, and "
            "the disk kept other bytes than it was given: --force",
        )
    try:
        changed = sum(
            len(old) for offset, old in before.pieces() if disk.pread(offset, len(old)) != old
        )
    except OSError as error:
        raise _failure(disk, "comparing", error) from error
    if not changed:
        return 0
    tables = merge_runs(header.commit)
    first_sector = (0, header.sector_size)
    contents = subtract_runs(header.saved, tables)
    old_tables = subtract_runs(intersect_runs(header.saved, tables), [first_sector])
    meter.start(Phase.WRITE, runs_size(tables) + runs_size(header.saved))
    writer = _Writer(disk, meter)
    try:
        for run in tables:
            writer.zero(run)
        disk.flush()
        writer.put(before, contents)
        disk.flush()
        for run in reversed(old_tables):
            writer.put(before, [run])
        disk.flush()
        writer.put(before, intersect_runs(header.saved, [first_sector]))
        disk.flush()
        disk.drop_caches()
        meter.start(Phase.VERIFY, runs_size(header.saved))
        for offset, old in before.pieces():
            if disk.pread(offset, len(old)) != old:
                raise VerifyError(
                    f"{disk.name}: {format_range(offset, offset + len(old))} does not hold what "
                    "was put back",
                    hint="the medium may be failing; the undo file is kept",
                )
        meter.finish()
    except OSError as error:
        raise _failure(disk, "putting back", error) from error
    return changed


def _failure(disk: WritableDisk, doing: str, error: OSError) -> TargetIOError:
    return TargetIOError(
        f"{disk.name}: {doing} failed: {error.strerror}",
        hint="the undo file is kept; run it again",
    )


class _Writer:
    def __init__(self, disk: WritableDisk, meter: ProgressMeter) -> None:
        self._disk = disk
        self._meter = meter
        self._buffer = aligned_buffer(_BUFFER_SIZE)
        self._done = 0

    def zero(self, run: Run) -> None:
        start, end = run
        for at in range(start, end, _BUFFER_SIZE):
            self._write(at, bytes(min(_BUFFER_SIZE, end - at)))

    def put(self, before: BeforeFile, runs: list[Run]) -> None:
        for start, end in runs:
            for at in range(start, end, _BUFFER_SIZE):
                data = bytearray(min(_BUFFER_SIZE, end - at))
                before.overlay(at, data)
                self._write(at, bytes(data))

    def _write(self, offset: int, data: bytes) -> None:
        view = self._buffer[: len(data)]
        view[:] = data
        while view:
            count = self._disk.pwrite(offset, view)
            if count <= 0:
                raise OSError(5, "wrote nothing")
            offset += count
            self._done += count
            self._meter.update(self._done)
            view = view[count:]
