# SPDX-License-Identifier: GPL-3.0-or-later
"""``mediamaker wim cache``: the WIMs that were prepared for sticks, listed or removed."""

from __future__ import annotations

import argparse
from datetime import UTC, datetime

from mediamaker.cli.output import Output
from mediamaker.cli.wim_work import working
from mediamaker.errors import ExitCode
from mediamaker.units import format_size
from mediamaker.wim.prepare_cache import CachedWim, clear_cache, default_cache_dir, list_cache


def add_cache_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the arguments of ``cache``."""
    parser.add_argument(
        "--clear", action="store_true", help="remove them; the next stick prepares anew"
    )


def run_cache(args: argparse.Namespace, output: Output) -> ExitCode:
    """List what the cache holds, and with ``--clear`` remove it."""
    directory = default_cache_dir()
    entries = list_cache(directory)
    cleared_size = 0
    if args.clear:
        with working(output) as work:
            cleared_size = clear_cache(directory, on_event=work.on_event, cancel=work.cancel)
    output.event(
        "wim-cache",
        directory=str(directory),
        is_cleared=args.clear,
        cleared_size=cleared_size,
        entries=[
            {
                "path": str(entry.path),
                "size": entry.size,
                "mtime_ns": entry.mtime_ns,
                "is_usable": entry.is_usable,
                "images": list(entry.image_names),
            }
            for entry in entries
        ],
    )
    lines = [_show(entry) for entry in entries]
    total = sum(entry.size for entry in entries)
    lines.append(
        f"{directory}: {format_size(cleared_size)} removed"
        if args.clear
        else f"{directory}: {len(entries)} prepared WIMs, {format_size(total)}"
    )
    output.result("\n".join(lines))
    return ExitCode.DONE


def _show(entry: CachedWim) -> str:
    made = f"{datetime.fromtimestamp(entry.mtime_ns // 10**9, UTC):%Y-%m-%d %H:%M}"
    state = ", ".join(entry.image_names) if entry.is_usable else "unfinished or changed"
    return f"{format_size(entry.size):>10}  {made}  {entry.path.name}  {state}"
