# SPDX-License-Identifier: GPL-3.0-or-later
"""One disk under every firmware and on every bus: which of them can be, and all of those run."""

from __future__ import annotations

import threading
from collections.abc import Callable, Generator, Sequence
from concurrent.futures import ThreadPoolExecutor, as_completed
from dataclasses import dataclass
from pathlib import Path

from mediamaker.errors import MediaError, ToolError, UsageError
from mediamaker.vm.boot import BootResult
from mediamaker.vm.disk import Bus, Disk, check_bus
from mediamaker.vm.firmware import Architecture, Firmware, find_uefi
from mediamaker.vm.ovmf_drivers import SD_CARD_DRIVER, has_driver

DEFAULT_FIRMWARES = (Firmware.BIOS, Firmware.UEFI)


@dataclass(frozen=True, slots=True)
class Cell:
    """A machine to be; ``reason`` says why it can't be, or is None."""

    firmware: Firmware
    bus: Bus
    reason: str | None = None

    @property
    def name(self) -> str:
        """For people, and for file names."""
        return f"{self.firmware.value}-{self.bus.value}"


@dataclass(frozen=True, slots=True)
class CellResult:
    """What became of a cell: a result, or an error, or neither where it has a reason."""

    cell: Cell
    result: BootResult | None = None
    error: MediaError | None = None

    @property
    def is_proven(self) -> bool:
        """Whether it ran and was proven."""
        return self.result is not None and self.result.proven


def list_cells(
    firmwares: Sequence[Firmware], buses: Sequence[Bus], *, size: int, sector_size: int
) -> tuple[Cell, ...]:
    """Every firmware on every bus, for a disk of ``size`` bytes and sectors of ``sector_size``."""
    return tuple(
        Cell(firmware, bus, _find_reason(firmware, bus, size, sector_size))
        for firmware in firmwares
        for bus in buses
    )


def _find_reason(firmware: Firmware, bus: Bus, size: int, sector_size: int) -> str | None:
    try:
        check_bus(Disk(Path("the disk"), bus, logical_sector_size=sector_size), size)
    except UsageError as error:
        return error.message
    if firmware is Firmware.BIOS:
        if sector_size != 512:
            return f"SeaBIOS starts from disks with sectors of 512 bytes, not {sector_size}"
    elif bus is Bus.SD and _lacks_sd_driver(firmware):
        return "this build of OVMF has no driver for SD cards (SdMmcPciHcDxe)"
    return None


def _lacks_sd_driver(firmware: Firmware) -> bool:
    try:
        code = find_uefi(Architecture.X86_64, firmware).code
        return has_driver(code, SD_CARD_DRIVER) is False
    except ToolError:
        # The machine itself will say what is missing.
        return False


def run_cells(
    cells: Sequence[Cell],
    boot: Callable[[Cell, threading.Event], BootResult],
    *,
    jobs: int,
) -> Generator[CellResult, None, None]:
    """Boot the cells that can be, ``jobs`` at once; results as they come, those left out first.

    ``boot`` is called in a thread of its own and ends early when its event is set, which happens
    when the caller goes no further.
    """
    yield from (CellResult(cell) for cell in cells if cell.reason is not None)
    stop = threading.Event()

    def run(cell: Cell) -> CellResult:
        try:
            return CellResult(cell, boot(cell, stop))
        except MediaError as error:
            return CellResult(cell, error=error)

    pool = ThreadPoolExecutor(max_workers=jobs, thread_name_prefix="machine")
    try:
        yield from (
            future.result()
            for future in as_completed(
                [pool.submit(run, cell) for cell in cells if cell.reason is None]
            )
        )
    finally:
        stop.set()
        pool.shutdown(cancel_futures=True)
