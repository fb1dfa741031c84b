# SPDX-License-Identifier: GPL-3.0-or-later
"""Which drivers a build of OVMF has; distributions leave some out.

The drivers lie in a compressed firmware volume, each in a file whose name is the driver's GUID.
References: UEFI Platform Initialization specification 1.7, volume 3: sections 3.2.2 (FFS file
header), 3.2.5 (GUID-defined section); the GUID of LZMA sections is EDK II's (LzmaDecompress.h).
"""

from __future__ import annotations

import functools
import lzma
import struct
import uuid
from pathlib import Path

from mediamaker.errors import ToolError

SD_CARD_DRIVER = uuid.UUID("8e325979-3fe1-4927-aae2-8f5c4bd2af0d")
"""SdMmcPciHcDxe."""
NVME_DRIVER = uuid.UUID("5be3bdf4-53cf-46a3-a6a9-73c34a6e5ee3")
"""NvmExpressDxe."""

_LZMA = uuid.UUID("ee4e5898-3914-4259-9d6e-dc7bd79403cf").bytes_le
_SECTION_HEAD = struct.Struct("<4s16sHH")


@functools.cache
def has_driver(code: Path, driver: uuid.UUID) -> bool | None:
    """Whether the flash image ``code`` has ``driver``; None where it can't be told.

    Raises:
        ToolError: ``code`` can't be read.
    """
    volumes = _unpack(code)
    return any(driver.bytes_le in volume for volume in volumes) if volumes else None


def _unpack(code: Path) -> tuple[bytes, ...]:
    """The compressed parts of a flash image."""
    try:
        data = code.read_bytes()
    except OSError as error:
        raise ToolError(f"firmware {code}: {error.strerror}") from error
    found = []
    at = data.find(_LZMA)
    while at >= 0:
        start = at - 4
        if 0 <= start <= len(data) - _SECTION_HEAD.size:
            _, _, body_offset, _ = _SECTION_HEAD.unpack_from(data, start)
            try:
                unpacker = lzma.LZMADecompressor(format=lzma.FORMAT_ALONE)
                found.append(unpacker.decompress(data[start + body_offset :]))
            except lzma.LZMAError:
                # Another use of the same 16 bytes.
                pass
        at = data.find(_LZMA, at + 1)
    return tuple(found)
