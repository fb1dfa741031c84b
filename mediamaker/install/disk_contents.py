# SPDX-License-Identifier: GPL-3.0-or-later
"""What a whole disk gets besides Windows' own volume: decided first, then made in scratch files.

Boot files come from the image, boot stores from the places alone, WinRE and its ReAgent.xml from
both; all of it is finished before anything is written.
"""

from __future__ import annotations

import threading
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from mediamaker.errors import FormatError, SourceError
from mediamaker.execute.progress import OnEvent, Phase, writes_as
from mediamaker.formats.bcd import pack_store
from mediamaker.formats.mbr import MBR_SIZE
from mediamaker.formats.reagent import (
    ReAgent,
    WinreLocation,
    enable_reagent,
    pack_reagent,
    parse_reagent,
)
from mediamaker.install.boot_files import BootFile, extract_boot_files, extract_recovery_files
from mediamaker.install.compose import NtfsPath
from mediamaker.install.image_facts import WINRE_PATH, FirmwareKind, ImageFacts
from mediamaker.install.image_file import read_image_file
from mediamaker.install.portable import portable_files
from mediamaker.install.prepared_volumes import (
    PreparedVolume,
    make_empty_volume,
    make_ntfs_volume,
    make_system_volume,
)
from mediamaker.install.request import (
    InstallRequest,
    WinreMode,
    choose_description,
    choose_locale,
    fills_recovery,
    has_boot_language,
)
from mediamaker.plan.boot_objects import BootIds
from mediamaker.plan.boot_store import esp_recovery_store, installed_store, portable_store
from mediamaker.plan.disk_layout import Role
from mediamaker.plan.identity import Identities
from mediamaker.plan.install import (
    ImageToApply,
)
from mediamaker.plan.place_disk import PlacedDisk
from mediamaker.plan.request import ExtraFile
from mediamaker.plan.reset_config import build_reset_files
from mediamaker.sources.identity import identify

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
