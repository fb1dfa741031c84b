# SPDX-License-Identifier: GPL-3.0-or-later
"""The pytest plugin, used as others would: by files of their own, in a folder of their own."""

import json
import os
import re
import subprocess
import sys
from html.parser import HTMLParser
from pathlib import Path

import pytest

import mediamaker.vm

GUIDE = Path(__file__).parents[2] / "docs" / "harness.md"
FAILING = """

def test_of_another_token(vm_boot, stick):
    assert vm_boot(stick.path, "bios", expect="never said", timeout=2).proven


@pytest.mark.parametrize("word", ["<b>&\\u202e", "x" * 300])
def test_that_looks_away(vm_machine, vm_disk, word):
    vm_machine(vm_disk(b""), firmware="bios", label="blank")
"""
UNUSED = """
import sys


def test_plain():
    loaded = {name for name in sys.modules if name.startswith(("mediamaker.", "qemu"))}
    assert loaded <= {"mediamaker.vm", "mediamaker.vm.pytest_plugin"}
"""


class Rows(HTMLParser):
    """The verdict and the cells of each row of the table with the id ``rows``."""

    def __init__(self, page):
        super().__init__()
        self.rows, self.tags, self.is_in_cell = [], set(), False
        self.feed(page)

    def handle_starttag(self, tag, attributes):
        self.tags.add(tag)
        given = dict(attributes)
        if tag == "tr" and "data-mark" in given:
            self.rows.append((given["data-mark"], []))
        elif tag == "td" and self.rows:
            self.rows[-1][1].append("")
            self.is_in_cell = True

    def handle_endtag(self, tag):
        if tag == "td":
            self.is_in_cell = False

    def handle_data(self, data):
        if self.is_in_cell:
            self.rows[-1][1][-1] += data.strip()


def run_pytest(folder, *words):
    environment = {name: value for name, value in os.environ.items() if "PYTEST" not in name}
    return subprocess.run(
        [sys.executable, "-m", "pytest", "-p", "no:cacheprovider", "-W", "error", *words],
        cwd=folder, env=environment, capture_output=True, text=True, check=False, timeout=600,
    )  # fmt: skip


@pytest.fixture
def folder(tmp_path):
    (tmp_path / "pytest.ini").write_text("[pytest]\naddopts = --strict-markers --strict-config\n")
    return tmp_path


def example():
    (code,) = re.findall(r'```python\n("""A boot sector.*?)```', GUIDE.read_text(), re.DOTALL)
    return code


def test_the_example_of_the_guide(folder):
    (folder / "test_stick.py").write_text(example())
    done = run_pytest(folder, "-q")
    assert done.returncode == 0, done.stdout + done.stderr
    report = folder / "vm-results" / "report.html"
    assert f"2 of 2 machines proven, report: {report}" in done.stdout
    found = Rows(report.read_text())
    assert [mark for mark, _ in found.rows] == ["proven", "proven"]
    assert [cells[3] for _, cells in found.rows] == ["usb", "nvme"]
    assert {cells[-1] for _, cells in found.rows} == {"test passed"}
    assert not found.tags & {"script", "link", "iframe", "object", "embed", "form"}
    # Nothing but the pictures' own bytes and files beside it.
    assert not re.search(r"(src|href)=\"(?!data:image/png;base64,|#|vm|test)", report.read_text())
    assert report.read_text().count('src="data:image/png') == 2
    records = [json.loads(path.read_text()) for path in folder.rglob("machine.json")]
    assert {record["verdict"]["is_proven"] for record in records} == {True}
    (kept,) = folder.rglob("screenshot-01-said.png")
    assert kept.parent.parent == folder / "vm-results" / "test_stick" / "test_step_by_step"


def test_with_workers_and_failures_and_places_of_ones_own(folder):
    (folder / "test_stick.py").write_text(example() + FAILING)
    done = run_pytest(
        folder, "-q", "-n", "2", "--vm-results", "kept", "--vm-report", "page/it.html",
        "--vm-accel", "tcg",
    )  # fmt: skip
    assert done.returncode == 1
    assert f"2 of 5 machines proven, report: {folder / 'page' / 'it.html'}" in done.stdout
    page = (folder / "page" / "it.html").read_text()
    by_test = {cells[1].split("::")[1]: (mark, cells) for mark, cells in Rows(page).rows}
    assert len(by_test) == 5
    mark, cells = by_test["test_of_another_token"]
    assert (mark, cells[-1]) == ("not proven", "test failed")
    assert "'never said' did not appear within 2 s" in cells[5]
    # What a test did not ask for is not proven, though the test passed.
    looked_away = [name for name in by_test if name.startswith("test_that_looks_away")]
    for name in looked_away:
        mark, cells = by_test[name]
        assert (mark, cells[-1]) == ("not proven", "test passed")
    assert "<b>" not in page
    for link in re.findall(r'href="([^#"][^"]*)"', page):
        assert (folder / "page" / link).exists(), link
    assert not (folder / "vm-results").exists()


def test_a_run_without_machines_pays_nothing(folder):
    (folder / "test_plain.py").write_text(UNUSED)
    done = run_pytest(folder, "-q")
    assert done.returncode == 0, done.stdout
    assert "machines" not in done.stdout
    assert {path.name for path in folder.iterdir()} <= {
        "pytest.ini", "test_plain.py", "__pycache__"
    }  # fmt: skip


def test_every_public_name_is_there():
    for name in mediamaker.vm.__all__:
        assert getattr(mediamaker.vm, name).__module__.startswith("mediamaker.vm.")
    assert set(mediamaker.vm.__all__) <= set(dir(mediamaker.vm))
    with pytest.raises(AttributeError, match="no attribute 'nothing'"):
        mediamaker.vm.nothing  # noqa: B018 - the lookup is the test
