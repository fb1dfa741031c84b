# SPDX-License-Identifier: GPL-3.0-or-later
"""What the working ``wim`` sub-verbs share: progress, Ctrl-C, and telling what was left behind."""

from __future__ import annotations

import threading
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

from mediamaker.cli.output import Output
from mediamaker.cli.progress import ProgressView
from mediamaker.execute.interrupts import interrupt_sets
from mediamaker.execute.progress import OnEvent
from mediamaker.wim.meter import NotCarried


@dataclass(frozen=True, slots=True)
class Work:
    """What a long call is given."""

    on_event: OnEvent
    cancel: threading.Event


@contextmanager
def working(output: Output) -> Iterator[Work]:
    """Show progress and heed Ctrl-C for the length of the block."""
    cancel = threading.Event()
    with interrupt_sets(cancel), ProgressView(output) as view:
        yield Work(view.show, cancel)


def tell_left_behind(
    output: Output, not_carried: Sequence[NotCarried], warnings: Sequence[str]
) -> dict[str, Any]:
    """Say what could not be carried over; never silently. Gives the JSON fields of it."""
    for item in not_carried:
        some = f", for example {', '.join(item.examples)}" if item.examples else ""
        output.warning(f"not carried over: {item.what} of {item.file_count} files{some}")
    for warning in warnings:
        output.warning(warning)
    return {
        "not_carried": [
            {"what": item.what, "file_count": item.file_count, "examples": list(item.examples)}
            for item in not_carried
        ],
        "warnings": list(warnings),
    }
