# SPDX-License-Identifier: GPL-3.0-or-later
"""What may be sent to a terminal: names from an ISO are not trusted with escape sequences."""

from __future__ import annotations

import unicodedata


def printable(text: str) -> str:
    """``text`` with control characters, but for line feed and tab, shown as ``\\x1b``."""
    return "".join(
        character
        if character in "\n\t" or unicodedata.category(character) not in {"Cc", "Cf", "Cs"}
        else character.encode("unicode_escape").decode("ascii")
        for character in text
    )
