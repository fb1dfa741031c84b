# SPDX-License-Identifier: GPL-3.0-or-later
"""Which accelerator QEMU runs a guest with.

The presence of ``/dev/kvm`` proves nothing: there are hosts where the node opens and 16-bit
protected mode, which every BIOS boot manager uses, then hangs or crawls for minutes. So a boot
sector of ours (bootfiles/accel-probe.asm) is booted under KVM, and only if it says its token within
a time limit, KVM is taken. TCG is slow and right.

The sector works long enough that the limit lies far from both kinds of host: with little to do, a
KVM that crawls needed 4.0 to 5.1 s, and was taken by one try in six.

The answer is remembered in the state folder for this boot of the host and this QEMU, so that the
probe costs once. A QEMU that ended by itself said nothing about KVM that must still be so the next
time (another hypervisor has it, we may not use it), and is asked again.
"""

from __future__ import annotations

import contextlib
import fcntl
import functools
import hashlib
import json
import os
import platform
import secrets
import shutil
import subprocess
import tempfile
import time
from pathlib import Path

from mediamaker.errors import ToolError
from mediamaker.sources.bootcode import load_accel_probe
from mediamaker.state import state_folder
from mediamaker.vm.accel import Accelerator, Choice
from mediamaker.vm.command import find_leash, qemu_name
from mediamaker.vm.firmware import Architecture

QEMU = qemu_name(Architecture.X86_64)
KVM_NODE = Path("/dev/kvm")
BOOT_ID = Path("/proc/sys/kernel/random/boot_id")
PROBE_TIMEOUT = 4.0
"""Seconds; under a KVM that works the probe takes well under one, under one that crawls 37."""

_POLL_PERIOD = 0.05
_DISK_SIZE = 1024 * 1024
_WORDS_SIZE = 300


class _EndedError(Exception):
    """QEMU ended by itself: its exit code, and the first that it said."""


def choose_accelerator(qemu: str = QEMU) -> Choice:
    """The accelerator for machines of ``qemu``; in this process it is looked for once.

    Raises:
        ToolError: our probe is missing.
    """
    program = shutil.which(qemu)
    if program is None:
        return Choice(Accelerator.TCG, f"{qemu} is not installed")
    return _choose(program)


@functools.cache
def _choose(program: str) -> Choice:
    try:
        folder: Path | None = state_folder("accel")
    except OSError:
        folder = None
    return find_accelerator(program, folder=folder)


def find_accelerator(
    program: str, *, folder: Path | None, node: Path = KVM_NODE, timeout: float = PROBE_TIMEOUT
) -> Choice:
    """As :func:`choose_accelerator`, which remembers in ``folder``; nowhere if it can't."""
    if Path(program).name != QEMU or platform.machine() != "x86_64":
        words = f"{program} on {platform.machine()}: KVM is only tried with x86_64 on x86_64"
        return Choice(Accelerator.TCG, words)
    try:
        os.close(os.open(node, os.O_RDWR | os.O_CLOEXEC))
    except OSError as error:
        return Choice(Accelerator.TCG, f"{node} can't be opened: {error.strerror}")
    with contextlib.ExitStack() as stack:
        path = _lock(folder, _key(program, timeout), stack) if folder is not None else None
        remembered = _recall(path) if path is not None else None
        if remembered is not None:
            return remembered
        try:
            choice = _probe_kvm(program, timeout)
        except _EndedError as error:
            return Choice(Accelerator.TCG, str(error))
        if path is not None:
            _remember(path, choice)
    return choice


def _lock(folder: Path, key: str, stack: contextlib.ExitStack) -> Path | None:
    """Where the answer is kept, until ``stack`` ends ours alone; None where nothing can be."""
    try:
        lock = stack.enter_context((folder / "lock").open("w"))
        # Two that start at once need one probe.
        fcntl.flock(lock, fcntl.LOCK_EX)
    except OSError:
        return None
    return folder / f"{key}.json"


def _probe_kvm(program: str, timeout: float) -> Choice:
    token = secrets.token_hex(8)
    seconds = run_probe(program, Accelerator.KVM, load_accel_probe(token), token, timeout=timeout)
    if seconds is None:
        words = f"KVM did not run our boot sector within {timeout:g} s"
        return Choice(Accelerator.TCG, words)
    return Choice(Accelerator.KVM, f"KVM ran our boot sector in {seconds:.1f} s")


def run_probe(
    program: str, accelerator: Accelerator, sector: bytes, token: str, *, timeout: float
) -> float | None:
    """Boot ``sector`` and wait for ``token`` on COM1: after how many seconds; None for never.

    Raises:
        _EndedError: QEMU ended by itself.
        ToolError: it can't be started.
    """
    with tempfile.TemporaryDirectory(prefix="mediamaker-accel-") as name:
        disk, said = Path(name, "disk.img"), Path(name, "serial.log")
        disk.write_bytes(sector.ljust(_DISK_SIZE, b"\0"))
        said.touch()
        command = [*find_leash(), program, "-nodefaults", "-no-user-config"]
        command += ["-name", "mediamaker-accel-probe", "-display", "none", "-nic", "none"]
        command += ["-machine", "q35", "-accel", accelerator.value, "-cpu", "max,la57=off"]
        command += ["-m", "32M", "-chardev", "file,id=said,path=serial.log"]
        command += ["-serial", "chardev:said"]
        command += ["-drive", "if=none,id=disk,format=raw,readonly=on,file=disk.img"]
        command += ["-device", "virtio-blk-pci,drive=disk,bootindex=1"]
        errors = Path(name, "qemu.log")
        started_at = time.monotonic()
        try:
            with errors.open("wb") as log:
                process = subprocess.Popen(
                    command,
                    cwd=name,
                    stdin=subprocess.DEVNULL,
                    stdout=subprocess.DEVNULL,
                    stderr=log,
                )
        except OSError as error:
            raise ToolError(f"{program} can't be started: {error.strerror}") from error
        with process:
            try:
                while process.poll() is None:
                    seconds = time.monotonic() - started_at
                    if token.encode() in said.read_bytes():
                        return seconds
                    if seconds >= timeout:
                        return None
                    time.sleep(_POLL_PERIOD)
            finally:
                process.kill()
        raise _EndedError(_show_end(process.returncode, errors))


def _show_end(code: int, errors: Path) -> str:
    with errors.open(errors="replace") as log:
        first = log.readline(_WORDS_SIZE).strip()
    return f"QEMU ended with code {code}: {first or 'it said nothing'}"


def _key(program: str, timeout: float) -> str:
    """Hex digits; another boot of the host, another QEMU or another probe asks again."""
    facts = [
        BOOT_ID.read_text().strip(),
        str(Path(program).resolve()),
        Path(program).stat().st_mtime_ns,
        timeout,
        hashlib.sha256(load_accel_probe("")).hexdigest(),
    ]
    return hashlib.sha256(json.dumps(facts).encode()).hexdigest()[:16]


def _remember(path: Path, choice: Choice) -> None:
    """Alone in its folder, if that can be written."""
    with contextlib.suppress(OSError):
        for old in path.parent.glob("*.json"):
            old.unlink()
        path.write_text(json.dumps({"accelerator": choice.accelerator, "words": choice.words}))


def _recall(path: Path) -> Choice | None:
    """What was found before; None for nothing, or nothing that can be read."""
    try:
        found = json.loads(path.read_text())
        return Choice(Accelerator(found["accelerator"]), str(found["words"]))
    except (OSError, ValueError, KeyError, TypeError):
        return None
