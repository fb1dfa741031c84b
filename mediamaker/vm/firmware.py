# SPDX-License-Identifier: GPL-3.0-or-later
"""The firmware of a machine: SeaBIOS, which QEMU brings, or edk2, which distributions package.

edk2's builds are OVMF for x86_64 and AAVMF for aarch64: pairs of flash images, the code, shared
and read-only, and a template of the variable store, which every machine gets as a copy of its
own. Both must come from one build, so the known places are listed as pairs. Builds for Secure
Boot are lists of their own; ``vm/secure_boot.py`` puts keys in place of what their templates have.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from enum import StrEnum
from pathlib import Path

from mediamaker.errors import ToolError, UsageError


class Firmware(StrEnum):
    """What starts the machine."""

    BIOS = "bios"
    UEFI = "uefi"
    UEFI_SECURE = "uefi-secure"


class Architecture(StrEnum):
    """Whose processor the machine has; QEMU's names."""

    X86_64 = "x86_64"
    AARCH64 = "aarch64"

    @property
    def loader_name(self) -> str:
        r"""What UEFI starts of removable media, in ``\EFI\BOOT`` (UEFI 2.10, 3.5.1.1)."""
        return {"x86_64": "bootx64.efi", "aarch64": "bootaa64.efi"}[self.value]

    @property
    def program_kind(self) -> str:
        """What ``formats/pe.py`` calls programs for it."""
        return {"x86_64": "x64", "aarch64": "arm64"}[self.value]


@dataclass(frozen=True, slots=True)
class OvmfFiles:
    """One build of edk2: code and the template of its variable store.

    ``requires_smm``: it keeps its keys out of the guest's reach by system management mode, which
    the machine must be told to have.
    """

    code: Path
    variables_template: Path
    requires_smm: bool = False


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

# The same distributions in the same order. Templates with keys in them (OVMF_VARS_4M.ms.fd,
# OVMF_VARS.secboot.fd) are left alone: which keys they hold differs from release to release.
KNOWN_OVMF_SECURE = tuple(
    OvmfFiles(Path(code), Path(variables), requires_smm=True)
    for code, variables in (
        ("/usr/share/OVMF/OVMF_CODE_4M.secboot.fd", "/usr/share/OVMF/OVMF_VARS_4M.fd"),
        ("/usr/share/OVMF/OVMF_CODE.secboot.fd", "/usr/share/OVMF/OVMF_VARS.fd"),
        ("/usr/share/edk2/ovmf/OVMF_CODE.secboot.fd", "/usr/share/edk2/ovmf/OVMF_VARS.fd"),
        ("/usr/share/edk2/x64/OVMF_CODE.secboot.4m.fd", "/usr/share/edk2/x64/OVMF_VARS.4m.fd"),
        ("/usr/share/qemu/ovmf-x86_64-smm-code.bin", "/usr/share/qemu/ovmf-x86_64-smm-vars.bin"),
    )
)

KNOWN_AAVMF = (
    # Debian and Ubuntu, Fedora, Arch.
    OvmfFiles(Path("/usr/share/AAVMF/AAVMF_CODE.fd"), Path("/usr/share/AAVMF/AAVMF_VARS.fd")),
    OvmfFiles(
        Path("/usr/share/edk2/aarch64/QEMU_EFI-pflash.raw"),
        Path("/usr/share/edk2/aarch64/vars-template-pflash.raw"),
    ),
    OvmfFiles(
        Path("/usr/share/edk2/aarch64/QEMU_CODE.fd"), Path("/usr/share/edk2/aarch64/QEMU_VARS.fd")
    ),
)

# ARM's builds have no system management mode. Their empty store may be nothing but zeros, which
# the firmware formats when it starts and no tool can write to, so the one with keys is taken.
KNOWN_AAVMF_SECURE = tuple(
    # Debian and Ubuntu: a build of its own in newer releases, a name for the only one in older.
    OvmfFiles(Path(code), Path("/usr/share/AAVMF/AAVMF_VARS.ms.fd"))
    for code in ("/usr/share/AAVMF/AAVMF_CODE.secboot.fd", "/usr/share/AAVMF/AAVMF_CODE.ms.fd")
)

KNOWN_BUILDS: Mapping[tuple[Architecture, Firmware], Sequence[OvmfFiles]] = {
    (Architecture.X86_64, Firmware.UEFI): KNOWN_OVMF,
    (Architecture.X86_64, Firmware.UEFI_SECURE): KNOWN_OVMF_SECURE,
    (Architecture.AARCH64, Firmware.UEFI): KNOWN_AAVMF,
    (Architecture.AARCH64, Firmware.UEFI_SECURE): KNOWN_AAVMF_SECURE,
}


def check_firmware(firmware: Firmware, architecture: Architecture) -> None:
    """Raise UsageError where such a machine was never built."""
    if architecture is Architecture.AARCH64 and firmware is Firmware.BIOS:
        raise UsageError(
            "an aarch64 machine has no BIOS: its firmware is UEFI",
            hint="use --firmware uefi, or --arch x86_64",
        )


def find_ovmf(
    known: Sequence[OvmfFiles] = KNOWN_OVMF, *, package: str = "ovmf (Fedora: edk2-ovmf)"
) -> OvmfFiles:
    """The first complete pair of images.

    Raises:
        ToolError: none of the known places has one; the hint names the package.
    """
    for files in known:
        if files.code.is_file() and files.variables_template.is_file():
            return files
    raise ToolError(
        "no such UEFI firmware for virtual machines was found; looked for "
        + ", ".join(str(files.code) for files in known),
        hint=f"install it: apt install {package}",
    )


def find_uefi(architecture: Architecture, firmware: Firmware) -> OvmfFiles:
    """The installed UEFI firmware; as :func:`find_ovmf`."""
    known = KNOWN_BUILDS[architecture, firmware]
    if architecture is Architecture.AARCH64:
        return find_ovmf(known, package="qemu-efi-aarch64 (Fedora: edk2-aarch64)")
    return find_ovmf(known)
