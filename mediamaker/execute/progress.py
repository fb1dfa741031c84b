# SPDX-License-Identifier: GPL-3.0-or-later
"""How far the work is, how fast, and what holds it up. Events only; ``cli`` shows them.

``bytes_done`` counts bytes on the device: after a write that bypasses the page cache, or after
the flush that followed it. The bottleneck is the stage that was busy for the largest part of the
last seconds: stages run beside each other, so the slowest is the one that never rests.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable
from dataclasses import dataclass, replace
from enum import Enum
from typing import Literal

Bottleneck = Literal["source", "target", "cpu"]

EVENT_INTERVAL_SECONDS = 0.2
SPEED_WINDOW_SECONDS = 5.0
BUSY_SHARE_MIN = 0.3
"""No stage is called the bottleneck if it was busy for less of the time than this."""


class Phase(Enum):
    """What is being done; in this order, ``PREPARE`` first.

    ``APPLY``: an image onto a volume. ``PROBE``: whether the disk holds what it says.
    """

    PREPARE = "prepare"
    APPLY = "apply"
    INVALIDATE = "invalidate"
    PROBE = "probe"
    WRITE = "write"
    FLUSH = "flush"
    COMMIT = "commit"
    VERIFY = "verify"


@dataclass(frozen=True, slots=True)
class Progress:
    """Sent a few times a second, and at the begin and end of every phase."""

    phase: Phase
    bytes_done: int
    bytes_total: int
    bytes_per_second: float
    eta_seconds: float | None
    bottleneck: Bottleneck | None


@dataclass(frozen=True, slots=True)
class Notice:
    """Something that a person should know, though the work goes on."""

    message: str
    hint: str | None = None


Event = Progress | Notice
OnEvent = Callable[[Event], None]
Clock = Callable[[], float]


def writes_as(on_event: OnEvent, phase: Phase) -> OnEvent:
    """A listener for work that writes to serve another purpose: its writes are called ``phase``."""

    def renamed(event: Event) -> None:
        if isinstance(event, Progress) and event.phase is Phase.WRITE:
            event = replace(event, phase=phase)
        on_event(event)

    return renamed


def ignore_event(event: Event) -> None:
    """The listener of those who do not listen."""
    del event


@dataclass(slots=True)
class BusyTimes:
    """Seconds that each stage worked, since the start. A field has one thread that adds to it."""

    source: float = 0.0
    target: float = 0.0
    cpu: float = 0.0


@dataclass(frozen=True, slots=True)
class _Sample:
    time: float
    bytes_done: int
    busy: tuple[float, float, float]


class ProgressMeter:
    """Turns byte counts into :class:`Progress` events, at most five a second.

    Stages take the time from its ``clock`` and add what they were busy to ``busy``.
    """

    def __init__(self, on_event: OnEvent, clock: Clock) -> None:
        self.busy = BusyTimes()
        self.clock = clock
        self._on_event = on_event
        self._phase = Phase.PREPARE
        self._bytes_total = 0
        self._bytes_done = 0
        self._next_time = 0.0
        self._samples: deque[_Sample] = deque()

    def start(self, phase: Phase, bytes_total: int) -> None:
        """Begin a phase; its first event is sent at once."""
        self._phase = phase
        self._bytes_total = bytes_total
        self._bytes_done = 0
        self._samples.clear()
        self._send(self.clock())

    def update(self, bytes_done: int) -> None:
        """Say how far it is; an event follows if the last one is old enough."""
        self._bytes_done = bytes_done
        now = self.clock()
        if now >= self._next_time:
            self._send(now)

    def tell(self, notice: Notice) -> None:
        """Pass a notice on to whoever listens."""
        self._on_event(notice)

    def finish(self) -> None:
        """End the phase; its last event says that all is done."""
        self._bytes_done = self._bytes_total
        self._send(self.clock())

    def _send(self, now: float) -> None:
        self._next_time = now + EVENT_INTERVAL_SECONDS
        busy = (self.busy.source, self.busy.target, self.busy.cpu)
        newest = _Sample(now, self._bytes_done, busy)
        self._samples.append(newest)
        # Two samples always stay, so that a flush longer than the window still has a speed.
        while len(self._samples) > 2 and now - self._samples[1].time >= SPEED_WINDOW_SECONDS:
            self._samples.popleft()
        oldest = self._samples[0]
        seconds = newest.time - oldest.time
        speed = (newest.bytes_done - oldest.bytes_done) / seconds if seconds > 0 else 0.0
        rest = self._bytes_total - self._bytes_done
        self._on_event(
            Progress(
                phase=self._phase,
                bytes_done=self._bytes_done,
                bytes_total=self._bytes_total,
                bytes_per_second=speed,
                eta_seconds=_eta_seconds(self._bytes_total, rest, speed),
                bottleneck=_find_bottleneck(oldest, newest, seconds),
            )
        )


def _eta_seconds(bytes_total: int, rest: int, speed: float) -> float | None:
    if bytes_total == 0:  # a phase without a measure, such as a flush
        return None
    if rest == 0:
        return 0.0
    return rest / speed if speed > 0 else None


def _find_bottleneck(oldest: _Sample, newest: _Sample, seconds: float) -> Bottleneck | None:
    if seconds <= 0:
        return None
    shares = [
        (after - before) / seconds for before, after in zip(oldest.busy, newest.busy, strict=True)
    ]
    names: tuple[Bottleneck, ...] = ("source", "target", "cpu")
    share, name = max(zip(shares, names, strict=True))
    return name if share >= BUSY_SHARE_MIN else None
