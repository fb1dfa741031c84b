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
from typing import Any, Final

from mediamaker.wimlib.errors import Code, WimlibAbortedError, make_error
from mediamaker.wimlib.events import Message, OnWimEvent, Stopping, Warned, WimEvent, parse_message
from mediamaker.wimlib.library import Library, Said

_SCAN_INTERVAL_SECONDS: Final = 0.2
_WAKE_SECONDS: Final = 0.5
_START_SECONDS: Final = 1.0
_CONTINUE: Final = 0
_ABORT: Final = 1
_SIGNALS_OF_OTHERS: Final = {signal.SIGINT, signal.SIGTERM, signal.SIGHUP, signal.SIGQUIT}

Function = Callable[[], int]
"""A call to libwim, with its arguments; the answer is one of its codes."""


class _Call:
    """One call: between the thread that made it and the one that is in libwim."""

    def __init__(self) -> None:
        self.caller = threading.get_ident()
        self.events: queue.SimpleQueue[WimEvent | None] = queue.SimpleQueue()
        self.heard = threading.Semaphore(0)
        self.is_stopping = threading.Event()
        self.code: int = Code.SUCCESS
        self.said = Said((), (), is_shared=False)
        self.error: BaseException | None = None

    def stop(self) -> None:
        """Let libwim end at its next message, and nobody wait for the listener."""
        self.is_stopping.set()
        self.heard.release()

    def hand_over(self, event: WimEvent) -> None:
        """Wait until the listener has had it, so that its error ends the call here and now."""
        self.events.put(event)
        while not self.is_stopping.is_set():
            if self.heard.acquire(timeout=_WAKE_SECONDS):
                return


class Calls:
    """The calls that concern one WIM, and what is heard of them."""

    def __init__(self, library: Library, on_event: OnWimEvent | None) -> None:
        self.library = library
        self.on_event = on_event
        self.related: set[Calls] = set()
        self._lock = threading.Lock()
        self._current: _Call | None = None
        self._is_aborted = threading.Event()
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
        """A call that takes no time: no events, and it can't be ended.

        Raises:
            WimlibError: it failed.
        """
        self._check_caller()
        call = _Call()
        worker = threading.Thread(target=self._work, args=(function, call))
        try:
            worker.start()
        finally:
            _wait_for(worker)
        self._report(what, call, writes=writes)

    def run(self, what: str, function: Function, *, writes: bool) -> None:
        """A call that may take long; events are given to ``on_event`` from this thread.

        Raises:
            WimlibError: it failed; WimlibAbortedError: :meth:`abort` was called; what
            ``on_event`` raised; KeyboardInterrupt.
        """
        self._check_caller()
        if self._is_aborted.is_set():
            raise WimlibAbortedError(f"{what}: not begun, since an end was asked for")
        call = _Call()
        worker = threading.Thread(
            target=self._work, args=(function, call), name="mediamaker-libwim"
        )
        raised: BaseException | None = None
        try:
            worker.start()
            raised = self._listen(call, worker)
        finally:
            # Nothing to do, unless a Ctrl-C came at a bad moment, such as in ``start``.
            call.stop()
            _wait_for(worker)
        if raised is not None:
            raise raised
        self._report(what, call, writes=writes)

    def finish(self, function: Callable[[], None]) -> None:
        """Make a call that still runs end soon, wait for that, and do this last thing."""
        worker = threading.Thread(
            target=self._do_locked, args=(function,), name="mediamaker-libwim-end"
        )
        worker.start()
        while worker.is_alive():
            call = self._current
            if call is not None:
                call.stop()
            worker.join(timeout=_WAKE_SECONDS)

    def hear(self, message: int, info: Any) -> int:
        """libwim's progress function: on the thread of the call, and it must not raise."""
        call = self._current
        if call is None:
            return _ABORT
        try:
            if self.on_event is not None and not self._is_too_soon(message, info):
                event = parse_message(self.library.ffi, message, info)
                if event is not None:
                    call.hand_over(event)
        except BaseException as error:  # noqa: BLE001  it is raised again where the call was made
            call.error = error
            return _ABORT
        return _ABORT if call.is_stopping.is_set() or self._is_aborted.is_set() else _CONTINUE

    def _listen(self, call: _Call, worker: threading.Thread) -> BaseException | None:
        """Hand out events until the call has ended; what was raised meanwhile."""
        raised: BaseException | None = None
        while worker.is_alive() or (raised is None and not call.events.empty()):
            try:
                # The last event is None and wakes us; the timeout is for a Ctrl-C that came
                # just when it was taken out.
                event = call.events.get(timeout=_WAKE_SECONDS)
                if event is None:
                    worker.join()
                elif raised is None and self.on_event is not None:
                    self.on_event(event)
                    call.heard.release()
            except queue.Empty:
                continue
            except BaseException as error:  # noqa: BLE001  raised again when libwim has ended
                call.stop()
                is_first, raised = raised is None, raised or error
                if is_first and isinstance(error, KeyboardInterrupt) and self.on_event is not None:
                    with contextlib.suppress(BaseException):  # the first one is raised again
                        self.on_event(Stopping())
        return raised

    def _work(self, function: Function, call: _Call) -> None:
        # Signals are for the main thread; a read of libwim's that they interrupt may fail.
        signal.pthread_sigmask(signal.SIG_BLOCK, _SIGNALS_OF_OTHERS)
        try:
            with self._locked():
                self._call(function, call)
        finally:
            call.events.put(None)

    def _do_locked(self, function: Callable[[], None]) -> None:
        with self._locked():
            function()

    def _call(self, function: Function, call: _Call) -> None:
        if call.is_stopping.is_set():
            call.code = Code.ABORTED_BY_PROGRESS
            return
        self._current = call
        start = self.library.messages.begin()
        try:
            call.code = function()
        except BaseException as error:  # noqa: BLE001  raised again where the call was made
            call.error = error
        finally:
            call.said = self.library.messages.end(start)
            self._current = None

    def _report(self, what: str, call: _Call, *, writes: bool) -> None:
        if self.on_event is not None:
            for warning in call.said.warnings:
                self.on_event(Warned(warning))
        if call.error is not None:
            raise call.error
        if call.code == Code.ABORTED_BY_PROGRESS:
            raise WimlibAbortedError(f"{what}: ended early, as was asked for")
        if call.code:
            raise make_error(
                what,
                call.code,
                self.library.error_string(call.code),
                call.said.errors,
                writes=writes,
                is_shared=call.said.is_shared,
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
        for calls in self._everybody():
            call = calls._current  # noqa: SLF001  of the same class
            if call is not None and call.caller == threading.get_ident():
                raise RuntimeError("a WIM can't be used by the listener to its own events")

    def _everybody(self) -> set[Calls]:
        """This one and all that share data with it, directly or not."""
        everybody = {self}
        unseen = [self]
        while unseen:
            new = unseen.pop().related - everybody
            everybody |= new
            unseen.extend(new)
        return everybody

    @contextmanager
    def _locked(self) -> Iterator[None]:
        with contextlib.ExitStack() as stack:
            for calls in sorted(self._everybody(), key=id):
                stack.enter_context(calls._lock)  # noqa: SLF001  of the same class
            yield


def _wait_for(worker: threading.Thread) -> None:
    """Until it has ended, or was never begun: Ctrl-C in ``Thread.start`` does not tell which."""
    deadline = time.monotonic() + _START_SECONDS
    interruption: KeyboardInterrupt | None = None
    while worker.is_alive() or (worker.ident is None and time.monotonic() < deadline):
        try:
            if worker.ident is None:
                time.sleep(0.001)
            else:
                worker.join()
        except KeyboardInterrupt as error:  # impatience; what was begun is ended all the same
            interruption = error
    if interruption is not None:
        raise interruption


@functools.cache
def _make_function(ffi: Any) -> Any:
    """One callback for the process; cffi would free it with the last reference to it."""

    def hear(message: int, info: Any, context: Any) -> int:
        calls: Calls = ffi.from_handle(context)
        return calls.hear(message, info)

    return ffi.callback("int(int, mm_progress *, void *)", hear, error=_ABORT)
