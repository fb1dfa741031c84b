# SPDX-License-Identifier: GPL-3.0-or-later
"""What must be done to an install image before there can be a plan: slow work, told and cached.

A plan only refers to finished files. A solid install.wim over what FAT32 holds can't be split as
it is (Windows Setup has not been seen to take solid parts), so it is recompressed once, and kept.
"""

from __future__ import annotations

import argparse
import dataclasses
import threading
from dataclasses import dataclass
from pathlib import Path

from mediamaker.cli.output import Output
from mediamaker.cli.progress import ProgressView
from mediamaker.cli.wim_name import WimName, find_image
from mediamaker.errors import UsageError
from mediamaker.execute.interrupts import interrupt_sets
from mediamaker.extents import FileRange, Piece
from mediamaker.plan.build import choose_layout
from mediamaker.plan.request import Layout, MediaRequest
from mediamaker.sources.identity import identify
from mediamaker.sources.kinds import Inspection, SourceWim
from mediamaker.sources.prepared import replace_install_wim
from mediamaker.sources.reader import SourceReader
from mediamaker.sources.wim import read_wim
from mediamaker.sources.wim_solid import read_solid_tables
from mediamaker.units import format_size
from mediamaker.wim.prepare import estimate_preparation, prepare_install_wim
from mediamaker.wim.prepare_cache import default_cache_dir
from mediamaker.wim.prepare_estimate import PrepareEstimate

_FAT32_ONLY = (Layout.MBR_FAT32, Layout.GPT_FAT32)


@dataclass(frozen=True, slots=True)
class Preparation:
    """The source as it can be planned with; ``is_complete`` unless something was not prepared."""

    inspection: Inspection
    is_complete: bool = True


def prepare_source(
    args: argparse.Namespace,
    inspection: Inspection,
    request: MediaRequest,
    output: Output,
    *,
    may_prepare: bool = True,
) -> Preparation:
    """``inspection`` with install images that can be split, and only those that were chosen.

    Without ``may_prepare`` only what the cache has is used; what else there would be to do is told.

    Raises:
        UsageError: no such image; SourceError: the image can't be read; ToolError: no libwim.
        TargetTooSmallError: no room for the prepared file; says how much is needed.
    """
    _check_solid(args)
    layout = choose_layout(inspection, request)
    if layout not in _FAT32_ONLY:
        if args.images is not None:
            raise UsageError(f"--images: the layout {layout.value} takes the source as it is")
        return Preparation(inspection)
    if args.images is not None and not inspection.install_wims:
        raise UsageError(f"--images: {inspection.path} has no install.wim or install.esd")
    is_complete = True
    for source in inspection.install_wims:
        is_too_large = source.entry.size > request.part_size_max
        if args.images is None and not (is_too_large and source.wim.is_solid):
            continue
        if args.solid == "extents" and args.images is None:
            inspection = _with_solid_tables(inspection, source, output)
            continue
        estimate = _tell_estimate(args, inspection, source, output)
        if estimate.is_cached or may_prepare:
            inspection = _prepare(args, inspection, source, output)
        else:
            _tell_unprepared(source, estimate, output)
            is_complete = False
    return Preparation(inspection, is_complete)


def _check_solid(args: argparse.Namespace) -> None:
    """``--solid`` and ``--layout`` may not contradict each other."""
    fitting = {"exfat": (Layout.MBR_FAT32_EXFAT,), "extents": _FAT32_ONLY}.get(args.solid)
    if args.layout is not None and fitting is not None and args.layout not in fitting:
        layouts = " or ".join(layout.value for layout in fitting)
        raise UsageError(
            f"--solid {args.solid} is for the layout {layouts}, not {args.layout.value}",
            hint="leave out --solid or --layout",
        )


def _tell_estimate(
    args: argparse.Namespace, inspection: Inspection, source: SourceWim, output: Output
) -> PrepareEstimate:
    """Say what preparing would take, and what the other ways would save."""
    with SourceReader(inspection.tree.files) as reader:
        estimate = estimate_preparation(
            source.entry.pieces,
            source.entry.size,
            reader,
            source.path_text,
            images=_chosen(args, source),
            cache_dir=default_cache_dir(),
        )
    output.event(
        "prepare",
        path=source.path_text,
        size=source.wim.size,
        is_solid=source.wim.is_solid,
        is_cached=estimate.is_cached,
        seconds=round(estimate.seconds, 1),
        needed_size=estimate.needed_size,
        available_size=estimate.available_size,
        alternatives=[
            {
                "solid": solid,
                "saved_seconds": round(estimate.seconds, 1),
                "saved_size": estimate.needed_size,
                "is_experimental": True,
            }
            for solid in _alternatives(args, source)
        ],
    )
    kind = ", solid" if source.wim.is_solid else ""
    output.note(
        f"{source.path_text} ({format_size(source.wim.size)}{kind}) is prepared first: "
        "a non-solid copy that can be split, kept for the next time"
    )
    ways = " or ".join(f"--solid {solid}" for solid in _alternatives(args, source))
    if ways and not estimate.is_cached:
        output.note(
            f"  {ways} would save about {_minutes(estimate)} min and "
            f"{format_size(estimate.needed_size)} of room; experimental, Windows Setup has not "
            "been seen to take such media"
        )
    return estimate


def _minutes(estimate: PrepareEstimate) -> int:
    return max(1, round(estimate.seconds / 60))


def _tell_unprepared(source: SourceWim, estimate: PrepareEstimate, output: Output) -> None:
    output.result(
        f"{source.path_text} would be prepared first: about {_minutes(estimate)} min, up to "
        f"{format_size(estimate.needed_size)} of {format_size(estimate.available_size)} free in "
        f"{default_cache_dir()}"
    )
    if estimate.needed_size > estimate.available_size:
        output.warning(
            f"that is more than is free: choose fewer images with --images, or set XDG_CACHE_HOME "
            f"to a place with {format_size(estimate.needed_size)}"
        )


def _alternatives(args: argparse.Namespace, source: SourceWim) -> tuple[str, ...]:
    """Values of ``--solid`` that need no preparing; chosen editions always do."""
    if not source.wim.is_solid or args.images is not None:
        return ()
    return ("extents", "exfat") if args.layout is None else ("extents",)


def _prepare(
    args: argparse.Namespace, inspection: Inspection, source: SourceWim, output: Output
) -> Inspection:
    cancel = threading.Event()
    with (
        SourceReader(inspection.tree.files) as reader,
        interrupt_sets(cancel),
        ProgressView(output) as view,
    ):
        prepared = prepare_install_wim(
            source.entry.pieces,
            source.entry.size,
            reader,
            source.path_text,
            images=_chosen(args, source),
            cache_dir=default_cache_dir(),
            on_event=view.show,
            cancel=cancel,
        )
    how = "was ready" if prepared.is_cached else f"took {prepared.seconds:.0f} s"
    output.note(
        f"  {prepared.path} {how}: {format_size(prepared.size_after)}; the cache holds "
        f"{format_size(prepared.cache_size)}"
    )
    file = identify(f"prepared/{source.path_text}", prepared.path)
    with SourceReader([file]) as reader:
        pieces = (Piece(file.size, FileRange(file.source_id, 0)),)
        wim = read_wim(pieces, file.size, reader, str(prepared.path))
    return replace_install_wim(inspection, source, file, wim)


def _with_solid_tables(inspection: Inspection, source: SourceWim, output: Output) -> Inspection:
    output.warning(
        f"{source.path_text} is cut between its chunks (--solid extents): experimental, "
        "Windows Setup has not been seen to take such parts"
    )
    with SourceReader(inspection.tree.files) as reader:
        tables = read_solid_tables(source.wim, source.entry.pieces, reader, source.path_text)
    cut = dataclasses.replace(source, solid_tables=tables)
    wims = tuple(cut if item is source else item for item in inspection.install_wims)
    return dataclasses.replace(inspection, install_wims=wims)


def _chosen(args: argparse.Namespace, source: SourceWim) -> tuple[int, ...] | None:
    if args.images is None:
        return None
    path = Path(source.path_text)
    return tuple(
        find_image(WimName(path, item.strip()), source.wim.images)
        for item in str(args.images).split(",")
    )
