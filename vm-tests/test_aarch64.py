# SPDX-License-Identifier: GPL-3.0-or-later
"""aarch64: the stand-in Windows ISO for arm64 becomes a stick, and boots to its token.

bootaa64.efi is bootx64.c, built for aarch64: it checks every file of its volume first.
"""

import pytest
from command import mediamaker, succeed
from standin.iso import standin_iso

from mediamaker.vm.disk import Disk
from mediamaker.vm.firmware import Architecture, Firmware
from mediamaker.vm.machine import Machine

ARM = ("--arch", "aarch64", "--firmware", "uefi", "--timeout", "300")


@pytest.fixture(scope="module")
def iso():
    return standin_iso(arch="arm64")


@pytest.fixture(scope="module")
def stick(iso, tmp_path_factory):
    path = tmp_path_factory.mktemp("stick") / "stick.img"
    succeed("create", iso.path, path, "--seed", "arm")
    return path


def boot(subject, token, out_dir, *options):
    expect = ("--expect", f"token={token}", "--screenshot", out_dir)
    finished = mediamaker("boot", subject, *ARM, *expect, *options)
    assert finished.exit_code == 0, (finished.last, finished.errors)
    assert "MEDIAMAKER-STANDIN UEFI OK" in finished.last["matched_line"]
    assert finished.last["architecture"] == "aarch64"
    return finished


def test_a_stick_boots_and_the_trace_names_the_loader(stick, iso, out_dir):
    finished = boot(stick, iso.token, out_dir, "--trace")
    found = finished.events[-2]
    assert found["event"] == "boot_trace"
    assert found["verdict"] == "reached-ramdisk", found
    by_name = {item["name"].lower(): item for item in found["items"]}
    assert by_name[r"\efi\boot\bootaa64.efi"]["percent"] == 100
    assert by_name[r"\sources\boot.wim"]["percent"] == 100
    assert any(r"\efi\boot\bootaa64.efi" in known for known in found["known"])


@pytest.mark.parametrize("bus", ["nvme", "virtio"])
def test_other_buses(stick, iso, out_dir, bus):
    boot(stick, iso.token, out_dir, "--bus", bus)


def test_the_iso_boots_without_being_written(iso, out_dir):
    assert boot(iso.path, iso.token, out_dir).last["booted"] == "source"


def test_a_bus_without_a_driver_is_named(stick, iso, out_dir):
    finished = mediamaker(
        "boot", stick, *ARM, "--expect", iso.token, "--screenshot", out_dir, "--bus", "ahci"
    )
    assert finished.exit_code == 7
    assert finished.last["bytes_read"] == 0
    assert "often has no driver for ahci" in finished.last["words"]


def test_a_loader_of_another_processor_is_not_read(out_dir):
    x64 = standin_iso()
    finished = mediamaker(
        "boot", x64.path, *ARM, "--trace", "--expect", x64.token, "--screenshot", out_dir
    )
    assert finished.exit_code == 7
    found = finished.events[-2]
    assert found["verdict"] == "firmware-never-read-loader", found
    assert "bootaa64.efi" in found["words"]


def test_keyboard_and_screen(out_dir, tmp_path):
    """The firmware's shell echoes on its serial line what is typed, and shows it."""
    blank = tmp_path / "blank.img"
    blank.write_bytes(bytes(1 << 20))
    with Machine(
        "arm", [Disk(blank)], firmware=Firmware.UEFI, directory=out_dir,
        architecture=Architecture.AARCH64,
    ) as machine:  # fmt: skip
        machine.wait_for_serial("Shell>", timeout=240)
        machine.type_text("echo typed-here\n")
        machine.wait_for_serial("typed-here", timeout=60)
        assert not machine.picture().is_blank
        directory = machine.directory
        assert (directory / "uefi-variables.fd").exists()
    assert not (directory / "uefi-variables.fd").exists()
