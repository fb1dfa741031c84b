# SPDX-License-Identifier: GPL-3.0-or-later
"""What a WIM's header says, as libwim hands it out."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from mediamaker.wimlib.flags import COMPRESSION_NAMES, CompressionName, InfoBit


@dataclass(frozen=True, slots=True, kw_only=True)
class WimInfo:
    """A WIM as a whole. ``boot_index`` 0 is none; ``total_size`` is of the file without XML."""

    guid: bytes
    image_count: int
    boot_index: int
    version: int
    chunk_size: int
    part_number: int
    part_count: int
    compression: CompressionName
    total_size: int
    bits: InfoBit

    @property
    def has_integrity_table(self) -> bool:
        """True if it has an integrity table, whether checked or not."""
        return InfoBit.HAS_INTEGRITY_TABLE in self.bits

    @property
    def is_readonly(self) -> bool:
        """True if it can't be written to: marked so, a part of a split WIM, or not ours."""
        return InfoBit.IS_READONLY in self.bits

    @property
    def is_pipable(self) -> bool:
        """True for wimlib's own format for pipes, which Windows can't read."""
        return InfoBit.PIPABLE in self.bits


def parse_info(ffi: Any, c: Any) -> WimInfo:
    """From libwim's structure."""
    return WimInfo(
        guid=bytes(ffi.buffer(c.guid, 16)[:]),
        image_count=c.image_count,
        boot_index=c.boot_index,
        version=c.version,
        chunk_size=c.chunk_size,
        part_number=c.part_number,
        part_count=c.total_parts,
        compression=COMPRESSION_NAMES[c.compression_type],
        total_size=c.total_bytes,
        bits=InfoBit(c.bits & sum(InfoBit)),
    )
