# SPDX-License-Identifier: GPL-3.0-or-later
"""Every cell of the matrix: importing this registers them, in the order of the table."""

from faults import (  # noqa: F401
    cells_create_false,
    cells_create_host,
    cells_create_io,
    cells_create_kill,
    cells_create_power,
    cells_create_unplug,
    cells_flipped,
    cells_install,
    cells_install_cut,
    cells_install_more,
    cells_recovery,
    cells_recovery_cut,
    cells_recovery_more,
    cells_replaced,
    cells_short,
    cells_sizes,
    cells_wim,
    cells_wim_cut,
    cells_wim_io,
    cells_wim_more,
    cells_windows_io,
)
from faults.matrix import CELLS

__all__ = ["CELLS"]
