# SPDX-License-Identifier: GPL-3.0-or-later
"""Carries a plan's extents out on a target, so that it is never half valid.

Order (design.md, "The plan"):

1. invalidate: every commit range is zeroed, then flushed; if it is asked for, the disk is probed
   for a fake capacity now (``capacity.py``);
2. stream: all other written extents, in one ascending pass;
3. flush; the sources are asked once more whether they are what was planned with;
4. commit: the commit ranges from the last to the first but for sector 0, flush, sector 0;
5. flush.

A write that fails is tried again (``retry.py``). With a journal (``journal.py``) it is noted down
during 2 how much is flushed, and a run that goes on with one does not write what the journal
claims again; all else is as above.

Whatever ends this early - an exception, Ctrl-C, a source that changed, an I/O error - leaves the
commit ranges zero, and the message says so. If even that could not be done, it says that instead.
"""

from __future__ import annotations

import errno
import threading
from collections import deque
from dataclasses import dataclass
from enum import Enum, auto
from typing import assert_never

from mediamaker.errors import MediaError, TargetTooSmallError
from mediamaker.execute.capacity import check_capacity
from mediamaker.execute.digests import PieceDigest, PieceHasher
from mediamaker.execute.flusher import BackgroundFlusher
from mediamaker.execute.interrupts import check_cancelled
from mediamaker.execute.journal import JournalWriter
from mediamaker.execute.medium import Medium
from mediamaker.execute.pipeline import (
    Filled,
    Pipeline,
    SourceFiller,
    aligned_buffer,
)
from mediamaker.execute.progress import Phase, ProgressMeter
from mediamaker.execute.steps import (
    FILL_SIZE,
    Copy,
    Fill,
    Run,
    Step,
    check_commit,
    cut_done,
    find_data_runs,
    iter_steps,
    runs_size,
    stream_size,
)
from mediamaker.execute.target import Target
from mediamaker.extents import ExtentMap, check_sector_aligned
from mediamaker.sources.reader import SourceReader
from mediamaker.units import format_size

_NO_KERNEL_COPY = frozenset(
    {errno.EXDEV, errno.EINVAL, errno.ENOSYS, errno.EOPNOTSUPP, errno.EPERM, errno.ETXTBSY}
)
"""copy_file_range(2) can't do it between these two files at all; do not ask again."""


@dataclass(frozen=True, slots=True)
class WriteResult:
    """What was done.

    ``out_of_order_writes`` counts writes that do not begin where the last one ended;
    ``forward_skips`` of them only went ahead over bytes that are left as they are (unwritten
    ranges, holes). ``probe_bytes_written`` come on top of both, and lie where the plan writes.
    ``digests`` is empty unless they were asked for.
    """

    bytes_written: int
    bytes_read: int
    out_of_order_writes: int
    forward_skips: int
    probe_bytes_written: int
    seconds: float
    digests: tuple[PieceDigest, ...]


class _State(Enum):
    UNTOUCHED = auto()
    INVALIDATING = auto()
    BLANK = auto()
    COMMITTING = auto()
    COMPLETE = auto()


def write_extents(
    *,
    extents: ExtentMap,
    commit: tuple[Run, ...],
    reader: SourceReader,
    target: Target,
    meter: ProgressMeter,
    has_digests: bool,
    journal: JournalWriter | None = None,
    probe_key: bytes | None = None,
    cancel: threading.Event | None = None,
) -> WriteResult:
    """Write every written extent of ``extents``; ``commit`` ranges are valid last.

    What ``journal`` claims is not written again: ``resume.check_claim`` was asked before. With a
    ``probe_key`` the disk is asked first whether it holds what it claims, unless the journal
    claims something: then that was done.

    The target is neither finished nor aborted: that is the caller's, after verification. So is
    holding SIGINT back (``interrupts.py``): a raw KeyboardInterrupt is cleaned up after as well,
    but not a second one meanwhile.

    Raises:
        TargetTooSmallError, PlanError: nothing was touched.
        SourceError, TargetIOError: the message says where, and what is left on the target.
        FakeCapacityError: with a ``probe_key`` only.
        KeyboardInterrupt: Ctrl-C, or ``cancel`` was set.
    """
    _check_fits(extents, target)
    check_sector_aligned(extents, target.logical_sector_size)
    check_commit(extents, commit, target.logical_sector_size)
    writer = _Writer(
        extents=extents,
        commit=commit,
        reader=reader,
        target=target,
        meter=meter,
        journal=journal,
        probe_key=probe_key,
        cancel=cancel,
    )
    try:
        return writer.run(has_digests=has_digests)
    except BaseException as error:
        outcome = writer.leave_blank()
        if isinstance(error, MediaError):
            error.message = f"{error.message}; {outcome}"
        error.add_note(f"{target.name}: {outcome}")
        raise


def _check_fits(extents: ExtentMap, target: Target) -> None:
    if extents.end > target.size:
        raise TargetTooSmallError(
            f"{target.name} holds {format_size(target.size)} ({target.size} bytes), "
            f"the plan needs {format_size(extents.end)} ({extents.end} bytes)",
            needed_size=extents.end,
            available_size=target.size,
            hint="plan again for this target",
        )


class _Writer:
    """The state of one write."""

    def __init__(
        self,
        *,
        extents: ExtentMap,
        commit: tuple[Run, ...],
        reader: SourceReader,
        target: Target,
        meter: ProgressMeter,
        journal: JournalWriter | None,
        probe_key: bytes | None,
        cancel: threading.Event | None,
    ) -> None:
        self._extents = extents
        self._commit = commit
        self._reader = reader
        self._target = target
        self._meter = meter
        self._journal = journal
        self._done_end = 0 if journal is None else journal.end
        self._unflushed: deque[tuple[int, int]] = deque()
        self._cancel = cancel
        self._probe_key = None if self._done_end else probe_key
        self._probe_bytes_written = 0
        self._state = _State.UNTOUCHED
        self._filler = SourceFiller(reader, meter)
        self._medium = Medium(target, extents, meter, cancel)
        self._flusher = BackgroundFlusher(
            target.flush_data,
            clock=meter.clock,
            cancel=cancel,
            window_size=None if journal is None else journal.flush_size,
        )
        self._commit_data: list[tuple[int, bytes]] = []
        self._can_copy = target.starts_zeroed
        self._bytes_copied = 0

    def run(self, *, has_digests: bool) -> WriteResult:
        began = self._meter.clock()
        self._meter.start(Phase.PREPARE, 0)
        runs = self._find_runs(has_digests=has_digests)
        self._medium.needed_size = runs_size(runs)
        hasher = PieceHasher() if has_digests else None
        try:
            self._invalidate()
            self._probe()
            self._stream(runs, hasher)
        finally:
            self._flusher.close()
        self._flush()
        if self._journal is not None:
            self._journal.record(self._extents.end)
        self._reader.check_all()
        self._write_commit()
        return WriteResult(
            bytes_written=self._medium.bytes_written,
            bytes_read=self._filler.bytes_read + self._bytes_copied,
            out_of_order_writes=self._medium.out_of_order_writes,
            forward_skips=self._medium.forward_skips,
            probe_bytes_written=self._probe_bytes_written,
            seconds=self._meter.clock() - began,
            digests=tuple(hasher.digests) if hasher else (),
        )

    def leave_blank(self) -> str:
        """Make sure that nothing half valid stays; says what is on the target now."""
        match self._state:
            case _State.UNTOUCHED:
                return "nothing was written"
            case _State.COMPLETE:
                return "all was written"
            case _ if self._target.starts_zeroed:
                return "the image is not complete"
            case _State.BLANK:
                return _LEFT_BLANK
            case _State.INVALIDATING | _State.COMMITTING:
                try:
                    self._medium.blank(self._commit)
                except OSError as error:
                    return (
                        f"it could not be blanked ({error.strerror}): it may look valid, "
                        "but is not to be used"
                    )
                return _LEFT_BLANK
            case _:
                assert_never(self._state)

    def _find_runs(self, *, has_digests: bool) -> list[Run]:
        """What goes through the pass: on a fresh image file holes stay holes."""
        if self._target.starts_zeroed and not has_digests:
            runs = find_data_runs(self._extents, self._reader)
        else:
            runs = list(self._extents.written_runs(self._extents.start, self._extents.end))
        # For digests of the whole disk everything is read and hashed, written or not.
        return runs if has_digests else cut_done(runs, self._commit, self._done_end)

    def _invalidate(self) -> None:
        if self._target.starts_zeroed:
            return
        self._meter.start(Phase.INVALIDATE, runs_size(self._commit))
        self._state = _State.INVALIDATING
        zeros = aligned_buffer(FILL_SIZE)
        for start, end in self._commit:
            for offset in range(start, end, FILL_SIZE):
                self._medium.write(offset, zeros[: min(FILL_SIZE, end - offset)], doing="blanking")
        self._medium.flush()
        self._state = _State.BLANK
        self._meter.finish()

    def _probe(self) -> None:
        if self._target.starts_zeroed or self._probe_key is None:
            return
        self._state = _State.INVALIDATING  # a mark lies in a commit range
        self._probe_bytes_written = check_capacity(
            extents=self._extents,
            commit=self._commit,
            target=self._target,
            medium=self._medium,
            key=self._probe_key,
            meter=self._meter,
            check=lambda: check_cancelled(self._cancel),
        )
        self._state = _State.BLANK

    def _stream(self, runs: list[Run], hasher: PieceHasher | None) -> None:
        self._state = _State.BLANK
        self._medium.is_streaming = True
        self._meter.start(Phase.WRITE, stream_size(runs, self._commit))
        streamed_size = 0
        # A digest needs the bytes in our hands, so the kernel can't copy them past us.
        self._can_copy = self._can_copy and hasher is None
        steps = iter_steps(
            self._extents, runs, commit=self._commit, is_copying=lambda: self._can_copy
        )
        with Pipeline(
            steps,
            self._filler.fill,
            meter=self._meter,
            hasher=hasher,
            cancel=self._cancel,
        ) as pipeline:
            for filled in pipeline:
                began = self._meter.clock()
                streamed_size += self._carry_out(filled)
                if not self._target.is_durable or self._journal is not None:
                    self._advance_flusher(streamed_size)
                if self._journal is not None:
                    self._keep_journal(self._journal, filled.step, streamed_size)
                self._meter.busy.target += self._meter.clock() - began
                self._meter.update(
                    streamed_size if self._target.is_durable else self._flusher.durable_size
                )
        self._meter.finish()

    def _carry_out(self, filled: Filled) -> int:
        """Do one step; returns how many bytes of the stream it was."""
        match filled.step:
            case Fill(start=start, is_commit=True):
                self._commit_data.append((start, bytes(filled.data)))
                return 0
            case Fill(start=start) | Copy(start=start) if start + filled.step.size <= (
                self._done_end
            ):
                pass  # it is on the medium since an earlier run
            case Fill(start=start):
                self._medium.write(start, filled.data)
            case Copy():
                self._copy(filled.step, filled.buffer)
            case _:
                assert_never(filled.step)
        return filled.step.size

    def _copy(self, step: Copy, buffer: memoryview) -> None:
        """Have the kernel copy; what it won't, goes through ``buffer``.

        Any failure is met again on that plain way, which knows whose fault it is.
        """
        done = 0
        with self._reader.opened(step.source_id) as descriptor:
            while done < step.size and self._can_copy:
                try:
                    count = self._target.copy_from(
                        descriptor, step.source_offset + done, step.start + done, step.size - done
                    )
                except OSError as error:
                    self._can_copy = error.errno not in _NO_KERNEL_COPY
                    break
                if count == 0:
                    break
                self._medium.count_write(step.start + done, count)
                self._bytes_copied += count
                done += count
        while done < step.size:
            data = buffer[: min(len(buffer), step.size - done)]
            self._reader.preadinto(step.source_id, step.source_offset + done, data)
            self._bytes_copied += len(data)
            self._medium.write(step.start + done, data)
            done += len(data)

    def _keep_journal(self, journal: JournalWriter, step: Step, streamed_size: int) -> None:
        """Claim what was flushed by now; never less than what was claimed before."""
        self._unflushed.append((streamed_size, step.start + step.size))
        end = 0
        durable_size = self._flusher.durable_size
        while durable_size and self._unflushed and self._unflushed[0][0] <= durable_size:
            _, end = self._unflushed.popleft()
        if end > journal.end:
            journal.record(end)

    def _flush(self) -> None:
        self._meter.start(Phase.FLUSH, 0)
        self._medium.flush()
        self._meter.finish()

    def _write_commit(self) -> None:
        """The first sector comes last and alone: a disk takes one sector whole or not at all."""
        self._meter.start(Phase.COMMIT, sum(len(data) for _, data in self._commit_data))
        self._state = _State.COMMITTING
        self._medium.is_streaming = False
        sector_size = self._target.logical_sector_size
        first_sector = b""
        for start, data in reversed(self._commit_data):
            kept_back = sector_size if start == 0 else 0
            first_sector = data[:kept_back]
            self._medium.write_bytes(start + kept_back, data[kept_back:])
        if first_sector:
            self._medium.flush()
            self._medium.write_bytes(0, first_sector)
        self._medium.flush()
        self._state = _State.COMPLETE
        self._meter.finish()

    def _advance_flusher(self, bytes_written: int) -> None:
        try:
            self._flusher.advance(bytes_written)
        except OSError as error:
            raise self._medium.describe(error, "flushing", None) from error


_LEFT_BLANK = "the disk is left blank: it has no partition table and boots nothing"
