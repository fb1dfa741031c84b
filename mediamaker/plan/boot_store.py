# SPDX-License-Identifier: GPL-3.0-or-later
"""The BCD stores of installed systems, media and recovery: which objects, which elements.

What bcdboot, Windows Setup and reagentc write, from identities alone: the partitions of a disk
that may not exist yet, and GUIDs for the objects (:class:`BootIds`). The same arguments give the
same store.

Reference: the stores of real systems, object by object (boot-facts 4.1 to 4.4, 5). Elements that
only Windows itself writes while it runs (NVRAM variables, caches) are left out.
"""

from __future__ import annotations

from typing import Literal

from mediamaker.formats.bcd import Store
from mediamaker.formats.bcd_devices import (
    BootDevice,
    Device,
    FileDevice,
    LocateElement,
    LocatePath,
    PartitionRef,
    Ramdisk,
    VhdDevice,
)
from mediamaker.formats.bcd_names import (
    BOOT_MANAGER,
    DEVICE_OPTIONS,
    MEMORY_TESTER,
    OS_LOADER,
    element_id,
    well_known,
)
from mediamaker.formats.regf import dword_value, string_value
from mediamaker.plan.boot_entries import (
    add_windows,
    default_object,
    register_recovery,
    remove_object,
    unregister_recovery,
    windows_loaders,
)
from mediamaker.plan.boot_objects import (
    DEFAULT,
    DESCRIPTION,
    DISPLAY_ORDER,
    MANAGER_RESUME_OBJECT,
    MEDIA_LOADER,
    MEDIA_RAMDISK_OPTIONS,
    PATH,
    RECOVERY_PATH,
    RECOVERY_SDI,
    RECOVERY_WIM,
    RESUME_OBJECT,
    STANDARD_MENU,
    SYSTEM_ROOT,
    TIMEOUT_SECONDS,
    TOOLS_DISPLAY_ORDER,
    BootIds,
    Firmware,
    boot_manager,
    hypervisor_settings,
    installed_settings,
    links,
    memory_tester,
    new_object,
    program_extension,
    recovery_objects,
    settings_object,
    windows_objects,
    with_objects,
)

__all__ = [
    "RECOVERY_PATH",
    "RECOVERY_SDI",
    "RECOVERY_WIM",
    "BootIds",
    "Firmware",
    "add_windows",
    "default_object",
    "empty_store",
    "esp_recovery_store",
    "installed_store",
    "pe_store",
    "portable_store",
    "register_recovery",
    "remove_object",
    "unregister_recovery",
    "vhd_store",
    "windows_loaders",
]


def installed_store(
    *,
    firmware: Firmware,
    system: PartitionRef,
    windows: PartitionRef,
    recovery: PartitionRef | None,
    ids: BootIds,
    locale: str = "en-US",
    description: str = "Windows",
    recovery_path: str = RECOVERY_PATH,
) -> Store:
    """The store of the system volume of an installed Windows, with WinRE if there is one."""
    store = add_windows(
        _described(("System", 1)),
        firmware=firmware,
        system=system,
        windows=windows,
        ids=ids,
        locale=locale,
        description=description,
    )
    if recovery is None:
        return store
    return register_recovery(
        store, ids.os, recovery, ids, locale=locale, recovery_path=recovery_path
    )


def esp_recovery_store(
    *,
    system: PartitionRef,
    recovery: PartitionRef,
    ids: BootIds,
    locale: str = "en-US",
    recovery_path: str = RECOVERY_PATH,
) -> Store:
    """``\\EFI\\Microsoft\\Recovery\\BCD`` of an ESP: WinRE alone; give it GUIDs of its own."""
    manager = boot_manager("uefi", system, locale)
    manager = manager.with_value(DEFAULT, ids.recovery)
    manager = manager.with_value(DISPLAY_ORDER, (ids.recovery,))
    store = with_objects(_described(("FirmwareModified", 1)), [manager, *installed_settings()])
    return with_objects(store, recovery_objects("uefi", recovery, ids, locale, recovery_path))


def pe_store(
    firmware: Firmware,
    *,
    media: BootDevice | LocatePath | PartitionRef = BootDevice(),  # noqa: B008 - it is frozen
    wim_path: str = "\\sources\\boot.wim",
    sdi_path: str = "\\boot\\boot.sdi",
    description: str = "Windows Setup",
    locale: str = "en-US",
    is_server: bool = False,
) -> Store:
    """The store of a WinPE or Setup medium, whose WIM is loaded into memory.

    ``media`` is where the WIM is: beside the boot manager, or on any partition that has
    ``wim_path``, or on one that is known.
    """
    extension = program_extension(firmware)
    ramdisk = Ramdisk(MEDIA_RAMDISK_OPTIONS, media, wim_path)
    manager = new_object(
        well_known("bootmgr"),
        BOOT_MANAGER,
        description="Windows Boot Manager",
        locale=locale,
        inherit=links("globalsettings"),
        default=MEDIA_LOADER,
        displayorder=(MEDIA_LOADER,),
        toolsdisplayorder=links("memdiag"),
        timeout=TIMEOUT_SECONDS,
    )
    loader = new_object(
        MEDIA_LOADER,
        OS_LOADER,
        device=ramdisk,
        osdevice=ramdisk,
        path=f"\\windows\\system32\\boot\\winload.{extension}",
        description=description,
        locale=locale,
        inherit=links("bootloadersettings"),
        isolatedcontext=True if firmware == "uefi" else None,
        systemroot="\\windows",
        bootmenupolicy=None if is_server else STANDARD_MENU,
        detecthal=True,
        winpe=True,
        ems=is_server,
    )
    options = new_object(
        MEDIA_RAMDISK_OPTIONS, DEVICE_OPTIONS, ramdisksdidevice=media, ramdisksdipath=sdi_path
    )
    tester = memory_tester(firmware, BootDevice(), locale)
    tester = tester.without_element(element_id("badmemoryaccess", MEMORY_TESTER))
    if firmware == "uefi":
        tester = tester.with_value(PATH, "\\efi\\microsoft\\boot\\memtest.efi")
    settings = [
        settings_object("globalsettings", inherit=links("dbgsettings", "emssettings")),
        settings_object("dbgsettings", debugtype=0, debugport=1, baudrate=115200),
        settings_object("emssettings", bootems=is_server),
        settings_object(
            "bootloadersettings", inherit=links("globalsettings", "hypervisorsettings")
        ),
        hypervisor_settings().with_value(DESCRIPTION, "Hypervisor Settings"),
    ]
    return with_objects(_described(), [manager, loader, options, tester, *settings])


def vhd_store(
    *,
    firmware: Firmware,
    system: PartitionRef,
    vhd_on: PartitionRef | BootDevice | LocatePath,
    vhd_path: str,
    ids: BootIds,
    locale: str = "en-US",
    description: str = "Windows",
) -> Store:
    """The store for a Windows inside of a VHD or VHDX; such a system can't hibernate."""
    disk = VhdDevice(FileDevice(vhd_on, vhd_path))
    return _one_system_store(
        firmware=firmware,
        system=system,
        device=LocateElement(PATH, disk),
        os_device=LocateElement(SYSTEM_ROOT, disk),
        ids=ids,
        locale=locale,
        description=description,
        can_hibernate=False,
    )


def portable_store(
    firmware: Firmware,
    *,
    kind: Literal["boot", "locate"],
    ids: BootIds,
    locale: str = "en-US",
    description: str = "Windows",
) -> Store:
    """A store that names no disk, for one that is cloned or moves between machines.

    ``boot``: Windows is on the volume that the boot manager is on (one NTFS partition, BIOS).
    ``locate``: it is on whichever partition has its files; another disk may have them too.
    """
    here = BootDevice()
    device: Device = here if kind == "boot" else LocateElement(PATH)
    os_device: Device = here if kind == "boot" else LocateElement(SYSTEM_ROOT)
    return _one_system_store(
        firmware=firmware,
        system=here,
        device=device,
        os_device=os_device,
        ids=ids,
        locale=locale,
        description=description,
        can_hibernate=True,
    )


def empty_store() -> Store:
    """A store with no objects, as ``bcdedit /createstore`` makes."""
    return _described()


def _one_system_store(
    *,
    firmware: Firmware,
    system: Device,
    device: Device,
    os_device: Device,
    ids: BootIds,
    locale: str,
    description: str,
    can_hibernate: bool,
) -> Store:
    loader, resume = windows_objects(
        firmware,
        device=device,
        os_device=os_device,
        ids=ids,
        locale=locale,
        description=description,
    )
    manager = boot_manager(firmware, system, locale)
    manager = manager.with_value(DEFAULT, ids.os).with_value(DISPLAY_ORDER, (ids.os,))
    manager = manager.with_value(TOOLS_DISPLAY_ORDER, links("memdiag"))
    if can_hibernate:
        manager = manager.with_value(MANAGER_RESUME_OBJECT, ids.resume)
    else:
        loader = loader.without_element(RESUME_OBJECT)
    tester = memory_tester(firmware, system, locale)
    objects = [manager, loader, tester, *installed_settings()]
    store = with_objects(_described(("System", 1)), objects)
    return store.with_object(resume) if can_hibernate else store


def _described(*numbers: tuple[str, int]) -> Store:
    values = [string_value("KeyName", "BCD00000001")]
    values += [dword_value(name, number) for name, number in numbers]
    return Store(description=tuple(values))
