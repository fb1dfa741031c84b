# SPDX-License-Identifier: GPL-3.0-or-later
"""A WIM as libwim handles it: open or new, changed in memory, written when asked.

Changes live in memory until :meth:`Wim.write` (another file) or :meth:`Wim.overwrite` (the same
one, after which the object is closed). Images are numbered from 1; :data:`ALL_IMAGES` is all.
Paths in images start at ``/``, which may be left out, and are case-sensitive.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Final

from mediamaker.errors import UsageError
from mediamaker.wimlib.call import Calls
from mediamaker.wimlib.events import OnWimEvent
from mediamaker.wimlib.flags import (
    ALL_IMAGES,
    VERBOSE_ADD,
    AddFlags,
    CompressionName,
    ExportFlags,
    ExtractFlags,
    InfoChange,
    RefFlags,
    WriteFlags,
)
from mediamaker.wimlib.handle import WimHandle, compression_number
from mediamaker.wimlib.library import load_library
from mediamaker.wimlib.partial import partial_file
from mediamaker.wimlib.text import CStrings, PathLike, encode_optional, encode_path, encode_text
from mediamaker.wimlib.update import CCommands, UpdateCommand

_SEND_PROGRESS: Final = 1


class Wim(WimHandle):
    """A WIM that can be changed, written, extracted and checked.

    One call at a time: a second thread waits for the first. Events come in the thread that made
    the call; what ``on_event`` raises, and Ctrl-C, end the call and are raised again.
    """

    # ---- changes, in memory

    def set_property(self, image: int, path: str, value: str | None) -> None:
        """Set or (None) remove a text of an image's part of the XML."""
        name = encode_text(path)
        text = encode_optional(self._ffi, value)
        self._direct(
            f"setting {path} of image {image}",
            lambda wim: self._c.wimlib_set_image_property(wim, image, name, text),
        )

    def set_boot_index(self, image: int) -> None:
        """The image that boots; 0 for none."""
        c = self._ffi.new("mm_wim_info *")
        c.boot_index = image
        self._direct(
            f"making image {image} the one that boots",
            lambda wim: self._c.wimlib_set_wim_info(wim, c, InfoChange.BOOT_INDEX),
        )

    def set_output_compression(self, compression: CompressionName) -> None:
        """What is not in a solid resource is compressed like this."""
        number = compression_number(compression)
        self._direct(
            f"choosing {compression}",
            lambda wim: self._c.wimlib_set_output_compression_type(wim, number),
        )

    def set_output_chunk_size(self, size: int) -> None:
        """In chunks of this size; 0 for the default (32 KiB for LZX and XPRESS)."""
        _check_u32(size, "chunk size")
        self._direct(
            f"choosing chunks of {size} bytes",
            lambda wim: self._c.wimlib_set_output_chunk_size(wim, size),
        )

    def set_output_pack_compression(self, compression: CompressionName) -> None:
        """What is in solid resources is compressed like this."""
        number = compression_number(compression)
        self._direct(
            f"choosing {compression} for solid resources",
            lambda wim: self._c.wimlib_set_output_pack_compression_type(wim, number),
        )

    def set_output_pack_chunk_size(self, size: int) -> None:
        """Solid resources have chunks of this size; 0 for the default (64 MiB for LZMS)."""
        _check_u32(size, "chunk size")
        self._direct(
            f"choosing solid chunks of {size} bytes",
            lambda wim: self._c.wimlib_set_output_pack_chunk_size(wim, size),
        )

    def add_image(
        self,
        source: PathLike,
        name: str | None,
        *,
        config: PathLike | None = None,
        flags: AddFlags = AddFlags.NONE,
    ) -> int:
        """Capture a tree, or with NTFS an unmounted volume, as a new image; its number.

        Contents are read when the WIM is written, so the source must stay as it is until then.
        """
        where = encode_path(source)
        text = encode_optional(self._ffi, name)
        config_path = self._ffi.NULL if config is None else encode_path(config)
        self._run(
            f"capturing {source}",
            lambda wim: self._c.wimlib_add_image(
                wim, where, text, config_path, flags | VERBOSE_ADD
            ),
        )
        return self.image_count

    def add_empty_image(self, name: str | None) -> int:
        """A new image that has only its root directory; its number."""
        text = encode_optional(self._ffi, name)
        out = self._ffi.new("int *")
        self._direct("adding an image", lambda wim: self._c.wimlib_add_empty_image(wim, text, out))
        return int(out[0])

    def delete_image(self, image: int) -> None:
        """Forget an image; what only it used is left out when the WIM is rebuilt."""
        self._direct(f"deleting image {image}", lambda wim: self._c.wimlib_delete_image(wim, image))

    def export_image(
        self,
        number: int,
        dest: Wim,
        *,
        name: str | None = None,
        description: str | None = None,
        flags: ExportFlags = ExportFlags.NONE,
    ) -> None:
        """Append an image, or all, to ``dest``; None keeps its name and description.

        ``dest`` reads the contents from here when it is written; this object may be closed.
        """
        dest_handle = dest._open_handle
        self._calls.relate(dest._calls)
        texts = [encode_optional(self._ffi, text) for text in (name, description)]
        self._run(
            f"exporting {_image_text(number)} to {dest.name}",
            lambda wim: self._c.wimlib_export_image(wim, number, dest_handle(), *texts, flags),
        )

    def update_image(self, number: int, commands: Sequence[UpdateCommand]) -> None:
        """Do the commands in order; if one fails, none was done."""
        c = CCommands(self._ffi, commands)
        self._run(
            f"updating image {number}",
            lambda wim: self._c.wimlib_update_image(wim, number, c.array, c.count, _SEND_PROGRESS),
        )

    def reference_template_image(self, number: int, template: Wim, template_number: int) -> None:
        """Take for unchanged, unread, what in a newly captured image looks as in ``template``."""
        other = template._open_handle
        self._calls.relate(template._calls)
        self._run(
            f"comparing image {number} with image {template_number} of {template.name}",
            lambda wim: self._c.wimlib_reference_template_image(
                wim, number, other(), template_number, 0
            ),
        )

    def reference_files(
        self, paths: Sequence[PathLike], *, is_glob: bool = True, must_match: bool = True
    ) -> None:
        """Let contents come from other files too: parts of a split WIM, the base of a delta."""
        c = CStrings(self._ffi, [encode_path(path) for path in paths])
        flags = (RefFlags.GLOB_ENABLE if is_glob else RefFlags(0)) | (
            RefFlags.GLOB_ERR_ON_NOMATCH if must_match and is_glob else RefFlags(0)
        )
        self._run(
            f"opening {', '.join(str(path) for path in paths)} beside it",
            lambda wim: self._c.wimlib_reference_resource_files(wim, c.array, c.count, flags, 0),
            writes=False,
        )

    # ---- written, extracted, checked

    def write(
        self,
        path: PathLike,
        image: int = ALL_IMAGES,
        *,
        flags: WriteFlags = WriteFlags.NONE,
        threads: int = 0,
        replace: bool = False,
    ) -> None:
        """Write a new WIM file, which has its name when it is complete and flushed.

        ``threads`` are those that compress; 0 is as many as there are processors.

        Raises:
            TargetRefusedError: the name is taken, and ``replace`` is not set.
        """
        self._library.check_can_write()
        _check_u32(threads, "number of threads")
        with partial_file(Path(path), replace=replace) as partial:
            out = encode_path(partial)
            self._run(
                f"writing {path}",
                lambda wim: self._c.wimlib_write(
                    wim, out, image, flags | WriteFlags.FSYNC, threads
                ),
                writes=True,
            )

    def overwrite(self, *, flags: WriteFlags = WriteFlags.NONE, threads: int = 0) -> None:
        """Bring the changes into the file that was opened; the object is closed by it.

        libwim appends where it can, and makes the file anew (beside it) where it must. When it
        fails or is ended early, the file is as it was and the object can still be used.
        """
        self._library.check_can_write()
        _check_u32(threads, "number of threads")
        self._run(
            "writing it",
            lambda wim: self._c.wimlib_overwrite(wim, flags | WriteFlags.FSYNC, threads),
            writes=True,
        )
        self.close()

    def extract_image(
        self, number: int, target: PathLike, flags: ExtractFlags = ExtractFlags.NONE
    ) -> None:
        """Extract an image to a directory, or with NTFS to a volume (a device or plain file)."""
        where = encode_path(target)
        self._run(
            f"extracting {_image_text(number)} to {target}",
            lambda wim: self._c.wimlib_extract_image(wim, number, where, flags),
            writes=True,
        )

    def extract_paths(
        self,
        number: int,
        directory: PathLike,
        paths: Sequence[str],
        flags: ExtractFlags = ExtractFlags.NONE,
    ) -> None:
        """Extract files and trees of an image into a directory."""
        where = encode_path(directory)
        c = CStrings(self._ffi, [encode_text(path) for path in paths])
        self._run(
            f"extracting from image {number} to {directory}",
            lambda wim: self._c.wimlib_extract_paths(wim, number, where, c.array, c.count, flags),
            writes=True,
        )

    def verify(self) -> None:
        """Read everything and compare it with its SHA-1."""
        self._run("verifying it", lambda wim: self._c.wimlib_verify_wim(wim, 0))

    def split(
        self, first_path: PathLike, part_size: int, *, flags: WriteFlags = WriteFlags.NONE
    ) -> None:
        """Write ``first.swm``, ``first2.swm``... under their names at once, replacing files.

        ``part_size`` is exceeded by up to the size of the tables; ``plan/split.py`` is exact.
        """
        self._library.check_can_write()
        out = encode_path(first_path)
        self._run(
            f"splitting it into {first_path}",
            lambda wim: self._c.wimlib_split(wim, out, part_size, flags | WriteFlags.FSYNC),
            writes=True,
        )


def join(
    paths: Sequence[PathLike],
    out: PathLike,
    *,
    flags: WriteFlags = WriteFlags.NONE,
    on_event: OnWimEvent | None = None,
    replace: bool = False,
) -> None:
    """Make one WIM file of the parts of a split one, given in any order.

    Raises:
        TargetRefusedError: the name is taken, and ``replace`` is not set; WimlibError.
    """
    library = load_library()
    library.check_can_write()
    c = CStrings(library.ffi, [encode_path(path) for path in paths])
    with partial_file(Path(out), replace=replace) as partial:
        name = encode_path(partial)
        calls = Calls(library, on_event)
        calls.run(
            f"{out}: joining {len(paths)} parts",
            lambda: int(
                library.c.wimlib_join_with_progress(
                    c.array,
                    c.count,
                    name,
                    0,
                    flags | WriteFlags.FSYNC,
                    calls.function,
                    calls.context,
                )
            ),
            writes=True,
        )


def _check_u32(value: int, what: str) -> None:
    if not 0 <= value < 1 << 32:
        raise UsageError(f"{value} is not a {what}")


def _image_text(image: int) -> str:
    return "all images" if image == ALL_IMAGES else f"image {image}"
