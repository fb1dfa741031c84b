# SPDX-License-Identifier: GPL-3.0-or-later
"""Sources are read exactly, with few descriptors, and a change under us is noticed."""

import contextlib
import os
import threading
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from mediamaker.errors import SourceChangedError, SourceError
from mediamaker.extents import FileRange, Literal, Piece, Unwritten, Zeros
from mediamaker.sources.identity import check_unchanged, identify
from mediamaker.sources.reader import SourceReader

CONTENT = bytes(range(256)) * 16


@pytest.fixture
def path(tmp_path):
    path = tmp_path / "source.bin"
    path.write_bytes(CONTENT)
    os.utime(path, ns=(10**18, 10**18))
    return path


@pytest.fixture
def file(path):
    return identify("s", path)


def _open_descriptors(tmp_path):
    count = 0
    for link in Path("/proc/self/fd").iterdir():
        with contextlib.suppress(FileNotFoundError):  # the descriptor that lists them
            count += link.readlink().is_relative_to(tmp_path)
    return count


def test_identity(path, file):
    stat = path.stat()
    assert file.path == str(path)
    assert (file.size, file.mtime_ns) == (len(CONTENT), 10**18)
    assert (file.inode, file.device) == (stat.st_ino, stat.st_dev)
    check_unchanged(file, stat)


def test_the_path_of_an_identity_is_absolute(path, monkeypatch):
    monkeypatch.chdir(path.parent)
    assert identify("s", path.relative_to(path.parent)).path == str(path)


@pytest.mark.parametrize("name", ["missing", "nul\0name"])
def test_a_path_that_can_t_be_opened(name, tmp_path):
    with pytest.raises(SourceError):
        identify("s", tmp_path / name)


def test_a_named_pipe_is_refused_and_does_not_hang(tmp_path):
    os.mkfifo(tmp_path / "pipe")
    with pytest.raises(SourceError, match="expected a regular file, got a named pipe"):
        identify("s", tmp_path / "pipe")


def test_reads_are_exact(file):
    with SourceReader([file]) as reader:
        assert reader.pread("s", 10, 20) == CONTENT[10:30]
        assert reader.pread("s", len(CONTENT), 0) == b""
        buffer = bytearray(7)
        reader.preadinto("s", 5, memoryview(buffer)[1:6])
        assert buffer == b"\0" + CONTENT[5:10] + b"\0"
        assert os.pread(reader.fileno("s"), 4, 0) == CONTENT[:4]


def test_pieces(file):
    pieces = [
        Piece(3, Literal(b"abc")),
        Piece(4, FileRange("s", 100)),
        Piece(2, Zeros()),
        Piece(1, Unwritten()),
        Piece(2, FileRange("s", 0)),
    ]
    content = b"abc" + CONTENT[100:104] + bytes(3) + CONTENT[:2]
    with SourceReader([file]) as reader:
        for start in range(len(content) + 1):
            for end in range(start, len(content) + 1):
                assert reader.read_pieces(pieces, start, end - start) == content[start:end]


def test_past_the_end_is_not_a_change(file):
    with SourceReader([file]) as reader, pytest.raises(SourceError, match="past its end") as caught:
        reader.pread("s", len(CONTENT) - 1, 2)
    assert not isinstance(caught.value, SourceChangedError)


def test_an_unknown_source(file):
    with SourceReader([file]) as reader, pytest.raises(SourceError, match="'other'"):
        reader.pread("other", 0, 1)


def test_a_file_that_shrinks_while_it_is_read(path, file):
    with SourceReader([file]) as reader:
        assert reader.pread("s", 0, 1) == CONTENT[:1]
        os.truncate(path, 100)
        with pytest.raises(SourceChangedError, match=r"shrank .* expected 4096 bytes, got 100"):
            reader.pread("s", 90, 20)
        with pytest.raises(SourceChangedError, match="size was 4096 bytes, is 100 bytes"):
            reader.check_all()


def test_a_file_that_grew_before_it_was_opened(path, file):
    with path.open("ab") as stream:
        stream.write(b"more")
    with SourceReader([file]) as reader, pytest.raises(SourceChangedError, match="size was"):
        reader.pread("s", 0, 1)


def test_a_file_written_again_with_equal_size(path, file):
    with SourceReader([file]) as reader:
        reader.pread("s", 0, 1)
        path.write_bytes(bytes(len(CONTENT)))
        with pytest.raises(SourceChangedError, match="modification time was 1000000000000000000"):
            reader.check_all()


def test_another_file_under_the_same_name(path, file, tmp_path):
    with SourceReader([file]) as reader:
        reader.pread("s", 0, 1)
        other = tmp_path / "other"
        other.write_bytes(CONTENT)
        os.utime(other, ns=(10**18, 10**18))
        other.replace(path)
        with pytest.raises(SourceChangedError, match="device and inode was"):
            reader.check_all()
        assert reader.pread("s", 0, 4) == CONTENT[:4]  # the descriptor is the planned file's


def test_a_file_that_is_gone(path, file):
    with SourceReader([file]) as reader:
        path.unlink()
        with pytest.raises(SourceChangedError, match="is gone"):
            reader.check_all()


def test_unchanged_files_pass(file):
    with SourceReader([file]) as reader:
        reader.check_all()
        reader.pread("s", 0, 1)
        reader.check_all()


def test_few_descriptors_serve_many_files(tmp_path):
    files = []
    for number in range(200):
        path = tmp_path / str(number)
        path.write_bytes(b"%03d" % number)
        files.append(identify(str(number), path))
    with SourceReader(files, descriptor_count_max=8) as reader:
        for number in [*range(200), *range(200)]:
            assert reader.pread(str(number), 0, 3) == b"%03d" % number
            assert _open_descriptors(tmp_path) <= 8
    assert _open_descriptors(tmp_path) == 0


def test_a_descriptor_in_use_is_not_closed(tmp_path):
    files = []
    for number in range(10):
        path = tmp_path / str(number)
        path.write_bytes(b"%d" % number)
        files.append(identify(str(number), path))
    with SourceReader(files, descriptor_count_max=2) as reader, reader.opened("0") as descriptor:
        for number in range(1, 10):
            reader.pread(str(number), 0, 1)
        assert os.pread(descriptor, 1, 0) == b"0"


def test_threads(tmp_path):
    files = []
    for number in range(30):
        path = tmp_path / str(number)
        path.write_bytes(bytes((number,)) * 1000)
        files.append(identify(str(number), path))
    barrier = threading.Barrier(8)

    def work(seed):
        barrier.wait()
        for step in range(300):
            number = (seed * 7 + step * 11) % 30
            assert reader.pread(str(number), step, 5) == bytes((number,)) * 5

    with SourceReader(files, descriptor_count_max=3) as reader, ThreadPoolExecutor(8) as pool:
        list(pool.map(work, range(8)))
    assert _open_descriptors(tmp_path) == 0


def test_an_io_error_says_where(file, monkeypatch):
    def fail(*_):
        raise OSError(5, "Input/output error")

    with SourceReader([file]) as reader:
        reader.fileno("s")
        monkeypatch.setattr(os, "pread", fail)
        monkeypatch.setattr(os, "preadv", fail)
        with pytest.raises(SourceError, match=r"reading \[0x10,0x18\) failed: Input/output error"):
            reader.pread("s", 16, 8)
