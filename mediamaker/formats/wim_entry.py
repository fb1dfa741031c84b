# SPDX-License-Identifier: GPL-3.0-or-later
"""An entry of a WIM image's tree: its attributes, times, links and streams.

References: as in ``wim_metadata.py``, which reads entries from the metadata resource.
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import IntFlag
from typing import Literal, NamedTuple

ZERO_SHA1 = bytes(20)
"""Of what has no bytes, and so no blob."""

StreamKind = Literal["data", "reparse", "encrypted"]


class FileAttribute(IntFlag):
    """The attributes that change what an entry is."""

    READONLY = 0x1
    HIDDEN = 0x2
    SYSTEM = 0x4
    DIRECTORY = 0x10
    ARCHIVE = 0x20
    REPARSE_POINT = 0x400
    COMPRESSED = 0x800
    ENCRYPTED = 0x4000


REPARSE_TAG_MOUNT_POINT = 0xA0000003
REPARSE_TAG_SYMLINK = 0xA000000C


class MetadataStream(NamedTuple):
    """Content of an entry: ``name`` is empty for the file's own; a zero ``sha1`` is no bytes."""

    name: str
    kind: StreamKind
    sha1: bytes

    @property
    def is_empty(self) -> bool:
        """Whether it has no bytes, and so no blob."""
        return self.sha1 == ZERO_SHA1


@dataclass(frozen=True, slots=True, eq=False)
class MetadataEntry:
    """One name of an image's tree. Times are in 100 ns since 1601.

    ``offset`` and ``children_offset`` are places in the resource; entries of one file that has
    several names share a ``hard_link_group`` that is not 0.
    """

    parent: MetadataEntry | None
    name: str
    short_name: str
    attributes: int
    security_id: int
    creation_time: int
    access_time: int
    write_time: int
    streams: tuple[MetadataStream, ...]
    hard_link_group: int
    reparse_tag: int
    offset: int
    children_offset: int
    path_length: int

    @property
    def is_directory(self) -> bool:
        """Whether it may have children; a junction is a directory too."""
        return bool(self.attributes & FileAttribute.DIRECTORY)

    @property
    def is_link(self) -> bool:
        """A symbolic link or a junction: its reparse data names another place."""
        return self.reparse_tag in (REPARSE_TAG_SYMLINK, REPARSE_TAG_MOUNT_POINT)

    @property
    def parts(self) -> tuple[str, ...]:
        """The names from below the root down to this one; none for the root."""
        names: list[str] = []
        entry: MetadataEntry = self
        while entry.parent is not None:
            names.append(entry.name)
            entry = entry.parent
        return tuple(reversed(names))

    @property
    def path(self) -> str:
        """``/Windows/explorer.exe``; ``/`` for the root."""
        return "/" + "/".join(self.parts)

    @property
    def data(self) -> MetadataStream | None:
        """The unnamed content; None when it has no bytes."""
        return self._first("data") or self._first("encrypted")

    @property
    def reparse_data(self) -> MetadataStream | None:
        """What a reparse point holds behind its tag and length."""
        return self._first("reparse")

    def _first(self, kind: StreamKind) -> MetadataStream | None:
        for stream in self.streams:
            if stream.kind == kind and not stream.name and not stream.is_empty:
                return stream
        return None


def is_bad_name(name: str) -> bool:
    """Whether it could lead out of its directory."""
    return name in ("", ".", "..") or "/" in name or "\0" in name


def show_name(name: str) -> str:
    """``name`` as it can be printed: half a surrogate pair as an escape."""
    return name.encode("utf-8", "backslashreplace").decode()


def sort_streams(streams: list[tuple[str, bytes]], attributes: int) -> tuple[MetadataStream, ...]:
    """Say what each stream is.

    The first unnamed one with content is a reparse point's data, the next one the file's own.
    """
    sorted_streams: list[MetadataStream] = []
    wants_reparse = bool(attributes & FileAttribute.REPARSE_POINT)
    wants_data = True
    data_kind: StreamKind = "encrypted" if attributes & FileAttribute.ENCRYPTED else "data"
    for name, sha1 in streams:
        if name:
            sorted_streams.append(MetadataStream(name, "data", sha1))
        elif sha1 == ZERO_SHA1:
            continue
        elif wants_reparse:
            sorted_streams.append(MetadataStream("", "reparse", sha1))
            wants_reparse = False
        elif wants_data:
            sorted_streams.append(MetadataStream("", data_kind, sha1))
            wants_data = False
    return tuple(sorted_streams)
