# SPDX-License-Identifier: GPL-3.0-or-later
"""QEMU's command line: the one place that knows its options."""

from __future__ import annotations

import shutil
from collections.abc import Sequence
from pathlib import Path

from mediamaker.errors import ToolError, UsageError
from mediamaker.units import MIB
from mediamaker.vm.accel import Accelerator
from mediamaker.vm.disk import Bus, OpenDisk, pack_arguments
from mediamaker.vm.firmware import Architecture, Firmware, OvmfFiles, check_firmware, find_uefi
from mediamaker.vm.secure_boot import SecureBootKeys, write_variables

VARIABLES_NAME = "uefi-variables.fd"

_PACKAGES = {
    Architecture.X86_64: "qemu-system-x86 (Fedora: qemu-system-x86-core)",
    Architecture.AARCH64: "qemu-system-arm (Fedora: qemu-system-aarch64-core)",
}


def qemu_name(architecture: Architecture) -> str:
    """The program that emulates ``architecture``."""
    return f"qemu-system-{architecture.value}"


def pack_command(
    name: str,
    disks: Sequence[OpenDisk],
    *,
    firmware: Firmware,
    architecture: Architecture,
    keys: SecureBootKeys | None,
    memory_size: int,
    cpus: int,
    directory: Path,
    serial_log: Path,
    qmp_fd: int,
    accelerator: Accelerator,
    display: str = "none",
) -> list[str]:
    """The command of a machine that waits for QMP's ``cont``.

    ``keys`` are what UEFI_SECURE starts with, and None for other firmware.

    Raises:
        ToolError: QEMU, the firmware or what makes its keys is not installed; the hint names the
            package.
        UsageError: there is no such machine.
    """
    check_firmware(firmware, architecture)
    command = [*find_leash(), _find_qemu(architecture), "-name", f"mediamaker-{name}"]
    command += ["-nodefaults", "-no-user-config", "-display", display, "-nic", "none"]
    command += ["-accel", accelerator.value, "-smp", str(cpus), "-m", f"{memory_size // MIB}M"]
    match architecture:
        case Architecture.X86_64:
            # All that a current processor can, but 5-level paging: older kernels stumble over it.
            command += ["-cpu", "max,la57=off", "-machine", "q35", "-vga", "std"]
        case Architecture.AARCH64:
            # Not max: its longer addresses and pointer signing cost TCG time and older kernels
            # their life. The board has no screen and no keyboard of its own.
            command += ["-cpu", "cortex-a57", "-machine", "virt", "-device", "ramfb"]
            command += ["-device", "qemu-xhci,id=input", "-device", "usb-kbd,bus=input.0"]
    command += ["-chardev", f"file,id=serial0,path={_escape(serial_log)}"]
    command += ["-serial", "chardev:serial0"]
    command += ["-chardev", f"socket,id=qmp,fd={qmp_fd}", "-mon", "chardev=qmp,mode=control"]
    # A guest that switches itself off stays, paused, to be looked at.
    command += ["-no-shutdown", "-S"]
    match firmware:
        case Firmware.UEFI:
            command += _pack_flash(find_uefi(architecture, firmware), directory, None)
        case Firmware.UEFI_SECURE:
            if keys is None:
                raise UsageError("Secure Boot without keys starts anything", hint="use --keys")
            files = find_uefi(architecture, firmware)
            if files.requires_smm:
                command += ["-machine", "smm=on", "-global", "ICH9-LPC.disable_s3=1"]
                # Only code in system management mode may write the flash, keys included.
                command += ["-global", "driver=cfi.pflash01,property=secure,value=on"]
            command += _pack_flash(files, directory, keys)
        case Firmware.BIOS if _has_boot_order(disks):
            # SeaBIOS starts from our disks or says that it can't.
            command += ["-boot", "strict=on"]
        case Firmware.BIOS:
            pass
    for index, disk in enumerate(disks):
        command += pack_arguments(disk, index)
    return command


def _find_qemu(architecture: Architecture) -> str:
    name = qemu_name(architecture)
    program = shutil.which(name)
    if program is None:
        raise ToolError(
            f"{name} is not installed: virtual machines need it",
            hint=f"apt install {_PACKAGES[architecture]}",
        )
    return program


def find_leash() -> list[str]:
    """What makes the kernel end QEMU with us, however we end; util-linux has it everywhere."""
    setpriv = shutil.which("setpriv")
    return [setpriv, "--pdeathsig", "KILL"] if setpriv else []


def _pack_flash(files: OvmfFiles, directory: Path, keys: SecureBootKeys | None) -> list[str]:
    variables = directory / VARIABLES_NAME
    if keys is None:
        shutil.copyfile(files.variables_template, variables)
    else:
        write_variables(files.variables_template, variables, keys)
    return [
        "-drive",
        f"if=pflash,unit=0,format=raw,readonly=on,file={_escape(files.code)}",
        "-drive",
        f"if=pflash,unit=1,format=raw,file={_escape(variables)}",
    ]


def _has_boot_order(disks: Sequence[OpenDisk]) -> bool:
    """Whether every disk has a place in the boot order; QEMU's SD card can't be given one."""
    return bool(disks) and all(opened.disk.bus is not Bus.SD for opened in disks)


def _escape(path: Path) -> str:
    """A path inside one of QEMU's comma-separated options."""
    return str(path.absolute()).replace(",", ",,")
