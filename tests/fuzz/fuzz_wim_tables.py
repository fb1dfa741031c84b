# SPDX-License-Identifier: GPL-3.0-or-later
"""The tables of a WIM one by one: XML, integrity, blob table with solid headers.

The first byte says which one the rest is.
"""

from mediamaker.formats.wim import (
    HEADER_SIZE,
    ResourceHeader,
    WimHeader,
    pack_integrity_table,
    parse_integrity_table,
)
from mediamaker.formats.wim_blobs import parse_blob_table, parse_solid_header
from mediamaker.formats.wim_file import find_solid_resources, live_rows, parse_wim_tables
from mediamaker.formats.wim_solid import find_solid_runs
from mediamaker.formats.wim_xml import WimImageInfo, pack_wim_xml, parse_wim_xml
from tests.fuzz import runner
from tests.fuzz.rule import refused

FILE_SIZE = 1 << 20


def test_one_input(data):
    kind, rest = data[:1], data[1:]
    with refused():
        if kind == b"x":
            _xml(b"\xff\xfe" + rest.decode("utf-8", "replace").encode("utf-16-le"))
        elif kind == b"X":
            _xml(rest)
        elif kind == b"i":
            table = parse_integrity_table(rest)
            assert pack_integrity_table(table) == rest
        else:
            _tables(rest)


def _xml(data):
    images = parse_wim_xml(data)
    assert [image.number for image in images] == list(range(1, len(images) + 1))
    with refused():
        parse_wim_xml(pack_wim_xml(images))


def _tables(rows):
    """One byte for the part, 16 for a solid header, then rows of 50 bytes."""
    part, solid_data, rows = rows[:1], rows[1:17], rows[17:]
    part_number = 2 if part == b"2" else 1
    table = parse_blob_table(rows)
    image_count = sum(1 for _, row in live_rows(table, part_number) if row[0] >> 57 & 1)
    images = [WimImageInfo(number=number, name="n") for number in range(1, image_count + 1)]
    header = WimHeader(
        flags=0x40002,
        chunk_size=32768,
        guid=bytes(16),
        part_number=part_number,
        part_count=2,
        image_count=image_count,
        blob_table=ResourceHeader(len(rows), 0, HEADER_SIZE, len(rows)),
        xml=ResourceHeader(10, 0, HEADER_SIZE + len(rows), 10),
    )
    solid = find_solid_resources(table, part_number)
    wim = parse_wim_tables(
        header,
        blob_table=rows,
        xml=pack_wim_xml(images),
        size=FILE_SIZE,
        solid_headers=[parse_solid_header(solid_data, item.size_in_wim) for item in solid],
    )
    for run in find_solid_runs(wim):
        for index in run.rows:
            blob = wim.blobs[index]
            taken = sum(size for *_, size in run.segments(blob.offset, blob.size_in_wim))
            assert taken == blob.size_in_wim


def main():
    runner.start("fuzz_wim_tables")


if __name__ == "__main__":
    main()
