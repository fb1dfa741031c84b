# SPDX-License-Identifier: GPL-3.0-or-later
"""Why UDF is not read through pycdlib: what ``mediamaker/sources/udf.py`` says, shown.

Each image is read right by us. When a test here fails, pycdlib has learned something, and the
reasons in that module need another look.
"""

import io
import struct

import pycdlib
import pytest

from mediamaker.sources.iso import open_iso
from mediamaker.sources.reader import SourceReader
from tests.hostile.udf_image import (
    BLOCK,
    DIRECTORY,
    FID_DELETED,
    FID_DIRECTORY,
    FID_PARENT,
    ROOT_ENTRY,
    UdfImage,
    file_entry,
    file_identifier,
    good_udf,
    name8,
    short_ad,
    tag,
)


def _ours(image: bytes, tmp_path) -> dict[str, bytes]:
    path = tmp_path / "test.iso"
    path.write_bytes(image)
    tree = open_iso(path).tree
    with SourceReader(tree.files) as reader:
        return {
            entry.path_text: reader.read_pieces(entry.pieces, 0, entry.size)
            for entry in tree.entries
        }


class _CountingFile(io.BytesIO):
    size_read = 0

    def read(self, size=-1):
        data = super().read(size)
        self.size_read += len(data)
        return data


def _pycdlib(image: bytes, file=None) -> dict[str, bytes]:
    iso = pycdlib.PyCdlib()
    iso.open_fp(file or io.BytesIO(image))
    contents = {}
    for directory, _, names in iso.walk(udf_path="/"):
        for name in names:
            path = f"{directory.rstrip('/')}/{name}"
            content = io.BytesIO()
            iso.get_file_from_iso_fp(content, udf_path=path)
            contents[path[1:]] = content.getvalue()
    return contents


def test_pycdlib_reads_the_plain_image():
    assert _pycdlib(good_udf().build()) == {
        "readme.txt": b"hello\n",
        "sources/boöt.wim": b"wim" * 1000,
    }


def test_a_deleted_name_is_a_file_to_pycdlib(tmp_path):
    image = UdfImage()
    entry = image.add_file(b"old")
    image.set_root(file_identifier(name8("gone"), entry, FID_DELETED))
    assert _ours(image.build(), tmp_path) == {}
    assert _pycdlib(image.build()) == {"gone": b"old"}


def test_a_name_that_straddles_two_extents_stops_pycdlib(tmp_path):
    image = UdfImage()
    names = [f"file number {number:03}" for number in range(40)]
    data = file_identifier(b"", ROOT_ENTRY, FID_PARENT | FID_DIRECTORY)
    data += b"".join(file_identifier(name8(name), image.add_file(b"x")) for name in names)
    assert BLOCK < len(data) < 2 * BLOCK
    second, _, first = (image.allocate() for _ in range(3))
    image.blocks[first], image.blocks[second] = data[:BLOCK], data[BLOCK:]
    allocations = short_ad(first, BLOCK) + short_ad(second, len(data) - BLOCK)
    image.blocks[ROOT_ENTRY] = file_entry(ROOT_ENTRY, len(data), allocations, file_type=DIRECTORY)
    assert list(_ours(image.build(), tmp_path)) == names
    with pytest.raises(pycdlib.pycdlibexception.PyCdlibException):
        _pycdlib(image.build())


def test_descriptors_that_go_on_elsewhere_are_data_to_pycdlib(tmp_path):
    image = UdfImage()
    content = b"a" * BLOCK + b"b" * 100
    first, _, last, more = (image.allocate() for _ in range(4))
    image.blocks[first], image.blocks[last] = content[:BLOCK], content[BLOCK:]
    rest = short_ad(last, 100)
    image.blocks[more] = tag(258, struct.pack("<II", 0, len(rest)) + rest, more)
    entry = image.add_entry(len(content), short_ad(first, BLOCK) + short_ad(more, BLOCK, 3))
    image.set_root(file_identifier(name8("file"), entry))
    assert _ours(image.build(), tmp_path) == {"file": content}
    assert _pycdlib(image.build()) != {"file": content}


def test_one_anchor_is_too_few_for_pycdlib(tmp_path):
    image = good_udf()
    image.anchors = (256,)
    assert _ours(image.build(), tmp_path)["readme.txt"] == b"hello\n"
    with pytest.raises(pycdlib.pycdlibexception.PyCdlibException, match="at least 2 UDF Anchors"):
        _pycdlib(image.build())


def test_pycdlib_reads_as_much_for_a_file_entry_as_it_is_told(tmp_path):
    image = UdfImage(block_count=2000)
    entry = image.add_file(b"x")
    icb = struct.pack("<IIH6x", 3_000_000, entry, 0)
    body = struct.pack("<HBB", 1, 0, 2) + icb + struct.pack("<H", 0) + name8("f")
    image.set_root(tag(257, body, 0))
    assert _ours(image.build(), tmp_path) == {"f": b"x"}
    file = _CountingFile(image.build())
    _pycdlib(b"", file)
    assert file.size_read > 3_000_000
