# SPDX-License-Identifier: GPL-3.0-or-later
"""The harnesses stay alive without atheris: seeds and random mutations of them, in seconds."""

import random
import time
import tracemalloc

import pytest

from mediamaker.units import MIB
from tests.fuzz import (
    fuzz_bcd,
    fuzz_codec_json,
    fuzz_disk_map,
    fuzz_partition_tables,
    fuzz_regf,
    fuzz_udf_iso,
    fuzz_wim,
    fuzz_wim_chunks,
    fuzz_wim_metadata,
    fuzz_wim_tables,
)
from tests.fuzz.seeds import make_seeds

HARNESSES = (
    fuzz_wim,
    fuzz_wim_metadata,
    fuzz_wim_chunks,
    fuzz_wim_tables,
    fuzz_partition_tables,
    fuzz_regf,
    fuzz_bcd,
    fuzz_udf_iso,
    fuzz_codec_json,
    fuzz_disk_map,
)
INPUT_COUNT = 400
SECONDS_MAX = 5
MEMORY_MAX = 64 * MIB
NUMBERS = (0, 1, 7, 8, 0x7F, 0x80, 0xFF, 0xFFFF, 1 << 31, (1 << 32) - 1, (1 << 63) - 1, -1)


@pytest.fixture(scope="module")
def seeds():
    return make_seeds()


def _name(harness):
    return harness.__name__.rpartition(".")[2]


def _mutate(data, rng):
    """A few bytes, a number, a piece moved or an end cut off."""
    mutated = bytearray(data)
    for _ in range(rng.choice((1, 1, 2, 4))):
        at, size = rng.randrange(len(mutated) + 1), rng.choice((1, 2, 4, 8))
        match rng.randrange(6):
            case 0:
                del mutated[at:]
            case 1:
                mutated[at:at] = mutated[at : at + rng.randrange(64)]
            case 2:
                del mutated[at : at + size]
            case 3:
                mutated[at : at + 1] = rng.randbytes(1)
            case _:
                number = rng.choice(NUMBERS) & ((1 << 8 * size) - 1)
                mutated[at : at + size] = number.to_bytes(size, "little")
    return bytes(mutated)


@pytest.mark.parametrize("harness", HARNESSES, ids=_name)
def test_only_errors_of_ours_in_bounded_time_and_memory(harness, seeds):
    rng = random.Random(5)
    own_mutate = getattr(harness, "mutate", None)
    good = list(seeds[_name(harness)].values())
    inputs = list(good)
    for number in range(INPUT_COUNT):
        data = rng.choice(good)
        mutated = own_mutate(data, number) if own_mutate and number % 2 else None
        inputs.append(_mutate(data, rng) if mutated is None else mutated)
    tracemalloc.start()
    try:
        for data in inputs:
            tracemalloc.reset_peak()
            before = tracemalloc.get_traced_memory()[0]
            started = time.perf_counter()
            harness.test_one_input(data)
            assert time.perf_counter() - started < SECONDS_MAX
            assert tracemalloc.get_traced_memory()[1] - before < MEMORY_MAX
    finally:
        tracemalloc.stop()


@pytest.mark.parametrize("harness", HARNESSES, ids=_name)
def test_nothing_and_nonsense(harness):
    rng = random.Random(6)
    for size in (0, 1, 2, 15, 16, 300, 5000):
        harness.test_one_input(rng.randbytes(size))
