# SPDX-License-Identifier: GPL-3.0-or-later
"""QEMU as a library: machines, firmware, screenshots, tokens."""
