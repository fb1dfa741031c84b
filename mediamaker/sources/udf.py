# SPDX-License-Identifier: GPL-3.0-or-later
"""The files of a UDF volume inside an ISO file, as byte ranges of that file.

Real Windows media keep their files in UDF; their ISO 9660 side holds only README.TXT.

Why not pycdlib's UDF tree: ``tests/sources/test_pycdlib_limits.py`` shows with pycdlib 1.22
that it (a) lists deleted entries as files, (b) fails on a directory whose entries straddle two
extents, (c) takes "the descriptors go on in that extent" for data, and thus loses the rest of
a fragmented file, (d) refuses an image with one anchor, and (e) reads as many bytes for one
small File Entry as the image asks for, up to 4 GiB each. (a) to (c) would put wrong bytes on a
stick, and none can be mended from outside, as pycdlib walks the whole tree while it opens. It
still reads ISO 9660, Joliet, Rock Ridge and El Torito (``iso9660.py``), and judges the tests.
"""

from __future__ import annotations

from collections import deque
from dataclasses import dataclass, field

from mediamaker.errors import FormatError
from mediamaker.extents import FileRange, Piece, Zeros, coalesce_pieces
from mediamaker.formats.record import parse_record
from mediamaker.formats.udf import (
    ANCHOR_BLOCK,
    BLOCK_SIZE,
    EXTENT_CONTINUED,
    EXTENT_RECORDED,
    TAG_ANCHOR,
    TAG_FILE_SET,
    TAG_LOGICAL_VOLUME,
    TAG_PARTITION,
    TAG_TERMINATOR,
    Allocation,
    Anchor,
    FileSet,
    LogicalVolume,
    PartitionDescriptor,
    check_tag,
    parse_label,
    parse_long_allocation,
    parse_partition_maps,
    parse_tag,
)
from mediamaker.formats.udf_file import (
    FILE_TYPE_DIRECTORY,
    FILE_TYPE_REGULAR,
    FILE_TYPE_SYMLINK,
    FILE_TYPE_UNSPECIFIED,
    FileEntry,
    FileIdentifier,
    parse_allocation_extent,
    parse_directory,
    parse_file_entry,
)
from mediamaker.sources.identity import SourceFile
from mediamaker.sources.reader import SourceReader
from mediamaker.sources.tree import Entry
from mediamaker.units import KIB, MIB, format_range

ENTRY_COUNT_MAX = 200_000
DIRECTORY_SIZE_MAX = 64 * MIB
"""Of one image together."""
DEPTH_MAX = 128
ALLOCATION_COUNT_MAX = 1_000_000
"""Of one image together; a file of 100 GiB in one piece needs 101.

Nor may there be more than one for 64 bytes of the image: several files can claim the same ones.
"""
_BYTES_PER_ALLOCATION_MIN = 64
_SEQUENCE_SIZE_MAX = 64 * KIB


@dataclass(frozen=True, slots=True)
class UdfVolume:
    """``notes`` tells what of the volume is not among ``entries``, and why."""

    label: str
    entries: tuple[Entry, ...]
    notes: tuple[str, ...]


@dataclass(slots=True)
class _Walk:
    """One image while it is read; limits are counted over all of it."""

    file: SourceFile
    reader: SourceReader
    partition_starts: tuple[int, ...] = ()
    allocation_count: int = 0
    directory_size: int = 0
    entries: list[Entry] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)

    def read(self, offset: int, size: int, what: str) -> bytes:
        self.check_inside(offset, size, what)
        return self.reader.pread(self.file.source_id, offset, size)

    def check_inside(self, offset: int, size: int, what: str) -> None:
        if offset + size > self.file.size:
            raise FormatError(
                f"{what}: it lies at {format_range(offset, offset + size)}, past the end of the "
                f"image at {self.file.size:#x}: {offset + size - self.file.size} bytes are missing",
                hint="download or copy the image again",
            )

    def count_directory(self, size: int, what: str) -> None:
        """Extents may overlap, so that a small image could have us read names for hours."""
        if size > DIRECTORY_SIZE_MAX:
            raise FormatError(f"{what}: a directory of {size} bytes, at most {DIRECTORY_SIZE_MAX}")
        self.directory_size += size
        size_max = min(DIRECTORY_SIZE_MAX, self.file.size)
        if self.directory_size > size_max:
            raise FormatError(
                f"{what}: with it the directories have {self.directory_size} bytes, at most "
                f"{size_max} are possible in this image"
            )

    def partition_offset(self, allocation: Allocation, what: str) -> int:
        """Where ``allocation`` begins in the image, in bytes."""
        if allocation.partition_index >= len(self.partition_starts):
            raise FormatError(
                f"{what}: it lies in partition {allocation.partition_index}, "
                f"but the volume has {len(self.partition_starts)}"
            )
        start = self.partition_starts[allocation.partition_index]
        return (start + allocation.block) * BLOCK_SIZE

    def read_block(self, allocation: Allocation, what: str) -> bytes:
        return self.read(self.partition_offset(allocation, what), BLOCK_SIZE, what)


def read_udf(file: SourceFile, reader: SourceReader) -> UdfVolume:
    """Read every name and every allocation descriptor; no file content is read.

    Raises:
        FormatError: something is damaged or beyond a limit; the message names it.
    """
    walk = _Walk(file, reader)
    label, root = _find_root(walk)
    _walk_directories(walk, root)
    return UdfVolume(label, tuple(walk.entries), tuple(walk.notes))


def _find_root(walk: _Walk) -> tuple[str, Allocation]:
    """The volume label and the root directory's ICB; fills in the partitions."""
    what = f"{walk.file.path}: UDF"
    anchor = _read_anchor(walk)
    partitions, volume_block = _read_sequence(walk, anchor)
    volume = parse_record(LogicalVolume, volume_block, what=f"{what} logical volume")
    if volume.block_size != BLOCK_SIZE:
        raise FormatError(
            f"{what} logical volume: expected blocks of {BLOCK_SIZE} bytes, got {volume.block_size}"
        )
    numbers = parse_partition_maps(volume_block, what=f"{what} logical volume")
    for number in numbers:
        if number not in partitions:
            raise FormatError(f"{what}: the logical volume lies in partition {number}, not found")
    walk.partition_starts = tuple(partitions[number].start_block for number in numbers)
    what_set = f"{what} file set"
    block = walk.read_block(parse_long_allocation(volume.file_set), what_set)
    check_tag(block, TAG_FILE_SET, what=what_set)
    root = parse_long_allocation(parse_record(FileSet, block, what=what_set).root_directory)
    return parse_label(volume.volume_identifier, what=f"{what} volume label"), root


def _read_anchor(walk: _Walk) -> Anchor:
    """The first good anchor of the places where one may be (3/8.4.2.1)."""
    block_count = walk.file.size // BLOCK_SIZE
    problems: list[str] = []
    for block in (ANCHOR_BLOCK, block_count - 1, block_count - 1 - ANCHOR_BLOCK):
        what = f"block {block}"
        if not 0 <= block < block_count:
            continue
        data = walk.read(block * BLOCK_SIZE, BLOCK_SIZE, what)
        try:
            check_tag(data, TAG_ANCHOR, what=what)
        except FormatError as error:
            problems.append(error.message)
            continue
        return parse_record(Anchor, data, what=what)
    raise FormatError(
        f"{walk.file.path}: it says it is UDF, but no anchor is usable ({'; '.join(problems)})",
        hint="download or copy the image again",
    )


def _read_sequence(walk: _Walk, anchor: Anchor) -> tuple[dict[int, PartitionDescriptor], bytes]:
    """The partitions by number, and the logical volume's block; the newest of each prevails."""
    what = f"{walk.file.path}: UDF volume descriptor sequence"
    if anchor.sequence_size > _SEQUENCE_SIZE_MAX:
        raise FormatError(
            f"{what}: {anchor.sequence_size} bytes are over the limit of {_SEQUENCE_SIZE_MAX}"
        )
    data = walk.read(anchor.sequence_block * BLOCK_SIZE, anchor.sequence_size, what)
    partitions: dict[int, PartitionDescriptor] = {}
    volume: tuple[int, bytes] | None = None
    for start in range(0, len(data), BLOCK_SIZE):
        block = data[start : start + BLOCK_SIZE]
        if not any(block[:16]):
            break
        tag = parse_tag(block, what=what)
        if tag == TAG_TERMINATOR:
            break
        if tag == TAG_PARTITION:
            item = parse_record(PartitionDescriptor, block, what=what)
            known = partitions.get(item.partition_number)
            if known is None or item.sequence_number >= known.sequence_number:
                partitions[item.partition_number] = item
        elif tag == TAG_LOGICAL_VOLUME:
            number = parse_record(LogicalVolume, block, what=what).sequence_number
            if volume is None or number >= volume[0]:
                volume = (number, block)
    if volume is None:
        raise FormatError(f"{what}: it has no logical volume descriptor")
    return partitions, volume[1]


def _walk_directories(walk: _Walk, root: Allocation) -> None:
    """Breadth first; a directory is entered once, whatever names lead to it."""
    what = f"{walk.file.path}: UDF root directory"
    entry = _read_entry(walk, root, what)
    if entry.file_type != FILE_TYPE_DIRECTORY:
        raise FormatError(f"{what}: expected a directory, got file type {entry.file_type}")
    seen = {walk.partition_offset(root, what): "the root directory"}
    queue: deque[tuple[tuple[str, ...], Allocation, FileEntry]] = deque([((), root, entry)])
    while queue:
        path, icb, directory = queue.popleft()
        what = _describe(walk, path)
        walk.count_directory(directory.size, what)
        pieces = _resolve_pieces(walk, icb, directory, what)
        data = walk.reader.read_pieces(pieces, 0, directory.size)
        for child in parse_directory(data, what=what):
            if child.is_parent or child.is_deleted:
                continue
            child_path = (*path, child.name)
            found = _add_child(walk, child, child_path)
            if found is None or found.file_type != FILE_TYPE_DIRECTORY:
                continue
            what_child = _describe(walk, child_path)
            offset = walk.partition_offset(child.icb, what_child)
            if offset in seen:
                raise FormatError(f"{what_child}: directory loop: it is {seen[offset]} again")
            if len(child_path) > DEPTH_MAX:
                raise FormatError(f"{what_child}: directories deeper than {DEPTH_MAX}")
            seen[offset] = f"'{'/'.join(child_path)}'"
            queue.append((child_path, child.icb, found))


def _add_child(walk: _Walk, child: FileIdentifier, path: tuple[str, ...]) -> FileEntry | None:
    """Read the File Entry and record it; None if there is nothing to record."""
    what = _describe(walk, path)
    if len(walk.entries) >= ENTRY_COUNT_MAX:
        raise FormatError(f"{what}: more than {ENTRY_COUNT_MAX} files and directories")
    block = walk.read_block(child.icb, what)
    if not any(block):
        # Seen by pycdlib's author on a Windows Server 2008 DVD: a name whose entry is blank.
        walk.notes.append(f"{'/'.join(path)}: left out, its UDF file entry is blank")
        return None
    entry = parse_file_entry(block, partition_index=child.icb.partition_index, what=what)
    if child.is_dir != (entry.file_type == FILE_TYPE_DIRECTORY):
        raise FormatError(
            f"{what}: its name says {'directory' if child.is_dir else 'file'}, "
            f"its file entry says type {entry.file_type}"
        )
    if child.is_dir:
        walk.entries.append(
            Entry(path, is_dir=True, size=0, pieces=(), modified_ns=entry.modified_ns)
        )
    elif entry.file_type in {FILE_TYPE_REGULAR, FILE_TYPE_UNSPECIFIED}:
        pieces = _resolve_pieces(walk, child.icb, entry, what)
        item = Entry(
            path, is_dir=False, size=entry.size, pieces=pieces, modified_ns=entry.modified_ns
        )
        walk.entries.append(item)
    else:
        kind = "a symbolic link" if entry.file_type == FILE_TYPE_SYMLINK else "a special file"
        walk.notes.append(f"{'/'.join(path)}: left out, it is {kind}")
    return entry


def _read_entry(walk: _Walk, icb: Allocation, what: str) -> FileEntry:
    block = walk.read_block(icb, what)
    return parse_file_entry(block, partition_index=icb.partition_index, what=what)


def _resolve_pieces(walk: _Walk, icb: Allocation, entry: FileEntry, what: str) -> tuple[Piece, ...]:
    """The content as ranges of the image: exactly ``entry.size`` bytes."""
    source_id = walk.file.source_id
    if entry.embedded is not None:
        start, size = entry.embedded
        offset = walk.partition_offset(icb, what) + start
        return coalesce_pieces([Piece(size, FileRange(source_id, offset))] if size else [])
    pieces: list[Piece] = []
    rest = entry.size
    for allocation in _follow_allocations(walk, entry, what):
        size = min(allocation.size, rest)
        if size == 0:
            break
        if allocation.kind == EXTENT_RECORDED:
            offset = walk.partition_offset(allocation, what)
            walk.check_inside(offset, size, what)
            pieces.append(Piece(size, FileRange(source_id, offset)))
        else:
            pieces.append(Piece(size, Zeros()))
        rest -= size
        if rest and allocation.size % BLOCK_SIZE:
            raise FormatError(
                f"{what}: an extent of {allocation.size} bytes, not a multiple of "
                f"{BLOCK_SIZE}, is followed by another"
            )
    if rest:
        raise FormatError(
            f"{what}: expected {entry.size} bytes, its allocation descriptors hold "
            f"{entry.size - rest}"
        )
    return coalesce_pieces(pieces)


def _follow_allocations(walk: _Walk, entry: FileEntry, what: str) -> list[Allocation]:
    """Every descriptor, those in further extents included (4/12.1)."""
    count_max = min(ALLOCATION_COUNT_MAX, walk.file.size // _BYTES_PER_ALLOCATION_MIN)
    found: list[Allocation] = []
    seen: set[int] = set()
    todo = deque(entry.allocations)
    while todo:
        allocation = todo.popleft()
        walk.allocation_count += 1
        if walk.allocation_count > count_max:
            raise FormatError(f"{what}: more than {count_max} allocation descriptors")
        if allocation.kind != EXTENT_CONTINUED:
            found.append(allocation)
            continue
        offset = walk.partition_offset(allocation, what)
        if offset in seen:
            raise FormatError(f"{what}: its allocation descriptors form a loop at {offset:#x}")
        seen.add(offset)
        todo = deque(
            parse_allocation_extent(
                walk.read_block(allocation, what),
                has_long_allocations=entry.has_long_allocations,
                partition_index=allocation.partition_index,
                what=f"{what}: allocation descriptors at {offset:#x}",
            )
        )
    return found


def _describe(walk: _Walk, path: tuple[str, ...]) -> str:
    name = repr("/".join(path)) if path else "UDF root directory"
    return f"{walk.file.path}: {name}"
