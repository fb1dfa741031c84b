# SPDX-License-Identifier: GPL-3.0-or-later
"""Every cell of the matrix: importing this registers them, in the order of the table."""

from faults import cells_install, cells_install_cut, cells_media, cells_recovery, cells_wim  # noqa: F401
from faults.matrix import CELLS

__all__ = ["CELLS"]
