# SPDX-License-Identifier: GPL-3.0-or-later
"""Plans as JSON, and the plan_id.

History of the format version:
    1  first version

The plan_id is the SHA-256 of canonical JSON lines (sorted keys, no spaces): one line for what
the disk is, then one line an extent. Literals stand in them by digest. Paths, inodes and words
for people are left out, so that moving an ISO does not change what a plan is called.
"""

from __future__ import annotations

import base64
import binascii
import hashlib
import json
import zlib
from collections.abc import Iterator
from dataclasses import asdict, fields
from typing import Any, assert_never

from mediamaker.errors import FormatError, MediaError
from mediamaker.extents import (
    LITERAL_SIZE_MAX,
    Extent,
    ExtentMap,
    FileRange,
    Literal,
    Source,
    Unwritten,
    Zeros,
)
from mediamaker.plan.geometry import Geometry
from mediamaker.plan.model import Plan, PlannedPartition
from mediamaker.plan.request import PlanLayout, parse_plan_layout
from mediamaker.sources.identity import SourceFile
from mediamaker.units import MIB

FORMAT = "mediamaker-plan"
FORMAT_VERSION = 1
LITERALS_SIZE_MAX = 256 * MIB
"""All literals together, unpacked: file tables of the largest disks have some tens of MiB."""

Json = dict[str, Any]


def compute_plan_id(
    geometry: Geometry,
    layout: PlanLayout,
    extents: ExtentMap,
    commit: tuple[tuple[int, int], ...],
    sources: tuple[SourceFile, ...],
) -> str:
    """64 hexadecimal digits that name these bytes on this geometry."""
    head = {
        "format": FORMAT,
        "format_version": FORMAT_VERSION,
        "geometry": [geometry.size, geometry.logical_sector_size],
        "layout": layout.value,
        "commit": commit,
        "sources": [[file.source_id, file.size, file.mtime_ns] for file in sources],
    }
    digest = hashlib.sha256(_canonical(head))
    digests = _LiteralDigests()
    for extent in extents:
        digest.update(_canonical(_extent_to_json(extent, digests)))
    return digest.hexdigest()


def plan_to_json(plan: Plan, *, with_extents: bool = True) -> Json:
    """``plan`` as one JSON object; without extents it is the summary that ``--json`` shows."""
    summary: Json = {
        "format": FORMAT,
        "format_version": FORMAT_VERSION,
        "plan_id": plan.plan_id,
        "geometry": asdict(plan.geometry),
        "layout": plan.layout.value,
        "identities": dict(plan.identities),
        "sources": [asdict(file) for file in plan.sources],
        "partitions": [asdict(partition) for partition in plan.partitions],
        "boots": list(plan.boots),
        "notes": list(plan.notes),
        "warnings": list(plan.warnings),
        "written_size": plan.extents.written_size,
        "extent_count": len(plan.extents),
        "commit": [list(borders) for borders in plan.commit],
    }
    if with_extents:
        digests = _LiteralDigests()
        summary["extents"] = [_extent_to_json(extent, digests) for extent in plan.extents]
        summary["literals"] = dict(digests.packed())
    return summary


def plan_from_json(data: Any) -> Plan:
    """The plan that :func:`plan_to_json` made ``data`` of.

    Raises:
        FormatError: not such a plan, of another version, or its plan_id does not match.
    """
    try:
        return _plan_from_json(data)
    except MediaError as error:
        raise FormatError(f"not a usable plan: {error}") from error
    except (
        ArithmeticError,
        AttributeError,
        KeyError,
        TypeError,
        ValueError,
        binascii.Error,
        zlib.error,
    ) as error:
        raise FormatError(f"not a usable plan: {type(error).__name__}: {error}") from error


def _plan_from_json(data: Any) -> Plan:
    if data["format"] != FORMAT or data["format_version"] != FORMAT_VERSION:
        raise FormatError(
            f"expected {FORMAT} version {FORMAT_VERSION}, "
            f"got {data['format']} version {data['format_version']}"
        )
    literals = _unpack_literals(data["literals"])
    plan = Plan(
        plan_id=str(data["plan_id"]),
        geometry=Geometry(**{key: int(value) for key, value in data["geometry"].items()}),
        layout=parse_plan_layout(data["layout"]),
        extents=ExtentMap(tuple(_extent_from_json(item, literals) for item in data["extents"])),
        commit=tuple((int(start), int(end)) for start, end in data["commit"]),
        sources=tuple(_source_file_from_json(item) for item in data["sources"]),
        identities={str(key): str(value) for key, value in data["identities"].items()},
        partitions=tuple(_partition_from_json(item) for item in data["partitions"]),
        boots=tuple(map(str, data["boots"])),
        notes=tuple(map(str, data["notes"])),
        warnings=tuple(map(str, data["warnings"])),
    )
    found = compute_plan_id(plan.geometry, plan.layout, plan.extents, plan.commit, plan.sources)
    if found != plan.plan_id:
        raise FormatError(f"plan_id: expected {plan.plan_id}, the content makes {found}")
    if plan.extents.end != plan.geometry.size:
        raise FormatError(f"extents end at {plan.extents.end:#x}, not at {plan.geometry.size:#x}")
    return plan


class _LiteralDigests:
    """SHA-256 of literals; equal bytes, such as both FATs, are digested once an object."""

    def __init__(self) -> None:
        self._by_object: dict[int, str] = {}
        self._literals: dict[str, bytes] = {}
        self._keep: list[bytes] = []

    def digest(self, data: bytes) -> str:
        known = self._by_object.get(id(data))
        if known is None:
            known = hashlib.sha256(data).hexdigest()
            self._by_object[id(data)] = known
            self._keep.append(data)
            self._literals[known] = data
        return known

    def packed(self) -> Iterator[tuple[str, str]]:
        for name, data in sorted(self._literals.items()):
            yield name, base64.b64encode(zlib.compress(data, 6)).decode("ascii")


def _canonical(value: Any) -> bytes:
    text = json.dumps(value, sort_keys=True, separators=(",", ":"), ensure_ascii=True)
    return text.encode("ascii") + b"\n"


def _extent_to_json(extent: Extent, digests: _LiteralDigests) -> Json:
    return {
        "start": extent.start,
        "size": extent.size,
        "name": extent.name,
        "source": _source_to_json(extent.source, digests),
    }


def _source_to_json(source: Source, digests: _LiteralDigests) -> Json:
    match source:
        case Literal(data):
            return {"kind": "literal", "sha256": digests.digest(data)}
        case Zeros():
            return {"kind": "zeros"}
        case FileRange(source_id, offset):
            return {"kind": "file_range", "source_id": source_id, "offset": offset}
        case Unwritten():
            return {"kind": "unwritten"}
        case _:
            assert_never(source)


def _source_file_from_json(item: Json) -> SourceFile:
    file = SourceFile(**item)
    names = (file.source_id, file.path)
    numbers = (file.size, file.mtime_ns, file.inode, file.device)
    is_sound = all(type(name) is str and "\0" not in name for name in names)
    if not is_sound or not all(type(number) is int for number in numbers):
        raise FormatError(f"sources: {str(item)[:200]} is no file")
    return file


def _partition_from_json(item: Json) -> PlannedPartition:
    partition = PlannedPartition(**item)
    for member in fields(partition):
        value = getattr(partition, member.name)
        if type(value).__name__ != member.type or (type(value) is int and value < 0):
            raise FormatError(f"partitions: {member.name!r}: {str(value)[:200]!r} can't be it")
    return partition


def _extent_from_json(item: Json, literals: dict[str, bytes]) -> Extent:
    source = _source_from_json(item["source"], literals)
    extent = Extent(int(item["start"]), int(item["size"]), str(item["name"]), source)
    if isinstance(source, Literal) and len(source.data) != extent.size:
        raise FormatError(f"{extent} has a literal of {len(source.data)} bytes")
    if extent.size <= 0:
        raise FormatError(f"{extent} has no size")
    return extent


def _source_from_json(item: Json, literals: dict[str, bytes]) -> Source:
    match item["kind"]:
        case "literal":
            return Literal(literals[item["sha256"]])
        case "zeros":
            return Zeros()
        case "file_range":
            return FileRange(str(item["source_id"]), int(item["offset"]))
        case "unwritten":
            return Unwritten()
        case other:
            raise FormatError(f"a source of the unknown kind {other!r}")


def _unpack_literals(items: dict[str, str]) -> dict[str, bytes]:
    literals: dict[str, bytes] = {}
    size = 0
    for name, text in items.items():
        literals[name] = _unpack_literal(name, text)
        size += len(literals[name])
        if size > LITERALS_SIZE_MAX:
            raise FormatError(f"the literals are over {LITERALS_SIZE_MAX} bytes together")
    return literals


def _unpack_literal(name: str, text: str) -> bytes:
    unpacker = zlib.decompressobj()
    data = unpacker.decompress(base64.b64decode(text, validate=True), LITERAL_SIZE_MAX + 1)
    if len(data) > LITERAL_SIZE_MAX:
        raise FormatError(f"literal {name} is over {LITERAL_SIZE_MAX} bytes")
    if hashlib.sha256(data).hexdigest() != name:
        raise FormatError(f"literal {name} does not match its digest")
    return data
