# SPDX-License-Identifier: GPL-3.0-or-later
"""Finds libwim, checks that it is one that we know, and sets what is global, once.

libwim keeps a few settings for the whole process (its error file, whether it prints); they may
only be set while nobody else calls it, so that happens here, under a lock, before anybody can.
"""

from __future__ import annotations

import functools
import os
import threading
from dataclasses import dataclass, field
from typing import Any, Final

import cffi

from mediamaker.errors import ToolError
from mediamaker.wimlib.cdef import DECLARATIONS, LIBC_DECLARATIONS, STRUCT_SIZES

SONAME: Final = "libwim.so.15"
PACKAGE_HINT: Final = "install the package libwim15 (Debian, Ubuntu) or wimlib (Fedora, Arch)"

Version = tuple[int, int, int]
OLDEST: Final[Version] = (1, 13, 0)
BAD_WRITERS: Final[tuple[Version, Version]] = ((1, 14, 0), (1, 14, 3))
"""From and to, both included: crashes on old processors, refuses image names that are not ASCII,
and crashes in writing the XML; 1.14.4 has the last of the repairs."""

_CASE_AS_ON_THIS_SYSTEM: Final = 0


def format_version(version: Version) -> str:
    """``1.13.6``."""
    return ".".join(str(number) for number in version)


def is_bad_writer(version: Version) -> bool:
    """True if this libwim must not write: see :data:`BAD_WRITERS`."""
    return BAD_WRITERS[0] <= version <= BAD_WRITERS[1]


class Messages:
    """libwim's own words about what went wrong, which it writes to a file in memory.

    The file is one for the process and its lines don't say which call they belong to. A call
    remembers where the file ended when it began; the text since then is its own unless another
    call ran beside it.
    """

    def __init__(self) -> None:
        self.fd = os.memfd_create("mediamaker-libwim-messages", os.MFD_CLOEXEC)
        self._lock = threading.Lock()
        self._call_count = 0

    @property
    def path(self) -> str:
        """Where libwim finds the file."""
        return f"/proc/self/fd/{self.fd}"

    def begin(self) -> int:
        """A call begins; the answer is for :meth:`end`."""
        with self._lock:
            if self._call_count == 0:
                os.ftruncate(self.fd, 0)
            self._call_count += 1
            return os.fstat(self.fd).st_size

    def end(self, start: int) -> tuple[str, ...]:
        """The call ended: the lines that were written since it began."""
        with self._lock:
            self._call_count -= 1
            data = os.pread(self.fd, max(0, os.fstat(self.fd).st_size - start), start)
        lines = (line.strip() for line in data.decode("utf-8", "replace").splitlines())
        return tuple(line for line in lines if line)


@dataclass(frozen=True, slots=True)
class Library:
    """libwim, loaded and initialised. ``ffi``, ``c`` and ``libc`` are cffi's, without types."""

    path: str
    version: Version
    ffi: Any
    c: Any
    libc: Any
    messages: Messages = field(default_factory=Messages)

    def error_string(self, code: int) -> str:
        """libwim's sentence for one of its codes."""
        text = self.ffi.string(self.c.wimlib_get_error_string(code))
        return str(text.decode("utf-8", "replace"))

    def check_can_write(self) -> None:
        """Nothing is written by a libwim that is known to do it badly.

        Raises:
            ToolError: it is one of those.
        """
        if is_bad_writer(self.version):
            raise ToolError(
                f"libwim {format_version(self.version)} ({self.path}) is known to crash or to "
                f"write bad WIM files: versions {format_version(BAD_WRITERS[0])} to "
                f"{format_version(BAD_WRITERS[1])} are only used for reading",
                hint="install libwim 1.14.4 or newer, or 1.13.6",
            )


_load_lock = threading.Lock()


def load_library() -> Library:
    """The one libwim of this process; loaded when first wanted.

    Raises:
        ToolError: it is not installed, too old, or not what we know.
    """
    with _load_lock:
        return _load_once()


@functools.cache
def _load_once() -> Library:
    library = open_library(SONAME)
    _check(library, library.c.wimlib_global_init(_CASE_AS_ON_THIS_SYSTEM), "initialise itself")
    path = library.messages.path.encode()
    _check(library, library.c.wimlib_set_error_file_by_name(path), "open its error file")
    _check(library, library.c.wimlib_set_print_errors(1), "keep its messages")
    return library


def open_library(path: str) -> Library:
    """The library at ``path``, checked but not yet initialised; :func:`load_library` does both.

    Raises:
        ToolError: not there, not libwim, or a version that we don't know.
    """
    ffi = cffi.FFI()
    ffi.cdef(DECLARATIONS)
    for name, size in STRUCT_SIZES.items():
        if ffi.sizeof(name) != size:
            raise ToolError(
                f"this system's {name} measures {ffi.sizeof(name)} bytes, expected {size}: "
                "libwim can't be used here",
                hint="use a 64-bit system",
            )
    try:
        c = ffi.dlopen(path)
        number = int(c.wimlib_get_version())
    except (OSError, AttributeError) as error:
        raise ToolError(f"libwim can't be loaded: {error}", hint=PACKAGE_HINT) from error
    version = (number >> 20, number >> 10 & 0x3FF, number & 0x3FF)
    if version < OLDEST:
        raise ToolError(
            f"libwim {format_version(version)} ({path}) is too old, "
            f"need {format_version(OLDEST)} or newer",
            hint=PACKAGE_HINT,
        )
    libc_ffi = cffi.FFI()
    libc_ffi.cdef(LIBC_DECLARATIONS)
    return Library(path=path, version=version, ffi=ffi, c=c, libc=libc_ffi.dlopen(None))


def version() -> Version:
    """The version of the libwim that :func:`load_library` loads."""
    return load_library().version


def _check(library: Library, code: int, what: str) -> None:
    if code:
        raise ToolError(f"libwim can't {what}: {library.error_string(code)} (code {code})")
