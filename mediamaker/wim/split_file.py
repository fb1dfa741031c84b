# SPDX-License-Identifier: GPL-3.0-or-later
"""``wim split``: one WIM file into parts as files, at once where the file system shares blocks."""

from __future__ import annotations

import os
import secrets
import threading
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

from mediamaker.errors import NotRepresentableError, TargetRefusedError, UsageError
from mediamaker.execute.progress import OnEvent, ignore_event
from mediamaker.extents import FileRange, Piece, Zeros
from mediamaker.formats.wim import HEADER_SIZE
from mediamaker.plan.split import WimPart, split_wim
from mediamaker.plan.split_solid import split_solid_wim
from mediamaker.sources.identity import identify
from mediamaker.sources.reader import SourceReader
from mediamaker.sources.wim import WimFile, read_wim
from mediamaker.sources.wim_solid import read_solid_tables
from mediamaker.wim.output import check_outputs, open_outputs
from mediamaker.wim.part_names import part_paths
from mediamaker.wim.stale_parts import find_stale_parts, remove_stale_parts
from mediamaker.wim.write_pieces import (
    Content,
    check_room,
    find_share_alignment,
    write_contents,
)

_SOURCE_ID = "wim"
_PADDING_SHARE_MAX = 100
"""Holes that let blocks be shared may add one part in so many to the size."""


@dataclass(frozen=True, slots=True, kw_only=True)
class SplitResult:
    """What was made. ``shared_size`` bytes take no room of their own; sizes are bytes.

    ``removed_paths`` were further parts of the set that was replaced.
    """

    paths: tuple[Path, ...]
    sizes: tuple[int, ...]
    guid: bytes
    is_solid: bool
    shared_size: int
    copied_size: int
    removed_paths: tuple[Path, ...] = ()


def split_wim_file(
    path: Path,
    out: Path,
    part_size_max: int,
    *,
    solid: bool = False,
    share: bool = True,
    replace: bool = False,
    guid: bytes | None = None,
    on_event: OnEvent = ignore_event,
    cancel: threading.Event | None = None,
) -> SplitResult:
    """Parts of the WIM at ``path``: ``out`` (as ``install.swm``), ``install2.swm``, ...

    None has more than ``part_size_max`` bytes. ``solid`` allows solid resources to be cut, which
    is experimental; ``share`` shares blocks with the source if the file system can, for which
    holes lie before some resources. All parts appear at the end, the first one last.

    Raises:
        MediaError: the source, the sizes or the outputs don't do; KeyboardInterrupt: ``cancel``
            was set. Neither leaves anything behind.
    """
    if part_size_max <= 0:
        raise UsageError(f"parts of {part_size_max} bytes: expected at least 1")
    guid = secrets.token_bytes(16) if guid is None else guid
    source = identify(_SOURCE_ID, path)
    pieces = (Piece(source.size, FileRange(_SOURCE_ID, 0)),) if source.size else ()
    with SourceReader([source]) as reader:
        wim = read_wim(pieces, source.size, reader, str(path))
        if wim.is_solid and not solid:
            raise NotRepresentableError(
                f"{path}: its files are compressed together (solid, as in an ESD); cut into parts "
                "as it is, Windows Setup was not seen to take it",
                hint=f"make it non-solid first (mediamaker wim optimize {path} OUT.wim "
                "--for fat32), or cut it all the same with --solid",
            )
        tables = read_solid_tables(wim, pieces, reader, str(path))

        def plan(alignment: int) -> tuple[WimPart, ...]:
            if wim.is_solid:
                return split_solid_wim(
                    wim, tables, pieces, guid, part_size_max, stem=path.stem, alignment=alignment
                )
            return split_wim(wim, pieces, guid, part_size_max, stem=path.stem, alignment=alignment)

        directory = Path(os.path.realpath(out)).parent
        alignment = find_share_alignment(reader, _SOURCE_ID, directory) if share else None
        parts, alignment = _choose_plan(wim, plan, alignment, part_size_max)
        paths = part_paths(out, len(parts))
        check_not_sources([path], paths)
        check_outputs(paths, replace=replace)
        stale = find_stale_parts(paths)
        if not alignment:
            check_room(sum(part.size for part in parts), directory)
        with open_outputs(paths, replace=replace) as partial_paths:
            contents = [
                Content(partial_path, str(final_path), part.size, part.pieces)
                for partial_path, final_path, part in zip(partial_paths, paths, parts, strict=True)
            ]
            written = write_contents(
                contents, reader, share_alignment=alignment, on_event=on_event, cancel=cancel
            )
    removed = remove_stale_parts(stale)
    return SplitResult(
        paths=paths,
        sizes=tuple(part.size for part in parts),
        guid=guid,
        is_solid=wim.is_solid,
        shared_size=written.shared_size,
        copied_size=written.copied_size,
        removed_paths=removed,
    )


def check_not_sources(sources: Sequence[Path], outputs: Sequence[Path]) -> None:
    """An output may not take the place of a source.

    Raises:
        TargetRefusedError: it would.
    """
    taken = {os.path.realpath(source) for source in sources}
    for output in outputs:
        if os.path.realpath(output) in taken:
            raise TargetRefusedError(
                f"{output} is the source itself", hint="name another file as the output"
            )


def padding_size(part: WimPart) -> int:
    """Bytes of holes that are there so that blocks can be shared."""
    return sum(piece.size for piece in part.pieces if isinstance(piece.source, Zeros))


def is_padding_small(padding: int, size: int, alignment: int) -> bool:
    """Whether the holes are worth it: many small runs would make much of them."""
    # Of small files, a few holes are a large share of little.
    return padding <= max(size // _PADDING_SHARE_MAX, 16 * alignment)


def _choose_plan(
    wim: WimFile,
    plan: Callable[[int], tuple[WimPart, ...]],
    alignment: int | None,
    part_size_max: int,
) -> tuple[tuple[WimPart, ...], int | None]:
    """The parts with holes that let blocks be shared, unless that costs a part or much room."""
    if alignment is None:
        return plan(1), None
    try:
        padded = plan(alignment)
    except NotRepresentableError:
        return plan(1), None
    size = sum(part.size for part in padded)
    padding = sum(map(padding_size, padded))
    if not is_padding_small(padding, size, alignment):
        return plan(1), None
    # More than one part less could hold: no second plan is needed to tell. (A solid WIM's parts
    # repeat chunks, so their sum says less.)
    fixed_size = HEADER_SIZE + len(wim.xml)
    content_size = size - padding - len(padded) * fixed_size
    if not wim.is_solid and content_size > (len(padded) - 1) * (part_size_max - fixed_size):
        return padded, alignment
    exact = plan(1)
    return (padded, alignment) if len(padded) == len(exact) else (exact, None)
