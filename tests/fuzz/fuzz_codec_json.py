# SPDX-License-Identifier: GPL-3.0-or-later
"""Plans and receipts as JSON. The first byte says which: ``p`` or ``r``."""

import json
import random
import re

from mediamaker.errors import FormatError
from mediamaker.execute.receipt import pack_receipt, parse_receipt
from mediamaker.plan.codec import plan_from_json, plan_to_json
from mediamaker.plan.show import show_plan
from tests.fuzz import runner
from tests.fuzz.rule import refused

NODE_COUNT_MAX = 4000
INTERESTING = (
    0, 1, -1, 511, 512, 513, 4096, 1 << 31, 1 << 32, 1 << 63, 1 << 64, -(1 << 63), 10**300, 0.5,
    1e308, float("inf"), float("nan"), True, None, "", "0", "512", "-1", "1" * 400, "\ud800", "\0",
    "file_range", "literal", "zeros", "unwritten", "mbr-fat32", "gpt-fat32", [], {}, [[]], [0, 1],
    {"kind": "zeros"}, "ab" * 32,
)  # fmt: skip


def test_one_input(data):
    kind, text = data[:1], data[1:]
    with refused():
        if kind == b"r":
            receipt = parse_receipt(text, what="fuzz")
            assert parse_receipt(pack_receipt(receipt), what="fuzz") == receipt
            return
        try:
            value = json.loads(text)
        except (ValueError, RecursionError):
            return
        plan = _plan(value)
        packed = json.dumps(plan_to_json(plan))
        assert json.dumps(plan_to_json(plan_from_json(json.loads(packed)))) == packed
        with refused():
            show_plan(plan)


def _plan(value):
    """The plan; where only its id is wrong, with the right one."""
    try:
        return plan_from_json(value)
    except FormatError as error:
        found = re.search(r"the content makes ([0-9a-f]{64})$", error.message)
        if found is None:
            raise
        return plan_from_json({**value, "plan_id": found[1]})


def mutate(data, seed):
    """One to three nodes of the document changed; None when it is none."""
    try:
        return _mutate(data, random.Random(seed))
    except (ValueError, RecursionError):
        return None


def _mutate(data, rng):
    value = json.loads(data[1:])
    for _ in range(rng.randint(1, 3)):
        places = _places(value)
        if not places:
            return None
        holder, key = rng.choice(places)
        action = rng.randrange(10)
        old = holder[key]
        if action == 0:
            del holder[key]
        elif action == 1 and isinstance(holder, list):
            holder.insert(key, json.loads(json.dumps(old)))
        elif action == 2 and type(old) is int:
            holder[key] = old + rng.choice((-512, -1, 1, 512, old))
        elif action == 3:
            other, name = rng.choice(places)
            if name in other if isinstance(other, dict) else name < len(other):
                holder[key] = json.loads(json.dumps(other[name]))
        elif action == 4 and isinstance(old, str) and old:
            at = rng.randrange(len(old))
            holder[key] = old[:at] + chr(rng.choice((0, 65, 102, 0xD800, 0x1F600))) + old[at + 1 :]
        else:
            holder[key] = json.loads(json.dumps(rng.choice(INTERESTING)))
    return data[:1] + json.dumps(value).encode()


def _places(value):
    places = []
    pending = [value]
    while pending and len(places) < NODE_COUNT_MAX:
        node = pending.pop()
        keys = node if isinstance(node, dict) else range(len(node)) if type(node) is list else ()
        for key in keys:
            places.append((node, key))
            pending.append(node[key])
    return places


def main():
    runner.start("fuzz_codec_json")


if __name__ == "__main__":
    main()
