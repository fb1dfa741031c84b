# SPDX-License-Identifier: GPL-3.0-or-later
"""Which accelerator QEMU runs a guest with.

The presence of ``/dev/kvm`` proves nothing: there are hosts where the node opens and 16-bit
protected mode, which every BIOS boot manager uses, then hangs for minutes. TCG is slow and right,
so it is the answer until something small has been booted under KVM within a time limit.
"""

from __future__ import annotations

from enum import StrEnum


class Accelerator(StrEnum):
    """The value of QEMU's ``-accel``."""

    TCG = "tcg"


def choose_accelerator() -> Accelerator:
    """The accelerator for new machines; never guessed from a device node."""
    return Accelerator.TCG
