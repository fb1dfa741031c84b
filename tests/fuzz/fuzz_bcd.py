# SPDX-License-Identifier: GPL-3.0-or-later
"""A BCD store: read, shown, written, read again; and the input as a device, and as typed text."""

import json
import random
from pathlib import Path

from mediamaker.cli.bcd_show import show_store, store_to_json
from mediamaker.formats.bcd import Store, find_problems, pack_store, parse_store
from mediamaker.formats.bcd_devices import device_partition, pack_device, parse_device
from mediamaker.formats.bcd_names import element_id
from mediamaker.formats.bcd_text import (
    find_object,
    format_device,
    parse_device_text,
    parse_value,
)
from mediamaker.plan.boot_entries import remove_object, unregister_recovery, windows_loaders
from tests.fuzz import fuzz_regf, runner
from tests.fuzz.rule import refused
from tests.hostile.make_regf import with_checksum

BLOCK_SIZE = 0x1000
FORMS = range(0x11000001, 0x18000001, 0x01000000)
TEXT_SIZE_MAX = 2000


def test_one_input(data):
    if data[:4] == b"regf":
        _store(with_checksum(data))
        return
    device = parse_device(data)
    assert pack_device(device) == data
    device_partition(device)
    format_device(device).encode("utf-8", "surrogatepass")
    text = data[:TEXT_SIZE_MAX].decode("utf-8", "surrogateescape")
    with refused():
        element_id(text, None)
    with refused():
        made = parse_device_text(text, resolve=_resolve)
        assert pack_device(parse_device(pack_device(made))) == pack_device(made)
    for number in FORMS:
        with refused():
            parse_value(text.split(), number, None, resolve=_resolve)


def _store(data):
    with refused():
        parse_store(data, what="fuzz")
    with refused():
        store = parse_store(data, what="fuzz", keep_damaged=True)
        packed = pack_store(store)
        again = parse_store(packed, what="again", keep_damaged=True)
        assert again == store
        assert pack_store(again) == packed
        assert sorted(find_problems(again)) == sorted(find_problems(store))
        for is_verbose in (False, True):
            show_store(store, wanted=None, is_verbose=is_verbose)
        json.dumps(store_to_json(Path("BCD"), store))
        for loader in windows_loaders(store):
            pack_store(remove_object(unregister_recovery(store, loader.guid), loader.guid))


def _resolve(word):

    return find_object(Store(), word)


def mutate(data, seed):
    """Hives as the harness of hives does, or a byte of a value; others anywhere."""
    if data[:4] == b"regf" and seed % 3:
        return fuzz_regf.mutate(data, seed)
    rng = random.Random(seed)
    mutated = bytearray(data)
    first = BLOCK_SIZE if data[:4] == b"regf" and len(data) > BLOCK_SIZE else 0
    for _ in range(rng.choice((1, 1, 2, 4))):
        if len(mutated) > first:
            at = rng.randrange(first, len(mutated))
            mutated[at] = rng.choice((0, 1, 0xFF, mutated[at] ^ 1, rng.randrange(256)))
    return bytes(mutated)


def main():
    runner.start("fuzz_bcd")


if __name__ == "__main__":
    main()
