# SPDX-License-Identifier: GPL-3.0-or-later
import pytest

from mediamaker.errors import UsageError
from mediamaker.units import align_down, align_up, format_range, format_size, parse_size


@pytest.mark.parametrize(
    ("text", "size"),
    [
        ("4096", 4096),
        ("16GiB", 16 << 30),
        ("16G", 16 << 30),
        ("16GB", 16 * 10**9),
        ("1.5GiB", 3 << 29),
        ("0.5 k", 512),
        ("2tib", 2 << 40),
    ],
)
def test_sizes_are_read(text, size):
    assert parse_size(text) == size


@pytest.mark.parametrize("text", ["", "GiB", "-1", "1.5", "0.3KiB", "16 gigs", "1e9", "٣"])
def test_what_is_no_size_is_refused(text):
    with pytest.raises(UsageError):
        parse_size(text)


@pytest.mark.parametrize(
    ("size", "text"),
    [(0, "0 B"), (1023, "1023 B"), (1 << 20, "1 MiB"), (4_617_089_843, "4.2 GiB")],
)
def test_sizes_are_shown(size, text):
    assert format_size(size) == text


def test_alignment_and_ranges():
    assert (align_up(1, 512), align_up(512, 512), align_down(1023, 512)) == (512, 512, 512)
    assert format_range(0x100000, 0x1E00000) == "[0x100000,0x1e00000)"
