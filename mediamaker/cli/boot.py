# SPDX-License-Identifier: GPL-3.0-or-later
"""``mediamaker boot``: start a disk in QEMU, written or only planned, and keep what was seen.

A target's very bytes are started; a plan or source is served over NBD from where its bytes lie.
With ``--trace`` every read becomes a file's name, for all three.
"""

from __future__ import annotations

import argparse
import os
import sys
import time
from dataclasses import replace
from pathlib import Path

from mediamaker.cli.boot_subject import Subject, SubjectKind, open_subject
from mediamaker.cli.options import (
    add_image_options,
    add_media_options,
    add_seed_option,
    parse_seconds,
    size_argument,
)
from mediamaker.cli.output import Output
from mediamaker.errors import ExitCode, UsageError
from mediamaker.state import state_folder
from mediamaker.units import MIB
from mediamaker.vm.accel import Accelerator
from mediamaker.vm.accel_probe import choose_accelerator
from mediamaker.vm.boot import BootResult, boot_target
from mediamaker.vm.boot_trace import report_trace
from mediamaker.vm.command import qemu_name
from mediamaker.vm.disk import Bus, Disk
from mediamaker.vm.firmware import Architecture, Firmware, check_firmware
from mediamaker.vm.interactive import boot_interactively, open_display
from mediamaker.vm.machine import Machine, MachineEvent
from mediamaker.vm.refusal import explain_refusal
from mediamaker.vm.secure_boot import MicrosoftKeys, SecureBootKeys, load_keys

DEFAULT_TIMEOUT = 120.0


def add_subject_arguments(parser: argparse.ArgumentParser) -> None:
    """What is booted."""
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


def add_machine_arguments(parser: argparse.ArgumentParser) -> None:
    """What machines are like, and where what they leave is kept."""
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
        "--accel",
        choices=("auto", *Accelerator),
        default="auto",
        metavar="|".join(("auto", *Accelerator)),
        help="accelerator (default: auto: KVM if it runs a small boot sector of ours within a few "
        "seconds, else TCG)",
    )


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the verb's arguments."""
    add_subject_arguments(parser)
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
        "--timeout",
        type=parse_seconds,
        metavar="S",
        help=f"seconds (default: {DEFAULT_TIMEOUT:g}; none with --interactive)",
    )
    parser.add_argument(
        "--interactive",
        action="store_true",
        help="in a window, or over VNC where there is no display; you end it",
    )
    add_machine_arguments(parser)
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
    if args.interactive and args.json and args.timeout is None:
        raise UsageError(
            "--interactive --json: a script can't end it", hint="give a --timeout as well"
        )
    keys = _load_keys(args)
    directory = args.screenshot or state_directory("boot", args.target)
    accelerator = find_accelerator(args, output)
    hint = None
    with open_subject(args, output) as subject:
        if args.interactive:
            result = _boot_interactively(args, output, subject, directory, accelerator, keys)
        else:
            result = boot_target(
                args.target,
                args.firmware,
                bus=args.bus,
                expect=args.expect,
                timeout=args.timeout or DEFAULT_TIMEOUT,
                directory=directory,
                memory_size=args.memory,
                logical_sector_size=subject.sector_size,
                on_event=lambda event: tell_event(event, output),
                server=subject.server,
                accelerator=accelerator,
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
        "boot", **result_to_json(result), booted=subject.kind.value, plan_id=subject.plan_id,
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


def find_accelerator(args: argparse.Namespace, output: Output) -> Accelerator:
    """What ``--accel`` says; what a probe has found is told.

    Raises:
        UsageError: KVM for a processor of another kind.
    """
    architecture: Architecture = getattr(args, "arch", Architecture.X86_64)
    if args.accel == Accelerator.KVM and architecture is not Architecture.X86_64:
        raise UsageError(
            f"--accel kvm: machines of {architecture.value} are always emulated here",
            hint="leave out --accel",
        )
    if args.accel != "auto":
        return Accelerator(args.accel)
    choice = choose_accelerator(qemu_name(architecture))
    output.note(f"  accelerator: {choice.accelerator.value}: {choice.words}")
    return choice.accelerator


def _boot_interactively(  # noqa: PLR0917 - one caller
    args: argparse.Namespace,
    output: Output,
    subject: Subject,
    directory: Path,
    accelerator: Accelerator,
    keys: SecureBootKeys | None,
) -> BootResult:
    qemu = qemu_name(args.arch)
    with open_display(os.environ, qemu=qemu, has_terminal=sys.stdin.isatty()) as display:
        output.note(f"  {display.words}")
        return boot_interactively(
            Disk(
                args.target,
                args.bus,
                logical_sector_size=subject.sector_size,
                server=subject.server,
            ),
            make_machine=lambda disk: Machine(
                f"boot-{args.firmware.value}-{args.bus.value}",
                [disk],
                firmware=args.firmware,
                directory=directory,
                memory_size=args.memory,
                architecture=args.arch,
                keys=keys,
                on_event=lambda event: tell_event(event, output),
                accelerator=accelerator,
                display=display.value,
            ),
            expect=args.expect,
            timeout=args.timeout,
        )


def tell_event(event: MachineEvent, output: Output) -> None:
    """A machine's own news."""
    output.event(
        "machine", machine=event.machine, kind=event.kind, text=event.text,
        seconds=round(event.seconds, 3),
    )  # fmt: skip
    output.note(f"  {event.kind}: {event.text}")


def state_directory(kind: str, target: Path) -> Path:
    """Where the logs of a run of ``kind`` go that nobody has named a folder for."""
    stamp = time.strftime("%Y%m%d-%H%M%S")
    return state_folder(kind) / f"{target.name}-{stamp}"


def _show(result: BootResult, *, has_expectation: bool) -> str:
    processor = "" if result.architecture is Architecture.X86_64 else " on aarch64"
    lines = [f"{result.firmware.value}{processor} from {result.bus.value}: {result.words}"]
    lines += [f"screenshot  {path}" for path in result.screenshots]
    lines.append(f"serial log  {result.serial_log}")
    if not has_expectation:
        lines.append("hint: --expect TEXT names what the guest must say for a boot to be proven")
    return "\n".join(lines)


def result_to_json(result: BootResult) -> dict[str, object]:
    """As the event ``boot`` has it."""
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
