# SPDX-License-Identifier: GPL-3.0-or-later
"""``mediamaker test-matrix``: one disk under every firmware and on every bus, and a report.

Each machine reads the disk through a server of its own or opens it read-only: several run at
once, and none of them can write. What can't be, such as 4096-byte sectors on AHCI, is a row that
says why.
"""

from __future__ import annotations

import argparse
import contextlib
import io
import os
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import TypeVar

import psutil
from rich.console import Console
from rich.table import Table
from rich.text import Text

from mediamaker.cli.boot import (
    DEFAULT_TIMEOUT,
    add_machine_arguments,
    add_subject_arguments,
    find_accelerator,
    result_to_json,
    state_directory,
    tell_event,
)
from mediamaker.cli.boot_subject import Subject, open_subject
from mediamaker.cli.options import (
    add_image_options,
    add_media_options,
    add_seed_option,
    parse_seconds,
)
from mediamaker.cli.output import Output
from mediamaker.cli.terminal import printable
from mediamaker.errors import ExitCode, UsageError
from mediamaker.vm.accel import Accelerator
from mediamaker.vm.boot import BootResult, boot_target, check_expectation
from mediamaker.vm.boot_trace import report_trace
from mediamaker.vm.disk import Bus
from mediamaker.vm.firmware import Firmware
from mediamaker.vm.machine import MachineEvent
from mediamaker.vm.matrix import DEFAULT_FIRMWARES, Cell, CellResult, list_cells, run_cells
from mediamaker.vm.nbd import NbdServer
from mediamaker.vm.record import MachineRecord, read_records
from mediamaker.vm.report import Report, Row, write_report

_TABLE_WIDTH = 100
# What QEMU needs beside the guest's memory.
_SPARE_SHARE = 1.25
_Value = TypeVar("_Value", Firmware, Bus)


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the verb's arguments."""
    add_subject_arguments(parser)
    parser.add_argument(
        "--report",
        type=Path,
        metavar="FILE",
        help="the HTML page (default: report.html beside the logs)",
    )
    parser.add_argument(
        "--expect",
        metavar="TEXT",
        help="text that every guest must say; without it nothing is proven and the exit code is 7",
    )
    parser.add_argument(
        "--firmware",
        type=_list_of(Firmware),
        default=DEFAULT_FIRMWARES,
        metavar="LIST",
        help=f"some of {', '.join(Firmware)} (default: {','.join(DEFAULT_FIRMWARES)})",
    )
    parser.add_argument(
        "--bus",
        type=_list_of(Bus),
        default=tuple(Bus),
        metavar="LIST",
        help=f"some of {', '.join(Bus)} (default: all)",
    )
    parser.add_argument(
        "--jobs",
        type=int,
        metavar="N",
        help="machines at once (default: as many as there are cores and memory)",
    )
    parser.add_argument(
        "--timeout",
        type=parse_seconds,
        default=DEFAULT_TIMEOUT,
        metavar="S",
        help=f"seconds for each machine (default: {DEFAULT_TIMEOUT:g})",
    )
    parser.add_argument(
        "--trace",
        action="store_true",
        help="tell for each machine which files were read, as `boot --trace` does",
    )
    add_machine_arguments(parser)
    add_media_options(parser)
    add_seed_option(parser)
    add_image_options(parser, default_size="auto: the smallest that fits")


def _list_of(kind: type[_Value]) -> Callable[[str], tuple[_Value, ...]]:
    """For argparse: values of an enumeration, separated by commas, each once."""

    def parse(text: str) -> tuple[_Value, ...]:
        try:
            return tuple(dict.fromkeys(kind(part.strip()) for part in text.split(",")))
        except ValueError as error:
            known = ", ".join(kind)
            raise argparse.ArgumentTypeError(f"{text!r}: some of {known}, by commas") from error

    return parse


def run(args: argparse.Namespace, output: Output) -> ExitCode:
    """Boot all that can be, and write the report."""
    if args.jobs is not None and args.jobs < 1:
        raise UsageError(f"--jobs {args.jobs}: at least one machine has to run")
    check_expectation(args.expect)
    if args.report is not None and args.report.is_dir():
        raise UsageError(f"--report {args.report} is a folder, not the name of a page")
    directory: Path = args.screenshot or state_directory("matrix", args.target)
    accelerator = find_accelerator(args, output)
    begun_at = time.time()
    with open_subject(args, output) as subject:
        cells = list_cells(
            args.firmware, args.bus, size=subject.size, sector_size=subject.sector_size
        )
        found = _run_all(args, output, subject, cells, directory=directory, accelerator=accelerator)
    results = tuple(found[cell] for cell in cells)
    # A folder that somebody named may hold the machines of earlier runs.
    records = {
        record.name.rpartition("-")[0]: record
        for record in read_records(directory)
        if record.started_at >= begun_at
    }
    rows = tuple(_row(result, records.get(result.cell.name)) for result in results)
    title = f"Boot matrix of {args.target.name}"
    report = Report(title, _facts(args, subject), rows, is_matrix=True)
    path = write_report(report, args.report or directory / "report.html")
    output.event(
        "test-matrix",
        cells=[_to_json(result) for result in results],
        counts=report.counts,
        expect=args.expect,
        booted=subject.kind.value,
        plan_id=subject.plan_id,
        report=str(path),
        directory=str(directory),
    )
    output.result(_show(report, path))
    if args.expect is None:
        output.note("hint: nothing is proven without --expect TEXT, which the guests must say")
    is_done = report.counts["proven"] > 0 and report.counts["not proven"] == 0
    return ExitCode.DONE if is_done else ExitCode.BOOT_NOT_PROVEN


def _run_all(
    args: argparse.Namespace,
    output: Output,
    subject: Subject,
    cells: tuple[Cell, ...],
    *,
    directory: Path,
    accelerator: Accelerator,
) -> dict[Cell, CellResult]:
    """What became of each cell; with ``--trace`` a machine's reads are named when it has ended."""
    servers: dict[Cell, NbdServer] = {}
    lock = threading.Lock()

    def boot(cell: Cell, stop: threading.Event) -> BootResult:
        server = None if subject.server is None else NbdServer(subject.server.content)
        if server is not None:
            servers[cell] = server
        try:
            return boot_target(
                args.target,
                cell.firmware,
                bus=cell.bus,
                expect=args.expect,
                timeout=args.timeout,
                directory=directory,
                label=cell.name,
                memory_size=args.memory,
                logical_sector_size=subject.sector_size,
                on_event=tell,
                server=server,
                accelerator=accelerator,
                stop=stop,
            )
        finally:
            if server is not None:
                server.close()

    def tell(event: MachineEvent) -> None:
        with lock:
            if output.as_json or event.kind == "started":
                tell_event(event, output)

    jobs = args.jobs or _count_jobs(args.memory)
    disk_map = None
    found = {}
    # Closed at once at an interruption, or the machines would run to their ends.
    with contextlib.closing(run_cells(cells, boot, jobs=jobs)) as results:
        for result in results:
            found[result.cell] = result
            if result.result is not None and args.trace and subject.map_disk is not None:
                disk_map = disk_map or subject.map_disk()
                traced = report_trace(servers[result.cell], disk_map, result.result)
                with lock:
                    output.event("boot_trace", **traced.to_json())
            with lock:
                _tell_result(result, output)
    return found


def _count_jobs(memory_size: int) -> int:
    """A core and its memory for each machine, but always one."""
    cores = len(os.sched_getaffinity(0))
    room = psutil.virtual_memory().available // int(memory_size * _SPARE_SHARE)
    return max(1, min(cores, room))


def _tell_result(result: CellResult, output: Output) -> None:
    if result.result is not None:
        output.event("boot", **result_to_json(result.result))
    output.note(f"  {result.cell.name}: {_words(result)}")


def _words(result: CellResult) -> str:
    if result.result is not None:
        return result.result.words
    if result.error is not None:
        return f"not proven: {result.error.message}"
    return f"does not apply: {result.cell.reason}"


def _row(result: CellResult, record: MachineRecord | None) -> Row:
    cell = result.cell
    return Row(
        title=cell.name,
        firmware=cell.firmware.value,
        bus=cell.bus.value,
        record=record,
        note=cell.reason if result.error is None else result.error.message,
        outcome=None if result.error is None else "failed",
        pictures=() if record is None else tuple(sorted(record.directory.glob("*.svg"))),
    )


def _facts(args: argparse.Namespace, subject: Subject) -> tuple[tuple[str, str], ...]:
    facts = [("booted", f"{args.target} (a {subject.kind.value})")]
    if subject.plan_id is not None:
        facts.append(("plan", subject.plan_id))
    expected = "nothing, so nothing is proven" if args.expect is None else repr(args.expect)
    facts += [("expected", expected), ("made", time.strftime("%Y-%m-%d %H:%M:%S"))]
    return tuple(facts)


def _to_json(result: CellResult) -> dict[str, object]:
    cell = result.cell
    if cell.reason is not None:
        verdict = "does-not-apply"
    else:
        verdict = "proven" if result.is_proven else "not-proven"
    return {
        "firmware": cell.firmware.value,
        "bus": cell.bus.value,
        "verdict": verdict,
        "words": _words(result),
        "matched_line": None if result.result is None else result.result.matched_line,
        "seconds": None if result.result is None else round(result.result.seconds, 3),
        "directory": None if result.result is None else str(result.result.directory),
    }


def _show(report: Report, path: Path) -> str:
    table = Table("firmware", "bus", "verdict", "seconds", "what was seen")
    for row in report.rows:
        seconds = "" if row.record is None else f"{row.record.seconds:.1f}"
        cells = (row.firmware, row.bus, row.mark, seconds, printable(row.words))
        table.add_row(*(Text(cell) for cell in cells))
    console = Console(file=io.StringIO(), width=_TABLE_WIDTH, color_system=None)
    with console.capture() as capture:
        console.print(table)
    counts = ", ".join(f"{count} {mark}" for mark, count in report.counts.items() if count)
    return f"{capture.get().rstrip()}\n{counts}\nreport  {path}"
