# SPDX-License-Identifier: GPL-3.0-or-later
"""Every cell of the matrix: importing this registers them, in the order of the table."""

from faults import (  # noqa: F401
    cells_create_false,
    cells_create_host,
    cells_create_io,
    cells_create_kill,
    cells_create_power,
    cells_create_unplug,
)
from faults.matrix import CELLS

__all__ = ["CELLS"]
