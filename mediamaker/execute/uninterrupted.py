# SPDX-License-Identifier: GPL-3.0-or-later
"""Cleaning up in spite of an impatient person."""

from __future__ import annotations

import threading
from collections.abc import Callable


def run_uninterrupted(work: Callable[[], None]) -> None:
    """Run ``work`` to its end even if Ctrl-C is pressed (again) meanwhile.

    Python raises KeyboardInterrupt in the main thread only, so the work is done in another one.
    What ``work`` raises is raised here; a Ctrl-C that came meanwhile is dropped, as the caller
    is already on its way out.
    """
    raised: list[BaseException] = []

    def run() -> None:
        try:
            work()
        except BaseException as error:  # noqa: BLE001  (raised again below)
            raised.append(error)

    thread = threading.Thread(target=run, name="clean up")
    thread.start()
    while thread.is_alive():
        try:
            thread.join()
        except KeyboardInterrupt:
            continue
    if raised:
        raise raised[0]
