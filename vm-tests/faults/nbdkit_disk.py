# SPDX-License-Identifier: GPL-3.0-or-later
"""A disk that fails on purpose: an nbdkit plugin, run by nbdkit's own Python (see ``disk.py``).

nbdkit's ready filters (error, cow, log) were rejected: none of them drops a cache that was not
flushed, wraps at a false capacity, or says which bytes a request carried.

Reference: nbdkit-python-plugin(3), API version 2. Requests come one at a time.
"""

import json
import os
import sys
import time
from errno import EIO
from pathlib import Path

import nbdkit  # nbdkit's own, present only inside of it

sys.path.insert(0, str(Path(__file__).parent))
from nbdkit_record import RECORD

API_VERSION = 2
PAUSE_SECONDS = 1.5

_state = None


class _State:
    """What was asked of this disk (``disk.Faults``), and what became of it."""

    def __init__(self, folder):
        self.folder = Path(folder)
        asked = json.loads((self.folder / "faults.json").read_text())
        self.size = asked["claimed_size"]
        self.real_size = asked["real_size"]
        self.failing = [dict(item) for item in asked["failing"]]
        self.dead_after_size = asked["dead_after_size"]
        self.lies_from_size = asked["lies_from_size"]
        self.lies_until_size = asked["lies_until_size"]
        self.beyond = asked["beyond"]
        self.flipped = asked["flipped"]
        self.cache_size = asked["cache_size"]
        self.pauses_at_size = asked["pauses_at_size"]
        self.has_paused = False
        self.watched = Path(asked["watched_folder"]) if asked["watched_folder"] else None
        self.seen = b""
        self.fd = os.open(asked["image"], os.O_RDWR)
        self.log = None
        if asked["is_logging"]:
            # Unbuffered: what ends nbdkit may come at any moment.
            self.log = (self.folder / "writes.log").open("ab", buffering=0)
        self.unflushed = []
        self.written_size = 0
        self.flush_count = 0
        self.error_count = 0

    def check(self, kind, offset, size):
        """Fail where this disk is to fail."""
        dies_at = self.dead_after_size
        if kind == "write" and dies_at is not None and self.written_size + size > dies_at:
            self._fail()
        for item in self.failing:
            overlaps = offset < item["end"] and item["start"] < offset + size
            if item["kind"] == kind and overlaps and item["left"] != 0:
                if item["left"] is not None:
                    item["left"] -= 1
                self._fail()

    def _fail(self):
        self.error_count += 1
        self.tell()
        nbdkit.set_error(EIO)
        raise OSError(EIO, "this disk fails here on purpose")

    def pause(self):
        """Hold still once, in the middle of things."""
        at = self.pauses_at_size
        if at is not None and not self.has_paused and self.written_size >= at:
            self.has_paused = True
            self.tell()
            time.sleep(PAUSE_SECONDS)

    def watch(self):
        """Note what the watched folder holds, ahead of the request that comes now."""
        if self.log is None or self.watched is None:
            return
        files = {path.name: path.read_text() for path in sorted(self.watched.glob("*"))}
        data = json.dumps(files).encode()
        if data != self.seen:
            self.seen = data
            self.log.write(RECORD.pack(b"J", 0, len(data)) + data)

    def pieces(self, offset, size):
        """(where it really lies, how much): a disk that lies about its size wraps."""
        while size:
            at = offset % self.real_size
            part = min(size, self.real_size - at)
            yield (at if self.beyond == "wraps" or offset < self.real_size else None), part
            offset += part
            size -= part

    def write(self, offset, data):
        if self._is_lying():
            # Kept in the disk's cache, whatever is said of it, until the power goes.
            self.unflushed.append((offset, data))
        else:
            self._store(offset, data)
            if self.cache_size:
                self.unflushed.append((offset, data))
                while sum(len(kept) for _, kept in self.unflushed) > self.cache_size:
                    self.unflushed.pop(0)
            elif self.unflushed:
                # Newer than what the cache has of the same place.
                self.unflushed.append((offset, data))
        self.written_size += len(data)
        if self.log is not None:
            self.log.write(RECORD.pack(b"W", offset, len(data)) + data)
        self.tell()

    def _is_lying(self):
        start, end = self.lies_from_size, self.lies_until_size
        if start is None or self.written_size < start:
            return False
        return end is None or self.written_size < end

    def _store(self, offset, data):
        for at in self.flipped:
            if offset <= at < offset + len(data):
                changed = bytearray(data)
                changed[at - offset] ^= 1 << at % 8
                data = bytes(changed)
        done = 0
        for at, part in self.pieces(offset, len(data)):
            if at is not None:
                os.pwrite(self.fd, data[done : done + part], at)
            done += part

    def read(self, offset, size):
        data = bytearray()
        for at, part in self.pieces(offset, size):
            if at is None:
                data += (b"\xff" if self.beyond == "ones" else b"\0") * part
                continue
            found = os.pread(self.fd, part, at)
            data += found + bytes(part - len(found))
        for start, cached in self.unflushed:
            low, high = max(start, offset), min(start + len(cached), offset + size)
            if low < high:
                data[low - offset : high - offset] = cached[low - start : high - start]
        return data

    def flush(self):
        self.flush_count += 1
        if self.log is not None:
            self.log.write(RECORD.pack(b"F", 0, 0))
        self.tell()

    def tell(self):
        """What the test may look at while this runs; replaced whole."""
        fresh = self.folder / "told.json.new"
        told = {
            "written_size": self.written_size,
            "flush_count": self.flush_count,
            "error_count": self.error_count,
            "has_paused": self.has_paused,
        }
        fresh.write_text(json.dumps(told))
        fresh.rename(self.folder / "told.json")


def config(key, value):
    global _state  # noqa: PLW0603 - nbdkit has it so
    if key != "folder":
        raise RuntimeError(f"unknown parameter {key}")
    _state = _State(value)


def thread_model():
    return nbdkit.THREAD_MODEL_SERIALIZE_ALL_REQUESTS


def open(readonly):  # noqa: A001 - nbdkit's name
    return _state


def get_size(state):
    return state.size


def can_write(state):
    return True


def can_flush(state):
    return True


def can_multi_conn(state):
    return True


def pread(state, buffer, offset, flags):
    state.check("read", offset, len(buffer))
    buffer[:] = state.read(offset, len(buffer))


def pwrite(state, buffer, offset, flags):
    data = bytes(buffer)
    state.watch()
    state.pause()
    state.check("write", offset, len(data))
    state.write(offset, data)


def flush(state, flags):
    state.watch()
    state.flush()
