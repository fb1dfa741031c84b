# SPDX-License-Identifier: GPL-3.0-or-later
"""Speed, ETA, bottleneck and rate of events, by a clock that is set by hand."""

import pytest

from mediamaker.execute.progress import Phase, ProgressMeter


class Clock:
    now = 100.0

    def __call__(self):
        return self.now


@pytest.fixture
def clock():
    return Clock()


@pytest.fixture
def events():
    return []


@pytest.fixture
def meter(clock, events):
    return ProgressMeter(events.append, clock)


def test_at_most_five_events_a_second(meter, clock, events):
    meter.start(Phase.WRITE, 1000)
    for step in range(1000):
        clock.now = 100 + step / 100
        meter.update(step)
    assert 45 <= len(events) <= 52


def test_speed_and_eta(meter, clock, events):
    meter.start(Phase.WRITE, 10_000)
    assert events[-1].eta_seconds is None
    for second in range(1, 5):
        clock.now = 100 + second
        meter.update(second * 1000)
    assert events[-1].bytes_per_second == pytest.approx(1000)
    assert events[-1].eta_seconds == pytest.approx(6)


def test_speed_follows_the_last_seconds_only(meter, clock, events):
    meter.start(Phase.WRITE, 1_000_000)
    done = 0
    for second in range(1, 31):
        clock.now = 100 + second
        done += 1000 if second <= 15 else 10
        meter.update(done)
    assert events[-1].bytes_per_second == pytest.approx(10)


def test_a_stall_longer_than_the_window_has_a_speed(meter, clock, events):
    meter.start(Phase.WRITE, 1000)
    clock.now += 60
    meter.update(600)
    assert events[-1].bytes_per_second == pytest.approx(10)


@pytest.mark.parametrize(
    ("source", "target", "cpu", "expected"),
    [
        (0.9, 0.2, 0.1, "source"),
        (0.3, 0.95, 0.5, "target"),
        (0.5, 0.6, 0.9, "cpu"),
        (0.1, 0.1, 0.1, None),
    ],
)
def test_the_busiest_stage_is_the_bottleneck(meter, clock, events, source, target, cpu, expected):
    meter.start(Phase.WRITE, 1000)
    assert events[-1].bottleneck is None
    for second in range(1, 4):
        clock.now = 100 + second
        meter.busy.source += source
        meter.busy.target += target
        meter.busy.cpu += cpu
        meter.update(second)
    assert events[-1].bottleneck == expected


def test_the_end_of_a_phase_is_always_told(meter, events):
    meter.start(Phase.VERIFY, 1000)
    meter.update(10)
    meter.finish()
    assert (events[-1].bytes_done, events[-1].eta_seconds) == (1000, 0.0)


def test_a_phase_without_a_measure_has_no_eta(meter, events):
    meter.start(Phase.FLUSH, 0)
    meter.finish()
    assert [event.eta_seconds for event in events] == [None, None]
