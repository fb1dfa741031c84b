# SPDX-License-Identifier: GPL-3.0-or-later
"""QEMU as a library: machines, disks, firmware, screenshots, tokens, reports.

``docs/harness.md`` describes it with examples; ``pytest_plugin`` has its fixtures. The names
below are loaded when they are asked for: to import this package costs nothing.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from mediamaker.vm.accel import Accelerator, Choice
    from mediamaker.vm.accel_probe import choose_accelerator
    from mediamaker.vm.boot import BootResult, boot_target
    from mediamaker.vm.disk import Bus, Disk
    from mediamaker.vm.firmware import Firmware
    from mediamaker.vm.machine import BlockStats, Machine, MachineEvent
    from mediamaker.vm.nbd import NbdServer
    from mediamaker.vm.record import MachineRecord, Verdict, read_records
    from mediamaker.vm.report import Report, Row, rows_of, write_report
    from mediamaker.vm.screen import Picture
    from mediamaker.vm.virtual_disk import open_file_disk, open_plan_disk

_MODULES = {
    "accel": ("Accelerator", "Choice"),
    "accel_probe": ("choose_accelerator",),
    "boot": ("BootResult", "boot_target"),
    "disk": ("Bus", "Disk"),
    "firmware": ("Firmware",),
    "machine": ("BlockStats", "Machine", "MachineEvent"),
    "nbd": ("NbdServer",),
    "record": ("MachineRecord", "Verdict", "read_records"),
    "report": ("Report", "Row", "rows_of", "write_report"),
    "screen": ("Picture",),
    "virtual_disk": ("open_file_disk", "open_plan_disk"),
}
_PLACES = {name: module for module, names in _MODULES.items() for name in names}

__all__ = [
    "Accelerator",
    "BlockStats",
    "BootResult",
    "Bus",
    "Choice",
    "Disk",
    "Firmware",
    "Machine",
    "MachineEvent",
    "MachineRecord",
    "NbdServer",
    "Picture",
    "Report",
    "Row",
    "Verdict",
    "boot_target",
    "choose_accelerator",
    "open_file_disk",
    "open_plan_disk",
    "read_records",
    "rows_of",
    "write_report",
]


def __getattr__(name: str) -> Any:
    """PEP 562: the module that has ``name`` is imported now."""
    if name not in _PLACES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(f"{__name__}.{_PLACES[name]}"), name)


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
