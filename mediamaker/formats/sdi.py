# SPDX-License-Identifier: GPL-3.0-or-later
"""The header of a boot.sdi, the small image that a ramdisk boot of Windows is begun with.

Windows' ramdisk driver mounts the file system inside (an empty NTFS) and lays the WIM over it.
We never make one: it comes from the Windows image. What can be told without Windows is whether
the file is one at all.

Reference: Microsoft, "System Deployment Image (SDI) file format" of Windows XP Embedded: an
identifier and a version, a table of contents at 0x400 with entries of 64 bytes.
"""

from __future__ import annotations

from dataclasses import dataclass

from mediamaker.errors import FormatError
from mediamaker.formats.record import parse_record, raw, record, u64

TABLE_OFFSET = 0x400
ENTRY_COUNT_MAX = 8
ENTRY_SIZE = 64
HEAD_SIZE = TABLE_OFFSET + ENTRY_COUNT_MAX * ENTRY_SIZE
"""As much of a file as :func:`parse_sdi` looks at."""
TYPE_PARTITION = "PART"

_IDENTIFIER = b"$SDI"
_VERSION = b"0001"


@record(size=TABLE_OFFSET)
class _HeaderOnDisk:
    identifier: bytes = raw(0x00, 4, "Signature")
    version: bytes = raw(0x04, 4, "Version")


@record(size=ENTRY_SIZE)
class _EntryOnDisk:
    type: bytes = raw(0x00, 8, "BlobType")
    attributes: int = u64(0x08, "Attributes")
    offset: int = u64(0x10, "Offset")
    size: int = u64(0x18, "Size")


@dataclass(frozen=True, slots=True)
class SdiSection:
    """One blob in the file; ``type`` is ``PART``, ``WIM``, ``BOOT``, ..."""

    type: str
    offset: int
    size: int


@dataclass(frozen=True, slots=True)
class Sdi:
    """What the table of contents lists."""

    sections: tuple[SdiSection, ...]

    @property
    def has_partition(self) -> bool:
        """Whether there is the file system that Windows' ramdisk driver mounts."""
        return any(section.type == TYPE_PARTITION for section in self.sections)


def parse_sdi(head: bytes, *, file_size: int, what: str) -> Sdi:
    """The sections named in the first :data:`HEAD_SIZE` bytes of a file of ``file_size``.

    Raises:
        FormatError: another identifier or version, or a section past the end.
    """
    header = parse_record(_HeaderOnDisk, head, what=f"{what}: SDI header")
    if header.identifier != _IDENTIFIER or header.version != _VERSION:
        raise FormatError(
            f"{what}: SDI header: expected {_IDENTIFIER + _VERSION!r}, got {head[:8]!r}",
            hint="boot.sdi is in an image under Windows/Boot/DVD, and in boot/ of a Windows ISO",
        )
    sections: list[SdiSection] = []
    for offset in range(TABLE_OFFSET, min(HEAD_SIZE, len(head)) - ENTRY_SIZE + 1, ENTRY_SIZE):
        entry = parse_record(_EntryOnDisk, head[offset:], what=f"{what}: SDI entry")
        if not entry.type.strip(b"\0"):
            continue
        if entry.offset + entry.size > file_size:
            raise FormatError(
                f"{what}: SDI section {entry.type!r}: expected within the file's {file_size} "
                f"bytes, got {entry.size} at {entry.offset:#x}"
            )
        name = entry.type.rstrip(b"\0").decode("ascii", "replace")
        sections.append(SdiSection(name, entry.offset, entry.size))
    return Sdi(tuple(sections))
