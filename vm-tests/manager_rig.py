# SPDX-License-Identifier: GPL-3.0-or-later
"""What the tests share that ask the stand-in boot managers about our stores.

The disks are :mod:`manager_disk`'s, which has nothing of ours; ``conftest.py`` has the fixtures.
"""

from __future__ import annotations

from uuid import UUID

import manager_disk as md

from mediamaker.formats.bcd import Store
from mediamaker.formats.bcd_devices import GptPartition, MbrPartition
from mediamaker.formats.bcd_names import well_known

TOKEN, WINRE_TOKEN = "installed-1", "recovery-1"
BOOT_SEQUENCE = 0x24000002


def partitions(firmware: md.Firmware) -> dict[str, GptPartition | MbrPartition]:
    """The partitions of ``make_disk``, as the store of that firmware names them."""
    if firmware == "uefi":
        return {role: GptPartition(at.disk_guid, at.guid) for role, at in md.PLACES.items()}
    return {role: MbrPartition(at.signature, at.start) for role, at in md.PLACES.items()}


def once(store: Store, guid: UUID) -> Store:
    """The store, with the entry that starts next time."""
    manager = store.object(well_known("bootmgr"))
    assert manager is not None
    return store.with_object(manager.with_value(BOOT_SEQUENCE, (guid,)))


def outcome(said: str) -> str:
    """The last line before the end, which must be the only one of its kind."""
    lines = [line for line in said.splitlines() if line.startswith("MM-")]
    lines = [line for line in lines if not line.startswith("MM-BCD: ")]
    assert lines[1:] == ["MM-BCD-END"], said
    return lines[0]
