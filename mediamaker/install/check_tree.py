# SPDX-License-Identifier: GPL-3.0-or-later
"""Compares the tree of an image with the files of a volume: all but the contents of streams.

Names, short names, hard links, attributes, times, security descriptors and reparse tags are
compared here; of each stream that has contents it is noted where they lie and what their SHA-1
has to be. Each directory's index is compared with the names that the files say they have.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import Final

from mediamaker.errors import FormatError
from mediamaker.formats.ntfs import FIRST_USER_RECORD_NUMBER, ROOT_RECORD_NUMBER
from mediamaker.formats.ntfs_file import (
    BITMAP,
    DATA,
    DIRECTORY_INDEX,
    INDEX_ALLOCATION,
    INDEX_ROOT,
    NAMESPACE_DOS,
    REPARSE_POINT,
    SECURITY_DESCRIPTOR,
    STREAM_COMPRESSED,
    STREAM_ENCRYPTED,
    NameInDirectory,
    parse_index_block,
    parse_index_root,
)
from mediamaker.formats.wim_entry import FileAttribute, MetadataEntry, show_name
from mediamaker.formats.wim_metadata import WimMetadata
from mediamaker.install.check_contents import EMPTY_SHA1, WantedStream, hash_value
from mediamaker.install.volume_records import VolumeFile, VolumeRecords, VolumeStream

CaseKey = tuple[str, ...]
_EXTEND_RECORD_NUMBER: Final = 11
_REPARSE_HEADER_SIZE: Final = 8
_INDEX_SIZE_MAX: Final = 1 << 30

COMPARED_ATTRIBUTES: Final = int(
    FileAttribute.READONLY | FileAttribute.HIDDEN | FileAttribute.SYSTEM | FileAttribute.ARCHIVE
)
"""The others say how a file is stored or are the file system's own affair; a directory and a
reparse point are compared as what they are."""


@dataclass(frozen=True, slots=True)
class Difference:
    """``path`` on the volume is not as in the image."""

    path: str
    message: str


@dataclass(slots=True)
class TreeCheck:
    """What was found; ``wanted`` are the streams whose contents are to be compared."""

    differences: list[Difference] = field(default_factory=list)
    wanted: list[WantedStream] = field(default_factory=list)
    file_count: int = 0
    directory_count: int = 0
    stream_count: int = 0
    unreadable: list[str] = field(default_factory=list)

    def add(self, path: str, message: str) -> None:
        """Note a difference."""
        self.differences.append(Difference(path, message))


class TreeComparer:
    """Compares ``metadata`` (an image) with the files of ``volume``.

    ``extras`` are the SHA-1 of files that were added, by :func:`case_path`; ``left_out`` are the
    paths that were not applied.
    """

    def __init__(
        self,
        metadata: WimMetadata,
        volume: VolumeRecords,
        *,
        extras: Mapping[CaseKey, bytes],
        left_out: frozenset[CaseKey],
        what: str,
    ) -> None:
        self._metadata = metadata
        self._volume = volume
        self._what = what
        self._extras = dict(extras)
        self._left_out = left_out
        self._special_names = {path[-1] for path in (*extras, *left_out)}
        self._files = volume.read_files()
        self._descriptors = volume.read_descriptors(self._files)
        self._wanted_descriptors = metadata.security_descriptors()
        # (name, number) by directory; the short names by (directory, number).
        self._children: dict[int, dict[str, int]] = {}
        self._short_names: dict[tuple[int, int], str] = {}
        self._seen: set[tuple[int, str]] = set()
        self._groups: dict[int, object] = {}
        self.result = TreeCheck()

    def run(self) -> TreeCheck:
        """Compare everything.

        Raises:
            FormatError: the volume or the image is damaged so that nothing can be said.
        """
        self._sort_names()
        numbers: dict[MetadataEntry, int] = {}
        for entry in self._metadata.walk():
            number = self._find(entry, numbers)
            if number is not None:
                numbers[entry] = number
        for path, sha1 in self._extras.items():
            self._check_extra(path, sha1)
        self._check_indexes()
        self._check_what_is_more()
        return self.result

    def _sort_names(self) -> None:
        for file in self._files.values():
            for name in file.names:
                if name.namespace == NAMESPACE_DOS:
                    self._short_names[name.parent_number, file.number] = name.name
                else:
                    children = self._children.setdefault(name.parent_number, {})
                    if name.name in children:
                        self.result.add(self._path(name), "the name is there twice")
                    children[name.name] = file.number

    def _find(self, entry: MetadataEntry, numbers: dict[MetadataEntry, int]) -> int | None:
        """The number of the entry's file; None when it is not there, or not to be compared."""
        if entry.parent is None:
            self._compare(entry, ROOT_RECORD_NUMBER, "/")
            return ROOT_RECORD_NUMBER
        above = numbers.get(entry.parent)
        if above is None:
            return None
        number = self._children.get(above, {}).get(entry.name)
        path = show_name(entry.path)
        if self._is_special(entry, path, is_there=number is not None):
            return None
        if number is None:
            self.result.add(path, "is not there")
            return None
        self._seen.add((above, entry.name))
        self._compare_short_name(entry, above, number, path)
        # Names of one file are one group; a file with one name is a group of its own.
        group: object = entry.hard_link_group or entry
        if number in self._groups:
            if self._groups[number] != group:
                self.result.add(path, "is a hard link to a file that it should not be one of")
            self.result.file_count += 1
            return number
        self._groups[number] = group
        self._compare(entry, number, path)
        return number

    def _is_special(self, entry: MetadataEntry, path: str, *, is_there: bool) -> bool:
        """Whether it was left out or replaced, so that the image does not say what it is."""
        if entry.name.casefold() not in self._special_names:
            return False
        key = case_path(entry.parts)
        if key in self._left_out and key not in self._extras and is_there:
            self.result.add(path, "is there, though it was to be left out")
        return key in self._left_out or key in self._extras

    def _compare(self, entry: MetadataEntry, number: int, path: str) -> None:
        file = self._files.get(number)
        if file is None or file.standard is None:
            self.result.add(path, f"its file record {number} is not in use")
            return
        if file.is_directory:
            self.result.directory_count += 1
        else:
            self.result.file_count += 1
        add = self.result.add
        if file.is_directory != entry.is_directory:
            add(path, f"is {'' if file.is_directory else 'not '}a directory")
            return
        got, want = file.standard, entry
        differing = (got.attributes ^ want.attributes) & COMPARED_ATTRIBUTES
        if differing:
            add(
                path,
                f"expected the attributes {want.attributes & COMPARED_ATTRIBUTES:#x}, "
                f"got {got.attributes & COMPARED_ATTRIBUTES:#x}",
            )
        for name, expected, found in (
            ("created", want.creation_time, got.created),
            ("written", want.write_time, got.written),
            ("accessed", want.access_time, got.accessed),
        ):
            if expected != found:
                add(path, f"expected to be {name} at {expected}, got {found} (100 ns from 1601)")
        streams = self._streams(file, path)
        if want.security_id >= 0:
            self._compare_security(want, file, streams, path)
        self._compare_streams(want, streams, path)

    def _compare_short_name(self, entry: MetadataEntry, above: int, number: int, path: str) -> None:
        found = self._short_names.get((above, number), "")
        # A name that is short itself is its own short name.
        if entry.short_name not in {found, entry.name}:
            self.result.add(path, f"expected the short name {entry.short_name!r}, got {found!r}")

    def _compare_security(
        self,
        entry: MetadataEntry,
        file: VolumeFile,
        streams: dict[tuple[int, str], VolumeStream],
        path: str,
    ) -> None:
        if entry.security_id >= len(self._wanted_descriptors):
            raise FormatError(f"{self._what}: {path}: its security descriptor is not in the image")
        expected = self._wanted_descriptors[entry.security_id]
        found = self._descriptors.get(file.standard.security_id) if file.standard else None
        own = streams.get((SECURITY_DESCRIPTOR, ""))
        if found is None and own is not None:
            found = self._volume.read_stream(own)
        if found != expected:
            self.result.add(path, "has another security descriptor" if found else "has none")

    def _compare_streams(
        self, entry: MetadataEntry, streams: dict[tuple[int, str], VolumeStream], path: str
    ) -> None:
        expected: dict[tuple[int, str], bytes] = {}
        if not entry.is_directory:
            expected[DATA, ""] = EMPTY_SHA1
        for stream in entry.streams:
            if stream.kind == "encrypted":
                self.result.unreadable.append(path)
                return
            if stream.kind == "data":
                expected[DATA, stream.name] = stream.sha1
        reparse = streams.get((REPARSE_POINT, ""))
        if bool(entry.reparse_tag) != (reparse is not None):
            self.result.add(path, f"is {'not ' if entry.reparse_tag else ''}a reparse point")
        elif reparse is not None:
            self._compare_reparse(entry, reparse, path)
        for key, sha1 in expected.items():
            label = f"{path}:{show_name(key[1])}" if key[1] else path
            found = streams.get(key)
            if found is None:
                # A link has contents of its own only where the image says so.
                if sha1 != EMPTY_SHA1 or key[1]:
                    self.result.add(label, "its stream is not there")
                continue
            self._want(found, sha1, label)
        for kind, name in streams:
            if kind == DATA and (kind, name) not in expected:
                self.result.add(f"{path}:{show_name(name)}", "is a stream that is not in the image")

    def _compare_reparse(self, entry: MetadataEntry, found: VolumeStream, path: str) -> None:
        value = self._volume.read_stream(found)
        tag = int.from_bytes(value[:4], "little")
        expected = entry.reparse_data
        sha1 = EMPTY_SHA1 if expected is None else expected.sha1
        self.result.stream_count += 1
        if tag != entry.reparse_tag:
            self.result.add(path, f"expected the reparse tag {entry.reparse_tag:#x}, got {tag:#x}")
        elif hash_value(value[_REPARSE_HEADER_SIZE:]) != sha1:
            self.result.add(path, "its reparse point has other data")

    def _want(self, stream: VolumeStream, sha1: bytes, label: str) -> None:
        self.result.stream_count += 1
        if stream.value is not None or stream.size == 0:
            got = hash_value(stream.value or b"")
            if got != sha1:
                self.result.add(label, f"expected SHA-1 {sha1.hex()}, got {got.hex()}")
        elif sha1 == EMPTY_SHA1:
            self.result.add(label, f"expected no contents, got {stream.size} bytes")
        elif stream.flags & (STREAM_COMPRESSED | STREAM_ENCRYPTED):
            self.result.unreadable.append(label)
        else:
            self.result.wanted.append(WantedStream(stream, sha1, label))

    def _check_extra(self, path: CaseKey, sha1: bytes) -> None:
        number, shown = ROOT_RECORD_NUMBER, ""
        for part in path:
            children = self._children.get(number, {})
            name = next((name for name in children if name.casefold() == part), None)
            if name is None:
                self.result.add(f"{shown}/{part}", "was to be added, and is not there")
                return
            self._seen.add((number, name))
            number, shown = children[name], f"{shown}/{show_name(name)}"
        file = self._files[number]
        self.result.file_count += 1
        stream = self._streams(file, shown).get((DATA, ""))
        if stream is None:
            self.result.add(shown, "has no contents")
        else:
            self._want(stream, sha1, shown)

    def _check_indexes(self) -> None:
        """Each directory's index has the names that the files have, neither more nor less."""
        expected: dict[int, set[NameInDirectory]] = {}
        for file in self._files.values():
            for name in file.names:
                expected.setdefault(name.parent_number, set()).add(name)
        for file in self._files.values():
            if not file.is_directory:
                continue
            path = self._path(file.names[0]) if file.names else f"file record {file.number}"
            try:
                found = set(self._index_names(file, path))
            except FormatError as error:
                self.result.add(path, error.message)
                continue
            names = expected.get(file.number, set())
            for name in sorted(names - found)[:1]:
                self.result.add(self._path(name), "is not in the index of its directory")
            for name in sorted(found - names)[:1]:
                self.result.add(
                    self._path(name), "is in the index of its directory, but no file says so"
                )

    def _index_names(self, file: VolumeFile, path: str) -> Iterator[NameInDirectory]:
        streams = self._streams(file, path)
        root = streams.get((INDEX_ROOT, DIRECTORY_INDEX))
        if root is None or root.value is None:
            raise FormatError(f"{path} has no index")
        block_size, names = parse_index_root(root.value, path)
        yield from names
        blocks = streams.get((INDEX_ALLOCATION, DIRECTORY_INDEX))
        if blocks is None:
            return
        if not 0 < block_size <= blocks.size <= _INDEX_SIZE_MAX or blocks.size % block_size:
            raise FormatError(
                f"{path}: its index has {blocks.size} bytes in blocks of {block_size}"
            )
        data = self._volume.read_stream(blocks)
        used = streams.get((BITMAP, DIRECTORY_INDEX))
        bitmap = b"" if used is None else self._volume.read_stream(used)
        for index in range(len(data) // block_size):
            if index // 8 < len(bitmap) and bitmap[index // 8] >> index % 8 & 1:
                yield from parse_index_block(
                    data[index * block_size : (index + 1) * block_size], path
                )

    def _check_what_is_more(self) -> None:
        """Nothing is on the volume that is not in the image."""
        system = set(range(FIRST_USER_RECORD_NUMBER)) - {ROOT_RECORD_NUMBER}
        for above, children in self._children.items():
            if above in system:
                continue
            for name, number in children.items():
                if number >= FIRST_USER_RECORD_NUMBER and (above, name) not in self._seen:
                    path = self._path(NameInDirectory(number, above, 0, name))
                    key = case_path(tuple(path.strip("/").split("/")))
                    if key not in self._left_out:
                        self.result.add(path, "is not in the image")

    def _streams(self, file: VolumeFile, path: str) -> dict[tuple[int, str], VolumeStream]:
        try:
            return {(stream.kind, stream.name): stream for stream in file.streams(self._what)}
        except FormatError as error:
            self.result.add(path, error.message)
            return {}

    def _path(self, name: NameInDirectory) -> str:
        """A path that has this name, for people."""
        parts = [show_name(name.name)]
        number = name.parent_number
        for _ in range(len(self._files)):
            if number == ROOT_RECORD_NUMBER:
                break
            file = self._files.get(number)
            above = (
                next((n for n in file.names if n.namespace != NAMESPACE_DOS), None)
                if file
                else None
            )
            if above is None:
                parts.append("?")
                break
            parts.append(show_name(above.name))
            number = above.parent_number
        return "/" + "/".join(reversed(parts))


def case_path(parts: tuple[str, ...]) -> CaseKey:
    """The names as Windows compares them, near enough for those that we add."""
    return tuple(name.casefold() for name in parts)
