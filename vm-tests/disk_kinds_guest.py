# SPDX-License-Identifier: GPL-3.0-or-later
"""What runs in the guest of test_disk_kinds.py: the command, once for each disk.

The command's own ``main`` is called here many times, as starting Python takes seconds under TCG;
where a person sits at a terminal it is started as a program of its own, on a pty.
"""

import contextlib
import errno
import io
import json
import os
import pty
import subprocess
import sys
import time
from pathlib import Path

from mediamaker.cli.main import main

TIMEOUT_S = 300
LAYOUT = ("--layout", "mbr-fat32")


def run_main(*words):
    """Exit code and standard output of one run."""
    with contextlib.redirect_stdout(io.StringIO()) as said:
        code = main([str(word) for word in words])
    return code, said.getvalue()


def paths_by_serial():
    shown = subprocess.run(
        ["lsblk", "--nodeps", "--json", "--output", "PATH,SERIAL"],
        check=True, capture_output=True, text=True,
    ).stdout  # fmt: skip
    disks = json.loads(shown)["blockdevices"]
    return {disk["serial"]: disk["path"] for disk in disks if disk["serial"]}


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


def at_a_terminal(name, folder, serial, action):
    """create on a pty; ``action`` runs (in bash) while the question is open, then the answer."""
    path = paths_by_serial()[serial]
    command = [sys.executable, "-m", "mediamaker", "create", folder, path, *LAYOUT]
    pid, terminal = pty.fork()
    if pid == 0:
        os.execv(sys.executable, command)
    said = read_until(terminal, b'Type "')
    subprocess.run(
        ["bash", "-euc", action], check=True, env={**os.environ, "DISK": path}, timeout=TIMEOUT_S
    )
    os.write(terminal, f"{serial}\n".encode())
    said += read_until(terminal, None)
    code = os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])
    Path(f"{name}.txt").write_bytes(said + f"\nexit {code}\n".encode())


def read_until(terminal, text):
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
    {"judge": judge, "terminal": at_a_terminal}[sys.argv[1]](*sys.argv[2:])
