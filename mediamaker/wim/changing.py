# SPDX-License-Identifier: GPL-3.0-or-later
"""Changes a WIM file so that it is either as it was or as it shall be, never in between.

libwim can change a file in place, but a power cut then finds it without its XML or its tables. So
the change is made beside it: in a clone that shares its blocks (XFS, btrfs: at once), or else in
a new file, for which every resource that stays is copied as it is. Then the new file takes the
name. References: ioctl_ficlonerange(2), rename(2).
"""

from __future__ import annotations

import contextlib
import fcntl
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Final

from mediamaker.errors import UsageError
from mediamaker.sources.identity import check_unchanged, identify
from mediamaker.sources.wim import WimFile
from mediamaker.wim.meter import WimMeter
from mediamaker.wim.output import open_output
from mediamaker.wim.savings import read_wim_file
from mediamaker.wim.writing import Encoding, set_encoding
from mediamaker.wimlib.flags import CompressionName, WriteFlags
from mediamaker.wimlib.wim import Wim

_FICLONE: Final = 0x40049409
_SOLID_COMPRESSIONS: Final[dict[int, CompressionName]] = {1: "XPRESS", 2: "LZX", 3: "LZMS"}


@contextmanager
def changed_wim(
    path: Path, meter: WimMeter, *, threads: int = 0, rebuild: bool = False
) -> Iterator[Wim]:
    """The WIM at ``path``, to be changed in the block; written and renamed when it ends well.

    With ``rebuild`` (after something was deleted) nothing unused stays in the file.

    Raises:
        SourceError: it can't be read; SourceChangedError: somebody else changed it meanwhile.
        UsageError: it is a part of a split WIM.
    """
    path = Path(os.path.realpath(path))
    before = identify("wim", path)
    tables = read_wim_file(path)
    if tables.part_count != 1:
        raise UsageError(
            f"{path}: is part {tables.part_number} of {tables.part_count} of a split WIM, which "
            "can't be changed",
            hint="join the parts first: mediamaker wim join",
        )
    with open_output(path, replace=True) as partial:
        is_clone = not rebuild and _clone(path, partial)
        with Wim.open(partial if is_clone else path, writable=is_clone, on_event=meter) as wim:
            yield wim
            flags = _flags_as_before(wim, tables)
            if is_clone:
                wim.overwrite(flags=flags, threads=threads)
            else:
                wim.write(
                    partial,
                    flags=flags | WriteFlags.RETAIN_GUID,
                    threads=threads,
                    replace=True,
                )
        status = path.stat()
        check_unchanged(before, status)
        with contextlib.suppress(OSError):
            os.chown(partial, status.st_uid, status.st_gid)


def _flags_as_before(wim: Wim, tables: WimFile) -> WriteFlags:
    """What was solid stays solid, what had an integrity table has one again."""
    has_integrity = bool(tables.header.integrity.size_in_wim)
    flags = WriteFlags.CHECK_INTEGRITY if has_integrity else WriteFlags.NO_CHECK_INTEGRITY
    if tables.is_solid:
        flags |= set_encoding(wim, encoding_of(tables))
    return flags


def encoding_of(tables: WimFile) -> Encoding:
    """How the WIM is stored now."""
    if tables.is_solid:
        header = tables.solid_resources[0].header
        return Encoding(
            compression=_SOLID_COMPRESSIONS.get(header.compression_type, "LZMS"),
            chunk_size=header.chunk_size,
            is_solid=True,
        )
    name = tables.compression
    if name == "unknown":
        raise UsageError("its compression is not one that we know")
    return Encoding(compression=name, chunk_size=tables.chunk_size or None)


def _clone(source: Path, dest: Path) -> bool:
    """Whether ``dest`` now shares all of ``source``'s blocks; False where that is not possible."""
    try:
        with source.open("rb") as reading, dest.open("r+b") as writing:
            fcntl.ioctl(writing.fileno(), _FICLONE, reading.fileno())
    except OSError:
        return False
    return True
