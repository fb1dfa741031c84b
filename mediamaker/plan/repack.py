# SPDX-License-Identifier: GPL-3.0-or-later
"""A WIM with some of its resources replaced by others of the same contents, as extents.

Every resource follows the one before; metadata first, as wimlib and DISM write them. What the
header points at moves along: tables, XML, and the metadata of the image that boots.
"""

from __future__ import annotations

from array import array
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace

from mediamaker.extents import Literal, Piece, coalesce_pieces
from mediamaker.formats.wim import (
    BLOB_ENTRY_SIZE,
    HEADER_SIZE,
    NO_RESOURCE,
    HeaderFlag,
    ResourceFlag,
    ResourceHeader,
    pack_wim_header,
)
from mediamaker.formats.wim_blobs import BLOB_ROW
from mediamaker.formats.wim_file import WimFile, live_rows, sorted_by_offset
from mediamaker.plan.split import PieceSlicer, WimPart, group_rows
from mediamaker.units import KIB

LZX_CHUNK_SIZE = 32 * KIB
"""Of replacements, and so of everything that is compressed in the file."""

_METADATA = ResourceFlag.METADATA << 56


@dataclass(frozen=True, slots=True)
class PackedResource:
    """Resources of a WIM that are stored once: where, and the rows that name them."""

    resource: ResourceHeader
    sha1: bytes
    rows: array[int]


def find_resources(wim: WimFile) -> tuple[PackedResource, ...]:
    """Every resource that is not solid: metadata in the order of the images, then by place."""
    metadata, data = array("I"), array("I")
    for index, row in live_rows(wim.blobs, wim.part_number):
        (metadata if row[0] & _METADATA else data).append(index)
    return (*_grouped(wim, metadata), *_grouped(wim, sorted_by_offset(wim.blobs, data)))


def repacked_size(wim: WimFile, resources: Sequence[PackedResource]) -> int:
    """Bytes of :func:`repack_wim`'s file with nothing replaced."""
    stored_size = sum(item.resource.size_in_wim for item in resources)
    row_count = sum(len(item.rows) for item in resources)
    return HEADER_SIZE + stored_size + BLOB_ENTRY_SIZE * row_count + len(wim.xml)


def repack_wim(
    wim: WimFile,
    pieces: Sequence[Piece],
    resources: Sequence[PackedResource],
    replacements: Mapping[int, Piece],
    *,
    name: str,
) -> WimPart:
    """The file of ``resources`` of ``wim``, whose bytes are ``pieces``, without an integrity table.

    ``replacements`` are LZX resources in chunks of :data:`LZX_CHUNK_SIZE`, by the place of those
    that they replace; ``wim`` is compressed so, or not at all.
    """
    slicer = PieceSlicer(pieces)
    made: list[Piece] = []
    table = bytearray()
    position, boot_metadata, image_number = HEADER_SIZE, NO_RESOURCE, 0
    for item in resources:
        old = item.resource
        new = replacements.get(old.offset)
        flags, size = old.flags, old.size_in_wim
        if new is None:
            made.extend(slicer.slice(old.offset, old.end))
        else:
            made.append(new)
            flags, size = flags | ResourceFlag.COMPRESSED, new.size
        for index in item.rows:
            _, _, raw_size, _, references, sha1 = wim.blobs.row(index)
            table += BLOB_ROW.pack(
                flags << 56 | size, position, raw_size, wim.part_number, references, sha1
            )
            if flags & ResourceFlag.METADATA:
                image_number += 1
                if image_number == wim.boot_index:
                    boot_metadata = ResourceHeader(size, flags, position, raw_size)
        position += size
    header = wim.header
    if replacements:
        lzx = HeaderFlag.COMPRESSION | HeaderFlag.LZX
        header = replace(header, flags=header.flags | lzx, chunk_size=LZX_CHUNK_SIZE)
    table_place = ResourceHeader(len(table), header.blob_table.flags, position, len(table))
    xml_place = header.xml._replace(offset=table_place.end)
    header = replace(
        header,
        blob_table=table_place,
        xml=xml_place,
        boot_metadata=boot_metadata,
        integrity=NO_RESOURCE,
    )
    made.insert(0, Piece(HEADER_SIZE, Literal(pack_wim_header(header))))
    made.append(Piece(len(table) + len(wim.xml), Literal(bytes(table) + wim.xml)))
    return WimPart(name, xml_place.end, coalesce_pieces(made))


def _grouped(wim: WimFile, ordered: array[int]) -> Iterator[PackedResource]:
    for rows, _, _ in group_rows(wim, ordered):
        entry = wim.blobs[rows[0]]
        yield PackedResource(entry.resource, entry.sha1, rows)
