# SPDX-License-Identifier: GPL-3.0-or-later
"""What runs in the guest of test_disk_kinds.py: the command, once for each disk.

The command's own ``main`` is called here many times, as starting Python takes seconds under TCG;
where a person sits at a terminal it is started as a program of its own (guest_terminal.py).
"""

import contextlib
import errno
import io
import json
import os
import sys
import time
from pathlib import Path

from guest_terminal import paths_by_serial

from mediamaker.cli.main import main

LAYOUT = ("--layout", "mbr-fat32")


def run_main(*words):
    """Exit code and standard output of one run."""
    with contextlib.redirect_stdout(io.StringIO()) as said:
        code = main([str(word) for word in words])
    return code, said.getvalue()


def is_claimed(path):
    """The kernel's own word: does it give the disk to us alone."""
    try:
        os.close(os.open(path, os.O_RDONLY | os.O_EXCL))
    except OSError as error:
        return error.errno == errno.EBUSY
    return False


def judge(name, folder, *serials):
    """``devices`` twice, and a create onto every disk of ``serials``."""
    paths = paths_by_serial()
    claimed = {serial: is_claimed(path) for serial, path in paths.items()}
    Path(f"{name}.json").write_text(run_main("devices", "--json")[1])
    if serials:
        Path(f"{name}.txt").write_text(run_main("devices")[1])
    creates = {}
    for serial in serials:
        source = "/mnt/source/tree" if serial == "SOURCE" else folder
        print(f"create onto {serial} at {time.monotonic():.0f} s", flush=True)
        code, said = run_main(
            "create", source, paths[serial], *LAYOUT, "--confirm", serial, "--json"
        )
        creates[serial] = (code, json.loads(said.splitlines()[-1]))
    report = {"paths": paths, "claimed": claimed, "creates": creates}
    Path(f"{name}-report.json").write_text(json.dumps(report, indent=1))


if __name__ == "__main__":
    judge(*sys.argv[1:])
