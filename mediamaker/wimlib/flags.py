# SPDX-License-Identifier: GPL-3.0-or-later
"""The flags and numbers that libwim's functions take, for those who call :class:`Wim`.

Reference: the interface of libwim.so.15. What only works on Windows, and what the binding sets
by itself (the flags of opening), is left out.
"""

from __future__ import annotations

from enum import IntEnum, IntFlag
from typing import Final, Literal

ALL_IMAGES: Final = -1

CompressionName = Literal["none", "XPRESS", "LZX", "LZMS"]
COMPRESSION_NAMES: Final[tuple[CompressionName, ...]] = ("none", "XPRESS", "LZX", "LZMS")
"""In the order of libwim's numbers."""


class WriteFlags(IntFlag):
    """How a WIM is written."""

    NONE = 0
    CHECK_INTEGRITY = 0x1
    NO_CHECK_INTEGRITY = 0x2
    PIPABLE = 0x4
    NOT_PIPABLE = 0x8
    RECOMPRESS = 0x10
    FSYNC = 0x20
    REBUILD = 0x40
    SOFT_DELETE = 0x80
    IGNORE_READONLY_FLAG = 0x100
    SKIP_EXTERNAL_WIMS = 0x200
    STREAMS_OK = 0x400
    RETAIN_GUID = 0x800
    SOLID = 0x1000
    NO_SOLID_SORT = 0x4000
    UNSAFE_COMPACT = 0x8000


class ExtractFlags(IntFlag):
    """How an image or paths of it are extracted."""

    NONE = 0
    NTFS = 0x1
    RECOVER_DATA = 0x2
    UNIX_DATA = 0x20
    NO_ACLS = 0x40
    STRICT_ACLS = 0x80
    RPFIX = 0x100
    NORPFIX = 0x200
    TO_STDOUT = 0x400
    REPLACE_INVALID_FILENAMES = 0x800
    ALL_CASE_CONFLICTS = 0x1000
    STRICT_TIMESTAMPS = 0x2000
    STRICT_SHORT_NAMES = 0x4000
    STRICT_SYMLINKS = 0x8000
    GLOB_PATHS = 0x40000
    STRICT_GLOB = 0x80000
    NO_ATTRIBUTES = 0x100000
    NO_PRESERVE_DIR_STRUCTURE = 0x200000


class AddFlags(IntFlag):
    """How a tree is captured. The binding adds what makes progress messages come."""

    NONE = 0
    NTFS = 0x1
    DEREFERENCE = 0x2
    BOOT = 0x8
    UNIX_DATA = 0x10
    NO_ACLS = 0x20
    STRICT_ACLS = 0x40
    RPFIX = 0x100
    NORPFIX = 0x200
    NO_UNSUPPORTED_EXCLUDE = 0x400
    WINCONFIG = 0x800
    NO_REPLACE = 0x2000


VERBOSE_ADD: Final = 0x4 | 0x80
"""A progress message for every file, also for those that are left out."""


class ExportFlags(IntFlag):
    """How images are copied from one WIM to another."""

    NONE = 0
    BOOT = 0x1
    NO_NAMES = 0x2
    NO_DESCRIPTIONS = 0x4
    GIFT = 0x8


class DeleteFlags(IntFlag):
    """How a path is deleted from an image."""

    NONE = 0
    FORCE = 0x1
    RECURSIVE = 0x2


class IterateFlags(IntFlag):
    """What is visited; without a flag it is the one path that was named."""

    NONE = 0
    RECURSIVE = 0x1
    CHILDREN = 0x2
    RESOURCES_NEEDED = 0x4


class OpenFlags(IntFlag):
    """How a WIM file is opened."""

    NONE = 0
    CHECK_INTEGRITY = 0x1
    ERROR_IF_SPLIT = 0x2
    WRITE_ACCESS = 0x4


class RefFlags(IntFlag):
    """How files are found that resources are taken from."""

    GLOB_ENABLE = 0x1
    GLOB_ERR_ON_NOMATCH = 0x2


class InfoChange(IntFlag):
    """What of a WIM's header is set."""

    READONLY_FLAG = 0x1
    GUID = 0x2
    BOOT_INDEX = 0x4
    RPFIX_FLAG = 0x8


class InfoBit(IntFlag):
    """What a WIM's header says of it, as libwim hands it out."""

    HAS_INTEGRITY_TABLE = 0x1
    OPENED_FROM_FILE = 0x2
    IS_READONLY = 0x4
    HAS_RPFIX = 0x8
    IS_MARKED_READONLY = 0x10
    SPANNED = 0x20
    WRITE_IN_PROGRESS = 0x40
    METADATA_ONLY = 0x80
    RESOURCE_ONLY = 0x100
    PIPABLE = 0x200


class UpdateOp(IntEnum):
    """What a command of an update does."""

    ADD = 0
    DELETE = 1
    RENAME = 2
