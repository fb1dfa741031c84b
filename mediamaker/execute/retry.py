# SPDX-License-Identifier: GPL-3.0-or-later
"""Writes once more what failed, and narrows down to the sector that does not take it.

A loose contact or a reset of the bus costs one write; a bad sector fails again and again. So a
write that failed is tried again whole, then by halves, down to one sector: what can be written
is, and the offset that is left when it gives up is that of the sector itself. All of that is
bounded, as each failure may take the kernel half a minute, and each is told: a medium that needs
this is not to be trusted, even when all went well in the end.

A flush that failed is never tried again: the kernel may have dropped what it held (fsync(2)), and
a second one would say that all is well.
"""

from __future__ import annotations

import errno
from collections.abc import Callable

from mediamaker.execute.interrupts import check_cancelled
from mediamaker.execute.target import Target
from mediamaker.units import align_down

RETRY_COUNT = 2
"""Of the whole write, and of the one sector that is left; what lies between is tried once."""
FAILURE_COUNT_MAX = 64
"""Of one run; one bad sector in a write of 4 MiB takes some 20."""
_PASSING_ERRNOS = frozenset(
    # as block/blk-core.c in Linux maps what a device answered
    {errno.EIO, errno.EREMOTEIO, errno.ETIMEDOUT, errno.ENODATA, errno.EILSEQ}
)

OnRetry = Callable[[int, int, OSError], None]
"""Told the offset and size of a write that failed first and went well then, and its error."""


class RetryingWriter:
    """Writes to ``target``; see above. One per run."""

    def __init__(
        self,
        target: Target,
        on_retried: OnRetry,
        *,
        check: Callable[[], None] = lambda: check_cancelled(None),
    ) -> None:
        self._target = target
        self._on_retried = on_retried
        self._check = check
        self._failure_count = 0
        # The write that is being done in pieces, and the part of it that is known to fail whole.
        self._failed: tuple[int, int, OSError] | None = None
        self._failing_start = self._failing_end = 0
        self._size_limit = 0

    @property
    def may_go_on(self) -> bool:
        """Whether it is worth while to go on behind a sector that failed."""
        return self._failure_count < FAILURE_COUNT_MAX and self._target.is_present()

    def write_some(self, offset: int, data: memoryview) -> int:
        """Write some of ``data``, at least a sector; the count may be short, never 0.

        Raises:
            OSError: that sector, or that range if the failures became too many, can't be written.
        """
        if self._failing_start <= offset < self._failing_end:
            # By half the size at which the last piece went well.
            data = data[: min(self._size_limit, self._failing_end - offset)]
        try:
            count = self._write_once(offset, data)
        except OSError as error:
            if not self._is_passing(error):
                raise
            count = self._write_again(offset, data, error)
        if self._failed is not None and offset + count >= self._failed[1]:
            start, end, failure = self._failed
            self._failed = None
            self._on_retried(start, end - start, failure)
        return count

    def _write_again(self, offset: int, data: memoryview, error: OSError) -> int:
        sector_size = self._target.logical_sector_size
        end = offset + len(data)
        for size in _attempt_sizes(len(data), sector_size):
            self._check()
            try:
                count = self._write_once(offset, data[:size])
            except OSError as again:
                if not self._is_passing(again):
                    raise
                continue
            self._failing_start, self._failing_end = offset, end
            self._size_limit = max(sector_size, align_down(size // 2, sector_size))
            self._failed = self._failed or (offset, end, error)
            return count
        raise error

    def _write_once(self, offset: int, data: memoryview) -> int:
        count = self._target.pwrite(offset, data)
        if count <= 0:
            raise OSError(errno.EIO, "wrote nothing")
        return count

    def _is_passing(self, error: OSError) -> bool:
        """Whether it may go well the next time."""
        self._failure_count += 1
        return error.errno in _PASSING_ERRNOS and self.may_go_on


def _attempt_sizes(size: int, sector_size: int) -> list[int]:
    """The whole again, then halves, then one sector."""
    sizes = [size] * RETRY_COUNT
    while (half := align_down(sizes[-1] // 2, sector_size)) >= sector_size:
        sizes.append(half)
    return sizes + [sizes[-1]] * (RETRY_COUNT - 1)
