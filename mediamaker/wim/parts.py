# SPDX-License-Identifier: GPL-3.0-or-later
"""Opens a WIM file, or the parts of a split one, and looks blobs up in all of them."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path

from mediamaker.errors import FormatError, UsageError
from mediamaker.extents import FileRange, Piece
from mediamaker.formats.wim import HEADER_SIZE, WimHeader, parse_wim_header
from mediamaker.formats.wim_blobs import BlobEntry
from mediamaker.sources.identity import identify
from mediamaker.sources.reader import SourceReader
from mediamaker.sources.wim import WimFile, read_wim
from mediamaker.sources.wim_blobs import BlobReader


@dataclass(frozen=True, slots=True, eq=False)
class WimPartFile:
    """One file: its tables, where its bytes lie, and its blobs."""

    path: Path
    wim: WimFile
    pieces: tuple[Piece, ...]
    reader: SourceReader
    blobs: BlobReader


@dataclass(frozen=True, slots=True, eq=False)
class WimParts:
    """Files of one WIM by part number; ``damage`` says which of them have unusable tables."""

    reader: SourceReader
    files: tuple[WimPartFile, ...]
    damage: tuple[str, ...]
    missing_parts: tuple[int, ...]

    def find(self, sha1: bytes) -> tuple[WimPartFile, BlobEntry] | None:
        """The blob of that SHA-1 and the file that has it."""
        for file in self.files:
            blob = file.blobs.find(sha1)
            if blob is not None:
                return file, blob
        return None


@contextmanager
def open_parts(paths: Sequence[Path]) -> Iterator[WimParts]:
    """The WIM whose files are ``paths``, in any order; one that is not split has one.

    Raises:
        FormatError: the first is not a WIM; UsageError: they are not of one WIM; SourceError:
            one can't be read.
    """
    sources = [identify(str(path), path) for path in dict.fromkeys(paths)]
    with SourceReader(sources) as reader, ExitStack() as stack:
        files: list[WimPartFile] = []
        damage: list[str] = []
        headers: dict[int, tuple[Path, WimHeader]] = {}
        for source in sources:
            path = Path(source.source_id)
            pieces = (Piece(source.size, FileRange(source.source_id, 0)),) if source.size else ()
            size = min(source.size, HEADER_SIZE)
            header = parse_wim_header(reader.read_pieces(pieces, 0, size), what=str(path))
            _check_same_set(path, header, headers)
            headers[header.part_number] = path, header
            try:
                wim = read_wim(pieces, source.size, reader, str(path))
            except FormatError as error:
                damage.append(error.message)
                continue
            blobs = stack.enter_context(BlobReader(wim, pieces, reader, what=str(path)))
            files.append(WimPartFile(path, wim, pieces, reader, blobs))
        part_count = next(iter(headers.values()))[1].part_count
        yield WimParts(
            reader,
            tuple(sorted(files, key=lambda file: file.wim.part_number)),
            tuple(damage),
            tuple(number for number in range(1, part_count + 1) if number not in headers),
        )


def _check_same_set(
    path: Path, header: WimHeader, others: dict[int, tuple[Path, WimHeader]]
) -> None:
    for number, (other_path, other) in others.items():
        if (header.guid, header.part_count) != (other.guid, other.part_count):
            raise UsageError(
                f"{path} is not a part of the WIM that {other_path} belongs to: "
                f"GUID {header.guid.hex()} of {header.part_count} parts, "
                f"expected {other.guid.hex()} of {other.part_count}",
                hint="give only the parts of one split WIM",
            )
        if header.part_number == number:
            raise UsageError(f"{path} and {other_path} are both part {number}")
