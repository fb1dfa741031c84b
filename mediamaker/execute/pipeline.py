# SPDX-License-Identifier: GPL-3.0-or-later
"""Threads ahead of the one that writes (or compares): fill a buffer, hash it, hand it over.

::

    free buffers --> filler thread --> [hasher thread] --> the caller's loop --> free buffers

The pool of buffers is what bounds it: a stage without a buffer waits. Buffers are anonymous
mmaps, so they are page-aligned, as O_DIRECT asks. ``queue.SimpleQueue`` throughout: it is
written in C and can't be left locked by a KeyboardInterrupt (where SIGINT is not held back), and
it needs no bound of its own.
"""

from __future__ import annotations

import mmap
import queue
import threading
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from types import TracebackType
from typing import assert_never

from mediamaker.errors import PlanError
from mediamaker.execute.digests import PieceHasher
from mediamaker.execute.interrupts import check_cancelled
from mediamaker.execute.progress import ProgressMeter
from mediamaker.execute.steps import FILL_SIZE, Copy, Fill, Step
from mediamaker.extents import FileRange, Literal, Unwritten, Zeros
from mediamaker.sources.reader import SourceReader

BUFFER_COUNT = 6
"""One being filled, one hashed, one written, and as many again to even out the source."""
CANCEL_POLL_SECONDS = 0.1
JOIN_SECONDS = 2.0
"""How long a thread stuck in a read is waited for; it is a daemon and writes nothing."""


def aligned_buffer(size: int) -> memoryview:
    """Zeroed, page-aligned memory, as O_DIRECT needs."""
    return memoryview(mmap.mmap(-1, size))


@dataclass(frozen=True, slots=True)
class Filled:
    """A step and its bytes; ``buffer`` is the whole buffer that a :class:`Copy` may use."""

    step: Step
    data: memoryview
    buffer: memoryview


@dataclass(frozen=True, slots=True)
class _Failure:
    error: BaseException


_Item = Filled | _Failure | None


class Pipeline:
    """Iterate over it to get the steps in order, each with its bytes; a context manager.

    ``fill(step, data)`` runs in the filler thread. A buffer is lent until the next step is asked
    for. What goes wrong in a thread is raised by the iteration. ``cancel``, once set, ends the
    iteration with KeyboardInterrupt, as Ctrl-C does.
    """

    def __init__(
        self,
        steps: Iterable[Step],
        fill: Callable[[Fill, memoryview], None],
        *,
        meter: ProgressMeter,
        hasher: PieceHasher | None = None,
        cancel: threading.Event | None = None,
    ) -> None:
        self._steps = steps
        self._fill = fill
        self._meter = meter
        self._hasher = hasher
        self._cancel = cancel
        self._is_stopping = False
        self._zeros = aligned_buffer(FILL_SIZE)
        self._free: queue.SimpleQueue[memoryview | None] = queue.SimpleQueue()
        self._unhashed: queue.SimpleQueue[_Item] = queue.SimpleQueue()
        self._ready: queue.SimpleQueue[_Item] = queue.SimpleQueue()
        self._threads = [threading.Thread(target=self._run_filler, name="fill", daemon=True)]
        if hasher is not None:
            self._threads.append(
                threading.Thread(target=self._run_hasher, name="hash", daemon=True)
            )
        for _ in range(BUFFER_COUNT):
            self._free.put(aligned_buffer(FILL_SIZE))

    def __enter__(self) -> Pipeline:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self.close()

    def __iter__(self) -> Iterator[Filled]:
        for thread in self._threads:
            thread.start()
        while True:
            match self._wait_ready():
                case None:
                    return
                case _Failure(error):
                    raise error
                case Filled() as filled:
                    yield filled
                    self._free.put(filled.buffer)

    def close(self) -> None:
        """End the threads, whatever they are doing."""
        self._is_stopping = True
        self._free.put(None)
        self._unhashed.put(None)
        for thread in self._threads:
            if thread.is_alive():
                thread.join(JOIN_SECONDS)

    def _wait_ready(self) -> _Item:
        while True:
            check_cancelled(self._cancel)
            try:
                return self._ready.get(timeout=CANCEL_POLL_SECONDS)
            except queue.Empty:
                continue

    def _run_filler(self) -> None:
        output = self._ready if self._hasher is None else self._unhashed
        try:
            for step in self._steps:
                buffer = self._free.get()
                if buffer is None or self._is_stopping:
                    return
                output.put(self._fill_one(step, buffer))
        except BaseException as error:  # noqa: BLE001  (raised again by the caller's iteration)
            output.put(_Failure(error))
        else:
            output.put(None)

    def _fill_one(self, step: Step, buffer: memoryview) -> Filled:
        match step:
            case Copy():
                return Filled(step, buffer[:0], buffer)
            case Fill() if step.is_zero:
                return Filled(step, self._zeros[: step.size], buffer)
            case Fill():
                self._fill(step, buffer[: step.size])
                return Filled(step, buffer[: step.size], buffer)
            case _:
                assert_never(step)

    def _run_hasher(self) -> None:
        assert self._hasher is not None
        try:
            while True:
                item = self._unhashed.get()
                if self._is_stopping:
                    return
                if isinstance(item, Filled):
                    began = self._meter.clock()
                    self._hasher.update(item.step.start, item.data)
                    self._meter.busy.cpu += self._meter.clock() - began
                elif item is None:
                    self._hasher.finish()
                self._ready.put(item)
                if not isinstance(item, Filled):
                    return
        except BaseException as error:  # noqa: BLE001  (raised again by the caller's iteration)
            self._ready.put(_Failure(error))


class SourceFiller:
    """Puts the bytes of a :class:`Fill` together; counts what it reads from the sources."""

    def __init__(self, reader: SourceReader, meter: ProgressMeter) -> None:
        self.bytes_read = 0
        self._reader = reader
        self._meter = meter

    def fill(self, step: Fill, data: memoryview) -> None:
        """Make ``data`` hold what the plan wants at ``step``.

        Raises:
            SourceError: a source can't be read; SourceChangedError: it is shorter than planned.
        """
        began = self._meter.clock()
        position = 0
        for part in step.parts:
            target = data[position : position + part.size]
            match part.source:
                case Literal(literal):
                    target[:] = literal
                case Zeros():
                    target[:] = bytes(part.size)
                case FileRange(source_id, offset):
                    self._reader.preadinto(source_id, offset, target)
                    self.bytes_read += part.size
                case Unwritten():
                    raise PlanError(f"{part} is not written, so it has no bytes to fill")
                case _:
                    assert_never(part.source)
            position += part.size
        self._meter.busy.source += self._meter.clock() - began
