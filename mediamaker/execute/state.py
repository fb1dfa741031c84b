# SPDX-License-Identifier: GPL-3.0-or-later
"""What is kept of a disk between runs, and under which name."""

from __future__ import annotations

import hashlib
import json

from mediamaker.execute.journal import Facts
from mediamaker.state import state_folder

__all__ = ["KEY_SIZE", "disk_key", "state_folder"]

KEY_SIZE = 16


def disk_key(facts: Facts) -> str:
    """Hex digits that stand for a disk in file names; equal facts, equal key."""
    text = json.dumps(dict(sorted(facts.items())))
    return hashlib.sha256(text.encode()).hexdigest()[:KEY_SIZE]
