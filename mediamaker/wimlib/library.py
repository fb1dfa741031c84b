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

from mediamaker.errors import ToolError, UsageError
from mediamaker.units import KIB
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


_SAID_SIZE_MAX: Final = 256 * KIB
"""Of what a call said; a WIM with a million bad files must not fill the memory."""


@dataclass(frozen=True, slots=True)
class Said:
    """What libwim said while a call ran. ``is_shared`` if another call ran beside it."""

    errors: tuple[str, ...]
    warnings: tuple[str, ...]
    is_shared: bool


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
        self._was_shared = False

    @property
    def is_idle(self) -> bool:
        """True while no call runs."""
        return self._call_count == 0

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
            self._was_shared = self._was_shared or self._call_count > 1
            return os.fstat(self.fd).st_size

    def end(self, start: int) -> Said:
        """The call ended: what was said since it began."""
        with self._lock:
            self._call_count -= 1
            is_shared = self._was_shared
            if self._call_count == 0:
                self._was_shared = False
            size = min(_SAID_SIZE_MAX, max(0, os.fstat(self.fd).st_size - start))
            data = os.pread(self.fd, size, start)
        errors: list[str] = []
        warnings: list[str] = []
        current = errors
        for line in data.decode("utf-8", "replace").splitlines():
            words = " ".join(line.split())
            if words.startswith(("[ERROR]", "[WARNING]")):
                kind, _, words = words.partition(" ")
                current = errors if kind == "[ERROR]" else warnings
                current.append(words.strip())
            elif words and current:  # a message goes on
                current[-1] += " " + words
            elif words:
                current.append(words)
        return Said(tuple(errors), tuple(warnings), is_shared)


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
    check_version(version, path)
    libc_ffi = cffi.FFI()
    libc_ffi.cdef(LIBC_DECLARATIONS)
    return Library(path=path, version=version, ffi=ffi, c=c, libc=libc_ffi.dlopen(None))


def check_version(version: Version, path: str) -> None:
    """Older ones were never tried.

    Raises:
        ToolError: it is older.
    """
    if version < OLDEST:
        raise ToolError(
            f"libwim {format_version(version)} ({path}) is too old, "
            f"need {format_version(OLDEST)} or newer",
            hint=PACKAGE_HINT,
        )


def set_default_level(compression_number: int, level: int) -> None:
    """The level for what is compressed from now on: 20 fast, 50, 100 thorough; 0 is libwim's own.

    It is one for the process, so it may only be set while no call runs; codes are libwim's.

    Raises:
        UsageError: a call runs, or there is no such level.
    """
    library = load_library()
    with _load_lock:
        if not library.messages.is_idle:
            raise UsageError("the compression level can't be changed while a WIM is in work")
        code = library.c.wimlib_set_default_compression_level(compression_number, level)
    if code:
        raise UsageError(f"{level} is not a compression level", hint="use 20, 50 or 100")


def version() -> Version:
    """The version of the libwim that :func:`load_library` loads."""
    return load_library().version


def _check(library: Library, code: int, what: str) -> None:
    if code:
        raise ToolError(f"libwim can't {what}: {library.error_string(code)} (code {code})")
