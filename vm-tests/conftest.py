# SPDX-License-Identifier: GPL-3.0-or-later
"""What VM tests share. Machines, folders that are kept and the report: ``vm_*``, our own plugin."""

import shutil
import tempfile
from pathlib import Path

import bootcode_rig
import manager_disk as md
import manager_rig
import pytest
from standin.programs import build_bootmgr, build_host_manager
from standin.windows_image import make_windows_wim


@pytest.fixture
def out_dir(vm_folder):
    """The test's own folder under ``out/``, emptied when the test starts again."""
    return vm_folder


@pytest.fixture(scope="session")
def bootmgr() -> bytes:
    """The stand-in for BOOTMGR, with the token of ``bootcode_rig``."""
    return build_bootmgr(bootcode_rig.TOKEN)


@pytest.fixture(scope="session")
def host_manager(tmp_path_factory):
    """The stand-in boot manager as a Linux program."""
    return build_host_manager(tmp_path_factory.mktemp("host"))


@pytest.fixture(scope="session")
def installed_wim(tmp_path_factory):
    """The stand-in Windows with the tokens of ``manager_rig``."""
    path = tmp_path_factory.mktemp("wim") / "install.wim"
    make_windows_wim(path, token=manager_rig.TOKEN, winre_token=manager_rig.WINRE_TOKEN)
    return path


@pytest.fixture(scope="session")
def manager_disks(installed_wim, tmp_path_factory):
    """A disk with that Windows for each firmware; nobody may change it."""
    folder = tmp_path_factory.mktemp("disks")
    return {name: md.make_disk(folder / name, name, installed_wim) for name in ("uefi", "bios")}


@pytest.fixture(params=["uefi", "bios"])
def firmware(request):
    return request.param


@pytest.fixture
def disk(manager_disks, firmware, tmp_path):
    """A copy for one test."""
    return manager_disks[firmware].copy(tmp_path / "disk.img")


@pytest.fixture
def fault_dir():
    """Scratch in memory: faults write the same disk again and again."""
    folder = tempfile.mkdtemp(prefix="mm-fault-", dir="/dev/shm")
    yield Path(folder)
    shutil.rmtree(folder)
