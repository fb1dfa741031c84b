# SPDX-License-Identifier: GPL-3.0-or-later
"""Records and the page that is made of them, whatever guests and file names say."""

import json
import re
from dataclasses import replace
from html.parser import HTMLParser
from urllib.parse import unquote

import pytest

from mediamaker.errors import ToolError
from mediamaker.vm.disk import Bus
from mediamaker.vm.firmware import KNOWN_OVMF, Firmware, find_ovmf
from mediamaker.vm.matrix import DEFAULT_FIRMWARES, Cell, list_cells, run_cells
from mediamaker.vm.ovmf_drivers import NVME_DRIVER, SD_CARD_DRIVER, has_driver
from mediamaker.vm.record import DiskRecord, MachineRecord, Verdict, read_records
from mediamaker.vm.report import Report, Row, rows_of, write_report
from mediamaker.vm.screen import Picture, pack_png

HOSTILE = (
    "</pre><script>alert(1)</script><img src=x onerror=alert(2)> \"'&\x00\x07\u202e\ud800 \x1b[2J"
)


class Page(HTMLParser):
    """Tags, attributes and the text of a page."""

    def __init__(self, text):
        super().__init__()
        self.tags, self.links, self.text = [], [], ""
        self.feed(text)

    def handle_starttag(self, tag, attributes):
        self.tags.append(tag)
        self.links += [value for name, value in attributes if name in {"src", "href"}]
        assert not [name for name, _ in attributes if name.startswith("on")]

    def handle_data(self, data):
        self.text += data


@pytest.fixture
def record(tmp_path):
    directory = tmp_path / "logs" / "a machine %20 & <more>"
    directory.mkdir(parents=True)
    (directory / "shot 1.png").write_bytes(pack_png(Picture(2, 1, bytes(6))))
    said = "\n".join(f"line {number}" for number in range(100)) + "\n" + HOSTILE
    (directory / "serial.log").write_bytes(said.encode(errors="surrogatepass"))
    return MachineRecord(
        name="it-123456",
        firmware="uefi",
        accelerator="tcg",
        verdict=Verdict(is_proven=True, words=f"proven: {HOSTILE}", line=HOSTILE),
        disks=(DiskRecord("disk.img", "nvme", 2048, 512), DiskRecord("card.img", "sd")),
        started_at=1.5,
        seconds=2.25,
        reset_count=1,
        screenshots=("shot 1.png", "gone.png"),
        serial_log="serial.log",
        directory=directory,
    )


def test_a_record_comes_back_as_it_was(record, tmp_path):
    record.write()
    assert read_records(tmp_path) == [record]
    assert read_records(tmp_path)[0].directory == record.directory


@pytest.mark.parametrize(
    "text", ["", "{}", "[]", '{"format": 1}', '{"format": 2}', "\udcff", '{"format": 1, "x": 2}']
)
def test_what_is_no_record_is_left_out(record, tmp_path, text):
    record.write()
    other = tmp_path / "other"
    other.mkdir()
    (other / "machine.json").write_bytes(text.encode(errors="surrogateescape"))
    assert [found.name for found in read_records(tmp_path)] == ["it-123456"]


def test_records_are_in_order_of_their_start(record, tmp_path):
    record.write()
    early = tmp_path / "z"
    early.mkdir()
    replace(record, name="early", started_at=0.5, directory=early).write()
    assert [found.name for found in read_records(tmp_path)] == ["early", "it-123456"]


def test_nothing_that_a_guest_says_becomes_markup(record, tmp_path):
    rows = rows_of([record], title=HOSTILE, outcome=HOSTILE)
    page = Page(
        write_report(Report(HOSTILE, ((HOSTILE, HOSTILE),), rows), tmp_path / "r.html").read_text()
    )
    assert "script" not in page.tags
    assert page.tags.count("img") == 1
    assert "<script>alert(1)</script>" in page.text
    assert not re.search(r"[\x00-\x08\x0b-\x1f\u202e]", page.text)
    # The end of the log, and no more than that.
    assert "line 99" in page.text
    assert "line 50" not in page.text
    assert "gone.png: No such file" in page.text


def test_links_lead_to_the_files(record, tmp_path):
    path = write_report(Report("t", (), rows_of([record])), tmp_path / "x" / "r.html")
    links = [link for link in Page(path.read_text()).links if not link.startswith(("data:", "#"))]
    assert len(links) == 3
    for link in links:
        assert (path.parent / unquote(link)).exists()


def test_each_kind_of_row_is_counted(record):
    rows = (
        *rows_of([record, replace(record, verdict=Verdict(False, "not proven: x"))]),
        Row("a", "bios", "sd", note="no such card"),
        Row("b", "bios", "usb", note="QEMU is missing", outcome="failed"),
    )
    assert [row.mark for row in rows] == ["proven", "not proven", "does not apply", "not proven"]
    assert [row.style for row in rows] == ["proven", "unproven", "", "unproven"]
    # A test may want a machine that does not boot.
    wanted = rows_of([record, replace(record, verdict=rows[1].record.verdict)], is_wanted=True)
    assert [(row.mark, row.style) for row in wanted] == [("proven", "proven"), ("not proven", "")]
    assert Report("", (), rows).counts == {"proven": 1, "not proven": 2, "does not apply": 1}


def test_what_a_bus_or_a_firmware_cannot_is_said():
    def reasons(size, sector_size):
        cells = list_cells(DEFAULT_FIRMWARES, list(Bus), size=size, sector_size=sector_size)
        assert len(cells) == 10
        return {(cell.firmware, cell.bus): cell.reason for cell in cells if cell.reason}

    odd = reasons(3 << 20, 512)
    assert {bus for _, bus in odd} == {Bus.SD}
    assert all("power of two" in reason for reason in odd.values())
    large = reasons(1 << 20, 4096)
    assert {key for key in large if key[0] is Firmware.UEFI} == {
        (Firmware.UEFI, Bus.AHCI), (Firmware.UEFI, Bus.SD)
    }  # fmt: skip
    assert {key[1] for key in large if key[0] is Firmware.BIOS} == set(Bus)
    # Whether there is a driver for SD cards is looked up in the very firmware.
    expected = has_driver(find_ovmf().code, SD_CARD_DRIVER) is False
    assert (set(reasons(1 << 20, 512)) == {(Firmware.UEFI, Bus.SD)}) == expected


def test_drivers_are_found_in_the_firmware(tmp_path):
    assert has_driver(find_ovmf().code, NVME_DRIVER) is True
    nothing = tmp_path / "CODE.fd"
    nothing.write_bytes(bytes(100))
    assert has_driver(nothing, NVME_DRIVER) is None
    # Cut in the middle of the compressed part, or just where its head begins.
    data = find_ovmf(KNOWN_OVMF).code.read_bytes()
    for size in (len(data) // 2, data.index(bytes.fromhex("98584eee1439 5942")) + 16):
        cut = tmp_path / f"{size}.fd"
        cut.write_bytes(data[:size])
        assert has_driver(cut, SD_CARD_DRIVER) in {None, False}


def test_cells_that_fail_are_results_too_and_leaving_early_ends_the_rest():
    cells = [Cell(Firmware.BIOS, bus) for bus in Bus]
    cells.append(Cell(Firmware.UEFI, Bus.SD, "cannot be"))
    ended = []

    def boot(cell, stop):
        if cell.bus is Bus.USB:
            raise ToolError("no QEMU")
        assert stop.wait(60)
        ended.append(cell.bus)
        raise ToolError("stopped")

    results = run_cells(cells, boot, jobs=3)
    assert next(results).cell.reason == "cannot be"
    failed = next(results)
    assert (failed.cell.bus, failed.error.message) == (Bus.USB, "no QEMU")
    results.close()
    # Those that ran have ended, the others never began.
    assert 1 <= len(ended) <= 3


def test_the_record_is_json_of_known_names(record):
    values = json.loads(record.write().read_text())
    assert values["format"] == 1
    assert values["verdict"]["is_proven"] is True
    assert "directory" not in values
