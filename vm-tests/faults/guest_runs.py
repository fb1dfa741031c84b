# SPDX-License-Identifier: GPL-3.0-or-later
"""Several runs of ``mediamaker`` in a guest, each in a process of its own, forked after imports.

::

    python3 guest_runs.py NAME=SERIAL -- create SOURCE @ --confirm SERIAL

"@" is the disk of that serial; standard output goes to NAME.json, errors to NAME.err, the exit
code to NAME.code. Imports take most of a short run where the processor is emulated and the files
come over 9p; so they are shared, which a person's run does not do, and nothing else.
"""

import json
import os
import sys
from pathlib import Path

import mediamaker.cli.create
import mediamaker.cli.verify  # noqa: F401 - what the runs will need
from mediamaker.cli.main import main


def find_disk(serial: str) -> str:
    """The disk with that serial: USB ports may be found in another order."""
    for number in Path("/sys/block").glob("sd*/dev"):
        said = Path("/run/udev/data", f"b{number.read_text().strip()}").read_text()
        if f"E:ID_SERIAL_SHORT={serial}\n" in said:
            return f"/dev/{number.parent.name}"
    raise SystemExit(f"no disk has the serial {serial}")


def run(name: str, words: list[str]) -> None:
    """Fork, and wait for it."""
    child = os.fork()
    if child == 0:
        for number, ending in ((1, "json"), (2, "err")):
            descriptor = os.open(f"{name}.{ending}", os.O_WRONLY | os.O_CREAT | os.O_TRUNC)
            os.dup2(descriptor, number)
        code = 1
        try:
            code = int(main(words))
        except SystemExit as ending:
            code = int(ending.code or 0)
        finally:
            sys.stdout.flush()
            sys.stderr.flush()
            os._exit(code)
    _, status = os.waitpid(child, 0)
    Path(f"{name}.code").write_text(f"{os.waitstatus_to_exitcode(status)}\n")


for asked in json.loads(Path(sys.argv[1]).read_text()):
    disk = find_disk(asked["serial"])
    run(asked["name"], [disk if word == "@" else word for word in asked["words"]])
