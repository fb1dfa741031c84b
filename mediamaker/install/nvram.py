# SPDX-License-Identifier: GPL-3.0-or-later
r"""An entry in this machine's firmware for the Windows that was put on one of its disks.

Only when it is asked for: the entry is this machine's, and the disk may be for another one, whose
firmware finds ``\EFI\Boot\boot<arch>.efi`` by itself.

Reference: UEFI specification 2.10, section 3.1 (boot manager); efibootmgr(8).
"""

from __future__ import annotations

from pathlib import Path
from typing import Final

from mediamaker.errors import TargetRefusedError, ToolError
from mediamaker.install.tools import run_tool

LOADER: Final = "\\EFI\\Microsoft\\Boot\\bootmgfw.efi"
LABEL: Final = "Windows Boot Manager"


def check_nvram(*, is_device: bool, is_uefi: bool, efivars: Path) -> None:
    """An entry can be made here.

    Raises:
        TargetRefusedError: says why not.
    """
    reason = None
    if not is_device:
        reason = "an image file is no disk of this machine"
    elif not is_uefi:
        reason = "BIOS firmware has no boot entries"
    elif not efivars.is_dir():
        reason = f"this machine was not started by UEFI ({efivars} is not there)"
    if reason is not None:
        raise TargetRefusedError(
            f"--nvram: {reason}", hint=r"leave it out: \EFI\Boot has a boot program for any machine"
        )


def add_nvram_entry(disk_path: Path, partition_number: int) -> None:
    """Make the entry, first in the boot order.

    Raises:
        ToolError: efibootmgr is missing or failed.
    """
    words = ["--create", "--disk", str(disk_path), "--part", str(partition_number)]
    words += ["--label", LABEL, "--loader", LOADER]
    done = run_tool("efibootmgr", words, package="efibootmgr", timeout_seconds=60)
    if done.returncode:
        raise ToolError(
            f"{disk_path} is complete, but the firmware took no entry for it: {done.said}",
            hint=f"make one in the firmware's setup: partition {partition_number}, {LOADER}",
        )
