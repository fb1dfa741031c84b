# SPDX-License-Identifier: GPL-3.0-or-later
"""What ``mediamaker boot`` boots: a disk as it is, or one that was never written.

A TARGET is a block device or image file; a PLAN is the JSON file of ``plan --out``; a SOURCE is
an ISO or a folder, planned here and now. An ISO that is made to be copied to a disk as it is (a
hybrid) is a disk already.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import dataclass
from enum import StrEnum
from pathlib import Path

from mediamaker.cli.options import check_sector_size_option, image_sector_size
from mediamaker.cli.output import Output
from mediamaker.cli.session import open_session
from mediamaker.devices.target import is_block_device, open_for_reading
from mediamaker.errors import FormatError, SourceError, UsageError
from mediamaker.plan.codec import plan_from_json
from mediamaker.plan.model import Plan
from mediamaker.sources.disk_map import DiskMap, map_disk
from mediamaker.sources.file_map import PRead
from mediamaker.sources.iso import is_hybrid_system_area
from mediamaker.units import GIB, format_size
from mediamaker.vm.nbd import NbdServer
from mediamaker.vm.plan_map import map_plan
from mediamaker.vm.virtual_disk import open_file_disk, open_plan_disk

_PLAN_FILE_SIZE_MAX = GIB
_SYSTEM_AREA_SIZE = 32 * 1024
_ISO_IDENTIFIERS = (b"CD001", b"BEA01")


class SubjectKind(StrEnum):
    """How the first argument is taken."""

    TARGET = "target"
    PLAN = "plan"
    SOURCE = "source"


@dataclass(frozen=True, slots=True)
class Subject:
    """A disk to boot; ``server`` is None where QEMU opens the target itself.

    ``open_bytes`` gives what reads its bytes, ``map_disk`` names them; that may take a while, and
    is for after the boot.
    """

    kind: SubjectKind
    size: int
    sector_size: int
    server: NbdServer | None
    map_disk: Callable[[], DiskMap]
    open_bytes: Callable[[], AbstractContextManager[PRead]]
    plan_id: str | None = None


def find_kind(path: Path) -> SubjectKind:
    """What ``path`` most likely is; never fails, a missing file is a missing target."""
    try:
        if path.is_dir():
            return SubjectKind.SOURCE
        if not path.is_file():
            return SubjectKind.TARGET
        with path.open("rb") as file:
            head = file.read(_SYSTEM_AREA_SIZE + 6)
    except (OSError, ValueError):
        return SubjectKind.TARGET
    if head[:1] == b"{":
        return SubjectKind.PLAN
    is_iso = head[_SYSTEM_AREA_SIZE + 1 :] in _ISO_IDENTIFIERS
    if is_iso and not is_hybrid_system_area(head[:_SYSTEM_AREA_SIZE], path.stat().st_size):
        return SubjectKind.SOURCE
    return SubjectKind.TARGET


@contextmanager
def open_subject(args: argparse.Namespace, output: Output) -> Iterator[Subject]:
    """What ``args.target`` names, ready to boot until the block ends.

    Raises:
        TargetError, SourceError, UsageError: as it has it.
    """
    kind: SubjectKind = args.take_as or find_kind(args.target)
    match kind:
        case SubjectKind.TARGET:
            _check_no_plan_options(args)
            with _open_target(args) as subject:
                yield subject
        case SubjectKind.PLAN:
            _check_no_plan_options(args)
            if args.sector_size is not None:
                raise UsageError(f"--sector-size: the plan {args.target} has its own")
            with _open_plan(read_plan(args.target), kind) as subject:
                yield subject
        case SubjectKind.SOURCE:
            with _open_plan(_make_plan(args, output), kind) as subject:
                yield subject


def read_plan(path: Path) -> Plan:
    """The plan in a file of ``plan --out``.

    Raises:
        SourceError: it can't be read; FormatError: it is no plan.
    """
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
        raise FormatError(
            f"{path} is not a plan: {error}", hint="a disk image goes with --as target"
        ) from error


@contextmanager
def _open_target(args: argparse.Namespace) -> Iterator[Subject]:
    path: Path = args.target
    check_sector_size_option(args, is_device=is_block_device(path))
    with open_for_reading(path) as target:
        size, sector_size = target.size, target.logical_sector_size
    if not is_block_device(path):
        sector_size = image_sector_size(args)

    @contextmanager
    def opened() -> Iterator[PRead]:
        with open_file_disk(path) as content:
            yield content.read

    def named() -> DiskMap:
        with open_file_disk(path) as content:
            return map_disk(content.read, content.size, str(path), sector_size=sector_size)

    if not args.trace:
        yield Subject(SubjectKind.TARGET, size, sector_size, None, named, opened)
        return
    with open_file_disk(path) as content, NbdServer(content) as server:
        yield Subject(SubjectKind.TARGET, size, sector_size, server, named, opened)


@contextmanager
def _open_plan(plan: Plan, kind: SubjectKind) -> Iterator[Subject]:
    with open_plan_disk(plan) as content, NbdServer(content) as server:
        yield Subject(
            kind,
            plan.geometry.size,
            plan.geometry.logical_sector_size,
            server,
            lambda: map_plan(plan, content.read),
            lambda: nullcontext(content.read),
            plan.plan_id,
        )


def _make_plan(args: argparse.Namespace, output: Output) -> Plan:
    args.source = args.target
    session = open_session(args, output, may_prepare=False)
    if not session.is_prepared:
        raise UsageError(
            f"{args.target}: its install image has to be prepared before there is a plan to boot",
            hint="`mediamaker plan --prepare` does it, once",
        )
    return session.plan(session.geometry_of_image(args.size, image_sector_size(args)))


def _check_no_plan_options(args: argparse.Namespace) -> None:
    """Options of a plan are for sources."""
    for name in ("layout", "label", "cluster_size", "images", "seed", "size"):
        if getattr(args, name) is not None:
            option = name.replace("_", "-")
            raise UsageError(f"--{option}: only an ISO or folder is planned, not {args.target}")
