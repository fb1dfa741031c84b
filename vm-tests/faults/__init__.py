# SPDX-License-Identifier: GPL-3.0-or-later
"""Faults done to mediamaker on purpose, and what was left each time: ``make faults``."""
