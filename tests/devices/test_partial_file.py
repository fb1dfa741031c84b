# SPDX-License-Identifier: GPL-3.0-or-later
"""Image files that can be gone on with: their partial file, and how it becomes the image."""

import mmap

import pytest

from mediamaker.devices.file_target import FileTarget
from mediamaker.devices.new_file import names_to_resume
from mediamaker.errors import TargetRefusedError

SIZE = 1 << 20


def page(byte):
    buffer = mmap.mmap(-1, 4096)
    buffer[:] = byte * 4096
    return memoryview(buffer)


@pytest.fixture
def image(tmp_path):
    return tmp_path / "stick.img"


@pytest.fixture
def partial(image):
    return names_to_resume(image)[0]


def begin(image, partial):
    target = FileTarget.create(image, SIZE, partial=partial)
    target.pwrite(8192, page(b"A"))
    target.abort()


def test_kept_and_gone_on_with(image, partial, tmp_path):
    begin(image, partial)
    assert [path.name for path in tmp_path.iterdir()] == ["stick.img.mediamaker-partial"]
    target = FileTarget.resume(image, partial, SIZE)
    assert target.starts_zeroed
    target.pwrite(0, page(b"B"))
    target.finish()
    assert [path.name for path in tmp_path.iterdir()] == ["stick.img"]
    data = image.read_bytes()
    assert len(data) == SIZE
    assert (data[:4096], data[8192:12288]) == (b"B" * 4096, b"A" * 4096)
    assert data.count(0) == SIZE - 8192


def test_replaces_only_if_told(image, partial):
    begin(image, partial)
    image.write_text("old")
    with pytest.raises(TargetRefusedError, match="exists already"):
        FileTarget.resume(image, partial, SIZE)
    assert partial.exists()
    FileTarget.resume(image, partial, SIZE, replace=True).finish()
    assert image.stat().st_size == SIZE
    assert not partial.exists()


def test_refused_if_it_is_not_what_was_left(image, partial, tmp_path):
    with pytest.raises(TargetRefusedError, match="No such file"):
        FileTarget.resume(image, partial, SIZE)
    partial.write_bytes(b"short")
    with pytest.raises(TargetRefusedError, match=f"expected a file of {SIZE} bytes, got 5"):
        FileTarget.resume(image, partial, SIZE)
    partial.unlink()
    victim = tmp_path / "victim"
    victim.write_bytes(bytes(SIZE))
    partial.symlink_to(victim)
    with pytest.raises(TargetRefusedError, match="symbolic links"):
        FileTarget.resume(image, partial, SIZE)
    partial.unlink()
    partial.mkdir()
    with pytest.raises(TargetRefusedError):
        FileTarget.resume(image, partial, SIZE)


def test_one_that_is_there_is_not_taken_for_a_new_one(image, partial):
    partial.write_text("somebody's")
    with pytest.raises(TargetRefusedError, match="File exists"):
        FileTarget.create(image, SIZE, partial=partial)
    assert partial.read_text() == "somebody's"


@pytest.mark.parametrize("name", ["n" * 255, "ü" * 127, "a"])
def test_names_fit(tmp_path, name):
    partial, journal = names_to_resume(tmp_path / name)
    for path in (partial, journal):
        path.write_text("")
    assert partial != journal
    assert not partial.name.endswith(".img")
