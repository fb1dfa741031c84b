# SPDX-License-Identifier: GPL-3.0-or-later
"""A volume put together from its extents on a used disk is the volume, for foreign readers."""

import os
import random

import pytest

from mediamaker.errors import FormatError
from mediamaker.execute.progress import ignore_event
from mediamaker.extents import FileRange, Unwritten, Zeros, check_sector_aligned
from mediamaker.install.apply_windows import apply_windows
from mediamaker.install.compose import compose_ntfs
from mediamaker.install.image_facts import image_facts
from mediamaker.install.make_ntfs import make_ntfs
from mediamaker.install.volume_pieces import volume_pieces
from mediamaker.units import MIB
from tests.install.windows_rig import make_image
from tests.wim.wim_rig import detailed, mounted, run


def make(path, size=48 * MIB, sector_size=512):
    make_ntfs(
        path,
        size=size,
        sector_size=sector_size,
        hidden_sectors=2048,
        volume_label="W",
        volume_serial=1,
    )
    return path


def write_on_used_disk(volume, extents, path):
    """What the engine would write, over bytes of an earlier life."""
    data = volume.read_bytes()
    noise = random.Random(1).randbytes(MIB)
    with path.open("wb") as file:
        for _ in range(extents.end // MIB):
            file.write(noise)
        for extent in extents:
            file.seek(extent.start)
            match extent.source:
                case FileRange("volume", offset):
                    file.write(data[offset : offset + extent.size])
                case Zeros():
                    file.write(bytes(extent.size))
                case Unwritten():
                    pass
                case _:
                    raise AssertionError(extent)
    return path


@pytest.mark.parametrize("sector_size", [512, 4096])
def test_an_applied_image(tmp_path, sector_size):
    image = make_image(tmp_path, rich=True)
    volume = make(tmp_path / "v.img", sector_size=sector_size)
    facts = image_facts([image], 1)
    apply_windows([image], facts, volume, scratch=tmp_path, on_event=ignore_event)
    source, extents = volume_pieces(volume, source_id="volume", name="Windows")
    assert (source.size, extents.start, extents.end) == (48 * MIB, 0, 48 * MIB)
    check_sector_aligned(extents, sector_size)
    # Not much more than what is in it, and no byte of it missing.
    assert facts.raw_size < extents.written_size < 24 * MIB
    disk = write_on_used_disk(volume, extents, tmp_path / "disk.img")
    run("ntfsfix", "--no-action", disk)
    run("wimlib-imagex", "capture", disk, tmp_path / "again.wim", "x")
    assert detailed(tmp_path / "again.wim") == detailed(image)
    # A driver that goes on with it does not stumble over old bytes either.
    with mounted(disk, tmp_path / "m") as root:
        for number in range(300):
            (root / "Windows" / f"new {number}").write_bytes(b"x" * number * 20)
        assert len(list((root / "Windows").glob("new *"))) == 300
    run("ntfsfix", "--no-action", disk)


def test_the_extents_of_a_small_volume(tmp_path):
    volume = make(tmp_path / "v.img", size=16 * MIB)
    compose_ntfs(volume, {("a",): b"x" * 100_000}, scratch=tmp_path)
    _, extents = volume_pieces(volume, source_id="volume", name="R", size=20 * MIB)
    assert extents.end == 20 * MIB
    assert isinstance(extents.find(17 * MIB).source, Unwritten)
    # Both boot sectors come from the file; the map of clusters agrees with ntfs-3g's.
    assert extents.find(0).source == FileRange("volume", 0)
    last = extents.find(16 * MIB - 512)
    assert isinstance(last.source, FileRange)
    free = sum(e.size for e in extents if isinstance(e.source, Unwritten)) - 4 * MIB
    with mounted(volume, tmp_path / "m") as root:
        status = os.statvfs(root)
        assert free == status.f_bfree * status.f_frsize


def test_a_file_that_is_cut_short(tmp_path):
    volume = make(tmp_path / "v.img", size=16 * MIB)
    os.truncate(volume, 15 * MIB)
    with pytest.raises(FormatError, match="expected 16776704 bytes or more"):
        volume_pieces(volume, source_id="volume", name="R")


def test_no_volume(tmp_path):
    (tmp_path / "x").write_bytes(bytes(MIB))
    with pytest.raises(FormatError, match="not an NTFS volume"):
        volume_pieces(tmp_path / "x", source_id="volume", name="R")
