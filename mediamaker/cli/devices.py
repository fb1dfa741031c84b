# SPDX-License-Identifier: GPL-3.0-or-later
"""``mediamaker devices``: every disk, what is on it, and why it may or may not be a target."""

from __future__ import annotations

import argparse
from typing import Any

from mediamaker.cli.output import Output
from mediamaker.devices.discover import list_disks
from mediamaker.devices.disk import Disk
from mediamaker.devices.guard import GuardContext, Verdict, check_disk, confirmation_words
from mediamaker.errors import ExitCode
from mediamaker.units import format_size


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
    blocks = ["\n".join(_show(disk, verdicts)) for disk, verdicts in judged]
    output.result("\n\n".join(blocks) or "no disk was found")
    return ExitCode.DONE


def _show(disk: Disk, verdicts: tuple[Verdict, ...]) -> list[str]:
    is_target = not any(verdict.is_refusal for verdict in verdicts)
    lines = [
        (
            f"{disk.path}  {format_size(disk.size)}  {disk.bus}  {disk.title or 'no model'}  "
            f"serial {disk.serial or 'none'}"
        ),
        f"  target: {'yes, confirm with ' + repr(confirmation_words(disk)) if is_target else 'no'}",
    ]
    lines += [
        f"  {'because' if verdict.is_refusal else 'careful'}: {verdict.reason} [{verdict.rule}]"
        for verdict in verdicts
    ]
    lines += [f"  holds: {words}" for words in _contents(disk)]
    return lines


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
        "is_target": not any(verdict.is_refusal for verdict in verdicts),
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
