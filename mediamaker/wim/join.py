# SPDX-License-Identifier: GPL-3.0-or-later
"""``wim join``: the parts of a split WIM into one file, moved as they are."""

from __future__ import annotations

import os
import secrets
import threading
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from mediamaker.errors import FormatError, SourceError, UsageError
from mediamaker.execute.progress import OnEvent, ignore_event
from mediamaker.extents import FileRange, Piece
from mediamaker.formats.wim import HEADER_SIZE, parse_wim_header
from mediamaker.plan.assemble import WimContents
from mediamaker.plan.join import join_wim
from mediamaker.sources.identity import SourceFile, identify
from mediamaker.sources.reader import SourceReader
from mediamaker.sources.wim import read_wim
from mediamaker.sources.wim_solid import read_solid_tables
from mediamaker.wim.output import check_outputs, open_output
from mediamaker.wim.part_names import locate_parts
from mediamaker.wim.split_file import (
    check_not_sources,
    is_padding_small,
    padding_size,
)
from mediamaker.wim.write_pieces import (
    Content,
    check_room,
    find_share_alignment,
    write_contents,
)


@dataclass(frozen=True, slots=True, kw_only=True)
class JoinResult:
    """What was made. ``shared_size`` bytes take no room of their own; sizes are bytes."""

    path: Path
    size: int
    guid: bytes
    part_paths: tuple[Path, ...]
    is_solid: bool
    shared_size: int
    copied_size: int


def join_wim_files(
    first: Path,
    out: Path,
    *,
    parts: Sequence[Path] | None = None,
    share: bool = True,
    replace: bool = False,
    guid: bytes | None = None,
    on_event: OnEvent = ignore_event,
    cancel: threading.Event | None = None,
) -> JoinResult:
    """One WIM at ``out`` of the split one that ``first``, any of its parts, is of.

    The others are ``parts``, or are found by name beside it. Nothing is recompressed; what is in
    the resources is not looked at (``wim verify`` does).

    Raises:
        MediaError: parts are missing or of another WIM, or the output doesn't do;
            KeyboardInterrupt: ``cancel`` was set. Neither leaves anything behind.
    """
    guid = secrets.token_bytes(16) if guid is None else guid
    paths = (first, *parts) if parts is not None else find_parts(first)
    check_not_sources(paths, [out])
    check_outputs([out], replace=replace)
    sources = [identify(str(number), path) for number, path in enumerate(paths, 1)]
    with SourceReader(sources) as reader:
        contents = [
            _read_contents(source, reader, path)
            for source, path in zip(sources, paths, strict=True)
        ]
        names = [str(path) for path in paths]
        directory = Path(os.path.realpath(out)).parent
        alignment = find_share_alignment(reader, "1", directory) if share else None
        joined = join_wim(contents, names, guid, alignment=alignment or 1)
        if alignment and not is_padding_small(padding_size(joined), joined.size, alignment):
            joined, alignment = join_wim(contents, names, guid), None
        if not alignment:
            check_room(joined.size, directory)
        with open_output(out, replace=replace) as partial_path:
            written = write_contents(
                [Content(partial_path, str(out), joined.size, joined.pieces)],
                reader,
                share_alignment=alignment,
                on_event=on_event,
                cancel=cancel,
            )
    return JoinResult(
        path=out,
        size=joined.size,
        guid=guid,
        part_paths=tuple(paths),
        is_solid=any(part.wim.is_solid for part in contents),
        shared_size=written.shared_size,
        copied_size=written.copied_size,
    )


def find_parts(part: Path) -> tuple[Path, ...]:
    """All parts of the set that ``part``, any of them, is of, in order; they lie beside it.

    Raises:
        FormatError: not a WIM, or not named like a part; SourceError: a part is not there.
        UsageError: it is not split.
    """
    source = identify("first", part)
    with SourceReader([source]) as reader:
        data = reader.pread("first", 0, min(HEADER_SIZE, source.size))
    header = parse_wim_header(data, what=str(part))
    if header.part_count == 1:
        raise UsageError(f"{part} is not split: it is the whole WIM")
    located = locate_parts(part, header)
    if not located:
        raise FormatError(
            f"{part} is part {header.part_number} of {header.part_count}, which its name does not "
            "tell",
            hint="name the first part; the others are found beside it",
        )
    found = []
    for number, (expected, actual) in enumerate(located, 1):
        if actual is None:
            raise SourceError(
                f"{part}: part {number} of {header.part_count} is missing: expected {expected}",
                hint="put all parts in one folder",
            )
        found.append(actual)
    return tuple(found)


def _read_contents(source: SourceFile, reader: SourceReader, path: Path) -> WimContents:
    pieces = (Piece(source.size, FileRange(source.source_id, 0)),) if source.size else ()
    wim = read_wim(pieces, source.size, reader, str(path))
    tables = read_solid_tables(wim, pieces, reader, str(path))
    return WimContents(wim, pieces, tables, str(path))
