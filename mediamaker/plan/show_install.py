# SPDX-License-Identifier: GPL-3.0-or-later
"""The plan of an install as text and JSON: the disk before and after, the steps, the extents.

Pure strings; the same plan gives the same text. What a disk says of itself (labels, names) is
shown without control characters: it is not ours.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any, Protocol, assert_never

from mediamaker.plan.codec import plan_to_json
from mediamaker.plan.describe_install import file_system_name, format_volume_serial, type_name
from mediamaker.plan.disk_layout import Attribute
from mediamaker.plan.geometry import PARTITION_ALIGNMENT
from mediamaker.plan.install import (
    INSTALL_FORMAT,
    INSTALL_FORMAT_VERSION,
    ApplyImage,
    InstallPlan,
    Step,
    WriteExtents,
    step_to_json,
)
from mediamaker.plan.place_disk import PlacedDisk, PlacedPartition
from mediamaker.plan.show import show_picture, show_table
from mediamaker.units import format_range, format_size

WIDTH = 76
_LABEL_MAX = 22
_FREE = "free"


class ExistingPartition(Protocol):
    """What is asked of a partition that is on the disk now (``devices.table`` has it)."""

    @property
    def number(self) -> int: ...  # noqa: D102 - plain facts, named as what they are
    @property
    def start(self) -> int: ...  # noqa: D102
    @property
    def size(self) -> int: ...  # noqa: D102
    @property
    def kind(self) -> str: ...  # noqa: D102
    @property
    def partition_name(self) -> str | None: ...  # noqa: D102
    @property
    def file_system(self) -> str | None: ...  # noqa: D102
    @property
    def volume_label(self) -> str | None: ...  # noqa: D102


class ExistingTable(Protocol):
    """What is asked of the table that is on the disk now."""

    @property
    def size(self) -> int: ...  # noqa: D102
    @property
    def type(self) -> str | None: ...  # noqa: D102
    @property
    def partitions(self) -> Sequence[ExistingPartition]: ...  # noqa: D102


@dataclass(frozen=True, slots=True)
class Row:
    """One partition, or one free range, of a picture: ``[start, end)`` in bytes."""

    start: int
    end: int
    title: str
    details: str

    @property
    def size(self) -> int:
        """Bytes."""
        return self.end - self.start


def show_install(install: InstallPlan, before: ExistingTable | None = None) -> str:
    """The whole dry run."""
    plan, placed = install.plan, install.placed
    facts = {
        "disk": (
            f"{format_size(plan.geometry.size)} ({plan.geometry.size} bytes), "
            f"sectors of {plan.geometry.logical_sector_size} bytes"
        ),
        "layout": f"{placed.layout.name}: {placed.layout.summary}".rstrip(": "),
        "boots": ", ".join(plan.boots) or "nothing that mediamaker knows of",
        **{key.replace("_", " "): value for key, value in plan.identities.items()},
        "plan_id": plan.plan_id,
        "install_id": install.install_id,
    }
    lines = [
        *(f"{key:<15} {value}" for key, value in facts.items()),
        "",
        *show_disk_change(before, placed),
        "",
        "steps",
        *(f"{number:>3}. {line}" for number, line in enumerate(_step_lines(install), start=1)),
        "",
        *show_picture(plan),
        "",
        *show_table(plan),
    ]
    lines += [""] if plan.notes or plan.warnings else []
    lines += [f"note: {note}" for note in plan.notes]
    lines += [f"warning: {warning}" for warning in plan.warnings]
    return "\n".join(lines)


def show_disk_change(before: ExistingTable | None, placed: PlacedDisk) -> list[str]:
    """The disk as it is and as it will be; ``before`` None: a new image file."""
    if before is None:
        lines = ["before: nothing, the file is new"]
    else:
        rows = list(_rows_before(before))
        kind = f"{_clean(before.type)} table" if before.type is not None else "no partition table"
        lines = [f"before: {kind}, {len(before.partitions)} partitions", *show_rows(rows)]
    rows = list(_rows_after(placed))
    table = "gpt" if placed.layout.table == "gpt" else "msdos"
    lines += ["", f"after: {table} table, {len(placed.partitions)} partitions", *show_rows(rows)]
    return lines


def show_rows(rows: Sequence[Row], width: int = WIDTH) -> list[str]:
    """A bar with one cell a row, as far as they fit, and a table of all of them."""
    lines = _bar(rows, width)
    title_width = max((len(row.title) for row in rows), default=0)
    lines += [
        f"  {row.title:<{title_width}}  {format_size(row.size):>10}  "
        f"{format_range(row.start, row.end)}  {row.details}".rstrip()
        for row in rows
    ]
    return lines


def install_to_json(install: InstallPlan, *, with_extents: bool = True) -> dict[str, Any]:
    """``install`` as one JSON object; ``plan`` in it is what ``verify --plan`` reads."""
    placed = install.placed
    return {
        "format": INSTALL_FORMAT,
        "format_version": INSTALL_FORMAT_VERSION,
        "install_id": install.install_id,
        **placed_to_json(placed),
        "steps": [step_to_json(step) for step in install.steps],
        "plan": plan_to_json(install.plan, with_extents=with_extents),
    }


def placed_to_json(placed: PlacedDisk) -> dict[str, Any]:
    """The layout and where its partitions lie."""
    return {
        "layout": {
            "name": placed.layout.name,
            "table": placed.layout.table,
            "summary": placed.layout.summary,
        },
        "partitions": [_partition_to_json(placed, item) for item in placed.partitions],
    }


def _partition_to_json(placed: PlacedDisk, partition: PlacedPartition) -> dict[str, Any]:
    spec = partition.spec
    return {
        "number": partition.number,
        "role": spec.role.value,
        "name": spec.name,
        "start": partition.start,
        "size": partition.size,
        "type_guid": None if spec.type_guid is None else str(spec.type_guid),
        "type_code": spec.type_code,
        "attributes": f"{spec.attributes:#018x}",
        "unique_guid": None if partition.unique_guid is None else str(partition.unique_guid),
        "is_active": spec.is_active,
        "file_system": file_system_name(spec),
        "volume_label": spec.volume_label,
        "volume_serial": format_volume_serial(partition) if spec.file_system else None,
        "cluster_size": spec.cluster_size,
        "hidden_sectors": placed.hidden_sectors(partition),
    }


def _step_lines(install: InstallPlan) -> Iterator[str]:
    for step in install.steps:
        yield _step_line(step)


def _step_line(step: Step) -> str:
    match step:
        case WriteExtents(name, extents, _):
            return f"write {format_size(extents.written_size)}: {name}"
        case ApplyImage(partition, _, image):
            names = ", ".join(_clean(file.path.rpartition("/")[2]) for file in image.files)
            extras = f", with {len(image.extras)} files added" if image.extras else ""
            return (
                f"apply image {image.image_number} ({_clean(image.image_name)}) of {names} "
                f"to partition {partition.number}{extras}"
            )
        case _:
            assert_never(step)


def _rows_before(table: ExistingTable) -> Iterator[Row]:
    position = 0
    for item in sorted(table.partitions, key=lambda item: (item.start, item.number)):
        if item.kind == "extended":
            continue
        yield from _free(position, item.start)
        words = [
            _clean(item.file_system or "unknown"),
            f'"{_clean(item.volume_label)}"' if item.volume_label else "",
            f"({_clean(item.partition_name)})" if item.partition_name else "",
        ]
        title = f"{item.number} {_clean(item.volume_label or item.file_system or 'unknown')}"
        details = " ".join(filter(None, words))
        yield Row(item.start, item.start + item.size, title[:_LABEL_MAX], details)
        position = max(position, item.start + item.size)
    yield from _free(position, table.size)


def _rows_after(placed: PlacedDisk) -> Iterator[Row]:
    position = 0
    for partition in placed.partitions:
        yield from _free(position, partition.start)
        spec = partition.spec
        words = [
            type_name(spec),
            file_system_name(spec) if spec.file_system else "",
            f'"{spec.volume_label}"' if spec.volume_label else "",
            "active" if spec.is_active else "",
            *(item.value for item in Attribute if spec.attributes & item.mask),
        ]
        title = f"{partition.number} {spec.role.value}"
        details = ", ".join(filter(None, words))
        yield Row(partition.start, partition.end, title, details)
        position = partition.end
    yield from _free(position, placed.geometry.size)


def _free(start: int, end: int) -> Iterator[Row]:
    """What lies between partitions, where that is more than the room that tables take."""
    if end - start > PARTITION_ALIGNMENT:
        yield Row(start, end, _FREE, "")


def _bar(rows: Sequence[Row], width: int) -> list[str]:
    """Cells as wide as their texts at least; what room is left goes by size."""
    texts = [(row.title, format_size(row.size)) for row in rows]
    least = [max(map(len, text)) + 2 for text in texts]
    room = width - 1 - sum(least) - len(rows)
    if not rows or room < 0:
        return []
    total = sum(row.size for row in rows)
    widths = [low + room * row.size // total for low, row in zip(least, rows, strict=True)]
    border = "+" + "+".join("-" * cell for cell in widths) + "+"
    lines = [border]
    for index in range(2):
        cells = zip(texts, widths, strict=True)
        lines.append("|" + "|".join(text[index].center(cell) for text, cell in cells) + "|")
    return [*lines, border]


def _clean(text: str | None) -> str:
    return "".join(char if char.isprintable() else "?" for char in text or "")
