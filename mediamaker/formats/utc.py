# SPDX-License-Identifier: GPL-3.0-or-later
"""Dates as file systems record them, to nanoseconds since 1970-01-01 00:00 UTC."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta

_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)


def epoch_ns(
    date: tuple[int, int, int, int, int, int], *, zone_minutes: int = 0, microseconds: int = 0
) -> int | None:
    """UTC nanoseconds of a local year, month, day, hour, minute, second; None if impossible.

    ``zone_minutes`` is what local time is ahead of UTC.
    """
    try:
        since = datetime(*date, tzinfo=UTC) - timedelta(minutes=zone_minutes) - _EPOCH
    except (ValueError, OverflowError):
        return None
    whole_seconds = since.days * 86_400 + since.seconds
    return whole_seconds * 10**9 + min(microseconds, 999_999) * 1000
