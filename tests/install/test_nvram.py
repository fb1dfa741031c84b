# SPDX-License-Identifier: GPL-3.0-or-later
"""Boot entries are made only where they can be; efibootmgr is stood in for by a script."""

import pytest

from mediamaker.errors import TargetRefusedError, ToolError
from mediamaker.install.nvram import add_nvram_entry, check_nvram


def stand_in(tmp_path, monkeypatch, code):
    script = tmp_path / "efibootmgr"
    script.write_text(
        f'#!/bin/sh\nprintf "%s\\n" "$@" > {tmp_path}/words\necho said\nexit {code}\n'
    )
    script.chmod(0o755)
    monkeypatch.setenv("PATH", f"{tmp_path}:/usr/bin:/bin")


def test_the_entry_names_disk_partition_and_loader(tmp_path, monkeypatch):
    stand_in(tmp_path, monkeypatch, 0)
    add_nvram_entry(tmp_path / "disk", 3)
    words = (tmp_path / "words").read_text().splitlines()
    assert words[:5] == ["--create", "--disk", str(tmp_path / "disk"), "--part", "3"]
    assert words[-1] == r"\EFI\Microsoft\Boot\bootmgfw.efi"


def test_a_failure_says_that_the_disk_is_complete(tmp_path, monkeypatch):
    stand_in(tmp_path, monkeypatch, 2)
    with pytest.raises(ToolError, match=r"is complete.*said"):
        add_nvram_entry(tmp_path / "disk", 1)


@pytest.mark.parametrize(
    ("is_device", "is_uefi", "folder", "message"),
    [
        (False, True, ".", "image file"),
        (True, False, ".", "BIOS"),
        (True, True, "missing", "not started by UEFI"),
    ],
)
def test_where_it_can_not_be(tmp_path, is_device, is_uefi, folder, message):
    with pytest.raises(TargetRefusedError, match=message):
        check_nvram(is_device=is_device, is_uefi=is_uefi, efivars=tmp_path / folder)


def test_where_it_can(tmp_path):
    check_nvram(is_device=True, is_uefi=True, efivars=tmp_path)
