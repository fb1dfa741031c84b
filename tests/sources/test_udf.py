# SPDX-License-Identifier: GPL-3.0-or-later
"""Where UDF says that a file's bytes lie; 7-Zip reads the same images as a judge."""

import os
import struct
import subprocess

import pycdlib
import pytest

from mediamaker.extents import FileRange, Piece, Zeros
from mediamaker.formats.udf import parse_label, parse_timestamp
from mediamaker.formats.utc import epoch_ns
from mediamaker.sources.iso import ISO_SOURCE_ID, open_iso
from mediamaker.sources.reader import SourceReader
from tests.hostile.udf_image import (
    BLOCK,
    EMBEDDED,
    EXTENT_MAX,
    FID_DIRECTORY,
    LONG,
    MODIFIED_NS,
    PARTITION_START,
    UdfImage,
    file_identifier,
    good_udf,
    long_ad,
    name8,
    name16,
    short_ad,
    tag,
    timestamp,
)

FIRST, SECOND, THIRD = b"1" * BLOCK, b"2" * BLOCK, b"3" * 500


def _open(image: UdfImage, tmp_path):
    path = tmp_path / "test.iso"
    path.write_bytes(image.build())
    return path, open_iso(path)


def _read(iso, *path):
    entry = iso.tree.find_file(*path)
    with SourceReader(iso.tree.files) as reader:
        return reader.read_pieces(entry.pieces, 0, entry.size)


def _read_7z(path, name):
    return subprocess.run(
        ["7z", "e", "-so", "-tudf", path, name], check=True, capture_output=True
    ).stdout


def _range(block: int, size: int, offset: int = 0) -> Piece:
    start = (PARTITION_START + block) * BLOCK + offset
    return Piece(size, FileRange(ISO_SOURCE_ID, start))


def _single(build) -> UdfImage:
    """An image whose root holds one file, of the entry that ``build`` makes."""
    image = UdfImage()
    return image.set_root(file_identifier(name8("file"), build(image)))


@pytest.mark.parametrize("extended", [False, True], ids=["FE", "EFE"])
@pytest.mark.parametrize("attributes", [b"", b"x" * 60])
def test_extents_out_of_order_are_read_in_their_own_order(extended, attributes, tmp_path):
    blocks = []

    def build(image):
        third, second, first = (image.allocate(data) for data in (THIRD, SECOND, FIRST))
        blocks.extend((first, second, third))
        allocations = short_ad(first, BLOCK) + short_ad(second, BLOCK) + short_ad(third, 500)
        size = 2 * BLOCK + 500
        return image.add_entry(size, allocations, extended=extended, attributes=attributes)

    path, iso = _open(_single(build), tmp_path)
    first, second, third = blocks
    assert iso.tree.find_file("file").pieces == (
        _range(first, BLOCK),
        _range(second, BLOCK),
        _range(third, 500),
    )
    content = FIRST + SECOND + THIRD
    assert _read(iso, "file") == content
    assert _read_7z(path, "file") == content


def test_adjoining_extents_become_one_piece(tmp_path):
    blocks = []

    def build(image):
        blocks.append(image.allocate(FIRST + SECOND + THIRD))
        parts = ((0, BLOCK), (1, BLOCK), (2, 500))
        allocations = b"".join(long_ad(blocks[0] + at, size) for at, size in parts)
        return image.add_entry(2 * BLOCK + 500, allocations, kind=LONG)

    path, iso = _open(_single(build), tmp_path)
    assert iso.tree.find_file("file").pieces == (_range(blocks[0], 2 * BLOCK + 500),)
    assert _read_7z(path, "file") == _read(iso, "file")


def test_content_in_the_entry_itself_is_a_range_of_its_block(tmp_path):
    entries = []

    def build(image):
        entry = image.add_entry(8, b"embedded", kind=EMBEDDED, attributes=b"x" * 24)
        entries.append(entry)
        return entry

    path, iso = _open(_single(build), tmp_path)
    assert iso.tree.find_file("file").pieces == (_range(entries[0], 8, 176 + 24),)
    assert _read(iso, "file") == b"embedded"
    assert _read_7z(path, "file") == b"embedded"


def test_extents_that_are_not_recorded_are_zeros(tmp_path):
    def build(image):
        data = image.allocate(FIRST)
        allocations = short_ad(data, BLOCK) + short_ad(0, BLOCK, 1) + short_ad(0, BLOCK, 2)
        return image.add_entry(2 * BLOCK + 7, allocations)

    _, iso = _open(_single(build), tmp_path)
    pieces = iso.tree.find_file("file").pieces
    assert pieces[1:] == (Piece(BLOCK + 7, Zeros()),)
    assert _read(iso, "file") == FIRST + bytes(BLOCK + 7)


@pytest.mark.parametrize("is_long", [False, True], ids=["short_ad", "long_ad"])
def test_descriptors_go_on_in_further_extents(is_long, tmp_path):
    allocation = long_ad if is_long else short_ad

    def continued(image):
        blocks = [image.allocate(data) for data in (FIRST, b"", SECOND, b"", THIRD)]
        first, _, second, _, third = blocks
        last, middle = image.allocate(), image.allocate()
        chain = (
            (last, allocation(third, 500)),
            (middle, allocation(second, BLOCK) + allocation(last, BLOCK, 3)),
        )
        for block, data in chain:
            image.blocks[block] = tag(258, struct.pack("<II", 0, len(data)) + data, block)
        head = allocation(first, BLOCK) + allocation(middle, BLOCK, 3)
        return image.add_entry(2 * BLOCK + 500, head, kind=int(is_long))

    _, iso = _open(_single(continued), tmp_path)
    assert len(iso.tree.find_file("file").pieces) == 3
    assert _read(iso, "file") == FIRST + SECOND + THIRD


def test_what_lies_past_the_file_s_size_is_not_the_file_s(tmp_path):
    """ECMA-167 4/12.1: a tail may be allocated beyond the information length."""

    def build(image):
        data = image.allocate(FIRST + SECOND)
        return image.add_entry(BLOCK, short_ad(data, BLOCK) + short_ad(data + 1, BLOCK, 1))

    _, iso = _open(_single(build), tmp_path)
    assert _read(iso, "file") == FIRST


def test_names_sizes_label_and_time(tmp_path):
    _, iso = _open(good_udf(), tmp_path)
    assert iso.tree.format == "udf"
    assert iso.volume_label == "HAND_MADE"
    assert [(e.path_text, e.is_dir, e.size, e.modified_ns) for e in iso.tree.entries] == [
        ("readme.txt", False, 6, MODIFIED_NS),
        ("sources", True, 0, MODIFIED_NS),
        ("sources/boöt.wim", False, 3000, MODIFIED_NS),
    ]


def test_names_beyond_the_basic_plane(tmp_path):
    image = UdfImage(label=name16("窓"))
    image.set_root(file_identifier(name16("𝄞 score"), image.add_file(b"x")))
    _, iso = _open(image, tmp_path)
    assert iso.tree.entries[0].path == ("𝄞 score",)
    assert iso.volume_label == "窓"


@pytest.mark.parametrize(
    ("zone", "minutes"),
    [(0x1000, 0), (0x1000 | 60, 60), (0x1000 | (-480 & 0xFFF), -480), (0x1000 | 0x801, 0)],
    ids=["UTC", "Berlin", "Seattle", "none given"],
)
def test_time_zones(zone, minutes):
    assert parse_timestamp(timestamp(zone)) == MODIFIED_NS - minutes * 60 * 10**9


def test_times_that_do_not_exist_are_none():
    assert parse_timestamp(bytes(12)) is None
    assert epoch_ns((2023, 2, 30, 0, 0, 0)) is None
    assert epoch_ns((9999, 12, 31, 23, 59, 59), zone_minutes=-1000) is None


def test_fractions_of_a_second():
    stamp = timestamp()[:-3] + bytes((12, 34, 56))
    assert parse_timestamp(stamp) == MODIFIED_NS + 123_456_000


def test_label_is_as_long_as_its_last_byte_says():
    assert parse_label(name8("AB").ljust(127, b"x") + b"\x03", what="label") == "AB"
    assert parse_label(bytes(128), what="label") == ""


def test_a_file_over_a_gib_has_several_descriptors_and_one_piece(tmp_path):
    """As genisoimage lays it out: at most 0x3ffff800 bytes a descriptor, here two of them."""
    tree = tmp_path / "tree"
    tree.mkdir()
    big = tree / "install.wim"
    with big.open("wb") as file:
        os.truncate(file.fileno(), EXTENT_MAX + 5)
        os.pwrite(file.fileno(), b"border", EXTENT_MAX - 3)
    (tree / "after.txt").write_bytes(b"after\n")
    path = tmp_path / "big.iso"
    build = subprocess.Popen(
        ["genisoimage", "-quiet", "-udf", "-iso-level", "3", tree], stdout=subprocess.PIPE
    )
    # Zeros become holes: the file takes some KiB of disk.
    sparse = ["dd", "bs=4M", "iflag=fullblock", "conv=sparse", f"of={path}", "status=none"]
    subprocess.run(sparse, stdin=build.stdout, check=True)
    build.stdout.close()
    assert build.wait() == 0
    iso = open_iso(path)
    (piece,) = iso.tree.find_file("install.wim").pieces
    assert piece.size == big.stat().st_size
    with SourceReader(iso.tree.files) as reader:
        entry = iso.tree.find_file("install.wim")
        assert reader.read_pieces(entry.pieces, EXTENT_MAX - 3, 8) == b"border\0\0"
    judge = pycdlib.PyCdlib()
    judge.open(str(path))
    descriptors = judge.get_record(udf_path="/install.wim").alloc_descs
    assert [item.extent_length for item in descriptors] == [EXTENT_MAX, 5]
    judge.close()
    assert _read(iso, "after.txt") == b"after\n"


def test_directory_entries_are_in_the_tree_even_when_empty(tmp_path):
    image = UdfImage()
    empty = image.allocate()
    image.set_directory(empty, b"")
    image.set_root(file_identifier(name8("empty"), empty, FID_DIRECTORY))
    _, iso = _open(image, tmp_path)
    assert [(entry.path, entry.is_dir) for entry in iso.tree.entries] == [(("empty",), True)]
