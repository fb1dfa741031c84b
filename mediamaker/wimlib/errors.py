# SPDX-License-Identifier: GPL-3.0-or-later
"""libwim's error codes as typed errors, with its own words about what went wrong.

::

    WimlibError                 code, code_name, detail; exit code 1
    |-- WimlibUsageError        and UsageError: no such image, a name that is taken, ...
    |-- WimlibSourceError       and SourceError: can't be read, not there, encrypted, parts missing
    |-- WimlibFormatError       and FormatError: damaged, or not a WIM
    `-- WimlibTargetError       and TargetIOError: can't be written
    WimlibAbortedError          a RunInterruptedError: somebody called ``abort``

Reference: the codes of libwim.so.15 (1.13.6; the same in 1.14.5).
"""

from __future__ import annotations

from enum import IntEnum
from typing import Final

from mediamaker.errors import (
    FormatError,
    MediaError,
    RunInterruptedError,
    SourceError,
    TargetIOError,
    UsageError,
)


class Code(IntEnum):
    """What libwim's functions return; the gaps are codes that it no longer uses."""

    SUCCESS = 0
    ALREADY_LOCKED = 1
    DECOMPRESSION = 2
    FUSE = 6
    GLOB_HAD_NO_MATCHES = 8
    IMAGE_COUNT = 10
    IMAGE_NAME_COLLISION = 11
    INSUFFICIENT_PRIVILEGES = 12
    INTEGRITY = 13
    INVALID_CAPTURE_CONFIG = 14
    INVALID_CHUNK_SIZE = 15
    INVALID_COMPRESSION_TYPE = 16
    INVALID_HEADER = 17
    INVALID_IMAGE = 18
    INVALID_INTEGRITY_TABLE = 19
    INVALID_LOOKUP_TABLE_ENTRY = 20
    INVALID_METADATA_RESOURCE = 21
    INVALID_OVERLAY = 23
    INVALID_PARAM = 24
    INVALID_PART_NUMBER = 25
    INVALID_PIPABLE_WIM = 26
    INVALID_REPARSE_DATA = 27
    INVALID_RESOURCE_HASH = 28
    INVALID_UTF16_STRING = 30
    INVALID_UTF8_STRING = 31
    IS_DIRECTORY = 32
    IS_SPLIT_WIM = 33
    LINK = 35
    METADATA_NOT_FOUND = 36
    MKDIR = 37
    MQUEUE = 38
    NOMEM = 39
    NOTDIR = 40
    NOTEMPTY = 41
    NOT_A_REGULAR_FILE = 42
    NOT_A_WIM_FILE = 43
    NOT_PIPABLE = 44
    NO_FILENAME = 45
    NTFS_3G = 46
    OPEN = 47
    OPENDIR = 48
    PATH_DOES_NOT_EXIST = 49
    READ = 50
    READLINK = 51
    RENAME = 52
    REPARSE_POINT_FIXUP_FAILED = 54
    RESOURCE_NOT_FOUND = 55
    RESOURCE_ORDER = 56
    SET_ATTRIBUTES = 57
    SET_REPARSE_DATA = 58
    SET_SECURITY = 59
    SET_SHORT_NAME = 60
    SET_TIMESTAMPS = 61
    SPLIT_INVALID = 62
    STAT = 63
    UNEXPECTED_END_OF_FILE = 65
    UNICODE_STRING_NOT_REPRESENTABLE = 66
    UNKNOWN_VERSION = 67
    UNSUPPORTED = 68
    UNSUPPORTED_FILE = 69
    WIM_IS_READONLY = 71
    WRITE = 72
    XML = 73
    WIM_IS_ENCRYPTED = 74
    WIMBOOT = 75
    ABORTED_BY_PROGRESS = 76
    UNKNOWN_PROGRESS_STATUS = 77
    MKNOD = 78
    MOUNTED_IMAGE_IS_BUSY = 79
    NOT_A_MOUNTPOINT = 80
    NOT_PERMITTED_TO_UNMOUNT = 81
    FVE_LOCKED_VOLUME = 82
    UNABLE_TO_READ_CAPTURE_CONFIG = 83
    WIM_IS_INCOMPLETE = 84
    COMPACTION_NOT_POSSIBLE = 85
    IMAGE_HAS_MULTIPLE_REFERENCES = 86
    DUPLICATE_EXPORTED_IMAGE = 87
    CONCURRENT_MODIFICATION_DETECTED = 88
    SNAPSHOT_FAILURE = 89
    INVALID_XATTR = 90
    SET_XATTR = 91


DETAIL_COUNT_MAX: Final = 5
"""Of libwim's own messages in one of ours; ``detail`` has all."""


class WimlibError(MediaError):
    """libwim refused or failed. ``detail`` is what it said beyond its code, one by one."""

    def __init__(
        self, message: str, *, code: int, detail: tuple[str, ...] = (), hint: str | None = None
    ) -> None:
        super().__init__(message, hint=hint)
        self.code = code
        self.detail = detail

    @property
    def code_name(self) -> str:
        """``RESOURCE_NOT_FOUND``, or ``CODE_99`` for a code that we don't know."""
        try:
            return Code(self.code).name
        except ValueError:
            return f"CODE_{self.code}"


class WimlibUsageError(WimlibError, UsageError):
    """libwim was asked for what this WIM or this system can't do."""


class WimlibSourceError(WimlibError, SourceError):
    """Something that is needed can't be read or is not there."""


class WimlibFormatError(WimlibError, FormatError):
    """A WIM, or what it holds, is damaged or not what it claims to be."""


class WimlibTargetError(WimlibError, TargetIOError):
    """What libwim writes to failed."""


class WimlibAbortedError(RunInterruptedError):
    """The call ended early since :meth:`Wim.abort` was called."""


_USAGE: Final = {
    Code.GLOB_HAD_NO_MATCHES,
    Code.IMAGE_COUNT,
    Code.IMAGE_NAME_COLLISION,
    Code.INVALID_CAPTURE_CONFIG,
    Code.INVALID_CHUNK_SIZE,
    Code.INVALID_COMPRESSION_TYPE,
    Code.INVALID_IMAGE,
    Code.INVALID_OVERLAY,
    Code.INVALID_PARAM,
    Code.IS_DIRECTORY,
    Code.IS_SPLIT_WIM,
    Code.NOTDIR,
    Code.NOTEMPTY,
    Code.NOT_A_REGULAR_FILE,
    Code.NOT_PIPABLE,
    Code.NO_FILENAME,
    Code.PATH_DOES_NOT_EXIST,
    Code.UNABLE_TO_READ_CAPTURE_CONFIG,
    Code.UNSUPPORTED,
    Code.UNSUPPORTED_FILE,
    Code.WIM_IS_READONLY,
    Code.COMPACTION_NOT_POSSIBLE,
    Code.IMAGE_HAS_MULTIPLE_REFERENCES,
    Code.DUPLICATE_EXPORTED_IMAGE,
}
_SOURCE: Final = {
    Code.METADATA_NOT_FOUND,
    Code.OPENDIR,
    Code.READ,
    Code.READLINK,
    Code.RESOURCE_NOT_FOUND,
    Code.SPLIT_INVALID,
    Code.STAT,
    Code.WIM_IS_ENCRYPTED,
    Code.WIM_IS_INCOMPLETE,
    Code.ALREADY_LOCKED,
    Code.CONCURRENT_MODIFICATION_DETECTED,
    Code.FVE_LOCKED_VOLUME,
    Code.SNAPSHOT_FAILURE,
}
_FORMAT: Final = {
    Code.DECOMPRESSION,
    Code.INTEGRITY,
    Code.INVALID_HEADER,
    Code.INVALID_INTEGRITY_TABLE,
    Code.INVALID_LOOKUP_TABLE_ENTRY,
    Code.INVALID_METADATA_RESOURCE,
    Code.INVALID_PART_NUMBER,
    Code.INVALID_PIPABLE_WIM,
    Code.INVALID_REPARSE_DATA,
    Code.INVALID_RESOURCE_HASH,
    Code.INVALID_UTF16_STRING,
    Code.INVALID_UTF8_STRING,
    Code.INVALID_XATTR,
    Code.NOT_A_WIM_FILE,
    Code.RESOURCE_ORDER,
    Code.UNEXPECTED_END_OF_FILE,
    Code.UNKNOWN_VERSION,
    Code.XML,
}
_TARGET: Final = {
    Code.LINK,
    Code.MKDIR,
    Code.MKNOD,
    Code.RENAME,
    Code.REPARSE_POINT_FIXUP_FAILED,
    Code.SET_ATTRIBUTES,
    Code.SET_REPARSE_DATA,
    Code.SET_SECURITY,
    Code.SET_SHORT_NAME,
    Code.SET_TIMESTAMPS,
    Code.SET_XATTR,
    Code.WRITE,
}
_EITHER: Final = {Code.OPEN, Code.NTFS_3G}
"""Of the source in a call that reads, of the target in a call that writes."""

_HINTS: Final[dict[int, str]] = {
    Code.RESOURCE_NOT_FOUND: "name the other parts of the split WIM, or the WIM that this one "
    "was made as a difference from",
    Code.METADATA_NOT_FOUND: "use the first part of the split WIM",
    Code.IS_SPLIT_WIM: "join the parts first: `mediamaker wim join`",
    Code.NOMEM: "use fewer threads, or a smaller solid chunk size",
    Code.INVALID_UTF8_STRING: "rename it: a WIM holds Unicode names only",
    Code.WIM_IS_ENCRYPTED: "an encrypted ESD must be decrypted first",
}


def make_error(
    what: str, code: int, sentence: str, details: tuple[str, ...], *, writes: bool, is_shared: bool
) -> WimlibError:
    """The error for ``code``.

    ``what`` says who and doing what (``install.wim: reading image 2``), ``sentence`` is libwim's
    for the code, ``details`` what it said beside; ``is_shared`` if another call may have said it.
    """
    message = f"{what}: {sentence.rstrip('.')}"
    if details:
        said = "; ".join(detail.rstrip(".") for detail in details[:DETAIL_COUNT_MAX])
        more = len(details) - DETAIL_COUNT_MAX
        said += f"; and {more} more" if more > 0 else ""
        message += f" ({'of this or another call: ' if is_shared else ''}{said})"
    if code in _USAGE:
        kind: type[WimlibError] = WimlibUsageError
    elif code in _SOURCE or (code in _EITHER and not writes):
        kind = WimlibSourceError
    elif code in _FORMAT:
        kind = WimlibFormatError
    elif code in _TARGET or code in _EITHER:
        kind = WimlibTargetError
    else:
        kind = WimlibError
    return kind(message, code=code, detail=details, hint=_HINTS.get(code))
