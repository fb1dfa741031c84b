# SPDX-License-Identifier: GPL-3.0-or-later
"""The cache of non-solid re-exports, judged by wimlib-imagex and 7-Zip."""

import fcntl
import os
import random
import threading
from pathlib import Path

import pytest

from mediamaker.errors import (
    NotRepresentableError,
    SourceError,
    TargetTooSmallError,
    UsageError,
)
from mediamaker.execute.progress import Notice, Phase, Progress, ignore_event
from mediamaker.extents import FileRange, Piece
from mediamaker.sources.identity import identify
from mediamaker.sources.reader import SourceReader
from mediamaker.wim import prepare_estimate
from mediamaker.wim.prepare import estimate_preparation, prepare_install_wim
from mediamaker.wim.prepare_cache import clear_cache, default_cache_dir, measure_cache
from tests.wim.wim_rig import assert_image_is, check, info, listing, make_tree, names, run


@pytest.fixture(scope="module")
def trees(tmp_path_factory):
    base = tmp_path_factory.mktemp("trees")
    common = random.Random(2).randbytes(100_000)
    return {name: make_tree(base / name, name, common) for name in "ab"}


@pytest.fixture(scope="module")
def esd(trees, tmp_path_factory):
    path = tmp_path_factory.mktemp("wim") / "install.esd"
    run("wimlib-imagex", "capture", trees["a"], path, "Home", "--solid", "--flags=Core")
    run("wimlib-imagex", "append", trees["b"], path, "Pro", "--solid")
    return path


class Source:
    """A WIM that is a file, or lies in an "ISO" in so many runs, one of them not aligned."""

    def __init__(self, path, directory, run_count=0):
        data = path.read_bytes()
        self.size = len(data)
        if run_count == 0:
            self.file = identify("s", path)
            self.pieces = [Piece(self.size, FileRange("s", 0))]
            return
        iso = directory / "disc.iso"
        content, self.pieces, offset = bytearray(), [], 0
        for number in range(run_count):
            end = self.size if number + 1 == run_count else self.size // run_count * (number + 1)
            content += bytes(2048 * (number + 1))
            self.pieces.append(Piece(end - offset, FileRange("s", len(content))))
            content += data[offset:end]
            offset = end
        iso.write_bytes(content + bytes(4096))
        self.file = identify("s", iso)

    def prepare(self, cache, *, images=None, on_event=None, cancel=None):
        with SourceReader([self.file]) as reader:
            return prepare_install_wim(
                self.pieces,
                self.size,
                reader,
                "sources/install.esd",
                images=images,
                cache_dir=cache,
                on_event=on_event or ignore_event,
                cancel=cancel,
            )

    def estimate(self, cache, images=None):
        with SourceReader([self.file]) as reader:
            return estimate_preparation(
                self.pieces, self.size, reader, "x", images=images, cache_dir=cache
            )


def visible(cache):
    return [name for name in listing(cache) if name != ".lock"]


@pytest.mark.parametrize("run_count", [0, 1, 3])
def test_prepared_once_and_then_at_once(esd, trees, tmp_path, run_count):
    cache = tmp_path / "cache" / "prepared"
    source = Source(esd, tmp_path, run_count)
    events = []
    first = source.prepare(cache, on_event=events.append)
    assert not first.is_cached
    assert (first.size_before, first.size_after) == (esd.stat().st_size, first.path.stat().st_size)
    assert first.cache_size == first.size_after
    check(first.path)
    assert info(first.path)["Compression"] == "LZX"
    assert info(first.path)["Chunk Size"] == "32768 bytes"
    assert info(first.path)["Version"] == "68864"
    assert names(first.path) == ["Home", "Pro"]
    assert_image_is(first.path, 2, trees["b"], tmp_path / "out")
    (notice,) = [event for event in events if isinstance(event, Notice)]
    assert "compressed again" in notice.message
    assert {event.phase for event in events if isinstance(event, Progress)} == {Phase.PREPARE}
    status = first.path.stat()
    events.clear()
    second = source.prepare(cache, on_event=events.append)
    assert second.is_cached
    assert second.path == first.path
    assert events == []
    assert second.path.stat().st_mtime_ns == status.st_mtime_ns
    assert visible(cache) == sorted([first.path.name, first.path.stem + ".json"])


def test_the_key_is_content_and_choice(esd, tmp_path):
    cache = tmp_path / "cache"
    plain, iso = Source(esd, tmp_path), Source(esd, tmp_path, 2)
    whole = plain.prepare(cache)
    assert iso.prepare(cache).is_cached
    pro = iso.prepare(cache, images=(2,))
    assert not pro.is_cached
    assert names(pro.path) == ["Pro"]
    assert pro.size_after < whole.size_after
    assert pro.cache_size == pro.size_after + whole.size_after
    assert plain.prepare(cache, images=(1, 2)).path == whole.path
    assert clear_cache(cache) == pro.cache_size
    assert measure_cache(cache) == 0
    assert visible(cache) == []


@pytest.mark.parametrize(
    "spoil",
    [
        lambda path: path.write_bytes(path.read_bytes()[:-1]),
        lambda path: path.write_bytes(b"x" + path.read_bytes()[1:]),
        lambda path: path.with_suffix(".json").unlink(),
        lambda path: path.with_suffix(".json").write_text("[]"),
        lambda path: path.unlink(),
    ],
)
def test_a_spoilt_cache_is_made_again(esd, tmp_path, spoil):
    cache = tmp_path / "cache"
    source = Source(esd, tmp_path)
    spoil(source.prepare(cache).path)
    again = source.prepare(cache)
    assert not again.is_cached
    check(again.path)


def test_too_little_room_says_how_much(esd, tmp_path, monkeypatch):
    source = Source(esd, tmp_path, 1)
    estimate = source.estimate(tmp_path / "cache")
    assert not (tmp_path / "cache").exists()
    assert estimate.copy_size == source.size
    assert estimate.needed_size > estimate.copy_size
    monkeypatch.setattr(prepare_estimate, "available_size_of", lambda _: estimate.needed_size - 1)
    with pytest.raises(TargetTooSmallError) as caught:
        source.prepare(tmp_path / "cache")
    assert caught.value.needed_size == estimate.needed_size
    assert "for a copy" in caught.value.message
    assert visible(tmp_path / "cache") == []


def test_estimate_knows_the_cache(esd, tmp_path):
    source = Source(esd, tmp_path)
    cache = tmp_path / "cache"
    assert source.estimate(cache).copy_size == 0
    assert source.estimate(cache, (1,)).raw_size < source.estimate(cache).raw_size
    source.prepare(cache)
    estimate = source.estimate(cache)
    assert estimate.is_cached
    assert (estimate.needed_size, estimate.seconds) == (0, 0)


def test_what_is_only_copied_is_not_said_to_be_compressed(esd, tmp_path):
    plain, other = tmp_path / "lzx.wim", tmp_path / "xpress.wim"
    run("wimlib-imagex", "export", esd, "all", plain, "--compress=LZX")
    run("wimlib-imagex", "export", esd, "all", other, "--compress=XPRESS")
    cache, words = tmp_path / "cache", {}
    for path in (plain, other):
        events = []
        Source(path, tmp_path).prepare(cache, images=(1,), on_event=events.append)
        (words[path],) = [event.message for event in events if isinstance(event, Notice)]
    assert "images (1) of" in words[plain]
    assert "are copied" in words[plain]
    assert "can't be split" not in words[plain] + words[other]
    assert "are compressed again as LZX" in words[other]
    copied, packed = (Source(p, tmp_path).estimate(cache) for p in (plain, other))
    assert copied.seconds < packed.seconds / 3
    assert copied.needed_size <= plain.stat().st_size + (1 << 20)


@pytest.mark.parametrize("at", [1, 2, 3])
def test_interrupted_runs_leave_nothing(esd, tmp_path, at):
    cache, cancel, seen = tmp_path / "cache", threading.Event(), []

    def listen(event):
        seen.append(event)
        if len(seen) == at:
            cancel.set()

    with pytest.raises(KeyboardInterrupt):
        Source(esd, tmp_path, 1).prepare(cache, on_event=listen, cancel=cancel)
    assert visible(cache) == []


def test_what_a_killed_run_left_is_removed(esd, tmp_path):
    cache = tmp_path / "cache"
    cache.mkdir()
    for name in (".source.wim", ".abc.wim.mediamaker-12345678.partial"):
        (cache / name).write_bytes(b"x")
    result = Source(esd, tmp_path).prepare(cache)
    assert visible(cache) == sorted([result.path.name, result.path.stem + ".json"])


def test_the_second_of_two_waits_and_takes_the_result(esd, tmp_path):
    cache = tmp_path / "cache"
    cache.mkdir()
    source = Source(esd, tmp_path)
    events, results, is_waiting = [], [], threading.Event()

    def listen(event):
        events.append(event)
        is_waiting.set()

    with (cache / ".lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        thread = threading.Thread(
            target=lambda: results.append(source.prepare(cache, on_event=listen))
        )
        thread.start()
        assert is_waiting.wait(20)
        assert "waiting" in events[0].message
        assert visible(cache) == []
    thread.join(60)
    assert len(results) == 1
    assert source.prepare(cache).is_cached


def test_refusals(esd, tmp_path):
    source = Source(esd, tmp_path)
    with pytest.raises(UsageError, match="has the images 1 to 2, not 3"):
        source.prepare(tmp_path / "cache", images=(3,))
    with pytest.raises(UsageError, match="not none"):
        source.prepare(tmp_path / "cache", images=())
    whole = tmp_path / "whole.wim"
    run("wimlib-imagex", "export", esd, "all", whole, "--compress=none")
    run("wimlib-imagex", "split", whole, tmp_path / "s.swm", "0.1")
    with pytest.raises(NotRepresentableError, match="is part 1 of"):
        Source(tmp_path / "s.swm", tmp_path).prepare(tmp_path / "cache")


def test_damage_is_told_of_the_source_and_nothing_is_kept(esd, tmp_path):
    bad = tmp_path / "bad.esd"
    data = bytearray(esd.read_bytes())
    for at in range(4000, 20000, 100):
        data[at] ^= 0x55
    bad.write_bytes(data)
    cache = tmp_path / "cache"
    with pytest.raises(SourceError) as caught:
        Source(bad, tmp_path, 1).prepare(cache)
    assert caught.value.message.startswith("sources/install.esd: can't be made non-solid: ")
    assert ".partial" not in caught.value.message
    assert visible(cache) == []


def test_where_the_cache_is():
    assert default_cache_dir({"XDG_CACHE_HOME": "/x"}) == Path("/x/mediamaker/prepared")
    home = Path.home() / ".cache" / "mediamaker" / "prepared"
    assert default_cache_dir({"XDG_CACHE_HOME": "relative"}) == home
    assert default_cache_dir({}) == home
    assert default_cache_dir() == default_cache_dir(os.environ)
