# SPDX-License-Identifier: GPL-3.0-or-later
"""Layout files: the package's own by name, a person's by path. Text only; ``plan`` reads it."""

from __future__ import annotations

from pathlib import Path

from mediamaker.errors import FormatError, SourceError, ToolError, UsageError

_FOLDER = Path(__file__).resolve().parent.parent / "layouts"
_SUFFIX = ".toml"
_FILE_SIZE_MAX = 1 << 18


def find_builtin_layouts() -> tuple[str, ...]:
    """The names of the package's layouts, sorted.

    Raises:
        ToolError: there are none: the package is not whole.
    """
    names = tuple(sorted(path.stem for path in _FOLDER.glob("*" + _SUFFIX)))
    if not names:
        raise ToolError(f"no layouts in {_FOLDER}", hint="reinstall mediamaker")
    return names


def read_builtin_layout(name: str) -> str:
    """The text of the package's layout ``name``.

    Raises:
        UsageError: there is no such layout; the hint names those there are.
        ToolError: it can't be read.
    """
    known = find_builtin_layouts()
    if name not in known:
        raise UsageError(
            f"no layout is called {name!r}", hint="known are " + ", ".join(known) + ", or a FILE"
        )
    path = _FOLDER / (name + _SUFFIX)
    try:
        return path.read_text("utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise ToolError(f"{path}: {error}", hint="reinstall mediamaker") from error


def read_layout(name_or_path: str) -> str:
    """The text of a layout: a name is the package's, whatever has ``/`` or ``.toml`` is a file.

    Raises:
        UsageError: no layout has this name.
        SourceError: the file can't be read.
        FormatError: it is too large, or not UTF-8.
    """
    if "/" not in name_or_path and not name_or_path.endswith(_SUFFIX):
        return read_builtin_layout(name_or_path)
    path = Path(name_or_path)
    try:
        with path.open("rb") as file:
            data = file.read(_FILE_SIZE_MAX + 1)
    except OSError as error:
        raise SourceError(f"{path}: {error.strerror or error}") from error
    except ValueError as error:
        raise SourceError(f"{name_or_path!r}: {error}") from error
    if len(data) > _FILE_SIZE_MAX:
        raise FormatError(f"{path} is over {_FILE_SIZE_MAX} bytes: not a layout")
    try:
        return data.decode("utf-8")
    except UnicodeDecodeError as error:
        raise FormatError(f"{path} is not UTF-8: {error}") from error
