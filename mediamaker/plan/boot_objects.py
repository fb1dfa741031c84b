# SPDX-License-Identifier: GPL-3.0-or-later
"""The objects of a BCD store one by one: what each kind holds on real systems.

Reference: boot-facts 4.1 to 4.4, object by object. Elements that only Windows itself writes while
it runs (NVRAM variables, caches) are left out.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Literal
from uuid import UUID

from mediamaker.formats.bcd import BcdObject, ElementValue, Store
from mediamaker.formats.bcd_devices import Device, PartitionRef, Ramdisk
from mediamaker.formats.bcd_names import (
    BOOT_MANAGER,
    DEVICE_OPTIONS,
    MEMORY_TESTER,
    OS_LOADER,
    RESUME_LOADER,
    WELL_KNOWN,
    element_id,
    well_known,
)

Firmware = Literal["uefi", "bios"]

MEDIA_LOADER = UUID("7619dcc9-fafe-11d9-b411-000476eba25f")
MEDIA_RAMDISK_OPTIONS = UUID("7619dcc8-fafe-11d9-b411-000476eba25f")
"""What the loader and its options have for GUIDs on every Windows medium."""

RECOVERY_PATH = "\\Recovery\\WindowsRE"
RECOVERY_WIM = "Winre.wim"
RECOVERY_SDI = "boot.sdi"

PATH = 0x12000002
DESCRIPTION = 0x12000004
RECOVERY_SEQUENCE = 0x14000008
RECOVERY_ENABLED = 0x16000009
MESSAGE_OVERRIDE = 0x15000066
DEVICE = 0x11000001
OS_DEVICE = 0x21000001
SYSTEM_ROOT = 0x22000002
RESUME_OBJECT = 0x23000003
DEFAULT = 0x23000003
MANAGER_RESUME_OBJECT = 0x23000006
DISPLAY_ORDER = 0x24000001
TOOLS_DISPLAY_ORDER = 0x24000010
WIN_PE = 0x26000022

TIMEOUT_SECONDS = 30
_LOCAL_DEBUGGER = 4
MESSAGE_RECOVERY = 3
STANDARD_MENU = 1
_ALLOWED_IN_MEMORY = (0x15000075,)
"""``allowedinmemorysettings`` of every entry since Windows 8: performancefrequency."""


@dataclass(frozen=True, slots=True)
class BootIds:
    """The GUIDs of the objects that are a system's own."""

    os: UUID
    resume: UUID
    recovery: UUID
    recovery_options: UUID

    @classmethod
    def derive(cls, seed: bytes) -> BootIds:
        """The GUIDs that ``seed`` stands for; the same each time."""
        return cls(*(_derive(seed, word) for word in ("os", "resume", "recovery", "options")))


def windows_objects(
    firmware: Firmware,
    *,
    device: Device,
    os_device: Device,
    ids: BootIds,
    locale: str,
    description: str,
) -> tuple[BcdObject, BcdObject]:
    """The loader of an installed Windows, and the one that resumes it."""
    extension = program_extension(firmware)
    isolated = True if firmware == "uefi" else None
    loader = new_object(
        ids.os,
        OS_LOADER,
        device=device,
        path=f"\\Windows\\system32\\winload.{extension}",
        description=description,
        locale=locale,
        inherit=links("bootloadersettings"),
        isolatedcontext=isolated,
        allowedinmemorysettings=_ALLOWED_IN_MEMORY,
        osdevice=os_device,
        systemroot="\\Windows",
        resumeobject=ids.resume,
        nx=0,
        bootmenupolicy=STANDARD_MENU,
    )
    resume = new_object(
        ids.resume,
        RESUME_LOADER,
        device=device,
        path=f"\\Windows\\system32\\winresume.{extension}",
        description="Windows Resume Application",
        locale=locale,
        inherit=links("resumeloadersettings"),
        isolatedcontext=isolated,
        allowedinmemorysettings=_ALLOWED_IN_MEMORY,
        filedevice=os_device,
        filepath="\\hiberfil.sys",
        bootmenupolicy=STANDARD_MENU,
        debugoptionenabled=False,
    )
    return loader, resume


def recovery_objects(
    firmware: Firmware, recovery: PartitionRef, ids: BootIds, locale: str, folder: str
) -> list[BcdObject]:
    """The loader of WinRE and the options of its ramdisk; ``folder`` has both of its files."""
    ramdisk = Ramdisk(ids.recovery_options, recovery, f"{folder}\\{RECOVERY_WIM}")
    loader = new_object(
        ids.recovery,
        OS_LOADER,
        device=ramdisk,
        osdevice=ramdisk,
        path=f"\\windows\\system32\\winload.{program_extension(firmware)}",
        description="Windows Recovery Environment",
        locale=locale,
        inherit=links("bootloadersettings"),
        displaymessage=MESSAGE_RECOVERY,
        systemroot="\\windows",
        nx=0,
        bootmenupolicy=STANDARD_MENU,
        winpe=True,
        recoveryos=True,
    )
    options = new_object(
        ids.recovery_options,
        DEVICE_OPTIONS,
        description="Windows Recovery",
        ramdisksdidevice=recovery,
        ramdisksdipath=f"{folder}\\{RECOVERY_SDI}",
    )
    return [loader, options]


def boot_manager(firmware: Firmware, system: Device, locale: str) -> BcdObject:
    """{bootmgr} with no entries yet; where it is itself is not read when it starts."""
    return new_object(
        well_known("bootmgr"),
        BOOT_MANAGER,
        device=system,
        path="\\EFI\\Microsoft\\Boot\\bootmgfw.efi" if firmware == "uefi" else None,
        description="Windows Boot Manager",
        locale=locale,
        inherit=links("globalsettings"),
        timeout=TIMEOUT_SECONDS,
    )


def memory_tester(firmware: Firmware, system: Device, locale: str) -> BcdObject:
    """{memdiag}."""
    is_uefi = firmware == "uefi"
    return new_object(
        well_known("memdiag"),
        MEMORY_TESTER,
        device=system,
        path="\\EFI\\Microsoft\\Boot\\memtest.efi" if is_uefi else "\\boot\\memtest.exe",
        description="Windows Memory Diagnostic",
        locale=locale,
        inherit=links("globalsettings"),
        badmemoryaccess=True,
    )


def installed_settings() -> list[BcdObject]:
    """The settings that the objects of an installed system inherit."""
    return [
        settings_object("globalsettings", inherit=links("dbgsettings", "emssettings", "badmemory")),
        settings_object("dbgsettings", debugtype=_LOCAL_DEBUGGER),
        settings_object("emssettings", bootems=False),
        settings_object("badmemory"),
        settings_object(
            "bootloadersettings", inherit=links("globalsettings", "hypervisorsettings")
        ),
        settings_object("resumeloadersettings", inherit=links("globalsettings")),
        hypervisor_settings(),
    ]


def hypervisor_settings() -> BcdObject:
    """{hypervisorsettings}, the same everywhere but for a description on media."""
    return settings_object(
        "hypervisorsettings",
        hypervisordebugtype=0,
        hypervisordebugport=1,
        hypervisorbaudrate=115200,
    )


def settings_object(alias: str, **values: ElementValue | None) -> BcdObject:
    """A well-known object by its alias."""
    guid, _, type_code = WELL_KNOWN[alias]
    return new_object(guid, type_code, **values)


def new_object(guid: UUID, type_code: int, **values: ElementValue | None) -> BcdObject:
    """An object with elements by their names; None leaves one out."""
    item = BcdObject(guid, type_code)
    for name, value in values.items():
        if value is not None:
            item = item.with_value(element_id(name, type_code), value)
    return item


def links(*aliases: str) -> tuple[UUID, ...]:
    """GUIDs of well-known objects."""
    return tuple(well_known(alias) for alias in aliases)


def guids_of(value: ElementValue | None) -> tuple[UUID, ...]:
    """The GUIDs of a list of objects; none for any other value."""
    if not isinstance(value, tuple):
        return ()
    return tuple(item for item in value if isinstance(item, UUID))


def with_objects(store: Store, objects: Iterable[BcdObject]) -> Store:
    """The store with all of these, in place of those of their GUIDs."""
    for item in objects:
        store = store.with_object(item)
    return store


def program_extension(firmware: Firmware) -> str:
    """What boot programs end in."""
    return "efi" if firmware == "uefi" else "exe"


def _derive(seed: bytes, purpose: str) -> UUID:
    words = b"mediamaker boot entry 1", purpose.encode(), seed
    joined = b"".join(len(word).to_bytes(4, "little") + word for word in words)
    return UUID(bytes=hashlib.sha256(joined).digest()[:16], version=4)
