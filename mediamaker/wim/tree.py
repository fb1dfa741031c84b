# SPDX-License-Identifier: GPL-3.0-or-later
"""What is in an image of a WIM: lists it, and gives out the content of a file."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterator
from dataclasses import dataclass

from mediamaker.errors import FormatError, UsageError
from mediamaker.formats.wim_entry import MetadataEntry, MetadataStream, show_name
from mediamaker.formats.wim_metadata import WimMetadata
from mediamaker.formats.wim_reparse import (
    REPARSE_DATA_SIZE_MAX,
    LinkTarget,
    parse_link_target,
)
from mediamaker.formats.wim_solid import blob_size
from mediamaker.wim.parts import WimParts

FILETIME_UNIX_EPOCH = 116_444_736_000_000_000
"""1970-01-01 in 100 ns since 1601-01-01."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ListedStream:
    """A stream; ``size`` is None when its content is in none of the files given."""

    name: str
    size: int | None
    sha1: bytes


@dataclass(frozen=True, slots=True, kw_only=True)
class ListedEntry:
    """One line of ``wim ls``; ``size`` and ``sha1`` are of the unnamed content."""

    path: str
    is_directory: bool
    size: int | None
    sha1: bytes | None
    attributes: int
    write_time_ns: int
    short_name: str
    hard_link_group: int
    reparse_tag: int
    streams: tuple[ListedStream, ...]


def open_image(parts: WimParts, image_number: int) -> WimMetadata:
    """The tree of an image.

    Raises:
        UsageError: no such image, or the part that has the trees was not given; FormatError: the
            tables or the tree are damaged.
    """
    for file in parts.files:
        if file.wim.metadata:
            count = len(file.wim.metadata)
            if not 1 <= image_number <= count:
                raise UsageError(
                    f"{file.path}: there is no image {image_number}: it has {count}",
                    hint="wim info shows the images",
                )
            return file.blobs.read_metadata(image_number)
    if parts.damage:
        raise FormatError(parts.damage[0])
    raise UsageError(
        f"{parts.files[0].path}: it holds no image's tree",
        hint="give the first part too (the one without a number in its name)"
        if parts.missing_parts
        else None,
    )


def list_tree(
    parts: WimParts, image_number: int, path: str = "/", *, is_recursive: bool = True
) -> Iterator[ListedEntry]:
    """The entry at ``path`` and what is below it, parents first; or only its own children."""
    metadata = open_image(parts, image_number)
    start = metadata.find(path)
    if is_recursive:
        entries: Iterator[MetadataEntry] = metadata.walk(start)
    else:
        entries = iter(metadata.children(start) if start.is_directory else (start,))
    for entry in entries:
        yield _list_entry(parts, entry)


def cat(
    parts: WimParts,
    image_number: int,
    path: str,
    write: Callable[[memoryview], object],
    *,
    stream: str = "",
) -> int:
    """Give the content of the file at ``path`` (or of one of its streams) to ``write``.

    Returns its size.

    Raises:
        UsageError: no such file or stream; FormatError: the content is damaged, which for what
            was written already is known only at its end.
    """
    entry = open_image(parts, image_number).find(path)
    if not stream:
        if entry.is_directory:
            raise UsageError(f"{show_name(entry.path)!r} is a directory", hint="use wim extract")
        found = entry.data
        if found is None and entry.is_link:
            raise UsageError(
                f"{show_name(entry.path)!r} is a link, it has no content of its own",
                hint="use wim extract, which makes it",
            )
        if found is None:
            return 0
    else:
        wanted = [s for s in entry.streams if s.name.casefold() == stream.casefold()]
        if not wanted:
            raise UsageError(f"{show_name(entry.path)!r} has no stream {show_name(stream)!r}")
        found = wanted[0]
        if found.is_empty:
            return 0
    return copy_stream(parts, entry, found, write)


def copy_stream(
    parts: WimParts,
    entry: MetadataEntry,
    stream: MetadataStream,
    write: Callable[[memoryview], object],
) -> int:
    """Give a stream's content to ``write``, compared with its SHA-1 on the way; its size.

    Raises:
        FormatError: it is damaged or in none of the files.
    """
    where = show_name(entry.path)
    found = parts.find(stream.sha1)
    if found is None:
        hint = "give the other parts as well" if parts.missing_parts else None
        raise FormatError(
            f"{where!r}: its content {stream.sha1.hex()} is in none of the files", hint=hint
        )
    file, blob = found
    hasher = hashlib.sha1(usedforsecurity=False)
    size = 0
    for piece in file.blobs.iterate(blob):
        hasher.update(piece)
        write(piece)
        size += len(piece)
    if hasher.digest() != stream.sha1:
        raise FormatError(
            f"{where!r} is damaged: expected SHA-1 {stream.sha1.hex()}, got {hasher.hexdigest()}"
        )
    return size


def read_link_target(parts: WimParts, entry: MetadataEntry) -> LinkTarget:
    """Where a link points.

    Raises:
        FormatError: it has no usable target.
    """
    where = show_name(entry.path)
    stream = entry.reparse_data
    found = None if stream is None else parts.find(stream.sha1)
    if found is None:
        raise FormatError(f"{where!r} is a link without a target")
    file, blob = found
    data = file.blobs.read_checked(blob, size_max=REPARSE_DATA_SIZE_MAX)
    return parse_link_target(data, entry.reparse_tag, what=repr(where))


def unix_time_ns(time: int) -> int:
    """Nanoseconds since 1970 of a time in 100 ns since 1601."""
    return (time - FILETIME_UNIX_EPOCH) * 100


def _list_entry(parts: WimParts, entry: MetadataEntry) -> ListedEntry:
    data = entry.data
    named = tuple(
        ListedStream(name=s.name, size=_stream_size(parts, s), sha1=s.sha1)
        for s in entry.streams
        if s.name
    )
    return ListedEntry(
        path=show_name(entry.path),
        is_directory=entry.is_directory,
        size=_stream_size(parts, data) if data else 0,
        sha1=data.sha1 if data else None,
        attributes=entry.attributes,
        write_time_ns=unix_time_ns(entry.write_time),
        short_name=show_name(entry.short_name),
        hard_link_group=entry.hard_link_group,
        reparse_tag=entry.reparse_tag,
        streams=named,
    )


def _stream_size(parts: WimParts, stream: MetadataStream) -> int | None:
    if stream.is_empty:
        return 0
    found = parts.find(stream.sha1)
    return None if found is None else blob_size(found[1])
