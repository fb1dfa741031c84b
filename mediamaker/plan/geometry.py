# SPDX-License-Identifier: GPL-3.0-or-later
"""All that a plan may know of a target: how large it is, and how large its sectors are."""

from __future__ import annotations

from dataclasses import dataclass

from mediamaker.errors import UsageError
from mediamaker.units import MIB, format_size

SECTOR_SIZES = (512, 1024, 2048, 4096)
DEFAULT_SECTOR_SIZE = 512
"""What image files get: every firmware's USB and disk emulation speaks it."""
PARTITION_ALIGNMENT = MIB
_SIZE_MAX = (1 << 63) - 1
"""Of an off_t, which has a sign."""


@dataclass(frozen=True, slots=True)
class Geometry:
    """``size`` in bytes, a whole number of logical sectors of ``logical_sector_size`` bytes."""

    size: int
    logical_sector_size: int = DEFAULT_SECTOR_SIZE

    def __post_init__(self) -> None:
        if self.logical_sector_size not in SECTOR_SIZES:
            raise UsageError(
                f"sectors of {self.logical_sector_size} bytes; {SECTOR_SIZES} are known"
            )
        if self.size <= 0 or self.size % self.logical_sector_size:
            raise UsageError(
                f"a size of {self.size} bytes ({format_size(self.size)}) is not a whole number of "
                f"sectors of {self.logical_sector_size} bytes"
            )
        if self.size > _SIZE_MAX:
            raise UsageError(
                f"a size of {self.size} bytes ({format_size(self.size)}) is more than Linux can "
                f"address ({_SIZE_MAX} bytes)"
            )

    @property
    def sectors(self) -> int:
        """Logical sectors."""
        return self.size // self.logical_sector_size
