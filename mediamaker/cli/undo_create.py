# SPDX-License-Identifier: GPL-3.0-or-later
"""``mediamaker undo DEVICE``: the tables and superblocks from before a create."""

from __future__ import annotations

import argparse
import time
from pathlib import Path

from mediamaker.cli.before import undo_files
from mediamaker.cli.output import Output
from mediamaker.cli.resumable import stored_facts
from mediamaker.cli.session import find_target_disk
from mediamaker.cli.wim_work import working
from mediamaker.cli.windows_disk import opened_disk, release
from mediamaker.devices.identity import disk_fingerprint
from mediamaker.devices.target import is_block_device
from mediamaker.errors import ExitCode, TargetRefusedError, UsageError
from mediamaker.execute.before import BeforeFile, BeforeHeader, lost_ranges
from mediamaker.execute.journal import Facts, remove_journal
from mediamaker.execute.progress import ProgressMeter
from mediamaker.execute.put_back import compare_tables, put_back, show_recoverable
from mediamaker.execute.state import disk_key, state_folder
from mediamaker.execute.steps import runs_size
from mediamaker.units import format_size


def is_undo_of_create(path: Path) -> bool:
    """Whether this is for us: a device, or the undo file of a create."""
    return is_block_device(path) or BeforeFile.is_one(path)


def undo_create(args: argparse.Namespace, output: Output) -> ExitCode:
    """Say what can come back, put it back, compare."""
    path, target, facts = _find_file(args)
    before = BeforeFile(path)
    header = before.header
    _check_same_disk(header, facts, target)
    output.note(f"{path}: from before {header.source} was written to {header.target}")
    lines = show_recoverable(header)
    restored_size = 0
    with opened_disk(target, writable=not args.dry_run) as disk:
        state = compare_tables(before, disk)
        if not args.dry_run:
            for line in lines:
                output.note(line)
            if state.foreign_range is None or args.force:
                release(target, disk, args.confirm, output)
            with working(output) as work:
                meter = ProgressMeter(work.on_event, time.monotonic)
                # What a journal of this disk claims is true no more.
                for journal in state_folder("journals").glob(f"{disk_key(facts)}-*.journal"):
                    remove_journal(journal)
                restored_size = put_back(before, disk, meter=meter, is_forced=args.force)
            warning = disk.reread_partition_table()
            if warning is not None:
                output.warning(warning)
    output.event(
        "undo",
        undo=str(path),
        target=str(target),
        what="create",
        is_dry_run=args.dry_run,
        restored_size=restored_size,
        total_size=runs_size(header.saved),
        old_sectors=state.old_sectors,
        new_sectors=state.new_sectors,
        foreign_sectors=state.foreign_sectors,
        blank_sectors=state.blank_sectors,
        partitions=_partitions(header),
    )
    if args.dry_run:
        counts = (
            f"tables: {state.new_sectors} sectors as create made them, {state.blank_sectors} "
            f"blank, {state.old_sectors} as before, {state.foreign_sectors} neither"
        )
        output.result("\n".join([*lines, counts, "nothing was written"]))
        is_refused = bool(state.foreign_sectors) and not args.force
        return ExitCode.TARGET_REFUSED if is_refused else ExitCode.DONE
    if restored_size:
        words = f"{format_size(restored_size)} were put back; see above what is not recoverable"
    else:
        words = "all that was kept is there already"
    output.result(f"{target}: {words}")
    output.note(f"the undo file stays: {path}")
    return ExitCode.DONE


def _find_file(args: argparse.Namespace) -> tuple[Path, Path, Facts]:
    if is_block_device(args.undo):
        if args.target is not None and args.target != args.undo:
            raise UsageError(f"undo: {args.undo} and {args.target} are two targets")
        target: Path = args.undo
        facts = stored_facts(disk_fingerprint(find_target_disk(target)))
        files = undo_files(facts)
        if not files:
            raise UsageError(
                f"{target}: no undo file of this disk is known (it is told by serial, model and "
                "size)",
                hint="name the file: mediamaker undo UNDOFILE TARGET",
            )
        path = files[0]
    else:
        path = args.undo
        target = args.target or Path(BeforeFile(path).header.target)
        if not is_block_device(target):
            raise TargetRefusedError(f"{target}: not a block device; a create is undone on one")
        facts = stored_facts(disk_fingerprint(find_target_disk(target)))
    return path, target, facts


def _check_same_disk(header: BeforeHeader, facts: Facts, target: Path) -> None:
    differences = [
        f"{name.replace('_', ' ')}: expected {header.disk.get(name)}, found {facts[name]}"
        for name in facts
        if header.disk.get(name) != facts[name]
    ]
    if differences:
        raise TargetRefusedError(
            f"{target} is not the disk that was written: {'; '.join(differences)}",
            hint="nothing was written; `mediamaker devices` lists the disks",
        )


def _partitions(header: BeforeHeader) -> list[dict[str, object]]:
    return [
        {
            "number": partition.number,
            "kind": partition.kind,
            "start": partition.start,
            "size": partition.size,
            "contents": partition.contents,
            "lost": [list(run) for run in lost_ranges(header, partition)],
        }
        for partition in header.partitions
    ]
