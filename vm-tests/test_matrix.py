# SPDX-License-Identifier: GPL-3.0-or-later
"""``test-matrix`` on the stand-in ISO, and its report in a real browser.

The screenshots of the browser are in ``out/vm-tests/test_matrix/``: look at them.
"""

import json
import signal
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace

import jsonschema
import psutil
import pytest
from browser import Browser
from command import mediamaker, succeed
from standin.iso import standin_iso

from mediamaker.vm import MachineRecord, Report, Verdict, rows_of, write_report

SCHEMA = Path(__file__).parents[1] / "mediamaker" / "schemas" / "events.schema.json"
MARKS = "[...document.querySelectorAll('#rows tbody tr')].map(row => row.dataset.mark)"
CELLS = (
    "[...document.querySelectorAll('#rows tbody tr')]"
    ".map(row => [...row.cells].map(cell => cell.innerText))"
)
IMAGES = "[...document.images].map(image => [image.naturalWidth, image.naturalHeight])"
# What is wider than the window, but for what scrolls by itself.
OVERFLOW = "document.documentElement.scrollWidth - document.documentElement.clientWidth"


@pytest.fixture(scope="module")
def iso():
    return standin_iso()


@pytest.fixture(scope="module")
def matrix(iso, request, tmp_path_factory):
    """An ISO, not written, on two firmwares and three buses; its events and its folder."""
    folder = tmp_path_factory.mktemp("matrix")
    finished = mediamaker(
        "test-matrix", iso.path, "--layout", "mbr-fat32", "--size", "512MiB", "--trace",
        "--bus", "usb,nvme,sd", "--expect", f"token={iso.token}", "--jobs", "1",
        "--timeout", "240", "--screenshot", folder / "logs", "--report", folder / "report.html",
    )  # fmt: skip
    return SimpleNamespace(finished=finished, folder=folder, report=folder / "report.html")


@pytest.fixture(scope="module")
def browser(tmp_path_factory):
    with Browser(tmp_path_factory.mktemp("chromium")) as started:
        yield started


def check_schema(finished):
    validator = jsonschema.Draft202012Validator(json.loads(SCHEMA.read_text()))
    for event in finished.events:
        validator.validate(event)


def test_every_machine_is_proven_or_says_why_it_cannot_be(matrix, iso):
    finished = matrix.finished
    check_schema(finished)
    cells = {(cell["firmware"], cell["bus"]): cell for cell in finished.last["cells"]}
    assert list(cells) == [
        (firmware, bus) for firmware in ("bios", "uefi") for bus in ("usb", "nvme", "sd")
    ]
    # Debian's OVMF is built without SD; one that has it must boot.
    left_out = [key for key, cell in cells.items() if cell["verdict"] == "does-not-apply"]
    assert left_out in ([], [("uefi", "sd")])
    for key, cell in cells.items():
        if key in left_out:
            assert "no driver for SD cards" in cell["words"]
        else:
            assert cell["verdict"] == "proven", cell
            assert f"token={iso.token}" in cell["matched_line"]
    assert finished.exit_code == 0
    assert finished.last["booted"] == "source"
    traces = [event for event in finished.events if event["event"] == "boot_trace"]
    assert len(traces) == len(cells) - len(left_out)
    assert "reached-ramdisk" in {trace["verdict"] for trace in traces}
    # Nothing was copied.
    assert sum(path.stat().st_size for path in matrix.folder.rglob("*")) < 10_000_000


def test_the_report_in_a_browser(matrix, browser, out_dir):
    cells = matrix.finished.last["cells"]
    browser.open(matrix.report)
    assert browser.evaluate("document.title").startswith("Boot matrix of small-x64")
    assert browser.evaluate(MARKS) == [cell["verdict"].replace("-", " ") for cell in cells]
    shown = browser.evaluate(CELLS)
    assert [row[2:4] for row in shown] == [[cell["firmware"], cell["bus"]] for cell in cells]
    ran = [cell for cell in cells if cell["verdict"] != "does-not-apply"]
    images = browser.evaluate(IMAGES)
    # A screenshot and a timeline each, and all of them are pictures that the browser can draw.
    assert len(images) == 2 * len(ran)
    assert all(width > 300 and height > 90 for width, height in images)
    for cell in ran:
        assert browser.evaluate(
            f"document.body.innerText.includes({json.dumps(cell['words'].split(';')[0])})"
        )
    # Each link in the page leads to a place in it, each other one to a file.
    assert browser.evaluate(
        "[...document.querySelectorAll('a[href^=\"#\"]')]"
        ".every(link => document.getElementById(link.hash.slice(1)))"
    )
    links = browser.evaluate(
        "[...document.links].map(link => link.href).filter(href => !href.includes('#'))"
    )
    assert len(links) >= 3 * len(ran)
    assert all(Path(link.removeprefix("file://")).exists() for link in links)
    assert browser.evaluate("document.scripts.length") == 0
    assert browser.evaluate(OVERFLOW) <= 0
    browser.screenshot(out_dir / "report-light.png")
    light = browser.evaluate("getComputedStyle(document.body).backgroundColor")
    browser.open(matrix.report, is_dark=True)
    browser.screenshot(out_dir / "report-dark.png")
    assert browser.evaluate("getComputedStyle(document.body).backgroundColor") != light
    browser.open(matrix.report, width=420)
    assert browser.evaluate(OVERFLOW) <= 0
    browser.screenshot(out_dir / "report-narrow.png")
    assert browser.print_pdf(out_dir / "report.pdf").read_bytes().startswith(b"%PDF")
    assert browser.problems == []
    (out_dir / "report.html").write_bytes(matrix.report.read_bytes())


def test_a_timeline_in_a_browser(matrix, browser, out_dir):
    pictures = sorted(matrix.folder.rglob("boot-trace.svg"))
    uefi = next(path for path in pictures if "uefi-nvme" in str(path))
    browser.open(uefi)
    assert browser.evaluate("document.documentElement.tagName") == "svg"
    texts = browser.evaluate("[...document.querySelectorAll('text')].map(text => text.textContent)")
    assert any(text.endswith("\\sources\\boot.wim") for text in texts)
    # No name runs into its bar, and nothing lies outside of the picture.
    assert browser.evaluate(
        "[...document.querySelectorAll('g')].every(row => row.querySelector('text').getBBox().width"
        " + 12 <= row.querySelector('.track').getBBox().x)"
    )
    assert browser.evaluate(
        "[...document.querySelectorAll('text, rect')].every(item => { const box = item.getBBox();"
        " return box.x >= 0 && box.x + box.width <= document.documentElement.width.baseVal.value })"
    )
    browser.screenshot(out_dir / "boot-trace.png")
    assert browser.problems == []


def test_hostile_words_stay_words_in_a_browser(browser, out_dir):
    """What a guest says is shown as it is; a browser, not our own escaping, is the judge."""
    words = (
        "</pre></title><script>document.title = 'run'</script><img src=x onerror=alert(1)> &amp;"
    )
    (out_dir / "serial.log").write_text(words)
    record = MachineRecord(
        name=words, firmware="bios", accelerator="tcg", disks=(), started_at=0, seconds=1,
        verdict=Verdict(is_proven=True, words=words, line=words), reset_count=0, screenshots=(),
        serial_log="serial.log", directory=out_dir,
    )  # fmt: skip
    report = Report(words, ((words, words),), rows_of([record], title=words, outcome=words))
    browser.open(write_report(report, out_dir / "report.html"))
    assert browser.evaluate("document.title") == words
    assert browser.evaluate("document.querySelector('pre').textContent") == words
    assert browser.evaluate("document.querySelector('dd code').textContent") == words
    assert browser.evaluate("document.scripts.length + document.images.length") == 0
    # Even if it had become markup, it would not run.
    browser.evaluate(
        "(() => { const made = document.createElement('script');"
        " made.textContent = 'document.title = \"run\"'; document.body.append(made) })()"
    )
    assert browser.evaluate("document.title") == words
    assert any("Content Security Policy" in problem for problem in browser.problems)


def test_a_plan_runs_on_several_machines_at_once(iso, tmp_path, out_dir):
    plan = tmp_path / "plan.json"
    succeed("plan", iso.path, "--layout", "mbr-fat32", "--seed", "matrix", "--out", plan)
    finished = mediamaker(
        "test-matrix", plan, "--firmware", "bios", "--bus", "ahci,virtio", "--jobs", "2",
        "--expect", iso.token, "--screenshot", out_dir,
    )  # fmt: skip
    assert finished.exit_code == 0, (finished.last, finished.errors)
    check_schema(finished)
    kinds = [event["kind"] for event in finished.events if event["event"] == "machine"]
    # The second had started before the first was through.
    assert kinds[:2] == ["started", "started"]
    assert finished.last["booted"] == "plan"
    assert Path(finished.last["report"]) == out_dir / "report.html"


def test_a_plan_for_4096_byte_sectors(iso, out_dir):
    """Each bus that can carry such a disk does; the firmware finds FAT with such sectors."""
    finished = mediamaker(
        "test-matrix", iso.path, "--layout", "gpt-fat32", "--size", "600MiB",
        "--sector-size", "4096", "--firmware", "uefi", "--expect", f"token={iso.token}",
        "--timeout", "240", "--screenshot", out_dir,
    )  # fmt: skip
    assert finished.exit_code == 0, (finished.last, finished.errors)
    verdicts = {cell["bus"]: cell["verdict"] for cell in finished.last["cells"]}
    proven, no = "proven", "does-not-apply"
    assert verdicts == {"usb": proven, "ahci": no, "nvme": proven, "virtio": proven, "sd": no}


def test_an_interruption_ends_every_machine(tmp_path, out_dir):
    """``jmp $`` in a boot sector: nothing ends these machines by itself."""
    silent = tmp_path / "silent.img"
    silent.write_bytes(b"\xeb\xfe".ljust(510, b"\0") + b"\x55\xaa" + bytes(1 << 20))
    with subprocess.Popen(
        [sys.executable, "-m", "mediamaker", "test-matrix", silent, "--firmware", "bios",
         "--bus", "usb,nvme,ahci", "--jobs", "2", "--timeout", "600", "--expect", "x",
         "--screenshot", out_dir],
        stderr=subprocess.PIPE, stdout=subprocess.PIPE, text=True,
    ) as process:  # fmt: skip
        started = 0
        while started < 2:
            started += "started:" in process.stderr.readline()
        machines = [
            child
            for child in psutil.Process(process.pid).children()
            if child.name().startswith("qemu")
        ]
        assert len(machines) == 2
        process.send_signal(signal.SIGINT)
        process.communicate(timeout=120)
    assert process.returncode == 130
    assert psutil.wait_procs(machines, timeout=10)[1] == []
    # Their logs and last pictures are kept all the same.
    assert len(list(out_dir.rglob("machine.json"))) == 2
    assert len(list(out_dir.rglob("screenshot-01-*.png"))) == 2


def test_without_a_text_nothing_is_proven_and_without_a_machine_neither(tmp_path, out_dir):
    blank = tmp_path / "blank.img"
    blank.write_bytes(bytes(3 << 20))
    words = ("test-matrix", blank, "--firmware", "bios", "--screenshot", out_dir)
    finished = mediamaker(*words, "--bus", "usb,sd", "--timeout", "60")
    assert finished.exit_code == 7
    assert [cell["verdict"] for cell in finished.last["cells"]] == ["not-proven", "does-not-apply"]
    assert "No bootable device" in finished.last["cells"][0]["words"]
    assert "power of two" in finished.last["cells"][1]["words"]
    finished = mediamaker(*words, "--bus", "usb,nvme", "--sector-size", "4096", "--expect", "x")
    assert finished.exit_code == 7
    assert finished.last["counts"] == {"proven": 0, "not proven": 0, "does not apply": 2}
    # Earlier machines of the same folder are not in this report.
    assert "No bootable device" not in Path(finished.last["report"]).read_text()
