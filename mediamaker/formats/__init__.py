# SPDX-License-Identifier: GPL-3.0-or-later
"""On-disk formats: bytes to frozen dataclasses and back; no I/O, clock or randomness."""
