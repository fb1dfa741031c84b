# SPDX-License-Identifier: GPL-3.0-or-later
"""The folder for what is kept between runs: journals, undo files, logs of machines, probes.

Reference: XDG Base Directory Specification 0.8 (XDG_STATE_HOME).
"""

from __future__ import annotations

import os
import pwd
from pathlib import Path


def state_folder(name: str) -> Path:
    """``$XDG_STATE_HOME/mediamaker/NAME``, made if it is not there.

    Raises:
        OSError: it can't be made.
    """
    given = os.environ.get("XDG_STATE_HOME", "")
    # The specification has relative paths ignored.
    base = Path(given) if given.startswith("/") else _home() / ".local" / "state"
    folder = base / "mediamaker" / name
    folder.mkdir(mode=0o700, parents=True, exist_ok=True)
    return folder


def _home() -> Path:
    """Ours; some sudo leave root with the caller's, whose folders root is not to make."""
    home = Path.home()
    if os.geteuid() == 0 and home.exists() and home.stat().st_uid != 0:
        return Path(pwd.getpwuid(0).pw_dir)
    return home
