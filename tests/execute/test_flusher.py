# SPDX-License-Identifier: GPL-3.0-or-later
"""Background flushes: what counts as durable, and that writing waits for a slow device."""

import queue
import threading
import time

import pytest

from mediamaker.execute.flusher import (
    WINDOW_SIZE_FIRST,
    WINDOW_SIZE_MAX,
    WINDOW_SIZE_MIN,
    BackgroundFlusher,
)

MIB = 1 << 20


class Device:
    """A device whose flushes end when the test says so."""

    def __init__(self):
        self.begun = queue.SimpleQueue()
        self.may_end = queue.SimpleQueue()
        self.now = 0.0

    def flush_data(self):
        self.begun.put(True)
        answer = self.may_end.get(timeout=10)
        if isinstance(answer, OSError):
            raise answer
        self.now += answer

    def clock(self):
        return self.now


@pytest.fixture
def device():
    return Device()


@pytest.fixture
def flusher(device):
    flusher = BackgroundFlusher(device.flush_data, clock=device.clock)
    yield flusher
    device.may_end.put(0)
    flusher.close()


def advance_until(flusher, size, durable_size):
    deadline = time.monotonic() + 10
    while flusher.durable_size != durable_size:
        assert time.monotonic() < deadline
        flusher.advance(size)
        time.sleep(0.001)


def test_nothing_is_durable_before_a_flush_has_ended(device, flusher):
    flusher.advance(WINDOW_SIZE_FIRST - 1)
    assert device.begun.empty()
    flusher.advance(WINDOW_SIZE_FIRST)
    device.begun.get(timeout=10)
    flusher.advance(WINDOW_SIZE_FIRST + MIB)  # goes on while the flush runs
    assert flusher.durable_size == 0
    device.may_end.put(1.0)
    advance_until(flusher, WINDOW_SIZE_FIRST + MIB, WINDOW_SIZE_FIRST)


def test_writing_waits_when_a_second_window_is_full(device, flusher):
    flusher.advance(WINDOW_SIZE_FIRST)
    device.begun.get(timeout=10)
    waiting = threading.Thread(target=flusher.advance, args=(2 * WINDOW_SIZE_FIRST,))
    waiting.start()
    waiting.join(0.3)
    assert waiting.is_alive()
    device.may_end.put(1.0)
    waiting.join(10)
    assert not waiting.is_alive()
    assert flusher.durable_size == WINDOW_SIZE_FIRST
    device.begun.get(timeout=10)  # and the next one has begun


@pytest.mark.parametrize(("seconds", "limit"), [(0.01, WINDOW_SIZE_MAX), (5.0, WINDOW_SIZE_MIN)])
def test_the_window_follows_the_device(device, flusher, seconds, limit):
    written = 0
    steps = []
    for _ in range(8):
        before = written
        while not flusher._is_flushing:
            written += MIB
            flusher.advance(written)
        device.begun.get(timeout=10)
        steps.append(written - before)
        device.may_end.put(seconds)
        advance_until(flusher, written, written)
    assert steps[0] == WINDOW_SIZE_FIRST
    assert steps[-1] == limit


def test_a_flush_that_fails_is_raised_to_the_writer(device, flusher):
    flusher.advance(WINDOW_SIZE_FIRST)
    device.may_end.put(OSError(5, "broken"))
    with pytest.raises(OSError, match="broken"):
        advance_until(flusher, WINDOW_SIZE_FIRST, -1)
    assert flusher.durable_size == 0


def test_cancel_ends_the_wait(device):
    cancel = threading.Event()
    flusher = BackgroundFlusher(device.flush_data, clock=device.clock, cancel=cancel)
    flusher.advance(WINDOW_SIZE_FIRST)
    device.begun.get(timeout=10)
    threading.Timer(0.05, cancel.set).start()
    began = time.monotonic()
    with pytest.raises(KeyboardInterrupt):
        flusher.advance(2 * WINDOW_SIZE_FIRST)
    assert time.monotonic() - began < 1
    device.may_end.put(0)
    flusher.close()
