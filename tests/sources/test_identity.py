# SPDX-License-Identifier: GPL-3.0-or-later
"""A source that changes while a library reads it."""

import pytest

from mediamaker.errors import SourceChangedError, SourceError
from mediamaker.sources.identity import identify, unchanged_sources


def test_what_was_made_of_a_source_that_changed_meanwhile_does_not_count(tmp_path):
    path = tmp_path / "a.wim"
    path.write_bytes(b"before")
    files = [identify("wim", path)]
    with unchanged_sources(files):
        pass
    changed = pytest.raises(SourceChangedError, match=r"a\.wim.*size was 6 bytes, is 5")
    with changed, unchanged_sources(files):
        path.write_bytes(b"after")
    with pytest.raises(SourceChangedError, match="size was 6"), unchanged_sources(files):
        raise SourceError("Unexpectedly reached the end of the file")
    path.unlink()
    gone = pytest.raises(SourceChangedError, match="but is gone")
    with gone, unchanged_sources(files):
        pass


def test_an_error_of_a_source_that_did_not_change_stays(tmp_path):
    path = tmp_path / "a.wim"
    path.write_bytes(b"before")
    with pytest.raises(SourceError, match="damaged"), unchanged_sources([identify("wim", path)]):
        raise SourceError("damaged")
