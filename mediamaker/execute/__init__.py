# SPDX-License-Identifier: GPL-3.0-or-later
"""Carries plans out: knows extents and targets, no formats."""
