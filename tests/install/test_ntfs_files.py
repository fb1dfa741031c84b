# SPDX-License-Identifier: GPL-3.0-or-later
"""Files read out of volumes that ntfs-3g made; ntfs-3g and ntfscat say what is right."""

import hashlib
import random
import shutil
import subprocess

import pytest

from mediamaker.errors import FormatError
from mediamaker.install.ntfs_files import NtfsFiles
from mediamaker.install.windows_volume import find_volume_problems
from tests.install.windows_disk_rig import ENVIRONMENT, MIB, folder_in_memory, tool

GONE = set(random.Random(2).sample(range(2200), 1100))


@pytest.fixture(scope="module")
def folder():
    with folder_in_memory() as path:
        yield path


@pytest.fixture(scope="module")
def volume(folder):
    """Files in many pieces, a directory of many blocks, holes, streams, odd names."""
    path = folder / "volume.ntfs"
    with path.open("wb") as file:
        file.truncate(24 * MIB)
    tool("mkntfs", "-F", "-Q", "-q", path)
    mountpoint = folder / "mnt"
    mountpoint.mkdir()
    tool("ntfs-3g", "-o", "compression", path, mountpoint)
    chance = random.Random(1)
    expected = {}
    try:
        many = mountpoint / "Many Files"
        many.mkdir()
        for number in range(2200):
            (many / f"file {number:04} ünï").write_bytes(chance.randbytes(5000))
        with (mountpoint / "taken").open("wb") as file:
            for _ in range((shutil.disk_usage(mountpoint).free - MIB // 2) // 65536):
                file.write(bytes([1]) * 65536)
        for number in GONE:
            (many / f"file {number:04} ünï").unlink()
        pieces = chance.randbytes(6 * MIB)
        (mountpoint / "Pieces.bin").write_bytes(pieces)
        expected["\\Pieces.bin"] = pieces
        (mountpoint / "small").write_bytes(b"resident")
        expected["\\small"] = b"resident"
        (mountpoint / "empty").write_bytes(b"")
        expected["\\empty"] = b""
        with (mountpoint / "hole").open("wb") as file:
            file.write(b"begin")
            file.seek(300_000)
            file.write(b"end")
        expected["\\hole"] = (mountpoint / "hole").read_bytes()
        packed = mountpoint / "packed"
        packed.mkdir()
        attributes = (0x800 | 0x10).to_bytes(4, "big")
        subprocess.run(
            ["setfattr", "-n", "system.ntfs_attrib_be", "-v", f"0x{attributes.hex()}", packed],
            check=True,
        )
        (mountpoint / "taken").unlink()
        (packed / "text").write_bytes(b"a" * 200_000)
    finally:
        tool("umount", mountpoint)
    return path, expected


@pytest.fixture
def files(volume):
    data = volume[0].read_bytes()
    return NtfsFiles(lambda offset, size: data[offset : offset + size], "volume")


def test_every_file_reads_as_the_driver_reads_it(files, volume):
    path, expected = volume
    said = tool("ntfsinfo", "-v", "-F", "Pieces.bin", path)
    assert "$ATTRIBUTE_LIST" in said, "the test wants a file in very many pieces"
    for name, content in expected.items():
        file = files.find(name.upper())
        assert file is not None, name
        assert file.path == name
        assert file.size == len(content)
        assert files.read_all(file, 1 << 30) == content, name
        middle = len(content) // 2
        assert files.read(file, middle, 1000) == content[middle : middle + 1000]


def test_a_directory_of_many_blocks_is_listed_whole(files):
    names = files.names("many files")
    there = sorted(set(range(2200)) - GONE)
    assert sorted(names) == [f"file {number:04} ünï" for number in there]
    for number in there[::99]:
        assert files.find(f"\\Many Files\\FILE {number:04} ÜNÏ") is not None
    for number in list(GONE)[:9]:
        assert files.find(f"\\Many Files\\file {number:04} ünï") is None, "deleted"
    assert files.find("\\small\\below") is None
    assert files.names("\\no such") == ()


def test_what_is_compressed_is_refused_by_name(files):
    file = files.find("\\packed\\text")
    with pytest.raises(FormatError, match=r"\\packed\\text is compressed"):
        files.read_all(file, 1 << 30)
    with pytest.raises(FormatError, match="at most 10 bytes"):
        files.read_all(file, 10)


def test_the_bitmap_is_the_one_that_the_driver_keeps(files, volume):
    found = subprocess.run(
        ["ntfscat", "-i", "6", volume[0]], env=ENVIRONMENT, capture_output=True, check=True
    ).stdout
    bitmap = files.cluster_bitmap()
    assert hashlib.sha256(bitmap).digest() == hashlib.sha256(found[: len(bitmap)]).digest()


def test_a_clean_volume_has_no_problems_and_ntfsfix_makes_one(volume, tmp_path):
    path = tmp_path / "v"
    shutil.copyfile(volume[0], path)

    def problems():
        data = path.read_bytes()
        return [
            item.kind
            for item in find_volume_problems(lambda at, size: data[at : at + size], "volume")
        ]

    assert problems() == []
    tool("ntfsfix", path)
    assert problems() == ["dirty"]
    with path.open("r+b") as file:
        file.seek(3)
        file.write(b"-FVE-FS-")
    assert problems() == ["bitlocker"]
    with path.open("r+b") as file:
        file.write(bytes(512))
    assert problems() == ["not-ntfs"]
