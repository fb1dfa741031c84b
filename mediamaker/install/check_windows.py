# SPDX-License-Identifier: GPL-3.0-or-later
"""Whether a volume holds what an image has: read back from the medium, file by file.

Not by the code that wrote it: the volume is read by its file records and the image by our own WIM
reader, so that libwim and libntfs-3g don't vouch for themselves. Compared are names, short names,
hard links, attributes (read-only, hidden, system, archive), three times, security descriptors,
reparse points, and the SHA-1 of every stream; each directory's index against its files' names;
and that nothing is there that the image does not have.

Not seen: object IDs and extended attributes, the order of names in an index (which needs NTFS'
upper case), contents that are compressed or encrypted on the volume (counted), and the file
system's own files beyond what reading takes ($LogFile, $Bitmap: ntfsfix and chkdsk look there).
"""

from __future__ import annotations

import contextlib
import fcntl
import hashlib
import os
import stat
import threading
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from mediamaker.errors import VerifyError
from mediamaker.execute.progress import OnEvent, Phase, ProgressMeter, ignore_event
from mediamaker.install.check_contents import find_changed, hash_value
from mediamaker.install.check_tree import Difference, TreeComparer, case_path
from mediamaker.install.compose import NtfsPath
from mediamaker.install.volume_records import VolumeRecords
from mediamaker.sources.identity import open_source
from mediamaker.wim.ntfs_volume import open_ntfs_volume
from mediamaker.wim.parts import open_parts
from mediamaker.wim.tree import open_image

_BLKFLSBUF: Final = 0x1261
_READ_SIZE: Final = 1 << 20
_SHOWN_COUNT: Final = 5


@dataclass(frozen=True, slots=True, kw_only=True)
class AppliedCheck:
    """What was compared, and what differs; ``size`` bytes of contents were read back.

    ``unchecked`` are streams that are there, but stored so that we can't read them.
    """

    file_count: int
    directory_count: int
    stream_count: int
    size: int
    differences: tuple[Difference, ...]
    unchecked: tuple[str, ...]

    @property
    def is_equal(self) -> bool:
        """Whether nothing differs."""
        return not self.differences

    def check(self, volume: Path) -> None:
        """See that it is equal.

        Raises:
            VerifyError: names the first files that differ.
        """
        if self.differences:
            shown = "; ".join(f"{d.path}: {d.message}" for d in self.differences[:_SHOWN_COUNT])
            more = len(self.differences) - _SHOWN_COUNT
            raise VerifyError(
                f"{volume} is not what the image has: {shown}"
                + (f"; and {more} more" if more > 0 else ""),
                hint="check the image with mediamaker wim verify, and the disk for bad sectors",
            )


def check_applied(
    volume: Path,
    paths: Sequence[Path],
    number: int,
    *,
    extra_files: Mapping[NtfsPath, Path | bytes] | None = None,
    left_out: Sequence[NtfsPath] = (),
    is_held: bool = False,
    on_event: OnEvent = ignore_event,
    cancel: threading.Event | None = None,
) -> AppliedCheck:
    """Compare the NTFS ``volume`` with image ``number`` of the WIM of ``paths``.

    ``extra_files`` and ``left_out`` are what ``apply_windows`` was given. The caches of the volume
    are dropped first.

    Raises:
        FormatError: the volume or the WIM is damaged so that it can't be read at all;
            TargetIOError: the volume can't be read; KeyboardInterrupt: ``cancel`` was set.
    """
    extras = {case_path(path): _sha1(content) for path, content in (extra_files or {}).items()}
    meter = ProgressMeter(on_event, time.monotonic)
    with (
        open_parts(paths) as parts,
        open_ntfs_volume(volume, writable=False, is_held=is_held) as descriptor,
    ):
        drop_caches(descriptor)
        records = VolumeRecords(descriptor, str(volume))
        comparer = TreeComparer(
            open_image(parts, number),
            records,
            extras=extras,
            left_out=frozenset(case_path(path) for path in left_out),
            what=str(volume),
        )
        found = comparer.run()
        size = sum(wanted.stream.size for wanted in found.wanted)
        meter.start(Phase.VERIFY, size)
        for wanted, message in find_changed(records, found.wanted, meter=meter, cancel=cancel):
            found.add(wanted.label, message)
        meter.finish()
    return AppliedCheck(
        file_count=found.file_count,
        directory_count=found.directory_count,
        stream_count=found.stream_count,
        size=size,
        differences=tuple(found.differences),
        unchecked=tuple(found.unreadable),
    )


def drop_caches(descriptor: int) -> None:
    """Have the medium answer, not our memory: what is in the cache is written and let go."""
    with contextlib.suppress(OSError):
        os.fsync(descriptor)
    if stat.S_ISBLK(os.fstat(descriptor).st_mode):
        # Needs CAP_SYS_ADMIN, which whoever wrote the volume has.
        with contextlib.suppress(OSError):
            fcntl.ioctl(descriptor, _BLKFLSBUF)
    os.posix_fadvise(descriptor, 0, 0, os.POSIX_FADV_DONTNEED)


def _sha1(content: Path | bytes) -> bytes:
    if isinstance(content, bytes):
        return hash_value(content)
    hasher, size = hashlib.sha1(usedforsecurity=False), 0
    descriptor = open_source(content)
    try:
        while data := os.read(descriptor, _READ_SIZE):
            hasher.update(data)
            size += len(data)
    finally:
        os.close(descriptor)
    return hasher.digest() if size else hash_value(b"")
