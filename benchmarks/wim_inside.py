# SPDX-License-Identifier: GPL-3.0-or-later
"""What ``wim.py`` times without the start of the interpreter; each call is a process of its own.

``wim_inside.py plan WIM ANSWER`` | ``split WIM FOLDER PART_SIZE ANSWER``: seconds go into the
file ANSWER. ``synthetic WIM COUNT`` makes tables to plan with, ``describe WIM`` prints a line.
"""

from __future__ import annotations

import random
import re
import sys
import time
from pathlib import Path

from mediamaker.extents import FileRange, Piece
from mediamaker.formats.wim import (
    HEADER_SIZE,
    HeaderFlag,
    ResourceFlag,
    ResourceHeader,
    WimHeader,
    pack_wim_header,
)
from mediamaker.formats.wim_blobs import BLOB_ROW
from mediamaker.formats.wim_xml import WimImageInfo, pack_wim_xml
from mediamaker.plan.split import split_wim
from mediamaker.sources.identity import identify
from mediamaker.sources.reader import SourceReader
from mediamaker.sources.wim import read_wim
from mediamaker.wim.split_file import split_wim_file


def time_split(wim: Path, folder: Path, part_size: int) -> float:
    """Seconds of the split itself: from the finished plan to the last name of a part."""
    starts = []
    split_wim_file(
        wim, folder / "a.swm", part_size, on_event=lambda _: starts.append(time.perf_counter())
    )
    return time.perf_counter() - starts[0]


def time_plan(wim: Path) -> float:
    """The best of five: read the tables, decide which blob goes where, describe the parts."""
    seconds = []
    source = identify("wim", wim)
    pieces = (Piece(source.size, FileRange("wim", 0)),)
    for _ in range(5):
        start = time.perf_counter()
        with SourceReader([source]) as reader:
            read = read_wim(pieces, source.size, reader, wim.name)
        parts = split_wim(read, pieces, bytes(16), source.size // 3)
        seconds.append(time.perf_counter() - start)
        assert len(parts) > 1
    return min(seconds)


def write_synthetic_wim(path: Path, count: int) -> None:
    """Tables as DISM leaves them, in no order, over resources that are one hole."""
    numbers = list(range(1, count))
    random.Random(1).shuffle(numbers)
    size = 50_000
    metadata_flags = ResourceFlag.METADATA | ResourceFlag.COMPRESSED
    table = bytearray(
        BLOB_ROW.pack(size | metadata_flags << 56, HEADER_SIZE, 2 * size, 1, 1, b"\xff" * 20)
    )
    for number in numbers:
        offset = HEADER_SIZE + number * size
        word = size | ResourceFlag.COMPRESSED << 56
        table += BLOB_ROW.pack(word, offset, 2 * size, 1, 1, number.to_bytes(20, "big"))
    xml = pack_wim_xml([WimImageInfo(number=1, name="synthetic")])
    table_offset = HEADER_SIZE + count * size
    xml_offset = table_offset + len(table)
    header = WimHeader(
        flags=HeaderFlag.COMPRESSION | HeaderFlag.LZX,
        chunk_size=32768,
        guid=bytes(16),
        image_count=1,
        blob_table=ResourceHeader(len(table), ResourceFlag.METADATA, table_offset, len(table)),
        xml=ResourceHeader(len(xml), ResourceFlag.METADATA, xml_offset, len(xml)),
    )
    with path.open("wb") as file:
        file.write(pack_wim_header(header))
        file.seek(table_offset)
        file.write(bytes(table) + xml)


def describe(wim: Path) -> str:
    size = wim.stat().st_size
    source = identify("wim", wim)
    pieces = (Piece(size, FileRange("wim", 0)),)
    with SourceReader([source]) as reader:
        read = read_wim(pieces, size, reader, wim.name)
    xml = read.xml.decode("utf-16")
    files = sum(map(int, re.findall(r"<FILECOUNT>(\d+)<", xml)))
    raw = sum(image.total_bytes or 0 for image in read.images)
    return (
        f"{size / (1 << 30):.2f} GiB {read.compression}, {len(read.images)} images, "
        f"{files} files, {len(read.blobs)} blobs, {raw / (1 << 30):.2f} GiB raw"
    )


def main() -> None:
    what, path, *words = sys.argv[1:]
    wim = Path(path)
    match what:
        case "plan":
            Path(words[0]).write_text(str(time_plan(wim)))
        case "split":
            Path(words[2]).write_text(str(time_split(wim, Path(words[0]), int(words[1]))))
        case "synthetic":
            write_synthetic_wim(wim, int(words[0]))
        case "describe":
            print(describe(wim))
        case _:
            sys.exit(__doc__)


if __name__ == "__main__":
    main()
