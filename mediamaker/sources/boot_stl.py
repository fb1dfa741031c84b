# SPDX-License-Identifier: GPL-3.0-or-later
r"""``boot.stl``: what recent Windows boot managers want under Secure Boot, and media may lack.

Without ``\EFI\Microsoft\Boot\boot.stl`` a boot manager of 2025 stops with 0xc000000f under Secure
Boot (seen with build 27954); the boot.wim of such media holds the matching file. References:
``facts/boot-facts.md`` 0.5 and 2.4 (Microsoft's own script for new media copies the same file).
"""

from __future__ import annotations

from dataclasses import dataclass

from mediamaker.errors import MediaError, UsageError
from mediamaker.formats.wim_metadata import WimMetadata
from mediamaker.sources.kinds import Inspection, SourceWim
from mediamaker.sources.reader import SourceReader
from mediamaker.sources.wim_blobs import BlobReader
from mediamaker.units import MIB

MEDIA_PATH = ("efi", "microsoft", "boot", "boot.stl")
_WIM_PATH = "Windows/Boot/EFI/boot.stl"
_SIZE_MAX = MIB


@dataclass(frozen=True, slots=True)
class BootStl:
    """The file's content; ``origin`` says where it was found."""

    data: bytes
    origin: str


def find_boot_stl(inspection: Inspection) -> BootStl | None:
    """The boot.stl that the media lacks and its boot.wim has; None if nothing is to be added.

    Raises:
        MediaError: the boot.wim can't be read: damaged, or libwim is missing.
    """
    has_uefi = any(path.firmware == "uefi" for path in inspection.boot_paths)
    boot_wim = inspection.boot_wim
    if boot_wim is None or not has_uefi or inspection.tree.find_file(*MEDIA_PATH) is not None:
        return None
    with SourceReader(inspection.tree.files) as reader:
        return _read(boot_wim, reader)


def _read(source: SourceWim, reader: SourceReader) -> BootStl | None:
    wim = source.wim
    number = wim.boot_index or 1
    if number > len(wim.metadata):
        return None
    what = f"{source.path_text}:{number}"
    with BlobReader(wim, source.entry.pieces, reader, what=source.path_text) as blobs:
        metadata = WimMetadata(blobs.read(wim.metadata[number - 1]), what=what)
        try:
            stream = metadata.find(_WIM_PATH).data
        except UsageError:
            return None
        blob = None if stream is None else blobs.find(stream.sha1)
        if blob is None:
            return None
        if blob.uncompressed_size > _SIZE_MAX:
            raise MediaError(
                f"{what}: {_WIM_PATH} has {blob.uncompressed_size} bytes, expected {_SIZE_MAX} "
                "at most"
            )
        return BootStl(blobs.read(blob), f"{what}: {_WIM_PATH}")
