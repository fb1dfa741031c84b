# SPDX-License-Identifier: GPL-3.0-or-later
"""``mediamaker undo``: put back the bytes that another verb changed on a disk."""

from __future__ import annotations

import argparse
import time
from pathlib import Path

from mediamaker.cli.output import Output
from mediamaker.cli.undo_create import is_undo_of_create, undo_create
from mediamaker.cli.wim_work import working
from mediamaker.cli.windows_disk import add_confirm_option, opened_disk, release
from mediamaker.errors import ExitCode
from mediamaker.execute.progress import ProgressMeter
from mediamaker.install.disk_file import identify
from mediamaker.install.undo import (
    UndoFile,
    apply_undo,
    check_same_target,
    compare_with_undo,
)
from mediamaker.units import format_size


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the verb's arguments."""
    parser.add_argument(
        "undo",
        type=Path,
        metavar="DEVICE|UNDOFILE",
        help="a device that create wrote to, or a kept file",
    )
    parser.add_argument(
        "target",
        type=Path,
        nargs="?",
        metavar="TARGET",
        help="block device or image file (default: the one that the file names)",
    )
    parser.add_argument(
        "--dry-run", action="store_true", help="compare the disk with the file, write nothing"
    )
    parser.add_argument(
        "--force",
        action="store_true",
        help="also over sectors that are neither as before nor as they were made: for a disk that "
        "kept other bytes than it was given, not for one that was used since",
    )
    add_confirm_option(parser)


def run(args: argparse.Namespace, output: Output) -> ExitCode:
    """Compare, put back, read back."""
    if is_undo_of_create(args.undo):
        return undo_create(args, output)
    with UndoFile(args.undo) as undo:
        header = undo.header
        target = args.target if args.target is not None else Path(header.target)
        output.note(f"{args.undo}: {header.what} of {header.made_at}, on {header.target}")
        with opened_disk(target, writable=not args.dry_run) as disk:
            identity = identify(target, size=disk.size, sector_size=disk.logical_sector_size)
            check_same_target(header, identity, name=str(target))
            state = compare_with_undo(undo, disk)
            restored_size = 0
            if not args.dry_run:
                is_refused = bool(state.foreign_sectors) and not args.force
                if (state.new_sectors or state.foreign_sectors) and not is_refused:
                    release(target, disk, args.confirm, output)
                with working(output) as work:
                    meter = ProgressMeter(work.on_event, time.monotonic)
                    result = apply_undo(undo, disk, meter=meter, is_forced=args.force)
                restored_size = result.restored_size
                if result.warning is not None:
                    output.warning(result.warning)
    output.event(
        "undo",
        undo=str(args.undo),
        target=str(target),
        what=header.what,
        is_dry_run=args.dry_run,
        restored_size=restored_size,
        total_size=header.data_size,
        old_sectors=state.old_sectors,
        new_sectors=state.new_sectors,
        foreign_sectors=state.foreign_sectors,
    )
    counts = (
        f"{state.old_sectors} sectors as before, {state.new_sectors} as after, "
        f"{state.foreign_sectors} as neither"
    )
    if args.dry_run:
        output.result(f"{target}: {counts}; nothing was written")
        is_refused = bool(state.foreign_sectors) and not args.force
        return ExitCode.TARGET_REFUSED if is_refused else ExitCode.DONE
    if restored_size == 0:
        output.result(f"{target}: is as it was before already")
    else:
        output.result(f"{target}: is as it was before; {format_size(restored_size)} were put back")
    if header.what.startswith("install"):
        output.note("the Windows partition keeps what install put there: it was formatted")
    return ExitCode.DONE
