# SPDX-License-Identifier: GPL-3.0-or-later
"""Layout files: TOML text to a typed :class:`DiskLayout`."""

from __future__ import annotations

from mediamaker.plan.disk_layout import DiskLayout


def load_layout(text: str, *, what: str) -> DiskLayout:
    """The layout that ``text`` describes; ``what`` names the file in errors.

    Raises:
        FormatError: names the partition, the key and its line.
    """
    raise NotImplementedError
