# SPDX-License-Identifier: GPL-3.0-or-later
"""Hybrid ISOs, byte for byte as a disk, reach their menu under each firmware they are made for."""

import pytest
from hybrid import (
    GRUB_RESCUE,
    GRUB_RESCUE_MEDIUM,
    MEMTEST86,
    MEMTEST86_MEDIUM,
    MINI_ISO_MEDIUM,
    boot_hybrid,
)
from mini_iso import build_mini_iso

from mediamaker.vm.firmware import Firmware


@pytest.fixture(scope="session")
def mini_iso(tmp_path_factory):
    return build_mini_iso(tmp_path_factory.mktemp("media") / "mini.iso")


@pytest.mark.parametrize("firmware", list(Firmware))
def test_debian_mini_iso(mini_iso, out_dir, firmware):
    assert boot_hybrid(MINI_ISO_MEDIUM, mini_iso, firmware, out_dir).stat().st_size > 10_000


@pytest.mark.parametrize("firmware", list(Firmware))
def test_memtest86(out_dir, firmware):
    assert boot_hybrid(MEMTEST86_MEDIUM, MEMTEST86, firmware, out_dir).stat().st_size > 1_000


def test_grub_rescue(out_dir):
    # Debian's ISO has no UEFI boot image.
    picture = boot_hybrid(GRUB_RESCUE_MEDIUM, GRUB_RESCUE, Firmware.BIOS, out_dir)
    assert picture.stat().st_size > 1_000
