# SPDX-License-Identifier: GPL-3.0-or-later
"""Write, verify, finish: one function for both kinds of target, called by ``cli``.

An image file gets its name only after it is complete, flushed and (unless told otherwise)
verified; on any failure nothing is left. A device is complete once its commit ranges are
flushed; a failed verification after that changes nothing on it any more, it only says so.

With a journal the run can be gone on with if it ends early, and a journal that claims something
is gone on with now. It is removed once all is well, and where it was proven wrong.
"""

from __future__ import annotations

import threading
import time
from dataclasses import dataclass

from mediamaker.errors import MediaError, UsageError, VerifyError
from mediamaker.execute.digests import PieceDigest
from mediamaker.execute.interrupts import interrupt_sets
from mediamaker.execute.journal import JournalWriter
from mediamaker.execute.progress import Clock, Notice, OnEvent, ProgressMeter, ignore_event
from mediamaker.execute.resume import check_claim
from mediamaker.execute.steps import Run
from mediamaker.execute.target import Target, describe_target_error
from mediamaker.execute.verifier import VerifyResult, verify_content, verify_digests
from mediamaker.execute.writer import WriteResult, write_extents
from mediamaker.extents import ExtentMap
from mediamaker.sources.reader import SourceReader


@dataclass(frozen=True, slots=True)
class ExecuteResult:
    """``verify`` is None if it was not asked for, ``digests`` are empty if they were not."""

    plan_id: str
    write: WriteResult
    verify: VerifyResult | None
    digests: tuple[PieceDigest, ...]
    seconds: float


def execute_plan(
    *,
    extents: ExtentMap,
    commit: tuple[Run, ...],
    plan_id: str,
    reader: SourceReader,
    target: Target,
    is_verifying: bool = True,
    has_digests: bool = False,
    is_probing: bool = False,
    journal: JournalWriter | None = None,
    on_event: OnEvent = ignore_event,
    cancel: threading.Event | None = None,
    clock: Clock = time.monotonic,
) -> ExecuteResult:
    """Carry a plan out on ``target``, which is finished or aborted (and closed) afterwards.

    ``has_digests`` asks for the digests that a receipt holds. What ``journal`` claims is checked
    and not written again; such a write is always verified. ``is_probing`` asks a device first
    whether it holds what it claims.

    Raises:
        MediaError: its message says what is left on the target now.
        KeyboardInterrupt: Ctrl-C, or ``cancel`` was set; a note says the same.
    """
    if journal is not None and journal.end and not is_verifying:
        target.abort()
        raise UsageError("a resumed write is always read back", hint="leave out --no-verify")
    began = clock()
    meter = ProgressMeter(on_event, clock)
    cancel = cancel or threading.Event()
    # A device is read back against the digests of what was written; an image file against its
    # sources, as those can be copied past us and compared without being hashed.
    is_image = target.starts_zeroed
    is_hashing = (has_digests and not is_verifying) if is_image else (has_digests or is_verifying)
    verify = None
    with interrupt_sets(cancel):
        try:
            if journal is not None:
                check_claim(
                    extents=extents,
                    commit=commit,
                    reader=reader,
                    target=target,
                    journal=journal,
                    meter=meter,
                    on_event=on_event,
                    cancel=cancel,
                )
            write = write_extents(
                extents=extents,
                commit=commit,
                reader=reader,
                target=target,
                meter=meter,
                has_digests=is_hashing,
                journal=journal,
                probe_key=plan_id.encode() if is_probing else None,
                cancel=cancel,
            )
            warning = target.reread_partition_table()
            if warning is not None:
                on_event(Notice(warning))
            if is_verifying and is_image:
                verify = verify_content(
                    extents=extents,
                    reader=reader,
                    target=target,
                    meter=meter,
                    has_digests=has_digests,
                    cancel=cancel,
                )
            elif is_verifying:
                verify = _verify_device(
                    extents=extents,
                    digests=write.digests,
                    reader=reader,
                    target=target,
                    meter=meter,
                    cancel=cancel,
                )
            _finish(target)
            if journal is not None:
                _remove(journal, on_event)
        except BaseException as error:
            if isinstance(error, VerifyError) and journal is not None:
                _remove(journal, on_event)
            outcome = target.abort()
            if outcome is not None:
                _add(error, outcome)
            raise
    return ExecuteResult(
        plan_id=plan_id,
        write=write,
        verify=verify,
        digests=write.digests or (verify.digests if verify else ()),
        seconds=clock() - began,
    )


def _verify_device(
    *,
    extents: ExtentMap,
    digests: tuple[PieceDigest, ...],
    reader: SourceReader,
    target: Target,
    meter: ProgressMeter,
    cancel: threading.Event,
) -> VerifyResult:
    try:
        return verify_digests(
            runs=list(extents.written_runs(extents.start, extents.end)),
            digests=digests,
            target=target,
            meter=meter,
            extents=extents,
            reader=reader,
            cancel=cancel,
        )
    except BaseException as error:
        _add(error, f"{target.name} is written, but not verified: do not rely on it")
        raise


def _remove(journal: JournalWriter, on_event: OnEvent) -> None:
    try:
        journal.remove()
    except OSError as error:
        on_event(Notice(f"{journal.path} can't be removed ({error.strerror}): do so by hand"))


def _finish(target: Target) -> None:
    try:
        target.finish()
    except OSError as error:
        raise describe_target_error(
            error, target=target, doing="finishing", offset=None, extents=None
        ) from error


def _add(error: BaseException, outcome: str) -> None:
    """Say in the error what is left on the target."""
    if isinstance(error, MediaError):
        error.message = f"{error.message}; {outcome}"
    error.add_note(outcome)
