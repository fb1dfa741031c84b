# SPDX-License-Identifier: GPL-3.0-or-later
"""Optimise, judged by wimlib-imagex and 7-Zip."""

import random
import re
import threading

import pytest

from mediamaker.errors import NotRepresentableError, SourceError, TargetRefusedError, UsageError
from mediamaker.execute.progress import Notice, Phase, Progress
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
        savings.dropped + savings.shared + savings.recompressed + savings.tables
    )
    assert savings.dropped >= 0
    assert savings.shared >= 0
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
    assert result.copied_count == 0
    assert result.savings.recompressed > 0
    assert path.stat().st_size < quick.stat().st_size


def blobs(path):
    """Stored size and flags of every blob in wimlib's words, by SHA-1."""
    found = {}
    for block in run("wimlib-imagex", "info", path, "--blobs").split("\n\n"):
        facts = dict(re.findall(r"^\s*(.+?)\s+= (.*)$", block, re.MULTILINE))
        if "Hash" in facts:
            found[facts["Hash"]] = facts["Compressed size"], facts["Flags"]
    return found


def test_fit_recompresses_only_as_much_as_it_must(trees, tmp_path):
    quick = tmp_path / "quick.wim"
    run("wimlib-imagex", "capture", trees["a"], quick, "A", "--compress=LZX:10", "--boot")
    size = quick.stat().st_size
    loose, _ = optimize([quick], tmp_path / "loose.wim", fit_size=size)
    assert loose.copied_count == loose.blob_count
    best, _ = optimize([quick], tmp_path / "best.wim", purpose="network")
    least_size = best.savings.size_after
    before = blobs(quick)
    counts = []
    for number, fit_size in enumerate((size - 1, (size + least_size) // 2, least_size)):
        path = tmp_path / f"tight{number}.wim"
        result, events = optimize([quick], path, fit_size=fit_size)
        assert result.savings.size_after <= fit_size
        assert result.boot_index == 1
        check(path)
        assert_image_is(path, 1, trees["a"], tmp_path / f"out{number}")
        assert info(path)["Chunk Size"] == "32768 bytes"
        after = blobs(path)
        assert after.keys() == before.keys()
        anew = sum(after[sha1] != before[sha1] for sha1 in before)
        assert anew == result.blob_count - result.copied_count
        counts.append(anew)
        assert any("until it fits" in getattr(event, "message", "") for event in events)
        (tmp_path / f"out{number}").rename(tmp_path.parent / f"{tmp_path.name}-{number}")
    # One blob is enough for one byte; the tightest needs nearly all.
    assert counts[0] == 1
    assert counts[0] < counts[1] < counts[2]
    with pytest.raises(NotRepresentableError, match=r"which is [0-9]+ more than the 1000 that"):
        optimize([quick], tmp_path / "none.wim", fit_size=1000)
    assert "none.wim" not in listing(tmp_path)
    assert not list(tmp_path.glob(".*"))


def test_what_is_not_compressed_is_so_as_far_as_it_must(trees, tmp_path):
    plain = tmp_path / "plain.wim"
    run("wimlib-imagex", "capture", trees["a"], plain, "A", "--compress=none", "--boot")
    run("wimlib-imagex", "append", trees["b"], plain, "B", "--flags=Professional")
    size = plain.stat().st_size
    as_it_is, _ = optimize([plain], tmp_path / "0.wim", fit_size=size)
    assert as_it_is.copied_count == as_it_is.blob_count
    assert info(tmp_path / "0.wim")["Compression"] == "None"
    half, path = size - 60_000, tmp_path / "1.wim"
    result, _ = optimize([plain], path, fit_size=half)
    check(path)
    assert path.stat().st_size <= half
    assert info(path)["Compression"] == "LZX"
    assert info(path)["Boot Index"] == "1"
    assert 0 < result.copied_count < result.blob_count
    # The largest that shrink were taken; what is random stays as it is.
    kinds = {flags for _, flags in blobs(path).values()}
    assert any("COMPRESSED" in flags for flags in kinds)
    assert any("COMPRESSED" not in flags for flags in kinds)
    for image, name in enumerate("ab", 1):
        assert_image_is(path, image, trees[name], tmp_path / f"out{image}")
    # With every level of effort it comes as near as everything at the thorough one.
    best, _ = optimize([plain], tmp_path / "best.wim", purpose="network")
    # (The XML says how large the file was, in a digit more.)
    least_size = best.savings.size_after + 4
    least, _ = optimize([plain], tmp_path / "2.wim", fit_size=least_size)
    assert least.savings.size_after <= least_size
    check(tmp_path / "2.wim")


def test_the_image_that_boots_is_found_where_it_is_now(trees, tmp_path):
    plain = tmp_path / "plain.wim"
    run("wimlib-imagex", "capture", trees["a"], plain, "A", "--compress=none")
    run("wimlib-imagex", "append", trees["b"], plain, "B", "--boot")
    least, _ = optimize([plain], tmp_path / "least.wim", purpose="network")
    # Metadata that stayed, and metadata that was packed: boot managers go by the header alone.
    for fit_size in (plain.stat().st_size - 60_000, least.savings.size_after + 4):
        path = tmp_path / f"{fit_size}.wim"
        optimize([plain], path, fit_size=fit_size)
        text = run("wimlib-imagex", "info", path, "--header", "--blobs")
        header = dict(re.findall(r"^Boot (.+?)\s+= (\w+)$", text, re.MULTILINE))
        wanted = [
            dict(re.findall(r"^(.+?)\s+= (\w+)", block, re.MULTILINE))
            for block in text.split("\n\n")
            if "FLAG_METADATA" in block
        ][1]
        assert header["Index"] == "2"
        assert header["Metadata Offset"] == wanted["Offset in WIM"]
        assert header["Metadata Size"] == wanted["Compressed size"]
        assert header["Metadata Original Size"] == wanted["Uncompressed size"]
    assert header["Metadata Flags"] == "0x6"


@pytest.mark.parametrize("compression", ["none", "LZX:10"])
def test_a_blob_of_many_windows(tmp_path, compression):
    tree, wim, path = tmp_path / "tree", tmp_path / "a.wim", tmp_path / "out.wim"
    rng = random.Random(2)
    tree.mkdir()
    # Parts that shrink, and parts that don't, and an end that fills no chunk.
    line = b"".join(rng.choice((b"one ", b"two ", b"three ")) for _ in range(50_000))
    (tree / "big").write_bytes((line + rng.randbytes(2_000_001)) * 2 + line)
    run("wimlib-imagex", "capture", tree, wim, "A", f"--compress={compression}")
    least, _ = optimize([wim], tmp_path / "least.wim", purpose="network")
    result, events = optimize([wim], path, fit_size=least.savings.size_after + 4)
    assert result.savings.recompressed > 0
    done = [e.bytes_done for e in events if isinstance(e, Progress) and e.phase is Phase.PREPARE]
    assert done == sorted(done)
    assert any(0 < size < done[-1] for size in done), "one blob is all, and it takes long"
    check(path)
    assert_image_is(path, 1, tree, tmp_path / "out")


def test_fit_counts_the_integrity_table(trees, tmp_path):
    plain, path = tmp_path / "plain.wim", tmp_path / "out.wim"
    run("wimlib-imagex", "capture", trees["a"], plain, "A", "--compress=none")
    fit_size = plain.stat().st_size - 50_000
    optimize([plain], path, fit_size=fit_size, integrity=True)
    assert path.stat().st_size <= fit_size
    assert info(path)["Attributes"].find("Integrity") >= 0
    run("wimlib-imagex", "info", path, "--check")
    check(path)
    data = bytearray(path.read_bytes())
    data[5000] ^= 1
    path.write_bytes(data)
    with pytest.raises(AssertionError, match="integrity"):
        run("wimlib-imagex", "info", path, "--check")


def test_fit_of_chosen_images_from_parts_and_from_solid(source, solid, trees, tmp_path):
    run("wimlib-imagex", "split", source, tmp_path / "s.swm", "1")
    first, *others = sorted(tmp_path.glob("s*.swm"), key=lambda path: len(path.name))
    parts = ImageSource(path=first, images=(2,), part_paths=tuple(others))
    for number, item in enumerate((parts, ImageSource(path=solid, images=(1,)))):
        loose, _ = optimize([item], tmp_path / f"loose{number}.wim")
        fit_size = loose.savings.size_after - 100
        result, _ = optimize([item], tmp_path / f"fit{number}.wim", fit_size=fit_size)
        assert result.savings.size_after <= fit_size
        check(tmp_path / f"fit{number}.wim")
        assert names(tmp_path / f"fit{number}.wim") == ["B"]
        assert_image_is(tmp_path / f"fit{number}.wim", 1, trees["b"], tmp_path / f"out{number}")


@pytest.mark.parametrize("phase", [Phase.PREPARE, Phase.FLUSH])
def test_ctrl_c_while_it_is_made_to_fit_leaves_nothing(source, tmp_path, phase):
    loose, _ = optimize([source], tmp_path / "loose.wim")
    cancel, is_fitting = threading.Event(), False

    def listen(event):
        nonlocal is_fitting
        is_fitting = is_fitting or isinstance(event, Notice)
        if is_fitting and isinstance(event, Progress) and event.phase is phase:
            cancel.set()

    with pytest.raises(KeyboardInterrupt):
        optimize_wim(
            [ImageSource(path=source)],
            tmp_path / "x.wim",
            fit_size=loose.savings.size_after - 100,
            on_event=listen,
            cancel=cancel,
        )
    assert cancel.is_set()
    assert listing(tmp_path) == ["loose.wim"]


def test_a_damaged_blob_is_not_packed_anew(trees, tmp_path):
    plain, path = tmp_path / "plain.wim", tmp_path / "out.wim"
    run("wimlib-imagex", "capture", trees["a"], plain, "A", "--compress=LZX:10")
    data = bytearray(plain.read_bytes())
    data[len(data) // 3] ^= 1
    plain.write_bytes(data)
    with pytest.raises(SourceError, match="SHA-1"):
        optimize([plain], path, fit_size=len(data) - 20_000)
    assert listing(tmp_path) == ["plain.wim"]


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
