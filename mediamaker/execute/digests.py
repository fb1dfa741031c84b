# SPDX-License-Identifier: GPL-3.0-or-later
"""SHA-256 of the written bytes, one digest for every 64 MiB piece of the target.

Piece ``k`` takes in the written bytes of ``[k * 64 MiB, (k + 1) * 64 MiB)`` in ascending order.
Unwritten bytes are left out, the commit ranges are not: the digests are of the finished disk,
sector 0 included. A piece without a written byte has no digest.
"""

from __future__ import annotations

import hashlib
from dataclasses import dataclass

from mediamaker.units import MIB

PIECE_SIZE = 64 * MIB


@dataclass(frozen=True, slots=True)
class PieceDigest:
    """The digest of piece ``piece_index``; ``size`` is the count of bytes that went into it."""

    piece_index: int
    size: int
    sha256: str


class PieceHasher:
    """Takes written bytes in ascending order; ``digests`` grows as pieces are complete."""

    def __init__(self, piece_size: int = PIECE_SIZE) -> None:
        self.digests: list[PieceDigest] = []
        self._piece_size = piece_size
        self._piece_index = -1
        self._size = 0
        self._hash = hashlib.sha256()

    def update(self, offset: int, data: memoryview) -> None:
        """Add the bytes at ``offset`` of the target, which is not below any offset before."""
        while data:
            piece_index = offset // self._piece_size
            if piece_index != self._piece_index:
                self.finish()
                self._piece_index = piece_index
            size = min(len(data), (piece_index + 1) * self._piece_size - offset)
            self._hash.update(data[:size])
            self._size += size
            offset += size
            data = data[size:]

    def finish(self) -> None:
        """There are no more bytes in the piece that is open."""
        if self._size:
            self.digests.append(PieceDigest(self._piece_index, self._size, self._hash.hexdigest()))
            self._hash = hashlib.sha256()
            self._size = 0
