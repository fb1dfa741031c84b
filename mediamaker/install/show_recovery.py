# SPDX-License-Identifier: GPL-3.0-or-later
"""What ``recovery add`` would do and what ``recovery check`` found, for people."""

from __future__ import annotations

from collections.abc import Iterator

from mediamaker.install.changes import STEP_WORDS, Change, Step, changes_size
from mediamaker.install.partition_table import PartitionTable, TableEntry
from mediamaker.install.recovery_add import PreparedRecovery
from mediamaker.install.recovery_check import CheckPoint, RecoveryReport
from mediamaker.units import format_range, format_size


def show_recovery(prepared: PreparedRecovery) -> list[str]:
    """The disk before and after, and what is written in which order."""
    lines = ["before:", *_show_table(prepared.before), "after:", *_show_table(prepared.after)]
    lines.append("written, in this order:")
    for step, changes in steps_of(prepared.changes):
        count = len(changes)
        ranges = f"{count} range{'' if count == 1 else 's'}"
        lines.append(f"  {format_size(changes_size(changes)):>10}  {STEP_WORDS[step]}, {ranges}")
    lines += [f"note: {note}" for note in prepared.notes]
    return lines


def show_report(report: RecoveryReport) -> list[str]:
    """A line for each point, and the verdict."""
    lines = [f"{_mark(point)}  {point.name}: {point.message}" for point in report.points]
    verdict = "would start" if report.would_start else "would NOT start"
    lines.append(f"WinRE {verdict} when Windows fails to")
    return lines


def steps_of(changes: tuple[Change, ...]) -> Iterator[tuple[Step, list[Change]]]:
    """The changes of each step that has any."""
    for step in Step:
        found = [change for change in changes if change.step == step]
        if found:
            yield step, found


def _mark(point: CheckPoint) -> str:
    if point.is_good:
        return "ok  "
    return "note" if point.is_advice else "BAD "


def _show_table(table: PartitionTable) -> Iterator[str]:
    position = table.usable[0]
    for entry in sorted(table.entries, key=lambda item: item.start):
        if entry.start - position > 0:
            yield from _show_gap(position, entry.start)
        yield _show_entry(entry)
        position = max(position, entry.end)
    yield from _show_gap(position, table.usable[1])


def _show_gap(start: int, end: int) -> Iterator[str]:
    if end - start >= 1 << 20:
        yield f"       {format_range(start, end)}  {format_size(end - start)}  free"


def _show_entry(entry: TableEntry) -> str:
    kind = f"type {entry.type_guid}" if entry.type_guid else f"type {entry.type_code:#04x}"
    words = [f"  {entry.number:>3}", format_range(entry.start, entry.end), format_size(entry.size)]
    words += ["recovery" if entry.is_recovery else kind]
    words += [f'"{entry.partition_name}"'] if entry.partition_name else []
    words += ["active"] if entry.is_active else []
    return "  ".join(words)
