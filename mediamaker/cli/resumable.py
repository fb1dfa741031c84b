# SPDX-License-Identifier: GPL-3.0-or-later
"""What ``create`` knows of writes that ended early: ``--resume``, and the journals there are.

A write to a device always keeps a journal, in the state folder, as it may take an hour. An image
file keeps one, and what was written of it, only with ``--resumable``: it is written as fast as
the source is read, and people count on finding nothing where a run was ended.
"""

from __future__ import annotations

import argparse
import os
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path

from mediamaker import __version__
from mediamaker.cli.output import Output
from mediamaker.cli.session import Session, find_target_disk
from mediamaker.devices.identity import DiskIdentity, disk_fingerprint
from mediamaker.devices.new_file import names_to_resume
from mediamaker.errors import (
    MediaError,
    SourceChangedError,
    TargetRefusedError,
    UsageError,
    VerifyError,
)
from mediamaker.execute.journal import (
    Facts,
    Journal,
    JournalHeader,
    JournalSource,
    JournalWriter,
    read_journal,
    remove_journal,
)
from mediamaker.execute.state import disk_key, state_folder
from mediamaker.plan.model import Plan
from mediamaker.units import format_size

_ID_SIZE = 16
"""Digits of a plan_id in a file name."""


def add_resume_options(parser: argparse.ArgumentParser) -> None:
    """The options that go on with what ended early."""
    parser.add_argument(
        "--resume",
        action="store_true",
        help="go on where an interrupted run to this target ended (same source and options)",
    )
    parser.add_argument(
        "--resumable",
        action="store_true",
        help="for an image file: keep what was written if the run ends early (a device's always "
        "is); --resume goes on",
    )


@dataclass(frozen=True, slots=True)
class Resumption:
    """Where the journal of this target is, and what was found there.

    ``facts`` tell the disk, and are empty for an image file. ``journal`` is gone on with;
    ``leftover`` journals, and a ``partial`` file without one, are replaced.
    """

    target: Path
    facts: Facts
    partial: Path | None
    is_kept: bool
    journal: Journal | None
    leftover: tuple[Path, ...]

    def journal_path(self, plan: Plan) -> Path:
        """Raises OSError: there is no folder for it, and none can be made."""
        if self.journal is not None:
            return self.journal.path
        if self.partial is not None:
            return names_to_resume(Path(os.path.realpath(self.target)))[1]
        name = f"{disk_key(self.facts)}-{plan.plan_id[:_ID_SIZE]}.journal"
        return state_folder("journals") / name


def stored_facts(identity: DiskIdentity) -> dict[str, str | int | None]:
    """What of a disk's identity outlives a replug and a restart."""
    return {
        "serial": identity.serial,
        "wwn": identity.wwn,
        "vendor": identity.vendor,
        "model": identity.model,
        "size": identity.size,
        "logical_sector_size": identity.logical_sector_size,
        "lun": identity.lun,
    }


def find_resumption(args: argparse.Namespace, output: Output, *, is_device: bool) -> Resumption:
    """What is known of earlier runs; with ``--resume`` their seed becomes ``args.seed``.

    Raises:
        UsageError: ``--resume``, and there is nothing to go on with, or another seed was given.
    """
    if args.resume and not args.verify:
        raise UsageError("a resumed write is always read back", hint="leave out --no-verify")
    facts: dict[str, str | int | None] = {}
    partial: Path | None = None
    if is_device:
        facts = stored_facts(disk_fingerprint(find_target_disk(args.target)))
        candidates = _journals_of(facts)
    else:
        partial, journal_path = names_to_resume(Path(os.path.realpath(args.target)))
        candidates = [journal_path] if journal_path.exists() else []
    journals = [found for path in candidates if (found := read_journal(path)) is not None]
    chosen: Journal | None = None
    if args.resume:
        chosen = _choose(args, journals, facts)
        args.seed = chosen.header.seed
        output.note(f"going on: {_describe(chosen)}")
    else:
        for journal in journals:
            output.warning(
                f"an interrupted run is given up: {_describe(journal)} (--resume would go on)"
            )
    return Resumption(
        target=args.target,
        facts=facts,
        partial=partial,
        is_kept=is_device or args.resume or args.resumable,
        journal=chosen,
        leftover=tuple(path for path in candidates if chosen is None or path != chosen.path),
    )


def check_same_plan(resumption: Resumption, plan: Plan) -> None:
    """What was begun is what would be written now.

    Raises:
        SourceChangedError: a source differs; UsageError: options do.
    """
    journal = resumption.journal
    if journal is None or journal.header.plan_id == plan.plan_id:
        return
    header = journal.header
    hint = "leave out --resume to write it from the beginning"
    before = {(source.size, source.mtime_ns) for source in header.sources}
    changed = [
        f"{source.path} has {source.size} bytes of {_time(source.mtime_ns)}"
        for source in plan.sources
        if (source.size, source.mtime_ns) not in before
    ]
    if changed or len(before) != len({(s.size, s.mtime_ns) for s in plan.sources}):
        was = ", ".join(f"{s.path} ({s.size} bytes of {_time(s.mtime_ns)})" for s in header.sources)
        raise SourceChangedError(
            f"the source is not what the interrupted run had: {'; '.join(changed[:3]) or 'fewer'}"
            f" files; it had {was if len(header.sources) < 4 else f'{len(header.sources)} files'}",
            hint=hint,
        )
    raise UsageError(
        f"the interrupted run made another disk: {header.layout} of {format_size(header.size)}, "
        f"plan_id {header.plan_id[:_ID_SIZE]}...; this is {plan.layout.value} of "
        f"{format_size(plan.geometry.size)}, plan_id {plan.plan_id[:_ID_SIZE]}...",
        hint=f"give the same options as then, or {hint}",
    )


def remove_leftovers(resumption: Resumption) -> None:
    """Before the first write of a run from the beginning; one that goes on has nothing to remove.

    Raises:
        TargetRefusedError: another run is using them.
    """
    if resumption.journal is not None:
        return  # the others are of disks that only look the same
    for path in resumption.leftover:
        if not remove_journal(path) and resumption.partial is not None:
            raise TargetRefusedError(
                f"{resumption.target}: another mediamaker writes it now", hint="wait for it"
            )
    if resumption.partial is not None and (resumption.leftover or resumption.is_kept):
        resumption.partial.unlink(missing_ok=True)


def tidy_finished(target: Path) -> None:
    """Remove the other name of an image file that is complete, and its journal.

    What was killed between giving it its name and taking away the one that it had before leaves
    both; there is nothing to go on with.
    """
    partial, journal = names_to_resume(Path(os.path.realpath(target)))
    try:
        is_finished = target.samefile(partial)
    except OSError:
        return
    if is_finished:
        remove_journal(journal)
        partial.unlink(missing_ok=True)


@contextmanager
def journaled(
    resumption: Resumption,
    args: argparse.Namespace,
    session: Session,
    plan: Plan,
    output: Output,
    *,
    undo_file: Path | None,
) -> Iterator[JournalWriter | None]:
    """The journal of the run in the block; says in its errors whether ``--resume`` can help."""
    if not resumption.is_kept:
        yield None
        return
    journal = _open_journal(resumption, args, session, plan, output, undo_file=undo_file)
    if journal is None:
        with _removing_partial(resumption):
            yield None
        return
    try:
        yield journal
    except BaseException as error:
        is_useless = isinstance(error, VerifyError | SourceChangedError) or (
            journal.end == 0 and resumption.journal is None
        )
        if is_useless:
            with suppress(OSError):
                journal.remove()
            if resumption.partial is not None:
                resumption.partial.unlink(missing_ok=True)
        elif journal.path.exists():
            kept = f", in {resumption.partial}" if resumption.partial is not None else ""
            words = (
                f"{format_size(min(journal.end, plan.extents.end))} of "
                f"{format_size(plan.extents.end)} are kept{kept}: the same command with --resume "
                "goes on from there"
            )
            if isinstance(error, MediaError):
                error.message = f"{error.message}; {words}"
            error.add_note(words)
        raise
    finally:
        if journal.failure is not None:
            output.warning(f"{journal.path} could not be kept up: {journal.failure.strerror}")
        journal.close()


@contextmanager
def _removing_partial(resumption: Resumption) -> Iterator[None]:
    try:
        yield
    except BaseException:
        if resumption.partial is not None:
            resumption.partial.unlink(missing_ok=True)
        raise


def _open_journal(
    resumption: Resumption,
    args: argparse.Namespace,
    session: Session,
    plan: Plan,
    output: Output,
    *,
    undo_file: Path | None,
) -> JournalWriter | None:
    if resumption.journal is not None:
        return JournalWriter.resume(resumption.journal)
    header = JournalHeader(
        plan_id=plan.plan_id,
        seed=session.seed or "",
        source=str(args.source.absolute()),
        layout=plan.layout.value,
        target=str(args.target),
        size=plan.geometry.size,
        sector_size=plan.geometry.logical_sector_size,
        written_size=plan.extents.written_size,
        sources=tuple(JournalSource(s.path, s.size, s.mtime_ns) for s in plan.sources),
        disk=resumption.facts,
        made_at=datetime.now(UTC).isoformat(timespec="seconds"),
        made_by=__version__,
        partial=None if resumption.partial is None else str(resumption.partial),
        undo_file=None if undo_file is None else str(undo_file),
    )
    try:
        return JournalWriter.create(resumption.journal_path(plan), header)
    except OSError as error:
        output.warning(
            f"no journal can be kept ({error.filename}: {error.strerror}): if this run ends early "
            "it can't be gone on with; set XDG_STATE_HOME to a folder that you may write to"
        )
        return None


def _journals_of(facts: Facts) -> list[Path]:
    """The journals of a disk, the newest first."""
    try:
        found = state_folder("journals").glob(f"{disk_key(facts)}-*.journal")
        return sorted(found, key=lambda path: path.stat().st_mtime_ns, reverse=True)
    except OSError:
        return []


def _choose(args: argparse.Namespace, journals: list[Journal], facts: Facts) -> Journal:
    with_seed = [j for j in journals if args.seed is None or j.header.seed == args.seed]
    if with_seed:
        return with_seed[0]
    if journals:
        raise UsageError(
            f"--seed {args.seed}: the interrupted run had {journals[0].header.seed}",
            hint="leave out --seed: --resume takes it from the journal",
        )
    words = f"nothing to go on with: no interrupted run to {args.target} is known"
    if facts:
        others = [j for path in _all_journals() if (j := read_journal(path)) is not None]
        told = "; ".join(_describe(journal) for journal in others[:3])
        words += " (it is told by serial, model and size)" + (f". There is {told}" if told else "")
        raise UsageError(words, hint="leave out --resume to write it from the beginning")
    raise UsageError(
        words,
        hint="leave out --resume; an image file is kept to go on with only if --resumable is given",
    )


def _all_journals() -> list[Path]:
    try:
        return sorted(state_folder("journals").glob("*.journal"))
    except OSError:
        return []


def _describe(journal: Journal) -> str:
    header = journal.header
    serial = header.disk.get("serial")
    who = f"{header.target} (serial {serial})" if serial else header.target
    return (
        f"{header.source} to {who}, begun {header.made_at}, "
        f"{format_size(journal.end)} of {format_size(header.size)}"
    )


def _time(mtime_ns: int) -> str:
    return datetime.fromtimestamp(mtime_ns / 1e9, UTC).isoformat(timespec="seconds")
