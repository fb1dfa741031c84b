# SPDX-License-Identifier: GPL-3.0-or-later
"""Ctrl-C as a request that is looked at where it is safe, not an exception from anywhere.

KeyboardInterrupt can strike between any two bytecodes: with a lock just taken, or (sudo passes
the signal on, so it comes twice) in the middle of leaving the disk blank. So while a plan is
carried out SIGINT only sets the ``cancel`` event; the loops ask for it at every write and while
they wait, and raise KeyboardInterrupt from there. One write is the longest it takes.
"""

from __future__ import annotations

import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType


@contextmanager
def interrupt_sets(cancel: threading.Event) -> Iterator[None]:
    """SIGINT sets ``cancel`` for the length of the block; then the old handler is back.

    In another thread than the main one nothing changes: KeyboardInterrupt is never raised there.
    """
    previous = signal.getsignal(signal.SIGINT)
    # Not ours to replace: a handler that was not installed from Python can't be put back, and
    # a process that ignores SIGINT (nohup, a shell's background job) goes on doing so.
    is_ours = callable(previous) and threading.current_thread() is threading.main_thread()
    if not is_ours:
        yield
        return

    def request(signal_number: int, frame: FrameType | None) -> None:
        del signal_number, frame
        cancel.set()

    signal.signal(signal.SIGINT, request)
    try:
        yield
    finally:
        signal.signal(signal.SIGINT, previous)


def check_cancelled(cancel: threading.Event | None) -> None:
    """Raise KeyboardInterrupt once ``cancel`` is set."""
    if cancel is not None and cancel.is_set():
        raise KeyboardInterrupt
