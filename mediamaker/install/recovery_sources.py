# SPDX-License-Identifier: GPL-3.0-or-later
"""Winre.wim and boot.sdi for a recovery partition: named by a person, or taken out of Windows."""

from __future__ import annotations

import threading
from pathlib import Path
from typing import Final

from mediamaker.errors import FormatError, TargetRefusedError
from mediamaker.execute.interrupts import check_cancelled
from mediamaker.formats.sdi import parse_sdi
from mediamaker.formats.wim import HEADER_SIZE, parse_wim_header
from mediamaker.install.ntfs_files import NtfsFiles
from mediamaker.install.windows_disk import read_whole
from mediamaker.plan.boot_store import RECOVERY_WIM
from mediamaker.units import MIB

STAGED_WIM: Final = "\\Windows\\System32\\Recovery\\Winre.wim"
STAGED_SDI: Final = (
    "\\Windows\\Boot\\DVD\\EFI\\boot.sdi",
    "\\Windows\\Boot\\DVD\\PCAT\\boot.sdi",
)
_SDI_SIZE_MAX = 64 * MIB
_COPY_SIZE = 4 * MIB


def find_winre(
    given: Path | None,
    files: NtfsFiles,
    what: str,
    *,
    scratch: Path,
    cancel: threading.Event | None = None,
) -> Path:
    """The file ``given``, or a copy in ``scratch`` of the one that the Windows ``what`` has.

    Raises:
        TargetRefusedError: Windows has none; FormatError: it is none, or has no boot image.
    """
    path = given
    if path is None:
        found = files.find(STAGED_WIM)
        if found is None:
            raise TargetRefusedError(
                f"{what}: has no {STAGED_WIM}",
                hint="name one with --winre FILE (it is in install.wim under that path)",
            )
        path = scratch / RECOVERY_WIM
        with path.open("wb") as file:
            for offset in range(0, found.size, _COPY_SIZE):
                check_cancelled(cancel)
                file.write(files.read(found, offset, _COPY_SIZE))
    try:
        with path.open("rb") as file:
            header = parse_wim_header(file.read(HEADER_SIZE), what=str(path))
    except OSError as error:
        raise FormatError(f"{path}: can't be read: {error.strerror}") from error
    if not header.boot_index:
        raise FormatError(
            f"{path} has no boot image: WinRE could not be started from it",
            hint="mediamaker wim set FILE:1 --boot makes image 1 the one",
        )
    return path


def find_boot_sdi(given: Path | None, files: NtfsFiles, what: str, *, is_uefi: bool) -> bytes:
    """The bytes of the file ``given``, or of the one that the Windows ``what`` has.

    Raises:
        TargetRefusedError: Windows has none; FormatError: it is none.
    """
    if given is not None:
        try:
            with given.open("rb") as file:
                data = file.read(_SDI_SIZE_MAX)
        except OSError as error:
            raise FormatError(f"{given}: can't be read: {error.strerror}") from error
        parse_sdi(data, file_size=len(data), what=str(given))
        return data
    wanted = STAGED_SDI if is_uefi else STAGED_SDI[::-1]
    for name in wanted:
        if files.find(name) is not None:
            data = read_whole(files, name, _SDI_SIZE_MAX)
            parse_sdi(data, file_size=len(data), what=f"{what}: {name}")
            return data
    raise TargetRefusedError(
        f"{what}: has no {wanted[0]}",
        hint="name one with --boot-sdi FILE (it is in boot/ of a Windows ISO)",
    )
