# SPDX-License-Identifier: GPL-3.0-or-later
"""The two things that a plan is written to, and the choice between them.

Both match the protocols of ``execute/target.py`` by shape. What refuses them beforehand is a
``TargetError``; what fails later is a plain ``OSError``, described by the engine.
"""

from __future__ import annotations

import stat
from pathlib import Path

from mediamaker.devices.binding import DiskBinding
from mediamaker.devices.block_target import BlockTarget, bind_disk
from mediamaker.devices.file_target import FileTarget

__all__ = [
    "BlockTarget",
    "DiskBinding",
    "FileTarget",
    "bind_disk",
    "is_block_device",
    "open_for_reading",
]


def is_block_device(path: Path) -> bool:
    """Whether ``path`` is a block device now; any other name is (to be) an image file."""
    try:
        return stat.S_ISBLK(path.stat().st_mode)
    except (OSError, ValueError):
        return False


def open_for_reading(path: Path, *, logical_sector_size: int = 512) -> BlockTarget | FileTarget:
    """An existing target, read-only; ``logical_sector_size`` is that of an image file.

    Raises:
        TargetRefusedError: it is missing, no image file or block device, or not readable.
    """
    if is_block_device(path):
        return BlockTarget.open(path, writable=False)
    return FileTarget.open(path, logical_sector_size=logical_sector_size)
