# SPDX-License-Identifier: GPL-3.0-or-later
"""An NTFS volume that libwim may read or write: a block device or a plain file, not in use.

Also surveys what libntfs-3g's capture leaves behind without a word: extended attributes, which it
does not read, and encrypted files, which it leaves out. The records of the volume are read one
after the other; no index is followed.
"""

from __future__ import annotations

import os
import stat
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from mediamaker.errors import FormatError, TargetRefusedError
from mediamaker.formats.ntfs import (
    BOOT_SECTOR_SIZE,
    FIRST_USER_RECORD_NUMBER,
    ROOT_RECORD_NUMBER,
    DataPart,
    FileRecord,
    NtfsBoot,
    parse_file_record,
    parse_ntfs_boot,
)
from mediamaker.units import MIB

EXAMPLE_COUNT_MAX = 10
_READ_SIZE = 4 * MIB
_TABLE_SIZE_MAX = 1 << 40
_DEPTH_MAX = 256
_EXTEND_RECORD_NUMBER = 11
_NTFS_DRIVERS = {"ntfs", "ntfs3", "fuseblk", "fuse", "fuse.ntfs-3g", "fuse.ntfs"}


@dataclass(frozen=True, slots=True, kw_only=True)
class NtfsSurvey:
    """What a volume holds; the examples are paths, at most :data:`EXAMPLE_COUNT_MAX` of each.

    ``encrypted_count`` has the encrypted files and directories, and what is in such directories.
    """

    file_count: int
    root_names: tuple[str, ...]
    extended_attribute_count: int
    extended_attribute_examples: tuple[str, ...]
    encrypted_count: int
    encrypted_examples: tuple[str, ...]


@contextmanager
def open_ntfs_volume(path: Path, *, writable: bool, is_held: bool = False) -> Iterator[int]:
    """A read-only descriptor of the volume; a block device stays ours alone for the block.

    ``is_held`` says that the caller has the whole disk open with O_EXCL: then nobody can have
    mounted a partition of it, and the kernel would refuse us, too.

    Raises:
        TargetRefusedError: it is no file or block device, or is mounted or otherwise in use.
        FormatError: it is not NTFS.
    """
    try:
        # O_EXCL of a block device fails while it is mounted, in any mount namespace.
        is_block = stat.S_ISBLK(path.stat().st_mode)
        flags = (
            os.O_RDONLY
            | os.O_CLOEXEC
            | os.O_NONBLOCK
            | (os.O_EXCL if is_block and not is_held else 0)
        )
        descriptor = os.open(path, flags)
    except OSError as error:
        raise TargetRefusedError(
            f"{path}: can't be opened: {error.strerror}",
            hint="unmount it first, and see that nothing else uses it",
        ) from error
    try:
        mode = os.fstat(descriptor).st_mode
        if not stat.S_ISREG(mode) and not stat.S_ISBLK(mode):
            raise TargetRefusedError(
                f"{path}: expected an NTFS volume in a file or on a block device"
            )
        if not os.access(path, os.R_OK | (os.W_OK if writable else 0)):
            raise TargetRefusedError(f"{path}: we may not {'write' if writable else 'read'} it")
        _check_not_mounted(path)
        parse_ntfs_boot(os.pread(descriptor, BOOT_SECTOR_SIZE, 0), what=str(path))
        yield descriptor
    finally:
        os.close(descriptor)


def is_ntfs_volume(path: Path) -> bool:
    """Whether ``path`` is a file or block device (rather than a directory)."""
    try:
        mode = path.stat().st_mode
    except OSError:
        return False
    return stat.S_ISREG(mode) or stat.S_ISBLK(mode)


def survey_ntfs(descriptor: int, path: Path) -> NtfsSurvey:
    """Read every file record of the volume.

    Raises:
        FormatError: damaged records.
    """
    table = _FileTable(descriptor, str(path))
    with_attributes: set[int] = set()
    encrypted: set[int] = set()
    root_names: list[str] = []
    parents: dict[int, set[int]] = {}
    file_count = 0
    for number, record in table.records():
        base = record.base_number or number
        if base < FIRST_USER_RECORD_NUMBER:
            continue
        above = {name.parent_number for name in record.names}
        if above:
            parents.setdefault(base, set()).update(above)
        file_count += base == number and above != {_EXTEND_RECORD_NUMBER}
        if record.has_extended_attributes:
            with_attributes.add(base)
        if record.is_encrypted:
            encrypted.add(base)
        root_names.extend(
            name.name for name in record.names if name.parent_number == ROOT_RECORD_NUMBER
        )
    return NtfsSurvey(
        file_count=file_count,
        root_names=tuple(sorted(root_names)),
        extended_attribute_count=len(with_attributes),
        extended_attribute_examples=_show_paths(table, with_attributes),
        encrypted_count=_count_below(encrypted, parents),
        encrypted_examples=_show_paths(table, encrypted),
    )


def _count_below(numbers: set[int], parents: dict[int, set[int]]) -> int:
    """How many files are in ``numbers``, or have only names in directories that are."""
    lost = set(numbers)
    if not lost:
        return 0
    # A round for each level of directories below the highest one.
    for _ in range(_DEPTH_MAX):
        more = {file for file, above in parents.items() if file not in lost and above <= lost}
        if not more:
            break
        lost |= more
    return len(lost)


def _show_paths(table: _FileTable, numbers: set[int]) -> tuple[str, ...]:
    return tuple(table.path(number) for number in sorted(numbers)[:EXAMPLE_COUNT_MAX])


class _FileTable:
    """The records of a volume ($MFT), found through record 0 and its extensions."""

    def __init__(self, descriptor: int, what: str) -> None:
        self._descriptor = descriptor
        self._what = what
        self._boot: NtfsBoot = parse_ntfs_boot(os.pread(descriptor, BOOT_SECTOR_SIZE, 0), what=what)
        data = self._pread(self._boot.mft_offset, self._boot.record_size)
        record = parse_file_record(data, self._boot, number=0, what=what)
        if record is None or record.data is None or record.data_size is None:
            raise FormatError(f"{what}: NTFS file record 0 does not describe the file table")
        if record.data_size > min(_TABLE_SIZE_MAX, self._boot.size):
            raise FormatError(f"{what}: NTFS file table of {record.data_size} bytes: too many")
        self._count = record.data_size // self._boot.record_size
        # (first byte of the table, where it lies, bytes), in order.
        self._runs: list[tuple[int, int, int]] = []
        self._waiting: dict[int, DataPart] = {}
        self._add(record.data)

    def records(self) -> Iterator[tuple[int, FileRecord]]:
        """Every record in use, by number."""
        size = self._boot.record_size
        end = self._count * size
        position = index = number = 0
        rest = b""
        while position < end and index < len(self._runs):
            start, offset, run_size = self._runs[index]
            index += 1
            for done in range(0, min(run_size, end - start), _READ_SIZE):
                wanted = min(_READ_SIZE, run_size - done, end - start - done)
                # With clusters smaller than records, a record may lie in two places.
                data = rest + self._pread(offset + done, wanted)
                whole = len(data) // size * size
                for at in range(0, whole, size):
                    record = self._parse(data[at : at + size], number)
                    if record is not None:
                        # A table in many pieces has its later runs in extensions of record 0.
                        if number and record.base_number == 0 and record.data and not record.names:
                            self._add(record.data)
                        yield number, record
                    number += 1
                rest = data[whole:]
            position = start + run_size
        if position < self._count * size:
            raise FormatError(
                f"{self._what}: NTFS file table: expected {self._count * size} bytes, "
                f"found {position}"
            )

    def path(self, number: int) -> str:
        """A path of the file, for people."""
        parts: list[str] = []
        for _ in range(_DEPTH_MAX):
            record = self._read(number)
            if record is None or not record.names:
                parts.append("?")
                break
            parts.append(record.names[0].name)
            number = record.names[0].parent_number
            if number == ROOT_RECORD_NUMBER:
                break
        return "/" + "/".join(reversed(parts))

    def _read(self, number: int) -> FileRecord | None:
        size = self._boot.record_size
        for start, offset, run_size in self._runs:
            if start <= number * size and (number + 1) * size <= start + run_size:
                return self._parse(self._pread(offset + number * size - start, size), number)
        return None

    def _parse(self, data: bytes, number: int) -> FileRecord | None:
        return parse_file_record(data, self._boot, number=number, what=self._what)

    def _add(self, part: DataPart) -> None:
        self._waiting.setdefault(part.start, part)
        known = sum(size for _, _, size in self._runs)
        while (part_next := self._waiting.pop(known, None)) is not None:
            for run in part_next.runs:
                if run.offset is None:
                    raise FormatError(f"{self._what}: NTFS file table has a hole at {known:#x}")
                self._runs.append((known, run.offset, run.size))
                known += run.size

    def _pread(self, offset: int, size: int) -> bytes:
        data = os.pread(self._descriptor, size, offset)
        if len(data) != size:
            raise FormatError(
                f"{self._what}: NTFS: expected {size} bytes at {offset:#x}, got {len(data)}: "
                "the volume is cut short"
            )
        return data


def _check_not_mounted(path: Path) -> None:
    """A file can be mounted too: by a loop device, or by FUSE straight from the file.

    Raises:
        TargetRefusedError: says where.
    """
    status = path.stat()
    for backing_path in Path("/sys/block").glob("loop*/loop/backing_file"):
        try:
            backing = Path(backing_path.read_text().rstrip("\n"))
            is_same = os.path.samestat(backing.stat(), status)
        except OSError:
            continue
        if is_same:
            raise TargetRefusedError(
                f"{path}: is in use as /dev/{backing_path.parent.parent.name}",
                hint="detach it first: losetup -d DEVICE",
            )
    for line in Path("/proc/self/mountinfo").read_text(errors="surrogateescape").splitlines():
        head, _, tail = line.partition(" - ")
        fields, rest = head.split(" "), tail.split(" ")
        if len(fields) < 5 or len(rest) < 2 or rest[0] not in _NTFS_DRIVERS:
            continue
        try:
            is_same = os.path.samestat(Path(_unescape(rest[1])).stat(), status)
        except OSError:
            continue
        if is_same:
            raise TargetRefusedError(
                f"{path}: is mounted on {_unescape(fields[4])}", hint="unmount it first"
            )


def _unescape(text: str) -> str:
    r"""Blanks and backslashes are written as ``\`` and three octal digits: proc(5)."""
    for code in ("040", "011", "012", "134"):
        text = text.replace("\\" + code, chr(int(code, 8)))
    return text
