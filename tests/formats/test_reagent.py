# SPDX-License-Identifier: GPL-3.0-or-later
"""ReAgent.xml and ResetConfig.xml; the standard library's ElementTree reads what we wrote."""

from uuid import UUID
from xml.etree import ElementTree

import pytest

from mediamaker.errors import FormatError
from mediamaker.formats.reagent import (
    DISABLED,
    ReAgent,
    WinreLocation,
    enable_reagent,
    pack_reagent,
    pack_reset_config,
    parse_reagent,
)

LOADER = UUID("c1dc0f94-b6ff-11f0-9de2-ebeaf6fd1f26")
DISK = UUID("4f03eaec-a5c3-4a9b-8f67-7e9e2a4d2c11")

# The form of the files that Windows has, with an element that we know nothing of.
FOREIGN = """\
<?xml version='1.0' encoding='utf-8'?>

<WindowsRE version="2.0">
  <WinreBCD id=""/>
  <WinreLocation path="" id="0" offset="0" guid="{00000000-0000-0000-0000-000000000000}"/>
  <Strange b="2" a="1"/>
  <InstallState state="0"/>
</WindowsRE>
"""


@pytest.mark.parametrize("encoding", ["utf-8", "utf-8-sig"])
def test_unknown_elements_and_their_order_are_kept(encoding):
    read = parse_reagent(FOREIGN.encode(encoding), what="x")
    assert not read.is_enabled
    assert read.loader_guid is None
    assert read.location is None
    root = ElementTree.fromstring(pack_reagent(read).decode("utf-8-sig"))
    assert [(item.tag, list(item.attrib.items())) for item in root] == [
        (item.tag, list(item.attrib.items())) for item in ElementTree.fromstring(FOREIGN.encode())
    ]
    assert parse_reagent(pack_reagent(read), what="x") == read


@pytest.mark.parametrize("before", [None, parse_reagent(FOREIGN.encode(), what="x")])
def test_enabled_on_gpt(before):
    place = WinreLocation(r"\Recovery\WindowsRE", 123 << 20, disk_guid=DISK)
    root = ElementTree.fromstring(
        pack_reagent(enable_reagent(before, loader=LOADER, location=place)).decode("utf-8-sig")
    )
    assert root.attrib == {"version": "2.0"}
    assert root.find("WinreBCD").attrib == {"id": f"{{{LOADER}}}"}
    assert root.find("WinreLocation").attrib == {
        "path": r"\Recovery\WindowsRE",
        "id": "0",
        "offset": str(123 << 20),
        "guid": f"{{{DISK}}}",
    }
    assert root.find("InstallState").attrib == {"state": "1"}
    assert (root.find("Strange") is not None) == (before is not None)


def test_enabled_on_mbr_names_the_signature():
    place = WinreLocation(r"\Recovery\WindowsRE", 1 << 20, disk_signature=0xD7DA5D02)
    made = enable_reagent(None, loader=LOADER, location=place)
    read = parse_reagent(pack_reagent(made), what="x")
    assert read.is_enabled
    assert read.loader_guid == LOADER
    assert read.location == place
    assert read.attribute("WinreLocation", "id") == str(0xD7DA5D02)


@pytest.mark.parametrize(
    "data",
    [
        b"",
        b"no XML",
        b"<Other/>",
        b'<!DOCTYPE a [<!ENTITY b "c">]><WindowsRE/>',
        b"<WindowsRE><a><b/></a></WindowsRE>",
        b"<WindowsRE>" + b"<a/>" * 300 + b"</WindowsRE>",
        b"<WindowsRE>" + b" " * (300 << 10) + b"</WindowsRE>",
    ],
)
def test_what_is_no_such_file_is_refused(data):
    with pytest.raises(FormatError, match="x"):
        parse_reagent(data, what="x")


def test_numbers_and_guids_that_make_no_sense_are_nothing():
    made = DISABLED.with_element("WinreLocation", path="p", offset="-1").with_element(
        "WinreBCD", id="{nonsense}"
    )
    assert made.location is None
    assert made.loader_guid is None
    assert ReAgent(()).location is None


def test_reset_config_names_the_partitions():
    data = pack_reset_config(
        partition_script="a&b.txt", windows_number=3, recovery_number=4, disk_size_min=(1 << 30) + 1
    )
    disk = ElementTree.fromstring(data).find("SystemDisk")
    assert disk.findtext("DiskpartScriptPath") == "a&b.txt"
    assert disk.findtext("OSPartition") == "3"
    assert disk.findtext("WindowsREPartition") == "4"
    assert disk.findtext("MinSize") == "1025"
