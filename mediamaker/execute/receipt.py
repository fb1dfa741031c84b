# SPDX-License-Identifier: GPL-3.0-or-later
"""A receipt: enough of a finished write to verify the medium later without its source.

JSON with a format version. It holds the plan's id, its identities (serial numbers and the
like), the geometry, the ranges that were written, and a SHA-256 for each 64 MiB piece of them
(``digests.py`` says which bytes go into which piece). A receipt comes from a file that anybody
may have edited, so parsing trusts nothing.
"""

from __future__ import annotations

import json
import re
import threading
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from mediamaker.errors import FormatError, SourceError, UsageError
from mediamaker.execute.digests import PIECE_SIZE, PieceDigest
from mediamaker.execute.progress import ProgressMeter
from mediamaker.execute.steps import Run
from mediamaker.execute.target import ReadableTarget
from mediamaker.execute.textfile import write_text_file
from mediamaker.execute.verifier import VerifyResult, check_target_size, verify_digests
from mediamaker.extents import ExtentMap
from mediamaker.units import MIB, TIB

RECEIPT_FORMAT = "mediamaker-receipt"
RECEIPT_VERSION = 1
RECEIPT_FILE_SIZE_MAX = 64 * MIB
"""An 8 TiB disk has 131,072 pieces, 16 MiB of JSON."""
_TARGET_SIZE_MAX = 8192 * TIB
_PIECE_SIZE_MAX = 1024 * MIB
_SECTOR_SIZES = (512, 1024, 2048, 4096)
_SHA256_RE = re.compile(r"[0-9a-f]{64}")


@dataclass(frozen=True, slots=True)
class Receipt:
    """What was written: ``size`` of the target and ``written`` ranges in bytes."""

    plan_id: str
    layout: str
    identities: Mapping[str, str]
    size: int
    logical_sector_size: int
    piece_size: int
    written: tuple[Run, ...]
    digests: tuple[PieceDigest, ...]


def make_receipt(
    *,
    plan_id: str,
    layout: str,
    identities: Mapping[str, str],
    logical_sector_size: int,
    extents: ExtentMap,
    digests: Sequence[PieceDigest],
) -> Receipt:
    """The receipt of a write whose digests were kept."""
    return Receipt(
        plan_id=plan_id,
        layout=layout,
        identities=dict(identities),
        size=extents.end,
        logical_sector_size=logical_sector_size,
        piece_size=PIECE_SIZE,
        written=tuple(extents.written_runs(extents.start, extents.end)),
        digests=tuple(digests),
    )


def pack_receipt(receipt: Receipt) -> str:
    """The JSON text of a receipt."""
    content = {
        "format": RECEIPT_FORMAT,
        "version": RECEIPT_VERSION,
        "plan_id": receipt.plan_id,
        "layout": receipt.layout,
        "identities": dict(receipt.identities),
        "geometry": {
            "size": receipt.size,
            "logical_sector_size": receipt.logical_sector_size,
        },
        "piece_size": receipt.piece_size,
        "written": [list(run) for run in receipt.written],
        "pieces": [
            {"index": piece.piece_index, "size": piece.size, "sha256": piece.sha256}
            for piece in receipt.digests
        ],
    }
    return json.dumps(content, indent=1) + "\n"


def parse_receipt(text: str | bytes, *, what: str) -> Receipt:
    """The receipt that ``text`` holds; ``what`` names it in messages.

    Raises:
        FormatError: it is no receipt, or contradicts itself.
    """
    fields = _Fields(_parse_json(text, what), what)
    if fields.text("format") != RECEIPT_FORMAT:
        raise FormatError(f"{what}: not a receipt of mediamaker")
    version = fields.integer("version", 1, 1 << 31)
    if version != RECEIPT_VERSION:
        raise FormatError(
            f"{what}: receipt version {version}, expected {RECEIPT_VERSION}",
            hint="it was made by a newer mediamaker; use that one",
        )
    geometry = fields.child("geometry")
    size = geometry.integer("size", 1, _TARGET_SIZE_MAX)
    sector_size = geometry.integer("logical_sector_size", 512, 4096)
    piece_size = fields.integer("piece_size", 4096, _PIECE_SIZE_MAX)
    if sector_size not in _SECTOR_SIZES or piece_size % sector_size:
        raise FormatError(f"{what}: sectors of {sector_size} and pieces of {piece_size} bytes")
    written = _parse_written(fields.items("written"), size, sector_size, what)
    return Receipt(
        plan_id=fields.text("plan_id"),
        layout=fields.text("layout"),
        identities=_parse_identities(fields.child("identities").values, what),
        size=size,
        logical_sector_size=sector_size,
        piece_size=piece_size,
        written=written,
        digests=_parse_pieces(fields.items("pieces"), written, piece_size, what),
    )


def read_receipt(path: Path) -> Receipt:
    """The receipt in the file at ``path``.

    Raises:
        SourceError: it can't be read; FormatError: it is no receipt.
    """
    try:
        with path.open("rb") as file:
            text = file.read(RECEIPT_FILE_SIZE_MAX + 1)
    except OSError as error:
        raise SourceError(f"{path}: can't be read: {error.strerror}") from error
    if len(text) > RECEIPT_FILE_SIZE_MAX:
        raise FormatError(f"{path}: over {RECEIPT_FILE_SIZE_MAX} bytes, so no receipt")
    return parse_receipt(text, what=str(path))


def write_receipt(receipt: Receipt, path: Path) -> None:
    """Write a receipt; the file is there whole or not at all.

    Raises:
        UsageError: the place is not writable.
    """
    try:
        write_text_file(path, pack_receipt(receipt))
    except OSError as error:
        raise UsageError(
            f"{path}: the receipt can't be written: {error.strerror}",
            hint="give --receipt a file in a directory that you may write to",
        ) from error


def verify_receipt(
    receipt: Receipt,
    target: ReadableTarget,
    *,
    meter: ProgressMeter,
    cancel: threading.Event | None = None,
) -> VerifyResult:
    """Compare the target with a receipt; no source is needed.

    Raises:
        VerifyError: the first piece that differs; TargetIOError: the target can't be read.
    """
    check_target_size(receipt.size, target)
    return verify_digests(
        runs=receipt.written,
        digests=receipt.digests,
        target=target,
        meter=meter,
        piece_size=receipt.piece_size,
        cancel=cancel,
    )


class _Fields:
    """A JSON object whose members are asked for by name and type."""

    def __init__(self, values: Any, what: str) -> None:
        if not isinstance(values, dict):
            raise FormatError(f"{what}: expected a JSON object, got {type(values).__name__}")
        self.values: dict[str, Any] = values
        self._what = what

    def text(self, name: str) -> str:
        value = self._get(name)
        if not isinstance(value, str):
            raise self._wrong(name, "a string", value)
        return value

    def integer(self, name: str, low: int, high: int) -> int:
        value = self._get(name)
        # bool is an int in Python, not in JSON.
        if not isinstance(value, int) or isinstance(value, bool) or not low <= value <= high:
            raise self._wrong(name, f"an integer from {low} to {high}", value)
        return value

    def items(self, name: str) -> list[Any]:
        value = self._get(name)
        if not isinstance(value, list):
            raise self._wrong(name, "a list", value)
        return value

    def child(self, name: str) -> _Fields:
        return _Fields(self._get(name), f"{self._what}: {name}")

    def _get(self, name: str) -> Any:
        if name not in self.values:
            raise FormatError(f"{self._what}: {name!r} is missing")
        return self.values[name]

    def _wrong(self, name: str, expected: str, value: object) -> FormatError:
        return FormatError(f"{self._what}: {name!r}: expected {expected}, got {_short(value)}")


def _parse_json(text: str | bytes, what: str) -> Any:
    try:
        return json.loads(text)
    except (ValueError, RecursionError) as error:
        raise FormatError(f"{what}: not JSON: {error}") from error


def _parse_identities(values: dict[str, Any], what: str) -> dict[str, str]:
    for name, value in values.items():
        if not isinstance(value, str):
            raise FormatError(f"{what}: identity {name!r}: expected a string, got {_short(value)}")
    return values


def _parse_written(
    items: list[Any], size: int, sector_size: int, what: str
) -> tuple[tuple[int, int], ...]:
    runs: list[Run] = []
    position = -1
    for item in items:
        if not isinstance(item, list) or len(item) != 2 or not all(type(n) is int for n in item):
            raise FormatError(f"{what}: 'written': expected [start, end], got {_short(item)}")
        start, end = item
        # Runs that touch would be one run; a writer that says otherwise was not ours.
        if not position < start < end <= size or start % sector_size or end % sector_size:
            raise FormatError(
                f"{what}: 'written': {_short(item)} is out of order, not whole sectors, "
                f"or past the end at {size}"
            )
        runs.append((start, end))
        position = end
    return tuple(runs)


def _parse_pieces(
    items: list[Any], written: Sequence[Run], piece_size: int, what: str
) -> tuple[PieceDigest, ...]:
    expected_sizes: dict[int, int] = {}
    # Bounded before it is computed: a range of petabytes has no matching list of pieces.
    if sum(end // piece_size - start // piece_size for start, end in written) > len(items):
        raise FormatError(f"{what}: {len(items)} pieces do not cover what was written")
    for start, end in written:
        for index in range(start // piece_size, -(-end // piece_size)):
            low, high = max(start, index * piece_size), min(end, (index + 1) * piece_size)
            expected_sizes[index] = expected_sizes.get(index, 0) + high - low
    pieces: list[PieceDigest] = []
    for item in items:
        fields = _Fields(item, f"{what}: piece {len(pieces)}")
        sha256 = fields.text("sha256")
        if not _SHA256_RE.fullmatch(sha256):
            raise FormatError(f"{what}: piece {len(pieces)}: {_short(sha256)} is no SHA-256")
        index = fields.integer("index", 0, _TARGET_SIZE_MAX)
        pieces.append(PieceDigest(index, fields.integer("size", 1, piece_size), sha256))
    if [(piece.piece_index, piece.size) for piece in pieces] != list(expected_sizes.items()):
        raise FormatError(f"{what}: the pieces do not match the ranges that were written")
    return tuple(pieces)


def _short(value: object) -> str:
    text = repr(value)
    return text if len(text) <= 60 else text[:57] + "..."
