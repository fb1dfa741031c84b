# SPDX-License-Identifier: GPL-3.0-or-later
"""Optimise, judged by wimlib-imagex and 7-Zip."""

import random

import pytest

from mediamaker.errors import NotRepresentableError, TargetRefusedError, UsageError
from mediamaker.execute.progress import Notice, Progress
from mediamaker.wim.optimize import optimize_wim
from mediamaker.wim.writing import ImageSource
from tests.wim.wim_rig import assert_image_is, check, info, listing, make_tree, names, run

COMMON = random.Random(1).randbytes(200_000)


@pytest.fixture(scope="module")
def trees(tmp_path_factory):
    base = tmp_path_factory.mktemp("trees")
    return {name: make_tree(base / name, name, COMMON) for name in "abc"}


@pytest.fixture(scope="module")
def source(trees, tmp_path_factory):
    path = tmp_path_factory.mktemp("wim") / "source.wim"
    run("wimlib-imagex", "capture", trees["a"], path, "A", "about a", "--compress=LZX", "--boot")
    run("wimlib-imagex", "append", trees["b"], path, "B", "--flags=Professional")
    return path


@pytest.fixture(scope="module")
def solid(trees, tmp_path_factory):
    path = tmp_path_factory.mktemp("wim") / "install.esd"
    run("wimlib-imagex", "capture", trees["b"], path, "B", "--solid")
    run("wimlib-imagex", "append", trees["c"], path, "C", "--solid", "--boot")
    return path


def optimize(sources, path, **options):
    events = []
    sources = [
        item if isinstance(item, ImageSource) else ImageSource(path=item) for item in sources
    ]
    result = optimize_wim(sources, path, on_event=events.append, **options)
    savings = result.savings
    assert savings.size_after == path.stat().st_size
    assert savings.size_before == savings.size_after + (
        savings.dropped + savings.shared + savings.recompressed
    )
    return result, events


def test_one_image_is_kept_and_the_rest_dropped(source, trees, tmp_path):
    path = tmp_path / "out.wim"
    result, events = optimize([ImageSource(path=source, images=(1,))], path)
    check(path)
    assert names(path) == ["A"]
    assert info(path)["Boot Index"] == "1"
    assert result.boot_index == 1
    assert info(path)["Compression"] == "LZX"
    assert info(path)["Chunk Size"] == "32768 bytes"
    assert_image_is(path, 1, trees["a"], tmp_path / "out")
    # What is kept was copied, not compressed again.
    assert result.savings.recompressed == 0
    assert result.savings.dropped > 0
    assert any(isinstance(event, Progress) for event in events)
    assert "Professional" not in run("wimlib-imagex", "info", path)


def test_images_come_in_the_order_that_is_asked_for(source, tmp_path):
    path = tmp_path / "out.wim"
    result, _ = optimize([ImageSource(path=source, images=(2, 1))], path)
    assert names(path) == ["B", "A"]
    assert result.boot_index == 2
    assert "Professional" in run("wimlib-imagex", "info", path)
    assert "about a" in run("wimlib-imagex", "info", path)


def test_several_sources_become_one_and_share(source, solid, trees, tmp_path):
    path = tmp_path / "out.wim"
    result, events = optimize([source, solid], path)
    check(path)
    assert names(path) == ["A", "B", "B (2)", "C"]
    assert result.boot_index == 1
    # The common file and all of tree b are in both.
    assert result.savings.shared >= len(COMMON)
    notices = [event.message for event in events if isinstance(event, Notice)]
    assert any("'B (2)'" in notice for notice in notices)
    assert any("another one does" in notice for notice in notices)
    for image, name in enumerate("abbc", 1):
        assert_image_is(path, image, trees[name], tmp_path / f"out{image}")


def test_solid_becomes_what_setup_reads(solid, trees, tmp_path):
    path = tmp_path / "out.wim"
    result, _ = optimize([solid], path)
    check(path)
    assert info(path)["Compression"] == "LZX"
    assert info(path)["Version"] == "68864"  # 0x10D00: may have no solid resources
    assert result.boot_index == 2
    assert result.savings.recompressed < 0
    assert_image_is(path, 2, trees["c"], tmp_path / "out")


def test_archive_is_solid_and_smaller(source, trees, tmp_path):
    path = tmp_path / "out.esd"
    result, _ = optimize([source], path, purpose="archive")
    check(path)
    assert "WIM_RESHDR_FLAG_SOLID" in run("wimlib-imagex", "info", path, "--blobs")
    assert info(path)["Version"] == "3584"  # 0xE00
    assert result.encoding.is_solid
    assert_image_is(path, 2, trees["b"], tmp_path / "out")
    path = tmp_path / "plain.wim"
    result, _ = optimize([source], path, purpose="archive", solid=False)
    assert info(path)["Compression"] == "LZMS"
    check(path)


def test_network_compresses_everything_again(trees, tmp_path):
    quick, path = tmp_path / "quick.wim", tmp_path / "out.wim"
    run("wimlib-imagex", "capture", trees["a"], quick, "A", "--compress=LZX:10")
    result, _ = optimize([quick], path, purpose="network")
    check(path)
    assert result.is_recompressed
    assert result.savings.recompressed > 0
    assert path.stat().st_size < quick.stat().st_size


def test_fit_recompresses_only_when_it_must(trees, tmp_path):
    quick = tmp_path / "quick.wim"
    run("wimlib-imagex", "capture", trees["a"], quick, "A", "--compress=LZX:10")
    size = quick.stat().st_size
    loose, _ = optimize([quick], tmp_path / "loose.wim", fit_size=size)
    assert not loose.is_recompressed
    best, _ = optimize([quick], tmp_path / "best.wim", purpose="network")
    tight_size = best.savings.size_after
    tight, events = optimize([quick], tmp_path / "tight.wim", fit_size=tight_size)
    assert tight.is_recompressed
    assert tight.savings.size_after <= tight_size
    assert any("more thoroughly" in getattr(event, "message", "") for event in events)
    with pytest.raises(NotRepresentableError, match="which is 1 more than"):
        optimize([quick], tmp_path / "none.wim", fit_size=tight_size - 1)
    assert listing(tmp_path) == ["best.wim", "loose.wim", "quick.wim", "tight.wim"]


def test_xpress_is_recompressed_without_being_told(trees, tmp_path):
    other = tmp_path / "x.wim"
    run("wimlib-imagex", "capture", trees["a"], other, "A", "--compress=XPRESS")
    result, _ = optimize([other], tmp_path / "out.wim")
    assert info(tmp_path / "out.wim")["Compression"] == "LZX"
    assert result.savings.recompressed > 0


def test_a_split_source_with_its_parts(source, trees, tmp_path):
    run("wimlib-imagex", "split", source, tmp_path / "s.swm", "1")
    parts = sorted(tmp_path.glob("s*.swm"))
    path = tmp_path / "out.wim"
    first = tmp_path / "s.swm"
    parts.remove(first)
    result, _ = optimize([ImageSource(path=first, part_paths=tuple(parts))], path)
    check(path)
    assert names(path) == ["A", "B"]
    assert result.savings.size_before == sum(p.stat().st_size for p in [first, *parts])


def test_refusals(source, tmp_path):
    with pytest.raises(UsageError, match="has the images 1 to 2, not 3"):
        optimize([ImageSource(path=source, images=(3,))], tmp_path / "x.wim")
    with pytest.raises(UsageError, match="named twice"):
        optimize([ImageSource(path=source, images=(1, 1))], tmp_path / "x.wim")
    with pytest.raises(UsageError, match="is one of the sources"):
        optimize([source], source, replace_existing=True)
    with pytest.raises(UsageError, match="nothing for FAT32"):
        optimize([source], tmp_path / "x.wim", solid=True)
    (tmp_path / "taken").touch()
    with pytest.raises(TargetRefusedError, match="exists already"):
        optimize([source], tmp_path / "taken")
    assert listing(tmp_path) == ["taken"]


def test_a_listener_that_raises_leaves_nothing(source, tmp_path):
    def listen(event):
        if isinstance(event, Progress):
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        optimize_wim(
            [ImageSource(path=source)], tmp_path / "x.wim", purpose="network", on_event=listen
        )
    assert listing(tmp_path) == []
