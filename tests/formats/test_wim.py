# SPDX-License-Identifier: GPL-3.0-or-later
"""WIM tables: what is packed is parsed again, bytes that wimlib wrote are understood."""

import hashlib
import re
import subprocess
import xml.etree.ElementTree as ET

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from mediamaker.errors import FormatError, MediaError
from mediamaker.formats.wim import (
    SIZE_IN_WIM_MAX,
    VERSION_DEFAULT,
    VERSION_SOLID,
    IntegrityTable,
    ResourceHeader,
    WimHeader,
    pack_integrity_table,
    pack_resource_header,
    pack_wim_header,
    parse_integrity_table,
    parse_resource_header,
    parse_wim_header,
)
from mediamaker.formats.wim_blobs import (
    BlobEntry,
    SolidHeader,
    pack_blob_table,
    pack_solid_header,
    parse_blob_table,
    parse_solid_header,
)
from mediamaker.formats.wim_xml import WimImageInfo, pack_wim_xml, parse_wim_xml
from mediamaker.sources.identity import identify
from mediamaker.sources.reader import SourceReader

U16, U32, U64 = (st.integers(0, (1 << bits) - 1) for bits in (16, 32, 64))
BYTE = st.integers(0, 255)
RESOURCES = st.builds(ResourceHeader, st.integers(0, SIZE_IN_WIM_MAX), BYTE, U64, U64)
PARTS = st.integers(1, 0xFFFF).flatmap(lambda n: st.tuples(st.integers(1, n), st.just(n)))
BOOTS = U32.flatmap(lambda n: st.tuples(st.integers(0, n), st.just(n)))
HEADERS = st.builds(
    lambda part, boot, **fields: WimHeader(
        part_number=part[0], part_count=part[1], boot_index=boot[0], image_count=boot[1], **fields
    ),
    PARTS,
    BOOTS,
    version=st.sampled_from([VERSION_DEFAULT, VERSION_SOLID]),
    flags=U32,
    chunk_size=st.sampled_from([0, *(1 << n for n in range(32))]),
    guid=st.binary(min_size=16, max_size=16),
    blob_table=RESOURCES,
    xml=RESOURCES,
    boot_metadata=RESOURCES,
    integrity=RESOURCES,
)
SHA1S = st.binary(min_size=20, max_size=20)
ENTRIES = st.builds(lambda resource, *rest: BlobEntry(*resource, *rest), RESOURCES, U16, U32, SHA1S)
TEXTS = st.text(
    st.characters(min_codepoint=0x20, exclude_categories=["Cs"], exclude_characters="\ufffe\uffff")
    | st.sampled_from("\t\n\r<>&\"'"),
    max_size=20,
)
MAYBE = st.none() | TEXTS
DIGITS = st.integers(0, 99999).map(str)
IMAGES = st.builds(
    WimImageInfo,
    number=st.just(1),
    name=TEXTS,
    description=MAYBE,
    display_name=MAYBE,
    edition=MAYBE,
    architecture=st.sampled_from([None, "x86", "arm", "ia64", "x64", "arm64", "unknown 77"]),
    build=st.none() | st.lists(DIGITS, min_size=1, max_size=4).map(".".join),
    languages=st.lists(TEXTS, max_size=3).map(tuple),
    default_language=MAYBE,
    total_bytes=st.none() | U64,
    installation_type=MAYBE,
    flags=MAYBE,
)


@given(HEADERS)
def test_header_round_trip(header):
    assert parse_wim_header(pack_wim_header(header)) == header


@given(RESOURCES)
def test_resource_header_round_trip(resource):
    assert parse_resource_header(pack_resource_header(resource)) == resource


@given(st.lists(ENTRIES, max_size=8))
def test_blob_table_round_trip(entries):
    table = parse_blob_table(pack_blob_table(entries))
    assert list(table) == entries
    assert [table[index] for index in range(len(table))] == entries


@given(st.lists(IMAGES, max_size=3))
@settings(deadline=None)
def test_xml_round_trip(images):
    numbered = tuple(
        WimImageInfo(
            **{name: getattr(image, name) for name in WimImageInfo.__slots__} | {"number": number}
        )
        for number, image in enumerate(images, 1)
    )
    assert parse_wim_xml(pack_wim_xml(numbered)) == numbered


@given(st.integers(1, (1 << 32) - 1), st.lists(SHA1S, max_size=5).map(tuple))
def test_integrity_table_round_trip(chunk_size, sha1s):
    table = IntegrityTable(chunk_size=chunk_size, sha1s=sha1s)
    assert parse_integrity_table(pack_integrity_table(table)) == table


@given(st.integers(0, 100_000), st.integers(12, 31), U32)
def test_solid_header_round_trip(size, chunk_bits, kind):
    header = SolidHeader(uncompressed_size=size, chunk_size=1 << chunk_bits, compression_type=kind)
    assert parse_solid_header(pack_solid_header(header), 1000) == header


@pytest.mark.parametrize(
    "parse",
    [
        parse_wim_header,
        parse_resource_header,
        parse_blob_table,
        parse_wim_xml,
        parse_integrity_table,
        lambda data: parse_solid_header(data, 1000),
        lambda data: parse_wim_header(pack_wim_header(_plain_header())[:8] + data),
        lambda data: parse_wim_xml(b"\xff\xfe" + data),
        lambda data: parse_wim_xml(b"\xff\xfe" + data.decode("latin-1").encode("utf-16-le")),
    ],
)
@given(data=st.binary(max_size=400))
@settings(max_examples=60, deadline=None)
def test_random_bytes_give_typed_errors_only(parse, data):
    try:
        parse(data)
    except MediaError as error:
        assert isinstance(error, FormatError)  # noqa: PT017 - any other type must fail the test


@pytest.mark.parametrize(
    ("pack", "value"),
    [
        (pack_resource_header, ResourceHeader(1 << 56, 0, 0, 0)),
        (pack_resource_header, ResourceHeader(0, 256, 0, 0)),
        (pack_resource_header, ResourceHeader(0, 0, 1 << 64, 0)),
        (pack_resource_header, ResourceHeader(0, 0, -1, 0)),
        (pack_blob_table, [BlobEntry(0, 0, 0, 0, 1 << 16, 0, bytes(20))]),
        (pack_blob_table, [BlobEntry(0, 0, 0, 0, 1, 1, bytes(19))]),
        (pack_wim_xml, [WimImageInfo(number=1, name="bell \a")]),
    ],
)
def test_what_does_not_fit_is_refused(pack, value):
    with pytest.raises(FormatError):
        pack(value)


def _plain_header() -> WimHeader:
    nowhere = ResourceHeader(0, 0, 0, 0)
    return WimHeader(
        flags=0, chunk_size=0, guid=bytes(16), image_count=0, blob_table=nowhere, xml=nowhere
    )


@pytest.mark.parametrize(
    ("body", "expected"),
    [
        ("<WINDOWS><ARCH>9</ARCH></WINDOWS>", {"architecture": "x64"}),
        ("<WINDOWS><ARCH>12</ARCH></WINDOWS>", {"architecture": "arm64"}),
        ("<WINDOWS><ARCH>x</ARCH></WINDOWS>", {"architecture": "unknown x"}),
        (
            (
                "<WINDOWS><VERSION><MAJOR>10</MAJOR><MINOR>0</MINOR><BUILD>26100</BUILD>"
                "<SPBUILD>1742</SPBUILD><SPLEVEL>0</SPLEVEL></VERSION></WINDOWS>"
            ),
            {"build": "10.0.26100.1742"},
        ),
        ("<WINDOWS><VERSION><MAJOR>6</MAJOR></VERSION></WINDOWS>", {"build": "6"}),
        (
            (
                "<WINDOWS><LANGUAGES><LANGUAGE>en-US</LANGUAGE><LANGUAGE>de-DE</LANGUAGE>"
                "<DEFAULT>en-US</DEFAULT></LANGUAGES></WINDOWS>"
            ),
            {"languages": ("en-US", "de-DE"), "default_language": "en-US"},
        ),
        ("<TOTALBYTES>many</TOTALBYTES>", {"total_bytes": None}),
        ("<TOTALBYTES>17179869184</TOTALBYTES>", {"total_bytes": 17179869184}),
        ("<OTHER><NAME>not the name</NAME></OTHER>", {"name": ""}),
    ],
)
def test_xml_fields(body, expected):
    xml = f'<WIM><TOTALBYTES>1</TOTALBYTES><IMAGE INDEX="1">{body}</IMAGE></WIM>'
    (image,) = parse_wim_xml(b"\xff\xfe" + xml.encode("utf-16-le"))
    assert {name: getattr(image, name) for name in expected} == expected


def test_images_come_by_number():
    xml = (
        '<WIM><IMAGE INDEX="2"><NAME>b</NAME></IMAGE><IMAGE INDEX="1"><NAME>a</NAME></IMAGE></WIM>'
    )
    images = parse_wim_xml(b"\xff\xfe" + xml.encode("utf-16-le"))
    assert [(image.number, image.name) for image in images] == [(1, "a"), (2, "b")]


def _wimlib(*arguments) -> str:
    return subprocess.run(
        ["wimlib-imagex", *map(str, arguments)], check=True, capture_output=True, text=True
    ).stdout


@pytest.fixture(scope="module")
def captured(tmp_path_factory):
    """A WIM by wimlib with an integrity table, and the tree that it was made from."""
    folder = tmp_path_factory.mktemp("wim")
    tree = folder / "tree"
    tree.mkdir()
    for number in range(20):
        (tree / f"file {number}").write_bytes(f"line {number}\n".encode() * number * 300)
    wim = folder / "captured.wim"
    _wimlib("capture", tree, wim, "Äpfel & <Birnen>", "a description", "--check", "--boot")
    _wimlib("info", wim, "1", "--image-property", "WINDOWS/ARCH=9")
    _wimlib("info", wim, "1", "--image-property", "WINDOWS/EDITIONID=Professional")
    return wim


def test_header_is_what_wimlib_says(captured):
    header = parse_wim_header(captured.read_bytes())
    said = dict(re.findall(r"^(.+?) *= (.+)$", _wimlib("info", captured, "--header"), re.MULTILINE))
    assert said["GUID"] == header.guid.hex()
    assert int(said["Flags"], 16) == header.flags
    assert int(said["Chunk Size"]) == header.chunk_size
    assert int(said["Boot Index"]) == header.boot_index == 1
    for prefix, resource in (
        ("Blob Table", header.blob_table),
        ("XML Data", header.xml),
        ("Boot Metadata", header.boot_metadata),
        ("Integrity", header.integrity),
    ):
        assert int(said[f"{prefix} Size"]) == resource.size_in_wim
        assert int(said[f"{prefix} Offset"]) == resource.offset
    assert header.compression == "LZX"


def test_packing_gives_the_bytes_that_wimlib_wrote(captured):
    data = captured.read_bytes()
    header = parse_wim_header(data)
    assert pack_wim_header(header) == data[:208]
    table = data[header.blob_table.offset : header.blob_table.end]
    assert pack_blob_table(parse_blob_table(table)) == table


def test_blob_table_is_what_wimlib_says(captured):
    header = parse_wim_header(data := captured.read_bytes())
    table = parse_blob_table(data[header.blob_table.offset : header.blob_table.end])
    said = re.findall(
        r"Hash += 0x(\w+)\nUncompressed size = (\d+) bytes\nCompressed size += (\d+) bytes\n"
        r"Offset in WIM += (\d+) bytes\nPart Number += (\d+)\nReference Count += (\d+)",
        _wimlib("info", captured, "--blobs"),
    )
    assert len(said) == len(table) > 15
    ours = {
        (
            blob.sha1.hex(),
            blob.uncompressed_size,
            blob.size_in_wim,
            blob.offset,
            blob.part_number,
            blob.reference_count,
        )
        for blob in table
    }
    assert ours == {(sha1, *map(int, numbers)) for sha1, *numbers in said}


def test_xml_is_what_wimlib_wrote(captured, tmp_path):
    _wimlib("info", captured, "--extract-xml", tmp_path / "xml")
    data = (tmp_path / "xml").read_bytes()
    (image,) = parse_wim_xml(data)
    root = ET.fromstring(data.decode("utf-16"))
    assert image.name == root.findtext("IMAGE/NAME") == "Äpfel & <Birnen>"
    assert image.description == "a description"
    assert image.total_bytes == int(root.findtext("IMAGE/TOTALBYTES"))
    assert (image.architecture, image.edition) == ("x64", "Professional")


def test_integrity_table_of_wimlib_holds(captured):
    with SourceReader([identify("wim", captured)]) as reader:
        header = parse_wim_header(reader.pread("wim", 0, 208))
        table = parse_integrity_table(
            reader.pread("wim", header.integrity.offset, header.integrity.size_in_wim)
        )
        covered = reader.pread("wim", 208, header.blob_table.end - 208)
    chunks = [
        covered[at : at + table.chunk_size] for at in range(0, len(covered), table.chunk_size)
    ]
    assert [hashlib.sha1(chunk).digest() for chunk in chunks] == list(table.sha1s)


@pytest.mark.parametrize(
    ("compress", "name"), [("none", "none"), ("XPRESS", "XPRESS"), ("LZX", "LZX"), ("LZMS", "LZMS")]
)
def test_compression_name(compress, name, tmp_path):
    (tmp_path / "tree").mkdir()
    wim = tmp_path / "x.wim"
    _wimlib("capture", tmp_path / "tree", wim, f"--compress={compress}")
    header = parse_wim_header(wim.read_bytes())
    assert header.compression == name
    assert header.version == (VERSION_SOLID if compress == "LZMS" else VERSION_DEFAULT)
