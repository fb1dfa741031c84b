# SPDX-License-Identifier: GPL-3.0-or-later
"""Every blob is compared, and a flipped byte of any kind is found and named."""

import random
import shutil
import subprocess
import threading

import pytest

from mediamaker.errors import FormatError, UsageError
from mediamaker.execute.progress import Progress
from mediamaker.formats.wim import ResourceFlag
from mediamaker.wim import verify as verify_module
from mediamaker.wim.parts import open_parts
from mediamaker.wim.verify import verify_wim
from tests.wim.wim_trees import COMPRESSIONS, capture, make_tree, run


@pytest.fixture(scope="module")
def tree(tmp_path_factory):
    return make_tree(tmp_path_factory.mktemp("verify") / "tree")


@pytest.fixture(scope="module", params=COMPRESSIONS)
def wim_path(request, tree, tmp_path_factory):
    folder = tmp_path_factory.mktemp(request.param)
    path = capture(tree, folder / "x.wim", *COMPRESSIONS[request.param])
    (folder / "second").mkdir()
    shutil.copy(tree / "noise", folder / "second" / "noise too")
    run("wimlib-imagex", "append", folder / "second", path, "Second")
    return path


def damaged_names(report):
    return {(file.image_number, file.path) for file in report.damaged}


def flip(path, offset, copy, bit=1):
    data = bytearray(path.read_bytes())
    data[offset] ^= bit
    copy.write_bytes(data)
    return copy


def is_good_for_wimlib(path):
    judge = subprocess.run(["wimlib-imagex", "verify", path], capture_output=True, check=False)
    return judge.returncode == 0


@pytest.mark.parametrize("threads", [1, 3])
def test_a_good_one_is_good(wim_path, threads):
    events = []
    report = verify_wim(wim_path, threads=threads, on_event=events.append)
    assert report.is_good
    assert not report.missing_parts
    with open_parts([wim_path]) as parts:
        blobs = [b for b in parts.files[0].wim.blobs if b.uncompressed_size != 1 << 32]
    assert report.blob_count == len(blobs)
    sizes = [e.bytes_done for e in events if isinstance(e, Progress)]
    assert sizes == sorted(sizes)
    assert events[-1].bytes_done == events[-1].bytes_total == report.size > 6_000_000


def test_a_flipped_byte_of_a_file_names_all_its_names_in_all_images(wim_path, tmp_path):
    with open_parts([wim_path]) as parts:
        file = parts.files[0]
        sha1 = next(e.data.sha1 for e in file.blobs.read_metadata(1).walk() if e.name == "noise")
        blob = file.blobs.find(sha1)
        is_solid = bool(blob.flags & ResourceFlag.SOLID)
        if is_solid:
            resource = file.blobs.open_solid_resource(0)
            index = (blob.offset + blob.size_in_wim // 2) // resource.chunks.chunk_size
            chunk = resource.chunks[index]
            places = [resource.offset + chunk.offset + chunk.stored_size // 2]
        else:
            places = [blob.offset, blob.offset + blob.size_in_wim // 2, blob.resource.end - 1]
    for place in places:
        broken = flip(wim_path, place, tmp_path / "broken.wim")
        report = verify_wim(broken, threads=2)
        names = {(1, "/noise"), (1, "/Directory/hard link"), (2, "/noise too")}
        assert damaged_names(report) >= names
        # What shares the chunk of a solid resource may be damaged as well.
        assert is_solid or {file.sha1 for file in report.damaged} == {sha1}
        assert is_solid or damaged_names(report) == names


def test_a_flipped_byte_anywhere_in_a_resource_is_found(wim_path, tmp_path):
    noise = random.Random(3)
    with open_parts([wim_path]) as parts:
        wim = parts.files[0].wim
    resources = [b.resource for b in wim.blobs if b.size_in_wim and not b.flags & 0x10]
    resources += [solid.resource for solid in wim.solid_resources]
    for resource in noise.sample(resources, min(5, len(resources))):
        offset = noise.randrange(resource.offset, resource.end)
        broken = flip(wim_path, offset, tmp_path / "broken.wim", 1 << noise.randrange(8))
        if is_good_for_wimlib(broken):
            # A codec may have bits that nothing reads (LZX's padding): no content has changed.
            assert verify_wim(broken, threads=2).is_good
            continue
        report = verify_wim(broken, threads=2)
        assert not report.is_good
        assert report.damaged
        assert all(file.image_number in (1, 2) for file in report.damaged)


def test_a_flipped_byte_anywhere_in_the_solid_tables_is_found(wim_path, tmp_path):
    with open_parts([wim_path]) as parts:
        solids = parts.files[0].wim.solid_resources
    for solid in solids[:1]:
        for place in range(16 + 4 * min(solid.header.chunk_count, 2)):
            broken = flip(wim_path, solid.resource.offset + place, tmp_path / "broken.wim", 4)
            # A resource that claims a few bytes more than its blobs take is good for both.
            assert not verify_wim(broken, threads=2).is_good or is_good_for_wimlib(broken), place


def test_a_flipped_byte_in_a_row_of_the_blob_table_is_found(wim_path, tmp_path):
    with open_parts([wim_path]) as parts:
        wim = parts.files[0].wim
    reference_count = range(26, 30)
    # Every byte for two kinds, each field for the others.
    step = 1 if wim_path.parent.name in ("xpress0", "solid0") else 7
    for place in sorted(set(range(0, 50, step)) - set(reference_count)):
        row = 3
        offset = wim.header.blob_table.offset + 50 * row + place
        broken = flip(wim_path, offset, tmp_path / "broken.wim", 2)
        if verify_wim(broken, threads=1).is_good:
            # Of a solid blob's row the last field of the resource is never read.
            assert wim.is_solid
            assert place in range(16, 24)
            assert is_good_for_wimlib(broken)


def test_damage_of_a_tree_is_damage_of_its_image(wim_path, tmp_path):
    with open_parts([wim_path]) as parts:
        blob = parts.files[0].wim.metadata[1]
    broken = flip(wim_path, blob.resource.end - 5, tmp_path / "broken.wim")
    report = verify_wim(broken)
    assert damaged_names(report) == {(2, "")}


def test_integrity_table(tree, tmp_path):
    path = capture(tree, tmp_path / "x.wim", "--compress=XPRESS", "--check")
    with open_parts([path]) as parts:
        header = parts.files[0].wim.header
    for place in (0, 5, 13):
        broken = flip(path, header.integrity.offset + place, tmp_path / "broken.wim")
        assert "integrity" in verify_wim(broken).table_damage[0]
    # The original size that the header gives, and the place of a table that there is not.
    for place in range(0x8C, 0x94):
        broken = flip(path, place, tmp_path / "broken.wim")
        assert "integrity" in verify_wim(broken).table_damage[0]
        assert not is_good_for_wimlib(broken)
    bare = capture(tree, tmp_path / "bare.wim", "--compress=XPRESS")
    broken = flip(bare, 0x84, tmp_path / "broken.wim")
    assert "integrity" in verify_wim(broken).table_damage[0]
    assert not is_good_for_wimlib(broken)
    # A reference count is in no blob: only the integrity table can tell.
    broken = flip(path, header.blob_table.offset + 27, tmp_path / "broken.wim")
    report = verify_wim(broken)
    assert not report.is_good
    assert "integrity" in report.table_damage[0]


@pytest.fixture(scope="module")
def parts_of(tree, tmp_path_factory):
    folder = tmp_path_factory.mktemp("split")
    path = capture(tree, folder / "x.wim", "--compress=none")
    run("wimlib-imagex", "split", path, folder / "x.swm", "2")
    return sorted(folder.glob("x*.swm"), key=lambda p: (len(p.name), p.name))


def test_split_sets(parts_of, tmp_path):
    assert len(parts_of) >= 3
    report = verify_wim(parts_of[2], [parts_of[0], *parts_of[1:2], *parts_of[3:]])
    assert report.is_good
    assert not report.missing_parts
    assert not report.unjudged_blob_count
    alone = verify_wim(parts_of[0])
    assert alone.is_good
    assert alone.missing_parts == tuple(range(2, len(parts_of) + 1))
    assert alone.unjudged_blob_count
    with open_parts([parts_of[1]]) as parts:
        blob = parts.files[0].wim.blobs[0]
    broken = flip(parts_of[1], blob.offset, tmp_path / "broken.swm")
    report = verify_wim(parts_of[0], [broken, *parts_of[2:]])
    assert damaged_names(report)
    assert {file.sha1 for file in report.damaged} == {blob.sha1}
    with pytest.raises(UsageError, match="both part 1"):
        verify_wim(parts_of[0], [shutil.copy(parts_of[0], tmp_path / "again.swm")])


def test_a_part_of_another_wim_is_refused(parts_of, tree, tmp_path):
    other = capture(tree, tmp_path / "other.wim", "--compress=none")
    with pytest.raises(UsageError, match="is not a part of the WIM"):
        verify_wim(parts_of[0], [other])


def test_tables_that_can_not_be_read_are_table_damage(tree, tmp_path):
    path = capture(tree, tmp_path / "x.wim", "--compress=none")
    with open_parts([path]) as parts:
        header = parts.files[0].wim.header
    broken = flip(path, header.blob_table.offset + 14, tmp_path / "broken.wim")
    report = verify_wim(broken)
    assert not report.is_good
    assert report.blob_count == 0
    assert "expected inside" in report.table_damage[0]


def test_a_row_of_another_sha1_leaves_its_files_without_content(tree, tmp_path):
    path = capture(tree, tmp_path / "x.wim", "--compress=none")
    with open_parts([path]) as parts:
        wim = parts.files[0].wim
        sha1 = parts.files[0].blobs.read_metadata(1).find("one").data.sha1
    row = next(i for i, blob in enumerate(wim.blobs) if blob.sha1 == sha1)
    place = wim.header.blob_table.offset + 50 * row + 30
    report = verify_wim(flip(path, place, tmp_path / "broken.wim"))
    assert [(file.path, file.reason) for file in report.damaged] == [("/one", "missing")]
    assert len(report.damaged_blobs) == 1


def test_not_a_wim(tmp_path):
    (tmp_path / "x").write_bytes(b"no WIM" * 100)
    with pytest.raises(FormatError, match="is not a WIM file"):
        verify_wim(tmp_path / "x")


def test_cancel(wim_path):
    cancel = threading.Event()
    cancel.set()
    with pytest.raises(KeyboardInterrupt):
        verify_wim(wim_path, cancel=cancel)
    assert not [t for t in threading.enumerate() if t.name.startswith("wim-verify")]


def test_what_is_in_flight_has_a_limit(wim_path, monkeypatch):
    with open_parts([wim_path]) as parts:
        limit = verify_module._in_flight_limit(parts.files, 64)
        assert limit <= verify_module.IN_FLIGHT_SIZE_MAX_LARGE_CHUNKS
    monkeypatch.setattr(verify_module, "IN_FLIGHT_SIZE_MAX", 1)
    monkeypatch.setattr(verify_module, "IN_FLIGHT_SIZE_MAX_LARGE_CHUNKS", 1)
    assert verify_wim(wim_path, threads=2).is_good
