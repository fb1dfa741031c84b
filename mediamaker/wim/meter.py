# SPDX-License-Identifier: GPL-3.0-or-later
"""libwim's events as the progress that every verb shows, and what it warned of, kept.

libwim calls back about once for every hundredth of the work: that is how often a request to end
is heeded, and the exception that heeds it ends libwim's call cleanly.
"""

from __future__ import annotations

import re
import threading
import time
from dataclasses import dataclass
from typing import Final

from mediamaker.execute.interrupts import check_cancelled
from mediamaker.execute.progress import Clock, Notice, OnEvent, Phase, ProgressMeter
from mediamaker.wimlib.events import (
    ExtractProgress,
    ScanNotice,
    ScanReason,
    VerifyProgress,
    Warned,
    WimEvent,
    WriteProgress,
)

EXAMPLE_COUNT_MAX: Final = 10
_IGNORED_RE = re.compile(r"Ignoring (?P<what>.+?) of (?P<count>[0-9]+) (?:files|directories)")


@dataclass(frozen=True, slots=True)
class NotCarried:
    """What was left behind: of how many files, and some of them."""

    what: str
    file_count: int
    examples: tuple[str, ...] = ()


class WimMeter:
    """To be given to :class:`Wim` as its ``on_event``.

    Raises (from the call, so that libwim ends):
        KeyboardInterrupt: ``cancel`` was set.
    """

    def __init__(
        self,
        on_event: OnEvent,
        *,
        phase: Phase = Phase.WRITE,
        cancel: threading.Event | None = None,
        clock: Clock = time.monotonic,
    ) -> None:
        self.warnings: list[str] = []
        self.excluded: list[str] = []
        self.unsupported: list[str] = []
        self.raw_size = 0
        """Bytes of the contents that were handled by the last call."""
        self._on_event = on_event
        self._phase = phase
        self._cancel = cancel
        self._meter = ProgressMeter(on_event, clock)
        self._current: tuple[type, int] | None = None

    def __call__(self, event: WimEvent) -> None:
        """Take an event of libwim's."""
        check_cancelled(self._cancel)
        match event:
            case WriteProgress() | ExtractProgress() | VerifyProgress():
                current = (type(event), event.bytes_total)
                if self._current != current:
                    self._current = current
                    self._meter.start(self._phase, event.bytes_total)
                self.raw_size = event.bytes_total
                if event.bytes_done >= event.bytes_total:
                    self._meter.finish()
                    self._current = None
                else:
                    self._meter.update(event.bytes_done)
            case ScanNotice(path, ScanReason.UNSUPPORTED):
                self.unsupported.append(path)
            case ScanNotice(path, ScanReason.EXCLUDED):
                self.excluded.append(path)
            case Warned(message):
                self.warnings.append(message.removeprefix("[WARNING]").strip())
            case _:
                pass

    def notify(self, message: str, *, hint: str | None = None) -> None:
        """Tell something that a person should know."""
        self._on_event(Notice(message, hint))

    def not_carried(self) -> tuple[NotCarried, ...]:
        """What libwim said that it left out."""
        found: dict[str, int] = {}
        for warning in self.warnings:
            if match := _IGNORED_RE.search(warning):
                found[match["what"]] = found.get(match["what"], 0) + int(match["count"])
        result = [NotCarried(what, count) for what, count in found.items()]
        if self.unsupported:
            examples = tuple(self.unsupported[:EXAMPLE_COUNT_MAX])
            what = "files of a kind that can't be captured"
            result.append(NotCarried(what, len(self.unsupported), examples))
        return tuple(result)
