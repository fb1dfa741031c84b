# SPDX-License-Identifier: GPL-3.0-or-later
"""NTFS volumes for the tests of our boot code: made by mkntfs, filled through ntfs-3g.

Neither of them can be made to scatter a file as years of use do, so :meth:`NtfsVolume.scatter`
moves clusters itself: ``$MFT``, a directory or a file in any number of runs, its attributes in
any number of records. ntfs-3g and ntfsfix judge that the volume is still one and holds the same.
Our boot code is put in by plain byte copies: none of our own writers has a part in it.

Reference: the Linux-NTFS project's documentation (FILE record, attributes, data runs).
"""

from __future__ import annotations

import hashlib
import re
import struct
import subprocess
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from itertools import pairwise
from pathlib import Path

from bootcode_disk import BOOTFILES, VolumeFile, run

FIXED_RECORDS = 24
LIST, NAME, DATA, ALLOCATION, BITMAP = 0x20, 0x30, 0x80, 0xA0, 0xB0
MFT, MIRROR, CLUSTERS, ROOT = 0, 1, 6, 5
STRIDE = 512
IN_USE = 1
FIRST_PART_RUNS = 40
Run = tuple[int, int]
"""First cluster and number of clusters."""


class NtfsVolume(VolumeFile):
    """An NTFS volume in a file of its own."""

    def __init__(
        self,
        path: Path,
        *,
        size: int = 12 << 20,
        cluster_size: int = 4096,
        sector_size: int = 512,
        hidden: int = 0,
    ) -> None:
        super().__init__(path, sector_size)
        self.cluster_size = cluster_size
        with path.open("xb") as file:
            file.truncate(size)
        options = f"-q -F -Q -c {cluster_size} -s {sector_size} -p {hidden} -H 255 -S 63"
        run("mkntfs", *options.split(), path)
        self.mft_offset = struct.unpack("<Q", self.read(0x30, 8))[0] * cluster_size
        size_code = struct.unpack("<b", self.read(0x40, 1))[0]
        self.record_size = 1 << -size_code if size_code < 0 else size_code * cluster_size

    def install_boot_code(self) -> None:
        """$Boot around the BPB, and the copy of its first sector in the volume's last one."""
        code = (BOOTFILES / "ntfs-vbr.bin").read_bytes()
        self.write(0, code[:3])
        self.write(0x54, code[0x54:])
        last = struct.unpack("<Q", self.read(0x28, 8))[0]
        self.write(last * self.sector_size, self.read(0, 512))

    @contextmanager
    def mounted(self, *options: str) -> Iterator[Path]:
        """The volume as ntfs-3g shows it."""
        place = self.path.with_name("mounted")
        place.mkdir(exist_ok=True)
        extra = [part for option in options for part in ("-o", option)]
        run("ntfs-3g", *extra, self.path, place)
        try:
            yield place
        finally:
            run("umount", place)

    def copy_in(self, data: bytes, name: str = "bootmgr") -> int:
        """A file, and the number of its record."""
        with self.mounted() as place:
            (place / name).write_bytes(data)
            return (place / name).stat().st_ino

    def check(self, data: bytes, name: str = "bootmgr") -> None:
        """Foreign judges: the volume is whole, and the file is what it should be."""
        run("ntfsfix", "-n", self.path)
        got = subprocess.run(["ntfscat", self.path, name], capture_output=True, check=True).stdout
        assert hashlib.sha256(got).digest() == hashlib.sha256(data).digest()

    def count_runs(self, number: int) -> int:
        """Runs of all attributes of a record, as ntfsinfo sees them."""
        return len(re.findall(r"(?m)^\t\t\t0x[0-9a-f]+\t\t0x", self.info(number)))

    def info(self, number: int) -> str:
        return run("ntfsinfo", "-v", "-i", number, self.path)

    # ---- records

    def record_offset(self, number: int) -> int:
        """Where a record lies; it never crosses a run here."""
        at = number * self.record_size
        for offset, size in self._pieces(self.runs(MFT, DATA, record=self._first_record())):
            if at < size:
                return offset + at
            at -= size
        raise LookupError(number)

    def record(self, number: int) -> bytearray:
        return self._unfix(self.read(self.record_offset(number), self.record_size))

    def write_record(self, number: int, record: bytes) -> None:
        fixed = self._fix(record)
        self.write(self.record_offset(number), fixed)
        if number < 4:
            (first, _), *_ = self.runs(MIRROR, DATA)
            self.write(first * self.cluster_size + number * self.record_size, fixed)

    def attributes(self, record: bytes) -> list[bytes]:
        found, at = [], struct.unpack_from("<H", record, 0x14)[0]
        while (kind := struct.unpack_from("<I", record, at)[0]) != 0xFFFFFFFF:
            length = struct.unpack_from("<I", record, at + 4)[0]
            assert kind
            found.append(bytes(record[at : at + length]))
            at += length
        return found

    def attribute_offset(self, number: int, kind: int) -> int:
        """Where the first attribute of a kind lies in the volume."""
        record = self.record(number)
        at = struct.unpack_from("<H", record, 0x14)[0]
        for attribute in self.attributes(record):
            if struct.unpack_from("<I", attribute)[0] == kind:
                return self.record_offset(number) + at
            at += len(attribute)
        raise LookupError(kind)

    def runs(self, number: int, kind: int, *, record: bytes | None = None) -> list[Run]:
        """The runs of an attribute that is in one piece."""
        record = self.record(number) if record is None else record
        (attribute,) = (
            a for a in self.attributes(record) if struct.unpack_from("<I", a)[0] == kind
        )
        return _unpack_runs(attribute[struct.unpack_from("<H", attribute, 0x20)[0] :])

    # ---- what years of use do

    def scatter(
        self,
        number: int,
        kind: int = DATA,
        *,
        run_clusters: int = 1,
        records: int = 1,
        is_list_outside: bool = False,
        step: int = 2,
    ) -> None:
        """Moves an attribute into runs of ``run_clusters`` spread over the free clusters.

        ``records`` over 1 spreads its runs over that many records, led to by an attribute list,
        ``is_list_outside`` stores that list in a cluster. Runs go down and up in turn.
        """
        record = self.record(number)
        old = [c for first, count in self.runs(number, kind) for c in range(first, first + count)]
        free = self._free_clusters()
        wanted = -(-len(old) // run_clusters)
        starts = [
            at
            for at in range(0, len(free) - run_clusters, run_clusters * step)
            if free[at + run_clusters - 1] - free[at] == run_clusters - 1
        ]
        assert len(starts) > wanted
        # High and low ones in turn: distances of either sign.
        order = [starts[i // 2] if i % 2 else starts[-1 - i // 2] for i in range(wanted)]
        new = [free[at + i] for at in order for i in range(run_clusters)][: len(old)]
        if number == MFT:  # what leads to all else stays, as $MFT's first record must
            keep = -(-16 * self.record_size // self.cluster_size)
            new[:keep] = old[:keep]
        extensions = self._take_records(records - 1)
        self._mark(set(new) - set(old), is_used=True)
        self._set_runs(number, record, kind, _find_runs(new), extensions, is_list_outside)
        # Only now: records that were written lie where $MFT had them before.
        for source, target in zip(old, new, strict=True):
            data = self.read(source * self.cluster_size, self.cluster_size)
            self.write(target * self.cluster_size, data)
        self._mark(set(old) - set(new), is_used=False)

    def _set_runs(
        self,
        number: int,
        record: bytearray,
        kind: int,
        runs: list[Run],
        extensions: list[int],
        is_list_outside: bool,
    ) -> None:
        attributes = self.attributes(record)
        (old,) = (a for a in attributes if struct.unpack_from("<I", a)[0] == kind)
        # The file's own record has less room; $MFT's must reach the other records that have some.
        own = min(FIRST_PART_RUNS, len(runs)) if extensions else len(runs)
        parts = [runs[:own]]
        size = -(-(len(runs) - own) // max(len(extensions), 1))
        parts += [runs[at : at + size] for at in range(own, len(runs), max(size, 1))]
        assert len(parts) == len(extensions) + 1
        pieces, vcn = [], 0
        for part in parts:
            pieces.append(_pack_outside(old, part, vcn))
            vcn += sum(count for _, count in part)
        attributes[attributes.index(old)] = pieces[0]
        if extensions:
            own = number | struct.unpack_from("<H", record, 0x10)[0] << 48
            items = [(a, own) for a in attributes]
            for extension, piece in zip(extensions, pieces[1:], strict=True):
                data = self.record(extension)
                sequence = struct.unpack_from("<H", data, 0x10)[0]
                struct.pack_into(
                    "<HHH", data, 0x12, 0, *struct.unpack_from("<H", data, 0x14), IN_USE
                )
                struct.pack_into("<Q", data, 0x20, own)
                self.write_record(extension, self._with_attributes(data, [piece]))
                items.append((piece, extension | sequence << 48))
            items.sort(key=lambda item: struct.unpack_from("<I", item[0])[0])
            packed = b"".join(_pack_item(*item) for item in items)
            attributes.append(self._pack_list(packed, is_list_outside))
            attributes.sort(key=lambda a: struct.unpack_from("<I", a)[0])
        self.write_record(number, self._with_attributes(record, attributes))

    def _pack_list(self, items: bytes, is_outside: bool) -> bytes:
        if not is_outside:
            padded = items.ljust(-(-len(items) // 8) * 8, b"\0")
            header = struct.pack(
                "<IIBBHHHIHH", LIST, 24 + len(padded), 0, 0, 24, 0, 99, len(items), 24, 0
            )
            return header + padded
        count = -(-len(items) // self.cluster_size)
        free = self._free_clusters()
        clusters = free[-5 * count :: 3][:count]
        for cluster, at in zip(clusters, range(0, len(items), self.cluster_size), strict=True):
            piece = items[at : at + self.cluster_size]
            self.write(cluster * self.cluster_size, piece.ljust(self.cluster_size, b"\0"))
        self._mark(set(clusters), is_used=True)
        size = count * self.cluster_size
        blank = struct.pack("<IIBBHHH", LIST, 0, 1, 0, 0x40, 0, 99) + bytes(0x18)
        blank += struct.pack("<QQQ", size, len(items), len(items))
        return _pack_outside(blank, _find_runs(clusters), 0)

    def _with_attributes(self, record: bytes, attributes: Sequence[bytes]) -> bytearray:
        start = struct.unpack_from("<H", record, 0x14)[0]
        body = b"".join(attributes) + b"\xff\xff\xff\xff" + bytes(4)
        assert start + len(body) <= self.record_size
        changed = bytearray((bytes(record[:start]) + body).ljust(self.record_size, b"\0"))
        struct.pack_into("<I", changed, 0x18, start + len(body))
        struct.pack_into("<H", changed, 0x28, 100)  # the next attribute's id
        return changed

    def _take_records(self, count: int) -> list[int]:
        """Records that were in use once, low numbers first: $MFT's runs must reach them."""
        (first, clusters), *_ = self.runs(MFT, BITMAP)
        where = first * self.cluster_size
        bits = bytearray(self.read(where, clusters * self.cluster_size))
        taken: list[int] = []
        number = FIXED_RECORDS
        while len(taken) < count:
            if not bits[number // 8] >> number % 8 & 1:
                record = self.record(number)
                assert record[:4] == b"FILE"
                assert not record[0x16] & IN_USE
                taken.append(number)
                bits[number // 8] |= 1 << number % 8
            number += 1
        self.write(where, bytes(bits))
        return taken

    def _free_clusters(self) -> list[int]:
        bits = b"".join(self.read(*piece) for piece in self._pieces(self.runs(CLUSTERS, DATA)))
        count = struct.unpack("<Q", self.read(0x28, 8))[0] * self.sector_size // self.cluster_size
        return [c for c in range(count) if not bits[c // 8] >> c % 8 & 1]

    def _mark(self, clusters: set[int], *, is_used: bool) -> None:
        pieces = list(self._pieces(self.runs(CLUSTERS, DATA)))
        bits = bytearray(b"".join(self.read(*piece) for piece in pieces))
        for cluster in clusters:
            bits[cluster // 8] &= ~(1 << cluster % 8)
            bits[cluster // 8] |= is_used << cluster % 8
        for offset, size in pieces:
            self.write(offset, bytes(bits[:size]))
            del bits[:size]

    def _pieces(self, runs: Sequence[Run]) -> Iterator[Run]:
        for first, count in runs:
            yield first * self.cluster_size, count * self.cluster_size

    def _first_record(self) -> bytearray:
        return self._unfix(self.read(self.mft_offset, self.record_size))

    def _unfix(self, data: bytes) -> bytearray:
        fixed = bytearray(data)
        offset, count = struct.unpack_from("<HH", data, 4)
        for index in range(1, count):
            assert data[index * STRIDE - 2 : index * STRIDE] == data[offset : offset + 2]
            fixed[index * STRIDE - 2 : index * STRIDE] = data[offset + 2 * index :][:2]
        return fixed

    def _fix(self, data: bytes) -> bytes:
        fixed = bytearray(data)
        offset, count = struct.unpack_from("<HH", data, 4)
        for index in range(1, count):
            fixed[offset + 2 * index : offset + 2 * index + 2] = data[index * STRIDE - 2 :][:2]
            fixed[index * STRIDE - 2 : index * STRIDE] = data[offset : offset + 2]
        return bytes(fixed)


def _unpack_runs(data: bytes) -> list[Run]:
    found, at, cluster = [], 0, 0
    while data[at]:
        middle = at + 1 + (data[at] & 15)
        end = middle + (data[at] >> 4)
        cluster += int.from_bytes(data[middle:end], "little", signed=True)
        found.append((cluster, int.from_bytes(data[at + 1 : middle], "little")))
        at = end
    return found


def _find_runs(clusters: Sequence[int]) -> list[Run]:
    starts = [0] + [i for i, (a, b) in enumerate(pairwise(clusters), 1) if b != a + 1]
    ends = [*starts[1:], len(clusters)]
    return [(clusters[start], end - start) for start, end in zip(starts, ends, strict=True)]


def _pack_number(value: int) -> bytes:
    size = value.bit_length() // 8 + 1
    return value.to_bytes(size, "little", signed=True)


def _pack_outside(old: bytes, runs: Sequence[Run], vcn: int) -> bytes:
    """A part of a non-resident attribute, from ``vcn`` on."""
    name_size = old[9]
    name = old[struct.unpack_from("<H", old, 10)[0] :][: 2 * name_size]
    packed, cluster = bytearray(), 0
    for first, count in runs:
        length, distance = _pack_number(count), _pack_number(first - cluster)
        packed += bytes((len(distance) << 4 | len(length),)) + length + distance
        cluster = first
    packed += b"\0"
    header = bytearray(old[:0x40])
    runs_offset = 0x40 + -(-len(name) // 8) * 8
    length = runs_offset + -(-len(packed) // 8) * 8
    last = vcn + sum(count for _, count in runs) - 1
    struct.pack_into("<I", header, 4, length)
    struct.pack_into("<H", header, 10, 0x40)
    struct.pack_into("<QQH", header, 0x10, vcn, last, runs_offset)
    if vcn:
        header[0x28:0x40] = bytes(0x18)
    return (bytes(header) + name.ljust(runs_offset - 0x40, b"\0") + packed).ljust(length, b"\0")


def _pack_item(attribute: bytes, reference: int) -> bytes:
    """An item of an attribute list."""
    kind, _, is_outside, name_size, name_offset, _, attribute_id = struct.unpack_from(
        "<IIBBHHH", attribute
    )
    vcn = struct.unpack_from("<Q", attribute, 0x10)[0] if is_outside else 0
    name = attribute[name_offset : name_offset + 2 * name_size]
    length = -(-(26 + len(name)) // 8) * 8
    item = struct.pack("<IHBBQQH", kind, length, name_size, 26, vcn, reference, attribute_id)
    return (item + name).ljust(length, b"\0")
