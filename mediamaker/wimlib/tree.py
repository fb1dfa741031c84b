# SPDX-License-Identifier: GPL-3.0-or-later
"""What libwim says of the files of an image."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from mediamaker.wimlib.events import text

_MISSING_BIT = 1 << 4
_EPOCH_TICKS = 116444736000000000
"""1970 in 100 ns since 1601."""


@dataclass(frozen=True, slots=True)
class Stream:
    """Contents of a file; its main one has no name. ``sha1`` is zero for no contents."""

    name: str
    size: int
    sha1: bytes
    is_missing: bool


@dataclass(frozen=True, slots=True)
class DirEntry:
    """A file, directory or link of an image. Times are 100 ns since 1601, as in the WIM."""

    path: str
    name: str
    short_name: str
    depth: int
    attributes: int
    reparse_tag: int
    link_count: int
    hard_link_group: int
    created: int
    written: int
    accessed: int
    security: bytes
    object_id: bytes
    streams: tuple[Stream, ...]


def parse_entry(ffi: Any, c: Any) -> DirEntry:
    """A copy of what libwim shows for the time of a callback."""
    return DirEntry(
        path=text(ffi, c.path),
        name=text(ffi, c.name),
        short_name=text(ffi, c.short_name),
        depth=c.depth,
        attributes=c.attributes,
        reparse_tag=c.reparse_tag,
        link_count=c.link_count,
        hard_link_group=c.hard_link_group,
        created=_ticks(c.created),
        written=_ticks(c.written),
        accessed=_ticks(c.accessed),
        security=_bytes(ffi, c.security, c.security_size) if c.security else b"",
        object_id=_bytes(ffi, c.object_id, 16),
        streams=tuple(_stream(ffi, c.streams[index]) for index in range(c.named_stream_count + 1)),
    )


def _stream(ffi: Any, c: Any) -> Stream:
    resource = c.resource
    return Stream(
        name=text(ffi, c.name),
        size=resource.uncompressed_size,
        sha1=_bytes(ffi, resource.sha1, 20),
        is_missing=bool(resource.bits & _MISSING_BIT),
    )


def _bytes(ffi: Any, pointer: Any, size: int) -> bytes:
    return bytes(ffi.buffer(pointer, size)[:])


def _ticks(time: Any) -> int:
    return int(time.seconds * 10**7 + time.nanoseconds // 100 + _EPOCH_TICKS)
