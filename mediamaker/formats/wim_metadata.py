# SPDX-License-Identifier: GPL-3.0-or-later
"""The metadata resource of a WIM image: its tree of names, with times, streams and links.

References: Microsoft, "Windows Imaging File Format (WIM)" (2007 white paper), "Metadata Resource";
what it leaves out (hard link groups, reparse tags, streams' order) was learned from observing what
wimlib 1.13.6 writes and reads. The names in quotes are the white paper's.

Security descriptors come first, then the entry of the root. A directory's entry gives the place of
its children, which lie one after the other up to a length of 0. The resource comes from a file
that nobody vouches for: every walk is a loop, not a recursion, every directory's children are read
at most once, all that is read together is never more than there is, and a name that could lead
out of a directory is refused.
"""

from __future__ import annotations

import struct
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import NoReturn

from mediamaker.errors import FormatError, UsageError
from mediamaker.formats.wim_entry import (
    ZERO_SHA1,
    FileAttribute,
    MetadataEntry,
    is_bad_name,
    show_name,
    sort_streams,
)
from mediamaker.units import MIB, align_up

METADATA_SIZE_MAX = 512 * MIB
"""Over ten times what Windows has; held in memory while it is read."""

PATH_LENGTH_MAX = 32767
"""UTF-16 units: what Windows can name. It limits the depth too."""

NO_SECURITY = -1

_LINK_OR_TAG = struct.Struct("<Q")
_SECURITY = struct.Struct("<II")

# "liLength", "dwAttributes", "dwSecurityId", "liSubdirOffset", two unused, three times, "bHash",
# unknown, hard link group or (reparse tag, flags), "wStreams", "wShortNameLength",
# "wFileNameLength"
_ENTRY = struct.Struct("<QIiQ16xQQQ20s4x8sHHH")
_ENTRY_BRIEF = struct.Struct("<QI4xQ16x24x20s12xHHH")
_STREAM = struct.Struct("<Q8x20sH")
_ENTRY_SIZE = _ENTRY.size
_END_SIZE = 8


@dataclass(slots=True)
class _Budget:
    """What a walk may still read, and whose children it has read."""

    left: int
    seen: set[int] = field(default_factory=set)


class WimMetadata:
    """An image's tree, read from ``data`` as it is asked for.

    Raises:
        FormatError: from every method, when the resource contradicts itself.
    """

    def __init__(self, data: bytes, *, what: str = "WIM image") -> None:
        if len(data) > METADATA_SIZE_MAX:
            raise FormatError(
                f"{what}: metadata: expected at most {METADATA_SIZE_MAX} bytes, got {len(data)}"
            )
        self._data = data
        self._what = what
        self._security_size, self._descriptor_count = self._measure_security()
        self.root = self._read_root()

    def security_descriptors(self) -> tuple[bytes, ...]:
        """The self-relative security descriptors that ``security_id`` counts from 0."""
        position = _SECURITY.size
        sizes = struct.unpack_from(f"<{self._descriptor_count}Q", self._data, position)
        position += 8 * self._descriptor_count
        if sum(sizes) > self._security_size - position:
            self._raise(
                f"security descriptors: expected at most {self._security_size - position} bytes, "
                f"got {sum(sizes)}"
            )
        found = []
        for size in sizes:
            found.append(self._data[position : position + size])
            position += size
        return tuple(found)

    def children(self, directory: MetadataEntry) -> tuple[MetadataEntry, ...]:
        """The entries of ``directory``, in the order of the resource."""
        return self._children(directory, _Budget(len(self._data)))

    def walk(self, start: MetadataEntry | None = None) -> Iterator[MetadataEntry]:
        """``start`` (the root) and everything below it, parents first."""
        budget = _Budget(len(self._data))
        pending = [start or self.root]
        while pending:
            entry = pending.pop()
            yield entry
            pending.extend(reversed(self._children(entry, budget)))

    def find(self, path: str) -> MetadataEntry:
        """The entry at ``path``, whose names may be parted by ``/`` or ``\\``.

        A name that is written exactly so wins over one that differs in case only.

        Raises:
            UsageError: it is not there, or several names differ in case only.
        """
        entry = self.root
        for name in path.replace("\\", "/").split("/"):
            if not name:
                continue
            children = self.children(entry)
            exact = [child for child in children if child.name == name]
            folded = [child for child in children if child.name.casefold() == name.casefold()]
            found = exact or folded
            if not found:
                raise UsageError(
                    f"{self._what}: {show_name(path)!r} is not there: "
                    f"{show_name(entry.path)!r} has no {show_name(name)!r}",
                    hint="wim ls shows what is there",
                )
            if len(found) > 1:
                raise UsageError(
                    f"{self._what}: {show_name(path)!r} could be any of "
                    f"{', '.join(repr(child.name) for child in found)}",
                    hint="write it as one of these",
                )
            entry = found[0]
        return entry

    def scan_sha1s(self) -> Iterator[bytes]:
        """The SHA-1 of every stream with content; a file of several names counts for each.

        All is checked that :meth:`walk` checks but the length of paths, some times faster.
        """
        budget = _Budget(len(self._data))
        pending = [self.root.children_offset] if self.root.offset else []
        for stream in self.root.streams:
            if not stream.is_empty:
                yield stream.sha1
        while pending:
            position = pending.pop()
            length = self._length_at(position)
            if length <= _END_SIZE:
                continue
            if position in budget.seen:
                self._raise(f"the children at {position:#x} are two directories'")
            budget.seen.add(position)
            names: set[str] = set()
            while length > _END_SIZE:
                end = self._check_entry(position, length, budget)
                attributes, children, sha1, stream_count, name = self._brief_at(position, length)
                if name in names:
                    self._raise(f"the name {show_name(name)!r} is there twice")
                names.add(name)
                if sha1 != ZERO_SHA1:
                    yield sha1
                if stream_count:
                    sha1s, end = self._stream_sha1s(end, stream_count, budget)
                    yield from sha1s
                if children:
                    is_directory = attributes & FileAttribute.DIRECTORY
                    if not is_directory and self._length_at(children) > _END_SIZE:
                        self._raise(f"{show_name(name)!r} has children, but is not a directory")
                    pending.append(children)
                position = end
                length = self._length_at(position)

    def _stream_sha1s(self, offset: int, count: int, budget: _Budget) -> tuple[list[bytes], int]:
        """Those of ``count`` streams, and where they end."""
        sha1s: list[bytes] = []
        for _ in range(count):
            length, sha1, name_size = self._stream_at(offset, budget)
            self._text(offset + _STREAM.size, name_size, offset, length)
            if sha1 != ZERO_SHA1:
                sha1s.append(sha1)
            offset += length
        return sha1s, offset

    def _brief_at(self, offset: int, length: int) -> tuple[int, int, bytes, int, str]:
        """Attributes, children's offset, SHA-1, count of streams and name of an entry."""
        _, attributes, children, sha1, stream_count, short_size, name_size = (
            _ENTRY_BRIEF.unpack_from(self._data, offset)
        )
        position = offset + _ENTRY_SIZE
        name = self._text(position, name_size, offset, length)
        if short_size:
            position += name_size + 2 if name_size else 0
            short_name = self._text(position, short_size, offset, length)
        else:
            short_name = name
        if is_bad_name(name) or is_bad_name(short_name):
            self._raise(f"the name {show_name(name)!r} could lead out of its directory")
        return attributes, children, sha1, stream_count, name

    def _measure_security(self) -> tuple[int, int]:
        if len(self._data) < _SECURITY.size:
            self._raise(f"expected at least {_SECURITY.size} bytes, got {len(self._data)}")
        size, count = _SECURITY.unpack_from(self._data)
        size = align_up(size, 8) or 8
        if size > len(self._data) or _SECURITY.size + 8 * count > size:
            self._raise(
                f"security data: expected {_SECURITY.size + 8 * count} to {len(self._data)} bytes, "
                f"got {size}"
            )
        return size, count

    def _read_root(self) -> MetadataEntry:
        offset = self._security_size
        # Nothing at all behind the security data is an image without a tree.
        length = self._length_at(offset) if offset < len(self._data) else 0
        if length <= _END_SIZE:
            return MetadataEntry(
                None, "", "", FileAttribute.DIRECTORY, NO_SECURITY, 0, 0, 0, (), 0, 0, 0, 0, 0
            )
        root, _ = self._entry_at(offset, length, None, _Budget(len(self._data)))
        if root.name or not root.attributes & FileAttribute.DIRECTORY:
            self._raise(f"the root: expected a directory without a name, got {root.name!r}")
        return root

    def _children(self, directory: MetadataEntry, budget: _Budget) -> tuple[MetadataEntry, ...]:
        position = directory.children_offset
        if not position:
            return ()
        children: list[MetadataEntry] = []
        names: set[str] = set()
        length = self._length_at(position)
        if length > _END_SIZE:
            if not directory.is_directory:
                self._raise("it has children, but is not a directory", directory)
            if position in budget.seen:
                self._raise_twice(directory)
            budget.seen.add(position)
        while length > _END_SIZE:
            entry, position = self._entry_at(position, length, directory, budget)
            self._check_name(entry)
            if entry.name in names:
                self._raise("it is there twice", entry)
            names.add(entry.name)
            children.append(entry)
            length = self._length_at(position)
        return tuple(children)

    def _raise_twice(self, directory: MetadataEntry) -> NoReturn:
        above = directory.parent
        while above is not None:
            if above.children_offset == directory.children_offset:
                self._raise(f"directory loop: it is {show_name(above.path)!r} again", directory)
            above = above.parent
        self._raise(
            f"its children at {directory.children_offset:#x} are another directory's too", directory
        )

    def _check_name(self, entry: MetadataEntry) -> None:
        for name in (entry.name, entry.short_name):
            if name and is_bad_name(name):
                self._raise(f"the name {show_name(name)!r} could lead out of its directory", entry)
        if not entry.name:
            self._raise("an entry without a name", entry.parent)
        if entry.path_length > PATH_LENGTH_MAX:
            self._raise(f"a path of {entry.path_length} characters, at most {PATH_LENGTH_MAX}")

    def _length_at(self, offset: int) -> int:
        if offset + _END_SIZE > len(self._data) or offset % 8:
            self._raise(
                f"an entry at {offset:#x}: expected a multiple of 8 before {len(self._data):#x}"
            )
        return int.from_bytes(self._data[offset : offset + 8], "little")

    def _check_entry(self, offset: int, length: int, budget: _Budget) -> int:
        end = align_up(offset + length, 8)
        if length < _ENTRY_SIZE or end > len(self._data):
            self._raise(
                f"an entry at {offset:#x}: expected {_ENTRY_SIZE} bytes or more before "
                f"{len(self._data):#x}, got {length}"
            )
        self._spend(end - offset, budget)
        return end

    def _spend(self, size: int, budget: _Budget) -> None:
        budget.left -= size
        if budget.left < 0:
            self._raise("its entries overlap: together they take more bytes than there are")

    def _stream_at(self, offset: int, budget: _Budget) -> tuple[int, bytes, int]:
        """Its aligned length, SHA-1 and the bytes of its name."""
        if offset + _STREAM.size > len(self._data):
            self._raise(f"a stream at {offset:#x}: expected before {len(self._data):#x}")
        length, sha1, name_size = _STREAM.unpack_from(self._data, offset)
        aligned = align_up(length, 8)
        if length < _STREAM.size + name_size or offset + aligned > len(self._data):
            self._raise(
                f"a stream at {offset:#x}: expected {_STREAM.size + name_size} bytes or more "
                f"before {len(self._data):#x}, got {length}"
            )
        self._spend(aligned, budget)
        return aligned, sha1, name_size

    def _entry_at(
        self, offset: int, length: int, parent: MetadataEntry | None, budget: _Budget
    ) -> tuple[MetadataEntry, int]:
        """The entry at ``offset``, and where the next one lies."""
        end = self._check_entry(offset, length, budget)
        (
            _, attributes, security_id, children_offset,
            creation_time, access_time, write_time,
            sha1, link_or_tag, stream_count, short_name_size, name_size,
        ) = _ENTRY.unpack_from(self._data, offset)  # fmt: skip
        position = offset + _ENTRY_SIZE
        name = self._text(position, name_size, offset, length)
        # A NUL that is not counted follows each name, also the long one before a short one.
        position += name_size + 2 if name_size else 0
        short_name = self._text(position, short_name_size, offset, length)
        streams: list[tuple[str, bytes]] = [("", sha1)]
        for _ in range(stream_count):
            stream_length, stream_sha1, stream_name_size = self._stream_at(end, budget)
            stream_name = self._text(end + _STREAM.size, stream_name_size, end, stream_length)
            streams.append((stream_name, stream_sha1))
            end += stream_length
        is_reparse = attributes & FileAttribute.REPARSE_POINT
        (link_group,) = _LINK_OR_TAG.unpack(link_or_tag)
        entry = MetadataEntry(
            parent=parent,
            name=name,
            short_name=short_name,
            attributes=attributes,
            security_id=security_id,
            creation_time=creation_time,
            access_time=access_time,
            write_time=write_time,
            streams=sort_streams(streams, attributes),
            hard_link_group=0 if is_reparse else link_group,
            reparse_tag=link_group & 0xFFFFFFFF if is_reparse else 0,
            offset=offset,
            children_offset=children_offset,
            path_length=0 if parent is None else parent.path_length + 1 + len(name),
        )
        return entry, end

    def _text(self, offset: int, size: int, owner_offset: int, owner_length: int) -> str:
        if size % 2 or offset + size > owner_offset + owner_length:
            self._raise(
                f"a name at {offset:#x}: expected an even number of bytes before "
                f"{owner_offset + owner_length:#x}, got {size}"
            )
        # NTFS allows half a surrogate pair in a name, and so does a WIM.
        return self._data[offset : offset + size].decode("utf-16-le", "surrogatepass")

    def _raise(self, message: str, entry: MetadataEntry | None = None) -> NoReturn:
        where = f"{self._what}: metadata"
        raise FormatError(
            f"{where}: {message}"
            if entry is None
            else f"{where}: {show_name(entry.path[-400:])!r}: {message}"
        )
