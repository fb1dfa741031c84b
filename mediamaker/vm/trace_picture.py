# SPDX-License-Identifier: GPL-3.0-or-later
"""A trace as a picture: a row for each file, a bar for each burst of reads. SVG, by our own hand.

The same trace gives the same bytes. Bars of one file are darker the more of it they read.
Reference: Scalable Vector Graphics 1.1 (Second Edition).
"""

from __future__ import annotations

import math
from xml.sax.saxutils import escape

from mediamaker.sources.file_map import RECORD_PREFIX, Kind
from mediamaker.units import format_size
from mediamaker.vm.trace import Trace, TracedItem
from mediamaker.vm.trace_show import show_name
from mediamaker.vm.verdict import Outcome, Verdict

_ROWS_MAX = 60
_ROW_HEIGHT, _HEAD_HEIGHT, _FOOT_HEIGHT = 18, 64, 34
_NAME_WIDTH, _CHART_WIDTH, _NUMBER_WIDTH, _MARGIN = 380, 640, 170, 12
_NAME_LENGTH_MAX = 52
_TICKS = (0.1, 0.2, 0.5, 1, 2, 5, 10, 20, 60, 120, 300, 600, 1800, 3600)
_TICK_COUNT_MAX = 10
_STYLE = """\
text { font: 12px sans-serif; fill: #222 }
.title { font-size: 15px; font-weight: bold }
.faint { fill: #777 }
.number { text-anchor: end }
.grid { stroke: #ddd; stroke-width: 1 }
.track { fill: #f4f4f4 }
.file { fill: #1f6feb } .directory { fill: #8250df } .structure { fill: #9a6700 }
.unnamed { fill: #888 } .passing { fill: #a8c7fa }"""
_GOOD = frozenset({Outcome.REACHED_RAMDISK, Outcome.REACHED_PROGRAM})


def draw_timeline(trace: Trace, verdict: Verdict) -> str:
    """The picture as the text of an SVG file."""
    rows = _choose_rows(trace)
    width = _MARGIN * 2 + _NAME_WIDTH + _CHART_WIDTH + _NUMBER_WIDTH
    bottom = _HEAD_HEIGHT + _ROW_HEIGHT * len(rows)
    height = bottom + _FOOT_HEIGHT
    color = "#1a7f37" if verdict.outcome in _GOOD else "#222"
    lines = [
        (
            f'<svg xmlns="http://www.w3.org/2000/svg" width="{width}" height="{height}" '
            f'viewBox="0 0 {width} {height}">'
        ),
        f"<title>{_text(verdict.words)}</title>",
        f"<style>{_STYLE}</style>",
        f'<rect width="{width}" height="{height}" fill="#fff"/>',
        (
            f'<text class="title" x="{_MARGIN}" y="24" style="fill: {color}">'
            f"{_text(_shorten(verdict.words, 150))}</text>"
        ),
        (
            f'<text class="faint" x="{_MARGIN}" y="44">{trace.request_count} reads, '
            f"{format_size(trace.request_size)}, {trace.seconds:.1f} s; pale: read together with "
            "other files only</text>"
        ),
    ]
    lines += _draw_grid(trace, bottom)
    for index, item in enumerate(rows):
        lines += _draw_row(item, trace, _HEAD_HEIGHT + _ROW_HEIGHT * index)
    left_out = len(trace.items) - len(rows)
    if left_out:
        lines.append(
            f'<text class="faint" x="{_MARGIN}" y="{height - 8}">{left_out} more folders, tables '
            "and files are in the JSON</text>"
        )
    lines.append("</svg>")
    return "\n".join(lines) + "\n"


def _choose_rows(trace: Trace) -> list[TracedItem]:
    """Files first when there is no room for all; always in the order of reading."""

    def weight(item: TracedItem) -> tuple[int, int]:
        is_lesser = item.kind is not Kind.FILE or item.is_in_passing
        return (2 if item.kind is Kind.DIRECTORY else int(is_lesser)), item.order

    shown = [item for item in trace.items if not item.name.startswith(RECORD_PREFIX)]
    chosen = sorted(shown, key=weight)[:_ROWS_MAX]
    return sorted(chosen, key=lambda item: item.order)


def _draw_grid(trace: Trace, bottom: int) -> list[str]:
    lines = []
    span = trace.seconds - _begin(trace)
    step = next((tick for tick in _TICKS if span / tick <= _TICK_COUNT_MAX), _TICKS[-1])
    first = math.ceil(_begin(trace) / step)
    for index in range(first, int(trace.seconds / step) + 1):
        x = _x(index * step, trace)
        lines.append(
            f'<line class="grid" x1="{x}" y1="{_HEAD_HEIGHT - 4}" x2="{x}" y2="{bottom}"/>'
        )
        lines.append(
            f'<text class="faint" x="{x}" y="{bottom + 14}" text-anchor="middle">'
            f"{index * step:g} s</text>"
        )
    return lines


def _draw_row(item: TracedItem, trace: Trace, y: int) -> list[str]:
    baseline = y + 13
    name = show_name(item, trace)
    lines = [
        (
            f'<g><title>{_text(name)}</title><text x="{_MARGIN}" y="{baseline}">'
            f"{_text(_shorten(name, _NAME_LENGTH_MAX))}</text>"
        ),
        (
            f'<rect class="track" x="{_MARGIN + _NAME_WIDTH}" y="{y + 3}" width="{_CHART_WIDTH}" '
            f'height="{_ROW_HEIGHT - 6}"/>'
        ),
    ]
    kind = "unnamed" if item.kind is None else item.kind.value
    style = "passing" if item.is_in_passing else kind
    for burst in item.bursts:
        x = _x(burst.first, trace)
        bar_width = max(2.0, round(_x(burst.last, trace) - x, 1))
        share = min(1.0, burst.size / item.size) if item.size else 1.0
        lines.append(
            f'<rect class="{style}" x="{x}" y="{y + 3}" width="{bar_width}" '
            f'height="{_ROW_HEIGHT - 6}" fill-opacity="{0.35 + 0.65 * share:.2f}"/>'
        )
    right = _MARGIN + _NAME_WIDTH + _CHART_WIDTH + _NUMBER_WIDTH
    lines.append(
        f'<text class="number" x="{right}" y="{baseline}">{item.percent:.4g} % of '
        f"{format_size(item.size)}</text></g>"
    )
    return lines


def _begin(trace: Trace) -> float:
    """The first read: what firmware does before is of no interest here."""
    return trace.items[0].first if trace.items else 0.0


def _x(seconds: float, trace: Trace) -> float:
    begin = _begin(trace)
    span = trace.seconds - begin
    share = (seconds - begin) / span if span else 0.0
    return round(_MARGIN + _NAME_WIDTH + share * _CHART_WIDTH, 1)


def _shorten(text: str, length: int) -> str:
    """The end of a path says more than its beginning."""
    return text if len(text) <= length else "..." + text[3 - length :]


def _text(text: str) -> str:
    """What XML can hold: no control characters, no half characters."""
    kept = "".join(
        character if character >= " " and not 0xD800 <= ord(character) <= 0xDFFF else "?"
        for character in text
    )
    return escape(kept)
