# SPDX-License-Identifier: GPL-3.0-or-later
"""A split WIM, written out and judged by wimlib-imagex and 7-Zip."""

import filecmp
import random
import re
import shutil
import subprocess
import sys
import time
import xml.etree.ElementTree as ET
from dataclasses import replace
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from mediamaker.cli.main import main
from mediamaker.errors import NotRepresentableError
from mediamaker.extents import FileRange, Literal, Piece, Zeros
from mediamaker.formats.wim import (
    HEADER_SIZE,
    HeaderFlag,
    ResourceFlag,
    ResourceHeader,
    pack_wim_header,
    parse_wim_header,
)
from mediamaker.formats.wim_blobs import BLOB_ROW, BlobEntry, pack_blob_table, parse_blob_table
from mediamaker.plan.split import WimPart, split_wim
from mediamaker.sources.identity import identify
from mediamaker.sources.reader import SourceReader
from mediamaker.sources.wim import read_wim
from mediamaker.units import KIB, MIB
from tests.hostile.make_wim import WimBuilder, good_wim

GUID = bytes.fromhex("00112233445566778899aabbccddeeff")
LIMIT = 200 * KIB


def tool(*arguments) -> str:
    return subprocess.run(
        list(map(str, arguments)), check=True, capture_output=True, text=True
    ).stdout


def wimlib(*arguments) -> str:
    return tool("wimlib-imagex", *arguments)


def make_tree(folder: Path) -> None:
    """Some sizes around the chunk size, compressible and not, duplicates, odd names."""
    random_bytes = random.Random(5).randbytes
    for number, size in enumerate([0, 1, 4095, 32768, 32769, 65536, 100_000, 150_000]):
        (folder / f"random {number}.bin").write_bytes(random_bytes(size))
        text = (f"{number}: the quick brown fox\r\n".encode() * (size // 20 + 1))[:size]
        (folder / f"text {number}.txt").write_bytes(text)
    deep = folder / "Windows" / "System32" / "größe 文件"
    deep.mkdir(parents=True)
    shutil.copy(folder / "random 6.bin", deep / "duplicate.bin")
    for number in range(40):
        (deep / f"small {number}").write_bytes(random_bytes(number * 211))


@pytest.fixture(scope="module")
def trees(tmp_path_factory):
    folder = tmp_path_factory.mktemp("trees")
    for name in ("one", "two"):
        (folder / name).mkdir()
        make_tree(folder / name)
    (folder / "two" / "only in two.bin").write_bytes(random.Random(6).randbytes(70_000))
    (folder / "two" / "random 5.bin").unlink()
    return folder


def capture(trees: Path, wim: Path, *options: str) -> Path:
    wimlib("capture", trees / "one", wim, "Image one", "with a description", "--boot", *options)
    wimlib("append", trees / "two", wim, "Image two")
    return wim


@pytest.fixture(scope="module", params=["none", "XPRESS", "LZX"])
def captured(request, trees, tmp_path_factory):
    folder = tmp_path_factory.mktemp(request.param)
    return capture(trees, folder / "install.wim", f"--compress={request.param}", "--check")


@pytest.fixture(scope="module")
def plain(trees, tmp_path_factory):
    return capture(trees, tmp_path_factory.mktemp("plain") / "install.wim", "--compress=XPRESS")


def whole(path: Path) -> tuple[Piece, ...]:
    return (Piece(path.stat().st_size, FileRange("wim", 0)),)


def split_file(path: Path, limit: int, pieces=None, size=None) -> tuple[WimPart, ...]:
    pieces = pieces or whole(path)
    with SourceReader([identify("wim", path)]) as reader:
        wim = read_wim(pieces, size or path.stat().st_size, reader, path.name)
    return split_wim(wim, pieces, GUID, limit)


def write_parts(parts: tuple[WimPart, ...], source: Path, folder: Path) -> list[Path]:
    folder.mkdir(exist_ok=True)
    written = []
    with SourceReader([identify("wim", source)]) as reader:
        for part in parts:
            path = folder / part.name
            path.write_bytes(reader.read_pieces(part.pieces, 0, part.size))
            assert path.stat().st_size == part.size
            written.append(path)
    return written


def assert_same_tree(left: Path, right: Path) -> None:
    """Every name and every byte."""
    names = {path.relative_to(left) for path in left.rglob("*")}
    assert names == {path.relative_to(right) for path in right.rglob("*")}
    files = [name for name in names if (left / name).is_file()]
    assert filecmp.cmpfiles(left, right, files, shallow=False) == (files, [], [])


def image_elements(wim: Path, folder: Path) -> list[str]:
    wimlib("info", wim, "--extract-xml", folder / "xml")
    root = ET.fromstring((folder / "xml").read_bytes().decode("utf-16"))
    return [ET.tostring(image, encoding="unicode") for image in root.findall("IMAGE")]


def judge(written: list[Path], original: Path, trees: Path, folder: Path) -> None:
    """Other programs read the parts, and what they read is what was captured."""
    first = written[0]
    wimlib("verify", first, f"--ref={first.with_suffix('')}*.swm")
    assert "Everything is Ok" in tool("7z", "t", first)
    joined = folder / "joined.wim"
    wimlib("join", joined, *written)
    wimlib("verify", joined)
    assert image_elements(joined, folder) == image_elements(original, folder)
    for number, name in enumerate(("one", "two"), 1):
        wimlib("apply", first, number, folder / name, f"--ref={first.with_suffix('')}*.swm")
        assert_same_tree(trees / name, folder / name)
        dirs = [wimlib("dir", wim, number) for wim in (original, joined)]
        assert dirs[0] == dirs[1]


def test_parts_are_good_for_wimlib_and_7zip(captured, trees, tmp_path):
    parts = split_file(captured, LIMIT)
    assert len(parts) >= 3
    names = ["install.swm", *(f"install{number}.swm" for number in range(2, len(parts) + 1))]
    assert [part.name for part in parts] == names
    assert all(part.size <= LIMIT for part in parts)
    judge(write_parts(parts, captured, tmp_path / "parts"), captured, trees, tmp_path)


def test_7zip_complains_of_a_last_part_over_the_first_whoever_made_them(tmp_path):
    """7-Zip 26.02 takes the last part's size for the set's and compares it with the first's.

    It is content with everything inside; vm-tests and people who run `7z t` must know.
    """
    (tmp_path / "tree").mkdir()
    for number, size in enumerate((300, 900, 950)):
        content = random.Random(number).randbytes(size * KIB)
        (tmp_path / "tree" / f"{number}").write_bytes(content)
    source = tmp_path / "install.wim"
    wimlib("capture", tmp_path / "tree", source, "Name", "--compress=none")
    (tmp_path / "theirs").mkdir()
    wimlib("split", source, tmp_path / "theirs" / "install.swm", "1")
    write_parts(split_file(source, MIB), source, tmp_path / "ours")
    for folder in (tmp_path / "theirs", tmp_path / "ours"):
        sizes = [(folder / f"install{n}.swm").stat().st_size for n in ("", "2", "3")]
        assert sizes == sorted(sizes)
        said = seven_zip_test(folder / "install.swm")
        assert "Unexpected end of archive" in said
        assert f"Physical Size = {sizes[-1]}" in said
        assert "Sub items Errors" not in said
        wimlib("verify", folder / "install.swm", f"--ref={folder}/*.swm")
    second = tmp_path / "ours" / "install2.swm"
    second.write_bytes(b"MSWIM".join([second.read_bytes()[:5000], second.read_bytes()[5005:]]))
    assert "Sub items Errors: 1" in seven_zip_test(tmp_path / "ours" / "install.swm")


def seven_zip_test(first: Path) -> str:
    return subprocess.run(["7z", "t", first], capture_output=True, text=True, check=False).stdout


def test_headers_and_tables_of_the_parts(captured, tmp_path):
    parts = split_file(captured, LIMIT)
    original = parse_wim_header(data := captured.read_bytes())
    xml = data[original.xml.offset : original.xml.end]
    for number, path in enumerate(write_parts(parts, captured, tmp_path), 1):
        said = dict(re.findall(r"^(.+?) *= (.+)$", wimlib("info", path, "--header"), re.MULTILINE))
        assert said["GUID"] == GUID.hex()
        assert (int(said["Part Number"]), int(said["Total Parts"])) == (number, len(parts))
        assert int(said["Image Count"]) == 2
        assert int(said["Flags"], 16) == original.flags | HeaderFlag.SPANNED
        assert int(said["Boot Index"]) == int(said["Boot Metadata Size"]) == 0
        assert int(said["Integrity Size"]) == 0
        assert int(said["Chunk Size"]) == original.chunk_size
        header = parse_wim_header(data := path.read_bytes())
        assert data[header.xml.offset :] == xml
        table = parse_blob_table(data[header.blob_table.offset : header.blob_table.end])
        stored = sum(blob.size_in_wim + 50 for blob in table)
        assert len(data) == HEADER_SIZE + stored + len(xml)
        assert {blob.part_number for blob in table} == {number}
        flags = [bool(blob.flags & ResourceFlag.METADATA) for blob in table]
        assert flags == [True] * (2 if number == 1 else 0) + [False] * (
            len(table) - (2 if number == 1 else 0)
        )


def test_metadata_rows_keep_their_order_in_which_they_stand_for_the_images(plain, trees, tmp_path):
    def swap(rows: list[BlobEntry]) -> list[BlobEntry]:
        first, second = (row for row in rows if row.flags & ResourceFlag.METADATA)
        data = [row for row in rows if not row.flags & ResourceFlag.METADATA]
        return [*data, second, first]

    swapped = rewrite_rows(plain, swap, tmp_path / "swapped.wim")
    written = write_parts(split_file(swapped, LIMIT), swapped, tmp_path / "parts")
    for wim, out in ((swapped, tmp_path / "whole"), (written[0], tmp_path / "split")):
        wimlib("apply", wim, 1, out, f"--ref={tmp_path}/parts/install*.swm")
        assert_same_tree(trees / "two", out)


def test_parts_are_a_few_extents_of_the_source(captured):
    parts = split_file(captured, LIMIT)
    for part in parts:
        kinds = [type(piece.source) for piece in part.pieces]
        assert kinds[0] is kinds[-1] is Literal
        assert set(kinds[1:-1]) == {FileRange}
        # The second image's metadata lies between the data of the two.
        assert len(kinds) <= 6
    ranges = sum(len(part.pieces) - 2 for part in parts)
    assert ranges <= len(parts) + 4
    literal = sum(
        len(p.source.data) for part in parts for p in part.pieces[:: len(part.pieces) - 1]
    )
    assert literal < 20 * KIB


def test_a_part_has_every_byte_that_the_limit_allows(plain):
    parts = split_file(plain, LIMIT)
    largest = max(part.size for part in parts)
    assert split_file(plain, largest) == parts
    smaller = split_file(plain, largest - 1)
    assert smaller != parts
    assert all(part.size < largest for part in smaller)


def test_one_part_is_a_whole_wim_and_one_byte_less_makes_two(plain, trees, tmp_path):
    (part,) = split_file(plain, 1 << 40)
    assert split_file(plain, part.size) == (part,)
    two = split_file(plain, part.size - 1)
    assert [p.name for p in two] == ["install.swm", "install2.swm"]
    assert part.name == "install.wim"
    (path,) = write_parts((part,), plain, tmp_path)
    assert not parse_wim_header(path.read_bytes()).flags & HeaderFlag.SPANNED
    wimlib("verify", path)
    wimlib("apply", path, 2, tmp_path / "two")
    assert_same_tree(trees / "two", tmp_path / "two")


def test_a_wim_inside_a_bigger_file_in_two_pieces(plain, trees, tmp_path):
    data = plain.read_bytes()
    cut = len(data) // 3 + 7
    iso = tmp_path / "bigger"
    iso.write_bytes(b"\xee" * 12345 + data[cut:] + b"\xdd" * 999 + data[:cut])
    pieces = (
        Piece(cut, FileRange("wim", 12345 + len(data) - cut + 999)),
        Piece(len(data) - cut, FileRange("wim", 12345)),
    )
    parts = split_file(iso, LIMIT, pieces, len(data))
    assert [part.size for part in parts] == [part.size for part in split_file(plain, LIMIT)]
    judge(write_parts(parts, iso, tmp_path / "parts"), plain, trees, tmp_path)


def test_the_same_input_gives_the_same_parts(plain):
    assert split_file(plain, LIMIT) == split_file(plain, LIMIT)


def rewrite_rows(wim: Path, bend, out: Path) -> Path:
    """The WIM with other rows: its new table and XML go to the end of the file."""
    data = wim.read_bytes()
    header = parse_wim_header(data)
    rows = list(parse_blob_table(data[header.blob_table.offset : header.blob_table.end]))
    table = pack_blob_table(bend(rows))
    xml = data[header.xml.offset : header.xml.end]
    header = replace(
        header,
        blob_table=ResourceHeader(len(table), 2, len(data), len(table)),
        xml=header.xml._replace(offset=len(data) + len(table)),
    )
    out.write_bytes(pack_wim_header(header) + data[HEADER_SIZE:] + table + xml)
    return out


def odd_rows(rows: list[BlobEntry]) -> list[BlobEntry]:
    data = [row for row in rows if not row.flags & ResourceFlag.METADATA]
    nonsense = {"size_in_wim": 10, "uncompressed_size": 10, "offset": (1 << 64) - 1, "flags": 0}
    return [
        data[0]._replace(sha1=bytes(20), **nonsense),
        *(row._replace(reference_count=0) if row is data[1] else row for row in rows),
        data[2],
        data[3]._replace(sha1=b"other hash, same data"[:20]),
        data[0]._replace(part_number=2, sha1=b"p" * 20, **nonsense),
        data[0]._replace(sha1=b"f" * 20, **nonsense | {"flags": ResourceFlag.FREE}),
        data[0]._replace(sha1=b"e" * 20, size_in_wim=0, uncompressed_size=0, flags=0),
    ]


def test_odd_rows_neither_spoil_nor_lose_anything(plain, trees, tmp_path):
    odd = rewrite_rows(plain, odd_rows, tmp_path / "odd.wim")
    parts = split_file(odd, LIMIT)
    written = write_parts(parts, odd, tmp_path / "parts")
    rows = []
    for path in written:
        header = parse_wim_header(data := path.read_bytes())
        rows += parse_blob_table(data[header.blob_table.offset : header.blob_table.end])
    hashes = sorted(row.sha1 for row in rows)
    header = parse_wim_header(data := plain.read_bytes())
    table = parse_blob_table(data[header.blob_table.offset : header.blob_table.end])
    data_rows = [row for row in table if not row.flags & ResourceFlag.METADATA]
    expected = [row.sha1 for row in table] + [data_rows[2].sha1, b"other hash, same dat"]
    assert hashes == sorted(expected)
    # A row with a wrong hash is kept, and wimlib would rightly call it damaged: so apply only.
    for number, name in enumerate(("one", "two"), 1):
        pattern = f"--ref={tmp_path}/parts/install*.swm"
        wimlib("apply", written[0], number, tmp_path / name, pattern)
        assert_same_tree(trees / name, tmp_path / name)


def test_rows_for_the_same_stored_bytes_share_them_in_a_part():
    builder = good_wim()
    plain_size = split_built(builder, 1 << 20)[0].size
    builder.rows.append(builder.rows[0]._replace(sha1=b"d" * 20))
    builder.rows.append(builder.rows[3]._replace(flags=0, sha1=b"m" * 20))
    (part,) = split_built(builder, 1 << 20)
    metadata_size = builder.rows[3].size_in_wim
    assert part.size == plain_size + 2 * 50 + metadata_size


def split_built(builder: WimBuilder, limit: int) -> tuple[WimPart, ...]:
    data = builder.build()
    pieces = (Piece(len(data), Literal(data)),)
    with SourceReader([]) as reader:
        return split_wim(read_wim(pieces, len(data), reader, "x"), pieces, GUID, limit)


@given(st.lists(st.integers(1, 300), max_size=12), st.integers(600, 3000))
@settings(max_examples=150, deadline=None)
def test_every_split_is_exact_and_greedy(sizes, limit):
    builder = WimBuilder()
    for number, size in enumerate(sizes):
        builder.add(bytes([number]) * size)
    builder.add(b"metadata", flags=ResourceFlag.METADATA)
    xml_size = len(builder.xml)
    try:
        parts = split_built(builder, limit)
    except NotRepresentableError:
        fixed = HEADER_SIZE + xml_size + 50
        assert fixed + len(b"metadata") > limit or fixed + max(sizes) > limit
        return
    # By hand: what the rules say about this one.
    expected = [HEADER_SIZE + xml_size + 50 + len(b"metadata")]
    for size in sizes:
        if expected[-1] + 50 + size > limit:
            expected.append(HEADER_SIZE + xml_size)
        expected[-1] += 50 + size
    assert [part.size for part in parts] == expected
    assert all(part.size == sum(p.size for p in part.pieces) for part in parts)


def refused(path: Path, limit: int) -> NotRepresentableError:
    with pytest.raises(NotRepresentableError) as caught:
        split_file(path, limit)
    return caught.value


def test_a_resource_that_no_part_can_hold_is_refused_by_one_byte(plain):
    header = parse_wim_header(data := plain.read_bytes())
    table = parse_blob_table(data[header.blob_table.offset : header.blob_table.end])
    largest = max(table, key=lambda blob: blob.size_in_wim)
    limit = HEADER_SIZE + header.xml.size_in_wim + 50 + largest.size_in_wim
    assert max(part.size for part in split_file(plain, limit)) == limit
    error = refused(plain, limit - 1)
    assert largest.sha1.hex() in str(error)
    assert str(largest.size_in_wim) in str(error)
    assert "mediamaker wim optimize" in error.hint


def test_metadata_that_the_first_part_cannot_hold_is_refused(plain):
    error = refused(plain, 4 * KIB)
    assert "metadata of all 2 images" in str(error)
    assert "mediamaker wim optimize" in error.hint


def test_solid_is_refused_and_the_hint_works(trees, tmp_path):
    esd = tmp_path / "install.esd"
    wimlib("capture", trees / "one", esd, "--solid", "--solid-chunk-size=64K")
    with SourceReader([identify("wim", esd)]) as reader:
        wim = read_wim(whole(esd), esd.stat().st_size, reader, "install.esd")
    assert wim.is_solid
    solid = wim.solid_resources
    assert sum(r.header.uncompressed_size for r in solid) > 500_000
    assert {r.header.chunk_size for r in solid} == {64 * KIB}
    error = refused(esd, LIMIT)
    assert "solid" in str(error)
    command = re.search(r"mediamaker (wim optimize SOURCE install.wim)", error.hint)
    arguments = command[1].replace("SOURCE", str(esd)).replace("install.wim", f"{tmp_path}/out.wim")
    assert main(arguments.split()) == 0
    assert len(split_file(tmp_path / "out.wim", LIMIT)) > 1


def test_a_part_of_a_split_wim_is_refused(plain, tmp_path):
    for path in write_parts(split_file(plain, LIMIT), plain, tmp_path)[:2]:
        error = refused(path, LIMIT)
        assert "already split" in str(error)
        assert "mediamaker wim join" in error.hint


def test_a_split_wim_of_wimlib_is_read(plain, tmp_path):
    wimlib("split", plain, tmp_path / "w.swm", "0.2")
    for number, name in ((1, "w.swm"), (2, "w2.swm")):
        path = tmp_path / name
        with SourceReader([identify("wim", path)]) as reader:
            wim = read_wim(whole(path), path.stat().st_size, reader, name)
        assert wim.part_number == number
        assert wim.part_count >= 2
        assert len(wim.metadata) == (2 if number == 1 else 0)
        assert len(wim.images) == 2


def test_a_spanned_resource_is_refused():
    builder = good_wim().bend_row(0, flags=ResourceFlag.SPANNED)
    with pytest.raises(NotRepresentableError, match="several parts already"):
        split_built(builder, 1 << 20)


def test_more_parts_than_a_header_can_count_are_refused():
    builder = WimBuilder()
    builder.add(b"m", flags=ResourceFlag.METADATA)
    first = HEADER_SIZE + len(builder.body)
    builder.body += bytes(66_000 * 60)
    builder.rows += [
        BlobEntry(60, 0, first + 60 * n, 60, 1, 1, n.to_bytes(20, "big")) for n in range(1, 66_000)
    ]
    limit = HEADER_SIZE + len(builder.xml) + 51 + 60
    with pytest.raises(NotRepresentableError, match="65535"):
        split_built(builder, limit)


def test_a_real_over_4_gib_wim_fills_parts_up_to_fat32s_limit():
    """No bytes needed: the data are zeros that nobody reads."""
    builder = WimBuilder()
    builder.add(b"m" * 5000, flags=ResourceFlag.METADATA)
    blob_size = 64 * MIB - 12345
    builder.rows += [
        BlobEntry(blob_size, 0, HEADER_SIZE + 5000 + n * blob_size, blob_size, 1, 1, b"%020d" % n)
        for n in range(200)
    ]
    table = pack_blob_table(builder.rows)
    table_offset = HEADER_SIZE + 5000 + 200 * blob_size
    builder.bend_header = lambda header: replace(
        header,
        blob_table=ResourceHeader(len(table), 2, table_offset, len(table)),
        xml=header.xml._replace(offset=table_offset + len(table)),
    )
    head = builder.build()[: HEADER_SIZE + 5000]
    pieces = (
        Piece(len(head), Literal(head)),
        Piece(200 * blob_size, FileRange("iso", 777)),
        Piece(len(table) + len(builder.xml), Literal(table + builder.xml)),
    )
    size = sum(piece.size for piece in pieces)
    with SourceReader([]) as reader:
        wim = read_wim(pieces, size, reader, "install.wim")
    limit = (1 << 32) - 1
    parts = split_wim(wim, pieces, GUID, limit)
    assert len(parts) == 4
    assert all(limit - blob_size - 50 < part.size <= limit for part in parts[:-1])
    sources = [p for part in parts for p in part.pieces if isinstance(p.source, FileRange)]
    assert len(sources) == 4
    assert sources[0].source == FileRange("iso", 777)
    assert sum(p.size for p in sources) == 200 * blob_size


# VmHWM, not ru_maxrss: that one starts at what the process had that forked us.
MEMORY_PROGRAM = """
import re, sys
from tests.plan.test_split import many_rows, split_many
split_many(many_rows(int(sys.argv[1]), shuffled=True))
print(re.search(r'VmHWM:\\s+(\\d+)', open('/proc/self/status').read())[1])
"""


def many_rows(count: int, *, shuffled: bool) -> WimBuilder:
    """A WIM of ``count`` rows whose data are not there."""
    order = list(range(1, count))
    if shuffled:
        random.Random(1).shuffle(order)
    builder = WimBuilder()
    builder.add(b"m" * 1000, flags=ResourceFlag.METADATA)
    entry = pack_blob_table(builder.rows)
    table = bytearray(entry)
    for n in order:
        table += BLOB_ROW.pack(1000, HEADER_SIZE + 1000 * n, 1000, 1, 1, n.to_bytes(20, "big"))
    builder.tail = bytes(table)
    return builder


def split_many(builder: WimBuilder) -> tuple[float, tuple[WimPart, ...]]:
    table, xml = builder.tail, builder.xml
    offset = HEADER_SIZE + len(table) // 50 * 1000
    builder.tail = b""
    header = replace(
        parse_wim_header(builder.build()),
        blob_table=ResourceHeader(len(table), 2, offset, len(table)),
        xml=ResourceHeader(len(xml), 2, offset + len(table), len(xml)),
    )
    pieces = (
        Piece(HEADER_SIZE, Literal(pack_wim_header(header))),
        Piece(offset - HEADER_SIZE, Zeros()),
        Piece(len(table), Literal(bytes(table))),
        Piece(len(xml), Literal(xml)),
    )
    start = time.process_time()
    with SourceReader([]) as reader:
        wim = read_wim(pieces, sum(piece.size for piece in pieces), reader, "big")
    parts = split_wim(wim, pieces, GUID, 50_000_000)
    return time.process_time() - start, parts


def test_100_000_rows_take_seconds_of_cpu_at_most():
    """Generous, for a busy machine: 0.5 s when it is idle. A list scan per row would take hours."""
    seconds, parts = split_many(many_rows(100_000, shuffled=True))
    assert len(parts) == 3
    assert sum(len(part.pieces) for part in parts) <= 12
    assert seconds < 5


def test_memory_stays_under_the_limit_for_the_largest_table():
    output = subprocess.run(
        [sys.executable, "-c", MEMORY_PROGRAM, "503316"],
        check=True,
        capture_output=True,
        text=True,
        cwd=Path(__file__).parents[2],
    ).stdout
    assert int(output) * KIB < 150 * MIB
