# SPDX-License-Identifier: GPL-3.0-or-later
"""A backup of boot areas: one small JSON file with the bytes, where they lay, and their digests.

An undo file (``install/undo.py``) was not used: it puts back every byte and refuses a disk that
has changed since. A boot area is put back around what the volume and the table are by then.
"""

from __future__ import annotations

import base64
import hashlib
import json
import os
from collections.abc import Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from mediamaker.errors import FormatError, TargetRefusedError, UsageError
from mediamaker.formats.boot_sectors import VBR_SIZE, restore_boot
from mediamaker.formats.mbr import BOOT_CODE_SIZE_MAX
from mediamaker.install.boot_areas import BootArea, Piece

_KEY = "mediamaker_boot_backup"
_FORMAT = 1
_FILE_SIZE_MAX = 1 << 30
_DISK_SIGNATURE = slice(0x1B8, 0x1BC)


@dataclass(frozen=True, slots=True)
class SavedArea:
    """What a boot area held; ``pieces`` as :attr:`BootArea.pieces` gives them."""

    number: int | None
    what: str
    pieces: tuple[Piece, ...]


def save_areas(path: Path, target: Path, areas: Sequence[BootArea]) -> None:
    """Write the backup; it is whole or not there.

    Raises:
        UsageError: the file exists, or can't be made.
    """
    document = {
        _KEY: _FORMAT,
        "target": str(target),
        "areas": [
            {
                "number": area.number,
                "what": area.what,
                "pieces": [_pack_piece(piece) for piece in area.pieces],
            }
            for area in areas
        ],
    }
    partial = path.with_name(f"{path.name}.partial-{os.getpid()}")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with partial.open("x", encoding="ascii") as file:
            json.dump(document, file, indent=1)
            file.write("\n")
            file.flush()
            os.fsync(file.fileno())
        try:
            path.hardlink_to(partial)  # fails when the name is taken, as a rename would not
        finally:
            partial.unlink()
    except FileExistsError as error:
        raise UsageError(
            f"{path}: exists; a backup is never overwritten", hint="name another file"
        ) from error
    except OSError as error:
        with suppress(OSError):
            partial.unlink()
        raise UsageError(
            f"{path}: the backup can't be written: {error.strerror or error}",
            hint="name a file elsewhere with --backup",
        ) from error


def load_areas(path: Path) -> tuple[SavedArea, ...]:
    """Read a backup.

    Raises:
        FormatError: it is none, or was altered.
    """
    try:
        if path.stat().st_size > _FILE_SIZE_MAX:
            raise FormatError(f"{path}: too large for a backup of boot sectors")
        document = json.loads(path.read_bytes())
    except (OSError, ValueError, RecursionError) as error:
        words = getattr(error, "strerror", None) or "not JSON"
        raise FormatError(f"{path}: no backup of boot sectors: {words}") from error
    if not isinstance(document, dict) or document.get(_KEY) != _FORMAT:
        raise FormatError(
            f"{path}: no backup of boot sectors: expected {_KEY} {_FORMAT}",
            hint="bootsector backup and bootsector write make them",
        )
    try:
        return tuple(_parse_area(path, item) for item in document["areas"])
    except (KeyError, TypeError, ValueError) as error:
        raise FormatError(f"{path}: damaged: {type(error).__name__} {error}") from error


def place_backup(
    saved: Sequence[SavedArea], areas: Sequence[BootArea], *, what: str
) -> Iterator[Piece]:
    """What the areas are to hold again.

    Raises:
        TargetRefusedError: the backup is of another disk or volume.
    """
    by_number = {area.number: area for area in areas}
    for old in saved:
        area = by_number.get(old.number)
        head = old.pieces[-1]
        if area is None or area.offset != head.offset:
            raise TargetRefusedError(
                f"{what}: the backup has {old.what} at {head.offset:#x}, which is not there",
                hint="name the disk or volume that the backup was made of",
            )
        yield from _place_area(old, area, what)


def _place_area(old: SavedArea, area: BootArea, what: str) -> Iterator[Piece]:
    head = old.pieces[-1].data
    if area.number == 0:
        if len(head) != len(area.head) or head[_DISK_SIGNATURE] != area.head[_DISK_SIGNATURE]:
            raise TargetRefusedError(f"{what}: the backup's MBR has another disk signature")
        yield Piece(area.offset, head[:BOOT_CODE_SIZE_MAX] + area.head[BOOT_CODE_SIZE_MAX:])
        return
    if area.file_system is None:
        raise TargetRefusedError(f"{what}: {area.what} holds no NTFS, exFAT or FAT32 volume now")
    try:
        restored = restore_boot(area.head, head)
    except FormatError as error:
        raise TargetRefusedError(f"{what}: {area.what}: {error.message}") from error
    if area.last is not None:
        yield Piece(area.last.offset, restored[:VBR_SIZE] + area.last.data[VBR_SIZE:])
    yield Piece(area.offset, restored)


def _pack_piece(piece: Piece) -> dict[str, Any]:
    return {
        "offset": piece.offset,
        "sha256": hashlib.sha256(piece.data).hexdigest(),
        "base64": base64.b64encode(piece.data).decode("ascii"),
    }


def _parse_area(path: Path, item: dict[str, Any]) -> SavedArea:
    number = item["number"]
    if number is not None and (not isinstance(number, int) or number < 0):
        raise ValueError(f"number {number!r}")
    pieces = tuple(_parse_piece(path, piece) for piece in item["pieces"])
    if not pieces:
        raise ValueError("an area without bytes")
    return SavedArea(number, str(item["what"]), pieces)


def _parse_piece(path: Path, item: dict[str, Any]) -> Piece:
    data = base64.b64decode(item["base64"], validate=True)
    offset = item["offset"]
    if not isinstance(offset, int) or offset < 0:
        raise ValueError(f"offset {offset!r}")
    if hashlib.sha256(data).hexdigest() != item["sha256"]:
        raise FormatError(f"{path}: damaged: the bytes for {offset:#x} are not what their sum says")
    return Piece(offset, data)
