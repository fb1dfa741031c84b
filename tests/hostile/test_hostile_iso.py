# SPDX-License-Identifier: GPL-3.0-or-later
"""Every hostile ISO gets the verdict that the README gives it, in bounded memory."""

import re
import time
import tracemalloc
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from mediamaker import errors
from mediamaker.sources.iso import IsoSource, open_iso
from mediamaker.sources.kinds import inspect_source
from mediamaker.sources.reader import SourceReader
from mediamaker.units import MIB
from tests.hostile.iso9660_image import BLOCK, good_iso9660
from tests.hostile.make_iso import CASES
from tests.hostile.udf_image import PARTITION_START, good_udf

README = Path(__file__).with_name("README.md")


def _verdicts() -> dict[str, str]:
    section = README.read_text().split("\n## ISO\n")[1].split("\n## ")[0]
    rows = re.findall(r"^\| ([a-z0-9-]+) \| ([^|]+\.) \| ([^|]+) \|$", section, re.MULTILINE)
    assert len(rows) == len({name for name, _, _ in rows})
    assert len(rows) == sum(line.startswith("| ") for line in section.splitlines()) - 2
    return {name: verdict for name, _, verdict in rows}


VERDICTS = _verdicts()


def _read_all(iso: IsoSource) -> dict[str, bytes]:
    """What a plan would copy: every byte must be there, in pieces that add up."""
    with SourceReader(iso.tree.files) as reader:
        contents = {}
        for entry in iso.tree.entries:
            assert entry.size == sum(piece.size for piece in entry.pieces)
            contents[entry.path_text] = reader.read_pieces(entry.pieces, 0, entry.size)
    return contents


def test_every_row_of_the_readme_is_a_case_and_every_case_a_row():
    assert list(VERDICTS) == list(CASES)


@pytest.mark.parametrize("name", CASES)
def test_verdict(name, tmp_path):
    path = tmp_path / "test.iso"
    path.write_bytes(CASES[name]())
    tracemalloc.start()
    try:
        if VERDICTS[name].startswith("read"):
            iso = open_iso(path)
            _read_all(iso)
            wanted = re.findall("`(.+)`", VERDICTS[name])
            assert len(iso.notes) == len(wanted)
            assert all(text in note for text, note in zip(wanted, iso.notes, strict=True))
        else:
            kind, says = re.fullmatch(r"`(\w+)`: `(.+)`", VERDICTS[name]).groups()
            with pytest.raises(errors.MediaError) as caught:
                open_iso(path)
            assert type(caught.value).__name__ == kind
            assert says in str(caught.value)
            assert str(path) in str(caught.value)
        assert tracemalloc.get_traced_memory()[1] < 8 * MIB
    finally:
        tracemalloc.stop()


@pytest.mark.parametrize(
    ("name", "hint"),
    [
        ("wim", "a WIM file; give the ISO"),
        ("zip", "a ZIP archive; unpack it"),
        ("web-page", "the download went wrong"),
        ("disk-image", "a disk image with a GPT"),
        ("text", "give an ISO file or a folder"),
        ("truncated", "download or copy the image again"),
    ],
)
def test_the_hint_says_what_to_do(name, hint, tmp_path):
    path = tmp_path / "test.iso"
    path.write_bytes(CASES[name]())
    with pytest.raises(errors.FormatError) as caught:
        open_iso(path)
    assert hint in caught.value.hint


def test_the_good_ones_are_good(tmp_path):
    path = tmp_path / "good.iso"
    path.write_bytes(good_udf().build())
    contents = {"readme.txt": b"hello\n", "sources": b"", "sources/boöt.wim": b"wim" * 1000}
    assert _read_all(open_iso(path)) == contents
    path.write_bytes(good_iso9660().build())
    assert _read_all(open_iso(path)) == {"D": b"", "D/DEEP": b"deep\n", "README.TXT": b"hello\n"}


UDF_STRUCTURES = [*range(16, 21), *range(32, 36), 256, *range(PARTITION_START, PARTITION_START + 9)]
ISO_STRUCTURES = range(16, 27)


def _damage(blocks):
    """Patches inside the blocks that hold structures, not in the emptiness between them."""
    places = st.tuples(st.sampled_from(list(blocks)), st.integers(0, 511)).map(
        lambda place: place[0] * BLOCK + place[1]
    )
    patches = st.binary(min_size=1, max_size=9)
    return st.lists(st.tuples(places, patches), min_size=1, max_size=5)


@pytest.mark.parametrize(
    ("build", "blocks", "with_tags"),
    [
        (good_udf, UDF_STRUCTURES, False),
        (good_udf, UDF_STRUCTURES, True),
        (good_iso9660, ISO_STRUCTURES, False),
    ],
    ids=["udf", "udf-with-right-checksums", "iso9660"],
)
def test_any_damage_gives_a_typed_error_or_files_that_can_be_read(
    build, blocks, with_tags, tmp_path, monkeypatch
):
    good = build().build()
    path = tmp_path / "fuzz.iso"
    if with_tags:  # as an attacker would: the checksums never stand in the way
        monkeypatch.setattr("mediamaker.formats.udf.parse_tag", _parse_tag_without_checks)
        monkeypatch.setattr("mediamaker.formats.udf_file.parse_tag", _parse_tag_without_checks)
        monkeypatch.setattr("mediamaker.sources.udf.parse_tag", _parse_tag_without_checks)

    @settings(max_examples=200, deadline=None, suppress_health_check=list(HealthCheck))
    @given(_damage(blocks), st.one_of(st.none(), st.integers(0, len(good))))
    def run(damage, end):
        data = bytearray(good)
        for offset, patch in damage:
            data[offset : offset + len(patch)] = patch
        path.write_bytes(data[:end])
        started = time.monotonic()
        assert "fuzz.iso" in _problem(path, default="fuzz.iso can be read")
        assert time.monotonic() - started < 5

    run()


def _problem(path, *, default):
    try:
        _read_all(open_iso(path))
        inspect_source(path)
    except errors.MediaError as error:
        return str(error)
    return default


def _parse_tag_without_checks(data, *, what):
    if len(data) < 16:
        raise errors.FormatError(f"{what}: too short")
    return int.from_bytes(data[:2], "little")
