# SPDX-License-Identifier: GPL-3.0-or-later
"""Values of BCD elements: the registry's, and what they mean.

References: the registry types and sizes that boot managers insist on (boot-facts 3.2); Microsoft,
BCD WMI provider, BcdElementType.
"""

from __future__ import annotations

import re
from dataclasses import dataclass, field
from typing import get_args
from uuid import UUID

from mediamaker.errors import UsageError
from mediamaker.formats.bcd_devices import Device, pack_device, parse_device
from mediamaker.formats.bcd_names import Format, element_format
from mediamaker.formats.regf import (
    REG_BINARY,
    REG_MULTI_SZ,
    REG_SZ,
    Key,
    Value,
    string_value,
    strings_value,
)

ELEMENT = "Element"
"""The name of the one value that an element's key has."""

GUID_RE = re.compile(r"\{([0-9a-fA-F]{8}(?:-[0-9a-fA-F]{4}){3}-[0-9a-fA-F]{12})\}")
_REGISTRY_TYPES = {
    Format.DEVICE: REG_BINARY,
    Format.STRING: REG_SZ,
    Format.OBJECT: REG_SZ,
    Format.OBJECT_LIST: REG_MULTI_SZ,
    Format.INTEGER: REG_BINARY,
    Format.BOOLEAN: REG_BINARY,
    Format.INTEGER_LIST: REG_BINARY,
}
_REGISTRY_TYPE_NAMES = {
    0: "REG_NONE",
    1: "REG_SZ",
    3: "REG_BINARY",
    4: "REG_DWORD",
    7: "REG_MULTI_SZ",
}
_DEVICE_CLASSES = get_args(Device)


@dataclass(frozen=True, slots=True)
class UnknownValue:
    """A registry value that is none of the known forms; ``problem`` says why, if it should be."""

    type_code: int
    data: bytes
    problem: str = field(default="", compare=False)


ElementValue = Device | str | UUID | tuple[UUID, ...] | int | bool | tuple[int, ...] | UnknownValue


def read_value(element_id: int, key: Key) -> ElementValue:
    """What the key of an element says."""
    value = key.value(ELEMENT)
    if value is None:
        problem = "its key has no value named Element (boot managers stop with 0xc000000d)"
        return UnknownValue(0, b"", problem)
    form = element_format(element_id)
    if form is None:
        return UnknownValue(value.type_code, value.data)
    wanted = _REGISTRY_TYPES[form]
    if value.type_code != wanted:
        problem = (
            f"expected {_registry_type(wanted)}, got {_registry_type(value.type_code)} "
            "(boot managers stop with 0xc0000024)"
        )
        return UnknownValue(value.type_code, value.data, problem)
    parsed = _parse_value(form, value)
    if isinstance(parsed, str) and form is not Format.STRING:
        return UnknownValue(value.type_code, value.data, parsed)
    return parsed


def pack_value(element_id: int, value: ElementValue) -> Value:
    """The registry value of an element.

    Raises:
        UsageError: the value is not of the form that the id asks for, or does not fit.
    """
    if isinstance(value, UnknownValue):
        return Value(ELEMENT, value.type_code, value.data)
    packed = _pack_known(element_format(element_id), value)
    if packed is None:
        raise UsageError(
            f"{value!r} is not what the element {element_id:08x} holds",
            hint="the second digit of an element's id says what it holds: `bcd show --json`",
        )
    return packed


def _parse_value(form: Format, value: Value) -> ElementValue:  # noqa: PLR0911 - one for each form
    """The value; for a form other than a string, a string is what is wrong with it."""
    data = value.data
    match form:
        case Format.DEVICE:
            return parse_device(data)
        case Format.STRING:
            return value.text or ""
        case Format.OBJECT:
            found = GUID_RE.fullmatch(value.text or "")
            return UUID(found[1]) if found else f"{value.text!r} is no GUID in braces (0xc000000d)"
        case Format.OBJECT_LIST:
            matches = [GUID_RE.fullmatch(text) for text in value.texts or ()]
            guids = tuple(UUID(match[1]) for match in matches if match is not None)
            if len(guids) == len(matches):
                return guids
            return f"{', '.join(value.texts or ())!r} are not all GUIDs in braces (0xc000000d)"
        case Format.INTEGER:
            if 1 <= len(data) <= 8:
                return int.from_bytes(data, "little")
            return f"an integer has 1 to 8 bytes, got {len(data)} (0xc0000024)"
        case Format.BOOLEAN:
            return (
                bool(data[0])
                if len(data) == 1
                else (f"a boolean has 1 byte, got {len(data)} (0xc0000024)")
            )
        case Format.INTEGER_LIST:
            if len(data) % 8:
                return f"a list of integers has 8 bytes for each, got {len(data)} (0xc0000024)"
            return tuple(
                int.from_bytes(data[at : at + 8], "little") for at in range(0, len(data), 8)
            )


def _pack_known(  # noqa: PLR0911 - one for each form
    form: Format | None, value: ElementValue
) -> Value | None:
    match form, value:
        case Format.STRING, str():
            if "\0" in value:
                raise UsageError(f"a string can't hold a NUL: {value!r}")
            return string_value(ELEMENT, value)
        case Format.OBJECT, UUID():
            return string_value(ELEMENT, f"{{{value}}}")
        case Format.BOOLEAN, bool():
            return Value(ELEMENT, REG_BINARY, bytes([value]))
        case Format.INTEGER, int() if not isinstance(value, bool):
            return Value(ELEMENT, REG_BINARY, _u64(value))
        case Format.OBJECT_LIST, tuple():
            guids = tuple(f"{{{item}}}" for item in value if isinstance(item, UUID))
            return strings_value(ELEMENT, guids) if len(guids) == len(value) else None
        case Format.INTEGER_LIST, tuple():
            numbers = [item for item in value if isinstance(item, int)]
            if len(numbers) != len(value):
                return None
            return Value(ELEMENT, REG_BINARY, b"".join(map(_u64, numbers)))
        case Format.DEVICE, _ if isinstance(value, _DEVICE_CLASSES):
            return Value(ELEMENT, REG_BINARY, pack_device(value))
        case _:
            return None


def _u64(number: int) -> bytes:
    if not 0 <= number < 1 << 64:
        raise UsageError(f"an integer has 8 bytes; {number} does not fit")
    return number.to_bytes(8, "little")


def _registry_type(type_code: int) -> str:
    return _REGISTRY_TYPE_NAMES.get(type_code, f"registry type {type_code}")
