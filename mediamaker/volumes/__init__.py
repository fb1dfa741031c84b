# SPDX-License-Identifier: GPL-3.0-or-later
"""File trees to the extents of one volume: measure, place, render."""
