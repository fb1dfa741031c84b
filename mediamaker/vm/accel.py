# SPDX-License-Identifier: GPL-3.0-or-later
"""Which accelerators QEMU can run a guest with; ``accel_probe`` says which one does."""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum


class Accelerator(StrEnum):
    """The value of QEMU's ``-accel``."""

    KVM = "kvm"
    TCG = "tcg"


@dataclass(frozen=True, slots=True)
class Choice:
    """An accelerator, and why it is this one, as words for people."""

    accelerator: Accelerator
    words: str
