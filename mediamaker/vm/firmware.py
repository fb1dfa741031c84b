# SPDX-License-Identifier: GPL-3.0-or-later
"""The firmware of a machine: SeaBIOS, which QEMU brings, or OVMF, which distributions package.

OVMF is a pair of flash images: the code, shared and read-only, and a template of the variable
store, which every machine gets as a copy of its own. Both must come from one build, so the
known places are listed as pairs.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from enum import StrEnum
from pathlib import Path

from mediamaker.errors import ToolError


class Firmware(StrEnum):
    """What starts the machine."""

    BIOS = "bios"
    UEFI = "uefi"


@dataclass(frozen=True, slots=True)
class OvmfFiles:
    """One build of OVMF: code and the template of its variable store."""

    code: Path
    variables_template: Path


KNOWN_OVMF = (
    # Debian and Ubuntu, flash of 4 MiB, then the older one of 2 MiB.
    OvmfFiles(Path("/usr/share/OVMF/OVMF_CODE_4M.fd"), Path("/usr/share/OVMF/OVMF_VARS_4M.fd")),
    OvmfFiles(Path("/usr/share/OVMF/OVMF_CODE.fd"), Path("/usr/share/OVMF/OVMF_VARS.fd")),
    # Fedora, whose 4 MiB builds are qcow2 files.
    OvmfFiles(Path("/usr/share/edk2/ovmf/OVMF_CODE.fd"), Path("/usr/share/edk2/ovmf/OVMF_VARS.fd")),
    # Arch.
    OvmfFiles(
        Path("/usr/share/edk2/x64/OVMF_CODE.4m.fd"), Path("/usr/share/edk2/x64/OVMF_VARS.4m.fd")
    ),
    # openSUSE.
    OvmfFiles(
        Path("/usr/share/qemu/ovmf-x86_64-code.bin"), Path("/usr/share/qemu/ovmf-x86_64-vars.bin")
    ),
)


def find_ovmf(known: Sequence[OvmfFiles] = KNOWN_OVMF) -> OvmfFiles:
    """The first complete pair of OVMF images.

    Raises:
        ToolError: none of the known places has one; the hint names the package.
    """
    for files in known:
        if files.code.is_file() and files.variables_template.is_file():
            return files
    raise ToolError(
        "no UEFI firmware for virtual machines was found; looked for "
        + ", ".join(str(files.code) for files in known),
        hint="install OVMF: apt install ovmf (Fedora: edk2-ovmf)",
    )
