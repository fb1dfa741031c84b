# SPDX-License-Identifier: GPL-3.0-or-later
"""``mediamaker verify``: read a disk back, and compare it with its source, plan or receipt."""

from __future__ import annotations

import argparse
import json
import time
from dataclasses import replace
from functools import partial
from pathlib import Path

from mediamaker.cli.options import (
    add_media_options,
    add_sector_size_option,
    check_sector_size_option,
    image_sector_size,
    media_request,
)
from mediamaker.cli.output import Output
from mediamaker.cli.prepare import prepare_source
from mediamaker.cli.progress import ProgressView
from mediamaker.cli.session import Session, complete_request, load_boot_code
from mediamaker.devices.target import is_block_device, open_for_reading
from mediamaker.errors import (
    ExitCode,
    FormatError,
    MediaError,
    SourceError,
    UsageError,
    VerifyError,
)
from mediamaker.execute.progress import ProgressMeter
from mediamaker.execute.receipt import read_receipt, verify_receipt
from mediamaker.execute.target import ReadableTarget, describe_target_error
from mediamaker.execute.verifier import verify_content
from mediamaker.plan.build import choose_layout
from mediamaker.plan.codec import plan_from_json
from mediamaker.plan.geometry import Geometry
from mediamaker.plan.identity import identities_from_seed, read_identities
from mediamaker.plan.model import Plan
from mediamaker.plan.request import Layout
from mediamaker.sources.kinds import inspect_source
from mediamaker.sources.reader import SourceReader
from mediamaker.units import GIB, format_size

_PLAN_FILE_SIZE_MAX = GIB
_SAME_OPTIONS = (
    "give verify the same --layout, --label, --cluster-size and --part-size as create was given"
)


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the verb's arguments."""
    parser.add_argument("target", type=Path, metavar="TARGET", help="block device or image file")
    parser.add_argument(
        "source", type=Path, nargs="?", metavar="SOURCE", help="what it was made from"
    )
    parser.add_argument(
        "--plan", type=Path, metavar="FILE", help="compare with this plan (plan --out)"
    )
    parser.add_argument(
        "--receipt",
        type=Path,
        metavar="FILE",
        help="compare with this receipt; no source is needed",
    )
    parser.add_argument(
        "--seed",
        metavar="TEXT",
        help="the identities must be of this seed (default: what the disk says)",
    )
    add_sector_size_option(parser)
    add_media_options(parser)


def run(args: argparse.Namespace, output: Output) -> ExitCode:
    """Compare, and say whether all was as planned."""
    given = [item for item in (args.source, args.plan, args.receipt) if item is not None]
    if len(given) != 1:
        raise UsageError(
            f"verify compares with one of SOURCE, --plan or --receipt; {len(given)} were given",
            hint="for example: mediamaker verify /dev/sdX Win11.iso",
        )
    check_sector_size_option(args, is_device=is_block_device(args.target))
    target = open_for_reading(args.target, logical_sector_size=image_sector_size(args))
    try:
        if args.receipt is not None:
            _verify_receipt(args, output, target)
        else:
            _verify_plan(args, output, target)
    finally:
        target.close()
    return ExitCode.DONE


def _verify_receipt(args: argparse.Namespace, output: Output, target: ReadableTarget) -> None:
    receipt = read_receipt(args.receipt)
    with ProgressView(output) as view:
        meter = ProgressMeter(view.show, time.monotonic)
        result = verify_receipt(receipt, target, meter=meter)
    _report(args, output, receipt.plan_id, "receipt", result.bytes_read)


def _verify_plan(args: argparse.Namespace, output: Output, target: ReadableTarget) -> None:
    plan = _read_plan(args.plan) if args.plan is not None else _plan_again(args, target, output)
    with SourceReader(plan.sources) as reader, ProgressView(output) as view:
        try:
            result = verify_content(
                extents=plan.extents,
                reader=reader,
                target=target,
                meter=ProgressMeter(view.show, time.monotonic),
            )
        except VerifyError as error:
            if args.plan is None and error.hint is not None:
                error.hint = f"{_SAME_OPTIONS}; otherwise {error.hint}"
            raise
    against = "plan" if args.plan is not None else "source"
    _report(args, output, plan.plan_id, against, result.bytes_read)


def _plan_again(args: argparse.Namespace, target: ReadableTarget, output: Output) -> Plan:
    """The plan that would make this target, with the identities that it says it has."""
    if target.size == 0 or target.size % target.logical_sector_size:
        raise VerifyError(
            f"{target.name} has {target.size} bytes: no disk of whole sectors of "
            f"{target.logical_sector_size} bytes",
            hint="is it the right file, and was it copied whole?",
        )
    inspection = inspect_source(args.source)
    request = media_request(args)
    layout = choose_layout(inspection, request)
    if layout is Layout.RAW or args.seed is not None:
        identities = identities_from_seed(args.seed or "")
    else:
        read = partial(_read_target, target)
        name, identities = read_identities(read, target.logical_sector_size)
        layout = request.layout or Layout(name)
    request = replace(request, layout=layout)
    inspection = prepare_source(args, inspection, request, output).inspection
    session = Session(
        inspection=inspection,
        request=complete_request(request, inspection, output),
        seed=None,
        identities=identities,
        boot_code=load_boot_code(),
    )
    return session.plan(Geometry(target.size, target.logical_sector_size))


def _read_target(target: ReadableTarget, offset: int, size: int) -> bytes:
    """At most ``size`` bytes; what lies past the end is left out."""
    try:
        return target.pread(offset, max(0, min(size, target.size - offset)))
    except OSError as error:
        raise describe_target_error(
            error, target=target, doing="reading", offset=offset, extents=None
        ) from error


def _read_plan(path: Path) -> Plan:
    try:
        with path.open("rb") as file:
            text = file.read(_PLAN_FILE_SIZE_MAX + 1)
    except OSError as error:
        raise SourceError(f"{path}: {error.strerror}") from error
    if len(text) > _PLAN_FILE_SIZE_MAX:
        raise FormatError(f"{path} is over {format_size(_PLAN_FILE_SIZE_MAX)}: not a plan")
    try:
        return plan_from_json(json.loads(text))
    except (ValueError, RecursionError) as error:
        raise FormatError(f"{path} is not JSON: {error}") from error
    except MediaError as error:
        raise FormatError(f"{path}: {error.message}") from error


def _report(
    args: argparse.Namespace, output: Output, plan_id: str, against: str, size: int
) -> None:
    output.event(
        "verify", target=str(args.target), plan_id=plan_id, against=against, bytes_verified=size
    )
    output.result(f"verified: {args.target} equals its {against}, {format_size(size)} read back")
