# SPDX-License-Identifier: GPL-3.0-or-later
"""exFAT volumes for the tests of our boot code: made by mkfs.exfat, or by ours where that can't.

No program at hand puts files into an exFAT volume, let alone scatters them, so this does: chains
and contiguous files, at clusters of the test's choice. fsck.exfat, GRUB and dissect judge that.
Our boot code is put in by plain byte copies: none of our own writers has a part in it.

Reference: Microsoft exFAT file system specification 1.00.
"""

from __future__ import annotations

import struct
import subprocess
from collections.abc import Sequence
from pathlib import Path

from bootcode_disk import BOOTFILES, VolumeFile, run

from tests.volumes.exfat_judges import check_exfat_fsck, make_exfat, read_exfat_with_dissect
from tests.volumes.fat_judges import make_tree, materialise

END = 0xFFFFFFFF
FILE, BITMAP = 0x85, 0x81
ARCHIVE, DIRECTORY = 0x20, 0x10
TIME = struct.pack("<HH", 0x6000, 0x5A21)


class ExfatVolume(VolumeFile):
    """An exFAT volume in a file of its own."""

    def __init__(
        self,
        path: Path,
        *,
        size: int = 4 << 20,
        cluster_size: int = 4096,
        sector_size: int = 512,
        partition_offset: int = 0,
        is_ours: bool = False,
    ) -> None:
        super().__init__(path, sector_size)
        if is_ours or sector_size > 512:
            volume = make_exfat(
                make_tree({}),
                size,
                cluster_size=cluster_size,
                sector_size=sector_size,
                partition_offset_sectors=partition_offset,
            )
            materialise(volume.extents, path)
        else:
            with path.open("xb") as file:
                file.truncate(size)
            run("mkfs.exfat", "-c", cluster_size, path)
            self.write(64, struct.pack("<Q", partition_offset))
        self._load()

    def _load(self) -> None:
        fat, _, heap, self.cluster_count, self.root = struct.unpack("<5I", self.read(80, 20))
        self.fat_offset = fat * self.sector_size
        self.heap_offset = heap * self.sector_size
        self.cluster_size = self.sector_size << self.read(109, 1)[0]
        self.files = 0
        self.used: set[int] = set()

    def install_boot_code(self) -> None:
        """Sector 0 around its fields, stage 2 between the signatures, and the checksums."""
        code = (BOOTFILES / "exfat-vbr.bin").read_bytes()
        size = self.sector_size
        self.write(0, code[:3])
        self.write(120, code[120:512])
        room = size - 4
        for index, at in enumerate(range(512, len(code), room), 1):
            self.write(index * size, code[at : at + room])
        self.seal()

    def seal(self) -> None:
        """The checksum sector, and the backup of all 12."""
        size = self.sector_size
        region = self.read(0, 11 * size)
        total = 0
        for offset, byte in enumerate(region):
            if offset not in (106, 107, 112):
                total = ((total >> 1) + ((total & 1) << 31) + byte) & 0xFFFFFFFF
        self.write(11 * size, struct.pack("<I", total) * (size // 4))
        self.write(12 * size, self.read(0, 12 * size))

    def cluster_offset(self, cluster: int) -> int:
        return self.heap_offset + (cluster - 2) * self.cluster_size

    def fat_entry(self, cluster: int) -> int:
        return struct.unpack("<I", self.read(self.fat_offset + cluster * 4, 4))[0]

    def set_fat_entry(self, cluster: int, value: int) -> None:
        self.write(self.fat_offset + cluster * 4, struct.pack("<I", value))

    def chain(self, cluster: int) -> list[int]:
        clusters = [cluster]
        while (cluster := self.fat_entry(cluster)) != END:
            clusters.append(cluster)
        return clusters

    def set_chain(self, clusters: Sequence[int]) -> None:
        for cluster, value in zip(clusters, [*clusters[1:], END], strict=True):
            self.set_fat_entry(cluster, value)

    def free_clusters(self) -> list[int]:
        _, offset = self._bitmap()
        bits = self.read(offset, -(-self.cluster_count // 8))
        return [c + 2 for c in range(self.cluster_count) if not bits[c // 8] >> c % 8 & 1]

    def add_file(
        self,
        name: str,
        data: bytes,
        clusters: Sequence[int] | None = None,
        *,
        is_contiguous: bool = False,
        attributes: int = ARCHIVE,
        written: int | None = None,
    ) -> list[int]:
        """A file of the root; the clusters it got."""
        count = -(-len(data) // self.cluster_size)
        clusters = list(self.free_clusters()[:count] if clusters is None else clusters[:count])
        assert len(clusters) == count
        for cluster, at in zip(clusters, range(0, len(data), self.cluster_size), strict=True):
            piece = data[at : at + self.cluster_size]
            self.write(self.cluster_offset(cluster), piece.ljust(self.cluster_size, b"\0"))
        self._mark(clusters)
        if clusters and not is_contiguous:
            self.set_chain(clusters)
        flags = (1 if clusters else 0) | (2 if is_contiguous else 0)
        first = clusters[0] if clusters else 0
        written = len(data) if written is None else written
        units = name.encode("utf-16-le")
        parts = [units[at : at + 30] for at in range(0, len(units), 30)]
        file = struct.pack("<BBHHH", FILE, 1 + len(parts), 0, attributes, 0) + TIME * 3
        entries = bytearray(file + struct.pack("<BBBBB", 0, 0, 0x80, 0x80, 0x80) + bytes(7))
        stream = (0xC0, flags, 0, len(units) // 2, _sum16(name.upper().encode("utf-16-le")), 0)
        entries += struct.pack("<BBBBHHQIIQ", *stream, written, 0, first, len(data))
        for part in parts:
            entries += b"\xc1\0" + part.ljust(30, b"\0")
        entries[2:4] = struct.pack("<H", _sum16(bytes(entries[4:]), _sum16(bytes(entries[:2]))))
        self.add_entries(bytes(entries))
        self.files += 1
        return clusters

    def add_entries(self, entries: bytes) -> None:
        """At the end of the root directory, which grows by free clusters, the last ones first."""
        root = self.chain(self.root)
        for at in range(0, len(entries), 32):
            end = self.root_end()
            if end is None:
                grown = self.free_clusters()[-1 if len(root) % 2 else -7]
                self.write(self.cluster_offset(grown), bytes(self.cluster_size))
                self._mark([grown])
                root.append(grown)
                self.set_chain(root)
                end = self.cluster_offset(grown)
            self.write(end, entries[at : at + 32])

    def root_end(self) -> int | None:
        for cluster in self.chain(self.root):
            data = self.read(self.cluster_offset(cluster), self.cluster_size)
            for at in range(0, len(data), 32):
                if data[at] == 0:
                    return self.cluster_offset(cluster) + at
        return None

    def entry_offset(self, kind: int, *, last: bool = True) -> int:
        """Where the root directory's last entry of a type lies."""
        found = [
            self.cluster_offset(cluster) + at
            for cluster in self.chain(self.root)
            for at in range(0, self.cluster_size, 32)
            if self.read(self.cluster_offset(cluster) + at, 1)[0] == kind
        ]
        return found[-1 if last else 0]

    def check(self, data: bytes, name: str = "bootmgr", *, is_one_piece: bool = False) -> None:
        """Foreign judges: the volume is whole, and the file is what it should be.

        GRUB 2.06 follows no scattered root directory, and dissect no scattered file.
        """
        check_exfat_fsck(self.path, directories=1, files=self.files)
        if is_one_piece:
            assert read_exfat_with_dissect(self.path)[name] == data
            return
        grub = ["grub-fstest", self.path, "cat", f"/{name}"]
        assert subprocess.run(grub, capture_output=True, check=True).stdout == data

    def _bitmap(self) -> tuple[int, int]:
        at = self.entry_offset(BITMAP, last=False)
        return at, self.cluster_offset(struct.unpack("<I", self.read(at + 20, 4))[0])

    def _mark(self, clusters: Sequence[int]) -> None:
        _, offset = self._bitmap()
        for index in (cluster - 2 for cluster in clusters):
            (byte,) = self.read(offset + index // 8, 1)
            self.write(offset + index // 8, bytes((byte | 1 << index % 8,)))


def _sum16(data: bytes, total: int = 0) -> int:
    for byte in data:
        total = ((total >> 1) + ((total & 1) << 15) + byte) & 0xFFFF
    return total
