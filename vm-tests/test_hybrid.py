# SPDX-License-Identifier: GPL-3.0-or-later
"""Hybrid ISOs through ``create``: the disk reaches its menu under each firmware it is made for."""

import pytest
from command import succeed
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


@pytest.fixture(scope="module")
def stick(tmp_path_factory):
    """A function that makes an ISO into a disk, once."""
    folder = tmp_path_factory.mktemp("hybrid")
    made = {}

    def make(iso):
        if iso not in made:
            made[iso] = folder / f"{iso.name}.img"
            inspected = succeed("inspect", iso)
            assert inspected["kind"] == "hybrid"
            # Larger than the ISO, as every stick is.
            result = succeed("create", iso, made[iso], "--size", "128MiB")
            assert result["layout"] == "raw"
            assert result["is_verified"] is True
            assert succeed("verify", made[iso], iso)["plan_id"] == result["plan_id"]
        return made[iso]

    return make


@pytest.fixture(scope="module")
def mini_iso(tmp_path_factory):
    return build_mini_iso(tmp_path_factory.mktemp("media") / "mini.iso")


@pytest.mark.parametrize("firmware", [Firmware.BIOS, Firmware.UEFI])
def test_debian_mini_iso(stick, mini_iso, out_dir, firmware):
    picture = boot_hybrid(MINI_ISO_MEDIUM, stick(mini_iso), firmware, out_dir)
    assert picture.stat().st_size > 10_000


@pytest.mark.parametrize("firmware", [Firmware.BIOS, Firmware.UEFI])
def test_memtest86(stick, out_dir, firmware):
    picture = boot_hybrid(MEMTEST86_MEDIUM, stick(MEMTEST86), firmware, out_dir)
    assert picture.stat().st_size > 1_000


def test_grub_rescue(stick, out_dir):
    # Debian's ISO has no UEFI boot image.
    picture = boot_hybrid(GRUB_RESCUE_MEDIUM, stick(GRUB_RESCUE), Firmware.BIOS, out_dir)
    assert picture.stat().st_size > 1_000
