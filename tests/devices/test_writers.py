# SPDX-License-Identifier: GPL-3.0-or-later
"""The look for writers, on this host: it must not wait for a server that does not answer."""

import os
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from contextlib import contextmanager
from pathlib import Path

import pytest

ANSWER_SECONDS = 60
LOOK = """
from mediamaker.devices.blockmap import BlockMap
from mediamaker.devices.sysfs import SystemRoots
from mediamaker.devices.writers import read_writers

read_writers(BlockMap(SystemRoots()))
print("looked")
"""
HOLD = """
import sys, time

with open(sys.argv[1], "wb"):
    print("open", flush=True)
    time.sleep(3600)
"""

pytestmark = pytest.mark.skipif(
    os.geteuid() != 0 or shutil.which("ntfs-3g") is None, reason="mounts a FUSE file system"
)


@pytest.fixture
def folder():
    path = Path(tempfile.mkdtemp(prefix="mm-writers-", dir="/dev/shm"))
    yield path
    shutil.rmtree(path)


@contextmanager
def served(folder):
    """A file system of FUSE at the place that is given, and the process that serves it."""
    image, place = folder / "volume", folder / "mounted"
    with image.open("wb") as file:
        file.truncate(4 << 20)
    subprocess.run(["mkntfs", "-F", "-Q", "-q", image], check=True)
    place.mkdir()
    server = subprocess.Popen(["ntfs-3g", "-o", "no_detach", image, place])
    try:
        while not place.is_mount():
            assert server.poll() is None
            time.sleep(0.05)
        yield place, server
    finally:
        server.send_signal(signal.SIGCONT)
        subprocess.run(["umount", "--lazy", place], check=True, timeout=60)
        server.wait(timeout=60)


@contextmanager
def held_open(path):
    holder = subprocess.Popen([sys.executable, "-c", HOLD, path], stdout=subprocess.PIPE)
    try:
        assert holder.stdout.readline() == b"open\n"
        yield
    finally:
        holder.kill()
        holder.communicate()


def test_a_stopped_fuse_server_below_dev_shm_is_not_asked(folder):
    with served(folder) as (place, server), held_open(place / "file"):
        server.send_signal(signal.SIGSTOP)
        try:
            time.sleep(1.5)  # FUSE answers from its cache for a second
            done = subprocess.run(
                [sys.executable, "-c", LOOK],
                capture_output=True,
                timeout=ANSWER_SECONDS,
                check=False,
            )
        finally:
            server.send_signal(signal.SIGCONT)
    assert (done.stdout, done.stderr) == (b"looked\n", b"")
