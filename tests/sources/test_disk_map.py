# SPDX-License-Identifier: GPL-3.0-or-later
"""Where files lie, by our readers of disks; mtools, mkntfs and kernels' tools wrote them.

The judge is the content: the bytes at the places that a map names must be the file's.
"""

import itertools
import os
import random
import subprocess

import pytest

from mediamaker.errors import FormatError
from mediamaker.sources.disk_map import map_disk
from mediamaker.sources.disk_table import read_disk_table
from mediamaker.sources.exfat_map import map_exfat
from mediamaker.sources.fat_map import map_fat
from mediamaker.sources.file_map import Kind, cut_pieces
from mediamaker.sources.iso_map import map_iso9660
from mediamaker.sources.ntfs_map import map_ntfs
from mediamaker.units import MIB
from tests.volumes.exfat_judges import make_exfat, read_exfat_with_dissect
from tests.volumes.fat_judges import make_tree, materialise


def run(*command, **options):
    words = [str(word) for word in command]
    return subprocess.run(words, check=True, capture_output=True, timeout=60, **options).stdout


@pytest.fixture
def tree(tmp_path):
    """Files of many sizes, with names that need long entries, and their contents."""
    root = tmp_path / "tree"
    contents = {
        "efi/boot/bootx64.efi": os.urandom(70_001),
        "EFI BOOT AND SPACES.TXT": b"short",
        "sources/a very long name with ünïcode.wim": os.urandom(3 * MIB + 17),
        "deep/er/and/deeper/x": os.urandom(4096),
        "empty": b"",
        **{f"many/file-{number:03}.bin": os.urandom(600 + number) for number in range(120)},
    }
    for name, data in contents.items():
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_bytes(data)
    return root, contents


def check_contents(found, pread, contents, *, resident_below=0):
    assert found.problems == ()
    for name, data in contents.items():
        path = "\\" + name.replace("/", "\\")
        item = found.find(path.upper())
        assert item is not None, path
        assert item.name == path
        assert item.size == len(data)
        if item.pieces or len(data) >= resident_below:
            assert found.read(pread, item, 1 << 30) == data, path
    folder = found.find("\\deep\\er")
    assert folder.kind is Kind.DIRECTORY
    assert found.find("\\nothing") is None


def preader(path):
    data = path.read_bytes()
    return lambda offset, size: data[offset : offset + size].ljust(size, b"\0")


@pytest.mark.parametrize(
    ("bits", "size", "cluster_sectors"),
    [(12, 7, 4), (16, 40, 4), (32, 40, 1), (32, 300, 8)],
)
def test_fat(tree, tmp_path, bits, size, cluster_sectors):
    root, contents = tree
    image = tmp_path / "fat.img"
    with image.open("wb") as file:
        file.truncate(size * MIB)
    run("mkfs.fat", "-F", bits, "-s", cluster_sectors, image)
    # Something deleted first makes holes, so that a later file lies in pieces.
    filler = tmp_path / "filler"
    for number in range(8):
        filler.write_bytes(bytes(40_000))
        run("mcopy", "-i", image, filler, f"::f{number}")
    for number in (1, 3, 5):
        run("mdel", "-i", image, f"::f{number}")
    if bits == 32:
        # Where the free clusters begin is unknown: mtools looks from the start, into the holes.
        with image.open("r+b") as file:
            file.seek(512 + 488)
            file.write(b"\xff" * 8)
    names = sorted(root.iterdir(), reverse=True)
    run("mcopy", "-s", "-i", image, *names, "::", env={**os.environ, "LC_ALL": "C.UTF-8"})
    found = map_fat(preader(image), "it")
    assert found.file_system == f"FAT{bits}"
    check_contents(found, preader(image), contents)
    if cluster_sectors == 1:
        big = found.find("\\sources\\a very long name with ünïcode.wim")
        assert len(big.pieces) > 1


def test_ntfs(tree, tmp_path):
    root, contents = tree
    image, wim = tmp_path / "ntfs.img", tmp_path / "tree.wim"
    with image.open("wb") as file:
        file.truncate(24 * MIB)
    run("mkntfs", "-F", "-Q", "-q", image)
    os.link(root / "efi/boot/bootx64.efi", root / "a-much-longer-name-for-the-loader.efi")
    run("wimlib-imagex", "capture", root, wim, "--no-acls", "--compress=none")
    run("wimlib-imagex", "apply", wim, "1", image)
    found = map_ntfs(preader(image), "it")
    alias = "\\a-much-longer-name-for-the-loader.efi"
    assert found.find(alias) is found.find("\\efi\\boot\\bootx64.efi")
    check_contents(found, preader(image), contents, resident_below=1024)
    record = next(item for item in found.items if item.name == "file record of \\empty")
    assert preader(image)(record.pieces[0][0], 4) == b"FILE"
    assert record.kind is Kind.STRUCTURE


def test_exfat(tree, tmp_path):
    """Contiguous files; chains are read in vm-tests/test_boot_trace.py, where others make them."""
    _, contents = tree
    volume = make_exfat(make_tree(contents), 16 * MIB)
    image = materialise(volume.extents, tmp_path / "exfat.img")
    judged = read_exfat_with_dissect(image)
    assert {name: data for name, data in judged.items() if data is not None} == contents
    check_contents(map_exfat(preader(image), "it"), preader(image), contents)


@pytest.mark.parametrize("options", [["-J", "-r"], ["-r"]])
def test_iso9660(tree, tmp_path, options):
    root, contents = tree
    image = tmp_path / "x.iso"
    run("genisoimage", "-quiet", "-input-charset", "utf-8", *options, "-o", image, root)
    found = map_iso9660(preader(image), "it")
    check_contents(found, preader(image), contents)


def make_gpt(path, *partitions):
    with path.open("wb") as file:
        file.truncate(64 * MIB)
    words = []
    for number, (start, size, code) in enumerate(partitions, 1):
        words += ["-n", f"{number}:{start}:+{size}", "-t", f"{number}:{code}"]
    run("sgdisk", "-a", "1", *words, path)


def test_a_disk_of_two_volumes(tree, tmp_path):
    root, _ = tree
    disk, volume = tmp_path / "disk.img", tmp_path / "volume"
    make_gpt(disk, (2048, "10M", "ef00"), (30720, "20M", "0700"))
    with volume.open("wb") as file:
        file.truncate(10 * MIB)
    run("mkfs.fat", volume)
    run("mcopy", "-s", "-i", volume, root / "efi", "::")
    with disk.open("r+b") as file:
        file.seek(MIB)
        file.write(volume.read_bytes())
    pread = preader(disk)
    found = map_disk(pread, disk.stat().st_size, "it")
    assert found.table.kind == "gpt"
    assert [volume.number for volume in found.volumes] == [1, 0]
    assert [partition.number for partition in found.unread] == [2]
    item = found.volumes[0].files.find("\\efi\\boot\\bootx64.efi")
    (start, size), *_ = item.pieces
    parts = list(found.locate(MIB + start - 100, MIB + start + size + 5000))
    assert (parts[0].start, parts[-1].end) == (MIB + start - 100, MIB + start + size + 5000)
    assert all(one.end == two.start for one, two in itertools.pairwise(parts))
    ours = [part for part in parts if part.item is item]
    assert sum(part.end - part.start for part in ours) == size
    (table,) = [part.item.name for part in found.locate(512, 1024)]
    assert table == "GPT header"
    (nothing,) = found.locate(16 * MIB, 17 * MIB)
    assert (nothing.item, nothing.volume) == (None, None)


def test_the_table_survives_the_loss_of_its_first_copy(tmp_path):
    disk = tmp_path / "disk.img"
    make_gpt(disk, (2048, "10M", "ef00"))
    before = read_disk_table(preader(disk), disk.stat().st_size)
    with disk.open("r+b") as file:
        file.seek(512)
        file.write(bytes(512))
    assert read_disk_table(preader(disk), disk.stat().st_size) == before
    guid = run("sgdisk", "-i", "1", disk).decode().split("unique GUID: ")[1].split()[0]
    assert str(before.partitions[0].unique_guid).upper() == guid


def test_logical_partitions(tmp_path):
    disk = tmp_path / "disk.img"
    with disk.open("wb") as file:
        file.truncate(64 * MIB)
    lines = "label: dos\nlabel-id: 0x12345678\nsize=4M, type=c, bootable\nsize=50M, type=5\n"
    lines += f"{disk}5 : size=8M, type=7\n{disk}6 : size=9M, type=83\n"
    run("sfdisk", "--quiet", disk, input=lines.encode())
    expected = {}
    for line in run("sfdisk", "--dump", disk).decode().splitlines():
        if " : start=" in line:
            name, rest = line.split(" : ")
            values = dict(item.strip().split("=") for item in rest.split(",") if "=" in item)
            number = int(name.removeprefix(str(disk)))
            expected[number] = (int(values["start"]) * 512, int(values["size"]) * 512)
    del expected[2]
    table = read_disk_table(preader(disk), disk.stat().st_size)
    assert {item.number: (item.start, item.size) for item in table.partitions} == expected
    assert table.disk_signature == 0x12345678
    assert table.partitions[0].is_active


def test_a_volume_without_a_table(tmp_path):
    image = tmp_path / "floppy.img"
    with image.open("wb") as file:
        file.truncate(MIB)
    run("mkfs.fat", image)
    (tmp_path / "x").write_bytes(b"content")
    run("mcopy", "-i", image, tmp_path / "x", "::x.txt")
    found = map_disk(preader(image), MIB, "it")
    assert found.volumes[0].files.find("\\X.TXT").size == 7


# Damage: whatever is there, an answer comes, in bounded time


def test_a_directory_that_is_its_own_child(tmp_path):
    image = tmp_path / "fat.img"
    with image.open("wb") as file:
        file.truncate(4 * MIB)
    run("mkfs.fat", "-F", "12", image)
    run("mmd", "-i", image, "::a", "::a/b")
    data = bytearray(image.read_bytes())
    where = data.index(b"B          \x10")
    parent = data.index(b"A          \x10")
    data[where + 26 : where + 28] = data[parent + 26 : parent + 28]
    found = map_fat(lambda offset, size: bytes(data[offset : offset + size]), "it")
    assert found.problems == ("\\a\\b: it is another directory at the same time",)


@pytest.mark.parametrize("make", [["mkfs.fat", "-F", "12"], ["mkntfs", "-F", "-Q", "-q"], []])
def test_random_damage_ends(tmp_path, make):
    image = tmp_path / "image"
    with image.open("wb") as file:
        file.truncate(4 * MIB)
    run(*(make or ["mkfs.exfat"]), image)
    whole = image.read_bytes()
    rng = random.Random(7)
    ends = 0
    for _ in range(60):
        data = bytearray(whole)
        for _ in range(rng.randrange(1, 40)):
            data[rng.choice((rng.randrange(512), rng.randrange(len(data))))] = rng.randrange(256)
        found = map_disk(lambda at, size: bytes(data[at : at + size]), len(data), "it")  # noqa: B023
        list(found.locate(0, len(data)))
        ends += 1
    assert ends == 60


@pytest.mark.parametrize("mapper", [map_fat, map_exfat, map_ntfs, map_iso9660])
@pytest.mark.parametrize("head", [b"", b"\xeb\x3c\x90" + b"\xff" * 509])
def test_no_volume_is_said_to_be_none(mapper, head):
    with pytest.raises(FormatError, match="it"):
        mapper(lambda offset, size: head[offset : offset + size].ljust(size, b"\0"), "it")


def test_pieces_are_cut_and_joined():
    assert cut_pieces([(0, 10), (10, 10), (40, 10)], 25) == ((0, 20), (40, 5))
    assert cut_pieces([(0, 10)], 0) == ()


def test_a_stream_whose_header_is_cut_short_is_a_problem(tmp_path):
    """Found by mutation: the header was unpacked before its size was looked at."""
    image = tmp_path / "image"
    with image.open("wb") as file:
        file.truncate(4 * MIB)
    run("mkntfs", "-F", "-Q", "-q", image)
    data = bytearray(image.read_bytes())
    record = data.index(b"FILE") + 2 * 1024
    assert data[record : record + 4] == b"FILE"
    at = record + int.from_bytes(data[record + 0x14 : record + 0x16], "little")
    while data[at] != 0x80:
        at += int.from_bytes(data[at + 4 : at + 8], "little")
    assert data[at + 8] == 1, "it lies outside of the record"
    data[at + 4 : at + 8] = (24).to_bytes(4, "little")
    found = map_ntfs(lambda offset, size: bytes(data[offset : offset + size]), "it")
    assert found.problems == ("it: NTFS file record 2: its stream's header has only 24 bytes",)
