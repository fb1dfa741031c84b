# SPDX-License-Identifier: GPL-3.0-or-later
"""A trace for people (a table) and for programs (JSON)."""

from __future__ import annotations

from typing import Any

from mediamaker.sources.file_map import RECORD_PREFIX, Kind
from mediamaker.units import format_size
from mediamaker.vm.trace import Trace, TracedItem
from mediamaker.vm.verdict import Verdict

_ROWS_MAX = 40


def show_trace(trace: Trace, verdict: Verdict, *, rows_max: int = _ROWS_MAX) -> str:
    """The verdict, what is known, and the files in the order in which they were read."""
    lines = [f"trace: {verdict.outcome}: {verdict.words}"]
    lines += [f"  {known}" for known in verdict.known]
    rows = [item for item in trace.items if _is_shown(item)]
    lines.append(
        f"  {trace.request_count} reads of {format_size(trace.request_size)} in "
        f"{trace.seconds:.1f} s"
    )
    if rows:
        lines.append("  order   first    last       read        what")
    lines += [_row(item, trace) for item in rows[:rows_max]]
    rest = len(trace.items) - min(len(rows), rows_max)
    if rest:
        lines.append(f"  and {rest} more: folders, tables, and files that came with others")
    if trace.lost_count:
        lines.append(f"  {trace.lost_count} further reads are not in the log")
    return "\n".join(lines)


def trace_to_json(trace: Trace, verdict: Verdict) -> dict[str, Any]:
    """Everything, times rounded to milliseconds."""
    return {
        "verdict": verdict.outcome.value,
        "words": verdict.words,
        "known": list(verdict.known),
        "seconds": round(trace.seconds, 3),
        "reads": trace.request_count,
        "bytes_read": trace.request_size,
        "reads_lost": trace.lost_count,
        "items": [
            {
                "order": item.order,
                "name": item.name,
                "kind": item.kind.value if item.kind is not None else "unnamed",
                "partition": item.volume_number,
                "size": item.size,
                "bytes_read": item.read_size,
                "percent": round(item.percent, 1),
                "is_in_passing": item.is_in_passing,
                "reads": item.request_count,
                "first": round(item.first, 3),
                "last": round(item.last, 3),
                "bursts": [
                    {
                        "first": round(burst.first, 3),
                        "last": round(burst.last, 3),
                        "bytes": burst.size,
                    }
                    for burst in item.bursts
                ],
            }
            for item in trace.items
        ],
    }


def show_name(item: TracedItem, trace: Trace) -> str:
    """The name, with its partition where there are several."""
    if trace.volume_count > 1 and item.volume_number:
        return f"{item.name} (partition {item.volume_number})"
    return item.name


def _is_shown(item: TracedItem) -> bool:
    """Boot records and files that were read for themselves; the rest is in the JSON."""
    if item.kind is Kind.FILE:
        return not item.is_in_passing
    return item.kind is Kind.STRUCTURE and item.is_whole and not item.name.startswith(RECORD_PREFIX)


def _row(item: TracedItem, trace: Trace) -> str:
    percent = f"{item.percent:.4g} %"
    return (
        f"  {item.order:>5}  {item.first:>5.1f} s {item.last:>5.1f} s  "
        f"{format_size(item.read_size):>10} {percent:>7}  {show_name(item, trace)}"
    )
