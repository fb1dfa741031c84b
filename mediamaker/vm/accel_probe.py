# SPDX-License-Identifier: GPL-3.0-or-later
"""Which accelerator QEMU runs a guest with.

The presence of ``/dev/kvm`` proves nothing: there are hosts where the node opens and 16-bit
protected mode, which every BIOS boot manager uses, then hangs or crawls for minutes. So a boot
sector of ours (bootfiles/accel-probe.asm) is booted under KVM, and only if it says its token within
a time limit, KVM is taken. TCG is slow and right.

The sector works long enough that the limit lies far from both kinds of host: with little to do, a
KVM that crawls needed 4.0 to 5.1 s, and was taken by one try in six.

The answer is remembered in the state folder for this boot of the host and this QEMU, so that the
probe costs once.
"""

from __future__ import annotations

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
    """As :func:`choose_accelerator`, which remembers in ``folder``; nowhere without one."""
    if Path(program).name != QEMU or platform.machine() != "x86_64":
        words = f"{program} on {platform.machine()}: KVM is only tried with x86_64 on x86_64"
        return Choice(Accelerator.TCG, words)
    try:
        os.close(os.open(node, os.O_RDWR | os.O_CLOEXEC))
    except OSError as error:
        return Choice(Accelerator.TCG, f"{node} can't be opened: {error.strerror}")
    if folder is None:
        return _probe_kvm(program, timeout)
    path = folder / f"{_key(program, timeout)}.json"
    with (folder / "lock").open("w") as lock:
        # Two that start at once need one probe.
        fcntl.flock(lock, fcntl.LOCK_EX)
        remembered = _recall(path)
        if remembered is not None:
            return remembered
        choice = _probe_kvm(program, timeout)
        for old in folder.glob("*.json"):
            old.unlink()
        path.write_text(json.dumps({"accelerator": choice.accelerator, "words": choice.words}))
    return choice


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
    """Boot ``sector`` and wait for ``token`` on COM1: after how many seconds; None for never."""
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
        started_at = time.monotonic()
        try:
            process = subprocess.Popen(
                command,
                cwd=name,
                stdin=subprocess.DEVNULL,
                stdout=subprocess.DEVNULL,
                stderr=subprocess.DEVNULL,
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
                        break
                    time.sleep(_POLL_PERIOD)
            finally:
                process.kill()
    return None


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


def _recall(path: Path) -> Choice | None:
    """What was found before; None for nothing, or nothing that can be read."""
    try:
        found = json.loads(path.read_text())
        return Choice(Accelerator(found["accelerator"]), str(found["words"]))
    except (OSError, ValueError, KeyError, TypeError):
        return None
