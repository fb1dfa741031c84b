# SPDX-License-Identifier: GPL-3.0-or-later
"""The machines of a run as one HTML page: verdicts, screenshots, last words, links to the logs.

The page needs no network, no script and no other file: pictures are in it. Only the links lead
out, to the logs beside it. All that a guest or a file name may have said is escaped, and a
content security policy keeps the page from running or fetching anything whatever it holds.

Reference: HTML Living Standard; Content Security Policy Level 3.
"""

from __future__ import annotations

import base64
import os
import re
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from html import escape
from importlib import resources
from pathlib import Path
from urllib.parse import quote

from mediamaker.units import format_size
from mediamaker.vm.record import MachineRecord
from mediamaker.vm.screen import parse_serial

_TAIL_LINES, _TAIL_LINE_LENGTH = 20, 200
_LOG_SIZE_MAX = 64 * 1024
_POLICY = "default-src 'none'; img-src data:; style-src 'unsafe-inline'"
_MEDIA_TYPES = {".png": "image/png", ".svg": "image/svg+xml"}


@dataclass(frozen=True, slots=True)
class Row:
    """One line of the report.

    A row without a ``record`` is one that was not run; ``note`` says why. ``outcome`` is what
    the caller made of it, such as a test's; ``pictures`` come beside the screenshots. A verdict
    that ``is_wanted`` is no alarm: a test may pass because a machine does not boot.
    """

    title: str
    firmware: str
    bus: str
    record: MachineRecord | None = None
    note: str | None = None
    outcome: str | None = None
    pictures: tuple[Path, ...] = ()
    is_wanted: bool = False

    @property
    def is_proven(self) -> bool:
        """Whether it ran and the guest said what was expected."""
        return self.record is not None and self.record.verdict.is_proven

    @property
    def mark(self) -> str:
        """The verdict in at most two words; a machine that did not come up is not proven."""
        if self.is_proven:
            return "proven"
        return "does not apply" if self.is_left_out else "not proven"

    @property
    def style(self) -> str:
        """The class of its mark and card; empty for what is neither good nor bad."""
        if self.is_proven:
            return "proven"
        return "" if self.is_left_out or self.is_wanted else "unproven"

    @property
    def is_left_out(self) -> bool:
        """Whether there was nothing to run."""
        return self.record is None and self.outcome is None

    @property
    def words(self) -> str:
        """The verdict as a sentence, and what else is to be said."""
        said = [] if self.record is None else [self.record.verdict.words]
        return "; ".join([*said, *([self.note] if self.note else [])])


@dataclass(frozen=True, slots=True)
class Report:
    """``facts`` are name and value pairs under the title; a matrix is shown as a grid too."""

    title: str
    facts: tuple[tuple[str, str], ...]
    rows: tuple[Row, ...]
    is_matrix: bool = False

    @property
    def counts(self) -> dict[str, int]:
        """How many rows have which mark."""
        marks = [row.mark for row in self.rows]
        return {mark: marks.count(mark) for mark in ("proven", "not proven", "does not apply")}


def rows_of(
    records: Iterable[MachineRecord],
    *,
    title: str | None = None,
    outcome: str | None = None,
    is_wanted: bool = False,
) -> tuple[Row, ...]:
    """A row for each machine; without a ``title`` it is the machine's name."""
    return tuple(
        Row(
            title=title or record.name,
            firmware=record.firmware,
            bus=", ".join(disk.bus for disk in record.disks) or "no disk",
            record=record,
            outcome=outcome,
            pictures=tuple(sorted(record.directory.glob("*.svg"))),
            is_wanted=is_wanted,
        )
        for record in records
    )


def write_report(report: Report, path: Path) -> Path:
    """Render the page for its place; links are relative to it."""
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(render_report(report, path.parent), encoding="utf-8")
    return path


def render_report(report: Report, folder: Path) -> str:
    """The page as text, to be kept in ``folder``."""
    style = resources.files("mediamaker.vm").joinpath("report.css").read_text("utf-8")
    numbered = list(enumerate(report.rows, 1))
    parts = [
        "<!DOCTYPE html>",
        '<html lang="en"><head><meta charset="utf-8">',
        f'<meta http-equiv="Content-Security-Policy" content="{_POLICY}">',
        '<meta name="viewport" content="width=device-width, initial-scale=1">',
        f"<title>{_text(report.title)}</title>",
        f"<style>{style}</style></head><body>",
        f"<header><h1>{_text(report.title)}</h1>",
        *(f'<p class="faint">{_text(name)}: {_text(value)}</p>' for name, value in report.facts),
        '<p class="totals">',
        *_render_totals(report),
        "</p></header>",
    ]
    if report.is_matrix:
        parts += _render_grid(numbered)
    parts += _render_table(numbered)
    parts += ["<h2>Machines</h2>"] if any(row.record for row in report.rows) else []
    for number, row in numbered:
        if row.record is not None:
            parts += _render_card(number, row, row.record, folder)
    parts.append("</body></html>")
    return "\n".join(parts) + "\n"


def _render_totals(report: Report) -> Iterator[str]:
    """A chip for each mark, as bad as the worst row that has it."""
    for mark, count in report.counts.items():
        styles = {row.style for row in report.rows if row.mark == mark}
        if styles:
            yield _chip(f"{count} {mark}", "unproven" if "unproven" in styles else styles.pop())


def _render_grid(numbered: Sequence[tuple[int, Row]]) -> list[str]:
    buses = list(dict.fromkeys(row.bus for _, row in numbered))
    cells = {(row.firmware, row.bus): (number, row) for number, row in numbered}
    parts = ['<h2>At a glance</h2><div class="scroll"><table class="grid"><thead><tr><th></th>']
    parts += [f"<th>{_text(bus)}</th>" for bus in buses]
    parts.append("</tr></thead><tbody>")
    for firmware in dict.fromkeys(row.firmware for _, row in numbered):
        parts.append(f"<tr><th>{_text(firmware)}</th>")
        for bus in buses:
            found = cells.get((firmware, bus))
            shown = "" if found is None else _link_to_card(*found, _mark(found[1]))
            parts.append(f"<td>{shown}</td>")
        parts.append("</tr>")
    return [*parts, "</tbody></table></div>"]


def _render_table(numbered: Sequence[tuple[int, Row]]) -> list[str]:
    has_outcome = any(row.outcome for _, row in numbered)
    heads = ["", "machine", "firmware", "bus", "verdict", "what was seen", "seconds", "read"]
    heads += ["outcome"] if has_outcome else []
    parts = ['<h2>All of them</h2><div class="scroll"><table id="rows"><thead><tr>']
    parts += [f"<th>{head}</th>" for head in heads]
    parts.append("</tr></thead><tbody>")
    for number, row in numbered:
        record = row.record
        seconds = "" if record is None else f"{record.seconds:.1f}"
        parts += [
            f'<tr data-mark="{row.mark}"><td class="number">{number}</td>',
            f'<td class="name">{_link_to_card(number, row, _wrap(row.title))}</td>',
            f"<td>{_text(row.firmware)}</td><td>{_text(row.bus)}</td>",
            f"<td>{_mark(row)}</td>",
            f'<td class="words">{_text(_shorten(row.words.removeprefix(f"{row.mark}: ")))}</td>',
            f'<td class="number">{seconds}</td><td class="number">{_show_read(record)}</td>',
            f"<td>{_text(row.outcome or '')}</td></tr>" if has_outcome else "</tr>",
        ]
    return [*parts, "</tbody></table></div>"]


def _render_card(number: int, row: Row, record: MachineRecord, folder: Path) -> list[str]:
    verdict = record.verdict
    facts = [("verdict", _text(row.words))]
    if verdict.line is not None:
        facts.append(("line", f"<code>{_text(verdict.line)}</code>"))
    facts += [
        ("firmware", f"{_text(record.firmware)}, {_text(record.accelerator)}"),
        ("disks", "<br>".join(_show_disks(record)) or "none"),
        ("time", f"{record.seconds:.1f} s"),
    ]
    if record.reset_count:
        facts.append(("resets", str(record.reset_count)))
    if row.outcome:
        facts.append(("outcome", _text(row.outcome)))
    facts.append(("files", _link(record.directory, folder, record.name)))
    tail = _read_tail(record.directory / record.serial_log)
    return [
        f'<section class="card {row.style}" id="machine-{number}"><div class="head">',
        f"<h3>{number}. {_text(row.title)}</h3>{_mark(row)}</div>",
        '<div class="body"><div>',
        *(_render_shots(record, folder) or ['<p class="faint">No screenshot.</p>']),
        "</div><div><dl>",
        *(f"<dt>{name}</dt><dd>{shown}</dd>" for name, shown in facts),
        "</dl>",
        f'<div class="tail"><pre>{_text(tail)}</pre></div>'
        if tail
        else '<p class="faint">The serial line was silent.</p>',
        f"<p>{_link(record.directory / record.serial_log, folder, 'the whole serial log')}</p>",
        "</div></div>",
        *(_render_picture(path, record, folder, "picture") for path in row.pictures),
        "</section>",
    ]


def _render_shots(record: MachineRecord, folder: Path) -> list[str]:
    """Screenshots, the last one first."""
    paths = [record.directory / name for name in reversed(record.screenshots)]
    return [_render_picture(path, record, folder, "shot") for path in paths]


def _render_picture(path: Path, record: MachineRecord, folder: Path, style: str) -> str:
    """A picture with the page, and a link to its file."""
    try:
        data = base64.b64encode(path.read_bytes()).decode()
    except OSError as error:
        return f'<p class="faint">{_text(path.name)}: {_text(str(error.strerror))}</p>'
    return (
        f'<figure class="{style}"><img alt="{_text(path.name)} of {_text(record.name)}" '
        f'src="data:{_MEDIA_TYPES[path.suffix]};base64,{data}">'
        f"<figcaption>{_link(path, folder, path.name)}</figcaption></figure>"
    )


def _show_disks(record: MachineRecord) -> list[str]:
    shown = []
    for disk in record.disks:
        words = f"{disk.name} on {disk.bus}"
        if disk.bytes_read is not None:
            words += f", {format_size(disk.bytes_read)} read"
        if disk.bytes_written:
            words += f", {format_size(disk.bytes_written)} written"
        shown.append(_text(words))
    return shown


def _show_read(record: MachineRecord | None) -> str:
    if record is None:
        return ""
    counted = [disk.bytes_read for disk in record.disks if disk.bytes_read is not None]
    return format_size(sum(counted)) if counted else "not counted"


def _read_tail(path: Path) -> str:
    """The last words on the serial line; of a long log only the end is read."""
    try:
        with path.open("rb") as file:
            file.seek(max(0, path.stat().st_size - _LOG_SIZE_MAX))
            said = parse_serial(file.read())
    except OSError as error:
        return f"(serial log: {error.strerror})"
    lines = [line.rstrip()[:_TAIL_LINE_LENGTH] for line in said.splitlines()]
    while lines and not lines[-1]:
        lines.pop()
    return "\n".join(lines[-_TAIL_LINES:])


def _link_to_card(number: int, row: Row, shown: str) -> str:
    """``shown``, which is HTML, as a link to the machine's card where there is one."""
    return shown if row.record is None else f'<a href="#machine-{number}">{shown}</a>'


def _link(path: Path, folder: Path, words: str) -> str:
    relative = os.path.relpath(path.absolute(), folder.absolute())
    return f'<a href="{_text(quote(os.fsencode(relative)))}">{_text(words)}</a>'


def _mark(row: Row) -> str:
    return _chip(row.mark, row.style)


def _chip(words: str, style: str) -> str:
    return f'<span class="mark {style}">{_text(words)}</span>'


def _shorten(words: str) -> str:
    return words if len(words) <= _TAIL_LINE_LENGTH else words[: _TAIL_LINE_LENGTH - 3] + "..."


def _wrap(name: str) -> str:
    """A path or test as HTML that may go on in the next line where a word ends."""
    return re.sub(r"(::|[/_\[])", r"\1<wbr>", _text(name))


def _text(text: str) -> str:
    """Text for an element or a quoted attribute: no markup, no control or half characters."""
    kept = "".join(
        character
        if character in "\n\t"
        or (character.isprintable() and not 0xD800 <= ord(character) <= 0xDFFF)
        else "\N{REPLACEMENT CHARACTER}"
        for character in text
    )
    return escape(kept, quote=True)
