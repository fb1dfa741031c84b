# SPDX-License-Identifier: GPL-3.0-or-later
"""Blobs are read at any offset, wherever the WIM's bytes lie, in bounded memory."""

import hashlib
import random
import shutil
import subprocess
import tracemalloc
from concurrent.futures import ThreadPoolExecutor

import pytest

from mediamaker.errors import FormatError
from mediamaker.extents import FileRange, Piece
from mediamaker.sources import wim_blobs
from mediamaker.sources.identity import identify
from mediamaker.sources.reader import SourceReader
from mediamaker.sources.wim import read_wim
from mediamaker.sources.wim_blobs import WINDOW_SIZE, BlobReader
from mediamaker.units import MIB

NOISE = random.Random(5)
CONTENTS = [NOISE.randbytes(size) + b"and text " * size for size in (1, 500, 3640, 40_000, 900_000)]
OPTIONS = {
    "none": ["--compress=none"],
    "xpress": ["--compress=XPRESS", "--chunk-size=8K"],
    "lzx": ["--compress=LZX:20"],
    "lzms": ["--compress=LZMS:20"],
    "solid": ["--solid", "--solid-compress=LZX:20", "--solid-chunk-size=64K"],
}


@pytest.fixture(scope="module", params=OPTIONS)
def wim_path(request, tmp_path_factory):
    folder = tmp_path_factory.mktemp(request.param)
    (folder / "tree").mkdir()
    for number, content in enumerate(CONTENTS):
        (folder / "tree" / f"{number}").write_bytes(content)
    command = ["wimlib-imagex", "capture", folder / "tree", folder / "x.wim", "Name"]
    subprocess.run([*command, *OPTIONS[request.param]], check=True, capture_output=True)
    return folder / "x.wim"


def open_blobs(path, reader, pieces=None):
    size = sum(p.size for p in pieces) if pieces else path.stat().st_size
    pieces = pieces or (Piece(size, FileRange("wim", 0)),)
    return BlobReader(read_wim(pieces, size, reader, "x.wim"), pieces, reader, what="x.wim")


def find(blobs, content):
    return blobs.find(hashlib.sha1(content).digest())


def test_any_range_of_any_blob(wim_path):
    places = random.Random(1)
    with (
        SourceReader([identify("wim", wim_path)]) as reader,
        open_blobs(wim_path, reader) as blobs,
    ):
        for content in CONTENTS:
            blob = find(blobs, content)
            assert blobs.read(blob) == content
            for _ in range(10):
                a, b = sorted(places.randrange(len(content) + 1) for _ in range(2))
                assert blobs.read(blob, a, b - a) == content[a:b]
            for offset, size in ((0, len(content) + 1), (-1, 1), (len(content) + 1, 0), (5, -1)):
                with pytest.raises(FormatError, match="is not in it"):
                    blobs.read(blob, offset, size)
        assert blobs.find(bytes(20)) is None
        assert len(blobs.read_metadata(1).children(blobs.read_metadata(1).root)) == len(CONTENTS)
        with pytest.raises(FormatError, match="expected an image from 1 to 1, got 2"):
            blobs.read_metadata(2)


def test_a_wim_in_pieces(wim_path, tmp_path):
    data = wim_path.read_bytes()
    half = len(data) // 2 + 1
    moved = tmp_path / "moved"
    moved.write_bytes(data[half:] + b"between" + data[:half])
    pieces = (
        Piece(half, FileRange("wim", len(data) - half + 7)),
        Piece(len(data) - half, FileRange("wim", 0)),
    )
    with (
        SourceReader([identify("wim", moved)]) as reader,
        open_blobs(moved, reader, pieces) as blobs,
    ):
        for content in CONTENTS:
            assert blobs.read(find(blobs, content)) == content


def test_windows_of_one_resource_in_many_threads(wim_path):
    content = CONTENTS[-1]
    with (
        SourceReader([identify("wim", wim_path)]) as reader,
        open_blobs(wim_path, reader) as blobs,
        ThreadPoolExecutor(4) as pool,
    ):
        blob = find(blobs, content)
        if blobs.solid_runs:
            resource, start = blobs.open_solid_resource(0), blob.offset
        else:
            resource, start = blobs.open_resource(blob.resource), 0
        indexes = list(range(resource.window_count)) * 4
        windows = list(pool.map(lambda i: blobs.decode_window(resource, i), indexes))
        assert not any(window.failures for window in windows)
        joined = b"".join(window.data for window in windows[: resource.window_count])
        assert joined[start : start + len(content)] == content
        assert {len(w.data) for w in windows[: resource.window_count - 1]} <= {WINDOW_SIZE}


def test_memory_is_one_window(wim_path):
    with (
        SourceReader([identify("wim", wim_path)]) as reader,
        open_blobs(wim_path, reader) as blobs,
    ):
        blob = find(blobs, CONTENTS[-1])
        tracemalloc.start()
        try:
            assert sum(len(piece) for piece in blobs.iterate(blob)) == len(CONTENTS[-1])
            # A window as it is stored, and decoded.
            assert tracemalloc.get_traced_memory()[1] < 3 * WINDOW_SIZE + MIB
        finally:
            tracemalloc.stop()


def test_blobs_of_a_solid_resource_cost_one_decoding_of_each_window(wim_path, monkeypatch):
    with (
        SourceReader([identify("wim", wim_path)]) as reader,
        open_blobs(wim_path, reader) as blobs,
    ):
        if not blobs.solid_runs:
            assert [blob for blob in blobs.wim.blobs if not blob.flags & 0x10]
            return
        decoded = []
        decode = BlobReader.decode_window
        monkeypatch.setattr(
            BlobReader,
            "decode_window",
            lambda self, resource, i: decoded.append(i) or decode(self, resource, i),
        )
        sha1s = [hashlib.sha1(content).digest() for content in CONTENTS]
        for sha1 in sorted(sha1s, key=blobs.position):
            blobs.read(blobs.find(sha1))
        assert decoded == list(range(blobs.open_solid_resource(0).window_count))


def test_damage_is_told(wim_path, tmp_path):
    with SourceReader([identify("wim", wim_path)]) as reader:
        blob = open_blobs(wim_path, reader).wim.metadata[0]
    broken = tmp_path / "broken.wim"
    shutil.copy(wim_path, broken)
    with broken.open("r+b") as file:
        file.seek(blob.offset + blob.size_in_wim // 2)
        file.write(b"damaged")
    with (
        SourceReader([identify("wim", broken)]) as reader,
        open_blobs(broken, reader) as blobs,
        pytest.raises(FormatError, match="is damaged"),
    ):
        blobs.read_metadata(1)


def test_tables_that_are_too_large_are_refused(wim_path, monkeypatch):
    monkeypatch.setattr(wim_blobs, "CHUNK_TABLE_SIZE_MAX", 10)
    with (
        SourceReader([identify("wim", wim_path)]) as reader,
        open_blobs(wim_path, reader) as blobs,
    ):
        blob = find(blobs, CONTENTS[-1])
        if blobs.wim.compression == "none" and not blobs.solid_runs:
            assert blobs.read(blob) == CONTENTS[-1]
            return
        with pytest.raises(FormatError, match="expected at most 10 bytes"):
            blobs.read(blob)
