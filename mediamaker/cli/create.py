# SPDX-License-Identifier: GPL-3.0-or-later
"""``mediamaker create``: plan, write, verify."""

from __future__ import annotations

import argparse
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import psutil

from mediamaker.cli.before import add_undo_option, keep_before
from mediamaker.cli.confirm import add_device_options, release_disk
from mediamaker.cli.options import add_image_options, add_media_options, add_seed_option
from mediamaker.cli.output import Output
from mediamaker.cli.progress import ProgressView
from mediamaker.cli.resumable import (
    Resumption,
    add_resume_options,
    check_same_plan,
    find_resumption,
    journaled,
    remove_leftovers,
    tidy_finished,
)
from mediamaker.cli.session import (
    Session,
    check_image_options,
    disk_geometry,
    find_target_disk,
    image_geometry,
    is_device_target,
    open_session,
)
from mediamaker.devices.disk import Disk
from mediamaker.devices.file_target import check_image_place
from mediamaker.devices.guard import GuardContext, check_may_write
from mediamaker.devices.table import DiskTable, read_table, show_lost
from mediamaker.devices.target import BlockTarget, DiskBinding, FileTarget, bind_disk
from mediamaker.errors import ExitCode, TargetRefusedError
from mediamaker.execute.create import ExecuteResult, execute_plan
from mediamaker.execute.interrupts import interrupt_sets
from mediamaker.execute.receipt import make_receipt, write_receipt
from mediamaker.execute.target import Target
from mediamaker.execute.textfile import check_text_file, find_source_at
from mediamaker.extents import FileRange, Literal
from mediamaker.plan.model import Plan
from mediamaker.plan.show import show_picture
from mediamaker.sources.identity import SourceFile
from mediamaker.sources.kinds import Inspection
from mediamaker.sources.reader import SourceReader
from mediamaker.units import format_size


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the verb's arguments."""
    parser.add_argument("source", type=Path, metavar="SOURCE", help="an ISO file or a folder")
    parser.add_argument("target", type=Path, metavar="TARGET", help="block device or image file")
    add_device_options(parser)
    parser.add_argument(
        "--force", action="store_true", help="replace an image file that is already there"
    )
    parser.add_argument(
        "--no-verify",
        dest="verify",
        action="store_false",
        help="do not read everything back (you should)",
    )
    add_resume_options(parser)
    add_undo_option(parser)
    parser.add_argument(
        "--receipt",
        type=Path,
        metavar="FILE",
        help="keep digests here, to verify later without the source",
    )
    add_media_options(parser)
    add_seed_option(parser)
    add_image_options(parser, default_size="auto: the smallest that fits")


def run(args: argparse.Namespace, output: Output) -> ExitCode:
    """Write a disk and say what became of it."""
    is_device = is_device_target(args.target)
    if is_device:
        check_image_options(args)
    resumption = find_resumption(args, output, is_device=is_device)

    def check_target(inspection: Inspection) -> None:
        if is_device:
            disk = find_target_disk(args.target)
            check_may_write(disk, _guard_context(args, needed_size=None))
        else:
            _check_not_a_source(args.target, inspection.tree.files)
            tidy_finished(args.target)
            check_image_place(args.target, replace=args.force)

    session = open_session(args, output, check_target=check_target)
    sources = session.inspection.tree.files
    if args.receipt is not None:
        check_text_file(args.receipt, option="--receipt", sources=sources, target=args.target)
    table: DiskTable | None = None
    disk: Disk | None = None
    bound: DiskBinding | None = None
    if is_device:
        plan, table, disk, bound = _plan_device(args, output, session, resumption)
    else:
        plan = session.plan(image_geometry(args, session))
        check_same_plan(resumption, plan)
        _announce(plan, session, output)
        _check_room(args.target, plan, output)
    cancel = threading.Event()
    with (
        SourceReader(plan.sources) as reader,
        interrupt_sets(cancel),
        _open_target(args, plan, resumption, bound) as target,
    ):
        undo_file = None
        if resumption.journal is not None:
            undo_file = resumption.journal.header.undo_path
        elif table is not None and args.keeps_undo:
            undo_file = keep_before(
                args, plan, table, resumption.facts, reader=reader, target=target, output=output
            )
        with (
            journaled(resumption, args, session, plan, output, undo_file=undo_file) as journal,
            ProgressView(output) as view,
        ):
            resumed_at = 0 if journal is None else journal.end
            result = execute_plan(
                extents=plan.extents,
                commit=plan.commit,
                plan_id=plan.plan_id,
                reader=reader,
                target=target,
                is_verifying=args.verify,
                has_digests=args.receipt is not None,
                is_probing=disk is not None and disk.is_portable,
                journal=journal,
                on_event=view.show,
                cancel=cancel,
            )
    if args.receipt is not None:
        _write_receipt(args.receipt, plan, result)
    _report(args, output, plan, result, resumed_at=resumed_at, undo_file=undo_file)
    if disk is not None and disk.is_portable:
        output.note(
            "some sticks confirm what they do not keep: unplug it, plug it in again, then "
            f"`mediamaker verify {args.target} {args.source}` knows"
        )
    return ExitCode.DONE


def _plan_device(
    args: argparse.Namespace, output: Output, session: Session, resumption: Resumption
) -> tuple[Plan, DiskTable, Disk, DiskBinding]:
    """Plan for a disk, then let guards and person release it; what is on it, and which it is."""
    disk = find_target_disk(args.target)
    plan = session.plan(disk_geometry(disk))
    check_same_plan(resumption, plan)
    context = _guard_context(args, needed_size=plan.geometry.size)
    for verdict in check_may_write(disk, context):
        output.warning(f"{verdict.reason} [{verdict.rule}]: {verdict.hint}")
    _announce(plan, session, output)
    output.note("what is there now will be lost:")
    bound = bind_disk(disk)
    table = read_table(disk.path)
    for line in show_lost(disk, table):
        output.note(f"  {line}")
    release_disk(args, disk, context, output)
    return plan, table, disk, bound


def _guard_context(args: argparse.Namespace, *, needed_size: int | None) -> GuardContext:
    return GuardContext(
        source_paths=(args.source,),
        allow_fixed_disk=args.allow_fixed_disk,
        needed_size=needed_size,
    )


@contextmanager
def _open_target(
    args: argparse.Namespace, plan: Plan, resumption: Resumption, bound: DiskBinding | None
) -> Iterator[Target]:
    """The target, opened for writing; the engine finishes or aborts it."""
    target: Target
    if bound is not None:
        target = BlockTarget.open(args.target, expected=bound)
        remove_leftovers(resumption)
    elif resumption.journal is not None and resumption.partial is not None:
        target = FileTarget.resume(
            args.target,
            resumption.partial,
            plan.geometry.size,
            logical_sector_size=plan.geometry.logical_sector_size,
            replace=args.force,
        )
    else:
        remove_leftovers(resumption)
        target = FileTarget.create(
            args.target,
            plan.geometry.size,
            logical_sector_size=plan.geometry.logical_sector_size,
            replace=args.force,
            partial=resumption.partial if resumption.is_kept else None,
        )
    try:
        yield target
    except BaseException:
        target.abort()
        raise


def _check_not_a_source(target: Path, sources: tuple[SourceFile, ...]) -> None:
    source = find_source_at(target, sources)
    if source is not None:
        what = "the source itself" if len(sources) == 1 else "one of the source's own files"
        raise TargetRefusedError(f"{target} is {what}", hint="name another file for the result")


def _check_room(target: Path, plan: Plan, output: Output) -> None:
    """Warn early; holes of the source and reflinks may still make it fit."""
    folder = target.absolute().parent
    needed = sum(e.size for e in plan.extents if isinstance(e.source, Literal | FileRange))
    if folder.is_dir() and (free := psutil.disk_usage(str(folder)).free) < needed:
        output.warning(
            f"{folder} has {format_size(free)} of free space, the image may take "
            f"{format_size(needed)}"
        )


def _announce(plan: Plan, session: Session, output: Output) -> None:
    output.note(f"{session.inspection.path} -> {plan.layout.value}: {plan.layout.summary}")
    for line in show_picture(plan):
        output.note(line)
    for note in plan.notes:
        output.note(f"note: {note}")
    for warning in plan.warnings:
        output.warning(warning)
    seed = f", seed {session.seed}" if session.seed is not None else ""
    output.note(f"plan_id {plan.plan_id}{seed}")


def _write_receipt(path: Path, plan: Plan, result: ExecuteResult) -> None:
    receipt = make_receipt(
        plan_id=plan.plan_id,
        layout=plan.layout.value,
        identities=plan.identities,
        logical_sector_size=plan.geometry.logical_sector_size,
        extents=plan.extents,
        digests=result.digests,
    )
    write_receipt(receipt, path)


def _report(
    args: argparse.Namespace,
    output: Output,
    plan: Plan,
    result: ExecuteResult,
    *,
    resumed_at: int,
    undo_file: Path | None,
) -> None:
    verified = result.verify.bytes_read if result.verify is not None else 0
    output.event(
        "create",
        target=str(args.target),
        plan_id=plan.plan_id,
        layout=plan.layout.value,
        identities=dict(plan.identities),
        boots=list(plan.boots),
        written_size=plan.extents.written_size,
        bytes_written=result.write.bytes_written,
        bytes_read=result.write.bytes_read,
        probe_bytes_written=result.write.probe_bytes_written,
        out_of_order_writes=result.write.out_of_order_writes,
        is_verified=result.verify is not None,
        bytes_verified=verified,
        seconds=round(result.seconds, 3),
        resumed_at=resumed_at,
        undo_file=None if undo_file is None else str(undo_file),
        receipt=None if args.receipt is None else str(args.receipt),
    )
    checked = "read back and equal" if result.verify is not None else "NOT verified"
    lines = [
        (
            f"done: {args.target}: {format_size(plan.extents.written_size)} in "
            f"{result.seconds:.1f} s, {checked}"
        ),
        f"boots: {', '.join(plan.boots) or 'unknown'}",
    ]
    if args.receipt is not None:
        lines.append(f"receipt: {args.receipt}")
    if undo_file is not None:
        lines.append(f"what was there: mediamaker undo {args.target} says what can come back")
    output.result("\n".join(lines))
    firmware = "uefi" if any(name.startswith("UEFI") for name in plan.boots) else "bios"
    arch = " --arch aarch64" if plan.boots == ("UEFI arm64",) else ""
    output.note(f"see it boot: mediamaker boot {args.target} --firmware {firmware}{arch}")
