# SPDX-License-Identifier: GPL-3.0-or-later
"""Pulls a disk out of a running guest."""

from __future__ import annotations

import time

from guest import Guest

from faults.disk import FaultyDisk
from mediamaker.vm.disk import device_id

_TIMEOUT_SECONDS = 1800.0


def unplug_at(guest: Guest, disk: FaultyDisk, size: int) -> bool:
    """Unplug the guest's first disk once ``size`` bytes were written to it; False: never so many.

    Raises:
        RuntimeError: the guest hangs.
    """
    deadline = time.monotonic() + _TIMEOUT_SECONDS
    while disk.told().written_size < size:
        guest.machine.poll()
        if guest.machine.is_off:
            return False
        if time.monotonic() > deadline:
            raise RuntimeError(f"never came to {size} bytes: {disk.told()}")
        time.sleep(0.02)
    guest.machine.execute("device_del", {"id": device_id(0)})
    return True
