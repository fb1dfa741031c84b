# SPDX-License-Identifier: GPL-3.0-or-later
"""A pytest plugin: machines for tests, whose logs, screenshots and report are always kept.

Fixtures: ``vm_token``, ``vm_disk``, ``vm_machine``, ``vm_boot``, ``vm_screenshot``, ``vm_folder``.
``docs/harness.md`` shows them at work. pytest loads this module in every run of whoever has
mediamaker installed: what takes time to import is imported by the fixtures.

Every machine below a test's folder comes into the report, also those of programs that the test
started. Under pytest-xdist the workers send no more than the folder's name, as a user property.
"""

from __future__ import annotations

import hashlib
import re
import secrets
import shutil
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

import pytest

if TYPE_CHECKING:
    from mediamaker.vm import Accelerator, BootResult, Bus, Disk, Firmware, Machine

_PROPERTY = "vm_folder"
_NAME_LENGTH_MAX = 100
_SECTOR_SIZE = 512
_MIB = 1024 * 1024


class DiskFactory(Protocol):
    """What ``vm_disk`` is."""

    def __call__(
        self,
        content: bytes | Path = b"",
        *,
        size: int = _MIB,
        bus: Bus | str = "usb",
        **options: Any,
    ) -> Disk:
        """A disk of the bytes of a file, or of a new file that starts with ``content``.

        ``size`` is a new file's, in bytes, where ``content`` is shorter; ``options`` are those
        of ``Disk``, such as ``snapshot``.
        """


class MachineFactory(Protocol):
    """What ``vm_machine`` is."""

    def __call__(
        self, *disks: Disk, firmware: Firmware | str, label: str = "machine", **options: Any
    ) -> Machine:
        """A machine that runs until the test ends; ``options`` are those of ``Machine``."""


class Boot(Protocol):
    """What ``vm_boot`` is."""

    def __call__(
        self, path: Path, firmware: Firmware | str, *, bus: Bus | str = "usb", **options: Any
    ) -> BootResult:
        """``boot_target`` that expects the test's token, in the test's folder."""


def pytest_addoption(parser: pytest.Parser) -> None:
    """Where results go, and what machines run with."""
    group = parser.getgroup("mediamaker", "virtual machines (mediamaker)")
    group.addoption("--vm-results", metavar="DIR", help="logs and screenshots of machines")
    group.addoption(
        "--vm-report", metavar="FILE", help="HTML report of machines (default: DIR/report.html)"
    )
    group.addoption(
        "--vm-accel",
        choices=("auto", "kvm", "tcg"),
        default="auto",
        help="accelerator of machines (default: auto, the one that a probe finds to work)",
    )
    parser.addini("vm_results", "as --vm-results, from the root folder", default="vm-results")


def pytest_configure(config: pytest.Config) -> None:
    """One process gathers what is reported: xdist's controller, where there is one."""
    if not hasattr(config, "workerinput"):
        config.pluginmanager.register(_Collector(config), "mediamaker-machines")


@pytest.fixture
def vm_folder(request: pytest.FixtureRequest) -> Path:
    """The test's own folder below the results, emptied when the test starts again."""
    module, *names = request.node.nodeid.split("::")
    place = Path(*(_clean(part) for part in Path(module).with_suffix("").parts))
    folder = _results_folder(request.config) / place / _clean("-".join(names))
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True)
    request.node.user_properties.append((_PROPERTY, str(folder)))
    return folder


@pytest.fixture
def vm_token() -> str:
    """A text that no other test and no earlier run has: only a guest that works can say it."""
    return f"token-{secrets.token_hex(8)}"


@pytest.fixture
def vm_disk(tmp_path: Path) -> DiskFactory:
    """Makes disks; new files are in the test's temporary folder."""
    from mediamaker.vm import Bus, Disk  # noqa: PLC0415 - see the head of this module

    count = 0

    def make(
        content: bytes | Path = b"", *, size: int = _MIB, bus: Bus | str = "usb", **options: Any
    ) -> Disk:
        nonlocal count
        if isinstance(content, Path):
            return Disk(content, Bus(bus), **options)
        path = tmp_path / f"vm-disk-{count}.img"
        count += 1
        with path.open("wb") as file:
            file.write(content)
            file.truncate(max(size, -(-len(content) // _SECTOR_SIZE) * _SECTOR_SIZE))
        return Disk(path, Bus(bus), **options)

    return make


@pytest.fixture
def vm_machine(
    request: pytest.FixtureRequest, vm_folder: Path, vm_token: str
) -> Iterator[MachineFactory]:
    """Starts machines, which end with the test. Proven is whose guest said what was waited for.

    A test that waited for nothing has its token looked for at the end.
    """
    from mediamaker.vm import Firmware, Machine  # noqa: PLC0415 - see the head of this module

    accelerator = _accelerator(request.config)
    with ExitStack() as running:

        def start(
            *disks: Disk, firmware: Firmware | str, label: str = "machine", **options: Any
        ) -> Machine:
            options.setdefault("accelerator", accelerator)
            machine = Machine(
                label, disks, firmware=Firmware(firmware), directory=vm_folder, **options
            )
            running.enter_context(machine)
            running.callback(_look_for, machine, vm_token)
            return machine

        yield start


@pytest.fixture
def vm_boot(request: pytest.FixtureRequest, vm_folder: Path, vm_token: str) -> Boot:
    """Boots a file or device until the token is seen, or nothing is left to see."""
    from mediamaker.vm import Bus, Firmware, boot_target  # noqa: PLC0415 - see the module's head

    accelerator = _accelerator(request.config)

    def boot(
        path: Path, firmware: Firmware | str, *, bus: Bus | str = "usb", **options: Any
    ) -> BootResult:
        options = {"expect": vm_token, "accelerator": accelerator, **options}
        return boot_target(path, Firmware(firmware), bus=Bus(bus), directory=vm_folder, **options)

    return boot


@pytest.fixture
def vm_screenshot() -> Callable[[Machine, str], Path]:
    """Takes a screenshot that is kept and comes into the report."""

    def take(machine: Machine, label: str = "screen") -> Path:
        return machine.screenshot(_clean(label))

    return take


def _look_for(machine: Machine, token: str) -> None:
    """The verdict on a machine of which the test itself asked for nothing."""
    from mediamaker.errors import ToolError  # noqa: PLC0415
    from mediamaker.vm.boot import collect_sayings, find_expected  # noqa: PLC0415
    from mediamaker.vm.record import NOTHING_EXPECTED, Verdict  # noqa: PLC0415

    if machine.verdict is not NOTHING_EXPECTED:
        return
    try:
        found = find_expected(collect_sayings(machine), token)
    except ToolError:
        return
    words = f"not proven: {token!r} was not said"
    machine.verdict = found or Verdict(is_proven=False, words=words)


def _accelerator(config: pytest.Config) -> Accelerator | None:
    from mediamaker.vm import Accelerator  # noqa: PLC0415 - see the head of this module

    name = config.getoption("--vm-accel")
    return None if name == "auto" else Accelerator(name)


def _results_folder(config: pytest.Config) -> Path:
    given = config.getoption("--vm-results")
    if given is not None:
        return config.invocation_params.dir / str(given)
    return config.rootpath / str(config.getini("vm_results"))


def _clean(name: str) -> str:
    """``name`` as a file name; one that is too long ends with a digest."""
    cleaned = re.sub(r"[^A-Za-z0-9_.-]+", "-", name).strip("-.") or "test"
    if len(cleaned) <= _NAME_LENGTH_MAX:
        return cleaned
    digest = hashlib.sha256(name.encode(errors="surrogatepass")).hexdigest()[:8]
    return f"{cleaned[:_NAME_LENGTH_MAX]}-{digest}"


class _Collector:
    """Which tests had machines and how they ended; at the end of the run, the report."""

    def __init__(self, config: pytest.Config) -> None:
        self._config = config
        self._started_at = time.time()
        self._folders: dict[str, Path] = {}
        self._outcomes: dict[str, str] = {}
        self._summary: str | None = None

    def pytest_runtest_logreport(self, report: pytest.TestReport) -> None:
        """Here, in whichever process the test ran."""
        for name, value in report.user_properties:
            if name == _PROPERTY:
                self._folders[report.nodeid] = Path(str(value))
        if report.when == "call" or report.outcome != "passed":
            self._outcomes[report.nodeid] = f"test {report.outcome}"

    def pytest_sessionfinish(self) -> None:
        """Write the report, if there was a machine."""
        if not self._folders:
            return
        from mediamaker.vm import Report, read_records, rows_of, write_report  # noqa: PLC0415

        rows = tuple(
            row
            for nodeid, folder in self._folders.items()
            for row in rows_of(
                read_records(folder),
                title=nodeid,
                outcome=self._outcomes.get(nodeid, "no end"),
                is_wanted=self._outcomes.get(nodeid) == "test passed",
            )
        )
        if not rows:
            return
        given = self._config.getoption("--vm-report")
        path = (
            _results_folder(self._config) / "report.html"
            if given is None
            else self._config.invocation_params.dir / str(given)
        )
        facts = (
            ("begun", time.strftime("%Y-%m-%d %H:%M:%S", time.localtime(self._started_at))),
            ("tests with machines", str(len({row.title for row in rows}))),
        )
        report = Report("Virtual machines of a test run", facts, rows)
        proven = f"{report.counts['proven']} of {len(rows)} machines proven"
        try:
            self._summary = f"{proven}, report: {write_report(report, path)}"
        except OSError as error:
            self._summary = f"{proven}, no report: {path}: {error.strerror}"

    def pytest_terminal_summary(self, terminalreporter: pytest.TerminalReporter) -> None:
        """Say where it is."""
        if self._summary is not None:
            terminalreporter.write_line(f"virtual machines: {self._summary}")
