# SPDX-License-Identifier: GPL-3.0-or-later
"""A machine that a person looks at and types into: where its screen goes, and the wait."""

from __future__ import annotations

import contextlib
import shutil
import subprocess
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from mediamaker.errors import ToolError, UsageError
from mediamaker.vm.boot import (
    BootResult,
    Sayings,
    check_expectation,
    collect_sayings,
    conclude,
    find_expected,
)
from mediamaker.vm.disk import Disk
from mediamaker.vm.machine import Machine
from mediamaker.vm.record import Verdict
from mediamaker.vm.screen import Picture

_LOOK_PERIOD = 0.5
_WINDOWS = ("gtk", "sdl")


@dataclass(frozen=True, slots=True)
class Display:
    """The value of QEMU's ``-display``, and how a person gets to see it."""

    value: str
    words: str


@contextmanager
def open_display(
    environment: Mapping[str, str], *, qemu: str, has_terminal: bool
) -> Iterator[Display]:
    """A window where there is a display, else VNC on a socket that nobody else can open.

    Raises:
        UsageError: neither a display nor a terminal: nobody is there.
        ToolError: a display, and a QEMU that can't make windows.
    """
    if environment.get("DISPLAY") or environment.get("WAYLAND_DISPLAY"):
        yield _find_window(qemu)
        return
    if not has_terminal:
        raise UsageError(
            "--interactive needs a person: there is no display (DISPLAY, WAYLAND_DISPLAY) and no "
            "terminal",
            hint="run it in a desktop session, or with `ssh -X`; without --interactive a "
            "screenshot is kept",
        )
    # A short path: a socket's address holds 107 bytes. Only we may enter the folder.
    folder = Path(tempfile.mkdtemp(prefix="mediamaker-vnc-"))
    try:
        path = folder / "vnc"
        yield Display(
            f"vnc=unix:{path}",
            f"there is no display here; to look on: vncviewer {path} (from elsewhere: "
            f"ssh -L 5901:{path} HERE, then vncviewer localhost:5901)",
        )
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def _find_window(qemu: str) -> Display:
    try:
        listed = subprocess.run(
            [qemu, "-display", "help"], capture_output=True, text=True, check=False
        ).stdout.split()
    except OSError as error:
        raise ToolError(f"{qemu} can't be started: {error.strerror}") from error
    for name in _WINDOWS:
        if name in listed:
            return Display(name, "close the window, or switch the guest off, to end it")
    raise ToolError(
        f"this {qemu} can't open windows (-display {' or '.join(_WINDOWS)})",
        hint="apt install qemu-system-gui (Fedora: qemu-ui-gtk); or unset DISPLAY: then VNC",
    )


class _Watch:
    """What was seen last; a window that is closed takes QEMU along."""

    def __init__(self, machine: Machine, expect: str | None) -> None:
        self._machine = machine
        self._expect = expect
        self._picture: Picture | None = None
        self.bytes_read = 0

    def look(self) -> None:
        """Once; raises ToolError when QEMU is gone."""
        machine = self._machine
        machine.poll()
        picture = machine.picture()
        if machine.has_content(picture):
            self._picture = picture
        self.bytes_read = machine.block_stats().bytes_read
        if self._expect is not None and not machine.verdict.is_proven:
            self._judge(collect_sayings(self._machine))

    def end(self) -> None:
        """QEMU may be gone: what is left are the serial log and the last picture."""
        if self._expect is not None and not self._machine.verdict.is_proven:
            self._judge((("the serial line", self._machine.serial_text()),))
        if self._picture is not None:
            self._machine.keep_picture(self._picture, "last")

    def _judge(self, sayings: Sayings) -> None:
        assert self._expect is not None
        found = find_expected(sayings, self._expect)
        if found is not None:
            self._machine.verdict = found


def boot_interactively(
    disk: Disk,
    *,
    make_machine: Callable[[Disk], Machine],
    expect: str | None = None,
    timeout: float | None = None,
) -> BootResult:
    """Start ``disk`` in the machine that ``make_machine`` makes, until the person ends it.

    It ends when QEMU does (its window was closed), when the guest switches itself off, at Ctrl-C,
    and after ``timeout`` seconds. ``expect`` is looked for all the time.

    Raises:
        TargetRefusedError: the disk can't be read.
        ToolError: QEMU or the firmware is missing, or QEMU failed.
    """
    check_expectation(expect)
    with make_machine(disk) as machine:
        missing = "nothing to expect was named" if expect is None else f"{expect!r} was not seen"
        machine.verdict = Verdict(is_proven=False, words=f"not proven: {missing}")
        watch = _Watch(machine, expect)
        with contextlib.suppress(KeyboardInterrupt):
            _wait(machine, watch, timeout)
        watch.end()
    return conclude(machine, machine.verdict, disk.bus, watch.bytes_read)


def _wait(machine: Machine, watch: _Watch, timeout: float | None) -> None:
    while timeout is None or machine.seconds < timeout:
        try:
            watch.look()
        except ToolError:
            # QEMU ends with 0 when its window is closed; all else is a failure.
            if machine.exit_code() != 0:
                raise
            return
        if machine.is_off:
            return
        time.sleep(_LOOK_PERIOD)
