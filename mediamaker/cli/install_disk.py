# SPDX-License-Identifier: GPL-3.0-or-later
"""What ``install`` and ``togo`` do to a whole disk: decide, show, ask, prepare, write, report."""

from __future__ import annotations

import argparse
import re
import secrets
import shlex
import time
from pathlib import Path

from mediamaker.cli.confirm import add_device_options, release_disk
from mediamaker.cli.options import add_image_options, add_seed_option, image_sector_size
from mediamaker.cli.output import Output
from mediamaker.cli.session import (
    check_image_options,
    disk_geometry,
    find_target_disk,
    is_device_target,
)
from mediamaker.cli.wim_name import other_parts, parse_wim_name
from mediamaker.cli.wim_work import tell_left_behind, working
from mediamaker.devices.disk import Disk
from mediamaker.devices.file_target import check_image_place
from mediamaker.devices.guard import GuardContext, check_may_write
from mediamaker.devices.table import DiskTable, read_table, show_lost
from mediamaker.devices.target import BlockTarget, DiskBinding, FileTarget, bind_disk
from mediamaker.errors import ExitCode, TargetRefusedError, UsageError
from mediamaker.install.disk_contents import DiskInstall, decide, prepare_disk
from mediamaker.install.image_facts import FirmwareKind, ImageFacts
from mediamaker.install.nvram import add_nvram_entry, check_nvram
from mediamaker.install.request import (
    InstallRequest,
    WinreMode,
    measure_roles,
    read_fitting_image,
    read_image_facts,
    roomy_sizes,
)
from mediamaker.install.scratch import SCRATCH_DEFAULT, scratch_folder
from mediamaker.install.whole_disk import InstallResult, install_to_device, install_to_file
from mediamaker.plan.geometry import Geometry
from mediamaker.plan.identity import identities_from_seed
from mediamaker.plan.install import InstallPlan
from mediamaker.plan.layout_file import load_layout
from mediamaker.plan.place_disk import disk_size_needed, place_disk
from mediamaker.plan.show_install import placed_to_json, show_disk_change
from mediamaker.sources.layout_files import find_builtin_layouts, read_layout
from mediamaker.units import format_size

EFIVARS = Path("/sys/firmware/efi/efivars")
_LOCALE_RE = re.compile(r"[A-Za-z]{2,3}(-[A-Za-z0-9]{2,8})*")


def _locale(text: str) -> str:
    if _LOCALE_RE.fullmatch(text) is None:
        raise argparse.ArgumentTypeError(f"{text!r} is not a language such as en-US")
    return text


def add_disk_options(parser: argparse.ArgumentParser) -> None:
    """The options of a whole disk."""
    parser.add_argument(
        "--part",
        type=Path,
        action="append",
        default=[],
        metavar="FILE",
        help="another part of a split WIM (those beside the first are found)",
    )
    parser.add_argument(
        "--boot-files",
        choices=("2011", "2023"),
        default="2011",
        help="whose certificate the boot manager is signed with (default: 2011)",
    )
    parser.add_argument(
        "--locale", type=_locale, metavar="xx-XX", help="of boot menus (default: the image's)"
    )
    parser.add_argument(
        "--erase", action="store_true", help="yes, the disk has partitions and all will be lost"
    )
    add_device_options(parser)
    parser.add_argument(
        "--force", action="store_true", help="replace an image file that is already there"
    )
    parser.add_argument(
        "--dry-run", action="store_true", help="show the disk before and after, and do nothing"
    )
    parser.add_argument(
        "--no-verify",
        dest="verify",
        action="store_false",
        help="do not read everything back (you should)",
    )
    parser.add_argument(
        "--nvram",
        action="store_true",
        help="also make a boot entry in this machine's firmware (default: none; any firmware "
        "finds \\EFI\\Boot)",
    )
    parser.add_argument(
        "--scratch",
        type=Path,
        metavar="DIR",
        help="folder for the volumes that are made first (default: beside an image file, else "
        f"{SCRATCH_DEFAULT})",
    )
    add_seed_option(parser)
    add_image_options(
        parser,
        default_size="auto: 32 GiB for Windows, more if it needs more; the file is sparse",
    )


def install_disk(
    args: argparse.Namespace,
    output: Output,
    *,
    verb: str,
    layout_name: str,
    firmwares: tuple[FirmwareKind, ...],
    winre: WinreMode,
    is_portable: bool = False,
) -> ExitCode:
    """The whole verb."""
    is_device = is_device_target(args.target)
    if is_device:
        check_image_options(args)
        if args.force:
            raise UsageError("--force is for image files", hint="for a disk it is --erase")
    name = parse_wim_name(args.source)
    request = InstallRequest(
        wim_paths=(name.path, *other_parts(name.path, args.part)),
        image=name.image,
        firmwares=firmwares,
        layout=load_layout(read_layout(layout_name), what=layout_name),
        is_custom_layout=layout_name not in find_builtin_layouts(),
        generation=args.boot_files,
        winre=winre,
        locale=args.locale,
        is_portable=is_portable,
        modified_ns=time.time_ns() if args.seed is None else 0,
    )
    if args.nvram:
        check_nvram(is_device=is_device, is_uefi="uefi" in firmwares, efivars=EFIVARS)
    if is_portable and len(firmwares) > 1:
        request, facts, reasons = read_fitting_image(request)
        for reason in reasons:
            output.warning(reason)
    else:
        facts = read_image_facts(request)
    disk = find_target_disk(args.target) if is_device else None
    if disk is None:
        _check_file_target(args, request)
    seed: str = args.seed if args.seed is not None else secrets.token_hex(8)
    install = _decide(args, request, facts, disk, seed)
    # before its table is read: what is shown is what is bound
    bound = None if disk is None or args.dry_run else bind_disk(disk)
    table = None if disk is None else read_table(disk.path)
    _announce(install, table, seed, output)
    if args.dry_run:
        output.event(verb, is_dry_run=True, target=str(args.target), **_facts_json(install))
        output.result("dry run: nothing was written")
        return ExitCode.DONE
    if disk is not None and table is not None:
        _release(args, disk, table, install, output)
    began = time.monotonic()
    result = _carry_out(args, install, disk, bound, output)
    if args.nvram and disk is not None:
        add_nvram_entry(disk.path, install.placed.system.number)
    _report(args, output, verb, install, result, seconds=time.monotonic() - began)
    return ExitCode.DONE


def _check_file_target(args: argparse.Namespace, request: InstallRequest) -> None:
    for path in request.wim_paths:
        if args.target.exists() and path.exists() and args.target.samefile(path):
            raise TargetRefusedError(
                f"{args.target} is the source itself", hint="name another file for the result"
            )
    check_image_place(args.target, replace=args.force)


def _decide(
    args: argparse.Namespace,
    request: InstallRequest,
    facts: ImageFacts,
    disk: Disk | None,
    seed: str,
) -> DiskInstall:
    sizes = measure_roles(request, facts)
    if disk is not None:
        geometry = disk_geometry(disk)
    else:
        sector_size = image_sector_size(args)
        size = args.size
        if size is None:
            size = disk_size_needed(request.layout, roomy_sizes(sizes), sector_size=sector_size)
        geometry = Geometry(size, sector_size)
    identities = identities_from_seed(seed)
    placed = place_disk(request.layout, geometry, identities, sizes_min=sizes)
    return decide(request, facts, placed, identities)


def _announce(install: DiskInstall, table: DiskTable | None, seed: str, output: Output) -> None:
    facts = install.facts
    about = ", ".join(
        word for word in (facts.edition, facts.architecture, facts.build, *facts.languages) if word
    )
    output.note(f"image {facts.number}: {facts.name or 'without a name'} ({about})")
    for line in show_disk_change(table, install.placed):
        output.note(line)
    for warning in install.warnings:
        output.warning(warning)
    output.note(f"seed {seed}")


def _release(
    args: argparse.Namespace,
    disk: Disk,
    table: DiskTable,
    install: DiskInstall,
    output: Output,
) -> None:
    """Guards first, then --erase, then the serial."""
    context = GuardContext(
        source_paths=install.request.wim_paths,
        allow_fixed_disk=args.allow_fixed_disk,
        needed_size=install.placed.geometry.size,
    )
    for verdict in check_may_write(disk, context):
        output.warning(f"{verdict.reason} [{verdict.rule}]: {verdict.hint}")
    if table.partitions and not args.erase:
        raise TargetRefusedError(
            f"{disk.path} has {len(table.partitions)} partitions, and --erase was not given",
            hint="look at what is on it: mediamaker devices; then add --erase",
        )
    output.note("what is there now will be lost:")
    for line in show_lost(disk, table):
        output.note(f"  {line}")
    release_disk(args, disk, context, output)


def _carry_out(
    args: argparse.Namespace,
    install: DiskInstall,
    disk: Disk | None,
    bound: DiskBinding | None,
    output: Output,
) -> InstallResult:
    def on_plan(plan: InstallPlan) -> None:
        output.note(f"plan_id {plan.plan.plan_id}, install_id {plan.install_id}")

    parent = _scratch_parent(args, is_device=disk is not None)
    with working(output) as work, scratch_folder(parent) as scratch:
        prepared = prepare_disk(install, scratch, on_event=work.on_event, cancel=work.cancel)
        if disk is not None:
            return install_to_device(
                prepared,
                BlockTarget.open(disk.path, expected=bound),
                is_probing=disk.is_portable,
                is_verifying=args.verify,
                on_plan=on_plan,
                on_event=work.on_event,
                cancel=work.cancel,
            )
        geometry = install.placed.geometry

        def open_target(size: int) -> FileTarget:
            return FileTarget.create(
                args.target,
                size,
                logical_sector_size=geometry.logical_sector_size,
                replace=args.force,
            )

        return install_to_file(
            prepared,
            open_target,
            is_verifying=args.verify,
            on_plan=on_plan,
            on_event=work.on_event,
            cancel=work.cancel,
        )


def _scratch_parent(args: argparse.Namespace, *, is_device: bool) -> Path:
    """Beside an image file, where blocks can be shared, or as asked for."""
    beside: Path = SCRATCH_DEFAULT if is_device else args.target.absolute().parent
    return args.scratch or beside


def _facts_json(install: DiskInstall) -> dict[str, object]:
    facts = install.facts
    return {
        "image_number": facts.number,
        "image_name": facts.name,
        "architecture": facts.architecture,
        "build": facts.build,
        "firmware": list(install.request.firmwares),
        "has_winre": install.has_winre,
        "boot_entry": str(install.ids.os),
        "recovery_entry": str(install.ids.recovery) if install.has_winre else None,
        "disk": placed_to_json(install.placed),
    }


def _report(
    args: argparse.Namespace,
    output: Output,
    verb: str,
    install: DiskInstall,
    result: InstallResult,
    *,
    seconds: float,
) -> None:
    plan, check = result.install.plan, result.check
    left = tell_left_behind(output, result.not_carried, result.warnings)
    output.event(
        verb,
        is_dry_run=False,
        target=str(args.target),
        plan_id=plan.plan_id,
        install_id=result.install.install_id,
        identities=dict(plan.identities),
        boots=list(plan.boots),
        bytes_written=result.executed.write.bytes_written,
        is_verified=check is not None and result.executed.verify is not None,
        files_compared=None if check is None else check.file_count,
        seconds=round(seconds, 3),
        **_facts_json(install),
        **left,
    )
    checked = "NOT verified"
    if check is not None:
        checked = f"{check.file_count} files of Windows and all else read back and equal"
    recovery = "WinRE registered" if install.has_winre else "no WinRE registered"
    output.result(
        f"done: {args.target}: {install.facts.name or 'image'} "
        f"({format_size(install.facts.raw_size)}) in {seconds:.1f} s, {checked}\n"
        f"boots: {', '.join(plan.boots) or 'unknown'}; {recovery}"
    )
    if plan.boots:
        words = ["mediamaker", "boot", str(args.target), "--firmware", plan.boots[0].casefold()]
        output.note(f"see it boot: {shlex.join(words)}")
