# SPDX-License-Identifier: GPL-3.0-or-later
"""Reads where the chunks of a WIM's solid resources lie: 16 + 4n bytes of each resource."""

from __future__ import annotations

from collections.abc import Sequence

from mediamaker.errors import FormatError
from mediamaker.extents import Piece
from mediamaker.formats.wim_chunks import ChunkTable, parse_solid_chunk_table, solid_table_size
from mediamaker.formats.wim_file import WimFile
from mediamaker.sources.reader import SourceReader

SOLID_CHUNK_COUNT_MAX = 2 << 20
"""In all of a WIM's solid resources. Chunks of 64 MiB are usual; the smallest that wimlib makes
have 32 KiB, of which this many hold 64 GiB. Their places are held in memory, 8 bytes each."""


def read_solid_tables(
    wim: WimFile, pieces: Sequence[Piece], reader: SourceReader, what: str
) -> tuple[ChunkTable, ...]:
    """The chunks of each of ``wim.solid_resources``; the WIM's bytes are ``pieces``.

    Raises:
        FormatError: a table that contradicts its resource, or too many chunks; other
            SourceErrors from reading.
    """
    count = sum(solid.header.chunk_count for solid in wim.solid_resources)
    if count > SOLID_CHUNK_COUNT_MAX:
        raise FormatError(
            f"{what}: WIM solid chunks: expected at most {SOLID_CHUNK_COUNT_MAX}, got {count}"
        )
    return tuple(
        parse_solid_chunk_table(
            reader.read_pieces(pieces, solid.resource.offset, solid_table_size(solid.header)),
            solid.header,
            solid.resource.size_in_wim,
            what=f"{what}: solid resource at {solid.resource.offset:#x}",
        )
        for solid in wim.solid_resources
    )
