# SPDX-License-Identifier: GPL-3.0-or-later
"""Ctrl-C and kill as a request that is looked at where it is safe, not an exception from anywhere.

KeyboardInterrupt can strike between any two bytecodes: with a lock just taken, or (sudo passes
the signal on, so it comes twice) in the middle of leaving the disk blank. So while a plan is
carried out SIGINT, SIGTERM and SIGHUP only set the ``cancel`` event; the loops ask for it at
every write and while they wait, and raise KeyboardInterrupt from there. One write is the longest
it takes.
"""

from __future__ import annotations

import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType

_SIGNALS = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)


@contextmanager
def interrupt_sets(cancel: threading.Event) -> Iterator[None]:
    """Each of the signals sets ``cancel`` for the length of the block; then all is as before.

    In another thread than the main one nothing changes: KeyboardInterrupt is never raised there.
    """
    if threading.current_thread() is not threading.main_thread():
        yield
        return

    def request(signal_number: int, frame: FrameType | None) -> None:
        del signal_number, frame
        cancel.set()

    # Not ours to replace: a handler that was not installed from Python can't be put back, and
    # a process that ignores a signal (a shell's background job SIGINT) goes on doing so.
    previous = {number: signal.getsignal(number) for number in _SIGNALS}
    ours = [number for number in _SIGNALS if callable(previous[number])]
    for number in ours:
        signal.signal(number, request)
    try:
        yield
    finally:
        for number in ours:
            signal.signal(number, previous[number])


def check_cancelled(cancel: threading.Event | None) -> None:
    """Raise KeyboardInterrupt once ``cancel`` is set."""
    if cancel is not None and cancel.is_set():
        raise KeyboardInterrupt
