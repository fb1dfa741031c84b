# SPDX-License-Identifier: GPL-3.0-or-later
"""Maps of whole disks: sectors with their numbers (16 bits), the rest of 8 MiB being zero."""

from mediamaker.sources.disk_map import map_disk
from mediamaker.units import MIB
from tests.fuzz import runner
from tests.fuzz.rule import refused

SECTOR_SIZE = 512
DISK_SIZE = 8 * MIB
_EMPTY = (bytes(SECTOR_SIZE), b"\xff" * SECTOR_SIZE)


def test_one_input(data):
    disk = unpack(data)

    def pread(offset, size):
        return bytes(memoryview(disk)[offset : offset + size])

    with refused():
        found = map_disk(pread, DISK_SIZE, "disk")
        position = 0
        for part in found.locate(0, DISK_SIZE):
            assert part.start == position < part.end
            position = part.end
        assert position == DISK_SIZE
        for volume in found.volumes:
            for item in volume.files.items:
                assert sum(size for _, size in item.pieces) <= max(item.size, 0), item


def pack(image):
    """An input for ``image``; sectors of zeros or ones are left out."""
    packed = b""
    for number in range(min(len(image), DISK_SIZE) // SECTOR_SIZE):
        sector = image[number * SECTOR_SIZE : (number + 1) * SECTOR_SIZE]
        if sector not in _EMPTY:
            packed += number.to_bytes(2, "little") + sector
    return packed


def unpack(data):
    disk = bytearray(DISK_SIZE)
    step = 2 + SECTOR_SIZE
    for at in range(0, len(data), step):
        number = int.from_bytes(data[at : at + 2], "little") % (DISK_SIZE // SECTOR_SIZE)
        sector = data[at + 2 : at + step]
        disk[number * SECTOR_SIZE : number * SECTOR_SIZE + len(sector)] = sector
    return disk


def main():
    runner.start("fuzz_disk_map")


if __name__ == "__main__":
    main()
