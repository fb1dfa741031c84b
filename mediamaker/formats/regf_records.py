# SPDX-License-Identifier: GPL-3.0-or-later
"""The records of a registry hive file, and the rules that its reader and its writer share.

References: Maxim Suhanov, "Windows registry file format specification" (field names, big data,
what the first block holds since Windows 10); Timothy D. Morgan, "The Windows NT Registry File
Format" (2009); experiments with Windows' boot managers of builds 19041 and 27954 (what they
require); Microsoft, "Registry element size limits".

All offsets inside a hive count from the end of its first block, at 0x1000 of the file. A cell is
a size of 32 bits, negative while the cell is in use, and what it holds.
"""

from __future__ import annotations

import struct

from mediamaker.formats.record import raw, record, u32, u64
from mediamaker.units import MIB

BLOCK_SIZE = 0x1000
"""The first block's size; a bin's is a multiple of it."""

BIN_HEADER = struct.Struct("<4sII8xQ4x")
"""Signature, offset, size, and in the first bin a time."""

CELL_HEADER = struct.Struct("<i")
CELL_ALIGNMENT = 8
CELL_SIZE_MIN = 8

NO_CELL = 0xFFFFFFFF

KEY_NODE = struct.Struct("<2sHQ10IHH4IHH")
"""``nk``: signature, flags, time, access bits, parent, counts of subkeys and of volatile ones,
their lists, count and list of values, security, class name, longest name of a subkey (in UTF-16
bytes), extra flags, longest class name of a subkey, longest name and data of a value, unused,
sizes of the name and of the class name. The name follows."""

KEY_VALUE = struct.Struct("<2sHIIIH2x")
"""``vk``: signature, sizes of the name and of the data, its cell, type, flags. The name follows."""

KEY_SECURITY = struct.Struct("<2s2xIIII")
"""``sk``: signature, next, previous, count of its keys, size. The descriptor follows."""

LIST_HEADER = struct.Struct("<2sH")
"""``li``, ``lf``, ``lh`` and ``ri``: signature, count."""

BIG_DATA = struct.Struct("<2sHI")
"""``db``: signature, count of segments, the cell with their list."""

FLAG_VOLATILE = 0x01
FLAG_HIVE_ENTRY = 0x04
FLAG_NO_DELETE = 0x08
FLAG_COMPRESSED_NAME = 0x20
ROOT_FLAGS = FLAG_HIVE_ENTRY | FLAG_NO_DELETE

VALUE_COMPRESSED_NAME = 0x01
VALUE_TOMBSTONE = 0x02

INLINE_DATA = 0x80000000
INLINE_SIZE_MAX = 4
BIG_SEGMENT_SIZE = 16344
"""More than this does not lie in one cell, since version 1.4."""
BIG_DATA_MINOR_VERSION = 4
LH_MINOR_VERSION = 5

MINOR_VERSIONS = range(3, 7)
"""1.3 is Windows 2000's, 1.5 XP's and 1.6 that of layered hives; the boot managers accept them."""

HIVE_SIZE_MAX = 256 * MIB
"""Over what SOFTWARE has; the tree takes up to ten times as much memory."""

DEPTH_MAX = 512
KEY_NAME_SIZE_MAX = 512
VALUE_NAME_SIZE_MAX = 2 * 16383
"""Windows' own limits; sizes are those in UTF-16."""

PATH_TAIL_SIZE = 64
CHECKSUM_OFFSET = 0x1FC


@record(size=0x200)
class BaseBlock:
    """The part of the first block that means something while no Windows has it open."""

    signature: bytes = raw(0x00, 4, "Signature", default=b"regf")
    primary_sequence: int = u32(0x04, "Primary sequence number")
    secondary_sequence: int = u32(0x08, "Secondary sequence number")
    last_written: int = u64(0x0C, "Last written timestamp")
    major_version: int = u32(0x14, "Major version", default=1)
    minor_version: int = u32(0x18, "Minor version")
    file_type: int = u32(0x1C, "File type", default=0)
    file_format: int = u32(0x20, "File format", default=1)
    root_offset: int = u32(0x24, "Root cell offset")
    bins_size: int = u32(0x28, "Hive bins data size")
    cluster_factor: int = u32(0x2C, "Clustering factor", default=1)
    path_tail: bytes = raw(0x30, PATH_TAIL_SIZE, "File name")
    extra: bytes = raw(0x70, 64, "RmId to Last reorganized timestamp")
    checksum: int = u32(CHECKSUM_OFFSET, "Checksum", default=0)


def compute_checksum(block: bytes) -> int:
    """The XOR of the first 127 words, where 0 and ffffffff are written as their neighbours."""
    checksum = 0
    for (word,) in struct.iter_unpack("<I", block[:CHECKSUM_OFFSET]):
        checksum ^= word
    if checksum == 0xFFFFFFFF:
        return 0xFFFFFFFE
    return checksum or 1


def find_security_fault(descriptor: bytes) -> str | None:
    """What is wrong with a self-relative security descriptor; None if its parts fit.

    Reference: MS-DTYP 2.4.6 SECURITY_DESCRIPTOR, 2.4.2 SID, 2.4.5 ACL.
    """
    if len(descriptor) < 20:
        return f"expected 20 bytes or more, got {len(descriptor)}"
    if len(descriptor) > 0xFFFF:
        return f"expected at most 65535 bytes, got {len(descriptor)}"
    revision, control, owner, group, sacl, dacl = struct.unpack_from("<BxHIIII", descriptor)
    if revision != 1 or not control & 0x8000:
        return f"expected revision 1 and self-relative, got {revision} and {control:#06x}"
    for name, offset in (("owner", owner), ("group", group)):
        if offset and not _has_sid(descriptor, offset):
            return f"the {name} at {offset:#x} does not fit its {len(descriptor)} bytes"
    for name, offset in (("SACL", sacl), ("DACL", dacl)):
        if offset and not _has_acl(descriptor, offset):
            return f"the {name} at {offset:#x} does not fit its {len(descriptor)} bytes"
    return None


def _has_sid(descriptor: bytes, offset: int) -> bool:
    if not 20 <= offset <= len(descriptor) - 8 or descriptor[offset] != 1:
        return False
    return offset + 8 + 4 * descriptor[offset + 1] <= len(descriptor)


def _has_acl(descriptor: bytes, offset: int) -> bool:
    if not 20 <= offset <= len(descriptor) - 8:
        return False
    size: int = struct.unpack_from("<H", descriptor, offset + 2)[0]
    return 8 <= size <= len(descriptor) - offset
