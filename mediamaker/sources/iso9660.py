# SPDX-License-Identifier: GPL-3.0-or-later
"""The files and boot entries of an ISO 9660 image through pycdlib, as byte ranges.

References: ECMA-119 (ISO 9660), Joliet 1.0, Rock Ridge 1.12 (IEEE P1282), El Torito 1.0.

pycdlib parses everything while it opens, so what it may see is bounded by :class:`_View`: reads
together, and nothing but ISO 9660 (the system area reads as zeros, UDF is hidden; ``udf.py``
reads it). The view also claims to have no end, as pycdlib silently shortens a file that goes
past the end of the image, and we want to know.
"""

from __future__ import annotations

import os
import stat
from collections import deque
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any, cast

import pycdlib

from mediamaker.errors import FormatError, MediaError
from mediamaker.extents import FileRange, Piece, coalesce_pieces
from mediamaker.formats.utc import epoch_ns
from mediamaker.sources.identity import SourceFile
from mediamaker.sources.reader import SourceReader
from mediamaker.sources.tree import Entry, TreeFormat
from mediamaker.units import KIB, MIB, format_range

SECTOR_SIZE = 2048
"""El Torito and the volume descriptors count in these, whatever the block size."""
SYSTEM_AREA_SIZE = 16 * SECTOR_SIZE
READ_SIZE_MAX = 32 * MIB
"""Directories, path tables and boot catalog together: some 200,000 names."""
READ_SIZE_SLACK = 256 * KIB
"""What may be read of an image beyond its size: many reads are counted as longer than they are."""
ENTRY_COUNT_MAX = 200_000
DEPTH_MAX = 128

_BOOTABLE = 0x88
_FLAG_ASSOCIATED = 0x04
_ENDLESS = 1 << 48


@dataclass(frozen=True, slots=True)
class BootEntry:
    """One El Torito boot image: ``lba`` in 2048-byte sectors, ``sector_count`` in 512-byte ones."""

    platform_id: int
    bootable: bool
    media: int
    sector_count: int
    lba: int


@dataclass(frozen=True, slots=True)
class Iso9660Volume:
    """``notes`` tells what of the volume is not among ``entries``, and why."""

    format: TreeFormat
    entries: tuple[Entry, ...]
    boot: tuple[BootEntry, ...]
    notes: tuple[str, ...]


def read_iso9660(file: SourceFile, reader: SourceReader, *, with_files: bool) -> Iso9660Volume:
    """The richest tree of Joliet, Rock Ridge, ISO 9660 (none unless ``with_files``), and boot.

    Raises:
        FormatError: pycdlib can't read it, or a file lies past the end of the image.
    """
    iso = pycdlib.PyCdlib()
    what = f"{file.path}: ISO 9660"
    try:
        iso.open_fp(cast("Any", _View(file, reader)))
        boot = tuple(_boot_entries(iso))
        if not with_files:
            return Iso9660Volume("iso9660", (), boot, ())
        walk = _Walk(file)
        if iso.has_joliet():
            walk.run(iso.joliet_vd, "joliet")
        else:
            walk.run(iso.pvd, "rockridge" if iso.has_rock_ridge() else "iso9660")
        return Iso9660Volume(walk.format, tuple(walk.entries), boot, tuple(walk.notes))
    except MediaError:
        raise
    except Exception as error:  # damaged input surfaces as whatever pycdlib ran into
        own = isinstance(error, pycdlib.pycdlibexception.PyCdlibException)
        problem = str(error) if own else f"{type(error).__name__}: {error}"
        raise FormatError(
            f"{what}: it is damaged: {problem}", hint="download or copy the image again"
        ) from error


class _View:
    """What pycdlib sees of the image: see the module's text."""

    def __init__(self, file: SourceFile, reader: SourceReader) -> None:
        self._file = file
        self._reader = reader
        self._offset = 0
        # Extents may overlap, so that a small image could have pycdlib read names for minutes.
        # Whole images of nothing but names, Joliet and Rock Ridge, are read to nine tenths.
        self._size_max = min(READ_SIZE_MAX, file.size + READ_SIZE_SLACK)
        self._rest = self._size_max

    def seek(self, offset: int, whence: int = os.SEEK_SET) -> int:
        base = {os.SEEK_SET: 0, os.SEEK_CUR: self._offset, os.SEEK_END: _ENDLESS}[whence]
        if base + offset < 0:
            raise FormatError(f"{self._file.path}: ISO 9660: an address before the image's start")
        self._offset = base + offset
        return self._offset

    def tell(self) -> int:
        return self._offset

    def read(self, size: int) -> bytes:
        size = max(0, min(size, self._file.size - self._offset))
        self._rest -= max(size, 64)
        if self._rest < 0:
            raise FormatError(
                f"{self._file.path}: ISO 9660: its directories are over the limit of "
                f"{self._size_max} bytes"
            )
        start = self._offset
        self._offset += size
        data = self._reader.pread(self._file.source_id, start, size)
        hidden = max(0, min(size, SYSTEM_AREA_SIZE - start))
        if size == SECTOR_SIZE and start % SECTOR_SIZE == 0 and data[1:6] == b"BEA01":
            hidden = size
        return bytes(hidden) + data[hidden:]


@dataclass(slots=True)
class _Walk:
    file: SourceFile
    format: TreeFormat = "iso9660"
    block_size: int = SECTOR_SIZE
    entries: list[Entry] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)

    def run(self, descriptor: Any, tree_format: TreeFormat) -> None:
        """Breadth first from the root of a volume descriptor."""
        self.format = tree_format
        self.block_size = descriptor.logical_block_size()
        root = descriptor.root_directory_record()
        seen = {id(root)}
        queue: deque[tuple[tuple[str, ...], Any]] = deque([((), root)])
        while queue:
            path, directory = queue.popleft()
            for sections in _group_sections(directory.children):
                child = self._add(path, sections)
                if child is None:
                    continue
                child_path = self.entries[-1].path
                if id(child) in seen or len(child_path) > DEPTH_MAX:
                    raise FormatError(
                        f"{self.file.path}: {'/'.join(child_path)!r}: directory loop, or "
                        f"directories deeper than {DEPTH_MAX}"
                    )
                seen.add(id(child))
                queue.append((child_path, child))

    def _add(self, parent: tuple[str, ...], sections: list[Any]) -> Any | None:
        """Record one file or directory; a directory's record is returned, to be walked."""
        first = sections[0]
        ridge = first.rock_ridge if self.format == "rockridge" else None
        path = (*parent, self._name(first, ridge, parent))
        text = "/".join(path)
        if len(self.entries) >= ENTRY_COUNT_MAX:
            raise FormatError(f"{self.file.path}: more than {ENTRY_COUNT_MAX} files")
        if first.file_flags & _FLAG_ASSOCIATED:
            self.notes.append(f"{text}: its associated file (a resource fork) is left out")
            return None
        if ridge is not None and ridge.relocated_record():
            return None  # it is listed where its CL record stands
        if ridge is not None and ridge.child_link_record_exists():
            first = ridge.cl_to_moved_dr
            if first is None or not first.is_dir():
                raise FormatError(f"{self.file.path}: {text!r}: relocated to no directory")
        elif ridge is not None and _is_special(ridge):
            kind = "a symbolic link" if ridge.is_symlink() else "a special file"
            self.notes.append(f"{text}: left out, it is {kind}")
            return None
        modified_ns = _modified_ns(first.date)
        if first.is_dir():
            entry = Entry(path, is_dir=True, size=0, pieces=(), modified_ns=modified_ns)
            self.entries.append(entry)
            return first
        pieces = self._pieces(sections, f"{self.file.path}: {text!r}")
        size = sum(piece.size for piece in pieces)
        self.entries.append(Entry(path, False, size, pieces, modified_ns))  # noqa: FBT003  (is_dir)
        return None

    def _name(self, item: Any, ridge: Any | None, parent: tuple[str, ...]) -> str:
        identifier: bytes = item.file_identifier()
        if ridge is not None and ridge.name():
            name: bytes = ridge.name()
            try:
                return name.decode("utf-8")
            except UnicodeDecodeError:
                return name.decode("latin-1")
        if self.format == "joliet":
            try:
                text = identifier.decode("utf-16-be", "surrogatepass")
            except UnicodeDecodeError as error:
                raise FormatError(
                    f"{self.file.path}: in {'/'.join(parent)!r}: the Joliet name {identifier!r} "
                    "is not UTF-16"
                ) from error
            return _without_version(text)
        text = _without_version(identifier.decode("latin-1"))
        return text if item.is_dir() else text.removesuffix(".")

    def _pieces(self, sections: list[Any], what: str) -> tuple[Piece, ...]:
        pieces: list[Piece] = []
        for index, section in enumerate(sections):
            size = section.get_data_length()
            if section.file_unit_size or section.interleave_gap_size:
                raise FormatError(f"{what}: interleaved files are not supported")
            if size % self.block_size and index + 1 < len(sections):
                raise FormatError(f"{what}: it is there twice, or its sections have gaps")
            if size == 0:
                continue
            offset = (section.extent_location() + section.xattr_len) * self.block_size
            if offset + size > self.file.size:
                missing = offset + size - self.file.size
                raise FormatError(
                    f"{what}: it lies at {format_range(offset, offset + size)}, past the end of "
                    f"the image at {self.file.size:#x}: {missing} bytes are missing",
                    hint="download or copy the image again",
                )
            pieces.append(Piece(size, FileRange(self.file.source_id, offset)))
        return coalesce_pieces(pieces)


def _group_sections(children: list[Any]) -> Iterator[list[Any]]:
    """The records of a directory, those of one multi-extent file (ECMA-119 6.5.1) together."""
    continued: set[int] = set()
    for child in children:
        if child.is_dot() or child.is_dotdot() or id(child) in continued:
            continue
        sections = [child]
        while (following := sections[-1].data_continuation) is not None:
            continued.add(id(following))
            sections.append(following)
        yield sections


def _is_special(ridge: Any) -> bool:
    """Neither file nor directory, by its POSIX mode (a mode of 0 says nothing)."""
    kind = stat.S_IFMT(ridge.get_file_mode())
    return ridge.is_symlink() or kind not in {0, stat.S_IFREG, stat.S_IFDIR}


def _without_version(name: str) -> str:
    """``NAME.EXT`` of ``NAME.EXT;1``."""
    stem, separator, version = name.rpartition(";")
    return stem if separator and version.isdecimal() and stem else name


def _modified_ns(date: Any) -> int | None:
    """ECMA-119 9.1.5; its zone counts quarters of an hour."""
    return epoch_ns(
        (
            1900 + date.years_since_1900,
            date.month,
            date.day_of_month,
            date.hour,
            date.minute,
            date.second,
        ),
        zone_minutes=date.gmtoffset * 15,
    )


def _boot_entries(iso: Any) -> Iterator[BootEntry]:
    catalog = iso.eltorito_boot_catalog
    if catalog is None:
        return
    platform_id = catalog.validation_entry.platform_id
    yield _boot_entry(platform_id, catalog.initial_entry)
    for entry in catalog.standalone_entries:
        yield _boot_entry(platform_id, entry)
    for section in catalog.sections:
        for entry in section.section_entries:
            yield _boot_entry(section.platform_id, entry)


def _boot_entry(platform_id: int, entry: Any) -> BootEntry:
    return BootEntry(
        platform_id=platform_id,
        bootable=entry.boot_indicator == _BOOTABLE,
        media=entry.boot_media_type,
        sector_count=entry.sector_count,
        lba=entry.get_rba(),
    )
