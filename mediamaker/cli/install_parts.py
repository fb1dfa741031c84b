# SPDX-License-Identifier: GPL-3.0-or-later
"""``install --windows P --system P``: into partitions that exist; nothing else is touched."""

from __future__ import annotations

import argparse
import os
import secrets
import time
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path

from mediamaker import __version__
from mediamaker.cli.install_disk import EFIVARS
from mediamaker.cli.output import Output
from mediamaker.cli.wim_name import other_parts, parse_wim_name
from mediamaker.cli.wim_work import tell_left_behind, working
from mediamaker.cli.windows_disk import opened_disk, release
from mediamaker.devices.sysfs import SystemRoots
from mediamaker.devices.target import is_block_device
from mediamaker.errors import ExitCode, UsageError
from mediamaker.install.disk_file import identify
from mediamaker.install.existing import ExistingResult, install_existing, read_disk
from mediamaker.install.existing_checks import ExistingInstall, check_existing, describe_existing
from mediamaker.install.image_facts import ImageFacts
from mediamaker.install.nvram import add_nvram_entry, check_nvram
from mediamaker.install.request import InstallRequest, WinreMode, read_image_facts
from mediamaker.install.scratch import SCRATCH_DEFAULT, scratch_folder
from mediamaker.install.undo import check_undo_place
from mediamaker.plan.identity import identities_from_seed
from mediamaker.plan.layout_file import load_layout
from mediamaker.sources.layout_files import read_layout
from mediamaker.units import format_size


def add_partition_options(parser: argparse.ArgumentParser) -> None:
    """The options that name partitions."""
    group = parser.add_argument_group("into partitions that exist (instead of TARGET)")
    group.add_argument(
        "--windows",
        metavar="PARTITION",
        help="formatted anew, gets the image: a device, or IMAGE-FILE:NUMBER",
    )
    group.add_argument(
        "--system",
        metavar="PARTITION",
        help="keeps its files, gets boot files and an entry in the boot store",
    )
    group.add_argument(
        "--undo",
        type=Path,
        metavar="FILE",
        help="where the system partition's old sectors are kept (default: DISK.undo)",
    )


@dataclass(frozen=True, slots=True)
class PartitionName:
    """A partition of the disk or image file at ``disk``; ``number`` from 1."""

    disk: Path
    number: int


def install_partitions(args: argparse.Namespace, output: Output) -> ExitCode:
    """The whole verb."""
    if args.windows is None or args.system is None:
        raise UsageError("--windows and --system belong together", hint="name both partitions")
    if args.winre not in (None, WinreMode.NATIVE):
        raise UsageError(
            f"--winre {args.winre} is for whole disks; here WinRE is left staged in Windows",
            hint="leave it out; afterwards mediamaker recovery add registers WinRE",
        )
    for option, value in (
        ("--layout", args.layout),
        ("--size", args.size),
        ("--sector-size", args.sector_size),
        ("--force", args.force or None),
    ):
        if value is not None:
            raise UsageError(f"{option} is for whole disks; these partitions exist already")
    if args.nvram:
        check_nvram(
            is_device=is_block_device(Path(args.system)),
            is_uefi=args.firmware == "uefi",
            efivars=EFIVARS,
        )
    windows, system = find_partition(args.windows), find_partition(args.system)
    if not windows.disk.samefile(system.disk):
        raise UsageError(
            f"{args.windows} and {args.system} are on two disks",
            hint="both partitions must be on the disk that the firmware starts",
        )
    request = _request(args)
    facts = read_image_facts(request)
    undo_path = args.undo or _default_undo(system.disk)
    if not args.dry_run:
        check_undo_place(undo_path, system.disk)
    with opened_disk(system.disk, writable=not args.dry_run) as disk:
        found, descriptor = read_disk(system.disk, disk.size, disk.logical_sector_size)
        try:
            install = check_existing(
                found,
                request,
                facts,
                identities_from_seed(args.seed or secrets.token_hex(8)),
                windows_number=windows.number,
                system_number=system.number,
                may_erase=args.erase,
            )
            for line in describe_existing(install):
                output.note(line)
            output.note("WinRE is left staged in Windows: mediamaker recovery add registers it")
            if args.dry_run:
                output.event(
                    "install", is_dry_run=True, target=str(system.disk), **_facts(install, facts)
                )
                output.result("dry run: nothing was written")
                return ExitCode.DONE
            release(system.disk, disk, args.confirm, output)
            with (
                working(output) as work,
                scratch_folder(args.scratch or SCRATCH_DEFAULT) as scratch,
            ):
                result = install_existing(
                    install,
                    system.disk,
                    disk,
                    scratch,
                    undo_path=undo_path,
                    identity=identify(
                        system.disk, size=disk.size, sector_size=disk.logical_sector_size
                    ),
                    made_at=datetime.now(UTC).isoformat(timespec="seconds"),
                    made_by=f"mediamaker {__version__}",
                    is_verifying=args.verify,
                    on_event=work.on_event,
                    cancel=work.cancel,
                )
        finally:
            os.close(descriptor)
    if args.nvram:
        add_nvram_entry(system.disk, system.number)
    _report(output, system.disk, undo_path, install, result)
    return ExitCode.DONE


def find_partition(text: str, roots: SystemRoots | None = None) -> PartitionName:
    """The partition that ``text`` names: ``/dev/sda3``, or ``disk.img:3``.

    Raises:
        UsageError: it names none.
    """
    sys_root = (roots or SystemRoots()).sysfs
    if is_block_device(Path(text)):
        node = Path(text).resolve()
        entry = sys_root / "class" / "block" / node.name
        try:
            number = int((entry / "partition").read_text())
        except (OSError, ValueError):
            raise UsageError(
                f"{text} is no partition", hint="name one such as /dev/sda3, not the whole disk"
            ) from None
        return PartitionName(Path("/dev") / entry.resolve().parent.name, number)
    path, colon, number_text = text.rpartition(":")
    if colon and number_text.isascii() and number_text.isdigit() and Path(path).is_file():
        return PartitionName(Path(path), int(number_text))
    raise UsageError(
        f"{text} is neither a partition's device nor IMAGE-FILE:NUMBER",
        hint="for example /dev/nvme0n1p3, or disk.img:3",
    )


def _request(args: argparse.Namespace) -> InstallRequest:
    name = parse_wim_name(args.source)
    return InstallRequest(
        wim_paths=(name.path, *other_parts(name.path, args.part)),
        image=name.image,
        firmwares=(args.firmware,),
        layout=load_layout(read_layout(args.firmware), what=args.firmware),
        generation=args.boot_files,
        winre=WinreMode.NATIVE,
        locale=args.locale,
        modified_ns=time.time_ns(),
    )


def _default_undo(disk: Path) -> Path:
    # Beside an image file; a device's folder is no place for files.
    name = f"{disk.name}.undo"
    return Path.cwd() / name if is_block_device(disk) else disk.with_name(name)


def _facts(install: ExistingInstall, facts: ImageFacts) -> dict[str, object]:
    return {
        "image_number": facts.number,
        "image_name": facts.name,
        "architecture": facts.architecture,
        "build": facts.build,
        "firmware": [install.firmware],
        "has_winre": False,
        "boot_entry": str(install.ids.os),
        "recovery_entry": None,
        "windows_number": install.windows.number,
        "system_number": install.system.number,
    }


def _report(
    output: Output,
    disk: Path,
    undo_path: Path,
    install: ExistingInstall,
    result: ExistingResult,
) -> None:
    if result.kept_fallback:
        output.warning(
            r"\EFI\Boot has another system's boot program, which is kept: the firmware starts "
            r"Windows by an entry for \EFI\Microsoft\Boot\bootmgfw.efi (efibootmgr makes one)"
        )
    left = tell_left_behind(output, result.applied.not_carried, result.applied.warnings)
    check = result.check
    output.event(
        "install",
        is_dry_run=False,
        target=str(disk),
        undo=str(undo_path),
        bytes_changed=result.changed_size,
        is_verified=check is not None,
        files_compared=None if check is None else check.file_count,
        seconds=round(result.seconds, 3),
        **_facts(install, install.facts),
        **left,
    )
    checked = "NOT verified"
    if check is not None:
        checked = f"{check.file_count} files read back and equal"
    output.result(
        f"done: {install.facts.name or 'image'} is on partition {install.windows.number} of "
        f"{disk} in {result.seconds:.1f} s, {checked}\n"
        f"on partition {install.system.number} {format_size(result.changed_size)} changed; "
        f"{undo_path} has what was there"
    )
