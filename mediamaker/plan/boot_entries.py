# SPDX-License-Identifier: GPL-3.0-or-later
"""Changes to a BCD store: a Windows added, WinRE registered or not, an object taken out.

What is there already stays, but for what is replaced by name.
"""

from __future__ import annotations

from uuid import UUID

from mediamaker.errors import UsageError
from mediamaker.formats.bcd import BcdObject, Store
from mediamaker.formats.bcd_devices import PartitionRef, Ramdisk
from mediamaker.formats.bcd_names import OS_LOADER, element_id, well_known
from mediamaker.plan.boot_objects import (
    DEFAULT,
    DEVICE,
    DISPLAY_ORDER,
    MANAGER_RESUME_OBJECT,
    MESSAGE_OVERRIDE,
    MESSAGE_RECOVERY,
    OS_DEVICE,
    PATH,
    RECOVERY_ENABLED,
    RECOVERY_PATH,
    RECOVERY_SEQUENCE,
    RESUME_OBJECT,
    SYSTEM_ROOT,
    TOOLS_DISPLAY_ORDER,
    WIN_PE,
    BootIds,
    Firmware,
    boot_manager,
    guids_of,
    installed_settings,
    links,
    memory_tester,
    recovery_objects,
    windows_objects,
    with_objects,
)


def add_windows(
    store: Store,
    *,
    firmware: Firmware,
    system: PartitionRef,
    windows: PartitionRef,
    ids: BootIds,
    locale: str = "en-US",
    description: str = "Windows",
    is_default: bool = True,
) -> Store:
    """What bcdboot does to a store: the new Windows first, all others kept behind it.

    An entry that was there for the same Windows (device and systemroot) is replaced, and with it
    its resume object; what is missing of the boot manager, the memory tester and the settings is
    added. Not the default: behind the others.
    """
    for loader in windows_loaders(store):
        same = (loader.value(OS_DEVICE), str(loader.value(SYSTEM_ROOT)).lower())
        if same == (windows, "\\windows"):
            store = remove_object(unregister_recovery(store, loader.guid), loader.guid)
            resume = loader.value(RESUME_OBJECT)
            if isinstance(resume, UUID) and not _is_used(store, resume):
                store = remove_object(store, resume)
    loader, resume_loader = windows_objects(
        firmware, device=windows, os_device=windows, ids=ids, locale=locale, description=description
    )
    for item in [*installed_settings(), memory_tester(firmware, system, locale)]:
        if store.object(item.guid) is None:
            store = store.with_object(item)
    manager = store.object(well_known("bootmgr"))
    if manager is None:
        manager = boot_manager(firmware, system, locale)
        manager = manager.with_value(TOOLS_DISPLAY_ORDER, links("memdiag"))
    others = tuple(guid for guid in guids_of(manager.value(DISPLAY_ORDER)) if guid != ids.os)
    order = (ids.os, *others) if is_default else (*others, ids.os)
    manager = manager.with_value(DISPLAY_ORDER, order)
    if is_default or not isinstance(manager.value(DEFAULT), UUID):
        manager = manager.with_value(DEFAULT, ids.os)
        manager = manager.with_value(MANAGER_RESUME_OBJECT, ids.resume)
    return with_objects(store, [manager, loader, resume_loader])


def register_recovery(
    store: Store,
    os_guid: UUID,
    recovery: PartitionRef,
    ids: BootIds,
    *,
    locale: str | None = None,
    recovery_path: str = RECOVERY_PATH,
) -> Store:
    """What ``reagentc /enable`` does: WinRE's two objects, and the links to them.

    ``ids`` gives their GUIDs. What was registered for this Windows before is removed. Without a
    ``locale`` it is the one of the Windows.

    Raises:
        UsageError: the store has no Windows loader of this GUID.
    """
    store = unregister_recovery(store, os_guid)
    loader = _windows_loader(store, os_guid)
    firmware: Firmware = (
        "uefi" if str(loader.value(PATH) or "").lower().endswith(".efi") else "bios"
    )
    of_windows = loader.value(element_id("locale", OS_LOADER))
    spoken = locale or (of_windows if isinstance(of_windows, str) else "en-US")
    store = with_objects(store, recovery_objects(firmware, recovery, ids, spoken, recovery_path))
    store = store.with_object(
        _linked(loader, ids.recovery).with_value(MESSAGE_OVERRIDE, MESSAGE_RECOVERY)
    )
    resume = _resume_of(store, loader)
    return store if resume is None else store.with_object(_linked(resume, ids.recovery))


def unregister_recovery(store: Store, os_guid: UUID) -> Store:
    """What ``reagentc /disable`` does: no links, and no objects that nothing else links to.

    Raises:
        UsageError: the store has no Windows loader of this GUID.
    """
    loader = _windows_loader(store, os_guid)
    targets = guids_of(loader.value(RECOVERY_SEQUENCE))
    for item in (loader, _resume_of(store, loader)):
        if item is not None:
            bare = item.without_element(RECOVERY_SEQUENCE).without_element(RECOVERY_ENABLED)
            store = store.with_object(bare.without_element(MESSAGE_OVERRIDE))
    for guid in targets:
        found = store.object(guid)
        if found is None or _is_used(store, guid):
            continue
        store = store.without_object(guid)
        device = found.value(DEVICE)
        options = device.options_guid if isinstance(device, Ramdisk) else None
        if options is not None and not _is_used(store, options):
            store = store.without_object(options)
    return store


def remove_object(store: Store, guid: UUID) -> Store:
    """A store without the object and without a mention of it in the boot manager's lists."""
    store = store.without_object(guid)
    for item in store.objects:
        changed = item
        if item.type_code is not None and item.type_code & 0xFFFFF in {1, 2}:
            for element in item.elements:
                if element.value == guid:
                    changed = changed.without_element(element.id)
                elif guid in guids_of(element.value):
                    kept = tuple(other for other in guids_of(element.value) if other != guid)
                    changed = changed.with_value(element.id, kept)
        if changed is not item:
            store = store.with_object(changed)
    return store


def windows_loaders(store: Store) -> tuple[BcdObject, ...]:
    """The loaders of installed systems: no WinPE, no WinRE, no Setup."""
    return tuple(
        item
        for item in store.objects
        if item.type_code == OS_LOADER and item.value(WIN_PE) is not True
    )


def default_object(store: Store) -> BcdObject | None:
    """What the boot manager starts when nobody chooses."""
    manager = store.object(well_known("bootmgr"))
    if manager is None:
        return None
    guid = manager.value(DEFAULT)
    if not isinstance(guid, UUID):
        guid = next(iter(guids_of(manager.value(DISPLAY_ORDER))), None)
    return None if guid is None else store.object(guid)


def _linked(item: BcdObject, recovery: UUID) -> BcdObject:
    linked = item.with_value(RECOVERY_SEQUENCE, (recovery,))
    return linked.with_value(RECOVERY_ENABLED, True)  # noqa: FBT003 - the value of a setting


def _windows_loader(store: Store, guid: UUID) -> BcdObject:
    found = store.object(guid)
    if found is None or found.type_code != OS_LOADER:
        known = ", ".join(f"{{{item.guid}}}" for item in windows_loaders(store))
        raise UsageError(
            f"the store has no Windows loader {{{guid}}}",
            hint=f"it has {known or 'none'}; `mediamaker bcd show` lists all objects",
        )
    return found


def _resume_of(store: Store, loader: BcdObject) -> BcdObject | None:
    guid = loader.value(RESUME_OBJECT)
    return store.object(guid) if isinstance(guid, UUID) else None


def _is_used(store: Store, guid: UUID) -> bool:
    """Whether any object but a boot manager's menu mentions it."""
    for item in store.objects:
        if item.guid == guid or item.guid == well_known("bootmgr"):
            continue
        for element in item.elements:
            value = element.value
            if value == guid or guid in guids_of(value):
                return True
            if isinstance(value, Ramdisk) and value.options_guid == guid:
                return True
    return False
