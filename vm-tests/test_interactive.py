# SPDX-License-Identifier: GPL-3.0-or-later
"""``boot --interactive``: a window on a real X server, VNC where there is none, nobody at all."""

import json
import os
import pty
import re
import secrets
import socket
import subprocess
import sys
import time

import pytest

# cli; mov si, 7C80h; again: lodsb; test al, al; jz done; mov dx, 3F8h; out dx, al; jmp again;
# done: hlt; jmp done
SAY = bytes.fromhex("FA BE807C AC 84C0 7406 BAF803 EE EBF5 F4 EBFD")
PATIENCE = 120


@pytest.fixture
def talker(vm_disk, vm_token):
    """A disk that says the token."""
    sector = SAY.ljust(0x80, b"\0") + vm_token.encode() + b"\r\n\0"
    return vm_disk(sector.ljust(510, b"\0") + b"\x55\xaa").path


@pytest.fixture
def display():
    """An X server without a screen; the name of its display."""
    read_fd, write_fd = os.pipe()
    with subprocess.Popen(
        ["Xvfb", "-displayfd", str(write_fd), "-screen", "0", "1024x768x24", "-nolisten", "tcp"],
        pass_fds=[write_fd],
        stderr=subprocess.DEVNULL,
    ) as server:
        os.close(write_fd)
        with open(read_fd) as file:  # noqa: PTH123 - a descriptor
            yield f":{file.readline().strip()}"
        server.terminate()


def start(talker, vm_folder, *words, display=None, stdin=subprocess.DEVNULL):
    environment = {k: v for k, v in os.environ.items() if k not in {"DISPLAY", "WAYLAND_DISPLAY"}}
    if display is not None:
        environment["DISPLAY"] = display
    return subprocess.Popen(
        [sys.executable, "-m", "mediamaker", "boot", talker, "--firmware", "bios", "--interactive",
         "--screenshot", vm_folder, *words],
        env=environment, stdin=stdin, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
    )  # fmt: skip


def wait_for(look):
    deadline = time.monotonic() + PATIENCE
    while not (found := look()):
        assert time.monotonic() < deadline
        time.sleep(0.3)
    return found


def test_a_window_opens_and_the_person_closes_it(talker, vm_folder, vm_token, display):
    def run(*words):
        environment = {**os.environ, "DISPLAY": display}
        done = subprocess.run(words, env=environment, capture_output=True, text=True, check=False)
        return done.stdout if done.returncode == 0 else ""

    with start(
        talker, vm_folder, "--expect", vm_token, "--json", "--timeout", str(PATIENCE),
        display=display,
    ) as process:  # fmt: skip
        window = wait_for(
            lambda: re.search(
                r"(0x[0-9a-f]+) \"QEMU \(mediamaker-boot-bios-usb",
                run("xwininfo", "-root", "-tree"),
            )
        )
        wait_for(lambda: any(vm_token in log.read_text() for log in vm_folder.rglob("serial.log")))
        time.sleep(3)  # it looks twice a second
        # What the window's menu calls Quit; a slow window may miss the first.
        while process.poll() is None:
            run("xdotool", "windowfocus", window[1], "key", "ctrl+alt+q")
            time.sleep(2)
        out, errors = process.communicate(timeout=PATIENCE)
    assert process.returncode == 0, (out, errors)
    result = json.loads(out.splitlines()[-1])
    assert result["proven"] is True
    assert result["matched_line"] == vm_token
    assert result["seconds"] < PATIENCE
    assert [path.rsplit("-", 1)[1] for path in result["screenshots"]] == ["last.png"]


def test_vnc_where_there_is_no_display(talker, vm_folder):
    ours, theirs = pty.openpty()
    with start(talker, vm_folder, "--expect", secrets.token_hex(8), stdin=theirs) as process:
        path = wait_for(lambda: re.search(r"vncviewer (/\S+)", process.stderr.readline()))[1]
        with socket.socket(socket.AF_UNIX) as viewer:

            def connect():
                try:
                    return viewer.connect(path) is None
                except OSError:
                    return False

            wait_for(connect)
            assert viewer.recv(12).startswith(b"RFB 003.")
        assert os.stat(os.path.dirname(path)).st_mode & 0o77 == 0  # noqa: PTH116, PTH120
        process.send_signal(2)
        out, errors = process.communicate(timeout=PATIENCE)
    os.close(ours)
    os.close(theirs)
    assert process.returncode == 7, errors
    assert "was not seen" in out
    assert not os.path.exists(path)  # noqa: PTH110


def test_nobody_is_there(talker, vm_folder):
    with start(talker, vm_folder) as process:
        _, errors = process.communicate(timeout=PATIENCE)
    assert process.returncode == 2
    assert "--interactive needs a person" in errors
    assert "ssh -X" in errors
