# SPDX-License-Identifier: GPL-3.0-or-later
"""FAT12, FAT16 and FAT32 volumes that mkfs.fat and mtools made, read by us."""

import random

import pytest

from mediamaker.errors import FormatError
from mediamaker.install.fat_files import FatFiles
from tests.install.windows_disk_rig import MIB, tool

CONTENT = random.Random(8).randbytes(70_001)


def make(tmp_path, bits, size, sector_size=512):
    path = tmp_path / f"fat{bits}.img"
    with path.open("wb") as file:
        file.truncate(size)
    tool("mkfs.fat", "-F", bits, "-S", sector_size, "-s", 1, "-n", "LABEL", path)
    source = tmp_path / "source"
    source.write_bytes(CONTENT)
    tool("mmd", "-i", path, "::/EFI", "::/EFI/Microsoft", "::/EFI/A very long folder name")
    tool("mcopy", "-i", path, source, "::/EFI/Microsoft/BCD")
    tool("mcopy", "-i", path, source, "::/EFI/gone")
    tool("mcopy", "-i", path, source, "::/EFI/A very long folder name/Some file.with dots.efi")
    for number in range(60):  # a directory of several clusters
        source.write_bytes(bytes([number]) * number)
        tool("mcopy", "-i", path, source, f"::/EFI/Microsoft/number {number}.txt")
    tool("mdel", "-i", path, "::/EFI/gone")
    return path


@pytest.mark.parametrize(
    ("bits", "size", "sector_size"),
    [(12, 2 * MIB, 512), (16, 16 * MIB, 512), (32, 36 * MIB, 512), (32, 270 * MIB, 4096)],
)
def test_files_are_found_and_read(tmp_path, bits, size, sector_size):
    data = make(tmp_path, bits, size, sector_size).read_bytes()
    files = FatFiles(lambda at, count: data[at : at + count], "volume")
    for path in ("\\efi\\MICROSOFT\\bcd", "/EFI/A VERY LONG folder name/some file.WITH dots.efi"):
        file = files.find(path)
        assert file is not None, path
        assert files.read_all(file, 1 << 20) == CONTENT
        assert files.read(file, 60_000, 10**9) == CONTENT[60_000:]
        with pytest.raises(FormatError, match="at most 9 bytes"):
            files.read_all(file, 9)
    for number in (1, 30, 59):
        file = files.find(f"\\EFI\\Microsoft\\number {number}.txt")
        assert files.read_all(file, 100) == bytes([number]) * number
    assert files.find("\\EFI\\gone") is None
    assert files.find("\\EFI\\Microsoft\\BCD\\below") is None
    assert files.find("\\LABEL") is None
    assert files.find("\\EFI").is_directory


def test_free_clusters_are_those_of_no_file(tmp_path):
    data = make(tmp_path, 32, 36 * MIB).read_bytes()
    files = FatFiles(lambda at, count: data[at : at + count], "volume")
    assert not files.is_free(data.index(CONTENT[:4096]))
    assert not files.is_free(0)
    assert not files.is_free(len(data))
    # the deleted file's bytes were reused in part; the end of the volume never was
    assert files.is_free(len(data) - 4096)


def test_what_is_none_is_refused():
    for data in (bytes(512), b"\xeb" + bytes(511), random.Random(3).randbytes(512)):
        with pytest.raises(FormatError):
            FatFiles(lambda at, count, data=data: data[at : at + count], "volume")
