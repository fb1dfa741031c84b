# SPDX-License-Identifier: GPL-3.0-or-later
"""fsck.fat, mtools, dissect.fat, blkid and file judge volumes of ours. No reader here is ours."""

import subprocess
import tempfile
from pathlib import Path

import pytest
from dissect.fat.fat import FATFS
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from mediamaker.errors import NotRepresentableError, TargetTooSmallError
from mediamaker.extents import FileRange, Literal, Piece, Zeros
from mediamaker.formats.fat import FILE_SIZE_MAX, FILE_SIZE_SAFE_MAX
from mediamaker.formats.fat_names import check_name
from mediamaker.units import GIB, KIB, MIB
from mediamaker.volumes.fat32 import Fat32BootCode, measure_fat32
from mediamaker.volumes.tree import DirectoryNode, FileNode, TreeItem, build_tree, case_key
from tests.volumes.fat_judges import (
    check_fsck,
    list_expected,
    make_tree,
    make_volume,
    materialise,
    ns,
    read_with_dissect,
    read_with_mtools,
    run_mtools,
)

WINDOWS_LIKE = {
    "autorun.inf": b"[AutoRun]",
    "bootmgr": b"\xe9\xd5\x01" + b"B" * 100_000,
    "bootmgr.efi": b"MZ" + b"e" * 70_000,
    "setup.exe": b"MZ",
    "boot/bcd": b"regf" * 1000,
    "boot/boot.sdi": b"$SDI0001",
    "boot/fonts/wgl4_boot.ttf": b"t" * 4096,
    "boot/fonts/segmono_boot.ttf": b"t" * 4097,
    "boot/en-us/bootsect.exe.mui": b"m" * 4095,
    "efi/boot/bootx64.efi": b"MZ" * 512,
    "efi/microsoft/boot/bcd": b"regf",
    "efi/microsoft/boot/cdboot_noprompt.efi": b"1",
    "efi/microsoft/boot/winsipolicy.p7b": b"2",
    "sources/boot.wim": b"MSWIM\0\0\0" * 5000,
    "sources/install.wim": b"MSWIM\0\0\0",
    "sources/ReAgent.xml": b"<x/>",
    "support/logging": None,
    "empty.txt": b"",
}
ODD_NAMES = [
    "exactly13char",
    "twenty-six characters long",
    "x" * 255,
    "日本語のファイル名.テキスト",
    "emoji 💾 and 𐐷unicode.txt",
    ".hidden",
    "..two dots",
    " leading space",
    "a.b.c.d",
    "with+plus,comma;semi=eq[br]",
    "MiXeD.TxT",
    "lower.UPP",
    "UPPER.low",
    "NOEXT",
    "noext",
    "~tilde~1",
    "LONGFI~1.TXT",
    "longfilename.txt",
    "longfilename2.txt",
    "longfilename3.txt",
    "longfilename4.txt",
    "longfilename5.txt",
    "longfilename6.txt",
    "longfilename7.txt",
    "Ünïcödé.tëx",
    "straße",
    "å",
    "\x7f del",
    "100% #1 & more!.$$$",
]


def make_image(volume, folder: Path, **more: object) -> Path:
    # Stale bytes where a used stick has them: all that is not free must be overwritten.
    stale = bytes(range(1, 256)) * (3 * MIB // 255)
    return materialise(volume.extents, folder / "volume.img", stale=stale, **more)


@pytest.mark.parametrize(
    ("sector_size", "cluster_size", "size"),
    [
        (512, None, 64 * MIB),
        (512, 512, 40 * MIB),
        (512, 4 * KIB, 300 * MIB),
        (512, 32 * KIB, 3 * GIB),
        (512, 64 * KIB, 5 * GIB),
        (1024, None, 80 * MIB),
        (2048, 8 * KIB, 700 * MIB),
        (4096, None, 300 * MIB),
        (4096, 64 * KIB, 5 * GIB),
        (512, None, 64 * GIB),
    ],
)
def test_every_judge_sees_a_windows_like_tree(sector_size, cluster_size, size, tmp_path):
    tree = make_tree(WINDOWS_LIKE, modified_ns=ns(2024, 5, 6, 7, 8, 9))
    volume = make_volume(
        tree,
        size,
        sector_size=sector_size,
        cluster_size=cluster_size,
        volume_label="ESD-ISO",
        volume_serial=0xCAFE0042,
    )
    image = make_image(volume, tmp_path)
    check_fsck(image)
    expected = list_expected(tree)
    assert read_with_dissect(image) == expected
    assert read_with_mtools(image, tmp_path / "out") == expected

    assert volume.cluster_size == cluster_size or cluster_size is None
    probe = subprocess.run(
        ["blkid", "-p", "-o", "export", image], capture_output=True, text=True, check=True
    ).stdout.splitlines()
    assert {"LABEL_FATBOOT=ESD-ISO", "LABEL=ESD-ISO", "UUID=CAFE-0042", "VERSION=FAT32"} <= set(
        probe
    )
    assert f"BLOCK_SIZE={sector_size}" in probe
    described = subprocess.run(["file", "-b", image], capture_output=True, text=True, check=True)
    assert 'label: "ESD-ISO    "' in described.stdout
    assert "serial number 0xcafe0042" in described.stdout
    assert "hidden sectors 2048" in described.stdout
    listing = run_mtools("mdir", image, "-a", "::")
    assert "Volume in drive : is ESD-ISO" in listing
    assert "Volume Serial Number is CAFE-0042" in listing
    free = listing.rsplit("bytes free", 1)[0].rsplit("bytes", 1)[1]
    assert int("".join(filter(str.isdigit, free))) == volume.free_size


def test_odd_names_and_their_short_names(tmp_path):
    tree = DirectoryNode(
        "",
        (
            DirectoryNode(
                "日本", tuple(FileNode(name, ()) for name in ODD_NAMES if name != "noext")
            ),
            DirectoryNode("noext", (FileNode("Noext", ()),)),
            *(
                FileNode(name, (Piece(len(name.encode()), Literal(name.encode())),))
                for name in ODD_NAMES
                if name not in {"noext", "NOEXT"}
            ),
        ),
    )
    image = make_image(make_volume(tree, 40 * MIB, volume_label="NOEXT"), tmp_path)
    check_fsck(image)
    expected = list_expected(tree)
    assert read_with_dissect(image) == expected

    def as_mtools_shows(path: str) -> str:
        return "".join(char if ord(char) <= 0xFFFF else "__" for char in path)

    assert read_with_mtools(image, tmp_path / "out") == {
        as_mtools_shows(path): data for path, data in expected.items()
    }
    with image.open("rb") as file:
        shorts = {entry.name: entry.short_name for entry in FATFS(file).root.iterdir()}
    assert len(set(shorts.values())) == len(shorts)
    assert shorts["longfilename.txt"] == "LONGFI~2.TXT"
    assert shorts["longfilename3.txt"] == "LONGFI~4.TXT"
    assert shorts["MiXeD.TxT"] == "MIXED.TXT"
    assert shorts[".hidden"] == "HIDDEN~1"


def test_times_are_seen_as_written(tmp_path):
    tree = make_tree({"a": b"", "d/e": b"x"}, modified_ns=ns(2024, 5, 6, 7, 8, 9) + 370_000_000)
    image = make_image(make_volume(tree, 40 * MIB), tmp_path)
    check_fsck(image)
    with image.open("rb") as file:
        volume = FATFS(file)
        for path in ("a", "d\\e"):
            entry = volume.get(path)
            assert entry.mtime.isoformat() == "2024-05-06T07:08:08"
            assert entry.ctime.isoformat() == "2024-05-06T07:08:09.370000"
            assert entry.atime.isoformat() == "2024-05-06T00:00:00"
    assert "2024-05-06   7:08" in run_mtools("mdir", image, "::")


def test_boot_code_does_not_disturb_the_volume(tmp_path):
    code = Fat32BootCode(
        sector0=b"\xeb\x58\x90" + b"\xf4" * 509, stage2=b"\xf4" * 24 * 512, stage2_sector_number=8
    )
    tree = make_tree(WINDOWS_LIKE)
    image = make_image(make_volume(tree, 64 * MIB, boot_code=code), tmp_path)
    check_fsck(image)
    assert read_with_dissect(image) == list_expected(tree)


def test_a_file_as_big_as_fsck_takes(tmp_path):
    tree = DirectoryNode(
        "",
        (
            FileNode("install.swm", (Piece(FILE_SIZE_SAFE_MAX, Zeros()),)),
            FileNode("after.bin", (Piece(3, Literal(b"abc")),)),
        ),
    )
    image = make_image(make_volume(tree, measure_fat32(tree, 512)), tmp_path)
    check_fsck(image)
    with image.open("rb") as file:
        assert FATFS(file).get("after.bin").open().read() == b"abc"
    assert "4294901760" in run_mtools("mdir", image, "::install.swm")


def test_a_file_of_4_gib_minus_1(tmp_path):
    # Not fsck.fat: 4.2 would say that this file has no clusters (dosfstools issue 208).
    tree = DirectoryNode(
        "",
        (
            FileNode(
                "install.swm", (Piece(5, Literal(b"first")), Piece(FILE_SIZE_MAX - 5, Zeros()))
            ),
            FileNode("after.bin", (Piece(3, Literal(b"abc")),)),
        ),
    )
    size = measure_fat32(tree, 512, 64 * KIB)
    volume = make_volume(tree, size, cluster_size=64 * KIB)
    image = make_image(volume, tmp_path)
    with image.open("rb") as file:
        read = FATFS(file)
        assert read.get("after.bin").open().read() == b"abc"
        assert read.get("install.swm").size == 4_294_967_295
        assert read.get("install.swm").open().read(8) == b"first\0\0\0"
    assert "4294967295" in run_mtools("mdir", image, "::install.swm")


def test_a_full_directory(tmp_path):
    # fsck.fat compares every name with every other: it judges the smaller one.
    for count, judge in ((32_767, None), (2_000, check_fsck)):
        names = tuple(FileNode(f"X{number:05}y", ()) for number in range(count))
        tree = DirectoryNode("", (DirectoryNode("full", names),))
        image = make_image(make_volume(tree, measure_fat32(tree, 512)), tmp_path)
        listing = run_mtools("mdir", image, "-b", "::full").split()
        assert listing == [f"::/full/{node.name}" for node in names]
        if judge:
            judge(image)


def test_ranges_of_a_source_land_in_the_right_place(tmp_path):
    iso = bytes(range(256)) * 64
    tree = build_tree(
        [
            TreeItem(("x",), (Piece(600, FileRange("iso", 1000)), Piece(700, FileRange("iso", 5)))),
            TreeItem(("y",), (Piece(10, Zeros()), Piece(1, FileRange("iso", 255)))),
        ]
    )
    image = make_image(make_volume(tree, 40 * MIB), tmp_path, files={"iso": iso})
    check_fsck(image)
    assert read_with_dissect(image) == {
        "x": iso[1000:1600] + iso[5:705],
        "y": bytes(10) + b"\xff",
    }


def is_held(name: str) -> bool:
    try:
        check_name(name, what="x")
    except NotRepresentableError:
        return False
    return True


NAMES = st.one_of(
    st.from_regex(r"[a-z]{1,8}(\.[a-z]{1,3})?", fullmatch=True),
    st.from_regex(r"[A-Za-z0-9]{1,9}(\.[A-Za-z]{1,4})?", fullmatch=True),
    st.text(alphabet="aB1 .~+,;=[]#'é日ÿ💾\u0301", min_size=1, max_size=30),
    st.text(min_size=1, max_size=40),
).filter(is_held)


@st.composite
def trees(draw, cluster_size: int, depth: int = 3) -> tuple[FileNode | DirectoryNode, ...]:
    sizes = st.sampled_from(
        [0, 1, cluster_size - 1, cluster_size, cluster_size + 1, 3 * cluster_size + 7]
    )
    children: list[FileNode | DirectoryNode] = []
    modified = st.one_of(st.none(), st.integers(0, 5 * 10**18))
    for name in draw(st.lists(NAMES, max_size=7, unique_by=case_key)):
        if depth and draw(st.booleans()):
            inner = draw(trees(cluster_size, depth - 1))
            children.append(DirectoryNode(name, inner, draw(modified)))
        else:
            size = draw(sizes)
            content = (name.encode("utf-8") * (size // len(name) + 1))[:size]
            pieces = (Piece(size, Literal(content)),) if size else ()
            children.append(FileNode(name, pieces, draw(modified)))
    return tuple(children)


@settings(max_examples=60, deadline=None, suppress_health_check=list(HealthCheck))
@given(st.sampled_from([512, 1024, 4096]), st.integers(0, 2), st.integers(0, 5000), st.data())
def test_random_trees_are_clean_and_seen_whole(sector_size, spread, extra_sectors, data):
    cluster_size = sector_size << spread
    tree = DirectoryNode("", data.draw(trees(cluster_size)))
    alignment = data.draw(st.sampled_from([sector_size, 64 * KIB, MIB]))
    size = measure_fat32(tree, sector_size, cluster_size, data_alignment=alignment)
    volume = make_volume(
        tree,
        size + extra_sectors * sector_size,
        sector_size=sector_size,
        cluster_size=cluster_size,
        data_alignment=alignment,
        volume_label=data.draw(st.sampled_from(["", "A", "WINDOWS 11"])),
    )
    with tempfile.TemporaryDirectory() as folder:
        image = make_image(volume, Path(folder))
        check_fsck(image)
        assert read_with_dissect(image) == list_expected(tree)


@settings(max_examples=80, deadline=None, suppress_health_check=list(HealthCheck))
@given(
    st.sampled_from([512, 1024, 2048, 4096]),
    st.one_of(st.none(), st.integers(0, 4)),
    st.lists(st.integers(0, 3 * 10**9), max_size=12),
    st.integers(1, 10**6),
)
def test_measured_size_is_enough_and_one_sector_less_is_not(
    sector_size, spread, sizes, more_sectors
):
    cluster_size = None if spread is None else sector_size << spread
    tree = build_tree(
        TreeItem((f"d{index % 3}", f"file {index}"), (Piece(size, FileRange("x", 0)),))
        for index, size in enumerate(sizes)
        if size
    )
    options = {"sector_size": sector_size, "cluster_size": cluster_size}
    size = measure_fat32(tree, sector_size, cluster_size)
    assert make_volume(tree, size, **options).extents.end == size
    assert make_volume(tree, size + more_sectors * sector_size, **options)
    with pytest.raises(TargetTooSmallError) as caught:
        make_volume(tree, size - sector_size, **options)
    assert caught.value.needed_size == size
