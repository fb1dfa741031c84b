# SPDX-License-Identifier: GPL-3.0-or-later
"""``mediamaker devices``: every disk, what is on it, and why it may or may not be a target."""

from __future__ import annotations

import argparse
from collections.abc import Iterator
from typing import Any

from mediamaker.cli.output import Output
from mediamaker.devices.discover import list_disks
from mediamaker.devices.disk import Disk
from mediamaker.devices.guard import GuardContext, Verdict, check_disk, confirmation_words
from mediamaker.errors import ExitCode
from mediamaker.units import format_size

Judged = tuple[Disk, tuple[Verdict, ...]]


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the verb's arguments."""
    parser.add_argument(
        "--allow-fixed-disk", action="store_true", help="judge as create --allow-fixed-disk would"
    )


def run(args: argparse.Namespace, output: Output) -> ExitCode:
    """List."""
    context = GuardContext(allow_fixed_disk=args.allow_fixed_disk)
    judged = [(disk, check_disk(disk, context)) for disk in list_disks()]
    output.event("devices", disks=[_to_json(disk, verdicts) for disk, verdicts in judged])
    output.result("\n\n".join(_blocks(judged)) or "no disk was found")
    return ExitCode.DONE


def _blocks(judged: list[Judged]) -> Iterator[str]:
    """What may be written first, then what may not; volumes are no disks and share one line."""
    disks = [(disk, verdicts) for disk, verdicts in judged if disk.kind != "volume"]
    targets = [item for item in disks if _is_target(item[1])]
    if disks:
        paths = ", ".join(str(disk.path) for disk, _ in targets)
        count = f"{len(targets)} of {len(disks)} disk{'' if len(disks) == 1 else 's'}"
        yield f"{count} may be written" + (f": {paths}" if paths else "")
    for disk, verdicts in (*targets, *(item for item in disks if not _is_target(item[1]))):
        yield "\n".join(_show(disk, verdicts))
    holders = {holder.name: str(holder) for disk, _ in judged for holder in disk.holders}
    volumes = [
        f"{disk.path}, {holders.get(disk.name, disk.bus)}, {format_size(disk.size)}"
        for disk, _ in judged
        if disk.kind == "volume"
    ]
    if volumes:
        yield "\n".join(["made of these disks by the kernel, so never written:", *_indent(volumes)])


def _show(disk: Disk, verdicts: tuple[Verdict, ...]) -> list[str]:
    title, serial = disk.title or "no model", disk.serial or "none"
    lines = [f"{disk.path}  {format_size(disk.size)}  {disk.bus}  {title}  serial {serial}"]
    if _is_target(verdicts):
        lines.append(f'  yes, may be written; confirm with "{confirmation_words(disk)}"')
    refusals = [verdict for verdict in verdicts if verdict.is_refusal]
    lines += [f"  no: {verdict.reason} [{verdict.rule}]" for verdict in refusals]
    if refusals:
        # the first outweighs the others: nobody unmounts the system's own disk
        lines.append(f"      -> {refusals[0].hint}")
    else:
        lines += [
            f"  careful: {verdict.reason} [{verdict.rule}]; {verdict.hint}" for verdict in verdicts
        ]
    return lines + [f"  holds: {words}" for words in _contents(disk) or _nothing(disk)]


def _is_target(verdicts: tuple[Verdict, ...]) -> bool:
    return not any(verdict.is_refusal for verdict in verdicts)


def _nothing(disk: Disk) -> list[str]:
    is_unknown = disk.size == 0 or disk.signature.problem is not None
    return [] if is_unknown else ["no partition table and no known file system"]


def _indent(lines: list[str]) -> list[str]:
    return [f"  {line}" for line in lines]


def _contents(disk: Disk) -> list[str]:
    lines = []
    whole = _words(disk.signature.type, disk.signature.label) or disk.signature.table_type
    if whole:
        lines.append(whole)
    for part in disk.partitions:
        words = _words(part.signature.type, part.signature.label) or "nothing known"
        mounted = f", mounted at {', '.join(part.mountpoints)}" if part.mountpoints else ""
        lines.append(f"{part.number}: {words}, {format_size(part.size)}{mounted}")
    return lines


def _words(signature_type: str | None, label: str | None) -> str:
    if not signature_type:
        return ""
    return f'{signature_type} "{label}"' if label else signature_type


def _to_json(disk: Disk, verdicts: tuple[Verdict, ...]) -> dict[str, Any]:
    return {
        "path": str(disk.path),
        "kind": disk.kind,
        "bus": disk.bus,
        "vendor": disk.vendor,
        "model": disk.model,
        "serial": disk.serial,
        "wwn": disk.wwn,
        "size": disk.size,
        "logical_sector_size": disk.logical_sector_size,
        "is_removable": disk.is_removable,
        "is_target": _is_target(verdicts),
        "confirm": confirmation_words(disk),
        "reasons": [
            {
                "rule": verdict.rule,
                "is_refusal": verdict.is_refusal,
                "reason": verdict.reason,
                "hint": verdict.hint,
            }
            for verdict in verdicts
        ],
        "contents": _contents(disk),
    }
