# SPDX-License-Identifier: GPL-3.0-or-later
"""A handle of libwim's on a WIM: how it is opened, closed and asked what it holds."""

from __future__ import annotations

from collections.abc import Callable
from types import TracebackType
from typing import Any, Self

from mediamaker.errors import UsageError
from mediamaker.wimlib.call import Calls
from mediamaker.wimlib.events import OnWimEvent
from mediamaker.wimlib.flags import COMPRESSION_NAMES, CompressionName, IterateFlags, OpenFlags
from mediamaker.wimlib.info import WimInfo, parse_info
from mediamaker.wimlib.library import Library, load_library
from mediamaker.wimlib.text import PathLike, encode_path, encode_text
from mediamaker.wimlib.tree import DirEntry, parse_entry


class WimHandle:
    """Made by :meth:`open` and :meth:`create`; a context manager.

    One call at a time: a second thread waits for the first. Events come in the thread that made
    the call; what ``on_event`` raises, and Ctrl-C, end the call and are raised again.
    """

    def __init__(self, library: Library, calls: Calls, handle: Any, name: str) -> None:
        self._library = library
        self._calls = calls
        self._handle: Any = handle
        self._c = library.c
        self._ffi = library.ffi
        self.name = name

    # ---- made and unmade

    @classmethod
    def open(
        cls,
        path: PathLike,
        *,
        writable: bool = False,
        check_integrity: bool = False,
        error_if_split: bool = False,
        on_event: OnWimEvent | None = None,
    ) -> Self:
        """Open a WIM file; ``writable`` asks now for what :meth:`overwrite` will need.

        Raises:
            ToolError: libwim is missing or must not write; WimlibError: it can't be opened.
        """
        library = load_library()
        if writable:
            library.check_can_write()
        calls = Calls(library, on_event)
        out = library.ffi.new("void **")
        flags = (
            (OpenFlags.WRITE_ACCESS if writable else OpenFlags.NONE)
            | (OpenFlags.CHECK_INTEGRITY if check_integrity else OpenFlags.NONE)
            | (OpenFlags.ERROR_IF_SPLIT if error_if_split else OpenFlags.NONE)
        )
        name = encode_path(path)

        def function() -> int:
            return int(
                library.c.wimlib_open_wim_with_progress(
                    name, flags, out, calls.function, calls.context
                )
            )

        try:
            calls.run(f"{path}: opening it", function, writes=False)
        except BaseException:
            if out[0]:  # Ctrl-C came too late to stop it
                library.c.wimlib_free(out[0])
            raise
        return cls(library, calls, out[0], str(path))

    @classmethod
    def create(
        cls, compression: CompressionName = "LZX", *, on_event: OnWimEvent | None = None
    ) -> Self:
        """A new WIM without images, in memory.

        Raises:
            ToolError: libwim is missing or must not write.
        """
        library = load_library()
        library.check_can_write()
        calls = Calls(library, on_event)
        out = library.ffi.new("void **")
        number = compression_number(compression)
        calls.direct("a new WIM", lambda: library.c.wimlib_create_new_wim(number, out))
        library.c.wimlib_register_progress_function(out[0], calls.function, calls.context)
        return cls(library, calls, out[0], "the new WIM")

    def close(self) -> None:
        """Give back what it holds. Changes that were not written are lost. Twice is fine."""
        self._calls.finish(self._free)

    def _free(self) -> None:
        handle, self._handle = self._handle, None
        if handle is not None:
            # WIMs that took images from this one may keep the rest of it alive.
            self._c.wimlib_register_progress_function(handle, self._ffi.NULL, self._ffi.NULL)
            self._c.wimlib_free(handle)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self.close()

    def abort(self) -> None:
        """End the call that another thread is in; it raises WimlibAbortedError."""
        self._calls.abort()

    # ---- what it holds

    @property
    def info(self) -> WimInfo:
        """What its header says."""
        c = self._ffi.new("mm_wim_info *")
        self._direct("reading its header", lambda wim: self._c.wimlib_get_wim_info(wim, c))
        return parse_info(self._ffi, c)

    @property
    def image_count(self) -> int:
        """How many images it has now."""
        return self.info.image_count

    def xml(self) -> bytes:
        """The XML document as it is in the file: UTF-16LE with a byte order mark."""
        out, size = self._ffi.new("void **"), self._ffi.new("size_t *")
        self._direct("reading its XML", lambda wim: self._c.wimlib_get_xml_data(wim, out, size))
        try:
            return bytes(self._ffi.buffer(out[0], size[0])[:])
        finally:
            self._library.libc.free(out[0])

    def property(self, image: int, path: str) -> str | None:
        """A text of an image's part of the XML, such as ``WINDOWS/VERSION/BUILD``; or None."""
        name = encode_text(path)
        found: list[str | None] = [None]

        def function(wim: Any) -> int:
            pointer = self._c.wimlib_get_image_property(wim, image, name)
            if pointer:
                found[0] = self._ffi.string(pointer).decode("utf-8", "replace")
            return 0

        self._direct(f"reading {path} of image {image}", function)
        return found[0]

    def find_image(self, name_or_number: str) -> int | None:
        """The number of an image; :data:`ALL_IMAGES` for ``all``; None if there is none such."""
        text = encode_text(name_or_number)
        found = [0]

        def function(wim: Any) -> int:
            found[0] = self._c.wimlib_resolve_image(wim, text)
            return 0

        self._direct("finding an image", function)
        return found[0] or None

    def iterate_dir_tree(
        self, image: int, path: str = "/", flags: IterateFlags = IterateFlags.RECURSIVE
    ) -> tuple[DirEntry, ...]:
        """The entries at and under ``path``, parents first."""
        entries: list[DirEntry] = []
        raised: list[BaseException] = []

        def hear(entry: Any, _context: Any) -> int:
            try:
                entries.append(parse_entry(self._ffi, entry))
            except BaseException as error:  # noqa: BLE001  raised again below
                raised.append(error)
                return -1
            return 0

        callback = self._ffi.callback("int(const mm_dir_entry *, void *)", hear, error=-1)
        at = encode_text(path)

        def function(wim: Any) -> int:
            code = self._c.wimlib_iterate_dir_tree(wim, image, at, flags, callback, self._ffi.NULL)
            if raised:
                raise raised[0]
            return int(code)

        self._direct(f"listing {path} of image {image}", function)
        return tuple(entries)

    def check_resources(self, image: int) -> None:
        """See that the contents of all files of an image are in the files that are open.

        Raises:
            WimlibSourceError: something is missing, such as a part of a split WIM.
        """
        callback = self._ffi.callback(
            "int(const mm_dir_entry *, void *)", lambda _entry, _context: 0, error=-1
        )
        flags = IterateFlags.RECURSIVE | IterateFlags.RESOURCES_NEEDED
        self._direct(
            f"looking for the contents of image {image}",
            lambda wim: int(
                self._c.wimlib_iterate_dir_tree(wim, image, b"/", flags, callback, self._ffi.NULL)
            ),
        )

    # The handle is asked for where its lock is held: another thread may have closed it meanwhile.

    def _direct(self, what: str, function: Callable[[Any], int]) -> None:
        self._calls.direct(f"{self.name}: {what}", lambda: function(self._open_handle()))

    def _run(self, what: str, function: Callable[[Any], int], *, writes: bool = False) -> None:
        self._calls.run(
            f"{self.name}: {what}", lambda: int(function(self._open_handle())), writes=writes
        )

    def _open_handle(self) -> Any:
        if self._handle is None:
            raise UsageError(f"{self.name}: it is closed already")
        return self._handle


def compression_number(compression: CompressionName) -> int:
    """libwim's number for it."""
    if compression not in COMPRESSION_NAMES:
        raise UsageError(f"{compression!r} is not one of {', '.join(COMPRESSION_NAMES)}")
    return COMPRESSION_NAMES.index(compression)
