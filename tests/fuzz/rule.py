# SPDX-License-Identifier: GPL-3.0-or-later
"""What every harness checks: bad input may only end in a :class:`MediaError`."""

from contextlib import contextmanager

from mediamaker.errors import MediaError


@contextmanager
def refused():
    """The block may end in an error of ours; any other one goes on to the fuzzer."""
    try:
        yield
    except MediaError as error:
        if not error.message:
            raise AssertionError("an error without a message") from error
        error.message.encode("utf-8", "backslashreplace")
