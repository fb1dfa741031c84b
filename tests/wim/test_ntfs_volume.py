# SPDX-License-Identifier: GPL-3.0-or-later
"""Our survey of NTFS volumes that mkntfs made and ntfs-3g filled; real mounts."""

import os
from pathlib import Path

import pytest

from mediamaker.errors import FormatError, TargetRefusedError
from mediamaker.wim.ntfs_volume import _FileTable, open_ntfs_volume, survey_ntfs
from tests.wim.wim_rig import (
    MIB,
    make_volume,
    mark_encrypted,
    mounted,
    run,
    set_extended_attribute,
)


@pytest.fixture
def volume(tmp_path):
    return make_volume(tmp_path / "volume.img")


def survey(path):
    with open_ntfs_volume(path, writable=False) as descriptor:
        return survey_ntfs(descriptor, path)


def test_a_new_volume_is_empty(volume):
    found = survey(volume)
    assert found.root_names == ()
    assert found.file_count == found.extended_attribute_count == found.encrypted_count == 0


def test_what_capture_would_leave_behind_is_found(volume, tmp_path):
    with mounted(volume, tmp_path / "m") as root:
        (root / "a" / "b").mkdir(parents=True)
        (root / "a" / "b" / "with attributes").write_bytes(b"x")
        (root / "plain").write_bytes(b"x" * 10000)
        (root / "secret-file").write_bytes(b"x")
        os.link(root / "plain", root / "a" / "other name")
        set_extended_attribute(root / "a" / "b" / "with attributes")
    mark_encrypted(volume, "secret-file")
    found = survey(volume)
    assert found.root_names == ("a", "plain", "secret-file")
    assert found.file_count == 5
    assert found.extended_attribute_examples == ("/a/b/with attributes",)
    assert found.encrypted_examples == ("/secret-file",)


def test_a_file_table_in_many_pieces(tmp_path):
    """Files of one cluster fill the volume before the table grows, so that it is scattered."""
    volume = make_volume(tmp_path / "volume.img", 2 * MIB)
    count = 0
    with mounted(volume, tmp_path / "m") as root:
        try:
            for count in range(4000):
                (root / f"f{count}").write_bytes(b"x" * 1500)
        except OSError:
            (root / f"f{count}").unlink(missing_ok=True)
            for number in range(0, count, 2):
                (root / f"f{number}").unlink()
        for number in range(300):
            (root / f"g{number}").touch()
        names = sorted(entry.name for entry in root.iterdir())
    with open_ntfs_volume(volume, writable=False) as descriptor:
        assert len(_FileTable(descriptor, "here")._runs) > 1
    found = survey(volume)
    assert list(found.root_names) == names
    assert found.file_count == len(names)


def test_a_mounted_file_is_refused(volume, tmp_path):
    with (
        mounted(volume, tmp_path / "m"),
        pytest.raises(TargetRefusedError, match="is mounted on"),
        open_ntfs_volume(volume, writable=True),
    ):
        pass


def test_a_loop_device_over_it_is_refused_and_the_device_itself_once_mounted(volume, tmp_path):
    device = run("losetup", "--find", "--show", str(volume)).strip()
    try:
        with (
            pytest.raises(TargetRefusedError, match=f"is in use as {device}"),
            open_ntfs_volume(volume, writable=True),
        ):
            pass
        with open_ntfs_volume(Path(device), writable=True):
            pass
        run("ntfs-3g", device, str(tmp_path))
        try:
            with pytest.raises(TargetRefusedError), open_ntfs_volume(Path(device), writable=True):
                pass
        finally:
            run("umount", str(tmp_path))
    finally:
        run("losetup", "-d", device)


@pytest.mark.parametrize("content", [b"", b"x" * 511, b"x" * 4096, b"\xeb\x52\x90NTFS    " * 300])
def test_what_is_not_ntfs_is_refused(tmp_path, content):
    (tmp_path / "file").write_bytes(content)
    with pytest.raises(FormatError):
        survey(tmp_path / "file")


def test_a_directory_and_a_missing_file_are_refused(tmp_path):
    for path in (tmp_path, tmp_path / "missing", Path("/dev/null")):
        with pytest.raises(TargetRefusedError), open_ntfs_volume(path, writable=False):
            pass


def test_damaged_volumes_give_typed_errors(volume):
    """Every byte of the boot sector's numbers and of the first records, turned over."""
    good = volume.read_bytes()
    mft = int.from_bytes(good[0x30:0x38], "little") * 4096
    for at in [*range(0x0B, 0x50), *range(mft, mft + 0x200, 7)]:
        bad = bytearray(good)
        bad[at] ^= 0xFF
        volume.write_bytes(bad)
        try:
            survey(volume)
        except FormatError:
            continue
