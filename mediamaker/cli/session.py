# SPDX-License-Identifier: GPL-3.0-or-later
"""What plan, create and verify share: from arguments to a source, a target's geometry, a plan."""

from __future__ import annotations

import argparse
import secrets
import time
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path

from mediamaker.cli.options import check_sector_size_option, image_sector_size, media_request
from mediamaker.cli.output import Output
from mediamaker.cli.prepare import prepare_source
from mediamaker.devices.discover import look_up_disk
from mediamaker.devices.disk import Disk
from mediamaker.devices.target import is_block_device
from mediamaker.errors import MediaError, TargetRefusedError, UsageError
from mediamaker.plan.build import BootCode, build_plan, measure_disk
from mediamaker.plan.geometry import Geometry
from mediamaker.plan.identity import Identities, identities_from_seed
from mediamaker.plan.model import Plan
from mediamaker.plan.request import ExtraFile, MediaRequest
from mediamaker.sources.boot_stl import MEDIA_PATH as BOOT_STL_PATH
from mediamaker.sources.boot_stl import find_boot_stl
from mediamaker.sources.bootcode import load_fat32_boot_code, load_mbr_code
from mediamaker.sources.kinds import Inspection, inspect_source
from mediamaker.volumes.fat32 import Fat32BootCode
from mediamaker.volumes.tree import show_path

_UDEV_TIMEOUT_SECONDS = 10.0
_UDEV_POLL_SECONDS = 0.1


@dataclass(frozen=True, slots=True)
class Session:
    """A source and what the person wants of it; ``seed`` is None where identities were given.

    Unless ``is_prepared`` there can be no plan yet.
    """

    inspection: Inspection
    request: MediaRequest
    seed: str | None
    identities: Identities
    boot_code: BootCode
    is_prepared: bool = True

    def plan(self, geometry: Geometry) -> Plan:
        """The plan for a target of ``geometry``."""
        return build_plan(self.inspection, self.request, geometry, self.identities, self.boot_code)

    def geometry_of_image(self, size: int | None, sector_size: int) -> Geometry:
        """The geometry of an image file; a size of None is the smallest that fits."""
        if size is None:
            size = measure_disk(self.inspection, self.request, self.identities, sector_size)
        return Geometry(size, sector_size)


def open_session(
    args: argparse.Namespace,
    output: Output,
    *,
    check_target: Callable[[Inspection], None] | None = None,
    may_prepare: bool = True,
) -> Session:
    """Look at the source; identities come from ``--seed``, else they are random.

    ``check_target`` may refuse the target before preparing the source takes its minutes, which
    without ``may_prepare`` are not taken.

    Raises:
        SourceError, UsageError: as the source and options have it.
    """
    seed: str = args.seed if args.seed is not None else secrets.token_hex(8)
    request = media_request(args)
    inspection = inspect_source(args.source)
    if check_target is not None:
        check_target(inspection)
    prepared = prepare_source(args, inspection, request, output, may_prepare=may_prepare)
    inspection = prepared.inspection
    return Session(
        inspection=inspection,
        request=complete_request(request, inspection, output),
        seed=seed,
        identities=identities_from_seed(seed),
        boot_code=load_boot_code(),
        is_prepared=prepared.is_complete,
    )


def complete_request(request: MediaRequest, inspection: Inspection, output: Output) -> MediaRequest:
    """``request`` with the files that the media should have and lacks."""
    try:
        found = find_boot_stl(inspection)
    except MediaError as error:
        output.warning(f"boot.stl could not be looked for: {error.message}")
        found = None
    if found is None:
        return request
    path = show_path(BOOT_STL_PATH)
    note = (
        f"added {path} from {found.origin}: recent boot managers stop without it under Secure Boot"
    )
    return replace(request, extras=(ExtraFile(BOOT_STL_PATH, found.data, note),))


def load_boot_code() -> BootCode:
    """Our boot programs.

    Raises:
        ToolError: they are missing or damaged.
    """
    sector0, stage2, stage2_sector_number = load_fat32_boot_code()
    return BootCode(
        load_mbr_code(),
        Fat32BootCode(sector0=sector0, stage2=stage2, stage2_sector_number=stage2_sector_number),
    )


def is_device_target(target: Path) -> bool:
    """Whether ``target`` is a block device; anything else is, or becomes, an image file.

    Raises:
        TargetRefusedError: a directory, a character device and the like, or a missing /dev node.
    """
    if is_block_device(target):
        return True
    if not target.exists() and _is_in_dev(target):
        raise TargetRefusedError(
            f"{target}: there is no such device", hint="`mediamaker devices` lists the disks"
        )
    if target.exists() and not target.is_file():
        kind = "a directory" if target.is_dir() else "neither a block device nor a regular file"
        raise TargetRefusedError(
            f"{target} is {kind}", hint="name a block device or a file, such as stick.img"
        )
    return False


def _is_in_dev(target: Path) -> bool:
    """Below /dev, where nobody makes files; /dev/shm and the like are other file systems."""
    if not target.is_absolute() or target.parts[:2] != ("/", "dev"):
        return False
    parent = target.parent
    return not parent.is_dir() or parent.stat().st_dev == Path("/dev").stat().st_dev


def find_target_disk(target: Path) -> Disk:
    """The disk that ``target`` names, looked up freshly.

    udev looks at a disk that was just plugged in, or just written, and has it open for writing
    meanwhile: for that is waited, as the guards would refuse the disk. For others it is not.

    Raises:
        TargetRefusedError: no disk, a partition, or not found.
    """
    deadline = time.monotonic() + _UDEV_TIMEOUT_SECONDS
    disk = look_up_disk(target)
    while any(writer.is_udev for writer in disk.writers) and time.monotonic() < deadline:
        time.sleep(_UDEV_POLL_SECONDS)
        disk = look_up_disk(target)
    return disk


def disk_geometry(disk: Disk) -> Geometry:
    """What a plan may know of ``disk``.

    Raises:
        TargetRefusedError: it has no medium.
    """
    if disk.size == 0:
        raise TargetRefusedError(
            f"{disk.path} has no medium in it (its size is 0)", hint="put a card or stick in"
        )
    return Geometry(disk.size, disk.logical_sector_size)


def image_geometry(args: argparse.Namespace, session: Session) -> Geometry:
    """The geometry that ``--size`` and ``--sector-size`` ask for."""
    return session.geometry_of_image(args.size, image_sector_size(args))


def check_image_options(args: argparse.Namespace) -> None:
    """``--size`` and ``--sector-size`` are for image files.

    Raises:
        UsageError: one was given for a block device.
    """
    check_sector_size_option(args, is_device=True)
    if args.size is not None:
        raise UsageError(f"--size: {args.target} is a block device, its size is what it is")
