# SPDX-License-Identifier: GPL-3.0-or-later
"""Reads what a WIM says about itself, wherever its bytes lie.

The WIM may be a file, or a file inside an ISO in one or several pieces. Only its header, blob
table, XML and the first 16 bytes of each solid resource are read: some MiB of many GiB.
"""

from __future__ import annotations

from collections.abc import Sequence

from mediamaker.errors import FormatError
from mediamaker.extents import Piece
from mediamaker.formats.wim import HEADER_SIZE, check_wim_header, parse_wim_header
from mediamaker.formats.wim_blobs import (
    SOLID_HEADER_SIZE,
    parse_blob_table,
    parse_solid_header,
)
from mediamaker.formats.wim_file import WimFile, find_solid_resources, parse_wim_tables
from mediamaker.sources.reader import SourceReader

__all__ = ["WimFile", "read_wim"]


def read_wim(pieces: Sequence[Piece], size: int, reader: SourceReader, what: str) -> WimFile:
    """The WIM whose ``size`` bytes are ``pieces``; ``what`` names it in messages.

    Raises:
        FormatError: not a WIM, or one that contradicts itself; other SourceErrors from reading.
    """
    if size < HEADER_SIZE:
        raise FormatError(
            f"{what} is not a WIM file: expected at least {HEADER_SIZE} bytes, got {size}"
        )
    header = parse_wim_header(reader.read_pieces(pieces, 0, HEADER_SIZE), what=what)
    check_wim_header(header, size, what=what)
    blob_table = reader.read_pieces(pieces, header.blob_table.offset, header.blob_table.size_in_wim)
    xml = reader.read_pieces(pieces, header.xml.offset, header.xml.size_in_wim)
    table = parse_blob_table(blob_table, what=what)
    solid_headers = []
    for resource in find_solid_resources(table, header.part_number, what=what):
        if resource.size_in_wim < SOLID_HEADER_SIZE or resource.end > size:
            raise FormatError(
                f"{what}: WIM solid resource at {resource.offset:#x}: expected "
                f"{SOLID_HEADER_SIZE} bytes or more up to the end at {size:#x}, "
                f"got {resource.size_in_wim}"
            )
        solid_headers.append(
            parse_solid_header(
                reader.read_pieces(pieces, resource.offset, SOLID_HEADER_SIZE),
                resource.size_in_wim,
                what=what,
            )
        )
    return parse_wim_tables(
        header,
        blob_table=blob_table,
        xml=xml,
        size=size,
        solid_headers=solid_headers,
        what=what,
    )
