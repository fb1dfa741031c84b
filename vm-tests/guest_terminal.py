# SPDX-License-Identifier: GPL-3.0-or-later
"""Runs in a guest: the command at a terminal, and what happens while its question is open.

::

    python3 guest_terminal.py NAME SERIAL ACTION create SOURCE @ --layout mbr-fat32

"@" is the disk of that serial. ACTION runs in bash, with that disk as ``$DISK``, once the question
stands there, which it must; then the serial is typed. NAME.txt has what was said, NAME.code the
exit code.
"""

import json
import os
import pty
import subprocess
import sys
import time
from pathlib import Path

TIMEOUT_S = 300


def paths_by_serial():
    """Of all disks that have one."""
    shown = subprocess.run(
        ["lsblk", "--nodeps", "--json", "--output", "PATH,SERIAL"],
        check=True, capture_output=True, text=True,
    ).stdout  # fmt: skip
    disks = json.loads(shown)["blockdevices"]
    return {disk["serial"]: disk["path"] for disk in disks if disk["serial"]}


def at_a_terminal(name, serial, action, *words):
    """Run it to its end on a pty of its own."""
    path = paths_by_serial()[serial]
    command = [sys.executable, "-m", "mediamaker", *(path if w == "@" else w for w in words)]
    pid, terminal = pty.fork()
    if pid == 0:
        os.execv(sys.executable, command)
    question = f'Type "{serial}" to '.encode()
    said = _read_until(terminal, question)
    if question not in said:
        raise RuntimeError(f"it never asked: {said.decode(errors='replace')}")
    subprocess.run(
        ["bash", "-euc", action], check=True, env={**os.environ, "DISK": path}, timeout=TIMEOUT_S
    )
    os.write(terminal, f"{serial}\n".encode())
    said += _read_until(terminal, None)
    code = os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])
    Path(f"{name}.txt").write_bytes(said)
    Path(f"{name}.code").write_text(f"{code}\n")


def _read_until(terminal, text):
    said = b""
    deadline = time.monotonic() + TIMEOUT_S
    while time.monotonic() < deadline:
        try:
            piece = os.read(terminal, 4096)
        except OSError:  # the other end is closed
            break
        said += piece
        if not piece or (text is not None and text in said):
            break
    return said


if __name__ == "__main__":
    at_a_terminal(*sys.argv[1:])
