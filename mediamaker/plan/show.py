# SPDX-License-Identifier: GPL-3.0-or-later
"""A plan as text: the disk as a picture, a table of what lies where, what was decided.

Pure strings; the same plan gives the same text.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass

from mediamaker.extents import Extent, Unwritten, Zeros
from mediamaker.plan.model import Plan
from mediamaker.units import format_range, format_size

_WIDTH = 64
_LARGEST_COUNT = 8
_FILE, _STRUCTURE, _ZEROS, _FREE = "#", "=", "0", "."
_LEGEND = f"{_STRUCTURE} tables and file system   {_FILE} files   {_ZEROS} zeros   {_FREE} left"


@dataclass(frozen=True, slots=True)
class Row:
    """One line of the table: ``[start, end)`` in bytes, what it is, how many bytes are written."""

    start: int
    end: int
    what: str
    written_size: int


def show_plan(plan: Plan) -> str:
    """The whole dry run."""
    facts = {
        "disk": (
            f"{format_size(plan.geometry.size)} ({plan.geometry.size} bytes), "
            f"sectors of {plan.geometry.logical_sector_size} bytes"
        ),
        "layout": f"{plan.layout.value}: {plan.layout.summary}",
        "boots": ", ".join(plan.boots) or "nothing that mediamaker knows of",
        **{key.replace("_", " "): value for key, value in plan.identities.items()},
        "plan_id": plan.plan_id,
    }
    lines = [
        *(f"{key:<15} {value}" for key, value in facts.items()),
        "",
        *show_picture(plan),
        "",
        *show_table(plan),
    ]
    largest = show_largest(plan)
    if largest:
        lines += ["", "largest files", *largest]
    lines += [""] if plan.notes or plan.warnings else []
    lines += [f"note: {note}" for note in plan.notes]
    lines += [f"warning: {warning}" for warning in plan.warnings]
    return "\n".join(lines)


def show_picture(plan: Plan, width: int = _WIDTH) -> list[str]:
    """The disk as a bar, one character a cell: what most of its written bytes are."""
    size = plan.geometry.size
    cells = []
    for index in range(width):
        low, high = size * index // width, size * (index + 1) // width
        weights: dict[str, int] = {}
        for extent in plan.extents.within(low, high):
            kind = kind_of(extent)
            weights[kind] = weights.get(kind, 0) + extent.size
        # What is written shows, however small: a stick is mostly free.
        written_kinds = [kind for kind in weights if kind != _FREE] or [_FREE]
        cells.append(max(written_kinds, key=lambda kind: (weights.get(kind, 0), kind)))
    # The ends hold the tables: far smaller than a cell, yet what people look for.
    cells[0] = _STRUCTURE if kind_of(plan.extents.find(0)) == _STRUCTURE else cells[0]
    cells[-1] = _STRUCTURE if kind_of(plan.extents.find(size - 1)) == _STRUCTURE else cells[-1]
    written = plan.extents.written_size
    share = written * 1000 // size
    lines = ["+" + "-" * width + "+", "|" + "".join(cells) + "|"]
    lines.append("|" + _partition_line(plan, width) + "|")
    lines.append("+" + "-" * width + "+")
    lines.append(_LEGEND)
    lines.append(
        f"to write: {format_size(written)} ({share // 10}.{share % 10} % of the disk) "
        f"in {len(plan.extents)} extents"
    )
    return lines


def show_table(plan: Plan) -> list[str]:
    """What lies where: one line a region."""
    rows = list(table_rows(plan))
    what_width = max(len(row.what) for row in rows)
    lines = [f"{'what':<{what_width}}  {'size':>10}  {'written':>10}  range"]
    lines += [
        f"{row.what:<{what_width}}  {format_size(row.end - row.start):>10}  "
        f"{format_size(row.written_size):>10}  {format_range(row.start, row.end)}"
        for row in rows
    ]
    return lines


def table_rows(plan: Plan) -> Iterator[Row]:
    """Regions in ascending order; runs of files and of file system structures are one each."""
    group: list[Extent] = []
    for extent in plan.extents:
        if group and _group_key(plan, group[-1]) != _group_key(plan, extent):
            yield _row(plan, group)
            group = []
        group.append(extent)
    if group:
        yield _row(plan, group)


def show_largest(plan: Plan, count: int = _LARGEST_COUNT) -> list[str]:
    """The largest files of the plan, largest first."""
    # A path may be in two volumes.
    sizes: dict[tuple[str, int], int] = {}
    starts: dict[tuple[str, int], int] = {}
    for extent in plan.extents:
        if is_file(extent):
            key = extent.name, _group_key(plan, extent)[1]
            sizes[key] = sizes.get(key, 0) + extent.size
            starts.setdefault(key, extent.start)
    ranked = sorted(sizes, key=lambda key: (-sizes[key], key))[:count]
    return [f"{format_size(sizes[key]):>10}  {starts[key]:#x}  {key[0]}" for key in ranked]


def is_file(extent: Extent) -> bool:
    """Whether the extent is content of a file of the volume: those are named by their path."""
    return extent.name.startswith("\\") or extent.name.endswith("of the ISO")


def kind_of(extent: Extent) -> str:
    """The picture's character for an extent."""
    if isinstance(extent.source, Unwritten):
        return _FREE
    if is_file(extent):
        return _FILE
    if isinstance(extent.source, Zeros):
        return _ZEROS
    return _STRUCTURE


def _partition_line(plan: Plan, width: int) -> str:
    line = [" "] * width
    for partition in plan.partitions:
        low = partition.start * width // plan.geometry.size
        high = max(low + 2, partition.end * width // plan.geometry.size)
        active = ", active" if partition.is_active else ""
        words = (
            f'{partition.number} {partition.file_system} "{partition.volume_label}" '
            f"{format_size(partition.size)}{active}"
        )
        room = min(high, width) - low
        line[low : low + room] = f"<{words[: max(0, room - 2)].center(max(0, room - 2), '-')}>"
    return "".join(line)[:width]


def _group_key(plan: Plan, extent: Extent) -> tuple[str, int]:
    for partition in plan.partitions:
        if partition.start <= extent.start < partition.end:
            if isinstance(extent.source, Unwritten):
                return "free", partition.number
            content = is_file(extent) or extent.name.startswith("padding")
            return ("files" if content else "structures"), partition.number
    return extent.name, 0


def _row(plan: Plan, group: list[Extent]) -> Row:
    start, end = group[0].start, group[-1].end
    written = sum(e.size for e in group if not isinstance(e.source, Unwritten))
    kind, number = _group_key(plan, group[0])
    match kind, number:
        case "files", _:
            count = len({extent.name for extent in group if is_file(extent)})
            what = f"partition {number}: {count} files" if count != 1 else group[0].name
        case "structures", _ if number:
            what = f"partition {number}: {_names(group)}"
        case "free", _ if number:
            # What another step fills is unwritten too, but it is not free.
            name = group[0].name
            is_filled = name.startswith(f"partition {number},")
            what = name if is_filled else f"partition {number}: free"
        case _:
            what = group[0].name
    return Row(start, end, what, written)


def _names(group: Iterable[Extent]) -> str:
    names = list(dict.fromkeys(e.name for e in group if not isinstance(e.source, Zeros)))
    directories = [name for name in names if name.startswith("directory")]
    others = [name for name in names if not name.startswith("directory")]
    if len(directories) > 1:
        others.append(f"{len(directories)} directories")
    else:
        others += directories
    text = ", ".join(others) or "zeros"
    return text if len(text) <= 60 else text[:57] + "..."
