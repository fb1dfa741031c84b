# SPDX-License-Identifier: GPL-3.0-or-later
"""fsck.exfat, dump.exfat, dissect.fat and mkfs.exfat judge exFAT volumes of ours."""

import itertools
import struct
import subprocess
import tempfile
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from mediamaker.errors import NotRepresentableError, PlanError, TargetTooSmallError, UsageError
from mediamaker.extents import FileRange, Literal, Piece, Unwritten, Zeros, check_sector_aligned
from mediamaker.formats.exfat import CLUSTER_COUNT_MAX, NAME_UNITS_PER_ENTRY, exfat_label
from mediamaker.formats.exfat_upcase import pack_upcase_table, upcase_name
from mediamaker.formats.fat_names import check_name
from mediamaker.units import GIB, KIB, MIB, TIB
from mediamaker.volumes.exfat import measure_exfat
from mediamaker.volumes.exfat_geometry import fit_geometry, measure_size
from mediamaker.volumes.tree import DirectoryNode, FileNode, TreeItem, build_tree
from tests.volumes.exfat_judges import (
    check_exfat_fsck,
    dump_exfat,
    make_exfat,
    read_exfat_with_dissect,
)
from tests.volumes.fat_judges import list_expected, make_piece, make_tree, materialise, ns

TREE = {
    "bootmgr": b"B" * 100_000,
    "efi/boot/bootx64.efi": b"MZ" * 512,
    "efi/microsoft/boot/bcd": b"regf",
    "sources/boot.wim": b"MSWIM\0\0\0" * 50_000,
    "sources/install.wim": b"w" * (128 * KIB),
    "support/logging": None,
    "empty.txt": b"",
    "one": b"1",
}
ODD_NAMES = [
    "fifteen chars.x",
    "exactly 15 char",
    "sixteen chars !!",
    "x" * 255,
    "日本語のファイル名.テキスト",
    "emoji 💾 and 𐐷unicode.txt",
    "..two dots.x",
    " leading space",
    "with+plus,comma;semi=eq[br]",
    "MiXeD.TxT",
    "Ünïcödé.tëx",
    "straße",
    "ς final sigma",
    "\x7f del",
]
STALE = bytes(range(1, 256)) * (3 * MIB // 255)


def count(tree):
    """What fsck.exfat counts: the root is a directory too."""
    listed = list_expected(tree)
    directories = sum(data is None for data in listed.values())
    return {"directories": directories + 1, "files": len(listed) - directories}


@pytest.mark.parametrize(
    ("sector_size", "cluster_size", "size"),
    [
        (512, None, 3 * MIB),
        (512, 512, 40 * MIB),
        (512, None, 300 * MIB),
        (512, None, 40 * GIB + 512),
        (512, 128 * KIB, GIB),
        (1024, None, 80 * MIB),
        (2048, 8 * KIB, 700 * MIB),
        (4096, None, 300 * MIB),
        (4096, 4 * KIB, 5 * GIB),
        (512, None, 6 * TIB),
    ],
)
def test_every_judge_sees_a_windows_like_tree(sector_size, cluster_size, size, tmp_path):
    tree = make_tree(TREE, modified_ns=ns(2024, 5, 6, 7, 8, 9))
    volume = make_exfat(
        tree, size, sector_size=sector_size, cluster_size=cluster_size, volume_label="Ünï-Ab"
    )
    assert (volume.extents.start, volume.extents.end) == (0, size)
    check_sector_aligned(volume.extents, sector_size)
    image = materialise(volume.extents, tmp_path / "volume.img", stale=STALE)
    check_exfat_fsck(image, **count(tree))
    assert read_exfat_with_dissect(image) == list_expected(tree)
    told = dump_exfat(image)
    assert told["Volume label"] == "Ünï-Ab"
    assert told["Volume Serial"] == "0x1234abcd"
    assert int(told["Cluster size"]) == volume.cluster_size
    assert int(told["Total Clusters"]) == volume.cluster_count
    # dump.exfat counts the bits of the bitmap.
    assert int(told["Free Clusters"]) == volume.free_cluster_count
    probe = subprocess.run(
        ["blkid", "-p", "-o", "export", image], capture_output=True, text=True, check=True
    ).stdout.splitlines()
    assert {"UUID=1234-ABCD", "TYPE=exfat", "VERSION=1.0"} <= set(probe)


def test_odd_names_no_label_and_a_directory_over_one_cluster(tmp_path):
    many = tuple(FileNode(f"file {n:04} with a longer name", ()) for n in range(700))
    odd = tuple(FileNode(name, (Piece(3, Literal(b"abc")),)) for name in ODD_NAMES)
    nested = DirectoryNode("", ())
    for depth in range(20):
        nested = DirectoryNode(f"level {depth}", (nested,) if depth else ())
    tree = DirectoryNode("", (DirectoryNode("many", many), DirectoryNode("odd", odd), nested))
    volume = make_exfat(tree, 8 * MIB, cluster_size=512)
    image = materialise(volume.extents, tmp_path / "volume.img", stale=STALE)
    check_exfat_fsck(image, **count(tree))
    assert read_exfat_with_dissect(image) == list_expected(tree)


def test_a_file_over_4_gib_takes_no_fat_entry_and_no_memory(tmp_path):
    size = 9 * GIB + 5
    pieces = (Piece(8 * GIB, FileRange("iso", 4096)), Piece(GIB + 5, Zeros()))
    tree = DirectoryNode("", (FileNode("install.wim", pieces), FileNode("z", (*pieces[1:],))))
    volume = make_exfat(tree, 32 * GIB)
    literals = sum(len(e.source.data) for e in volume.extents if isinstance(e.source, Literal))
    assert literals < 64 * KIB
    ranges = [e for e in volume.extents if isinstance(e.source, FileRange)]
    assert [(e.size, e.source.offset) for e in ranges] == [(8 * GIB, 4096)]
    image = tmp_path / "volume.img"
    with image.open("wb") as file:
        file.truncate(volume.extents.end)
        for extent in volume.extents:
            if isinstance(extent.source, Literal):
                file.seek(extent.start)
                file.write(extent.source.data)
    check_exfat_fsck(image, directories=1, files=2)
    assert ranges[0].start + size < volume.extents.end
    free = next(e for e in volume.extents if isinstance(e.source, Unwritten))
    assert free.size == volume.free_size


def test_the_upcase_table_is_what_mkfs_exfat_writes(tmp_path):
    image = tmp_path / "mkfs.img"
    with image.open("wb") as file:
        file.truncate(8 * MIB)
    subprocess.run(["mkfs.exfat", image], check=True, capture_output=True)
    assert image.read_bytes().count(pack_upcase_table()) == 1
    assert len(pack_upcase_table()) == 5836
    assert upcase_name("aß\u00ff\u1fccς💾") == "Aß\u0178\u1fc3Σ💾"
    assert all(upcase_name(chr(n)) == chr(n).upper() for n in range(128))


def is_name(name):
    try:
        check_name(name, what=name)
    except NotRepresentableError:
        return False
    # dissect.fat decodes each entry alone and fails where a surrogate pair is spread over two;
    # vm-tests/test_exfat.py shows such a name to Linux.
    encoded = name.encode("utf-16-le")
    cuts = range(2 * NAME_UNITS_PER_ENTRY, len(encoded), 2 * NAME_UNITS_PER_ENTRY)
    return not any(encoded[at + 1] & 0xFC == 0xDC for at in cuts)


names = st.text(
    st.characters(exclude_categories=["Cs"]) | st.sampled_from("aAbB.~ éÉςσΣ\u1fcc💾"),
    min_size=1,
    max_size=40,
).filter(is_name)
trees = st.dictionaries(
    st.lists(names, min_size=1, max_size=3).map(tuple),
    st.none() | st.binary(max_size=2000),
    max_size=12,
)


@settings(max_examples=30, deadline=None)
@given(trees, st.sampled_from([512, 4 * KIB]))
def test_any_tree(paths, cluster_size):
    try:
        tree = build_tree(
            TreeItem(path, None if data is None else make_piece(data))
            for path, data in paths.items()
        )
        volume = make_exfat(tree, 3 * MIB, cluster_size=cluster_size)
    except NotRepresentableError as error:
        if not any(words in error.message for words in ("only in case", "twice", "both a file")):
            raise
        return
    with tempfile.TemporaryDirectory(prefix="mediamaker-exfat-", dir="/dev/shm") as folder:
        image = materialise(volume.extents, Path(folder) / "volume.img")
        check_exfat_fsck(image, **count(tree))
        assert read_exfat_with_dissect(image) == list_expected(tree)


def damage_boot(data, volume):
    data[100] ^= 1


def damage_bitmap(data, volume):
    data[volume.heap_offset] = 0


def damage_name(data, volume):
    offset = data.index("bootmgr".encode("utf-16-le"))
    data[offset] ^= 1


def damage_chain(data, volume):
    root = struct.unpack_from("<I", data, 96)[0]
    struct.pack_into("<I", data, volume.fat_offset + 4 * root, root)


@pytest.mark.parametrize("damage", [damage_boot, damage_bitmap, damage_name, damage_chain])
def test_the_judge_would_see_it(damage, tmp_path):
    volume = make_exfat(make_tree(TREE), 4 * MIB)
    image = materialise(volume.extents, tmp_path / "volume.img")
    data = bytearray(image.read_bytes())
    damage(data, volume)
    image.write_bytes(data)
    with pytest.raises(AssertionError):
        check_exfat_fsck(image, **count(make_tree(TREE)))


@pytest.mark.parametrize(
    ("name", "words"),
    [
        ("a?b", "character ?"),
        ("a\\b", "character \\"),
        ("tab\there", "control character 0x09"),
        ("dot.", "ends with a period"),
        ("space ", "ends with a space"),
        ("y" * 256, "256 UTF-16 units"),
        ("💾" * 128, "256 UTF-16 units"),
        ("\ud83d", "surrogate"),
        ("nul.txt", "reserves NUL"),
        ("..", "parent directory"),
    ],
)
def test_a_name_that_exfat_cannot_hold(name, words):
    tree = DirectoryNode("", (DirectoryNode("sources", (FileNode(name, ()),)),))
    with pytest.raises(NotRepresentableError) as caught:
        make_exfat(tree, 4 * MIB)
    assert words in caught.value.message
    assert "exFAT can't hold" in caught.value.message
    assert caught.value.message.startswith("\\sources\\")


@pytest.mark.parametrize(
    ("one", "other"), [("Setup.exe", "SETUP.EXE"), ("ς", "Σ"), ("ÿ", "\u0178"), ("a", "a")]
)
def test_names_that_the_upcase_table_makes_equal(one, other):
    tree = DirectoryNode("", (DirectoryNode("d", (FileNode(one, ()), DirectoryNode(other, ()))),))
    with pytest.raises(NotRepresentableError, match=r"in case|twice") as caught:
        make_exfat(tree, 4 * MIB)
    assert f"\\d\\{one}" in caught.value.message


def test_refused_requests():
    tree = make_tree({})
    for changes, error in [
        ({"cluster_size": 3000}, UsageError),
        ({"cluster_size": 64 * MIB}, UsageError),
        ({"volume_label": "twelve chars"}, UsageError),
        ({"volume_label": "a/b"}, UsageError),
        ({"sector_size": 8192}, PlanError),
        ({"volume_serial": 1 << 32}, PlanError),
        ({"partition_offset_sectors": -1}, PlanError),
        ({"size": 4 * MIB + 1}, PlanError),
        ({"heap_alignment": 3000}, PlanError),
        ({"size": 64 * TIB, "cluster_size": 512}, UsageError),
    ]:
        with pytest.raises(error):
            make_exfat(tree, **({"size": 4 * MIB} | changes))
    holey = DirectoryNode("", (FileNode("a", (Piece(1, Unwritten()),)),))
    with pytest.raises(PlanError, match="nobody writes"):
        make_exfat(holey, 4 * MIB)


def test_labels():
    assert exfat_label("CCCOMA_X64FRE_EN-US_DV9") == "CCCOMA_X64F"
    assert exfat_label(" a:b\n ") == "a_b_"
    assert exfat_label("0123456789💾") == "0123456789"
    assert exfat_label("") == ""


@settings(max_examples=40, deadline=None)
@given(
    st.lists(st.integers(0, 3 * MIB), max_size=12),
    st.sampled_from([None, 512, 4 * KIB, 128 * KIB, 2 * MIB]),
    st.sampled_from([512, 4096]),
)
def test_measured_is_the_least(sizes, cluster_size, sector_size):
    if cluster_size is not None and cluster_size < sector_size:
        cluster_size = sector_size
    files = [
        FileNode(f"f{n}", (Piece(size, Zeros()),) if size else ()) for n, size in enumerate(sizes)
    ]
    tree = DirectoryNode("", tuple(files))
    needed = measure_exfat(tree, sector_size, cluster_size)
    volume = make_exfat(tree, needed, sector_size=sector_size, cluster_size=cluster_size)
    assert volume.extents.end == needed
    for more in (sector_size, 4096, 512 * KIB, MIB, 300 * MIB):
        make_exfat(tree, needed + more, sector_size=sector_size, cluster_size=cluster_size)
    with pytest.raises(TargetTooSmallError) as caught:
        make_exfat(tree, needed - sector_size, sector_size=sector_size, cluster_size=cluster_size)
    assert caught.value.needed_size == needed


def test_the_cluster_count_never_falls_and_measure_agrees():
    sizes = range(20 * MIB, 28 * MIB, 512 * 37)
    counts = [fit_geometry(size, 512, 512, MIB).cluster_count for size in sizes]
    assert all(low <= high for low, high in itertools.pairwise(counts))
    for clusters in (1, 126, 127, 1000, 245_000, CLUSTER_COUNT_MAX):
        size = measure_size(clusters, 512, 4 * KIB, MIB)
        found = fit_geometry(size, 512, 4 * KIB, MIB)
        assert found.cluster_count == clusters
        assert found.fat_offset + found.fat_sectors * 512 <= found.heap_offset
        assert (found.cluster_count + 2) * 4 <= found.fat_sectors * 512


def test_huge_volumes_take_bigger_clusters():
    for size, cluster_size in [
        (200 * TIB, 128 * KIB),
        (511 * TIB, 128 * KIB),
        (512 * TIB, 256 * KIB),
        (60_000 * TIB, 16 * MIB),
    ]:
        volume = make_exfat(make_tree(TREE), size)
        assert volume.cluster_size == cluster_size
        assert volume.cluster_count <= CLUSTER_COUNT_MAX
