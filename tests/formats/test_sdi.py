# SPDX-License-Identifier: GPL-3.0-or-later
"""The head of boot.sdi, by bytes written here from the format's description."""

import struct

import pytest

from mediamaker.errors import FormatError
from mediamaker.formats.sdi import HEAD_SIZE, SdiSection, parse_sdi

SIZE = 3_170_304


def head(kind=b"PART", offset=0x2000, size=SIZE - 0x2000, start=b"$SDI0001"):
    data = bytearray(HEAD_SIZE)
    data[:8] = start
    struct.pack_into("<8sQQQ", data, 0x400, kind, 0, offset, size)
    return bytes(data)


def test_the_partition_section_is_found():
    sdi = parse_sdi(head(), file_size=SIZE, what="boot.sdi")
    assert sdi.has_partition
    assert sdi.sections == (SdiSection("PART", 0x2000, SIZE - 0x2000),)
    assert not parse_sdi(head(kind=b"WIM"), file_size=SIZE, what="x").has_partition


@pytest.mark.parametrize(
    "data",
    [
        b"",
        head()[:0x3FF],
        head(start=b"$SDI0002"),
        head(start=b"MZ000000"),
        head(size=SIZE),
        head(offset=1 << 63),
    ],
)
def test_what_is_none_is_refused(data):
    with pytest.raises(FormatError, match=r"boot\.sdi"):
        parse_sdi(data, file_size=SIZE, what="boot.sdi")
