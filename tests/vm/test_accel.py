# SPDX-License-Identifier: GPL-3.0-or-later
"""The accelerator probe: a boot sector of ours that runs, and others that only seem to."""

import json
import secrets
import shutil
import time
from pathlib import Path

import psutil
import pytest

from mediamaker.sources.bootcode import load_accel_probe
from mediamaker.vm.accel import Accelerator, Choice
from mediamaker.vm.accel_probe import PROBE_TIMEOUT, QEMU, find_accelerator, run_probe
from mediamaker.vm.disk import Disk
from mediamaker.vm.firmware import Firmware
from mediamaker.vm.machine import Machine

PROGRAM = shutil.which(QEMU)
NOWHERE = Path("/nowhere/kvm")
# Opens for reading and writing, as a /dev/kvm that works does; QEMU itself takes the real one.
OPENS = Path("/dev/null")
# xor ax, ax; mov ds, ax; mov si, 7D80h; again: lodsb; test al, al; jz done; mov dx, 3F8h;
# out dx, al; jmp again; done: jmp done
SAY_WHAT_IS_STORED = bytes.fromhex("31C0 8ED8 BE807D AC 84C0 7406 BAF803 EE EBF5 EBFE")


def as_sector(code, rest=b""):
    return (code + rest[len(code) :]).ljust(510, b"\0")[:510] + b"\x55\xaa"


@pytest.fixture
def token():
    return secrets.token_hex(8)


def make_qemu(folder, script):
    """A program of QEMU's name that is not it, or does not stay it for long."""
    program = folder / "bin" / QEMU
    program.parent.mkdir(exist_ok=True)
    program.write_text(f"#!/bin/bash\n{script}\n")
    program.chmod(0o755)
    return str(program)


HANGS = "exec sleep 100"
WITH_TCG = f'exec {PROGRAM} "${{@/#kvm/tcg}}"'


def test_an_accelerator_that_works_says_the_token(token):
    seconds = run_probe(PROGRAM, Accelerator.TCG, load_accel_probe(token), token, timeout=300)
    assert seconds is not None
    assert 0 < seconds < 300


def test_one_that_hangs_does_not_and_is_ended(token):
    # jmp $
    assert run_probe(PROGRAM, Accelerator.TCG, as_sector(b"\xeb\xfe"), token, timeout=2) is None
    assert psutil.Process().children() == []


def test_a_guest_that_never_was_in_protected_mode_says_something_else(token):
    """The text is stored masked: to send the disk's own bytes is no proof."""
    program = as_sector(SAY_WHAT_IS_STORED, load_accel_probe(token))
    assert run_probe(PROGRAM, Accelerator.TCG, program, token, timeout=3) is None
    # The same program, and a text that needs no protected mode to be turned.
    stored = program[:0x180] + token.encode() + program[0x180 + len(token) :]
    assert run_probe(PROGRAM, Accelerator.TCG, stored, token, timeout=300) is not None


@pytest.mark.parametrize("node", [NOWHERE, Path("/dev")], ids=["missing", "does not open"])
def test_without_a_node_it_is_tcg_at_once(tmp_path, node):
    choice = find_accelerator(PROGRAM, folder=tmp_path, node=node)
    assert choice.accelerator is Accelerator.TCG
    assert str(node) in choice.words
    assert list(tmp_path.iterdir()) == []


def test_a_guest_of_another_architecture_is_tcg(tmp_path):
    choice = find_accelerator("/usr/bin/qemu-system-aarch64", folder=tmp_path, node=OPENS)
    assert choice.accelerator is Accelerator.TCG
    assert "aarch64" in choice.words


def test_kvm_is_taken_where_it_runs_the_boot_sector(tmp_path):
    """This host's KVM may hang: a QEMU that takes TCG for it shows what a good one would do."""
    program = make_qemu(tmp_path, WITH_TCG)
    choice = find_accelerator(program, folder=tmp_path, node=OPENS, timeout=300)
    assert choice.accelerator is Accelerator.KVM
    assert "KVM ran our boot sector in" in choice.words
    assert find_accelerator(program, folder=tmp_path, node=OPENS, timeout=300) == choice


def test_kvm_that_crawls_is_not_taken(tmp_path):
    """A QEMU that takes a microsecond for an instruction: 41 s, where such a KVM took 37."""
    program = make_qemu(tmp_path, f'exec {PROGRAM} -icount shift=10,align=on "${{@/#kvm/tcg}}"')
    started_at = time.monotonic()
    choice = find_accelerator(program, folder=tmp_path, node=OPENS)
    assert time.monotonic() - started_at >= PROBE_TIMEOUT  # it did not end by itself
    assert choice == Choice(Accelerator.TCG, "KVM did not run our boot sector within 4 s")


def test_the_answer_is_remembered_for_this_host_and_this_qemu(tmp_path):
    program = make_qemu(tmp_path, HANGS)
    first = find_accelerator(program, folder=tmp_path, node=OPENS, timeout=1)
    (path,) = tmp_path.glob("*.json")
    assert json.loads(path.read_text())["accelerator"] == first.accelerator
    # Only what was kept can say this.
    kept = Choice(Accelerator.KVM, "as remembered")
    path.write_text(json.dumps({"accelerator": kept.accelerator, "words": kept.words}))
    assert find_accelerator(program, folder=tmp_path, node=OPENS, timeout=1) == kept
    path.write_text("{")
    assert find_accelerator(program, folder=tmp_path, node=OPENS, timeout=1) != kept
    # Another question is another answer, and takes the place of the old one.
    find_accelerator(program, folder=tmp_path, node=OPENS, timeout=0.5)
    assert [item.name for item in tmp_path.glob("*.json")] != [path.name]
    assert len(list(tmp_path.glob("*.json"))) == 1


def no_folder(folder):
    folder.write_text("a file")


def no_lock(folder):
    (folder / "lock").mkdir(parents=True)


def no_unlink(folder):
    (folder / "old.json").mkdir(parents=True)


@pytest.mark.parametrize("spoil", [no_folder, no_lock, no_unlink])
@pytest.mark.parametrize(
    ("script", "found"), [(WITH_TCG, Accelerator.KVM), (HANGS, Accelerator.TCG)], ids=["kvm", "tcg"]
)
def test_where_nothing_can_be_remembered_it_is_asked_each_time(tmp_path, spoil, script, found):
    program = make_qemu(tmp_path, f"echo >> {tmp_path}/asked; {script}")
    spoil(tmp_path / "state")
    timeout = 300 if found is Accelerator.KVM else 1
    for count in (1, 2):
        choice = find_accelerator(program, folder=tmp_path / "state", node=OPENS, timeout=timeout)
        assert choice.accelerator is found
        assert (tmp_path / "asked").read_text() == "\n" * count


def test_a_qemu_that_ends_by_itself_is_asked_again(tmp_path):
    words = f"{QEMU}: Could not access KVM kernel module: Device or resource busy"
    program = make_qemu(tmp_path, f"echo '{words}' >&2; echo more >&2; exit 1")
    started_at = time.monotonic()
    choice = find_accelerator(program, folder=tmp_path, node=OPENS)
    assert time.monotonic() - started_at < PROBE_TIMEOUT
    assert choice == Choice(Accelerator.TCG, f"QEMU ended with code 1: {words}")
    assert list(tmp_path.glob("*.json")) == []
    make_qemu(tmp_path, WITH_TCG)
    found = find_accelerator(program, folder=tmp_path, node=OPENS, timeout=300)
    assert found.accelerator is Accelerator.KVM


@pytest.mark.parametrize(("script", "code"), [("exit 0", 0), ("kill -9 $$", -9)])
def test_one_that_ends_without_a_word_is_called_so(tmp_path, script, code):
    choice = find_accelerator(make_qemu(tmp_path, script), folder=tmp_path, node=OPENS)
    assert choice == Choice(Accelerator.TCG, f"QEMU ended with code {code}: it said nothing")
    assert list(tmp_path.glob("*.json")) == []


@pytest.mark.parametrize("accelerator", [Accelerator.TCG, None])
def test_a_machine_runs_with_what_it_is_given(tmp_path, accelerator):
    disk = tmp_path / "blank.img"
    disk.write_bytes(bytes(512))
    with Machine(
        "accel", [Disk(disk)], firmware=Firmware.BIOS, directory=tmp_path, accelerator=accelerator
    ) as machine:
        machine.wait_for_screen_text("No bootable device", timeout=300)
    words = (machine.directory / "command.txt").read_text()
    assert f"-accel {machine.accelerator.value}" in words
