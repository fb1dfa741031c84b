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
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import assert_never

from mediamaker.devices.block_target import BlockTarget
from mediamaker.devices.file_target import FileTarget
from mediamaker.devices.kernel_partitions import PartitionRange, kernel_partitions
from mediamaker.errors import FormatError, MediaError, SourceError, ToolError
from mediamaker.execute.create import ExecuteResult, execute_plan
from mediamaker.execute.progress import OnEvent, Phase, ProgressMeter, writes_as
from mediamaker.execute.target import Target
from mediamaker.execute.writer import write_extents
from mediamaker.extents import ExtentMap
from mediamaker.formats.bcd import pack_store
from mediamaker.formats.mbr import MBR_SIZE
from mediamaker.formats.reagent import (
    ReAgent,
    WinreLocation,
    enable_reagent,
    pack_reagent,
    parse_reagent,
)
from mediamaker.install.apply_windows import apply_windows
from mediamaker.install.boot_files import BootFile, extract_boot_files, extract_recovery_files
from mediamaker.install.check_windows import AppliedCheck, check_applied
from mediamaker.install.compose import NtfsPath
from mediamaker.install.image_facts import WINRE_PATH, FirmwareKind, ImageFacts
from mediamaker.install.image_file import read_image_file
from mediamaker.install.portable import portable_files
from mediamaker.install.prepared_volumes import (
    PreparedVolume,
    make_empty_volume,
    make_ntfs_volume,
    make_partition_ntfs,
    make_system_volume,
    take_volume_file,
)
from mediamaker.install.request import (
    InstallRequest,
    WinreMode,
    choose_description,
    choose_locale,
    fills_recovery,
    has_boot_language,
)
from mediamaker.install.tools import run_tool
from mediamaker.plan.boot_objects import BootIds
from mediamaker.plan.boot_store import esp_recovery_store, installed_store, portable_store
from mediamaker.plan.describe_install import describe_boots
from mediamaker.plan.disk_layout import Role
from mediamaker.plan.identity import Identities
from mediamaker.plan.install import (
    ApplyImage,
    ImageToApply,
    InstallPlan,
    WriteExtents,
    build_install_plan,
    plan_steps,
)
from mediamaker.plan.place_disk import PlacedDisk
from mediamaker.plan.request import ExtraFile
from mediamaker.plan.reset_config import build_reset_files
from mediamaker.sources.bootcode import load_mbr_code
from mediamaker.sources.identity import identify
from mediamaker.sources.reader import SourceReader
from mediamaker.wim.apply import ApplyResult
from mediamaker.wim.meter import NotCarried

_RECOVERY_FOLDER: NtfsPath = ("Recovery", "WindowsRE")
_REAGENT_PATH: NtfsPath = ("Windows", "System32", "Recovery", "ReAgent.xml")
_STORES: Mapping[FirmwareKind, NtfsPath] = {
    "uefi": ("EFI", "Microsoft", "Boot", "BCD"),
    "bios": ("Boot", "BCD"),
}
_ESP_RECOVERY_STORE: NtfsPath = ("EFI", "Microsoft", "Recovery", "BCD")


@dataclass(frozen=True, slots=True, kw_only=True)
class DiskInstall:
    """All decisions about a disk; nothing is extracted, made or written for them."""

    request: InstallRequest
    facts: ImageFacts
    placed: PlacedDisk
    ids: BootIds
    has_winre: bool

    @property
    def warnings(self) -> tuple[str, ...]:
        """What the person should know before it begins."""
        found = []
        wanted = self.request.winre is not WinreMode.NONE and not self.request.is_portable
        if wanted and self.facts.winre_size is None:
            found.append("the image has no Winre.wim: there will be no recovery environment")
        elif wanted and not self.request.has_recovery_partition:
            found.append("the layout has no recovery partition: Winre.wim stays where it is staged")
        elif fills_recovery(self.request, self.facts) and not self.has_winre:
            found.append(
                "the image has no boot.sdi, without which WinRE does not start: it is not "
                "registered, Winre.wim stays where it is staged"
            )
        if self.request.leaves_out_winre and self.request.has_recovery_partition:
            found.append("the recovery partition stays empty: a --layout without one saves it")
        starts_bios = "bios" in self.request.firmwares
        if starts_bios and self.placed.geometry.logical_sector_size != MBR_SIZE:
            found.append("BIOS firmware starts no disk whose sectors are not of 512 bytes")
        locale = self.request.locale
        if locale is not None and not has_boot_language(self.facts, locale):
            found.append(f"the image has no boot menus in {locale}: they will be in English")
        return tuple(found)


@dataclass(frozen=True, slots=True, kw_only=True)
class InstallResult:
    """What was done; ``check`` is None where nobody wanted the files compared."""

    install: InstallPlan
    executed: ExecuteResult
    check: AppliedCheck | None
    not_carried: tuple[NotCarried, ...]
    warnings: tuple[str, ...]
    seconds: float


def decide(
    request: InstallRequest, facts: ImageFacts, placed: PlacedDisk, identities: Identities
) -> DiskInstall:
    """The decisions for a disk on which everything has its place."""
    return DiskInstall(
        request=request,
        facts=facts,
        placed=placed,
        ids=BootIds.derive(identities.derive_guid("BCD objects")),
        has_winre=fills_recovery(request, facts) and facts.sdi_path is not None,
    )


def make_stores(install: DiskInstall) -> dict[NtfsPath, bytes]:
    """The BCD stores of the system volume, by path. They depend on the placed disk alone."""
    request, placed = install.request, install.placed
    locale = choose_locale(request, install.facts)
    description = choose_description(install.facts)
    system = placed.system.reference(placed)
    windows = placed.windows.reference(placed)
    recovery = placed.find(Role.RECOVERY) if install.has_winre else None
    stores: dict[NtfsPath, bytes] = {}
    for firmware in request.firmwares:
        if request.is_portable:
            store = portable_store(
                firmware, kind="locate", ids=install.ids, locale=locale, description=description
            )
        else:
            store = installed_store(
                firmware=firmware,
                system=system,
                windows=windows,
                recovery=None if recovery is None else recovery.reference(placed),
                ids=install.ids,
                locale=locale,
                description=description,
            )
        stores[_STORES[firmware]] = pack_store(store)
    if recovery is not None and "uefi" in request.firmwares:
        store = esp_recovery_store(
            system=system, recovery=recovery.reference(placed), ids=install.ids, locale=locale
        )
        stores[_ESP_RECOVERY_STORE] = pack_store(store)
    return stores


@dataclass(frozen=True, slots=True, kw_only=True)
class PreparedDisk:
    """The finished small volumes by partition number, and what Windows' own volume gets."""

    install: DiskInstall
    volumes: Mapping[int, PreparedVolume]
    extra_files: Mapping[NtfsPath, bytes]
    left_out: tuple[NtfsPath, ...]
    scratch: Path

    @property
    def image(self) -> ImageToApply:
        """What a step applies."""
        facts, paths = self.install.facts, self.install.request.wim_paths
        return ImageToApply(
            files=tuple(identify(str(path), path) for path in paths),
            image_number=facts.number,
            image_name=facts.name,
            extras=tuple(
                ExtraFile(path, data, "made for this disk")
                for path, data in self.extra_files.items()
            ),
        )


def prepare_disk(
    install: DiskInstall,
    scratch: Path,
    *,
    on_event: OnEvent,
    cancel: threading.Event | None = None,
) -> PreparedDisk:
    """Extract boot files and WinRE into ``scratch`` and make the small volumes there.

    Raises:
        SourceError: the image is damaged; TargetIOError: no room in ``scratch``.
    """
    request, placed = install.request, install.placed
    on_event = writes_as(on_event, Phase.PREPARE)
    files: dict[NtfsPath, BootFile] = {}
    for firmware in request.firmwares:
        for file in extract_boot_files(
            request.wim_paths,
            install.facts,
            firmware,
            scratch,
            generation=request.generation if firmware == "uefi" else "2011",
            on_event=on_event,
            cancel=cancel,
        ):
            files[file.target] = file
    volumes = {
        placed.system.number: make_system_volume(
            placed,
            placed.system,
            tuple(files.values()),
            make_stores(install),
            scratch,
            starts_bios="bios" in request.firmwares,
            modified_ns=request.modified_ns,
            on_event=on_event,
            cancel=cancel,
        )
    }
    extra_files: dict[NtfsPath, bytes] = {}
    left_out: tuple[NtfsPath, ...] = ()
    recovery_tree: dict[NtfsPath, Path | bytes] = {}
    if install.has_winre:
        reagent = _make_reagent(install)
        extra_files[_REAGENT_PATH] = reagent
        recovery_tree = _recovery_tree(install, reagent, scratch, on_event=on_event, cancel=cancel)
    if install.has_winre or request.leaves_out_winre:
        left_out = (tuple(WINRE_PATH.split("/")),)
    if request.is_custom_layout and not request.is_portable:
        extra_files.update(build_reset_files(placed))
    if request.is_portable:
        extra_files.update(portable_files(request.wim_paths, install.facts))
    for partition in placed.partitions:
        if partition.role in {Role.SYSTEM, Role.WINDOWS} or partition.spec.file_system is None:
            continue
        if partition.role is Role.RECOVERY:
            volumes[partition.number] = make_ntfs_volume(
                placed,
                partition,
                recovery_tree,
                scratch,
                modified_ns=request.modified_ns,
                on_event=on_event,
                cancel=cancel,
            )
        else:
            volumes[partition.number] = make_empty_volume(
                placed, partition, scratch, modified_ns=request.modified_ns, on_event=on_event
            )
    return PreparedDisk(
        install=install,
        volumes=volumes,
        extra_files=extra_files,
        left_out=left_out,
        scratch=scratch,
    )


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
            target if is_in_place else open_target(placed.geometry.size),
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
    is_verifying: bool,
    on_plan: Callable[[InstallPlan], None],
    on_event: OnEvent,
    cancel: threading.Event,
) -> InstallResult:
    """Clear the disk's ends, apply into the partition, then write the plan, tables last.

    ``target`` is finished or aborted afterwards.

    Raises:
        MediaError: says what is left; the disk looks blank until it is complete.
    """
    began = time.monotonic()
    applied, check = None, None
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
                            cancel=cancel,
                        )
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
        outcome = f"{target.name} looks blank"
        target.abort()
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


def _recovery_tree(
    install: DiskInstall,
    reagent: bytes,
    scratch: Path,
    *,
    on_event: OnEvent,
    cancel: threading.Event | None,
) -> dict[NtfsPath, Path | bytes]:
    found = extract_recovery_files(
        install.request.wim_paths, install.facts, scratch, on_event=on_event, cancel=cancel
    )
    if found.winre is None or found.sdi is None:
        raise SourceError(f"{install.request.wim_paths[0]}: Winre.wim or boot.sdi is gone")
    return {
        (*_RECOVERY_FOLDER, "Winre.wim"): found.winre,
        (*_RECOVERY_FOLDER, "boot.sdi"): found.sdi,
        (*_RECOVERY_FOLDER, "ReAgent.xml"): reagent,
    }


def _make_reagent(install: DiskInstall) -> bytes:
    """ReAgent.xml of the image, with WinRE where it will be."""
    placed = install.placed
    recovery = placed.find(Role.RECOVERY)
    if recovery is None:
        raise SourceError("the layout has no recovery partition")
    is_gpt = placed.layout.table == "gpt"
    location = WinreLocation(
        path="\\" + "\\".join(_RECOVERY_FOLDER),
        offset=recovery.start,
        disk_guid=placed.disk_guid if is_gpt else None,
        disk_signature=None if is_gpt else placed.disk_signature,
    )
    before = _read_reagent(install)
    return pack_reagent(enable_reagent(before, loader=install.ids.recovery, location=location))


def _read_reagent(install: DiskInstall) -> ReAgent | None:
    """That of the image, for what else it says; None where it has none that can be read."""
    data = read_image_file(install.request.wim_paths, install.facts, _REAGENT_PATH)
    if data is None:
        return None
    try:
        return parse_reagent(data, what="ReAgent.xml of the image")
    except FormatError:
        return None
