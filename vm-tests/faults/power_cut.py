# SPDX-License-Identifier: GPL-3.0-or-later
"""What a disk holds after the power went at any moment of a recorded run.

A disk with a write cache may have put down any of the writes since the last flush that it
answered, in any order, and may tear one at a sector's edge. So from one run in a guest, recorded
below QEMU by ``disk.py``, every moment gives a family of states; a seed draws one of each. This
is harsher than stopping a machine, where the host's page cache keeps what the disk was given,
and dm-log-writes has the same idea; it is not in reach here, since what is written by mediamaker
is a whole disk and no device-mapper volume.

When a command called itself done is in the recording too: its output lies in the folder that the
disk watches, so that the first request after the claim shows it, and no ``sync`` of the guest's
own end hides a flush that the command left out.
"""

from __future__ import annotations

import hashlib
import json
import os
import random
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from faults.kill import has_said
from faults.matrix import Verdict
from faults.nbdkit_record import RECORD

_TRIES = 200
"""To draw what was not drawn before."""


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

    def describe(self, total: int) -> str:
        """For a trial's point; of those kept a digest, where there was a choice."""
        kept = f"{len(self.kept)} of {self.unflushed_count} kept"
        if self.kept:
            kept += f" ({_digest(self.kept)[:6]})"
        return f"request {self.done_count} of {total}, {kept}"

    def weigh(
        self, claim: int, verdict: Verdict, words: str, *, done: Verdict = Verdict.COMPLETE
    ) -> tuple[Verdict, str]:
        """Worse, if the command had called itself done by then and what is left is not that."""
        if self.done_count < claim:
            return verdict, words
        if verdict is not done:
            return Verdict.FALSE_DONE, f"it had called itself done; {verdict}: {words}"
        return verdict, f"{words}, as the command had said"


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

    def claimed_at(self, output: Path, event: str) -> int:
        """How many requests the disk had had when ``output``, in the watched folder, said it.

        A cut then, or at any later moment, is one of a command that called itself done.
        """
        if not has_said(output.read_text(), event):
            raise RuntimeError(f"{output} never said {event!r}")
        for index, files in self._files:
            if has_said(files.get(output.name, ""), event):
                return index
        return len(self.requests)

    @contextmanager
    def states(
        self, rng: random.Random, count: int, *, claims: Sequence[int] = ()
    ) -> Iterator[Iterator[Cut]]:
        """``count`` cuts in ascending order; while one is looked at, ``image`` is that disk.

        The first and the last moment are always among them, and each of ``claims``, with nothing
        kept that was not flushed; some are at a claim or soon after it; and half of the others are
        within three requests of a flush, where one state turns into the next. No two are the same
        while there are others. ``image`` is used up.
        """
        drawn = self._draw_moments(rng, count, claims)
        with self._log.open("rb") as log, self.image.open("r+b", buffering=0) as image:
            yield self._play(log.fileno(), image.fileno(), drawn, rng, frozenset(claims))

    def states_at(self, moments: Sequence[int], rng: random.Random) -> Iterator[Cut]:
        """The same at these moments, which ascend."""
        with self._log.open("rb") as log, self.image.open("r+b", buffering=0) as image:
            yield from self._play(log.fileno(), image.fileno(), moments, rng, frozenset())

    def _draw_moments(self, rng: random.Random, count: int, claims: Sequence[int]) -> list[int]:
        total = len(self.requests)
        near_flush = [
            moment
            for index, request in enumerate(self.requests)
            if isinstance(request, Flush)
            for moment in range(index - 2, index + 4)
            if 0 < moment < total
        ]
        after_claims = [
            moment for claim in claims for moment in range(claim, min(claim + 6, total + 1))
        ]
        room = self._count_states()
        drawn = Counter({0, total, *claims})
        left = max(0, count - drawn.total())
        _draw_more(rng, after_claims, max(2, left // 8) if claims else 0, drawn, room)
        left = max(0, count - drawn.total())
        _draw_more(rng, near_flush, left // 2, drawn, room)
        _draw_more(rng, range(total + 1), count - drawn.total(), drawn, room)
        moments = sorted(drawn.elements())
        # A row has its number of trials, though a very short run has fewer states.
        return sorted([*moments, *rng.choices(moments, k=max(0, count - len(moments)))])

    def _count_states(self) -> list[int]:
        """How many states a cut at each moment can leave, but for torn writes."""
        counts = [1]
        for request in self.requests:
            counts.append(1 if isinstance(request, Flush) else min(counts[-1] * 2, 1 << 20))
        return counts

    def _play(
        self,
        log: int,
        image: int,
        drawn: Sequence[int],
        rng: random.Random,
        claims: frozenset[int],
    ) -> Iterator[Cut]:
        flushed = 0
        seen: set[tuple[int, str]] = set()
        at_claim = {(moment, _digest(())) for moment in claims}
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
            kept: tuple[tuple[int, bytes], ...] = ()
            for _ in range(_TRIES):
                if (moment, _digest(())) in at_claim - seen:
                    break
                kept = tuple(self._keep(log, loose, rng))
                if (moment, _digest(kept)) not in seen:
                    break
            seen.add((moment, _digest(kept)))
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


def _draw_more(
    rng: random.Random, moments: Iterable[int], count: int, drawn: Counter[int], room: list[int]
) -> None:
    """Put ``count`` more of these into ``drawn``, each as often as it has different states."""
    while count > 0 and (free := sorted({m for m in moments if drawn[m] < room[m]})):
        rng.shuffle(free)
        free.sort(key=lambda moment: drawn[moment])
        drawn.update(free[:count])
        count -= len(free)


def _digest(kept: tuple[tuple[int, bytes], ...]) -> str:
    digest = hashlib.sha256()
    for offset, data in kept:
        digest.update(b"%d %d " % (offset, len(data)) + data)
    return digest.hexdigest()


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
