# SPDX-License-Identifier: GPL-3.0-or-later
"""What a disk holds after the power went at any moment of a recorded run.

A disk with a write cache may have put down any of the writes since the last flush that it
answered, in any order, and may tear one at a sector's edge. So from one run in a guest, recorded
below QEMU by ``disk.py``, every moment gives a family of states; a seed draws one of each. This
is harsher than stopping a machine, where the host's page cache keeps what the disk was given,
and dm-log-writes has the same idea; it is not in reach here, since what is written by mediamaker
is a whole disk and no device-mapper volume.
"""

from __future__ import annotations

import json
import os
import random
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from faults.nbdkit_record import RECORD


@dataclass(frozen=True, slots=True)
class Write:
    """One write that the disk was given; ``data_offset`` is where its bytes lie in the log."""

    offset: int
    size: int
    data_offset: int


@dataclass(frozen=True, slots=True)
class Flush:
    """The disk said that all before this is on the medium."""


@dataclass(frozen=True, slots=True)
class Cut:
    """The power goes after ``done_count`` requests; ``kept`` are (offset, bytes) that made it."""

    done_count: int
    kept: tuple[tuple[int, bytes], ...]
    unflushed_count: int
    files: dict[str, str]
    """What the watched folder held by then (``Faults.watched_folder``)."""


class Recording:
    """The requests of one run, in order; ``image`` is a copy of the disk as it was before it."""

    def __init__(self, log: Path, image: Path, *, sector_size: int = 512) -> None:
        self._log = log
        self.image = image
        self.requests: list[Write | Flush] = []
        self._files: list[tuple[int, dict[str, str]]] = []
        for record in _read_log(log):
            if isinstance(record, dict):
                self._files.append((len(self.requests), record))
            else:
                self.requests.append(record)
        self._sector_size = sector_size

    @contextmanager
    def states(self, rng: random.Random, count: int) -> Iterator[Iterator[Cut]]:
        """``count`` cuts in ascending order; while one is looked at, ``image`` is that disk.

        The first and the last moment are always among them, and half of the others are within
        three requests of a flush, where one state turns into the next. ``image`` is used up.
        """
        drawn = self._draw_moments(rng, count)
        with self._log.open("rb") as log, self.image.open("r+b", buffering=0) as image:
            yield self._play(log.fileno(), image.fileno(), drawn, rng)

    def states_at(self, moments: Sequence[int], rng: random.Random) -> Iterator[Cut]:
        """The same at these moments, which ascend."""
        with self._log.open("rb") as log, self.image.open("r+b", buffering=0) as image:
            yield from self._play(log.fileno(), image.fileno(), moments, rng)

    def _draw_moments(self, rng: random.Random, count: int) -> list[int]:
        total = len(self.requests)
        near_flush = sorted(
            {
                moment
                for index, request in enumerate(self.requests)
                if isinstance(request, Flush)
                for moment in range(index - 2, index + 4)
                if 0 < moment < total
            }
        )
        left = max(0, count - 2)
        # A moment may be drawn twice: what the cache kept differs.
        near = rng.choices(near_flush, k=left // 2) if near_flush else []
        others = rng.choices(range(1, total), k=left - len(near))
        return sorted([0, total, *near, *others])

    def _play(
        self, log: int, image: int, drawn: Sequence[int], rng: random.Random
    ) -> Iterator[Cut]:
        flushed = 0
        for moment in drawn:
            last = max(
                (i for i in range(flushed, moment) if isinstance(self.requests[i], Flush)),
                default=flushed,
            )
            for request in self.requests[flushed:last]:
                if isinstance(request, Write):
                    os.pwrite(image, self._data(log, request), request.offset)
            flushed = last
            loose = [r for r in self.requests[flushed:moment] if isinstance(r, Write)]
            kept = tuple(self._keep(log, loose, rng))
            before = [(offset, os.pread(image, len(data), offset)) for offset, data in kept]
            for offset, data in kept:
                os.pwrite(image, data, offset)
            yield Cut(moment, kept, len(loose), self.files_at(moment))
            for offset, data in reversed(before):
                os.pwrite(image, data, offset)

    def _keep(
        self, log: int, loose: list[Write], rng: random.Random
    ) -> Iterator[tuple[int, bytes]]:
        """Which of the writes made it, whole or torn; a later one may, and an earlier one not."""
        share = rng.choice((0.0, 0.1, 0.5, 0.9, 1.0))
        for write in loose:
            if rng.random() >= share:
                continue
            data = self._data(log, write)
            sectors = write.size // self._sector_size
            if sectors > 1 and rng.random() < 0.25:
                data = data[: rng.randrange(1, sectors) * self._sector_size]
            yield write.offset, data

    def files_at(self, moment: int) -> dict[str, str]:
        """As seen ahead of the last request that was done: what is in it was flushed before."""
        seen = [files for index, files in self._files if index < moment]
        return seen[-1] if seen else {}

    @staticmethod
    def _data(log: int, write: Write) -> bytes:
        return os.pread(log, write.size, write.data_offset)


def _read_log(path: Path) -> Iterator[Write | Flush | dict[str, str]]:
    with path.open("rb") as file:
        while len(head := file.read(RECORD.size)) == RECORD.size:
            kind, offset, size = RECORD.unpack(head)
            if kind == b"F":
                yield Flush()
            elif kind == b"J":
                yield json.loads(file.read(size))
            else:
                yield Write(offset, size, file.tell())
                file.seek(size, os.SEEK_CUR)
