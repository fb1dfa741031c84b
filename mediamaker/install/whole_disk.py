# SPDX-License-Identifier: GPL-3.0-or-later
"""Windows onto a whole disk: place partitions, make the small volumes, plan, apply, write.

An image file gets everything from one plan: the volume of Windows is made in a sparse file of its
own first, without root, and its data become extents. Onto a device libwim applies straight into
the partition, which the kernel is told of while the disk itself has no table yet; the plan is
written after that, its tables last. Interrupted at any point, the disk looks blank.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import assert_never

from mediamaker.devices.block_target import BlockTarget
from mediamaker.devices.file_target import FileTarget
from mediamaker.devices.kernel_partitions import PartitionRange, kernel_partitions
from mediamaker.errors import MediaError, TargetIOError, ToolError
from mediamaker.execute.create import ExecuteResult, execute_plan
from mediamaker.execute.progress import OnEvent, Phase, ProgressMeter, writes_as
from mediamaker.execute.target import Target
from mediamaker.execute.writer import write_extents
from mediamaker.extents import ExtentMap
from mediamaker.install.apply_windows import apply_windows
from mediamaker.install.check_windows import AppliedCheck, check_applied
from mediamaker.install.disk_contents import DiskInstall, PreparedDisk
from mediamaker.install.prepared_volumes import (
    PreparedVolume,
    make_partition_ntfs,
    take_volume_file,
)
from mediamaker.install.tools import run_tool
from mediamaker.plan.describe_install import describe_boots
from mediamaker.plan.install import (
    ApplyImage,
    InstallPlan,
    WriteExtents,
    build_install_plan,
    plan_steps,
)
from mediamaker.sources.bootcode import load_mbr_code
from mediamaker.sources.identity import unchanged_sources
from mediamaker.sources.reader import SourceReader
from mediamaker.wim.apply import ApplyResult
from mediamaker.wim.meter import NotCarried


@dataclass(frozen=True, slots=True, kw_only=True)
class InstallResult:
    """What was done; ``check`` is None where nobody wanted the files compared."""

    install: InstallPlan
    executed: ExecuteResult
    check: AppliedCheck | None
    not_carried: tuple[NotCarried, ...]
    warnings: tuple[str, ...]
    seconds: float


def plan_install(prepared: PreparedDisk, windows: PreparedVolume | None) -> InstallPlan:
    """The plan and its steps; ``windows`` None: a step of its own applies the image."""
    install, placed = prepared.install, prepared.install.placed
    volumes: dict[int, ExtentMap | None] = {
        number: volume.extents for number, volume in prepared.volumes.items()
    }
    volumes[placed.windows.number] = None if windows is None else windows.extents
    sources = [source for volume in prepared.volumes.values() for source in volume.sources]
    if windows is not None:
        sources.extend(windows.sources)
    plan = build_install_plan(
        placed,
        volumes,
        sources=tuple(sources),
        mbr_code=load_mbr_code() if "bios" in install.request.firmwares else b"",
        warnings=install.warnings,
        boots=_boots(install),
    )
    return plan_steps(plan, placed, prepared.image if windows is None else None)


def _boots(install: DiskInstall) -> tuple[str, ...]:
    """What finds something to start: the disk is made for it, and its boot files are there."""
    firmwares = install.request.firmwares
    names = describe_boots(install.placed, has_mbr_code="bios" in firmwares)
    return tuple(name for name in names if name.casefold() in firmwares)


def install_to_file(
    prepared: PreparedDisk,
    open_target: Callable[[int], FileTarget],
    *,
    is_verifying: bool,
    on_plan: Callable[[InstallPlan], None],
    on_event: OnEvent,
    cancel: threading.Event,
) -> InstallResult:
    """Apply into a sparse file, make that the image file, and write the rest of the plan.

    ``open_target`` makes the image file, of so many bytes, which has no name yet. Where the file
    system can move contents (ext4, XFS), the volume is made in that very file, at its beginning,
    and moved to its place; elsewhere it is copied from a file of its own.

    Raises:
        MediaError: says what is left; the image file has no name until it is complete.
    """
    began = time.monotonic()
    placed = prepared.install.placed
    partition = placed.windows
    with open_target(partition.size) as target:
        path = target.reopen_path
        try:
            make_partition_ntfs(placed, partition, path)
            applied, check = _apply(
                prepared,
                path,
                is_held=False,
                is_verifying=is_verifying,
                on_event=on_event,
                cancel=cancel,
            )
        except MediaError as error:
            # What has no name yet is called what it will be.
            error.message = error.message.replace(str(path), target.name)
            raise
        is_in_place = _move_into_place(target, partition.start, placed.geometry.size)
        windows = None if is_in_place else take_volume_file(path, partition)
        install = plan_install(prepared, windows)
        on_plan(install)
        executed = _write_plan(
            install,
            target if is_in_place else target.another(placed.geometry.size),
            is_verifying=is_verifying,
            on_event=on_event,
            cancel=cancel,
        )
    return _result(install, executed, check, applied, began)


def _move_into_place(target: FileTarget, start: int, size: int) -> bool:
    """Have the file's contents begin ``start`` bytes further on; False where that can't be.

    fallocate(2), FALLOC_FL_INSERT_RANGE: extents are renumbered, nothing is copied.
    """
    words = ["--insert-range", "--offset", "0", "--length", str(start), str(target.reopen_path)]
    try:
        done = run_tool("fallocate", words, package="util-linux")
    except ToolError:
        return False
    if done.returncode:
        return False
    target.grow(size)
    return True


def install_to_device(
    prepared: PreparedDisk,
    target: BlockTarget,
    *,
    is_probing: bool,
    is_verifying: bool,
    on_plan: Callable[[InstallPlan], None],
    on_event: OnEvent,
    cancel: threading.Event,
) -> InstallResult:
    """Clear the disk's ends, apply into the partition, then write the plan, tables last.

    ``target`` is finished or aborted afterwards. ``is_probing`` asks it first whether it holds
    what it claims.

    Raises:
        MediaError: says what is left; the disk looks blank until it is complete.
    """
    began = time.monotonic()
    applied, check = None, None
    is_cleared = False
    install = plan_install(prepared, None)
    on_plan(install)
    try:
        for step in install.steps[:-1]:
            match step:
                case WriteExtents(_, extents, commit):
                    with SourceReader(()) as reader:
                        write_extents(
                            extents=extents,
                            commit=commit,
                            reader=reader,
                            target=target,
                            meter=ProgressMeter(on_event, time.monotonic),
                            has_digests=False,
                            probe_key=install.install_id.encode() if is_probing else None,
                            cancel=cancel,
                        )
                    is_cleared = True
                case ApplyImage(partition, _, _):
                    wanted = [PartitionRange(partition.number, partition.start, partition.size)]
                    with kernel_partitions(target.fileno(), wanted) as nodes:
                        node = nodes[partition.number]
                        make_partition_ntfs(prepared.install.placed, partition, node, is_held=True)
                        applied, check = _apply(
                            prepared,
                            node,
                            is_held=True,
                            is_verifying=is_verifying,
                            on_event=on_event,
                            cancel=cancel,
                        )
                case _:
                    assert_never(step)
    except BaseException as error:
        is_present = target.is_present()
        target.abort()
        if isinstance(error, ToolError) and not is_present:
            raise TargetIOError(
                f"{target.name} vanished: {error.message}; what is on it looks blank",
                hint="it was unplugged, or reset itself; plug it in again and start anew",
            ) from error
        # The writer says by itself what it left, which may not be blank.
        if is_cleared:
            outcome = f"{target.name} looks blank"
            if isinstance(error, MediaError):
                error.message = f"{error.message}; {outcome}"
            error.add_note(outcome)
        raise
    executed = _write_plan(
        install, target, is_verifying=is_verifying, on_event=on_event, cancel=cancel
    )
    return _result(install, executed, check, applied, began)


def _apply(
    prepared: PreparedDisk,
    volume: Path,
    *,
    is_held: bool,
    is_verifying: bool,
    on_event: OnEvent,
    cancel: threading.Event,
) -> tuple[ApplyResult, AppliedCheck | None]:
    paths, facts = prepared.install.request.wim_paths, prepared.install.facts
    with unchanged_sources(prepared.image.files):
        applied = apply_windows(
            paths,
            facts,
            volume,
            scratch=prepared.scratch,
            extra_files=prepared.extra_files,
            left_out=prepared.left_out,
            modified_ns=prepared.install.request.modified_ns,
            is_held=is_held,
            on_event=writes_as(on_event, Phase.APPLY),
            cancel=cancel,
        )
        if not is_verifying:
            return applied, None
        check = check_applied(
            volume,
            paths,
            facts.number,
            extra_files=prepared.extra_files,
            left_out=prepared.left_out,
            is_held=is_held,
            on_event=on_event,
            cancel=cancel,
        )
        check.check(volume)
        return applied, check


def _write_plan(
    install: InstallPlan,
    target: Target,
    *,
    is_verifying: bool,
    on_event: OnEvent,
    cancel: threading.Event,
) -> ExecuteResult:
    plan = install.plan
    with SourceReader(plan.sources) as reader:
        return execute_plan(
            extents=plan.extents,
            commit=plan.commit,
            plan_id=plan.plan_id,
            reader=reader,
            target=target,
            is_verifying=is_verifying,
            on_event=on_event,
            cancel=cancel,
        )


def _result(
    install: InstallPlan,
    executed: ExecuteResult,
    check: AppliedCheck | None,
    applied: ApplyResult | None,
    began: float,
) -> InstallResult:
    return InstallResult(
        install=install,
        executed=executed,
        check=check,
        not_carried=() if applied is None else applied.not_carried,
        warnings=() if applied is None else applied.warnings,
        seconds=time.monotonic() - began,
    )
