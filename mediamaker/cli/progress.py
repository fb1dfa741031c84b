# SPDX-License-Identifier: GPL-3.0-or-later
"""Shows progress: a live bar at a terminal, a line every few seconds elsewhere, JSON events."""

from __future__ import annotations

import sys
import time
from collections.abc import Mapping
from types import TracebackType
from typing import Self

from rich.console import Console
from rich.progress import BarColumn, DownloadColumn, TaskID, TextColumn
from rich.progress import Progress as Bar

from mediamaker.cli.output import Output
from mediamaker.execute.progress import Event, Notice, Phase, Progress
from mediamaker.units import format_size

_LINE_INTERVAL_SECONDS = 5.0
_WORDS = {
    Phase.PREPARE: "preparing",
    Phase.APPLY: "applying Windows",
    Phase.INVALIDATE: "blanking",
    Phase.PROBE: "checking its size",
    Phase.WRITE: "writing",
    Phase.FLUSH: "flushing",
    Phase.COMMIT: "making valid",
    Phase.VERIFY: "reading back",
}
_BOTTLENECKS = {"source": "reading the source", "target": "the target", "cpu": "this processor"}


class ProgressView:
    """A context manager whose :meth:`show` takes the engine's events.

    ``words`` call phases otherwise than is usual: checking a file reads nothing back.
    """

    def __init__(self, output: Output, *, words: Mapping[Phase, str] | None = None) -> None:
        self._output = output
        self._words = {**_WORDS, **(words or {})}
        self._bar: Bar | None = None
        self._task: TaskID | None = None
        self._phase: Phase | None = None
        self._next_line = 0.0
        if not output.as_json and sys.stderr.isatty():
            self._bar = Bar(
                TextColumn("{task.description:<16}"),
                BarColumn(),
                TextColumn("{task.percentage:>5.1f} %"),
                DownloadColumn(binary_units=True),
                TextColumn("{task.fields[words]}"),
                console=Console(stderr=True),
            )

    def __enter__(self) -> Self:
        if self._bar is not None:
            self._bar.start()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        if self._bar is not None:
            self._bar.stop()

    def show(self, event: Event) -> None:
        """Take one event; called from the thread that works."""
        match event:
            case Progress():
                self._show_progress(event)
            case Notice(message, hint):
                self._output.warning(f"{message}; {hint}" if hint else message)

    def _show_progress(self, event: Progress) -> None:
        self._output.event(
            "progress",
            phase=event.phase.value,
            bytes_done=event.bytes_done,
            bytes_total=event.bytes_total,
            bytes_per_second=round(event.bytes_per_second),
            eta_seconds=None if event.eta_seconds is None else round(event.eta_seconds, 1),
            bottleneck=event.bottleneck,
        )
        is_new_phase = event.phase is not self._phase
        self._phase = event.phase
        if self._bar is not None:
            self._show_bar(self._bar, event, is_new_phase=is_new_phase)
        elif not self._output.as_json:
            self._show_line(event)

    def _show_bar(self, bar: Bar, event: Progress, *, is_new_phase: bool) -> None:
        if is_new_phase or self._task is None:
            self._task = bar.add_task(
                self._words[event.phase], total=event.bytes_total or None, words=""
            )
        bar.update(
            self._task,
            completed=event.bytes_done,
            total=event.bytes_total or None,
            words=_speed(event),
        )

    def _show_line(self, event: Progress) -> None:
        now = time.monotonic()
        is_done = event.bytes_done >= event.bytes_total
        if event.bytes_total == 0 or (now < self._next_line and not is_done):
            return
        self._next_line = now + _LINE_INTERVAL_SECONDS
        share = event.bytes_done * 1000 // event.bytes_total
        self._output.note(
            f"  {self._words[event.phase]:<16} {share // 10:>3}.{share % 10} %  "
            f"{format_size(event.bytes_done)} of {format_size(event.bytes_total)}  {_speed(event)}"
        )


def _speed(event: Progress) -> str:
    words = [f"{format_size(int(event.bytes_per_second))}/s"]
    if event.eta_seconds is not None and event.bytes_done < event.bytes_total:
        minutes, seconds = divmod(round(event.eta_seconds), 60)
        words.append(f"{minutes}:{seconds:02} left")
    if event.bottleneck is not None and event.bytes_done < event.bytes_total:
        words.append(f"waits for {_BOTTLENECKS[event.bottleneck]}")
    return ", ".join(words)
