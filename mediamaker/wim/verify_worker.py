# SPDX-License-Identifier: GPL-3.0-or-later
"""Processes that decode and hash blobs for ``verify``.

In one process the threads wait for the interpreter's lock between any two chunks, which costs a
fifth of the time on two cores and more on more. A worker is told where blobs lie and answers
which are not what their SHA-1 says, so next to nothing goes through the pipes.

Not multiprocessing's pools: those import the caller's main module again, or fork a process that
has threads. The program of a worker is this module; it ends when its standard input does, so
nothing is left behind when the caller is killed.
"""

from __future__ import annotations

import hashlib
import os
import queue
import signal
import subprocess
import sys
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass, replace
from multiprocessing.connection import Connection
from types import TracebackType

from mediamaker.errors import FormatError, MediaError
from mediamaker.extents import Piece
from mediamaker.formats.wim import ResourceHeader
from mediamaker.formats.wim_blobs import BlobTable
from mediamaker.formats.wim_file import DataRows, WimFile
from mediamaker.sources.identity import SourceFile
from mediamaker.sources.reader import SourceReader
from mediamaker.sources.wim_blobs import BlobReader
from mediamaker.wim.parts import WimPartFile

WORKER_COUNT_MAX = 16
"""Each takes some 40 MiB; no disk keeps up with more."""

BadBlobs = list[tuple[bytes, str]]
"""SHA-1s of blobs that are damaged, and why."""


@dataclass(frozen=True, slots=True)
class BlobsRequest:
    """Blobs of one part whose bytes lie in ``[start, end)``; ``resources`` and ``sha1s`` match."""

    part_index: int
    start: int
    end: int
    resources: Sequence[ResourceHeader]
    sha1s: Sequence[bytes]


def check_small_blobs(blobs: BlobReader, request: BlobsRequest) -> BadBlobs:
    """Read ``[start, end)`` at once and compare every blob in it. Any thread may call it."""
    bad: BadBlobs = []
    with memoryview(blobs.read_stored(request.start, request.end - request.start)) as stored:
        results = blobs.decode_small(request.resources, stored, request.start)
        for sha1, result in zip(request.sha1s, results, strict=True):
            if isinstance(result, FormatError):
                bad.append((sha1, result.message))
            elif (got := hashlib.sha1(result, usedforsecurity=False).digest()) != sha1:
                bad.append((sha1, say_mismatch(got)))
    return bad


def check_large_blobs(blobs: BlobReader, request: BlobsRequest) -> BadBlobs:
    """As :func:`check_small_blobs`, a window at a time. Any thread may call it."""
    bad: BadBlobs = []
    for resource, sha1 in zip(request.resources, request.sha1s, strict=True):
        hasher = hashlib.sha1(usedforsecurity=False)
        try:
            opened = blobs.open_resource(resource, f"blob {sha1.hex()}")
            for index in range(opened.window_count):
                window = blobs.decode_window(opened, index)
                if window.failures:
                    raise FormatError(window.failures[0].message)
                hasher.update(window.data)
        except FormatError as error:
            bad.append((sha1, error.message))
            continue
        if hasher.digest() != sha1:
            bad.append((sha1, say_mismatch(hasher.digest())))
    return bad


def say_mismatch(got: bytes) -> str:
    """Why a blob is damaged that could be decoded."""
    return f"its SHA-1 is {got.hex()}"


@dataclass(frozen=True, slots=True)
class _Part:
    """What a worker must know of a file: no tables, which would be large."""

    wim: WimFile
    pieces: tuple[Piece, ...]
    sources: tuple[SourceFile, ...]
    what: str


class WorkerPool:
    """``count`` workers for the parts of one WIM; with none, every request answers None."""

    def __init__(self, parts: Sequence[WimPartFile], count: int) -> None:
        # None stands for a worker that is not there: who takes it does the work himself.
        self._free: queue.LifoQueue[_Worker | None] = queue.LifoQueue()
        self._workers: list[_Worker] = []
        known = [
            _Part(
                replace(
                    part.wim, blobs=BlobTable(b""), metadata=(), images=(), xml=b"", data=DataRows()
                ),
                part.pieces,
                part.reader.files,
                part.blobs.what,
            )
            for part in parts
        ]
        for _ in range(min(count, WORKER_COUNT_MAX)):
            # Without them everything is checked all the same, in threads.
            with suppress(OSError):
                worker = _Worker()
                self._workers.append(worker)
                worker.connection_out.send(known)
                self._free.put(worker)
        if self._free.empty():
            self._free.put(None)

    def check(self, request: BlobsRequest, *, is_small: bool) -> BadBlobs | None:
        """A worker's answer; None when there is none, and the caller has to look itself.

        Any thread may call it; it waits for a free worker.
        """
        worker = self._free.get()
        if worker is None:
            self._free.put(None)
            return None
        try:
            worker.connection_out.send((is_small, request))
            answer: BadBlobs | None = worker.connection_in.recv()
        except (EOFError, OSError):
            self._free.put(None)  # it died, and is not asked again
            return None
        self._free.put(worker)
        return answer

    def __enter__(self) -> WorkerPool:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        for worker in self._workers:
            worker.stop()
        self._workers.clear()


class _Worker:
    """One process and the pipes to it."""

    def __init__(self) -> None:
        if not sys.executable:
            raise OSError("no interpreter is known")
        theirs_in, ours_out = os.pipe()
        ours_in, theirs_out = os.pipe()
        try:
            self._process = subprocess.Popen(
                [sys.executable, "-c", "from mediamaker.wim.verify_worker import main; main()"],
                stdin=theirs_in,
                stdout=theirs_out,
                stderr=subprocess.DEVNULL,
            )
        except BaseException:
            os.close(ours_out)
            os.close(ours_in)
            raise
        finally:
            os.close(theirs_in)
            os.close(theirs_out)
        self.connection_out = Connection(ours_out, readable=False)
        self.connection_in = Connection(ours_in, writable=False)

    def stop(self) -> None:
        self.connection_out.close()
        self.connection_in.close()
        self._process.kill()
        self._process.wait()


def main() -> None:
    """Answer requests until there are no more."""
    # Ctrl-C reaches every process of the terminal; it is the caller's to handle.
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    requests = Connection(os.dup(0), writable=False)
    answers = Connection(os.dup(1), readable=False)
    with suppress(EOFError, OSError):
        readers = [
            BlobReader(part.wim, part.pieces, SourceReader(part.sources), what=part.what)
            for part in requests.recv()
        ]
        while True:
            is_small, request = requests.recv()
            check = check_small_blobs if is_small else check_large_blobs
            try:
                answer: BadBlobs | None = check(readers[request.part_index], request)
            except MediaError:
                # The caller tries it again, and says what is wrong.
                answer = None
            answers.send(answer)
