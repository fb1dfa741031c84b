# SPDX-License-Identifier: GPL-3.0-or-later
"""Flushes in the background, so that progress counts bytes on the device and nothing stalls.

Where writes end up in the page cache (image files, a device that refuses O_DIRECT) the cache
would swallow gigabytes and hold the last ``fsync`` up for minutes. So a flush is begun for every
few dozen MiB while writing goes on; at most two windows are not on the device yet. The window
adapts to flushes of about a second: a flush every few MiB was seen to slow others down badly.
"""

from __future__ import annotations

import queue
import threading
from collections.abc import Callable
from dataclasses import dataclass

from mediamaker.execute.interrupts import check_cancelled
from mediamaker.execute.pipeline import CANCEL_POLL_SECONDS, JOIN_SECONDS
from mediamaker.execute.progress import Clock
from mediamaker.units import MIB

WINDOW_SIZE_MIN = 8 * MIB
WINDOW_SIZE_MAX = 128 * MIB
WINDOW_SIZE_FIRST = 32 * MIB
FLUSH_SECONDS_SHORT = 0.5
FLUSH_SECONDS_LONG = 1.5


@dataclass(frozen=True, slots=True)
class _Answer:
    bytes_written: int
    seconds: float
    error: BaseException | None


class BackgroundFlusher:
    """Knows how many of the bytes written so far are on the device."""

    def __init__(
        self,
        flush_data: Callable[[], None],
        *,
        clock: Clock,
        cancel: threading.Event | None = None,
        window_size: int | None = None,
    ) -> None:
        self.durable_size = 0
        self._flush_data = flush_data
        self._clock = clock
        self._cancel = cancel
        self._window_size = WINDOW_SIZE_FIRST if window_size is None else window_size
        self._requested_size = 0
        self._is_flushing = False
        self._thread: threading.Thread | None = None
        self._requests: queue.SimpleQueue[int | None] = queue.SimpleQueue()
        self._answers: queue.SimpleQueue[_Answer] = queue.SimpleQueue()

    def advance(self, bytes_written: int) -> None:
        """So many bytes are written: begin a flush if it is time, wait if the last one is slow.

        Raises:
            OSError: a flush failed; the bytes from ``durable_size`` on may be lost.
        """
        if self._is_flushing:
            is_due = bytes_written - self._requested_size >= self._window_size
            self._collect(is_waiting=is_due)
        if not self._is_flushing and bytes_written - self._requested_size >= self._window_size:
            self._requested_size = bytes_written
            self._is_flushing = True
            self._start_thread()
            self._requests.put(bytes_written)

    def close(self) -> None:
        """End the thread; a flush that is under way is waited for, shortly."""
        self._requests.put(None)
        if self._thread is not None and self._thread.is_alive():
            self._thread.join(JOIN_SECONDS)

    def _start_thread(self) -> None:
        if self._thread is None:
            self._thread = threading.Thread(target=self._run, name="flush", daemon=True)
            self._thread.start()

    def _collect(self, *, is_waiting: bool) -> None:
        while True:
            check_cancelled(self._cancel)
            try:
                answer = self._answers.get(
                    block=is_waiting, timeout=CANCEL_POLL_SECONDS if is_waiting else None
                )
            except queue.Empty:
                if is_waiting:
                    continue
                return
            self._is_flushing = False
            if answer.error is not None:
                raise answer.error
            self.durable_size = answer.bytes_written
            if answer.seconds < FLUSH_SECONDS_SHORT:
                self._window_size = min(WINDOW_SIZE_MAX, self._window_size * 2)
            elif answer.seconds > FLUSH_SECONDS_LONG:
                self._window_size = max(WINDOW_SIZE_MIN, self._window_size // 2)
            return

    def _run(self) -> None:
        while True:
            bytes_written = self._requests.get()
            if bytes_written is None:
                return
            began = self._clock()
            error: BaseException | None = None
            try:
                self._flush_data()
            except BaseException as caught:  # noqa: BLE001  (raised again by ``advance``)
                error = caught
            self._answers.put(_Answer(bytes_written, self._clock() - began, error))
