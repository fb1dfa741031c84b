# SPDX-License-Identifier: GPL-3.0-or-later
"""``mediamaker plan``: the dry run. Nothing here can reach a writable handle of a target.

A plan refers to finished files only. So where a solid install image has to be prepared first,
there is one only if the cache has it already, or with ``--prepare``; otherwise what preparing
takes, and what the other ways would save, is all that is said.
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path

from mediamaker.cli.options import add_image_options, add_media_options, add_seed_option
from mediamaker.cli.output import Output
from mediamaker.cli.session import (
    check_image_options,
    disk_geometry,
    find_target_disk,
    image_geometry,
    is_device_target,
    open_session,
)
from mediamaker.devices.guard import GuardContext, check_disk
from mediamaker.errors import ExitCode, UsageError
from mediamaker.execute.textfile import check_text_file, write_text_file
from mediamaker.plan.codec import plan_to_json
from mediamaker.plan.geometry import Geometry
from mediamaker.plan.show import show_plan


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the verb's arguments."""
    parser.add_argument("source", type=Path, metavar="SOURCE", help="an ISO file or a folder")
    parser.add_argument(
        "--target", type=Path, metavar="DEVICE", help="plan for this disk (it is only looked at)"
    )
    parser.add_argument(
        "--out", type=Path, metavar="FILE", help="write the whole plan as JSON, for verify --plan"
    )
    parser.add_argument(
        "--prepare",
        action="store_true",
        help="recompress a solid install image now if the plan needs it (minutes, cached)",
    )
    add_media_options(parser)
    add_seed_option(parser)
    add_image_options(parser, default_size="auto: the smallest that fits")


def run(args: argparse.Namespace, output: Output) -> ExitCode:
    """Plan, and show it."""
    session = open_session(args, output, may_prepare=args.prepare)
    if args.out is not None:
        sources = session.inspection.tree.files
        check_text_file(args.out, option="--out", sources=sources, target=args.target)
    if not session.is_prepared:
        return _tell_unprepared(args, output)
    geometry: Geometry
    if args.target is not None and is_device_target(args.target):
        check_image_options(args)
        disk = find_target_disk(args.target)
        geometry = disk_geometry(disk)
        context = GuardContext(source_paths=(args.source,), allow_fixed_disk=True)
        for verdict in check_disk(disk, context):
            output.warning(f"{disk.path}: {verdict.reason} [{verdict.rule}]")
    else:
        geometry = image_geometry(args, session)
    plan = session.plan(geometry)
    if args.out is not None:
        _write_json(args.out, json.dumps(plan_to_json(plan), indent=1))
    output.event("plan", seed=session.seed, **plan_to_json(plan, with_extents=False))
    output.result(show_plan(plan))
    if args.seed is None:
        output.result(
            f"seed            {session.seed} (--seed {session.seed} makes the same again)"
        )
    return ExitCode.DONE


def _tell_unprepared(args: argparse.Namespace, output: Output) -> ExitCode:
    """The estimate was told; there is no plan to show."""
    if args.out is not None:
        raise UsageError(
            f"--out {args.out}: there is no plan before the source is prepared",
            hint="prepare it now with --prepare",
        )
    output.result("see the whole plan with --prepare; `mediamaker create` prepares by itself")
    return ExitCode.DONE


def _write_json(path: Path, text: str) -> None:
    try:
        write_text_file(path, text + "\n")
    except OSError as error:
        raise UsageError(
            f"{path}: the plan can't be written: {error.strerror}",
            hint="give --out a file in a directory that you may write to",
        ) from error
