# SPDX-License-Identifier: GPL-3.0-or-later
"""Keys of a US keyboard by their QMP names (``QKeyCode`` in QEMU's ``qapi/ui.json``)."""

from __future__ import annotations

import string

from mediamaker.errors import UsageError

_PLAIN = {
    " ": "spc",
    "\n": "ret",
    "\t": "tab",
    "\x1b": "esc",
    "\b": "backspace",
    "-": "minus",
    "=": "equal",
    "[": "bracket_left",
    "]": "bracket_right",
    "\\": "backslash",
    ";": "semicolon",
    "'": "apostrophe",
    "`": "grave_accent",
    ",": "comma",
    ".": "dot",
    "/": "slash",
} | {character: character for character in string.ascii_lowercase + string.digits}
_SHIFTED = dict(zip('!@#$%^&*()_+{}|:"~<>?', "1234567890-=[]\\;'`,./", strict=True)) | {
    character.upper(): character for character in string.ascii_lowercase
}


def find_chord(character: str) -> tuple[str, ...]:
    """The keys that type one character, held together.

    Raises:
        UsageError: a US keyboard can't type it.
    """
    if character in _PLAIN:
        return (_PLAIN[character],)
    if character in _SHIFTED:
        return ("shift", _PLAIN[_SHIFTED[character]])
    raise UsageError(f"{character!r} can't be typed on a US keyboard")
