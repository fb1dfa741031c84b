# SPDX-License-Identifier: GPL-3.0-or-later
"""Where partitions lie: sizes, borders, identities, and disks that are too small or too large."""

import subprocess

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from mediamaker.errors import TargetTooSmallError, UsageError
from mediamaker.extents import Literal
from mediamaker.formats.bcd_devices import GptPartition, MbrPartition
from mediamaker.plan.disk_layout import Role
from mediamaker.plan.geometry import Geometry
from mediamaker.plan.identity import identities_from_seed
from mediamaker.plan.layout_file import load_layout
from mediamaker.plan.place_disk import disk_size_needed, place_disk
from mediamaker.sources.layout_files import find_builtin_layouts, read_builtin_layout
from mediamaker.units import GIB, MIB, TIB
from mediamaker.volumes.fat32 import Fat32Request, build_fat32
from mediamaker.volumes.tree import build_tree

IDS = identities_from_seed("place")


def layout(name):
    return load_layout(read_builtin_layout(name), what=name)


@pytest.mark.parametrize("name", find_builtin_layouts())
@pytest.mark.parametrize("sector_size", [512, 4096])
def test_partitions_follow_each_other_in_whole_mib(name, sector_size):
    geometry = Geometry(64 * GIB + 4096, sector_size)
    placed = place_disk(layout(name), geometry, IDS)
    position = MIB
    for number, partition in enumerate(placed.partitions, start=1):
        assert (partition.number, partition.start) == (number, position)
        assert partition.size % MIB == 0
        position = partition.end
    # The rest is all of the rest: what is left is the last MiB, rounded up.
    assert position == 64 * GIB - MIB


def test_what_goes_in_makes_a_partition_larger():
    sizes = {Role.RECOVERY: 1500 * MIB + 1, Role.SYSTEM: 5, Role.WINDOWS: 7 * GIB}
    placed = place_disk(layout("uefi"), Geometry(64 * GIB), IDS, sizes_min=sizes)
    assert [partition.size for partition in placed.partitions[:2]] == [260 * MIB, 16 * MIB]
    assert placed.find(Role.RECOVERY).size == 1501 * MIB
    assert placed.windows.size == (64 * GIB - 2 * MIB) - (260 + 16 + 1501) * MIB
    assert placed.partitions[-1].start == placed.windows.end


def test_too_small_says_how_much_each_partition_wants():
    sizes = {Role.WINDOWS: 20 * GIB}
    needed = disk_size_needed(layout("uefi"), sizes)
    assert needed == (1 + 260 + 16 + 20 * 1024 + 1024 + 1) * MIB
    with pytest.raises(TargetTooSmallError) as caught:
        place_disk(layout("uefi"), Geometry(needed - MIB), IDS, sizes_min=sizes)
    assert caught.value.needed_size == needed
    assert caught.value.available_size == needed - MIB
    for words in ("1 system 260 MiB", "2 msr 16 MiB", "3 windows at least 20 GiB", "4 recovery 1"):
        assert words in caught.value.message
    placed = place_disk(layout("uefi"), Geometry(needed), IDS, sizes_min=sizes)
    assert placed.windows.size == 20 * GIB


@settings(max_examples=100, deadline=None)
@given(st.sampled_from(["uefi", "bios", "togo"]), st.integers(1, 4 * GIB // 4096))
def test_any_disk_gets_a_place_or_a_clear_no(name, sectors):
    geometry = Geometry(sectors * 4096, 4096)
    try:
        placed = place_disk(layout(name), geometry, IDS)
    except TargetTooSmallError as error:
        # On a disk of the size that the error names it does fit.
        needed_size = error.needed_size
        placed = place_disk(layout(name), Geometry(needed_size, 4096), IDS)
    else:
        needed_size = disk_size_needed(layout(name))
        assert needed_size <= geometry.size
    assert needed_size % MIB == 0
    assert placed.partitions[-1].end <= placed.geometry.size - MIB


def test_the_stores_references_are_the_disks_own():
    gpt = place_disk(layout("uefi"), Geometry(64 * GIB), IDS)
    assert gpt.system.reference(gpt) == GptPartition(IDS.disk_guid, IDS.partition_guid)
    guids = {partition.unique_guid for partition in gpt.partitions}
    assert len(guids) == 4
    assert {guid.version for guid in guids} == {4}
    mbr = place_disk(layout("bios"), Geometry(64 * GIB), IDS)
    assert mbr.windows.unique_guid is None
    assert mbr.windows.reference(mbr) == MbrPartition(IDS.disk_signature, 101 * MIB)
    assert mbr.hidden_sectors(mbr.windows) == 101 * 2048


def test_identities_depend_on_the_seed_alone():
    one, same = (place_disk(layout("uefi"), Geometry(size), IDS) for size in (64 * GIB, GIB * 99))
    other = place_disk(layout("uefi"), Geometry(64 * GIB), identities_from_seed("other"))
    for a, b, c in zip(one.partitions, same.partitions, other.partitions, strict=True):
        assert (a.unique_guid, a.volume_serial) == (b.unique_guid, b.volume_serial)
        assert a.unique_guid != c.unique_guid
        assert a.volume_serial != c.volume_serial
    assert one.system.volume_serial == IDS.volume_serial
    assert len({partition.volume_serial for partition in one.partitions}) == 4
    assert one.windows.volume_serial.bit_length() > 32


def test_an_mbr_reaches_two_tib_of_512_byte_sectors():
    placed = place_disk(layout("bios"), Geometry(8 * TIB), IDS)
    last = placed.partitions[-1]
    assert (last.end - 1) // 512 <= 0xFFFFFFFF
    assert last.end > 2 * TIB - 2 * MIB
    whole = place_disk(layout("bios"), Geometry(8 * TIB, 4096), IDS)
    assert whole.partitions[-1].end == 8 * TIB - MIB
    with pytest.raises(UsageError, match=r"an MBR reaches 1\.9 TiB .* 2 windows at least 3 TiB"):
        place_disk(layout("bios"), Geometry(8 * TIB), IDS, sizes_min={Role.WINDOWS: 3 * TIB})


def test_hidden_sectors_beyond_32_bits_are_not_made_up():
    placed = place_disk(layout("uefi"), Geometry(8 * TIB), IDS)
    assert placed.hidden_sectors(placed.partitions[-1]) == 0
    assert placed.hidden_sectors(placed.system) == 2048


def test_clusters_smaller_than_a_sector():
    text = read_builtin_layout("uefi").replace('size = "rest"', 'cluster_size = "2KiB"')
    own = load_layout(text, what="own")
    assert place_disk(own, Geometry(64 * GIB), IDS).windows.spec.cluster_size == 2048
    with pytest.raises(UsageError, match="clusters of 2048 bytes are smaller"):
        place_disk(own, Geometry(64 * GIB, 4096), IDS)


@pytest.mark.parametrize(("sector_size", "least"), [(512, 33), (1024, 65), (4096, 257)])
def test_fat32_partitions_are_large_enough_to_be_fat32(tmp_path, sector_size, least):
    text = read_builtin_layout("uefi").replace('"260MiB"', '"1MiB"')
    small = load_layout(text, what="small")
    placed = place_disk(small, Geometry(64 * GIB, sector_size), IDS)
    assert placed.system.size == least * MIB
    whole = disk_size_needed(small, {Role.WINDOWS: GIB}, sector_size=sector_size)
    assert whole == (1 + least + 16 + 1024 + 1024 + 1) * MIB
    volume = build_fat32(
        Fat32Request(
            size=placed.system.size,
            sector_size=sector_size,
            hidden_sectors=placed.hidden_sectors(placed.system),
            volume_label="SYSTEM",
            volume_serial=1,
            tree=build_tree([]),
        )
    )
    path = tmp_path / "esp"
    with path.open("wb") as file:
        file.truncate(placed.system.size)
        for extent in volume.extents:
            if isinstance(extent.source, Literal):
                file.seek(extent.start)
                file.write(extent.source.data)
    for command, expected in (
        (("fsck.fat", "-n", path), ""),
        (("blkid", "--probe", "--output", "value", "--match-tag", "VERSION", path), "FAT32"),
    ):
        done = subprocess.run(command, check=True, capture_output=True, text=True)
        assert expected in done.stdout
