# SPDX-License-Identifier: GPL-3.0-or-later
"""Copies paths of an image into a directory, whatever the image's names and links say.

Every place is reached through open directories, one name at a time and never through a link, so
nothing outside of the target can be written; links are made last. What a directory of Linux can't
hold is counted in the report: named streams, encrypted content, security descriptors. Links that
lead out of what is extracted are left out. A file is removed again if its content is damaged.
"""

from __future__ import annotations

import errno
import os
import stat
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

from mediamaker.errors import (
    FormatError,
    NotRepresentableError,
    TargetIOError,
    TargetRefusedError,
    UsageError,
)
from mediamaker.execute.interrupts import check_cancelled
from mediamaker.execute.progress import OnEvent, Phase, ProgressMeter, ignore_event
from mediamaker.formats.wim_entry import MetadataEntry, MetadataStream, show_name
from mediamaker.formats.wim_metadata import WimMetadata
from mediamaker.formats.wim_solid import blob_size
from mediamaker.wim.parts import WimParts
from mediamaker.wim.tree import copy_stream, open_image, read_link_target, unix_time_ns

NAME_SIZE_MAX = 255
_OPEN_DIRECTORY = os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC
_TIME_NS_LIMIT = 1 << 63

_Names = tuple[bytes, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class ExtractReport:
    """What was made, and in ``notes`` what could not be carried over."""

    file_count: int
    directory_count: int
    link_count: int
    size: int
    notes: tuple[str, ...]


@dataclass(slots=True)
class _Work:
    """Entries by what is made of them, with their names below the target."""

    directories: list[tuple[_Names, MetadataEntry]] = field(default_factory=list)
    files: list[tuple[_Names, MetadataEntry]] = field(default_factory=list)
    links: list[tuple[_Names, MetadataEntry]] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)
    named_stream_count: int = 0
    secured_count: int = 0
    file_count: int = 0
    link_count: int = 0
    size: int = 0


def extract_paths(
    parts: WimParts,
    image_number: int,
    paths: Sequence[str],
    target: Path,
    *,
    on_event: OnEvent = ignore_event,
    cancel: threading.Event | None = None,
) -> ExtractReport:
    """Copy each of ``paths`` into the directory ``target``, which is made if need be.

    ``/`` stands for what the image's root holds.

    Raises:
        UsageError: a path is not there, or two have one name; FormatError: content is damaged;
            TargetRefusedError: a file is there already; NotRepresentableError: a name is too
            long; TargetIOError: writing fails; KeyboardInterrupt: ``cancel`` was set.
    """
    metadata = open_image(parts, image_number)
    work = _collect(metadata, paths or ["/"])
    meter = ProgressMeter(on_event, time.monotonic)
    meter.start(Phase.WRITE, sum(_data_size(parts, entry) for _, entry in work.files))
    try:
        target.mkdir(parents=True, exist_ok=True)
        root = os.open(target, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    except OSError as error:
        raise TargetRefusedError(
            f"{target}: can't be made a directory, or opened: {error.strerror}",
            hint="name a directory that you may write to with --to",
        ) from error
    try:
        for names, _ in work.directories:
            check_cancelled(cancel)
            _make_directory(root, names)
        _write_files(parts, work, root, meter, cancel)
        for names, entry in work.links:
            _make_link(parts, work, root, names, entry)
        for names, entry in reversed(work.directories):
            with _opened_directory(root, names) as directory:
                _set_times(directory, entry)
    finally:
        os.close(root)
    meter.finish()
    if work.named_stream_count:
        work.notes.append(f"{work.named_stream_count} named streams were left out")
    if work.secured_count:
        work.notes.append(
            f"the security descriptors (ACLs) of {work.secured_count} files and folders were left "
            "out; wim apply to NTFS keeps them"
        )
    return ExtractReport(
        file_count=work.file_count,
        directory_count=len(work.directories),
        link_count=work.link_count,
        size=work.size,
        notes=tuple(work.notes),
    )


def _collect(metadata: WimMetadata, paths: Sequence[str]) -> _Work:
    work = _Work()
    tops: dict[str, str] = {}
    for path in paths:
        start = metadata.find(path)
        if start.parent is not None:
            other = tops.setdefault(start.name, path)
            if other is not path:
                raise UsageError(
                    f"{path!r} and {other!r} would both become {show_name(start.name)!r}",
                    hint="extract them into different directories",
                )
        elif len(paths) > 1:
            raise UsageError("the root holds all other paths", hint="give '/' alone")
        skipped = max(0, len(start.parts) - 1)
        for entry in metadata.walk(start):
            _collect_entry(work, entry, skipped)
    return work


def _collect_entry(work: _Work, entry: MetadataEntry, skipped: int) -> None:
    work.named_stream_count += sum(bool(stream.name) for stream in entry.streams)
    names = tuple(_encode_name(name, entry) for name in entry.parts[skipped:])
    if not names:
        return
    work.secured_count += entry.security_id >= 0
    if entry.is_link:
        work.links.append((names, entry))
    elif entry.is_directory:
        work.directories.append((names, entry))
    elif entry.data is not None and entry.data.kind == "encrypted":
        work.notes.append(f"{show_name(entry.path)}: left out, it is encrypted")
    else:
        work.files.append((names, entry))


def _encode_name(name: str, entry: MetadataEntry) -> bytes:
    # Half a surrogate pair becomes the three bytes that UTF-8 would have for it.
    encoded = name.encode("utf-8", "surrogatepass")
    if len(encoded) > NAME_SIZE_MAX:
        raise NotRepresentableError(
            f"{show_name(entry.path[:400])!r}: a name of {len(encoded)} bytes, at most "
            f"{NAME_SIZE_MAX} are possible here",
            hint="apply the image to NTFS instead: wim apply",
        )
    return encoded


def _data_size(parts: WimParts, entry: MetadataEntry) -> int:
    found = None if entry.data is None else parts.find(entry.data.sha1)
    return 0 if found is None else blob_size(found[1])


def _write_files(
    parts: WimParts,
    work: _Work,
    root: int,
    meter: ProgressMeter,
    cancel: threading.Event | None,
) -> None:
    def place(item: tuple[_Names, MetadataEntry]) -> tuple[int, int, int]:
        data = item[1].data
        found = None if data is None else parts.find(data.sha1)
        if data is None or found is None:
            return 0, 0, 0
        return (found[0].wim.part_number, *found[0].blobs.position(data.sha1))

    first_names: dict[tuple[int, tuple[MetadataStream, ...]], _Names] = {}
    for names, entry in sorted(work.files, key=place):
        check_cancelled(cancel)
        if entry.hard_link_group:
            # The streams too: a group of files that differ is a lie.
            key = entry.hard_link_group, entry.streams
            first = first_names.setdefault(key, names)
            if first is not names:
                _make_hard_link(root, first, names)
                work.file_count += 1
                continue

        def count(size: int) -> None:
            check_cancelled(cancel)
            work.size += size
            meter.update(work.size)

        _write_file(parts, root, names, entry, count)
        work.file_count += 1


def _write_file(
    parts: WimParts,
    root: int,
    names: _Names,
    entry: MetadataEntry,
    count: Callable[[int], None],
) -> None:
    with _parent(root, names) as (directory, name), _told(names):
        descriptor = os.open(
            name,
            os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC,
            0o666,
            dir_fd=directory,
        )

        def write(piece: memoryview) -> None:
            rest = piece
            while rest:
                rest = rest[os.write(descriptor, rest) :]
            count(len(piece))

        try:
            if entry.data is not None:
                copy_stream(parts, entry, entry.data, write)
            _set_times(descriptor, entry)
        except BaseException:
            os.unlink(name, dir_fd=directory)
            raise
        finally:
            os.close(descriptor)


def _make_directory(root: int, names: _Names) -> None:
    with _parent(root, names) as (directory, name), _told(names):
        try:
            os.mkdir(name, dir_fd=directory)
        except FileExistsError:
            mode = os.stat(name, dir_fd=directory, follow_symlinks=False).st_mode
            if not stat.S_ISDIR(mode):
                raise


def _make_hard_link(root: int, first: _Names, names: _Names) -> None:
    with (
        _parent(root, first) as (first_directory, first_name),
        _parent(root, names) as (directory, name),
        _told(names),
    ):
        os.link(
            first_name,
            name,
            src_dir_fd=first_directory,
            dst_dir_fd=directory,
            follow_symlinks=False,
        )


def _make_link(
    parts: WimParts, work: _Work, root: int, names: _Names, entry: MetadataEntry
) -> None:
    where = show_name(entry.path)
    try:
        target, is_relative = read_link_target(parts, entry)
    except FormatError as error:
        work.notes.append(f"{where}: left out: {error.message}")
        return
    target_names = target.replace("\\", "/").split("/")
    if not is_relative or "\0" in target or not _stays_inside(target_names, len(names) - 1):
        work.notes.append(
            f"{where}: left out, it is a link to {show_name(target[:400])!r}, outside of what "
            "is extracted"
        )
        return
    encoded = "/".join(target_names).encode("utf-8", "surrogatepass")
    with _parent(root, names) as (directory, name), _told(names):
        os.symlink(encoded, name, dir_fd=directory)
        _set_times(name, entry, directory=directory)
    work.link_count += 1


def _stays_inside(target_names: Sequence[str], depth: int) -> bool:
    """Whether a link ``depth`` directories below the target leads nowhere above it.

    Once it has led down, ".." may not follow: it might be from another link that it leads up.
    """
    is_down = False
    for name in target_names:
        if name == "..":
            depth -= 1
            if is_down or depth < 0:
                return False
        elif name not in ("", "."):
            is_down = True
    return bool(target_names[0])


def _set_times(place: int | bytes, entry: MetadataEntry, *, directory: int | None = None) -> None:
    times = (unix_time_ns(entry.access_time), unix_time_ns(entry.write_time))
    if any(not -_TIME_NS_LIMIT <= ns < _TIME_NS_LIMIT for ns in times):
        return
    if isinstance(place, int):
        os.utime(place, ns=times)
    else:
        os.utime(place, ns=times, dir_fd=directory, follow_symlinks=False)


@contextmanager
def _opened_directory(root: int, names: _Names) -> Iterator[int]:
    """The directory of these names below ``root``, reached without following any link."""
    descriptor = os.dup(root)
    try:
        for name in names:
            with _told(names):
                below = os.open(name, _OPEN_DIRECTORY, dir_fd=descriptor)
            os.close(descriptor)
            descriptor = below
        yield descriptor
    finally:
        os.close(descriptor)


@contextmanager
def _parent(root: int, names: _Names) -> Iterator[tuple[int, bytes]]:
    with _opened_directory(root, names[:-1]) as directory:
        yield directory, names[-1]


@contextmanager
def _told(names: _Names) -> Iterator[None]:
    """Say of what file an OSError is, and what to do."""
    try:
        yield
    except OSError as error:
        where = b"/".join(names).decode("utf-8", "backslashreplace")
        if error.errno in (errno.EEXIST, errno.ELOOP, errno.ENOTDIR):
            raise TargetRefusedError(
                f"{where}: something else is there already",
                hint="extract into a new or empty directory",
            ) from error
        raise TargetIOError(f"{where}: {error.strerror}") from error
