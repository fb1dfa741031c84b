# SPDX-License-Identifier: GPL-3.0-or-later
"""Layout files: TOML text to a typed :class:`DiskLayout`.

::

    format = 1
    name = "workstation"
    table = "gpt"
    summary = "UEFI, with a partition for data"

    [[partition]]
    role = "system"

    [[partition]]
    role = "windows"
    size = "200GiB"

    [[partition]]
    role = "data"
    size = "rest"
    volume_label = "Data"

Every key but ``table`` and a partition's ``role`` has a default; a key that is not known is
refused, as a misspelt one would otherwise be a default that nobody asked for.

Reference: TOML 1.0.0 (tomllib); docs/install.md describes the keys for people.
"""

from __future__ import annotations

import re
import tomllib
from typing import Any, TypeVar, cast
from uuid import UUID

from mediamaker.errors import FormatError, UsageError
from mediamaker.plan.disk_layout import (
    Attribute,
    DiskLayout,
    FileSystem,
    PartitionSpec,
    Role,
    Table,
)
from mediamaker.plan.layout_defaults import default_type_code, default_type_guid, find_defaults
from mediamaker.units import KIB, parse_size

FORMAT = 1
TEXT_SIZE_MAX = 64 * KIB
"""Characters; a layout of 128 partitions with every key has a fourth of it."""
REST = "rest"
NO_FILE_SYSTEM = "none"
_SHOWN_MAX = 60
_GUID_RE = re.compile(r"\{?([0-9A-Fa-f]{8}(?:-[0-9A-Fa-f]{4}){3}-[0-9A-Fa-f]{12})\}?")
_HEADER_RE = re.compile(r"\s*\[\[\s*partition\s*\]\]")

_T = TypeVar("_T")


def load_layout(text: str, *, what: str) -> DiskLayout:
    """The layout that ``text`` describes; ``what`` names the file in errors.

    Raises:
        FormatError: names the partition, the key and its line.
    """
    if len(text) > TEXT_SIZE_MAX:
        raise FormatError(f"{what} has {len(text)} characters, a layout has {TEXT_SIZE_MAX}")
    try:
        values = tomllib.loads(text)
    except (ValueError, RecursionError) as error:
        raise FormatError(f"{what}: not TOML: {_short(str(error))}") from error
    top = _Keys(values, what, text, None)
    if top.take("format", int, FORMAT) != FORMAT:
        raise top.wrong("format", f"{FORMAT}, the version that is known")
    table = cast("Table", top.choice("table", ("gpt", "mbr"), None))
    name = top.take("name", str, "custom")
    summary = top.take("summary", str, "")
    items = top.take("partition", list, None)
    top.refuse_others()
    specs = tuple(
        _load_partition(_Keys(item, what, text, index), table) for index, item in enumerate(items)
    )
    try:
        return DiskLayout(name=name, table=table, summary=summary, partitions=specs)
    except FormatError as error:
        raise FormatError(f"{what}: {error.message}") from error


def _load_partition(keys: _Keys, table: Table) -> PartitionSpec:
    role = Role(keys.choice("role", tuple(Role), None))
    keys.who = f"partition {keys.number} ({role.value})"
    defaults = find_defaults(table, role)
    file_system = _take_file_system(keys, defaults.file_system)
    label_default = defaults.volume_label
    if file_system is None:
        label_default = ""
    elif file_system == "fat32":
        label_default = label_default.upper()
    type_guid = _take_guid(keys)
    type_code = keys.take("type_code", int, None, is_required=False)
    if table == "gpt" and type_guid is None:
        type_guid = default_type_guid(role)
    if table == "mbr" and type_code is None:
        type_code = default_type_code(role, file_system)
    if role is Role.DATA and "size" not in keys.values:
        raise keys.wrong("size", f'a size or "{REST}" for a data partition')
    size = _take_size(keys, "size", defaults.size)
    values: dict[str, Any] = {
        "name": keys.take("name", str, defaults.name),
        "size_min": _take_size(keys, "size_min", 0) or 0,
        "volume_label": keys.take("volume_label", str, label_default),
        "attributes": _take_attributes(keys, defaults.attributes),
        "cluster_size": _take_size(keys, "cluster_size", None),
        "is_active": keys.take("active", bool, defaults.is_active),
    }
    keys.refuse_others()
    try:
        return PartitionSpec(
            role=role,
            size=size,
            file_system=file_system,
            type_guid=type_guid,
            type_code=type_code,
            **values,
        )
    except FormatError as error:
        raise keys.failure(error.message.partition(":")[0], error.message) from error


def _take_file_system(keys: _Keys, default: FileSystem | None) -> FileSystem | None:
    chosen = keys.choice(
        "file_system", ("fat32", "ntfs", NO_FILE_SYSTEM), default or NO_FILE_SYSTEM
    )
    return None if chosen == NO_FILE_SYSTEM else cast("FileSystem", chosen)


def _take_size(keys: _Keys, key: str, default: int | None) -> int | None:
    """Bytes; None is the rest of the disk, or what the default means by it."""
    if key not in keys.values:
        return default
    text = keys.take(key, str, None)
    if key == "size" and text == REST:
        return None
    try:
        return parse_size(text)
    except UsageError as error:
        others = f', or "{REST}"' if key == "size" else ""
        raise keys.wrong(key, f'a size such as "260MiB"{others}') from error


def _take_guid(keys: _Keys) -> UUID | None:
    text = keys.take("type_guid", str, None, is_required=False)
    if text is None:
        return None
    match = _GUID_RE.fullmatch(text)
    if match is None:
        raise keys.wrong("type_guid", "a GUID such as ebd0a0a2-b9e5-4433-87c0-68b6b72699c7")
    return UUID(match[1])


def _take_attributes(keys: _Keys, default: int) -> int:
    if "attributes" not in keys.values:
        return default
    mask = 0
    for item in keys.take("attributes", list, None):
        if item not in tuple(Attribute):
            raise keys.wrong("attributes", f"a list of {', '.join(Attribute)}")
        mask |= Attribute(item).mask
    return mask


class _Keys:
    """A TOML table whose keys are asked for by name and type; knows where they stand."""

    def __init__(self, values: Any, what: str, text: str, index: int | None) -> None:
        self.number = 0 if index is None else index + 1
        self.who = "" if index is None else f"partition {self.number}"
        self._what = what
        self._text = text
        self._taken: set[str] = set()
        self.values: dict[str, Any] = {}
        if not isinstance(values, dict):
            raise self.failure("", f"expected a table of keys, got {_short(repr(values))}")
        self.values = values

    def take(self, key: str, kind: type[_T], default: Any, *, is_required: bool = True) -> Any:
        """The value of ``key``, which must be a ``kind``; without it, ``default``."""
        self._taken.add(key)
        if key not in self.values:
            if default is None and is_required:
                raise self.failure(key, f"{key} is missing")
            return default
        value = self.values[key]
        # bool is an int in Python, not in TOML.
        if type(value) is not kind:
            names = {str: "a string", int: "an integer", bool: "true or false", list: "a list"}
            raise self.wrong(key, names[kind])
        return value

    def choice(self, key: str, known: tuple[str, ...], default: str | None) -> str:
        """The value of ``key``, which must be one of ``known``."""
        value: str = self.take(key, str, default)
        if value not in known:
            raise self.wrong(key, "one of " + ", ".join(known))
        return value

    def refuse_others(self) -> None:
        """Refuse the keys that nobody asked for."""
        for key in self.values:
            if key not in self._taken:
                known = ", ".join(sorted(self._taken))
                raise self.failure(key, f"{_short(key)} is no key; known are {known}")

    def wrong(self, key: str, expected: str) -> FormatError:
        """The error of a value that is not ``expected``."""
        got = _short(repr(self.values[key])) if key in self.values else "nothing"
        return self.failure(key, f"{key}: expected {expected}, got {got}")

    def failure(self, key: str, message: str) -> FormatError:
        """An error that says where ``key`` stands."""
        line_number = _find_line(self._text, self.number, key)
        places = [self._what, f"line {line_number}" if line_number else "", self.who]
        return FormatError(": ".join([", ".join(filter(None, places)), message]))


def _find_line(text: str, partition_number: int, key: str) -> int | None:
    """The line of ``key`` in the nth ``[[partition]]`` (0: above all), as people write them.

    tomllib tells no lines of what it read. What is written in another way (inline tables,
    dotted keys) is not found; then the error does without.
    """
    key_re = re.compile(r"\s*[\"']?" + re.escape(key) + r"[\"']?\s*=")
    number, header_line = 0, None
    for line_number, line in enumerate(text.splitlines(), start=1):
        if _HEADER_RE.match(line):
            number += 1
            header_line = line_number if number == partition_number else header_line
        elif number == partition_number and key and key_re.match(line):
            return line_number
    return header_line


def _short(text: str) -> str:
    return text if len(text) <= _SHOWN_MAX else text[: _SHOWN_MAX - 3] + "..."
