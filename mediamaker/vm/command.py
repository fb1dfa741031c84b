# SPDX-License-Identifier: GPL-3.0-or-later
"""QEMU's command line: the one place that knows its options."""

from __future__ import annotations

import shutil
from collections.abc import Sequence
from pathlib import Path

from mediamaker.errors import ToolError
from mediamaker.units import MIB
from mediamaker.vm.accel import Accelerator
from mediamaker.vm.disk import Bus, OpenDisk, pack_arguments
from mediamaker.vm.firmware import Firmware, find_ovmf

QEMU = "qemu-system-x86_64"


def pack_command(
    name: str,
    disks: Sequence[OpenDisk],
    *,
    firmware: Firmware,
    memory_size: int,
    cpus: int,
    directory: Path,
    serial_log: Path,
    qmp_fd: int,
    accelerator: Accelerator,
    display: str = "none",
) -> list[str]:
    """The command of a machine that waits for QMP's ``cont``.

    Raises:
        ToolError: QEMU or the firmware is not installed; the hint names the package.
    """
    command = [*find_leash(), _find_qemu(), "-name", f"mediamaker-{name}"]
    command += ["-nodefaults", "-no-user-config", "-vga", "std", "-nic", "none"]
    command += ["-display", display]
    # All that a current processor can, but 5-level paging, which older kernels stumble over.
    command += ["-accel", accelerator.value, "-cpu", "max,la57=off"]
    command += ["-machine", "q35", "-smp", str(cpus), "-m", f"{memory_size // MIB}M"]
    command += ["-chardev", f"file,id=serial0,path={_escape(serial_log)}"]
    command += ["-serial", "chardev:serial0"]
    command += ["-chardev", f"socket,id=qmp,fd={qmp_fd}", "-mon", "chardev=qmp,mode=control"]
    # A guest that switches itself off stays, paused, to be looked at.
    command += ["-no-shutdown", "-S"]
    match firmware:
        case Firmware.UEFI:
            command += _pack_uefi(directory)
        case Firmware.BIOS if _has_boot_order(disks):
            # SeaBIOS starts from our disks or says that it can't.
            command += ["-boot", "strict=on"]
        case Firmware.BIOS:
            pass
    for index, disk in enumerate(disks):
        command += pack_arguments(disk, index)
    return command


def _find_qemu() -> str:
    program = shutil.which(QEMU)
    if program is None:
        raise ToolError(
            f"{QEMU} is not installed: virtual machines need it",
            hint="apt install qemu-system-x86 (Fedora: qemu-system-x86-core)",
        )
    return program


def find_leash() -> list[str]:
    """What makes the kernel end QEMU with us, however we end; util-linux has it everywhere."""
    setpriv = shutil.which("setpriv")
    return [setpriv, "--pdeathsig", "KILL"] if setpriv else []


def _pack_uefi(directory: Path) -> list[str]:
    ovmf = find_ovmf()
    variables = directory / "uefi-variables.fd"
    shutil.copyfile(ovmf.variables_template, variables)
    return [
        "-drive",
        f"if=pflash,unit=0,format=raw,readonly=on,file={_escape(ovmf.code)}",
        "-drive",
        f"if=pflash,unit=1,format=raw,file={_escape(variables)}",
    ]


def _has_boot_order(disks: Sequence[OpenDisk]) -> bool:
    """Whether every disk has a place in the boot order; QEMU's SD card can't be given one."""
    return bool(disks) and all(opened.disk.bus is not Bus.SD for opened in disks)


def _escape(path: Path) -> str:
    """A path inside one of QEMU's comma-separated options."""
    return str(path.absolute()).replace(",", ",,")
