# SPDX-License-Identifier: GPL-3.0-or-later
"""Test disks made by other people's tools: sfdisk, mkfs.fat, mtools.

Our boot code is put in by plain byte copies, so that none of our own writers has a part in
what it is judged on. The FAT is touched directly only to fragment or damage it.
"""

from __future__ import annotations

import os
import re
import struct
import subprocess
from collections.abc import Iterable
from pathlib import Path

BOOTFILES = Path(__file__).resolve().parent.parent / "bootfiles"
STAGE2_SECTOR = 16
FSINFO_FREE_OFFSET = 488
CLUSTER_END = 0x0FFFFFFF


def run(*arguments: object, given: str | None = None) -> str:
    """The output of a tool that must succeed."""
    return subprocess.run(
        [str(argument) for argument in arguments],
        input=given,
        capture_output=True,
        text=True,
        check=True,
    ).stdout


class VolumeFile:
    """A volume in a file of its own."""

    def __init__(self, path: Path, sector_size: int) -> None:
        self.path = path
        self.sector_size = sector_size

    def read(self, offset: int, size: int) -> bytes:
        with self.path.open("rb") as file:
            file.seek(offset)
            return file.read(size)

    def write(self, offset: int, data: bytes) -> None:
        with self.path.open("r+b") as file:
            file.seek(offset)
            file.write(data)


class Volume(VolumeFile):
    """A FAT32 volume in a file of its own, formatted by mkfs.fat and filled by mtools."""

    def __init__(
        self,
        path: Path,
        *,
        size: int,
        sectors_per_cluster: int,
        sector_size: int = 512,
        reserved_sectors: int = 32,
        fats: int = 2,
        hidden: int = 0,
    ) -> None:
        super().__init__(path, sector_size)
        with path.open("xb") as file:
            file.truncate(size)
        options = f"-F 32 -S {sector_size} -s {sectors_per_cluster} -R {reserved_sectors}"
        run("mkfs.fat", *f"{options} -f {fats} -h {hidden} -i 12345678".split(), path)
        self._fat_offset = reserved_sectors * sector_size
        self._fat_size = struct.unpack_from("<I", self.read(0, 512), 0x24)[0] * sector_size
        self._fats = fats
        self._data_offset = self._fat_offset + fats * self._fat_size
        self._cluster_size = sectors_per_cluster * sector_size
        self.last_cluster = (size - self._data_offset) // self._cluster_size + 1

    def mtools(self, tool: str, *arguments: object) -> str:
        return run(tool, "-i", self.path, *arguments)

    def copy_in(self, data: bytes, name: str) -> None:
        source = self.path.with_name("copy-in")
        source.write_bytes(data)
        self.mtools("mcopy", source, f"::{name}")

    def install_boot_code(self) -> None:
        """Sector 0 around the BPB, and stage 2, as the volume renderer would place them."""
        code = (BOOTFILES / "fat32-vbr.bin").read_bytes()
        self.write(0, code[:3])
        self.write(0x5A, code[0x5A:512])
        self.write(STAGE2_SECTOR * self.sector_size, code[512:])

    def allocate_from_start(self) -> None:
        """Makes mtools forget where it stopped: the next file goes into the first holes."""
        self.write(self.sector_size + FSINFO_FREE_OFFSET, struct.pack("<II", 0xFFFFFFFF, 2))

    def fat_entry_offset(self, cluster: int, *, fat: int = 0) -> int:
        return self._fat_offset + fat * self._fat_size + cluster * 4

    def fat_entry(self, cluster: int) -> int:
        entry = self.read(self.fat_entry_offset(cluster), 4)
        return struct.unpack("<I", entry)[0] & 0x0FFFFFFF

    def set_fat_entry(self, cluster: int, value: int) -> None:
        for fat in range(self._fats):
            self.write(self.fat_entry_offset(cluster, fat=fat), struct.pack("<I", value))

    def wipe_first_fat(self) -> None:
        self.write(self._fat_offset, bytes(self._fat_size))

    def cluster_offset(self, cluster: int) -> int:
        return self._data_offset + (cluster - 2) * self._cluster_size

    def chain(self, cluster: int) -> list[int]:
        clusters = [cluster]
        while (cluster := self.fat_entry(cluster)) < 0x0FFFFFF8:
            clusters.append(cluster)
        return clusters

    def root_chain(self) -> list[int]:
        return self.chain(2)

    def file_chain(self, name: str) -> list[int]:
        """The clusters of a file, as mtools sees them (``<3-7> <9>``)."""
        clusters: list[int] = []
        for first, last in re.findall(
            r"<(\d+)(?:-(\d+))?>", self.mtools("mshowfat", f"::{name}").replace("<EOF>", "")
        ):
            clusters += range(int(first), int(last or first) + 1)
        return clusters

    def root_entry_offset(self, short_name: bytes) -> int:
        """Where the root directory's entry of an 11-byte short name lies in the volume."""
        for cluster in self.root_chain():
            offset = self.cluster_offset(cluster)
            data = self.read(offset, self._cluster_size)
            for at in range(0, len(data), 32):
                if data[at : at + 11] == short_name and data[at + 11] & 0x08 == 0:
                    return offset + at
        raise LookupError(short_name)


def count_runs(clusters: Iterable[int]) -> int:
    """How many pieces a chain is in."""
    runs, expected = 0, None
    for cluster in clusters:
        runs += cluster != expected
        expected = cluster + 1
    return runs


def make_disk(
    path: Path,
    volume: VolumeFile,
    *,
    start_lba: int = 2048,
    others: str = "",
    type_code: str = "c",
) -> Path:
    """A disk whose active partition at ``start_lba`` (in the volume's sectors) is ``volume``.

    ``others`` are sfdisk lines for the partitions before it.
    """
    unit = volume.sector_size
    size = volume.path.stat().st_size
    # An MBR can say where such a volume starts, not that it ends past 2 TiB.
    sectors = min(size // unit, 0xFFFFFFFF - start_lba)
    own = f"start={start_lba}, size={sectors}, type={type_code}, bootable"
    with path.open("xb") as disk:
        disk.truncate(start_lba * unit + size + (1 << 20))
    lines = f"label: dos\nlabel-id: 0xdeadbeef\nunit: sectors\n{others}\n{own}\n"
    run("sfdisk", "--quiet", "--no-reread", path, given=lines)
    patch_disk(path, 0, (BOOTFILES / "mbr.bin").read_bytes())
    with volume.path.open("rb") as source, path.open("r+b") as target:
        for offset, data in _written_pieces(source.fileno(), size):
            target.seek(start_lba * unit + offset)
            target.write(data)
    return path


def patch_disk(path: Path, offset: int, data: bytes) -> None:
    with path.open("r+b") as disk:
        disk.seek(offset)
        disk.write(data)


def _written_pieces(fd: int, size: int) -> Iterable[tuple[int, bytes]]:
    """What a sparse file holds, without its holes."""
    end = 0
    while True:
        try:
            start = os.lseek(fd, end, os.SEEK_DATA)
        except OSError:  # no data after this
            return
        end = os.lseek(fd, start, os.SEEK_HOLE)
        while start < end:
            piece = os.pread(fd, min(end - start, 1 << 22), start)
            yield start, piece
            start += len(piece)
        if end >= size:
            return
