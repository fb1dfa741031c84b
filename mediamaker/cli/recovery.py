# SPDX-License-Identifier: GPL-3.0-or-later
"""``mediamaker recovery add|check``: WinRE on a disk that has a Windows."""

from __future__ import annotations

import argparse
import contextlib
import secrets
import time
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from mediamaker import __version__
from mediamaker.cli.options import size_argument
from mediamaker.cli.output import Output
from mediamaker.cli.subverbs import SubVerb, add_subverbs, run_subverb
from mediamaker.cli.wim_name import other_parts, parse_wim_name
from mediamaker.cli.wim_work import working
from mediamaker.cli.windows_disk import (
    add_confirm_option,
    is_in_memory,
    opened_disk,
    readable_disk,
    release,
)
from mediamaker.devices.target import is_block_device
from mediamaker.errors import ExitCode, SourceError
from mediamaker.execute.progress import Phase, ProgressMeter, writes_as
from mediamaker.install.boot_files import RecoveryFiles, extract_recovery_files
from mediamaker.install.changes import changes_size
from mediamaker.install.disk_file import ChangeableDisk, identify
from mediamaker.install.image_facts import image_facts
from mediamaker.install.recovery_add import (
    AddRequest,
    PreparedRecovery,
    prepare_recovery,
    write_recovery,
)
from mediamaker.install.recovery_check import RecoveryReport, check_recovery
from mediamaker.install.scratch import SCRATCH_DEFAULT, scratch_folder
from mediamaker.install.show_recovery import show_recovery, show_report, steps_of
from mediamaker.install.undo import check_undo_place
from mediamaker.install.windows_disk import WindowsDisk
from mediamaker.units import format_size


def add_add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the arguments of ``add``."""
    parser.add_argument("target", type=Path, metavar="TARGET", help="block device or image file")
    parser.add_argument(
        "--winre",
        metavar="FILE|WIM:IMAGE",
        help="a Winre.wim, or an install image that has one (default: the one in Windows)",
    )
    parser.add_argument(
        "--boot-sdi", type=Path, metavar="FILE", help="boot.sdi (default: the one in Windows)"
    )
    parser.add_argument(
        "--windows", type=int, metavar="NUMBER", help="the partition of Windows, if it has several"
    )
    parser.add_argument(
        "--size",
        type=size_argument,
        metavar="SIZE",
        help="of the new partition (default: 1 GiB, or what WinRE takes and 320 MiB more)",
    )
    parser.add_argument(
        "--undo",
        type=Path,
        metavar="FILE",
        help="keep the way back here (default: TARGET.undo)",
    )
    parser.add_argument(
        "--dry-run", action="store_true", help="compute and show everything, write nothing"
    )
    parser.add_argument("--seed", metavar="TEXT", help="make the new GUIDs of this text")
    add_confirm_option(parser)


def run_add(args: argparse.Namespace, output: Output) -> ExitCode:
    """Shrink Windows, make and fill a recovery partition, and register it."""
    undo_path = _undo_path(args)
    if not args.dry_run:
        check_undo_place(undo_path, args.target)
        if is_in_memory(undo_path.parent):
            output.warning(
                f"{undo_path} lies in memory: a power cut would take the way back along; "
                "name a file on another disk with --undo"
            )
    with _recovery_files(args) as files:
        return _add(args, output, undo_path, files)


def _add(
    args: argparse.Namespace, output: Output, undo_path: Path, files: RecoveryFiles
) -> ExitCode:
    request = AddRequest(
        seed=args.seed.encode() if args.seed is not None else secrets.token_bytes(32),
        winre=files.winre,
        boot_sdi=files.sdi,
        windows_number=args.windows,
        size=args.size,
        modified_ns=time.time_ns(),
    )
    warning = None
    with (
        opened_disk(args.target, writable=not args.dry_run) as disk,
        contextlib.ExitStack() as stack,
    ):
        with working(output) as work:
            prepared = stack.enter_context(
                prepare_recovery(
                    args.target,
                    disk_size=disk.size,
                    sector_size=disk.logical_sector_size,
                    request=request,
                    on_event=writes_as(work.on_event, Phase.PREPARE),
                    cancel=work.cancel,
                )
            )
        output.note("\n".join(show_recovery(prepared)))
        if not args.dry_run:
            # Ctrl-C at the question ends it as usual; from here on it is waited for.
            release(args.target, disk, args.confirm, output)
            warning = _write(args, output, disk, prepared, undo_path)
        fields = _add_to_json(prepared)
    if warning is not None:
        output.warning(warning)
    undo = None if args.dry_run else str(undo_path)
    output.event("recovery-add", target=str(args.target), undo=undo, **fields)
    recovery = prepared.recovery
    what = f"recovery partition {recovery.number} of {format_size(recovery.size)}"
    if args.dry_run:
        output.result(f"{args.target}: would get {what}; nothing was written")
    else:
        output.result(f"{args.target}: got {what}; the way back: mediamaker undo {undo_path}")
    return ExitCode.DONE


def _write(
    args: argparse.Namespace,
    output: Output,
    disk: ChangeableDisk,
    prepared: PreparedRecovery,
    undo_path: Path,
) -> str | None:
    output.note(f"the way back: mediamaker undo {undo_path}")
    identity = identify(args.target, size=disk.size, sector_size=disk.logical_sector_size)
    with working(output) as work:
        return write_recovery(
            prepared,
            disk,
            undo_path=undo_path,
            identity=identity,
            made_at=datetime.now(UTC).isoformat(timespec="seconds"),
            made_by=f"mediamaker {__version__}",
            meter=ProgressMeter(work.on_event, time.monotonic),
            cancel=work.cancel,
        )


@contextmanager
def _recovery_files(args: argparse.Namespace) -> Iterator[RecoveryFiles]:
    """What was given; of an image, its Winre.wim and boot.sdi in a folder for the while.

    Raises:
        UsageError: no such image; SourceError: it has no Winre.wim, or is damaged.
    """
    name = parse_wim_name(args.winre) if args.winre is not None else None
    if name is None or name.image is None:
        yield RecoveryFiles(winre=None if name is None else name.path, sdi=args.boot_sdi)
        return
    paths = (name.path, *other_parts(name.path, ()))
    facts = image_facts(paths, name.image)
    if facts.winre_size is None:
        raise SourceError(
            f"{args.winre}: the image has no Winre.wim",
            hint="name another image, or a Winre.wim itself",
        )
    with scratch_folder(SCRATCH_DEFAULT) as scratch:
        found = extract_recovery_files(paths, facts, scratch)
        yield RecoveryFiles(winre=found.winre, sdi=args.boot_sdi or found.sdi)


def add_check_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the arguments of ``check``."""
    parser.add_argument("target", type=Path, metavar="TARGET", help="block device or image file")
    parser.add_argument(
        "--windows", type=int, metavar="NUMBER", help="the partition of Windows (default: its own)"
    )


def run_check(args: argparse.Namespace, output: Output) -> ExitCode:
    """Say why WinRE would or would not start."""
    with readable_disk(args.target) as disk:
        windows_disk = WindowsDisk(
            disk.pread,
            disk_size=disk.size,
            sector_size=disk.logical_sector_size,
            what=str(args.target),
        )
        report = check_recovery(windows_disk, windows_number=args.windows)
    output.event("recovery-check", target=str(args.target), **_report_to_json(report))
    output.result("\n".join(show_report(report)))
    return ExitCode.DONE if report.would_start else ExitCode.VERIFY_FAILED


SUBVERBS = (
    SubVerb(
        "add",
        "give a disk that has a Windows a recovery partition: shrink, create, fill, register",
        "mediamaker recovery add /dev/nvme0n1 --undo /media/stick/nvme0n1.undo",
        add_add_arguments,
        run_add,
    ),
    SubVerb(
        "check",
        "say why WinRE on a disk would or would not start, point by point",
        "mediamaker recovery check /dev/nvme0n1",
        add_check_arguments,
        run_check,
    ),
)


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the sub-verbs and their arguments."""
    add_subverbs(parser, SUBVERBS)


def run(args: argparse.Namespace, output: Output) -> ExitCode:
    """Do what the sub-verb says."""
    return run_subverb(args, output)


def _undo_path(args: argparse.Namespace) -> Path:
    if args.undo is not None:
        return Path(args.undo)
    name = f"{args.target.name}.undo"
    # Beside an image file; a device's folder is no place for files.
    return Path.cwd() / name if is_block_device(args.target) else args.target.with_name(name)


def _report_to_json(report: RecoveryReport) -> dict[str, Any]:
    return {
        "would_start": report.would_start,
        "windows_number": report.windows_number,
        "system_number": report.system_number,
        "recovery_number": report.recovery_number,
        "points": [
            {
                "name": point.name,
                "is_good": point.is_good,
                "is_advice": point.is_advice,
                "message": point.message,
            }
            for point in report.points
        ],
    }


def _add_to_json(prepared: PreparedRecovery) -> dict[str, Any]:
    windows, recovery = prepared.windows, prepared.recovery
    return {
        "windows": {
            "number": windows.number,
            "start": windows.start,
            "size_before": windows.size,
            "size_after": prepared.windows_size_after,
        },
        "recovery": {
            "number": recovery.number,
            "start": recovery.start,
            "size": recovery.size,
            "unique_guid": None if recovery.unique_guid is None else str(recovery.unique_guid),
        },
        "changes": [
            {
                "step": step.name.lower().replace("_", "-"),
                "range_count": len(changes),
                "size": changes_size(changes),
            }
            for step, changes in steps_of(prepared.changes)
        ],
        "notes": list(prepared.notes),
        "report": _report_to_json(prepared.report),
    }
