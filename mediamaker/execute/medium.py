# SPDX-License-Identifier: GPL-3.0-or-later
"""A target while a plan is written to it: whole writes, counted, and errors that name the extent.

A write that fails is tried again (``retry.py``), which is told; a flush never is.
"""

from __future__ import annotations

import threading
from collections.abc import Sequence

from mediamaker.errors import TargetIOError
from mediamaker.execute.interrupts import check_cancelled
from mediamaker.execute.pipeline import aligned_buffer
from mediamaker.execute.progress import Notice, ProgressMeter
from mediamaker.execute.retry import RetryingWriter
from mediamaker.execute.steps import FILL_SIZE, Run
from mediamaker.execute.target import Target, describe_target_error
from mediamaker.extents import ExtentMap
from mediamaker.units import format_range


class Medium:
    """Counts as ``WriteResult`` has it. ``needed_size`` is what an image file takes in all."""

    def __init__(
        self,
        target: Target,
        extents: ExtentMap,
        meter: ProgressMeter,
        cancel: threading.Event | None,
    ) -> None:
        self.bytes_written = 0
        self.out_of_order_writes = 0
        self.forward_skips = 0
        self.is_streaming = False
        self.needed_size = extents.written_size
        self._target = target
        self._extents = extents
        self._meter = meter
        self._cancel = cancel
        self._retrying = RetryingWriter(
            target, self._tell_retried, check=lambda: check_cancelled(cancel)
        )
        self._next_offset = 0

    def write(
        self, offset: int, data: memoryview, *, doing: str = "writing", is_counted: bool = True
    ) -> None:
        """All of ``data``, which is page-aligned.

        Raises:
            TargetIOError: names the sector that can't be written; KeyboardInterrupt: cancelled.
        """
        while data:
            check_cancelled(self._cancel)
            try:
                count = self._retrying.write_some(offset, data)
            except OSError as error:
                raise self.describe(error, doing, offset) from error
            if is_counted:
                self.count_write(offset, count)
            offset += count
            data = data[count:]

    def write_bytes(self, offset: int, data: bytes) -> None:
        """As :meth:`write`, of at most ``FILL_SIZE`` bytes from anywhere in memory."""
        buffer = aligned_buffer(FILL_SIZE)[: len(data)]
        buffer[:] = data
        self.write(offset, buffer)

    def count_write(self, offset: int, count: int) -> None:
        """Note a write; in the stream one that goes ahead is a skip over what is left as it is."""
        if offset != self._next_offset:
            self.out_of_order_writes += 1
            if offset > self._next_offset and self.is_streaming:
                self.forward_skips += 1
        self._next_offset = offset + count
        self.bytes_written += count

    def flush(self) -> None:
        """Raises TargetIOError."""
        try:
            self._target.flush()
        except OSError as error:
            raise self.describe(error, "flushing", None) from error

    def blank(self, runs: Sequence[Run]) -> None:
        """Zero ``runs``; a sector that fails does not keep the others from it.

        What can't be written but reads as zeros is as good.

        Raises:
            OSError: the first that failed; its words say where.
        """
        zeros = aligned_buffer(FILL_SIZE)
        failure: OSError | None = None
        retrying = RetryingWriter(self._target, lambda *_: None)
        for start, end in runs:
            offset = start
            while offset < end:
                try:
                    data = zeros[: min(FILL_SIZE, end - offset)]
                    offset += retrying.write_some(offset, data)
                except OSError as error:
                    if self._reads_as_zeros(offset, end):
                        break
                    next_offset = offset + self._target.logical_sector_size
                    if not (retrying.may_go_on and self._reads_as_zeros(offset, next_offset)):
                        words = f"{error.strerror} at {offset:#x}"
                        failure = failure or OSError(error.errno, words)
                    if not retrying.may_go_on:
                        break
                    offset = next_offset
        self._target.flush()
        if failure is not None:
            raise failure

    def _reads_as_zeros(self, start: int, end: int) -> bool:
        buffer = aligned_buffer(FILL_SIZE)
        try:
            for offset in range(start, end, FILL_SIZE):
                data = buffer[: min(FILL_SIZE, end - offset)]
                self._target.preadinto(offset, data)
                if any(data.tobytes()):
                    return False
        except OSError:
            return False
        return True

    def describe(self, error: OSError, doing: str, offset: int | None) -> TargetIOError:
        """The error for a person."""
        return describe_target_error(
            error,
            target=self._target,
            doing=doing,
            offset=offset,
            extents=self._extents,
            needed_size=self.needed_size if self._target.starts_zeroed else None,
        )

    def _tell_retried(self, offset: int, size: int, error: OSError) -> None:
        where = f"{format_range(offset, offset + size)}, in {self._extents.find(offset)}"
        self._meter.tell(
            Notice(
                f"{self._target.name}: writing {where} failed ({error.strerror}), and went well "
                "when it was retried",
                hint="it is read back in the end; but the medium, its port or cable may be failing",
            )
        )
