# SPDX-License-Identifier: GPL-3.0-or-later
"""Calls libwim so that the caller stays awake, and so that its rules about threads hold.

A call that may take long runs in a thread of its own while the caller waits for its events. So
events come in the caller's thread, and Ctrl-C reaches it at once. What the caller raises
meanwhile (KeyboardInterrupt, or an error of its listener) makes the next progress message
answer "abort"; libwim then ends in good order, and what was raised goes on its way. libwim asks
every 1 % or GiB (1.14.5), and at every file while it scans: that is the latency of an abort.

One WIM is in one call at a time, whoever calls: its lock is taken and given back by the thread
that calls libwim, so it is held exactly as long as libwim works, whatever happens to the caller.
"""

from __future__ import annotations

import contextlib
import functools
import queue
import signal
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, Final

from mediamaker.wimlib.errors import Code, WimlibAbortedError, make_error
from mediamaker.wimlib.events import Message, OnWimEvent, Warned, WimEvent, parse_message
from mediamaker.wimlib.library import Library, Said

_SCAN_INTERVAL_SECONDS: Final = 0.2
_WAKE_SECONDS: Final = 0.5
_CONTINUE: Final = 0
_ABORT: Final = 1
_SIGNALS_OF_OTHERS: Final = {signal.SIGINT, signal.SIGTERM, signal.SIGHUP, signal.SIGQUIT}

Function = Callable[[], int]
"""A call to libwim, with its arguments; the answer is one of its codes."""


@dataclass(slots=True)
class _Outcome:
    code: int = Code.SUCCESS
    said: Said | None = None
    error: BaseException | None = None


class Calls:
    """The calls that concern one WIM, and what is heard of them."""

    def __init__(self, library: Library, on_event: OnWimEvent | None) -> None:
        self.library = library
        self.on_event = on_event
        self.related: set[Calls] = set()
        self._lock = threading.Lock()
        self._caller: int | None = None
        self._events: queue.SimpleQueue[WimEvent | None] = queue.SimpleQueue()
        self._stop = threading.Event()
        self._is_aborted = threading.Event()
        self._error: BaseException | None = None
        self._next_scan_time = 0.0
        self._handle = library.ffi.new_handle(self)

    @property
    def function(self) -> Any:
        """What to give libwim as a progress function; :attr:`context` goes with it."""
        return _make_function(self.library.ffi)

    @property
    def context(self) -> Any:
        """The ``void *`` by which the progress function finds this object."""
        return self._handle

    def abort(self) -> None:
        """End the call that runs, and refuse those to come; from any thread."""
        self._is_aborted.set()

    def relate(self, other: Calls) -> None:
        """From now on the two WIMs share data, so that only one of them may be in a call."""
        self.related.add(other)
        other.related.add(self)

    def direct(self, what: str, function: Function, *, writes: bool = False) -> None:
        """A call that takes no time, from this thread.

        Raises:
            WimlibError: it failed.
        """
        self._check_caller()
        outcome = _Outcome()
        with self._locked():
            self._call(function, outcome)
        self._report(what, outcome, writes=writes)

    def run(self, what: str, function: Function, *, writes: bool) -> None:
        """A call that may take long; events are given to ``on_event`` from this thread.

        Raises:
            WimlibError: it failed; WimlibAbortedError: :meth:`abort` was called; what
            ``on_event`` raised; KeyboardInterrupt.
        """
        self._check_caller()
        if self._is_aborted.is_set():
            raise WimlibAbortedError(f"{what}: not begun, since an end was asked for")
        self._stop.clear()
        self._events = queue.SimpleQueue()
        outcome = _Outcome()
        worker = threading.Thread(
            target=self._work, args=(function, outcome, self._events), name="mediamaker-libwim"
        )
        raised: BaseException | None = None
        self._caller = threading.get_ident()
        try:
            worker.start()
            raised = self._listen(worker)
        finally:
            if raised is None and worker.is_alive():
                self._stop.set()
            self._caller = None
        if raised is not None:
            raise raised
        self._report(what, outcome, writes=writes)

    def wait(self) -> None:
        """Make a call that still runs end soon, and wait for that."""
        self._stop.set()
        with self._locked():
            pass

    def hear(self, message: int, info: Any) -> int:
        """libwim's progress function: on the thread of the call, and it must not raise."""
        try:
            if self.on_event is not None and not self._is_too_soon(message, info):
                event = parse_message(self.library.ffi, message, info)
                if event is not None:
                    self._events.put(event)
        except BaseException as error:  # noqa: BLE001  it is raised again where the call was made
            self._error = error
            return _ABORT
        return _ABORT if self._stop.is_set() or self._is_aborted.is_set() else _CONTINUE

    def _listen(self, worker: threading.Thread) -> BaseException | None:
        """Hand out events until the call has ended; what was raised meanwhile."""
        raised: BaseException | None = None
        while worker.is_alive() or (raised is None and not self._events.empty()):
            try:
                # The last event is None and wakes us; the timeout is for a Ctrl-C that came
                # just when it was taken out.
                event = self._events.get(timeout=_WAKE_SECONDS)
                if event is None:
                    worker.join()
                elif raised is None and self.on_event is not None:
                    self.on_event(event)
            except queue.Empty:
                continue
            except BaseException as error:  # noqa: BLE001  raised again when libwim has ended
                self._stop.set()
                raised = raised or error
        return raised

    def _work(
        self, function: Function, outcome: _Outcome, events: queue.SimpleQueue[WimEvent | None]
    ) -> None:
        # Signals are for the main thread; a read of libwim's that they interrupt may fail.
        signal.pthread_sigmask(signal.SIG_BLOCK, _SIGNALS_OF_OTHERS)
        try:
            with self._locked():
                self._error = None
                self._call(function, outcome)
                outcome.error = outcome.error or self._error
        finally:
            events.put(None)

    def _call(self, function: Function, outcome: _Outcome) -> None:
        start = self.library.messages.begin()
        try:
            outcome.code = function()
        except BaseException as error:  # noqa: BLE001  raised again where the call was made
            outcome.error = error
        finally:
            outcome.said = self.library.messages.end(start)

    def _report(self, what: str, outcome: _Outcome, *, writes: bool) -> None:
        said = outcome.said or Said((), (), is_shared=False)
        if self.on_event is not None:
            for warning in said.warnings:
                self.on_event(Warned(warning))
        if outcome.error is not None:
            raise outcome.error
        if outcome.code == Code.ABORTED_BY_PROGRESS:
            raise WimlibAbortedError(f"{what}: ended early, as was asked for")
        if outcome.code:
            sentence = self.library.error_string(outcome.code)
            raise make_error(
                what,
                outcome.code,
                sentence,
                said.errors,
                writes=writes,
                is_shared=said.is_shared,
            )

    def _is_too_soon(self, message: int, info: Any) -> bool:
        """There is a message for every file that is scanned; a few a second are enough."""
        if message != Message.SCAN_DENTRY or info.scan.status:
            return False
        now = time.monotonic()
        if now < self._next_scan_time:
            return True
        self._next_scan_time = now + _SCAN_INTERVAL_SECONDS
        return False

    def _check_caller(self) -> None:
        if self._caller == threading.get_ident():
            raise RuntimeError("a WIM can't be used by the listener to its own events")

    @contextmanager
    def _locked(self) -> Iterator[None]:
        everybody = {self}
        unseen = [self]
        while unseen:
            new = unseen.pop().related - everybody
            everybody |= new
            unseen.extend(new)
        with contextlib.ExitStack() as stack:
            for calls in sorted(everybody, key=id):
                stack.enter_context(calls._lock)  # noqa: SLF001  of the same class
            yield


@functools.cache
def _make_function(ffi: Any) -> Any:
    """One callback for the process; cffi would free it with the last reference to it."""

    def hear(message: int, info: Any, context: Any) -> int:
        calls: Calls = ffi.from_handle(context)
        return calls.hear(message, info)

    return ffi.callback("int(int, mm_progress *, void *)", hear, error=_ABORT)
