# SPDX-License-Identifier: GPL-3.0-or-later
"""The FAT32 layout: bytes worked out by hand, order, and clear errors."""

import dataclasses

import pytest

from mediamaker.errors import (
    NotRepresentableError,
    PlanError,
    TargetTooSmallError,
    UsageError,
)
from mediamaker.extents import (
    FileRange,
    Literal,
    Piece,
    Unwritten,
    Zeros,
    check_sector_aligned,
)
from mediamaker.units import GIB, KIB, MIB
from mediamaker.volumes.fat32 import Fat32BootCode, Fat32Request, build_fat32, measure_fat32
from mediamaker.volumes.tree import DirectoryNode, FileNode, TreeItem, build_tree
from tests.volumes.fat_judges import make_tree, make_volume, materialise, ns

# Root: label, bootmgr, "Long name.txt" (slot + alias), sub. 2 clusters for bootmgr.
SMALL = {"bootmgr": b"B" * 700, "Long name.txt": b"L", "empty": b"", "sub/inner": b"I"}
SIZE = 40 * MIB


def read_volume(volume, tmp_path) -> bytes:
    return materialise(volume.extents, tmp_path / "volume.img").read_bytes()


def test_small_volume_by_hand(tmp_path):
    tree = make_tree(SMALL, modified_ns=ns(2024, 5, 6, 7, 8, 9))
    volume = make_volume(
        tree, SIZE, volume_label="STICK", volume_serial=0xCAFEF00D, cluster_size=512
    )
    data = read_volume(volume, tmp_path)

    # 40 MiB: 81,920 sectors; data at 1 MiB would leave 79,872 clusters: 624.02 FAT sectors, and
    # 2 * 625 + 32 fit into 2,048: reserved is 2,048 - 1,250 = 798.
    assert (volume.reserved_sectors, volume.fat_sectors) == (798, 625)
    assert volume.cluster_count == 79_872
    assert volume.data_offset == MIB
    assert data[0x0B:0x24].hex(" ") == (
        "00 02 01 1e 03 02 00 00 00 00 f8 00 00 3f 00 ff 00 00 08 00 00 00 40 01 00"
    )
    assert data[0x24:0x34].hex(" ") == "71 02 00 00 00 00 00 00 02 00 00 00 01 00 06 00"
    assert data[0x40:0x5A] == b"\x80\x00\x29\x0d\xf0\xfe\xcaSTICK      FAT32   "
    assert data[:512] == data[6 * 512 : 7 * 512]
    # Used: root 2, sub 3, bootmgr 4-5, "Long name.txt" 6, inner 7; next free is 8.
    fsinfo = data[512:1024]
    assert fsinfo == data[7 * 512 : 8 * 512]
    assert int.from_bytes(fsinfo[488:492], "little") == 79_872 - 6
    assert int.from_bytes(fsinfo[492:496], "little") == 8
    assert volume.free_size == (79_872 - 6) * 512
    fat = data[798 * 512 : (798 + 625) * 512]
    assert fat == data[(798 + 625) * 512 : MIB]
    assert fat[:36].hex(" ", 4) == (
        "f8ffff0f ffffff0f ffffff0f ffffff0f 05000000 ffffff0f ffffff0f ffffff0f 00000000"
    )
    assert not any(fat[36:])

    stamp = "89 04 39 a6 58 a6 58"  # 07:08:09, 2024-05-06; 0x64 hundredths are in the byte before
    root = data[MIB : MIB + 512]
    names = [root[at : at + 11] for at in range(0, 192, 32)]
    assert names[0] == b"STICK      "
    assert root[11] == 0x08
    assert names[1] == b"BOOTMGR    "
    bootmgr = root[32:64]
    assert bootmgr[11:].hex(" ") == (
        "20 08 64 04 39 a6 58 a6 58 00 00 04 39 a6 58 04 00 bc 02 00 00"
    )
    assert stamp[3:8] == "04 39"
    assert names[2] == b"EMPTY      "
    assert root[64 + 20 : 64 + 32].hex(" ") == "00 00 04 39 a6 58 00 00 00 00 00 00"
    assert root[96] == 0x41
    assert root[96 + 11] == 0x0F
    assert names[4] == b"LONGNA~1TXT"
    assert names[5] == b"SUB        "
    assert root[160 + 11 : 160 + 13] == b"\x10\x08"
    assert root[160 + 26 : 160 + 32] == b"\x03\x00\x00\x00\x00\x00"
    assert not any(root[192:])

    sub = data[MIB + 512 : MIB + 1024]
    assert sub[:12] == b".          \x10"
    assert sub[26] == 3
    assert sub[32:44] == b"..         \x10"
    assert sub[32 + 20 : 32 + 22] + sub[32 + 26 : 32 + 28] == bytes(4)  # the root is 0
    assert sub[64:75] == b"INNER      "
    assert sub[64 + 26] == 7

    at = MIB + 2 * 512
    assert data[at : at + 1024] == b"B" * 700 + bytes(324)
    assert data[at + 1024 : at + 1536] == b"L" + bytes(511)
    assert data[at + 1536 : at + 2048] == b"I" + bytes(511)


def test_extents_have_names_for_people_and_only_free_clusters_are_unwritten():
    volume = make_volume(make_tree(SMALL), SIZE, cluster_size=512)
    names = [extent.name for extent in volume.extents]
    assert names == [
        "VBR",
        "FSInfo",
        "reserved sectors",
        "VBR backup",
        "FSInfo backup",
        "reserved sectors",
        "FAT 1",
        "FAT 1, free entries",
        "FAT 2",
        "FAT 2, free entries",
        "directory \\",
        "directory \\sub",
        "\\bootmgr",
        "padding of \\bootmgr",
        "\\Long name.txt",
        "padding of \\Long name.txt",
        "\\sub\\inner",
        "padding of \\sub\\inner",
        "free clusters",
    ]
    unwritten = [e for e in volume.extents if isinstance(e.source, Unwritten)]
    assert [e.name for e in unwritten] == ["free clusters"]
    assert (volume.extents.start, volume.extents.end) == (0, SIZE)
    check_sector_aligned(volume.extents, 512)
    by_name = {extent.name: extent.source for extent in volume.extents}
    assert by_name["FAT 1"] is by_name["FAT 2"]


def test_contents_stay_ranges_of_their_source():
    pieces = (
        Piece(5000, FileRange("iso", 10_000)),
        Piece(96, Zeros()),
        Piece(4096, FileRange("iso", 77)),
    )
    tree = build_tree([TreeItem(("sources", "boot.wim"), pieces)])
    volume = make_volume(tree, 300 * MIB)
    assert volume.cluster_size == 4096
    at = volume.data_offset + 2 * 4096
    found = [e for e in volume.extents if e.name == "\\sources\\boot.wim"]
    assert [(e.start, e.size, e.source) for e in found] == [
        (at, 5000, pieces[0].source),
        (at + 5000, 96, Zeros()),
        (at + 5096, 4096, pieces[2].source),
    ]
    padding = volume.extents.find(at + 9192)
    assert (padding.name, padding.end) == ("padding of \\sources\\boot.wim", at + 12288)


def test_boot_files_come_first():
    tree = make_tree(
        dict.fromkeys(
            [
                "autorun.inf",
                "boot/bcd",
                "bootmgr",
                "bootmgr.efi",
                "EFI/boot/bootx64.efi",
                "sources/boot.wim",
                "setup.exe",
            ],
            b"x",
        )
    )
    volume = make_volume(tree, SIZE)
    names = [e.name for e in volume.extents if e.name.startswith("\\")]
    assert names == [
        "\\bootmgr",
        "\\bootmgr.efi",
        "\\boot\\bcd",
        "\\EFI\\boot\\bootx64.efi",
        "\\autorun.inf",
        "\\setup.exe",
        "\\sources\\boot.wim",
    ]


def test_the_same_request_gives_the_same_bytes():
    assert (
        make_volume(make_tree(SMALL), SIZE).extents == make_volume(make_tree(SMALL), SIZE).extents
    )


def test_boot_code_is_placed_around_the_bpb(tmp_path):
    sector0 = bytes([0xEB, 0x58, 0x90]) + b"\xcc" * 507 + b"\x12\x34"
    code = Fat32BootCode(sector0=sector0, stage2=b"S" * 1300, stage2_sector_number=8)
    data = read_volume(make_volume(make_tree(SMALL), SIZE, boot_code=code), tmp_path)
    plain = read_volume(make_volume(make_tree(SMALL), SIZE), tmp_path)
    assert data[:3] == sector0[:3]
    assert data[3:0x5A] == plain[3:0x5A]
    assert data[0x5A:0x1FE] == b"\xcc" * 420
    assert data[0x1FE:0x200] == b"\x55\xaa"
    assert data[6 * 512 : 7 * 512] == data[:512]
    assert data[8 * 512 : 8 * 512 + 1300] == b"S" * 1300
    assert data[512 : 6 * 512] == plain[512 : 6 * 512]
    assert data[8 * 512 + 1300 :] == plain[8 * 512 + 1300 :]
    # Without boot code a BIOS is told that there is nothing to boot, and then halted.
    assert plain[0x5A:0x5F] == b"\xcd\x18\xf4\xeb\xfd"


@pytest.mark.parametrize(
    ("first", "size", "message"),
    [
        (0, 512, "overlaps VBR in 0"),
        (1, 1, "overlaps FSInfo in 1"),
        (2, 4 * 512 + 1, "overlaps VBR backup in 6"),
        (7, 10, "overlaps FSInfo backup in 7"),
        (8, 24 * 512 + 1, r"\[8,33\) goes past the 32"),
        (-3, 10, "goes past"),
    ],
)
def test_stage_2_stays_out_of_what_others_own(first, size, message):
    code = Fat32BootCode(sector0=bytes(512), stage2=bytes(size), stage2_sector_number=first)
    with pytest.raises(PlanError, match=message):
        make_volume(make_tree({}), SIZE, boot_code=code)


@pytest.mark.parametrize(("first", "size"), [(2, 4 * 512), (8, 24 * 512), (31, 1), (9, 0)])
def test_stage_2_may_fill_the_free_reserved_sectors(first, size):
    code = Fat32BootCode(sector0=bytes(512), stage2=bytes(size), stage2_sector_number=first)
    assert make_volume(make_tree({}), SIZE, boot_code=code)


def test_boot_code_is_for_512_byte_sectors():
    code = Fat32BootCode(sector0=bytes(512), stage2=b"", stage2_sector_number=8)
    with pytest.raises(PlanError, match="UEFI only"):
        make_volume(make_tree({}), 300 * MIB, sector_size=4096, boot_code=code)
    code = dataclasses.replace(code, sector0=bytes(511))
    with pytest.raises(PlanError, match="511"):
        make_volume(make_tree({}), SIZE, boot_code=code)


@pytest.mark.parametrize(
    ("changes", "error", "message"),
    [
        ({"size": SIZE + 1}, PlanError, "not a multiple of the sector size"),
        ({"size": 0}, PlanError, "not a multiple"),
        ({"sector_size": 500}, PlanError, "sector size 500"),
        ({"hidden_sectors": 1 << 32}, PlanError, "starts at sector 4294967296"),
        ({"volume_serial": -1}, PlanError, "volume serial"),
        ({"volume_label": "too long for FAT"}, UsageError, "'too long for FAT' is no FAT"),
        ({"volume_label": "lower"}, UsageError, "is no FAT volume label"),
        ({"cluster_size": 1000}, UsageError, "clusters of 1000 bytes"),
        ({"cluster_size": 128 * KIB}, UsageError, "clusters of 131072 bytes"),
        ({"size": 3 * (1 << 40)}, PlanError, "FAT32 counts to"),
        ({"size": 1 << 40, "cluster_size": 512}, UsageError, "FAT32 counts to 268435443"),
    ],
)
def test_requests_that_make_no_volume(changes, error, message):
    size = changes.get("size", SIZE)
    rest = {key: value for key, value in changes.items() if key != "size"}
    with pytest.raises(error, match=message):
        make_volume(make_tree({}), size, **rest)


def test_too_few_clusters_is_a_target_too_small():
    with pytest.raises(TargetTooSmallError) as caught:
        make_volume(make_tree({}), 20 * MIB)
    # 65,536 clusters of 512 bytes, data at 1 MiB
    assert caught.value.needed_size == 33 * MIB
    assert caught.value.available_size == 20 * MIB
    assert "33 MiB" in caught.value.message
    with pytest.raises(TargetTooSmallError) as caught:
        make_volume(make_tree({}), GIB, cluster_size=32 * KIB)
    assert caught.value.needed_size == 2 * GIB + MIB
    assert "smaller clusters" in caught.value.hint


def test_a_tree_too_big_says_what_it_needs():
    tree = build_tree([TreeItem(("a", "b"), (Piece(100 * MIB, FileRange("x", 0)),))])
    with pytest.raises(TargetTooSmallError) as caught:
        make_volume(tree, 64 * MIB)
    assert make_volume(tree, caught.value.needed_size)


def test_a_tree_of_small_files_gets_smaller_clusters_rather_than_no():
    # 34,000 files of 1,025 bytes: 66.4 MiB in clusters of 1 KiB, 49.8 MiB in clusters of 512.
    piece = (Piece(1025, FileRange("x", 0)),)
    tree = DirectoryNode("", tuple(FileNode(f"{number}", piece) for number in range(34_000)))
    assert make_volume(tree, 66 * MIB).cluster_size == 512


def test_a_file_may_have_4_gib_minus_1():
    limit = (1 << 32) - 1
    tree = build_tree([TreeItem(("sources", "x.swm"), (Piece(limit, FileRange("x", 0)),))])
    assert make_volume(tree, 5 * GIB)
    tree = build_tree(
        [TreeItem(("sources", "install.wim"), (Piece(limit + 1, FileRange("x", 0)),))]
    )
    with pytest.raises(NotRepresentableError) as caught:
        make_volume(tree, 5 * GIB)
    assert caught.value.message.startswith("\\sources\\install.wim has 4294967296 bytes")
    assert "split" in caught.value.hint


@pytest.mark.parametrize(
    ("files", "message"),
    [
        (("ok", "a:b"), "\\dir\\a:b: FAT32 can't hold this name: the character :"),
        (("nul.txt",), "\\dir\\nul.txt: "),
        (("a\x07",), "\\dir\\a\\x07: "),
        (("Readme", "README"), "\\dir\\Readme and \\dir\\README differ only in case"),
        (("same", "same"), "\\dir\\same is in the tree twice"),
    ],
)
def test_names_that_fat_cannot_hold_name_the_path(files, message):
    children = tuple(FileNode(name, ()) for name in files)
    tree = DirectoryNode("", (DirectoryNode("dir", children),))
    with pytest.raises(NotRepresentableError) as caught:
        make_volume(tree, SIZE)
    assert message in caught.value.message
    with pytest.raises(NotRepresentableError):
        measure_fat32(tree, 512)


def test_a_directory_name_is_checked_too():
    tree = DirectoryNode("", (DirectoryNode("con", (FileNode("ok", ()),)),))
    with pytest.raises(NotRepresentableError, match=r"^\\con: "):
        make_volume(tree, SIZE)


def test_directories_hold_65536_entries_with_slots():
    # "." and ".." and 2 entries a name: 32,767 names fill it, one more does not fit.
    def tree(count: int) -> DirectoryNode:
        names = (FileNode(f"X{number:05}y", ()) for number in range(count))
        return DirectoryNode("", (DirectoryNode("full", tuple(names)),))

    volume = make_volume(tree(32_767), SIZE)
    directory = next(e for e in volume.extents if e.name == "directory \\full")
    assert directory.size == 2 * MIB
    with pytest.raises(NotRepresentableError) as caught:
        make_volume(tree(32_768), SIZE)
    assert caught.value.message == (
        "\\full needs 65538 directory entries for its 32768 names, 65536 is FAT32's limit"
    )


def test_a_piece_that_nobody_writes_is_refused():
    tree = DirectoryNode("", (FileNode("a", (Piece(1, Unwritten()),)),))
    with pytest.raises(PlanError, match=r"\\a has a piece that nobody writes"):
        make_volume(tree, SIZE)


def test_an_exactly_full_volume_says_so(tmp_path):
    tree = build_tree([TreeItem(("a",), (Piece(512 * 65_535, Zeros()),))])
    size = measure_fat32(tree, 512, 512)
    volume = make_volume(tree, size, cluster_size=512)
    assert volume.free_size == 0
    assert not any(isinstance(e.source, Unwritten) for e in volume.extents)
    data = read_volume(volume, tmp_path)
    assert data[512 + 488 : 512 + 496] == b"\x00\x00\x00\x00\xff\xff\xff\xff"


def test_sectors_past_the_last_cluster_are_zeros():
    volume = make_volume(make_tree({}), 80 * MIB + 512, cluster_size=1024, data_alignment=1024)
    last = list(volume.extents)[-1]
    assert last.name == "slack after the last cluster"
    assert (last.size, last.source) == (512, Zeros())


def test_a_fat_bigger_than_one_chunk_is_made_of_several(tmp_path):
    # Over 4 Mi entries: 2 GiB + in clusters of 512; the chain crosses the border.
    tree = build_tree([TreeItem(("big",), (Piece(4_194_400 * 512, FileRange("x", 0)),))])
    volume = make_volume(tree, 3 * GIB, cluster_size=512)
    chunks = [e for e in volume.extents if e.name == "FAT 1"]
    assert [e.size for e in chunks] == [1 << 24, (4_194_400 + 3 - (1 << 22)) * 4]
    first, second = (e.source.data for e in chunks if isinstance(e.source, Literal))
    assert first[-4:] == (1 << 22).to_bytes(4, "little")
    assert second[:4] == ((1 << 22) + 1).to_bytes(4, "little")
    assert second[-4:] == b"\xff\xff\xff\x0f"


def test_a_request_is_plain_data():
    request = Fat32Request(
        size=SIZE,
        sector_size=512,
        hidden_sectors=0,
        volume_label="",
        volume_serial=0,
        tree=make_tree({}),
    )
    assert request.data_alignment == MIB
    assert build_fat32(request).extents.end == SIZE
