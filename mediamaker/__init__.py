# SPDX-License-Identifier: GPL-3.0-or-later
"""mediamaker: install sticks, recovery partitions and installed disks, made from Linux."""

__version__ = "0.1.0"
