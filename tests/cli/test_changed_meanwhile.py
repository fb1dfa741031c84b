# SPDX-License-Identifier: GPL-3.0-or-later
"""A person is asked about one disk; what is there when the answer comes must be that one.

The question is asked on a real terminal (a pty), the disks are loop devices. Needs root.
"""

import os
import pty
import shutil
import subprocess
import sys
import time
from pathlib import Path

import pytest

from tests.cli.conftest import pe_program

MIB = 1 << 20
SIZE = 64 * MIB
TIMEOUT_S = 120


def run(*command, **options):
    return subprocess.run(
        [str(word) for word in command], check=True, capture_output=True, text=True, **options
    ).stdout.strip()


@pytest.fixture
def tree(tmp_path):
    root = tmp_path / "tree"
    (root / "efi" / "boot").mkdir(parents=True)
    (root / "efi" / "boot" / "bootx64.efi").write_bytes(pe_program())
    return root


@pytest.fixture
def backing(tmp_path):
    path = tmp_path / "disk"
    path.write_bytes(b"")
    os.truncate(path, SIZE)
    return path


@pytest.fixture
def device(backing):
    name = run("losetup", "--find", "--show", backing)
    yield name
    run("losetup", "--detach", name)


def at_a_terminal(*words, meanwhile):
    """Exit code and everything said; ``meanwhile`` runs while the question is open."""
    ours, theirs = pty.openpty()
    process = subprocess.Popen(
        [sys.executable, "-m", "mediamaker", *map(str, words)],
        stdin=theirs, stdout=theirs, stderr=theirs, start_new_session=True,
    )  # fmt: skip
    os.close(theirs)
    try:
        said = read_until(ours, b'Type "')
        assert b'Type "' in said, said
        meanwhile()
        os.write(ours, f"{Path(words[-1]).name}\n".encode())
        said += read_until(ours, None)
        return process.wait(TIMEOUT_S), said.decode()
    finally:
        process.kill()
        process.wait()
        os.close(ours)


def read_until(terminal, text):
    said = b""
    deadline = time.monotonic() + TIMEOUT_S
    while time.monotonic() < deadline and (text is None or text not in said):
        try:
            said += os.read(terminal, 4096)
        except OSError:  # the program has ended
            break
    return said


def partition(device):
    run("sfdisk", "--quiet", device, input="label: dos\n,4M,c\n")


def test_create_writes_what_was_confirmed(tree, backing, device):
    code, said = at_a_terminal("create", tree, device, meanwhile=lambda: None)
    assert code == 0, said
    assert backing.read_bytes()[510:512] == b"\x55\xaa"


def test_create_onto_a_disk_that_was_partitioned_meanwhile(tree, backing, device):
    code, said = at_a_terminal("create", tree, device, meanwhile=lambda: partition(device))
    assert code == 4, said
    assert "is not as it was when the plan was shown" in said
    assert "size=        8192, type=c" in run("sfdisk", "--dump", device)
    assert not any(backing.read_bytes()[MIB : SIZE - MIB])


def test_create_onto_a_disk_that_was_replaced_meanwhile(tree, device, tmp_path):
    other = tmp_path / "other"
    other.write_bytes(b"\xa5" * SIZE)

    def replace():
        run("losetup", "--detach", device)
        run("losetup", device, other)

    code, said = at_a_terminal("create", tree, device, meanwhile=replace)
    assert code == 4, said
    assert "is not the disk that was chosen" in said
    assert other.read_bytes() == b"\xa5" * SIZE


def test_undo_on_a_disk_that_was_changed_meanwhile(tree, backing, device, state_folder):
    partition(device)
    run(sys.executable, "-m", "mediamaker", "create", tree, device, "--confirm", device[5:])
    before = backing.read_bytes()

    def zero_the_table():
        # undo has the disk with O_EXCL meanwhile: sfdisk obeys that, dd does not
        run("dd", "if=/dev/zero", f"of={device}", "bs=512", "count=1", "conv=notrunc,fsync")

    code, said = at_a_terminal("undo", device, meanwhile=zero_the_table)
    assert code == 4, said
    assert "is not as it was when the plan was shown" in said
    assert backing.read_bytes() == bytes(512) + before[512:]


@pytest.mark.parametrize(("name", "is_waited_for"), [("systemd-udevd", True), ("editor", False)])
def test_udev_is_waited_for_and_no_other_program(tree, device, tmp_path, name, is_waited_for):
    """A disk that was just plugged in is in udev's hands for a moment."""
    program = tmp_path / name
    shutil.copy("/bin/sleep", program)
    with (
        Path(device).open("r+b") as disk,
        subprocess.Popen([program, "4"], pass_fds=[disk.fileno()]),
    ):
        disk.close()
        words = ("create", tree, device, "--confirm", Path(device).name)
        done = subprocess.run(
            [sys.executable, "-m", "mediamaker", *map(str, words)],
            capture_output=True, text=True, check=False,
        )  # fmt: skip
    assert done.returncode == (0 if is_waited_for else 4), done.stderr
    if not is_waited_for:
        assert f"{name}, has {Path(device).name} open [open-for-writing]" in done.stderr
