# SPDX-License-Identifier: GPL-3.0-or-later
"""A small disk plan over real source files, and targets that fail on purpose."""

from __future__ import annotations

import errno
import os
import random
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path

from mediamaker.execute.create import execute_plan
from mediamaker.execute.progress import ProgressMeter, ignore_event
from mediamaker.execute.verifier import verify_digests
from mediamaker.execute.writer import write_extents
from mediamaker.extents import (
    ExtentMap,
    ExtentMapBuilder,
    FileRange,
    Literal,
    Unwritten,
    Zeros,
)
from mediamaker.sources.identity import SourceFile, identify
from mediamaker.sources.reader import SourceReader

KIB = 1 << 10
MIB = 1 << 20
OLD = b"\xaa"
"""What was on the stick before."""


@dataclass
class Rig:
    extents: ExtentMap
    commit: tuple[tuple[int, int], ...]
    files: tuple[SourceFile, ...]
    iso_path: Path

    def reader(self) -> SourceReader:
        return SourceReader(self.files)

    def expected(self, *, unwritten: bytes = OLD) -> bytes:
        """The disk as it should be, put together without the engine."""
        content = {file.source_id: Path(file.path).read_bytes() for file in self.files}
        parts = []
        for extent in self.extents:
            match extent.source:
                case Literal(data):
                    parts.append(data)
                case Zeros():
                    parts.append(bytes(extent.size))
                case FileRange(source_id, offset):
                    parts.append(content[source_id][offset : offset + extent.size])
                case Unwritten():
                    parts.append(unwritten * extent.size)
        return b"".join(parts)


def make_rig(folder: Path, *, sector_size: int = 512, seed: int = 1) -> Rig:
    """A disk of 20 MiB with every kind of extent, two commit ranges and a hole in its source."""
    rng = random.Random(seed)
    iso_path = folder / "source.iso"
    with iso_path.open("wb") as file:
        file.write(rng.randbytes(7 * MIB))
        file.truncate(9 * MIB)  # two MiB of hole
        file.seek(9 * MIB)
        file.write(rng.randbytes(MIB))
    small_path = folder / "small.txt"
    small_path.write_bytes(rng.randbytes(777))
    size, gpt_size = 20 * MIB, 32 * sector_size
    builder = ExtentMapBuilder()
    builder.add("MBR", sector_size, Literal(rng.randbytes(sector_size)))
    builder.pad_to(MIB, "gap", Zeros())
    builder.add("VBR", sector_size, Literal(rng.randbytes(sector_size)))
    builder.add("FAT 1", 300 * KIB, Literal(rng.randbytes(300 * KIB)))
    for name, source_id, offset, length in (
        ("\\sources\\boot.wim", "iso", 2048, 5 * MIB + 123),
        ("\\a.txt", "small", 0, 777),
        ("\\b.txt", "small", 0, 777),
        ("\\sources\\holes.bin", "iso", 6 * MIB + 4096, 4 * MIB - 4096),
    ):
        builder.add(name, length, FileRange(source_id, offset))
        end = -(-builder.position // 4096) * 4096
        builder.pad_to(end, f"padding of {name}", Zeros())
    builder.pad_to(17 * MIB, "free clusters", Unwritten())
    builder.pad_to(size - gpt_size, "old signatures", Zeros())
    builder.add("backup GPT", gpt_size, Literal(rng.randbytes(gpt_size)))
    return Rig(
        extents=builder.build(),
        commit=((0, sector_size), (size - gpt_size, size)),
        files=(identify("iso", iso_path), identify("small", small_path)),
        iso_path=iso_path,
    )


class StickFile:
    """A plain file that behaves as a device does: it has old content and is written in place."""

    starts_zeroed = False

    def __init__(self, path: Path, size: int, *, is_durable: bool = True) -> None:
        path.write_bytes(OLD * size)
        self.name = str(path)
        self.path = path
        self.size = size
        self.logical_sector_size = 512
        self.is_durable = is_durable
        self.closed = False
        self._descriptor = os.open(path, os.O_RDWR)

    def pread(self, offset: int, size: int) -> bytes:
        return os.pread(self._descriptor, size, offset)

    def preadinto(self, offset: int, buffer: memoryview) -> None:
        assert offset % 512 == 0
        assert len(buffer) % 512 == 0
        assert os.preadv(self._descriptor, [buffer], offset) == len(buffer)

    def pwrite(self, offset: int, buffer: memoryview) -> int:
        assert offset % 512 == 0
        assert len(buffer) % 512 == 0
        return os.pwrite(self._descriptor, buffer, offset)

    def copy_from(self, *_: int) -> int:
        raise OSError(errno.EINVAL, "not between devices")

    def data_runs(self, start: int, end: int) -> Iterator[tuple[int, int]]:
        yield start, end

    def flush_data(self) -> None:
        os.fdatasync(self._descriptor)

    def flush(self) -> None:
        os.fsync(self._descriptor)

    def drop_caches(self) -> None:
        pass

    def is_present(self) -> bool:
        return True

    def reread_partition_table(self) -> str | None:
        return None

    def close(self) -> None:
        if not self.closed:
            os.close(self._descriptor)
        self.closed = True

    finish = abort = close


@dataclass
class FaultyTarget:
    """Any target, with a log of what was asked of it, and ``before`` hooks that may raise.

    ``before(name, call_number, arguments)`` runs ahead of every logged call; calls of each name
    are counted from 1. ``short_writes`` makes every other write take one sector only.
    """

    inner: object
    before: Callable[[str, int, tuple[int, ...]], None] = lambda *_: None
    short_writes: bool = False
    log: list[tuple] = field(default_factory=list)
    counts: dict[str, int] = field(default_factory=dict)

    def __getattr__(self, name: str):
        return getattr(self.inner, name)

    def pwrite(self, offset: int, buffer: memoryview) -> int:
        number = self._note("pwrite", offset, len(buffer))
        if self.short_writes and number % 2 and len(buffer) > 512:
            buffer = buffer[:512]
        return self.inner.pwrite(offset, buffer)

    def copy_from(self, descriptor: int, source_offset: int, offset: int, size: int) -> int:
        self._note("copy_from", offset, size)
        return self.inner.copy_from(descriptor, source_offset, offset, size)

    def preadinto(self, offset: int, buffer: memoryview) -> None:
        self._note("preadinto", offset, len(buffer))
        self.inner.preadinto(offset, buffer)

    def flush(self) -> None:
        self._note("flush")
        self.inner.flush()

    def flush_data(self) -> None:
        self._note("flush_data")
        self.inner.flush_data()

    def drop_caches(self) -> None:
        self._note("drop_caches")
        self.inner.drop_caches()

    def reread_partition_table(self) -> str | None:
        self._note("reread_partition_table")
        return self.inner.reread_partition_table()

    def finish(self) -> None:
        self._note("finish")
        self.inner.finish()

    def abort(self) -> str | None:
        self._note("abort")
        return self.inner.abort()

    def _note(self, name: str, *arguments: int) -> int:
        number = self.counts[name] = self.counts.get(name, 0) + 1
        self.log.append((name, *arguments))
        self.before(name, number, arguments)
        return number


def fail_at(offset: int, error_number: int, *, call: str = "pwrite"):
    """A hook: any ``call`` that touches ``offset`` fails, every time."""

    def before(name: str, number: int, arguments: tuple[int, ...]) -> None:
        if name == call and arguments[0] <= offset < arguments[0] + arguments[1]:
            raise OSError(error_number, os.strerror(error_number))

    return before


def make_meter(on_event=ignore_event) -> ProgressMeter:
    """With a clock that ticks once a reading, so that no test depends on the time."""
    return ProgressMeter(on_event, iter(range(1 << 40)).__next__)


def write(rig: Rig, target, *, has_digests: bool = False, cancel=None):
    with rig.reader() as reader:
        return write_extents(
            extents=rig.extents,
            commit=rig.commit,
            reader=reader,
            target=target,
            meter=make_meter(),
            has_digests=has_digests,
            cancel=cancel,
        )


def execute(rig: Rig, target, **options):
    with rig.reader() as reader:
        return execute_plan(
            extents=rig.extents,
            commit=rig.commit,
            plan_id="0" * 64,
            reader=reader,
            target=target,
            **options,
        )


def verify_stick(rig: Rig, target, digests):
    """As after a write: by digests, and traced to the byte by the source."""
    with rig.reader() as reader:
        return verify_digests(
            runs=list(rig.extents.written_runs(0, rig.extents.end)),
            digests=digests,
            target=target,
            meter=make_meter(),
            extents=rig.extents,
            reader=reader,
        )
