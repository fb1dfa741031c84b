# SPDX-License-Identifier: GPL-3.0-or-later
"""Reading a WIM takes its tables only, wherever the file lies."""

import subprocess
from itertools import pairwise

import pytest

from mediamaker.errors import FormatError
from mediamaker.extents import FileRange, Piece
from mediamaker.sources.identity import identify
from mediamaker.sources.reader import SourceReader
from mediamaker.sources.wim import read_wim


class CountingReader(SourceReader):
    def __init__(self, files):
        super().__init__(files)
        self.sizes = []

    def pread(self, source_id, offset, size):
        self.sizes.append(size)
        return super().pread(source_id, offset, size)


@pytest.fixture(scope="module", params=["--compress=XPRESS", "--solid --solid-chunk-size=64K"])
def wim_path(request, tmp_path_factory):
    folder = tmp_path_factory.mktemp("wim")
    (folder / "tree").mkdir()
    for number in range(30):
        (folder / "tree" / f"{number}").write_bytes(bytes([number]) * 40_000 + b"end")
    options = request.param.split()
    command = ["wimlib-imagex", "capture", folder / "tree", folder / "x.wim", "Name", *options]
    subprocess.run(command, check=True, capture_output=True)
    return folder / "x.wim"


def test_only_the_tables_are_read(wim_path):
    size = wim_path.stat().st_size
    with CountingReader([identify("wim", wim_path)]) as reader:
        wim = read_wim((Piece(size, FileRange("wim", 0)),), size, reader, "x.wim")
    tables = [208, wim.header.blob_table.size_in_wim, wim.header.xml.size_in_wim]
    assert reader.sizes == tables + [16] * len(wim.solid_resources)
    assert wim.size == size
    assert [image.name for image in wim.images] == ["Name"]
    assert len(wim.metadata) == 1
    assert wim.is_solid == (wim.header.version == 0xE00)
    assert len(wim.blobs) == 31 + len(wim.solid_resources)


def test_pieces_in_any_order_of_the_file(wim_path, tmp_path):
    data = wim_path.read_bytes()
    moved = tmp_path / "moved"
    cuts = [0, 100, len(data) // 2, len(data) - 55, len(data)]
    chunks = [data[a:b] for a, b in pairwise(cuts)]
    moved.write_bytes(b"...".join(reversed(chunks)))
    pieces, offset = [], 0
    for chunk in reversed(chunks):
        pieces.insert(0, Piece(len(chunk), FileRange("wim", offset)))
        offset += len(chunk) + 3
    whole = (Piece(len(data), FileRange("wim", 0)),)
    with SourceReader([identify("wim", moved)]) as reader:
        there = read_wim(pieces, len(data), reader, "x.wim")
    with SourceReader([identify("wim", wim_path)]) as reader:
        assert read_wim(whole, len(data), reader, "x.wim") == there


@pytest.mark.parametrize("lost", [1, 60, 900])
def test_a_file_that_was_cut_short_is_refused(wim_path, lost):
    size = wim_path.stat().st_size - lost
    with (
        SourceReader([identify("wim", wim_path)]) as reader,
        pytest.raises(FormatError, match=r"^short\.wim: WIM .*: expected inside \[0xd0,0x"),
    ):
        read_wim((Piece(size, FileRange("wim", 0)),), size, reader, "short.wim")
