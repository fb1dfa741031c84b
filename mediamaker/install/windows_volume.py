# SPDX-License-Identifier: GPL-3.0-or-later
"""Whether the volume of an installed Windows is in a state that may be changed from outside.

A hibernated Windows (also one that was shut down with "fast startup") goes on from memory with
what it knew of the volume; one that was not shut down cleanly has a log that it must play back
first; BitLocker shows nothing at all. Each is refused, by name, with what to do in Windows.

References: Microsoft Learn on fast startup and ``powercfg``; the NTFS documentation of the
Linux-NTFS project ("$LogFile", "$Volume"); BitLocker volumes begin with ``-FVE-FS-`` where NTFS
has its name (Metz, "BitLocker Drive Encryption format"), and "To Go" ones with ``MSWIN4.1`` and a
GUID.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from uuid import UUID

from mediamaker.errors import FormatError, TargetRefusedError
from mediamaker.formats.ntfs import BOOT_SECTOR_SIZE
from mediamaker.install.ntfs_files import LOG_RECORD_NUMBER, NtfsFiles

PRead = Callable[[int, int], bytes]

_BITLOCKER = b"-FVE-FS-"
_BITLOCKER_GUIDS = frozenset(
    {
        UUID("4967d63b-2e29-4ad8-8399-f6a339e3d001"),
        UUID("92a84d3b-dd80-4d0e-9e4e-b1e3284eaed8"),
    }
)
_GUID_OFFSETS = (0xA0, 0x1A8)
_DIRTY = 0x0001
_RESIZE_LOG, _UPGRADE, _CHKDSK_UNDERWAY = 0x0002, 0x0004, 0x8000
_NO_CLIENT = 0xFFFF
_LOG_CLEAN = 0x0002
_LOG_HEAD_SIZE = 128 * 1024
_HIBERFIL_HEAD_SIZE = 4096
_AWAKE = (b"wake", b"WAKE")
_HIBERNATED = (b"hibr", b"HIBR", b"HORM", b"RSTR", b"rstr")

_SHUT_DOWN = "start Windows and shut it down fully: shutdown /s /t 0 (with Shift in the menu)"


@dataclass(frozen=True, slots=True)
class VolumeProblem:
    """``kind`` is bitlocker, not-ntfs, dirty, log, hibernated or damaged."""

    kind: str
    message: str
    hint: str


def is_bitlocker(head: bytes) -> bool:
    """Whether the first sector of a volume is one of BitLocker's."""
    if head[3:11] == _BITLOCKER:
        return True
    return any(
        len(head) >= at + 16 and UUID(bytes_le=head[at : at + 16]) in _BITLOCKER_GUIDS
        for at in _GUID_OFFSETS
    )


def find_volume_problems(pread: PRead, what: str) -> tuple[VolumeProblem, ...]:
    """What speaks against changing the volume that ``pread`` reads; empty when nothing does."""
    if is_bitlocker(pread(0, BOOT_SECTOR_SIZE)):
        return (
            VolumeProblem(
                "bitlocker",
                f"{what} is encrypted by BitLocker",
                "in Windows: manage-bde -off C: (suspending it is not enough), and wait",
            ),
        )
    try:
        files = NtfsFiles(pread, what)
    except FormatError as error:
        return (VolumeProblem("not-ntfs", error.message, "name the partition with --windows"),)
    try:
        return (*_flag_problems(files, what), *_hiberfil_problems(files, what))
    except FormatError as error:
        return (VolumeProblem("damaged", error.message, "in Windows: chkdsk C: /f"),)


def check_windows_volume(pread: PRead, what: str) -> NtfsFiles:
    """The files of the volume, which may be changed.

    Raises:
        TargetRefusedError: it is encrypted, dirty, hibernated, damaged, or not NTFS.
    """
    problems = find_volume_problems(pread, what)
    if problems:
        raise TargetRefusedError(
            "; ".join(problem.message for problem in problems) + ": nothing was changed",
            hint=problems[0].hint,
        )
    return NtfsFiles(pread, what)


def _flag_problems(files: NtfsFiles, what: str) -> list[VolumeProblem]:
    flags = files.volume_flags()
    if flags & (_DIRTY | _CHKDSK_UNDERWAY):
        message = f"{what} is marked as dirty: Windows wants to check it"
        return [VolumeProblem("dirty", message, "in Windows: chkdsk C: /f, and restart")]
    if flags & (_RESIZE_LOG | _UPGRADE):
        message = f"{what} has work that Windows put off (flags {flags:#x})"
        return [VolumeProblem("dirty", message, _SHUT_DOWN)]
    if not is_log_clean(files.system_stream(LOG_RECORD_NUMBER, _LOG_HEAD_SIZE)):
        message = f"{what} was not shut down cleanly: its $LogFile has work in it"
        return [VolumeProblem("log", message, _SHUT_DOWN)]
    return []


def is_log_clean(log: bytes) -> bool:
    """Whether ``$LogFile``, of which ``log`` is the beginning, has nothing to play back."""
    if log.count(0xFF) == len(log):
        return True
    newest, is_clean = -1, False
    page_size = int.from_bytes(log[0x10:0x14], "little") if log[:4] == b"RSTR" else 4096
    for start in {0, page_size}:
        page = log[start : start + 4096]
        if page[:4] != b"RSTR" or len(page) < 0x40:
            continue
        area_offset = int.from_bytes(page[0x18:0x1A], "little")
        area = page[area_offset : area_offset + 0x10]
        if len(area) < 0x10:
            continue
        number = int.from_bytes(area[:8], "little")
        if number > newest:
            clients = int.from_bytes(area[0x0C:0x0E], "little")
            flags = int.from_bytes(area[0x0E:0x10], "little")
            newest = number
            is_clean = clients == _NO_CLIENT or bool(flags & _LOG_CLEAN)
    return is_clean


def _hiberfil_problems(files: NtfsFiles, what: str) -> list[VolumeProblem]:
    file = files.find("\\hiberfil.sys")
    if file is None or file.size == 0:
        return []
    head = files.read(file, 0, _HIBERFIL_HEAD_SIZE)
    if head.count(0) == len(head) or head[:4] in _AWAKE:
        return []
    if head[:4] in _HIBERNATED:
        message = f"{what}: Windows is hibernated, or was shut down with fast startup"
    else:
        message = f"{what}: hiberfil.sys begins with {head[:4]!r}: it may be hibernated"
    return [VolumeProblem("hibernated", message, f"{_SHUT_DOWN}; or: powercfg /h off")]
