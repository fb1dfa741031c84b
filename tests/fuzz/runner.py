# SPDX-License-Identifier: GPL-3.0-or-later
"""Runs one harness under atheris: ``python -m tests.fuzz.runner fuzz_wim DIR [libFuzzer options]``.

Only ``mediamaker`` and pycdlib are instrumented, so they must be imported here and not before:
that is why a harness's own ``main`` starts a new process with this module.
"""

import importlib
import os
import sys

INPUT_SECONDS = 5
RSS_MIB = 1024


def start(name):
    """A harness's ``main``: become the fuzzer."""
    os.execv(sys.executable, [sys.executable, "-m", "tests.fuzz.runner", name, *sys.argv[1:]])


def main(arguments):
    import atheris  # noqa: PLC0415  (not needed by the tests)

    name, *options = arguments
    with atheris.instrument_imports(include=["mediamaker", "pycdlib"]):
        harness = importlib.import_module(f"tests.fuzz.{name}")
    mutate = getattr(harness, "mutate", None)
    extra = {}
    if mutate is not None:

        def custom_mutator(data, size_max, seed):
            mutated = mutate(data, seed) if seed % 4 else None
            if mutated is None or len(mutated) > size_max:
                return atheris.Mutate(data, size_max)
            return mutated

        extra["custom_mutator"] = custom_mutator
    limits = [f"-timeout={INPUT_SECONDS}", f"-rss_limit_mb={RSS_MIB}", "-print_final_stats=1"]
    atheris.Setup([f"tests.fuzz.{name}", *limits, *options], harness.test_one_input, **extra)
    atheris.Fuzz()


if __name__ == "__main__":
    main(sys.argv[1:])
