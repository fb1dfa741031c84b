# SPDX-License-Identifier: GPL-3.0-or-later
"""The codecs: a WIM that wimlib-imagex wrote is decoded chunk by chunk; threads; bad data."""

import random
import struct
import subprocess
import threading

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from mediamaker.errors import FormatError, UsageError
from mediamaker.wimlib.codec import CHUNK_SIZE_LIMITS, Compressor, Decompressor

CODECS = ("XPRESS", "LZX", "LZMS")
TEXT = b"".join(b"line %d of a text that packs well\n" % (i * i) for i in range(900))[:32768]


@pytest.mark.parametrize(("name", "option"), [("XPRESS", "fast"), ("LZX", "maximum")])
def test_a_resource_of_a_foreign_wim_is_decoded(tmp_path, name, option):
    # One file, so one blob; its resource is a table of n-1 chunk offsets, then the chunks.
    size = 3 * 32768 + 777
    content = (TEXT * 4)[:size]
    (tmp_path / "tree").mkdir()
    (tmp_path / "tree" / "a").write_bytes(content)
    wim = tmp_path / "a.wim"
    subprocess.run(
        ["wimlib-imagex", "capture", tmp_path / "tree", wim, f"--compress={option}"],
        check=True, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL,
    )  # fmt: skip
    data = wim.read_bytes()
    packed_size, offset, plain_size = 0, 0, 0
    _, table_offset, table_plain = struct.unpack_from("<QQQ", data, 0x30)
    for at in range(table_offset, table_offset + table_plain, 50):
        size_flags, where, plain = struct.unpack_from("<QQQ", data, at)
        if not size_flags >> 56 & 2:  # not metadata
            packed_size, offset, plain_size = size_flags & (1 << 56) - 1, where, plain
    assert plain_size == size
    starts = [0, *struct.unpack_from("<3I", data, offset), packed_size - 12]
    out = b""
    with Decompressor(name, 32768) as decompressor:
        for index in range(4):
            chunk = data[offset + 12 + starts[index] : offset + 12 + starts[index + 1]]
            want = min(32768, size - 32768 * index)
            assert len(chunk) < want
            out += decompressor.decompress(memoryview(chunk), want)
    assert out == content


@pytest.mark.parametrize("name", CODECS)
def test_back_and_forth(name):
    with Compressor(name, 32768) as compressor, Decompressor(name, 32768) as decompressor:
        packed = compressor.compress(TEXT)
        assert packed is not None
        assert len(packed) < len(TEXT) // 3
        assert decompressor.decompress(packed, len(TEXT)) == TEXT
        out = bytearray(len(TEXT))
        decompressor.decompress_into(memoryview(packed), memoryview(out))
        assert out == TEXT
        assert compressor.compress(random.Random(1).randbytes(32768)) is None
        assert compressor.compress(b"") is None
        assert compressor.compress(b"a") is None
        with pytest.raises(FormatError, match="more than a chunk"):
            compressor.compress(bytes(32769))


@pytest.mark.parametrize("name", CODECS)
@settings(max_examples=200, deadline=None)
@given(data=st.binary(max_size=300), size=st.integers(0, 40) | st.integers(0, 5000))
def test_any_bytes_give_the_size_or_a_format_error(name, data, size):
    with Decompressor(name, 4096) as decompressor:
        try:
            assert len(decompressor.decompress(data, size)) == size
        except FormatError:
            return
        assert 1 <= size <= 4096


@pytest.mark.parametrize("name", CODECS)
def test_flipped_bytes_never_crash(name):
    rng = random.Random(2)
    with Compressor(name, 32768) as compressor, Decompressor(name, 32768) as decompressor:
        packed = compressor.compress(TEXT)
        assert packed
        refused = 0
        for _ in range(300):
            bad = bytearray(packed)
            bad[rng.randrange(len(bad))] ^= 1 << rng.randrange(8)
            try:
                assert len(decompressor.decompress(bad, len(TEXT))) == len(TEXT)
            except FormatError:
                refused += 1
        assert decompressor.decompress(packed, len(TEXT)) == TEXT  # still as good as new


def test_sizes_that_no_codec_has_are_refused():
    for name in CODECS:
        for size in (0, -1, CHUNK_SIZE_LIMITS[name] + 1):
            with pytest.raises(FormatError, match="chunk size"):
                Decompressor(name, size)
    with pytest.raises(FormatError, match="'zip'"):
        Decompressor("zip", 32768)
    with pytest.raises(UsageError, match="level"):
        Compressor("LZX", 32768, level=-1)


def test_a_size_larger_than_a_chunk_is_refused_before_anything_is_allocated():
    with Decompressor("LZMS", 1 << 20) as decompressor, pytest.raises(FormatError, match="claims"):
        decompressor.decompress(b"abcd", 1 << 40)


@pytest.mark.parametrize("name", CODECS)
@pytest.mark.parametrize("size", [0, 1, 2, 3])
def test_much_data_that_becomes_nothing_is_refused_before_libwim_sees_it(name, size):
    # libwim 1.13.6 dies of this in LZMS.
    data = random.Random(size).randbytes(2000)
    with Decompressor(name, 32768) as decompressor:
        with pytest.raises(FormatError, match="claims"):
            decompressor.decompress(data, size)
        with pytest.raises(FormatError, match="claims"):
            decompressor.decompress_into(data, bytearray(size))


def test_closed_objects_say_so_and_close_twice():
    decompressor = Decompressor("LZX", 32768)
    decompressor.close()
    decompressor.close()
    with pytest.raises(ValueError, match="closed"):
        decompressor.decompress(b"", 1)


def test_threads_each_with_their_own_object_agree():
    with Compressor("LZX", 32768, level=20) as compressor:
        packed = compressor.compress(TEXT)
    results = []

    def work():
        with Decompressor("LZX", 32768) as decompressor:
            results.append(all(decompressor.decompress(packed, 32768) == TEXT for _ in range(50)))

    threads = [threading.Thread(target=work) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert results == [True] * 4
