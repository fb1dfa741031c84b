# SPDX-License-Identifier: GPL-3.0-or-later
"""Small WIMs, good and bad, made in code: every row of the README's "WIM" section is one case.

A case is the pieces of a file, so that a file can claim to be huge without being so.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from dataclasses import dataclass, field, replace

from mediamaker.extents import Literal, Piece, Zeros
from mediamaker.formats.wim import (
    HEADER_SIZE,
    NO_RESOURCE,
    VERSION_SOLID,
    ResourceFlag,
    ResourceHeader,
    WimHeader,
    pack_wim_header,
)
from mediamaker.formats.wim_blobs import (
    SOLID_RESOURCE_MARK,
    BlobEntry,
    SolidHeader,
    pack_blob_table,
    pack_solid_header,
)
from mediamaker.formats.wim_xml import WimImageInfo, pack_wim_xml
from mediamaker.units import GIB, MIB

METADATA = b"not a real image tree, but nothing looks inside. " * 3
CONTENTS = (b"first file " * 30, b"second file " * 50, b"third file " * 70)
U56_MAX = (1 << 56) - 1
U64_MAX = (1 << 64) - 1
GUID = bytes(range(16))


@dataclass
class WimBuilder:
    """The parts of a WIM before they are put together; a case bends one of them."""

    xml: bytes = field(
        default_factory=lambda: pack_wim_xml([WimImageInfo(number=1, name="Windows")])
    )
    body: bytes = b""
    rows: list[BlobEntry] = field(default_factory=list)
    tail: bytes = b""
    bend_header: Callable[[WimHeader], WimHeader] = lambda header: header

    def add(self, content: bytes, flags: int = 0, part: int = 1) -> None:
        """Append a resource that is stored as it is, and its row."""
        offset = HEADER_SIZE + len(self.body)
        self.body += content
        sha1 = hashlib.sha1(content).digest()
        self.rows.append(BlobEntry(len(content), flags, offset, len(content), part, 1, sha1))

    def bend_row(self, index: int, **fields: int | bytes) -> WimBuilder:
        """Change some fields of one row."""
        self.rows[index] = self.rows[index]._replace(**fields)
        return self

    def build(self) -> bytes:
        """The file."""
        table = pack_blob_table(self.rows)
        table_offset = HEADER_SIZE + len(self.body)
        header = WimHeader(
            flags=0,
            chunk_size=0,
            guid=GUID,
            image_count=1,
            blob_table=ResourceHeader(len(table), 2, table_offset, len(table)),
            xml=ResourceHeader(len(self.xml), 2, table_offset + len(table), len(self.xml)),
        )
        header = self.bend_header(header)
        return pack_wim_header(header) + self.body + table + self.xml + self.tail


def good_wim() -> WimBuilder:
    """One image, three files, nothing wrong."""
    builder = WimBuilder()
    for content in CONTENTS:
        builder.add(content)
    builder.add(METADATA, flags=ResourceFlag.METADATA)
    return builder


def _raw(data: bytes) -> tuple[Piece, ...]:
    return (Piece(len(data), Literal(data)),) if data else ()


def _patched(offset: int, data: bytes) -> tuple[Piece, ...]:
    wim = bytearray(good_wim().build())
    wim[offset : offset + len(data)] = data
    return _raw(bytes(wim))


def _header(**fields: object) -> tuple[Piece, ...]:
    builder = good_wim()
    builder.bend_header = lambda header: replace(header, **fields)
    return _raw(builder.build())


def _table(name: str, **fields: int) -> tuple[Piece, ...]:
    builder = good_wim()
    builder.bend_header = lambda header: replace(
        header, **{name: getattr(header, name)._replace(**fields)}
    )
    return _raw(builder.build())


def _row(index: int, **fields: int | bytes) -> tuple[Piece, ...]:
    return _raw(good_wim().bend_row(index, **fields).build())


def _xml(text: str) -> tuple[Piece, ...]:
    return _xml_bytes(b"\xff\xfe" + text.encode("utf-16-le"))


def _xml_bytes(data: bytes) -> tuple[Piece, ...]:
    builder = good_wim()
    builder.xml = data
    return _raw(builder.build())


def _image(body: str = "", index: object = 1) -> str:
    return f'<IMAGE INDEX="{index}">{body}</IMAGE>'


def _huge(name: str, size: int) -> tuple[Piece, ...]:
    """A file that is large enough for a table of ``size`` bytes, all zeros."""
    builder = good_wim()
    builder.bend_header = lambda header: replace(
        header, **{name: ResourceHeader(size, 2, 64 * 1024, size)}
    )
    wim = builder.build()
    return (*_raw(wim), Piece(64 * 1024 - len(wim) + size, Zeros()))


def _solid(
    raw_size: int = 1000, chunk_size: int = 4096, blob_size: int = 1000, resource_size: int = 500
) -> tuple[Piece, ...]:
    builder = good_wim()
    resource = pack_solid_header(
        SolidHeader(uncompressed_size=raw_size, chunk_size=chunk_size, compression_type=3)
    )
    offset = HEADER_SIZE + len(builder.body)
    builder.body += resource.ljust(resource_size, b"\1")
    flags = ResourceFlag.SOLID | ResourceFlag.COMPRESSED
    builder.rows += [
        BlobEntry(resource_size, flags, offset, SOLID_RESOURCE_MARK, 1, 1, bytes(20)),
        BlobEntry(blob_size, flags, 0, 0, 1, 1, b"s" * 20),
    ]
    builder.bend_header = lambda header: replace(header, version=VERSION_SOLID)
    return _raw(builder.build())


def _many_solid() -> tuple[Piece, ...]:
    builder = good_wim()
    row = BlobEntry(100, ResourceFlag.SOLID, HEADER_SIZE, SOLID_RESOURCE_MARK, 1, 1, bytes(20))
    builder.rows += [row] * 5000
    return _raw(builder.build())


def _billion_laughs() -> str:
    lines = ['<!ENTITY a0 "ha">']
    lines += [f'<!ENTITY a{n} "{f"&a{n - 1};" * 10}">' for n in range(1, 10)]
    return f"<!DOCTYPE WIM [{''.join(lines)}]><WIM>{_image('<NAME>&a9;</NAME>')}</WIM>"


def _ignored_rows() -> tuple[Piece, ...]:
    builder = good_wim()
    sha1 = b"i" * 20
    builder.rows += [
        BlobEntry(0, 0, 0, 0, 1, 1, sha1),
        BlobEntry(10, 0, U64_MAX, 10, 1, 1, bytes(20)),
        BlobEntry(10, ResourceFlag.FREE, U64_MAX, 10, 1, 1, sha1),
        BlobEntry(10, 0, U64_MAX, 10, 2, 1, sha1),
        BlobEntry(10, ResourceFlag.METADATA, U64_MAX, 10, 1, 0, sha1),
    ]
    return _raw(builder.build())


def _shared_resource() -> tuple[Piece, ...]:
    builder = good_wim()
    builder.rows.append(builder.rows[0]._replace(sha1=b"d" * 20, reference_count=0))
    return _raw(builder.build())


CASES: dict[str, Callable[[], tuple[Piece, ...]]] = {
    "empty": lambda: _raw(b""),
    "cut-in-header": lambda: _raw(good_wim().build()[:100]),
    "cut-in-data": lambda: _raw(good_wim().build()[:900]),
    "not-a-wim": lambda: _patched(0, b"MZ\x90\0\0\0\0\0"),
    "pipable": lambda: _patched(0, b"WLPWM\0\0\0"),
    "header-size": lambda: _patched(8, b"\xff\0\0\0"),
    "old-version": lambda: _header(version=0x10C00),
    "part-zero": lambda: _header(part_number=0),
    "part-past-count": lambda: _header(part_number=3, part_count=2),
    "chunk-size": lambda: _header(chunk_size=12345),
    "boot-index": lambda: _header(boot_index=2),
    "boot-metadata-past-end": lambda: _header(boot_metadata=ResourceHeader(100, 6, 1 << 40, 100)),
    "table-past-end": lambda: _table("blob_table", offset=1 << 40),
    "table-offset-wraps": lambda: _table("blob_table", offset=U64_MAX - 10),
    "table-in-header": lambda: _table("blob_table", offset=100),
    "table-compressed": lambda: _table("blob_table", flags=6),
    "table-not-whole": lambda: _table("blob_table", size_in_wim=199, uncompressed_size=199),
    "table-two-sizes": lambda: _table("blob_table", uncompressed_size=1 << 30),
    "table-u56": lambda: _table("blob_table", size_in_wim=U56_MAX, uncompressed_size=U56_MAX),
    "table-too-big": lambda: _huge("blob_table", 50 * MIB),
    "table-missing": lambda: _header(blob_table=NO_RESOURCE),
    "integrity-past-end": lambda: _header(integrity=ResourceHeader(32, 2, 1 << 33, 32)),
    "images-absurd": lambda: _header(image_count=0xFFFFFFFF),
    "images-more-in-header": lambda: _header(image_count=2),
    "images-none-in-header": lambda: _header(image_count=0),
    "images-more-in-xml": lambda: _xml(f"<WIM>{_image()}{_image(index=2)}</WIM>"),
    "images-no-metadata": lambda: _row(3, flags=0),
    "images-metadata-in-part-2": lambda: _raw(_part_two().build()),
    "images-numbered-twice": lambda: _xml(f"<WIM>{_image()}{_image()}</WIM>"),
    "images-numbered-from-7": lambda: _xml(f"<WIM>{_image(index=7)}</WIM>"),
    "images-not-numbered": lambda: _xml(f"<WIM>{_image(index='one')}</WIM>"),
    "xml-bomb": lambda: _xml(_billion_laughs()),
    "xml-doctype": lambda: _xml(f'<!DOCTYPE WIM SYSTEM "file:///etc/passwd"><WIM>{_image()}</WIM>'),
    "xml-utf8": lambda: _xml_bytes(f"<WIM>{_image()}</WIM>".encode()),
    "xml-odd": lambda: _xml_bytes(b"\xff\xfe<\0W\0I"),
    "xml-lone-surrogate": lambda: _xml_bytes(b"\xff\xfe<\0\x00\xd8>\0"),
    "xml-missing": lambda: _header(xml=NO_RESOURCE),
    "xml-cut": lambda: _xml("<WIM><IMAGE INDEX="),
    "xml-other-root": lambda: _xml("<HTML/>"),
    "xml-deep": lambda: _xml("<WIM>" + "<A>" * 5000 + "</A>" * 5000 + "</WIM>"),
    "xml-long-name": lambda: _xml(f"<WIM>{_image('<NAME>' + 'n' * 100_000 + '</NAME>')}</WIM>"),
    "xml-too-big": lambda: _huge("xml", 8 * MIB),
    "xml-encrypted-esd": lambda: _xml(f"<WIM>{_image()}<ESD><ENCRYPTED/></ESD></WIM>"),
    "blob-past-end": lambda: _row(1, offset=1 << 33),
    "blob-offset-wraps": lambda: _row(1, offset=U64_MAX),
    "blob-in-header": lambda: _row(0, offset=8),
    "blob-u56": lambda: _row(1, size_in_wim=U56_MAX, uncompressed_size=U56_MAX),
    "blob-lies-stored": lambda: _row(1, uncompressed_size=GIB),
    "blob-lies-compressed": lambda: _row(
        1, flags=ResourceFlag.COMPRESSED, uncompressed_size=1 << 60
    ),
    "blobs-overlap": lambda: _row(1, offset=HEADER_SIZE + 10),
    "blob-overlaps-table": lambda: _row(3, offset=HEADER_SIZE + 1750),
    "solid-lies": lambda: _solid(raw_size=1 << 62),
    "solid-blob-past-end": lambda: _solid(blob_size=1001),
    "solid-no-chunk-size": lambda: _solid(chunk_size=0),
    "solid-too-short": lambda: _solid(resource_size=10),
    "solid-too-many": _many_solid,
    "rows-that-count-for-nothing": _ignored_rows,
    "resource-with-two-rows": _shared_resource,
}


def _part_two() -> WimBuilder:
    builder = good_wim()
    for index in range(len(builder.rows)):
        builder.bend_row(index, part_number=2)
    builder.bend_header = lambda header: replace(header, part_number=2, part_count=2)
    return builder
