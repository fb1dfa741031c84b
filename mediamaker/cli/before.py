# SPDX-License-Identifier: GPL-3.0-or-later
"""Keeps what ``create`` will overwrite of a device's tables and superblocks, for ``undo``."""

from __future__ import annotations

import argparse
from collections.abc import Iterator
from datetime import UTC, datetime
from pathlib import Path

from mediamaker import __version__
from mediamaker.cli.output import Output
from mediamaker.devices.blockmap import disks_of_path
from mediamaker.devices.table import DiskTable
from mediamaker.errors import MediaError
from mediamaker.execute.before import (
    BeforeFile,
    BeforeHeader,
    OldPartition,
    choose_ranges,
    save_before,
    sector_digests,
)
from mediamaker.execute.journal import Facts
from mediamaker.execute.pipeline import SourceFiller, aligned_buffer
from mediamaker.execute.progress import ProgressMeter, ignore_event
from mediamaker.execute.runs import intersect_runs
from mediamaker.execute.state import disk_key, state_folder
from mediamaker.execute.steps import FILL_SIZE, Fill, iter_steps, runs_size
from mediamaker.execute.target import ReadableTarget
from mediamaker.plan.model import Plan
from mediamaker.sources.reader import SourceReader
from mediamaker.units import format_size

KEPT_COUNT = 3
"""Undo files of one disk: each is at most some 64 MiB."""


def add_undo_option(parser: argparse.ArgumentParser) -> None:
    """The option that does without."""
    parser.add_argument(
        "--no-undo",
        dest="keeps_undo",
        action="store_false",
        help="do not keep a device's old tables and superblocks for `mediamaker undo`",
    )


def keep_before(
    args: argparse.Namespace,
    plan: Plan,
    table: DiskTable,
    facts: Facts,
    *,
    reader: SourceReader,
    target: ReadableTarget,
    output: Output,
) -> Path | None:
    """The undo file of this run; None, with a warning, if there can be none."""
    try:
        folder = state_folder("undo")
        if args.target.resolve().name in disks_of_path(folder):
            output.warning(f"no undo: {folder} is on {args.target} itself")
            return None
        return _keep(args, plan, table, facts, folder, reader=reader, target=target, output=output)
    except OSError as error:
        output.warning(
            f"no undo: what is on {args.target} now can't be kept ({error.strerror}); "
            "set XDG_STATE_HOME to a folder that you may write to"
        )
        return None


def undo_files(facts: Facts) -> list[Path]:
    """The undo files of a disk, the newest first."""
    found = state_folder("undo").glob(f"{disk_key(facts)}-*.undo")
    return sorted(found, key=lambda path: path.name, reverse=True)


def _keep(
    args: argparse.Namespace,
    plan: Plan,
    table: DiskTable,
    facts: Facts,
    folder: Path,
    *,
    reader: SourceReader,
    target: ReadableTarget,
    output: Output,
) -> Path | None:
    now = datetime.now(UTC)
    path = folder / f"{disk_key(facts)}-{now:%Y%m%dT%H%M%S%f}.undo"
    earlier = _interrupted(facts, target)
    partitions = earlier.header.partitions if earlier else tuple(_old_partitions(table))
    written = list(plan.extents.written_runs(plan.extents.start, plan.extents.end))
    sector_size = plan.geometry.logical_sector_size
    size = plan.geometry.size
    saved = choose_ranges(partitions, written, size=size, sector_size=sector_size)
    output.note(f"keeping {format_size(runs_size(saved))} of what is there now, for undo")
    header = save_before(
        path,
        BeforeHeader(
            plan_id=plan.plan_id,
            source=str(args.source.absolute()),
            target=str(args.target),
            disk=facts,
            size=size,
            sector_size=sector_size,
            made_at=now.isoformat(timespec="seconds"),
            made_by=__version__,
            table_type=table.type,
            partitions=partitions,
            written=tuple(written),
            commit=plan.commit,
            commit_digests=_commit_digests(plan, reader, sector_size),
            saved=tuple(saved),
        ),
        target,
        earlier=earlier,
    )
    if header is None:
        output.note("there was nothing to keep: the disk is blank where it will be written")
        return None
    kept, asked = runs_size(intersect_runs(saved, header.saved)), runs_size(saved)
    if kept < asked and earlier is None:
        output.warning(f"undo: {format_size(asked - kept)} could not be read, so are not kept")
    # The one that this one took over is of no more use; and there is an end to keeping.
    replaced = [earlier.path] if earlier is not None else []
    for old in [*replaced, *undo_files(facts)[KEPT_COUNT:]]:
        old.unlink(missing_ok=True)
    return path


def _interrupted(facts: Facts, target: ReadableTarget) -> BeforeFile | None:
    """The undo file of a run that left the disk blank, so that it knows more than the disk."""
    files = undo_files(facts)
    earlier = BeforeFile.open_or_none(files[0]) if files else None
    if earlier is None or earlier.header.size != target.size:
        return None
    is_blank = all(not any(target.pread(s, e - s)) for s, e in earlier.header.commit)
    return earlier if is_blank else None


def _old_partitions(table: DiskTable) -> Iterator[OldPartition]:
    if table.type is None and table.whole_disk.type is not None:
        yield OldPartition(0, "primary", 0, table.size, str(table.whole_disk))
    for partition in table.partitions:
        words = [partition.file_system or partition.kind]
        words += [f'"{partition.volume_label}"'] if partition.volume_label else []
        words += [f'named "{partition.partition_name}"'] if partition.partition_name else []
        yield OldPartition(
            partition.number, partition.kind, partition.start, partition.size, " ".join(words)
        )


def _commit_digests(plan: Plan, reader: SourceReader, sector_size: int) -> str:
    buffer = aligned_buffer(FILL_SIZE)
    filler = SourceFiller(reader, ProgressMeter(ignore_event, lambda: 0.0))
    digests = b""
    for step in iter_steps(plan.extents, plan.commit):
        if not isinstance(step, Fill):
            raise MediaError("a table that is copied from a file")
        filler.fill(step, buffer[: step.size])
        digests += sector_digests(bytes(buffer[: step.size]), sector_size)
    return digests.hex()
