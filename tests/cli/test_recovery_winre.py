# SPDX-License-Identifier: GPL-3.0-or-later
"""``recovery add --winre WIM:IMAGE``: WinRE and boot.sdi out of an install image."""

import re
import subprocess

import pytest
from standin.windows_image import make_windows_wim

from mediamaker.install.disk_file import open_plain
from mediamaker.install.recovery_volume import read_exactly
from mediamaker.install.windows_disk import WindowsDisk, read_whole
from tests.install.windows_disk_rig import folder_in_memory, make_gpt_disk
from tests.install.windows_rig import LOADERS, make_image, program


@pytest.fixture
def folder():
    with folder_in_memory() as path:
        yield path


def test_from_an_install_image(run, folder):
    image = folder / "install.wim"
    make_windows_wim(image, token="any", winre_token="from-image")
    rig = make_gpt_disk(folder)
    code, events = run.json(
        "recovery", "add", rig.path, "--winre", f"{image}:1", "--size", "48MiB", "--seed", "x"
    )
    assert code == 0, events
    wanted = subprocess.run(
        ["wimlib-imagex", "extract", image, "1", "/Windows/System32/Recovery/Winre.wim",
         "--to-stdout"],
        check=True, capture_output=True,
    ).stdout  # fmt: skip
    descriptor = open_plain(rig.path)
    disk = WindowsDisk(
        read_exactly(descriptor), disk_size=rig.path.stat().st_size, sector_size=512, what="disk"
    )
    number = events[-1]["recovery"]["number"]
    entry = next(item for item in disk.table.entries if item.number == number)
    files = disk.files(entry)
    assert read_whole(files, r"\Recovery\WindowsRE\Winre.wim", 1 << 30) == wanted
    assert run.json("recovery", "check", rig.path)[0] == 0


def test_an_image_without_it_is_refused(run, tmp_path, folder):
    bare = make_image(tmp_path, "bare", files={name: program(name) for name in LOADERS})
    rig = make_gpt_disk(folder)
    before = rig.path.stat().st_mtime_ns
    code, events = run.json("recovery", "add", rig.path, "--winre", f"{bare}:1")
    assert code == 3
    assert "no Winre.wim" in events[-1]["message"]
    assert rig.path.stat().st_mtime_ns == before


def test_an_empty_recovery_partition_is_used(run, folder):
    """``install --winre native`` leaves one; a second one would be a gigabyte of Windows'."""
    image, disk = folder / "install.wim", folder / "disk.img"
    make_windows_wim(image, token="any", winre_token="any")
    code, events = run.json(
        "install", f"{image}:1", disk, "--winre", "native", "--size", "1800MiB", "--no-verify"
    )
    assert code == 0, events
    windows, recovery = events[-1]["disk"]["partitions"][2:]
    code, events = run.json("recovery", "add", disk, "--seed", "x")
    assert code == 0, events
    assert events[-1]["recovery"]["number"] == recovery["number"]
    assert events[-1]["windows"]["size_after"] == windows["size"]
    table = subprocess.run(["sgdisk", "-p", disk], check=True, capture_output=True, text=True)
    assert len(re.findall(r"^ +\d+ ", table.stdout, re.MULTILINE)) == 4
    assert run.json("recovery", "check", disk)[0] == 0
