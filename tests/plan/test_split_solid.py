# SPDX-License-Identifier: GPL-3.0-or-later
"""Solid WIMs split between chunks, written out and judged by wimlib-imagex and 7-Zip."""

import filecmp
import hashlib
import random
import shutil
import subprocess
from array import array
from dataclasses import replace
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from mediamaker.errors import FormatError, NotRepresentableError
from mediamaker.extents import FileRange, Literal, Piece
from mediamaker.formats.wim import (
    BLOB_ENTRY_SIZE,
    HEADER_SIZE,
    VERSION_SOLID,
    HeaderFlag,
    ResourceFlag,
    parse_wim_header,
)
from mediamaker.formats.wim_blobs import (
    SOLID_RESOURCE_MARK,
    BlobEntry,
    SolidHeader,
    pack_solid_header,
    parse_blob_table,
)
from mediamaker.plan.split import WimPart, split_wim
from mediamaker.plan.split_solid import split_solid_wim
from mediamaker.sources.identity import identify
from mediamaker.sources.reader import SourceReader
from mediamaker.sources.wim import read_wim
from mediamaker.sources.wim_solid import read_solid_tables
from mediamaker.units import KIB
from tests.hostile.make_wim import WimBuilder

GUID = bytes.fromhex("00112233445566778899aabbccddeeff")


def tool(*arguments) -> str:
    done = subprocess.run(
        list(map(str, arguments)), check=False, capture_output=True, text=True, errors="replace"
    )
    assert done.returncode == 0, f"{done.args}: {done.stdout[-2000:]} {done.stderr[-2000:]}"
    return done.stdout


def wimlib(*arguments) -> str:
    return tool("wimlib-imagex", *arguments)


def make_tree(folder: Path, seed: int, count: int = 30) -> None:
    """Files smaller and larger than a chunk, compressible and not, some of several chunks."""
    generator = random.Random(seed)
    folder.mkdir()
    (folder / "empty").touch()
    for number in range(count):
        size = generator.choice([1, 100, 5_000, 20_000, 40_000])
        (folder / f"{number} random").write_bytes(generator.randbytes(size))
        text = (f"{seed} {number}: the quick brown fox\r\n".encode() * (size // 20 + 1))[:size]
        (folder / f"{number} text").write_bytes(text)
    (folder / "large").write_bytes(generator.randbytes(150_000))
    (folder / "copy of large").write_bytes((folder / "large").read_bytes())


@pytest.fixture(scope="module")
def trees(tmp_path_factory):
    folder = tmp_path_factory.mktemp("trees")
    for seed, name in enumerate(("one", "two", "three")):
        make_tree(folder / name, seed)
    shutil.copy(folder / "one" / "3 random", folder / "two" / "from one")
    return folder


def solid_options(codec: str) -> list[str]:
    return ["--solid", f"--solid-compress={codec}", "--solid-chunk-size=32K"]


KINDS = ("LZMS", "LZX", "XPRESS", "several", "mixed")


@pytest.fixture(scope="module")
def sources(trees, tmp_path_factory):
    """One WIM of each kind: solid in one run; in three; and plain and solid resources."""
    folder = tmp_path_factory.mktemp("sources")
    made = {}
    for kind in KINDS:
        path = made[kind] = folder / f"{kind}.esd"
        first = solid_options(kind if kind in {"LZMS", "LZX", "XPRESS"} else "LZX")
        if kind == "mixed":
            first = ["--compress=LZX"]
        wimlib("capture", trees / "one", path, "one", "first image", *first)
        wimlib("append", trees / "two", path, "two", *solid_options("LZX"))
        if kind in {"several", "mixed"}:
            wimlib("append", trees / "three", path, "three", *solid_options("LZX"))
    for codec in ("LZMS", "LZX", "XPRESS"):
        # One resource for all of it.
        again = folder / f"again-{codec}.esd"
        wimlib("export", made[codec], "all", again, "--recompress", *solid_options(codec))
        made[codec] = again
    return made


def whole(path: Path) -> tuple[Piece, ...]:
    return (Piece(path.stat().st_size, FileRange("wim", 0)),)


def split_file(path: Path, limit: int, alignment: int = 1) -> tuple[WimPart, ...]:
    pieces = whole(path)
    with SourceReader([identify("wim", path)]) as reader:
        wim = read_wim(pieces, path.stat().st_size, reader, path.name)
        tables = read_solid_tables(wim, pieces, reader, path.name)
    return split_solid_wim(wim, tables, pieces, GUID, limit, alignment=alignment)


def write_parts(parts: tuple[WimPart, ...], source: Path, folder: Path) -> list[Path]:
    folder.mkdir(parents=True)
    with SourceReader([identify("wim", source)]) as reader:
        for part in parts:
            data = reader.read_pieces(part.pieces, 0, part.size)
            assert len(data) == part.size
            (folder / part.name).write_bytes(data)
    return [folder / part.name for part in parts]


def assert_same_tree(left: Path, right: Path) -> None:
    names = sorted(path.name for path in left.iterdir())
    assert names == sorted(path.name for path in right.iterdir())
    assert filecmp.cmpfiles(left, right, names, shallow=False) == (names, [], [])


def judge_7zip(parts: list[Path]) -> None:
    """7-Zip 26.02 complains of a last part that is larger than the first: see test_split.py."""
    sizes = [part.stat().st_size for part in parts]
    done = subprocess.run(["7z", "t", parts[0]], capture_output=True, text=True, check=False)
    if sizes[-1] <= sizes[0]:
        assert "Everything is Ok" in done.stdout
    assert "Sub items Errors" not in done.stdout


def judge(parts: list[Path], trees: Path, folder: Path, images: list[str]) -> None:
    """Other programs read the parts, and what they read is what was captured."""
    pattern = f"--ref={parts[0].parent}/*.swm"
    wimlib("verify", parts[0], pattern)
    judge_7zip(parts)
    joined = folder / "joined.wim"
    wimlib("join", joined, *parts)
    wimlib("verify", joined)
    for number, name in enumerate(images, 1):
        wimlib("apply", parts[0], number, folder / name, pattern)
        assert_same_tree(trees / name, folder / name)
        wimlib("apply", joined, number, folder / f"{name} joined")
        assert_same_tree(trees / name, folder / f"{name} joined")


@pytest.mark.parametrize("alignment", [1, 4096])
@pytest.mark.parametrize("kind", KINDS)
def test_parts_are_good_for_wimlib_and_7zip(sources, trees, tmp_path, kind, alignment):
    source = sources[kind]
    limit = max(source.stat().st_size // 3, 180 * KIB)
    parts = split_file(source, limit, alignment)
    assert len(parts) >= 3
    assert all(part.size <= limit for part in parts)
    written = write_parts(parts, source, tmp_path / "parts")
    images = ["one", "two", *(["three"] if kind in {"several", "mixed"} else [])]
    judge(written, trees, tmp_path, images)
    for part in parts:
        position = 0
        for piece in part.pieces:
            if isinstance(piece.source, FileRange):
                assert (position - piece.source.offset) % alignment == 0
            position += piece.size
    # At most one chunk is in two parts, for each cut, and every byte else is the source's.
    moved = sum(p.size for part in parts for p in part.pieces if isinstance(p.source, FileRange))
    assert moved <= source.stat().st_size + len(parts) * 32 * KIB


def test_every_cut_between_two_blobs(sources, trees, tmp_path):
    """Each possible end of part 1 in turn; wimlib checks every hash of every part."""
    source = sources["LZX"]
    with SourceReader([identify("wim", source)]) as reader:
        wim = read_wim(whole(source), source.stat().st_size, reader, "x")
    (table,) = {len(wim.blobs)}
    sizes, seen, limit = set(), set(), 200 * KIB
    plan = split_file(source, limit)
    while len(plan) >= 2 and limit < source.stat().st_size:
        # One byte less than what the next blob would need cuts before it.
        cut = plan[0].size
        if cut not in sizes:
            sizes.add(cut)
            written = write_parts(plan, source, tmp_path / str(cut))
            data = written[0].read_bytes()
            header = parse_wim_header(data)
            rows = len(parse_blob_table(data[header.blob_table.offset : header.blob_table.end]))
            seen.add(rows)
            wimlib("verify", written[0], f"--ref={tmp_path}/{cut}/*.swm")
            shutil.rmtree(tmp_path / str(cut))
        limit += 50
        plan = next_cut(source, limit, cut)
        limit = max(limit, plan[0].size)
    # All from the first cut that is small enough, up to all but one blob.
    assert seen == set(range(min(seen), max(seen) + 1))
    assert len(seen) > 40
    assert max(seen) >= table - 1


def next_cut(source: Path, limit: int, cut: int) -> tuple[WimPart, ...]:
    """The plan for the smallest limit from ``limit`` on whose first part is not ``cut`` bytes."""
    high = limit
    while (plan := split_file(source, high))[0].size == cut and len(plan) > 1:
        limit, high = high, high * 2 - cut + 50
    while limit < high:
        middle = (limit + high) // 2
        tried = split_file(source, middle)
        if tried[0].size == cut:
            limit = middle + 1
        else:
            high, plan = middle, tried
    return plan


def test_a_part_has_every_byte_that_the_limit_allows(sources):
    for source in sources.values():
        parts = split_file(source, 200 * KIB)
        largest = max(part.size for part in parts)
        assert split_file(source, largest) == parts
        assert all(part.size < largest for part in split_file(source, largest - 1))


def test_one_part_is_a_whole_wim(sources, trees, tmp_path):
    for kind in ("LZMS", "mixed"):
        source = sources[kind]
        (part,) = split_file(source, 1 << 40)
        assert part.name == "install.wim"
        # wimlib leaves a little room that nothing uses; nothing is added.
        assert part.size <= source.stat().st_size
        assert split_file(source, part.size) == (part,)
        assert len(split_file(source, part.size - 1)) == 2
        (path,) = write_parts((part,), source, tmp_path / kind)
        assert not parse_wim_header(path.read_bytes()).flags & HeaderFlag.SPANNED
        wimlib("verify", path)
        wimlib("apply", path, 1, tmp_path / kind / "one")
        assert_same_tree(trees / "one", tmp_path / kind / "one")
        assert "Everything is Ok" in tool("7z", "t", path)


def test_headers_of_the_parts(sources, tmp_path):
    source = sources["LZMS"]
    original = parse_wim_header(source.read_bytes())
    parts = split_file(source, 200 * KIB)
    for number, path in enumerate(write_parts(parts, source, tmp_path / "parts"), 1):
        header = parse_wim_header(data := path.read_bytes())
        assert (header.part_number, header.part_count) == (number, len(parts))
        assert (header.version, header.guid) == (VERSION_SOLID, GUID)
        assert header.flags == original.flags | HeaderFlag.SPANNED
        assert header.chunk_size == original.chunk_size
        assert header.image_count == 2
        table = parse_blob_table(data[header.blob_table.offset : header.blob_table.end])
        metadata = [blob for blob in table if blob.flags & ResourceFlag.METADATA]
        assert len(metadata) == (2 if number == 1 else 0)
        resources = [blob for blob in table if blob.uncompressed_size == SOLID_RESOURCE_MARK]
        assert len(resources) == 1
        assert resources[0].offset + resources[0].size_in_wim == header.blob_table.offset
        assert header.xml.end == len(data)


def test_a_wim_without_solid_resources_is_split_as_ever(trees, tmp_path):
    source = tmp_path / "plain.wim"
    wimlib("capture", trees / "one", source, "one", "--compress=LZX")
    pieces = whole(source)
    with SourceReader([identify("wim", source)]) as reader:
        wim = read_wim(pieces, source.stat().st_size, reader, "x")
    for alignment in (1, 512, 4096):
        for limit in (200 * KIB, 250 * KIB, 1 << 40):
            expected = split_wim(wim, pieces, GUID, limit, alignment=alignment)
            assert split_solid_wim(wim, (), pieces, GUID, limit, alignment=alignment) == expected


# WIMs made in code: "chunks" that no codec could read, but the arithmetic does not look inside.


def make_solid(chunk_sizes: list[int], blob_sizes: list[int], gap: int = 0, **bend) -> WimBuilder:
    chunk_size, raw_size = 64, sum(blob_sizes) + gap * len(blob_sizes)
    count = -(-raw_size // chunk_size)
    sizes = (chunk_sizes * count)[:count]
    builder = WimBuilder()
    builder.add(b"metadata", flags=ResourceFlag.METADATA)
    add_solid(builder, sizes, raw_size, blob_sizes, gap, bend)
    builder.bend_header = lambda header: replace(header, version=VERSION_SOLID)
    return builder


def add_solid(builder, sizes, raw_size, blob_sizes, gap=0, bend=None, base=0) -> None:
    chunk_size = 64
    if raw_size % chunk_size and sizes:
        sizes[-1] = min(sizes[-1], raw_size % chunk_size)
    head = SolidHeader(uncompressed_size=raw_size, chunk_size=chunk_size, compression_type=2)
    resource = pack_solid_header(head) + array("I", sizes).tobytes()
    resource += b"".join(bytes([number % 256]) * size for number, size in enumerate(sizes))
    flags = ResourceFlag.SOLID
    offset = HEADER_SIZE + len(builder.body)
    builder.body += resource
    rows = [BlobEntry(len(resource), flags, offset, SOLID_RESOURCE_MARK, 1, 1, bytes(20))]
    place = base
    for number, size in enumerate(blob_sizes):
        sha1 = hashlib.sha1(bytes([number, base % 251])).digest()
        rows.append(BlobEntry(size, flags, place, 0, 1, 1, sha1)._replace(**(bend or {})))
        place += size + gap
    builder.rows += rows


def split_built(builder: WimBuilder, limit: int) -> tuple[bytes, list[bytes]]:
    data = builder.build()
    pieces = (Piece(len(data), Literal(data)),)
    with SourceReader([]) as reader:
        wim = read_wim(pieces, len(data), reader, "x")
        tables = read_solid_tables(wim, pieces, reader, "x")
        parts = split_solid_wim(wim, tables, pieces, GUID, limit)
        return data, [reader.read_pieces(part.pieces, 0, part.size) for part in parts]


def raw_content(data: bytes) -> dict[bytes, tuple[bytes, ...]]:
    """What each blob's chunks hold, found by other code than the planner's."""
    header = parse_wim_header(data)
    table = list(parse_blob_table(data[header.blob_table.offset : header.blob_table.end]))
    found, run_resources, run_blobs = {}, [], []

    def close():
        for blob in run_blobs:
            base = 0
            for raw_size, chunks in run_resources:
                if base <= blob.offset and blob.offset + blob.size_in_wim <= base + raw_size:
                    first = (blob.offset - base) // 64
                    last = (blob.offset - base + blob.size_in_wim - 1) // 64
                    # Where in the first chunk it begins, and the stored chunks.
                    inside = (blob.offset - base) % 64
                    content = (inside.to_bytes(), *chunks[first : last + 1])
                    found.setdefault(blob.sha1, content)
                    break
                base += raw_size
            else:
                raise AssertionError(f"{blob} lies nowhere")
        run_resources.clear()
        run_blobs.clear()

    for blob in table:
        if not blob.flags & ResourceFlag.SOLID:
            close()
            found[blob.sha1] = (data[blob.offset : blob.offset + blob.size_in_wim],)
        elif blob.uncompressed_size == SOLID_RESOURCE_MARK:
            at = blob.offset
            raw_size = int.from_bytes(data[at : at + 8], "little")
            count = -(-raw_size // 64)
            sizes = array("I", data[at + 16 : at + 16 + 4 * count])
            place, chunks = at + 16 + 4 * count, []
            for size in sizes:
                chunks.append(data[place : place + size])
                place += size
            assert place == at + blob.size_in_wim
            run_resources.append((raw_size, chunks))
        else:
            run_blobs.append(blob)
    close()
    return found


@given(
    st.lists(st.integers(1, 64), min_size=1, max_size=6),
    st.lists(st.integers(1, 300), min_size=1, max_size=15),
    st.sampled_from([0, 0, 1, 70, 200]),
    st.lists(st.integers(1, 300), max_size=5),
    st.lists(st.integers(1, 200), max_size=3),
    st.integers(600, 3000),
)
@settings(max_examples=200, deadline=None)
def test_every_split_keeps_every_blob(chunk_sizes, blob_sizes, gap, second, plain, limit):
    builder = make_solid(chunk_sizes, blob_sizes, gap)
    for number, size in enumerate(plain):
        builder.add(bytes([number + 100]) * size)
    if second:
        base = 0 if plain else sum(blob_sizes) + gap * len(blob_sizes)
        sizes = [17] * -(-sum(second) // 64)
        add_solid(builder, sizes, sum(second), second, base=base)
    # Small blobs of the repeating content are equal: each needs a hash of its own here.
    for at, row in enumerate(builder.rows):
        if row.sha1 != bytes(20):
            builder.rows[at] = row._replace(sha1=b"%020d" % at)
    data = builder.build()
    try:
        _, parts = split_built(builder, limit)
    except NotRepresentableError:
        fixed = HEADER_SIZE + len(builder.xml)
        worst = max(*blob_sizes, *(second or [0]), *(plain or [0]))
        chunk_count = worst // 64 + 2
        assert fixed + 16 + 100 + chunk_count * 68 + 58 > limit
        return
    assert all(len(part) <= limit for part in parts)
    merged: dict[bytes, tuple[bytes, ...]] = {}
    for part in parts:
        content = raw_content(part)
        assert not merged.keys() & content.keys()
        merged |= content
    assert merged == raw_content(data)
    assert len(merged) == len([row for row in builder.rows if row.sha1 != bytes(20)])
    total_size = sum(map(len, parts))
    duplicates = len(parts) * (64 + 4)
    per_file = HEADER_SIZE + len(builder.xml) + 16 + BLOB_ENTRY_SIZE
    gaps = (len(blob_sizes) + len(second)) * (16 + BLOB_ENTRY_SIZE)
    assert total_size <= len(data) + len(parts) * per_file + duplicates + gaps


def test_chunks_that_no_blob_needs_are_left_out():
    """Three blobs with two whole chunks of nothing between them."""
    data, (part,) = split_built(make_solid([60], [64, 64, 64], gap=128), 1 << 20)
    assert raw_content(part) == raw_content(data)
    header = parse_wim_header(part)
    rows = list(parse_blob_table(part[header.blob_table.offset : header.blob_table.end]))
    resources = [row for row in rows if row.uncompressed_size == SOLID_RESOURCE_MARK]
    assert [row.size_in_wim for row in resources] == [16 + 4 + 60] * 3
    blobs = [row for row in rows if row.flags & ResourceFlag.SOLID and row not in resources]
    assert [row.offset for row in blobs] == [0, 64, 128]


def test_a_blob_that_no_part_can_hold_is_refused_by_one_byte():
    builder = make_solid([64], [100, 64 * 20, 100])
    fixed = HEADER_SIZE + len(builder.xml)
    # It begins and ends inside chunks that others share.
    needed = fixed + 16 + 21 * (4 + 64) + 2 * 50
    _, parts = split_built(builder, needed)
    assert max(map(len, parts)) == needed
    with pytest.raises(NotRepresentableError, match=f"the 21 chunks.*{21 * 64} bytes") as caught:
        split_built(builder, needed - 1)
    assert builder.rows[3].sha1.hex() in str(caught.value)
    assert "mediamaker wim optimize" in caught.value.hint


def test_metadata_that_part_one_can_not_hold_is_refused():
    with pytest.raises(NotRepresentableError, match="metadata of all 1 images"):
        split_built(make_solid([10], [10]), 400)


def test_a_part_is_refused(sources, tmp_path):
    source = sources["LZX"]
    for path in write_parts(split_file(source, 250 * KIB), source, tmp_path / "p")[:2]:
        with pytest.raises(NotRepresentableError, match="already split"):
            split_file(path, 100 * KIB)


def test_solid_blobs_that_lie_in_no_resource_or_are_metadata_are_refused():
    builder = make_solid([60], [100])
    add_solid(builder, [60, 36], 100, [100], base=50)  # across the border of the two
    with pytest.raises(FormatError, match="expected inside one solid resource"):
        split_built(builder, 1 << 20)
    with pytest.raises(NotRepresentableError, match="metadata or spread"):
        split_built(
            make_solid([60], [100], flags=ResourceFlag.SOLID | ResourceFlag.METADATA), 1 << 20
        )


def test_lying_chunk_tables_are_refused():
    builder = make_solid([60], [1000])
    at = len(b"metadata")
    for value in (0, 65, 0xFFFFFFFF):
        body = bytearray(builder.body)
        body[at + 16 : at + 20] = value.to_bytes(4, "little")
        bent = replace(builder, body=bytes(body))
        with pytest.raises(FormatError, match="solid"):
            split_built(bent, 1 << 20)


def test_too_many_chunks_are_refused_before_they_are_read(monkeypatch):
    monkeypatch.setattr("mediamaker.sources.wim_solid.SOLID_CHUNK_COUNT_MAX", 16)
    split_built(make_solid([60], [64 * 16]), 1 << 20)
    with pytest.raises(FormatError, match="at most 16, got 17"):
        split_built(make_solid([60], [64 * 17]), 1 << 20)


@given(
    st.lists(st.tuples(st.integers(1, 300), st.integers(0, 80)), max_size=12),
    st.integers(600, 3000),
    st.sampled_from([1, 64, 512]),
)
@settings(max_examples=200, deadline=None)
def test_plain_resources_are_aligned_alike_by_both_planners(resources, limit, alignment):
    builder = WimBuilder()
    for number, (size, gap) in enumerate(resources):
        builder.add(bytes([number]) * size)
        builder.body += bytes(gap)
    builder.add(b"metadata", flags=ResourceFlag.METADATA)
    data = builder.build()
    pieces = (Piece(len(data), FileRange("wim", 0)),)
    with SourceReader([]) as reader:
        wim = read_wim((Piece(len(data), Literal(data)),), len(data), reader, "x")
    try:
        parts = split_wim(wim, pieces, GUID, limit, alignment=alignment)
    except NotRepresentableError:
        with pytest.raises(NotRepresentableError):
            split_solid_wim(wim, (), pieces, GUID, limit, alignment=alignment)
        return
    assert split_solid_wim(wim, (), pieces, GUID, limit, alignment=alignment) == parts
    hashes = []
    for part in parts:
        assert part.size == sum(piece.size for piece in part.pieces) <= limit
        position, content = 0, bytearray()
        for piece in part.pieces:
            match piece.source:
                case FileRange(_, offset):
                    assert (position - offset) % alignment == 0
                    content += data[offset : offset + piece.size]
                case Literal(literal):
                    content += literal
                case _:
                    content += bytes(piece.size)
            position += piece.size
        header = parse_wim_header(content)
        for row in parse_blob_table(content[header.blob_table.offset : header.blob_table.end]):
            stored = bytes(content[row.offset : row.offset + row.size_in_wim])
            assert hashlib.sha1(stored).digest() == row.sha1
            hashes.append(row.sha1)
    assert sorted(hashes) == sorted(row.sha1 for row in builder.rows)
