# SPDX-License-Identifier: GPL-3.0-or-later
"""Declare an on-disk record once: offset, type, the specification's own field name.

::

    @record(size=16)
    class PartitionEntry:
        boot_indicator: int = u8(0x00, "BootIndicator")
        starting_lba: int = u32(0x08, "StartingLBA")

    entry = parse_record(PartitionEntry, data, what="MBR partition entry 1")
    data = pack_record(entry)

All integers are little-endian. Overlapping fields and fields past ``size`` are refused at
import; bytes that no field names are zero in ``pack_record`` and ignored by ``parse_record``.
"""

from __future__ import annotations

import dataclasses
import struct
from collections.abc import Callable
from typing import Any, TypeVar, dataclass_transform

from mediamaker.errors import FormatError

T = TypeVar("T")
_METADATA_KEY = "mediamaker.record"
_INTEGER_CODES = {1: "B", 2: "H", 4: "I", 8: "Q"}


@dataclasses.dataclass(frozen=True, slots=True)
class FieldSpec:
    """Where one field lies: ``offset`` and ``size`` in bytes, and the name its source gives it."""

    offset: int
    size: int
    spec_name: str
    is_integer: bool


def _field(offset: int, size: int, spec_name: str, default: Any, *, is_integer: bool) -> Any:
    spec = FieldSpec(offset, size, spec_name, is_integer)
    return dataclasses.field(default=default, metadata={_METADATA_KEY: spec})


def u8(offset: int, spec_name: str, *, default: int | Any = dataclasses.MISSING) -> Any:
    """An unsigned 8-bit integer."""
    return _field(offset, 1, spec_name, default, is_integer=True)


def u16(offset: int, spec_name: str, *, default: int | Any = dataclasses.MISSING) -> Any:
    """An unsigned 16-bit little-endian integer."""
    return _field(offset, 2, spec_name, default, is_integer=True)


def u32(offset: int, spec_name: str, *, default: int | Any = dataclasses.MISSING) -> Any:
    """An unsigned 32-bit little-endian integer."""
    return _field(offset, 4, spec_name, default, is_integer=True)


def u64(offset: int, spec_name: str, *, default: int | Any = dataclasses.MISSING) -> Any:
    """An unsigned 64-bit little-endian integer."""
    return _field(offset, 8, spec_name, default, is_integer=True)


def raw(
    offset: int, size: int, spec_name: str, *, default: bytes | Any = dataclasses.MISSING
) -> Any:
    """``size`` bytes as they are."""
    return _field(offset, size, spec_name, default, is_integer=False)


@dataclass_transform(
    frozen_default=True, kw_only_default=True, field_specifiers=(u8, u16, u32, u64, raw)
)
def record(*, size: int) -> Callable[[type[T]], type[T]]:
    """Make a class a frozen, slotted, keyword-only dataclass of ``size`` bytes on disk."""

    def decorate(cls: type[T]) -> type[T]:
        made = dataclasses.dataclass(frozen=True, slots=True, kw_only=True)(cls)
        specs = _collect_specs(made)
        end, last = 0, "the start"
        for spec in sorted(specs.values(), key=lambda spec: spec.offset):
            if spec.offset < end or spec.offset + spec.size > size:
                raise TypeError(f"{cls.__name__}: {spec.spec_name} overlaps {last} or the end")
            end, last = spec.offset + spec.size, spec.spec_name
        _SIZES[made] = size
        _SPECS[made] = specs
        return made

    return decorate


_SIZES: dict[type, int] = {}
_SPECS: dict[type, dict[str, FieldSpec]] = {}


def record_size(cls: type) -> int:
    """Bytes that one ``cls`` takes on disk."""
    return _SIZES[cls]


def parse_record(cls: type[T], data: bytes | memoryview, *, what: str) -> T:
    """The record at the start of ``data``; more bytes may follow.

    Raises:
        FormatError: fewer bytes than the record has; ``what`` names it in the message.
    """
    if len(data) < _SIZES[cls]:
        raise FormatError(f"{what}: expected {_SIZES[cls]} bytes, got {len(data)}")
    values: dict[str, Any] = {}
    for name, spec in _SPECS[cls].items():
        piece = bytes(data[spec.offset : spec.offset + spec.size])
        values[name] = int.from_bytes(piece, "little") if spec.is_integer else piece
    return cls(**values)


def pack_record(value: Any) -> bytes:
    """The bytes of a record.

    Raises:
        FormatError: a value that does not fit its field.
    """
    cls = type(value)
    packed = bytearray(_SIZES[cls])
    for name, spec in _SPECS[cls].items():
        item = getattr(value, name)
        if spec.is_integer:
            try:
                struct.pack_into("<" + _INTEGER_CODES[spec.size], packed, spec.offset, item)
            except struct.error as error:
                raise FormatError(
                    f"{cls.__name__}.{name} ({spec.spec_name}): {item} does not fit "
                    f"{spec.size} bytes"
                ) from error
        elif len(item) != spec.size:
            raise FormatError(
                f"{cls.__name__}.{name} ({spec.spec_name}): expected {spec.size} bytes, "
                f"got {len(item)}"
            )
        else:
            packed[spec.offset : spec.offset + spec.size] = item
    return bytes(packed)


def _collect_specs(cls: type) -> dict[str, FieldSpec]:
    return {
        field.name: field.metadata[_METADATA_KEY]
        for field in dataclasses.fields(cls)
        if _METADATA_KEY in field.metadata
    }
