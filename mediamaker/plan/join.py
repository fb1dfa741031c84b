# SPDX-License-Identifier: GPL-3.0-or-later
"""Joins the parts of a split WIM as extents of them: every resource is moved as it is.

Part 1's metadata come first, then each part's data; one new header, table and GUID. No image
boots, as none does from a split WIM, and there is no integrity table, which would need all data
read. A blob that several parts have (a chunk on a cut) is listed once.
"""

from __future__ import annotations

from array import array
from collections.abc import Sequence

from mediamaker.errors import FormatError, NotRepresentableError
from mediamaker.formats.wim import (
    BLOB_ENTRY_SIZE,
    BLOB_TABLE_SIZE_MAX,
    WimHeader,
)
from mediamaker.plan.assemble import PlainRows, SolidBlobs, WimAssembler, WimContents
from mediamaker.plan.split import WimPart, part_header


def join_wim(
    parts: Sequence[WimContents], names: Sequence[str], guid: bytes, *, alignment: int = 1
) -> WimPart:
    """The whole WIM of ``parts``, in any order; ``names`` call them in messages.

    With ``alignment``, zeros before a resource give its data the same remainder as in its part,
    so that a file system can share the blocks.

    Raises:
        FormatError: they are not all the parts of one split WIM.
        NotRepresentableError: its table would be larger than a WIM's that we read.
    """
    check_parts([part.wim.header for part in parts], names)
    ordered = sorted(parts, key=lambda part: part.wim.part_number)
    first = ordered[0].wim
    joined = WimAssembler(first.xml, 1, alignment)
    for metadata in ordered[0].metadata:
        joined.add_plain(ordered[0], metadata)
    seen: set[bytes] = set()
    for part in ordered:
        for unit in part.in_file_order():
            match unit:
                case PlainRows():
                    rows = _unseen(part, unit.rows, seen)
                    if rows:
                        joined.add_plain(
                            part, PlainRows(start=unit.start, size=unit.size, rows=rows)
                        )
                case SolidBlobs():
                    rows = _unseen(part, unit.blobs, seen)
                    if rows:
                        joined.add_chunks(part, unit, 0, len(unit.chunks), rows)
    if joined.row_count * BLOB_ENTRY_SIZE > BLOB_TABLE_SIZE_MAX:
        raise NotRepresentableError(
            f"{names[0]}: the joined WIM would have {joined.row_count} resources, "
            f"the most that we read are {BLOB_TABLE_SIZE_MAX // BLOB_ENTRY_SIZE}"
        )
    header = part_header(first.header, guid, 1, 1)
    return joined.finish(header, names[0])


def check_parts(headers: Sequence[WimHeader], names: Sequence[str]) -> None:
    """All the parts of one split WIM are there, each once.

    Raises:
        FormatError: says which part is missing, there twice, or of another WIM.
    """
    first, first_name = headers[0], names[0]
    found: dict[int, str] = {}
    for header, name in zip(headers, names, strict=True):
        for field in ("guid", "part_count", "image_count", "version", "compression", "chunk_size"):
            expected, got = getattr(first, field), getattr(header, field)
            if expected != got:
                if field == "guid":
                    expected, got = expected.hex(), got.hex()
                raise FormatError(
                    f"{name} is not a part of the WIM that {first_name} belongs to: {field}: "
                    f"expected {expected}, got {got}",
                    hint="keep the parts of each split WIM in a folder of its own",
                )
        if header.part_number in found:
            raise FormatError(f"{name} and {found[header.part_number]} are the same part")
        found[header.part_number] = name
    missing = [number for number in range(1, first.part_count + 1) if number not in found]
    if missing:
        shown = ", ".join(map(str, missing[:10])) + (", ..." if len(missing) > 10 else "")
        raise FormatError(
            f"{first_name}: {len(missing)} of its {first.part_count} parts missing: {shown}",
            hint="put all parts in one folder",
        )


def _unseen(part: WimContents, rows: array[int], seen: set[bytes]) -> array[int]:
    """Those of ``rows`` whose blob no earlier part had; they are remembered."""
    kept = array("I")
    for index in rows:
        sha1 = part.wim.blobs.row(index)[5]
        if sha1 not in seen:
            seen.add(sha1)
            kept.append(index)
    return kept
