# SPDX-License-Identifier: GPL-3.0-or-later
"""``mediamaker boot``: start a disk in QEMU, written or only planned, and keep what was seen.

A target's very bytes are started; a plan or source is served over NBD from where its bytes lie.
With ``--trace`` every read becomes a file's name, for all three.
"""

from __future__ import annotations

import argparse
import os
import time
from dataclasses import replace
from pathlib import Path

from mediamaker.cli.boot_subject import SubjectKind, open_subject
from mediamaker.cli.options import (
    add_image_options,
    add_media_options,
    add_seed_option,
    parse_seconds,
    size_argument,
)
from mediamaker.cli.output import Output
from mediamaker.errors import ExitCode, UsageError
from mediamaker.units import MIB
from mediamaker.vm.boot import BootResult, boot_target
from mediamaker.vm.boot_trace import report_trace
from mediamaker.vm.disk import Bus
from mediamaker.vm.firmware import Architecture, Firmware, check_firmware
from mediamaker.vm.machine import MachineEvent
from mediamaker.vm.refusal import explain_refusal
from mediamaker.vm.secure_boot import MicrosoftKeys, SecureBootKeys, load_keys


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the verb's arguments."""
    parser.add_argument(
        "target",
        type=Path,
        metavar="TARGET|PLAN|SOURCE",
        help="block device or image file; the JSON of `plan --out`; or an ISO or folder: what "
        "was never written is booted from its sources, nothing is copied",
    )
    parser.add_argument(
        "--as",
        dest="take_as",
        type=SubjectKind,
        choices=list(SubjectKind),
        metavar="|".join(SubjectKind),
        help="take the first argument for this (default: by what it is)",
    )
    parser.add_argument(
        "--firmware",
        required=True,
        type=Firmware,
        choices=list(Firmware),
        metavar="|".join(Firmware),
        help="what starts the disk: SeaBIOS, OVMF, or OVMF with Secure Boot",
    )
    parser.add_argument(
        "--keys",
        action="append",
        metavar=f"{'|'.join(MicrosoftKeys)}|PATH",
        help="whose signatures uefi-secure accepts: Microsoft's keys, or a certificate of your own "
        "(PEM, DER, or a folder of them); several add up (default: microsoft, which is 2011 and "
        "2023)",
    )
    parser.add_argument(
        "--arch",
        type=Architecture,
        choices=list(Architecture),
        default=Architecture.X86_64,
        metavar="|".join(Architecture),
        help="the processor (default: x86_64)",
    )
    parser.add_argument(
        "--bus",
        type=Bus,
        choices=list(Bus),
        default=Bus.USB,
        metavar="|".join(bus.value for bus in Bus),
        help="how the disk is attached (default: usb)",
    )
    parser.add_argument(
        "--expect",
        metavar="TEXT",
        help="text that the guest must say on its serial line or text screen; only this proves "
        "the boot, without it the exit code is 7 and the screenshot is for you to judge",
    )
    parser.add_argument(
        "--timeout", type=parse_seconds, default=120.0, metavar="S", help="seconds (default: 120)"
    )
    parser.add_argument(
        "--screenshot",
        type=Path,
        metavar="DIR",
        help="where logs and screenshots are kept (default: a new folder in the state folder)",
    )
    parser.add_argument(
        "--memory",
        type=size_argument,
        default=1024 * MIB,
        metavar="SIZE",
        help="memory of the machine (default: 1GiB)",
    )
    parser.add_argument(
        "--trace",
        action="store_true",
        help="tell which files firmware and loaders read, in which order, how much of each, and "
        "how far the boot came by that",
    )
    add_media_options(parser)
    add_seed_option(parser)
    add_image_options(parser, default_size="auto: the smallest that fits")


def run(args: argparse.Namespace, output: Output) -> ExitCode:
    """Boot, say what was seen, and whether it proves anything."""
    check_firmware(args.firmware, args.arch)
    keys = _load_keys(args)
    directory = args.screenshot or _state_directory(args.target)
    hint = None
    with open_subject(args, output) as subject:
        result = boot_target(
            args.target,
            args.firmware,
            bus=args.bus,
            expect=args.expect,
            timeout=args.timeout,
            directory=directory,
            memory_size=args.memory,
            logical_sector_size=subject.sector_size,
            on_event=lambda event: _tell(event, output),
            server=subject.server,
            architecture=args.arch,
            keys=keys,
        )
        if keys is not None and result.is_refused:
            with subject.open_bytes() as pread:
                why = explain_refusal(subject.map_disk(), pread, keys, architecture=args.arch)
            result = replace(result, words=f"{result.words}; {why.words}")
            hint = why.hint
        if args.trace and subject.server is not None:
            report = report_trace(subject.server, subject.map_disk(), result)
            output.event("boot_trace", **report.to_json())
            output.result(report.show())
    output.event(
        "boot", **_to_json(result), booted=subject.kind.value, plan_id=subject.plan_id,
        keys=None if keys is None else keys.name, hint=hint,
    )  # fmt: skip
    output.result(_show(result, has_expectation=args.expect is not None))
    if hint is not None:
        output.result(f"hint: {hint}")
    return ExitCode.DONE if result.proven else ExitCode.BOOT_NOT_PROVEN


def _load_keys(args: argparse.Namespace) -> SecureBootKeys | None:
    if args.firmware is Firmware.UEFI_SECURE:
        return load_keys(args.keys or [MicrosoftKeys.BOTH])
    if args.keys:
        raise UsageError(
            f"--keys: {args.firmware.value} starts whatever it finds",
            hint="add --firmware uefi-secure",
        )
    return None


def _tell(event: MachineEvent, output: Output) -> None:
    output.event(
        "machine", machine=event.machine, kind=event.kind, text=event.text,
        seconds=round(event.seconds, 3),
    )  # fmt: skip
    output.note(f"  {event.kind}: {event.text}")


def _state_directory(target: Path) -> Path:
    state = Path(os.environ.get("XDG_STATE_HOME") or Path.home() / ".local" / "state")
    stamp = time.strftime("%Y%m%d-%H%M%S")
    return state / "mediamaker" / "boot" / f"{target.name}-{stamp}"


def _show(result: BootResult, *, has_expectation: bool) -> str:
    processor = "" if result.architecture is Architecture.X86_64 else " on aarch64"
    lines = [f"{result.firmware.value}{processor} from {result.bus.value}: {result.words}"]
    lines += [f"screenshot  {path}" for path in result.screenshots]
    lines.append(f"serial log  {result.serial_log}")
    if not has_expectation:
        lines.append("hint: --expect TEXT names what the guest must say for a boot to be proven")
    return "\n".join(lines)


def _to_json(result: BootResult) -> dict[str, object]:
    return {
        "proven": result.proven,
        "words": result.words,
        "matched_line": result.matched_line,
        "firmware": result.firmware.value,
        "architecture": result.architecture.value,
        "refused_by_secure_boot": result.is_refused,
        "bus": result.bus.value,
        "seconds": round(result.seconds, 3),
        "bytes_read": result.bytes_read,
        "screenshots": [str(path) for path in result.screenshots],
        "serial_log": str(result.serial_log),
        "directory": str(result.directory),
    }
