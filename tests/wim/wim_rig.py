# SPDX-License-Identifier: GPL-3.0-or-later
"""Foreign tools that make and judge WIMs and NTFS volumes."""

import os
import random
import re
import struct
import subprocess
import time
from contextlib import contextmanager
from pathlib import Path

MIB = 1 << 20


def run(*arguments):
    done = subprocess.run(
        [str(item) for item in arguments], check=False, capture_output=True, text=True
    )
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


def info(path):
    text = run("wimlib-imagex", "info", path).split("Available Images")[0]
    return dict(re.findall(r"^([A-Z][A-Za-z ]+?):\s+(.*)$", text, re.MULTILINE))


def names(path):
    return re.findall(r"^Name:\s+(.*)$", run("wimlib-imagex", "info", path), re.MULTILINE)


def check(path):
    """Two readers that are not ours."""
    run("wimlib-imagex", "verify", path)
    run("7z", "t", path)


def detailed(path, image=1):
    """The image in wimlib's words; groups of hard links are numbered as they come."""
    text = run("wimlib-imagex", "dir", path, image, "--detailed")
    groups = {"0x0000000000000000": "none"}
    kept = []
    for line in text.splitlines():
        name, _, value = (part.strip() for part in line.partition("="))
        if name == "Link Group ID":
            line = f"{name} = {groups.setdefault(value, len(groups))}"  # noqa: PLW2901
        if name not in {"Offset in WIM", "Compressed size", "Reference Count"}:
            kept.append(line)
    return "\n".join(kept)


def assert_image_is(path, image, tree, out):
    """The image's tree is ``tree``; ``out`` is where it may be extracted."""
    run("wimlib-imagex", "apply", path, image, out)
    run("diff", "-r", "--no-dereference", tree, out)


def make_tree(root, seed, common=b""):
    rng = random.Random(seed)
    words = [rng.randbytes(6) for _ in range(200)]
    root.mkdir()
    for number in range(12):
        data = b" ".join(rng.choice(words) for _ in range(rng.randrange(20000)))
        (root / f"file{number}").write_bytes(data)
    (root / "common").write_bytes(common)
    (root / "empty").touch()
    return root


def listing(directory):
    return sorted(entry.name for entry in directory.iterdir())


def make_volume(path, size=16 * MIB):
    with path.open("wb") as file:
        file.truncate(size)
    run("mkntfs", "-q", "-F", "-T", "-L", "TEST", path)
    return path


@contextmanager
def mounted(volume, where, options="streams_interface=windows,efs_raw,noatime"):
    where.mkdir(exist_ok=True)
    run("ntfs-3g", "-o", options, volume, where)
    try:
        yield where
    finally:
        run("fusermount", "-u", where)
        wait_unmounted(volume)


def wait_unmounted(volume):
    """fusermount returns before the driver has written everything and let go of the file."""
    deadline = time.monotonic() + 20
    target = str(volume.resolve())
    while time.monotonic() < deadline:
        holders = [
            link
            for link in Path("/proc").glob("[0-9]*/fd/*")
            if _link(link) == target and f"/proc/{os.getpid()}/" not in str(link)
        ]
        if not holders:
            return
        time.sleep(0.05)
    raise AssertionError(f"{volume} is still in use")


def _link(path):
    try:
        return str(path.readlink())
    except OSError:
        return None


def set_extended_attribute(path, name=b"MINE", value=b"value"):
    entry = struct.pack("<BBH", 0, len(name), len(value)) + name + b"\0" + value
    size = 4 + len(entry) + -len(entry) % 4
    entry = struct.pack("<I", size) + entry
    os.setxattr(path, "system.ntfs_ea", entry.ljust(size, b"\0"))


def set_symbolic_link(path, target):
    """A Windows symbolic link, relative: [MS-FSCC] 2.1.2.4."""
    name = target.encode("utf-16-le")
    data = struct.pack("<HHHHI", len(name), len(name), 0, len(name), 1) + name + name
    path.touch()
    os.setxattr(
        path, "system.ntfs_reparse_data", struct.pack("<IHH", 0xA000000C, len(data), 0) + data
    )


def mark_encrypted(volume, name):
    """Set the attribute in the file's record: ntfs-3g has no way to encrypt."""
    data = bytearray(volume.read_bytes())
    wanted = name.encode("utf-16-le")
    for at in range(0, len(data) - 1024, 1024):
        record = data[at : at + 1024]
        if record[:4] == b"FILE" and wanted in record:
            attributes = at + int.from_bytes(record[0x14:0x16], "little")
            assert data[attributes] == 0x10  # $STANDARD_INFORMATION comes first
            offset = data[attributes + 0x14 : attributes + 0x16]
            data[attributes + int.from_bytes(offset, "little") + 0x21] |= 0x40
            volume.write_bytes(data)
            return
    raise AssertionError(name)
