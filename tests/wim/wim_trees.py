# SPDX-License-Identifier: GPL-3.0-or-later
"""Trees with something of everything, captured by wimlib-imagex and read back by us."""

from __future__ import annotations

import hashlib
import os
import random
import subprocess
from pathlib import Path

COMPRESSIONS = {
    "none": ["--compress=none"],
    "xpress": ["--compress=XPRESS"],
    "xpress-4k": ["--compress=XPRESS", "--chunk-size=4K"],
    "xpress-64k": ["--compress=XPRESS", "--chunk-size=64K"],
    "lzx": ["--compress=LZX:20"],
    "lzx-2m": ["--compress=LZX:20", "--chunk-size=2M"],
    "lzms": ["--compress=LZMS:20"],
    "solid": ["--solid", "--solid-compress=LZMS:20"],
    "solid-small-chunks": ["--solid", "--solid-compress=LZX:20", "--solid-chunk-size=128K"],
    "integrity": ["--compress=XPRESS", "--check"],
}


def run(*command: object) -> str:
    done = subprocess.run([str(word) for word in command], capture_output=True, check=False)
    assert done.returncode == 0, done.stderr or done.stdout
    return done.stdout.decode()


def make_tree(folder: Path) -> Path:
    """Small and large files, holes, equal ones, hard links, empty ones, links, deep names."""
    noise = random.Random(7)
    folder.mkdir()
    (folder / "text").write_bytes(b"the quick brown fox. " * 9000)
    (folder / "noise").write_bytes(noise.randbytes(150_000))
    (folder / "one").write_bytes(b"1")
    (folder / "large").write_bytes(noise.randbytes(50_000) * 120 + b"end")
    (folder / "empty").write_bytes(b"")
    (folder / "exactly a chunk").write_bytes(noise.randbytes(512) * 64)
    (folder / "same").write_bytes(b"the quick brown fox. " * 9000)
    (folder / "Directory").mkdir()
    os.link(folder / "noise", folder / "Directory" / "hard link")
    (folder / "nothing here").mkdir()
    (folder / "Directory" / "down").symlink_to("../noise")
    (folder / "up and out").symlink_to("../../etc/passwd")
    (folder / "absolute").symlink_to("/etc/passwd")
    (folder / "\u00fcml\u00e4ut \u6f22\u5b57 \U0001f600").write_bytes(b"names")
    deep = folder
    for number in range(40):
        deep = deep / f"level {number}"
    deep.mkdir(parents=True)
    (deep / "bottom").write_bytes(b"deep down")
    for number in range(60):
        (folder / "Directory" / f"{number:03}").write_bytes(
            noise.randbytes(number * 37) + b"text" * number
        )
    os.utime(folder / "text", ns=(1_600_000_000_123_456_700, 1_500_000_000_765_432_100))
    return folder


def capture(folder: Path, path: Path, *options: str) -> Path:
    run("wimlib-imagex", "capture", folder, path, "Name", "--threads=1", *options)
    return path


def sha1_of(path: Path) -> str:
    return hashlib.sha1(path.read_bytes()).hexdigest()
