# SPDX-License-Identifier: GPL-3.0-or-later
"""A small QEMU for the tests of our boot code: start, read serial and screen, press a key.

Deliberately apart from ``mediamaker.vm``: boot code is judged without our own machine class.
"""

from __future__ import annotations

import json
import re
import shutil
import socket
import subprocess
import time
from collections.abc import Iterable
from pathlib import Path
from types import TracebackType
from typing import Any

OVMF_CODE = Path("/usr/share/OVMF/OVMF_CODE_4M.fd")
OVMF_VARS = Path("/usr/share/OVMF/OVMF_VARS_4M.fd")
POLL_SECONDS = 0.05
TEXT_SCREEN, TEXT_COLUMNS, TEXT_ROWS = 0xB8000, 80, 25


class Qemu:
    """One machine, its serial line in ``serial.log``; disks are opened as snapshots."""

    def __init__(
        self,
        work_dir: Path,
        *disks: str,
        uefi: bool = False,
        floppy: Path | None = None,
        devices: Iterable[str] = (),
    ) -> None:
        self.serial_path = work_dir / "serial.log"
        self._socket_path = work_dir / "qmp"
        self._screen_path = work_dir / "screen.bin"
        self._arguments = ["qemu-system-x86_64", "-nodefaults", "-no-user-config"]
        self._arguments += ["-machine", "pc", "-accel", "tcg", "-display", "none", "-vga", "std"]
        self._arguments += ["-m", str(256 if uefi else 64), "-no-reboot", "-snapshot"]
        self._arguments += ["-serial", f"file:{self.serial_path}"]
        self._arguments += ["-qmp", f"unix:{self._socket_path},server=on,wait=off"]
        if uefi:
            variables = work_dir / "vars.fd"
            shutil.copyfile(OVMF_VARS, variables)
            for path, read_only in ((OVMF_CODE, "on"), (variables, "off")):
                self._arguments += ["-drive", f"if=pflash,format=raw,readonly={read_only}"]
                self._arguments[-1] += f",file={path}"
        for disk in disks:
            self._arguments += ["-drive", disk]
        for device in devices:
            self._arguments += ["-device", device]
        if floppy:
            self._arguments += ["-drive", f"if=floppy,format=raw,file={floppy}", "-boot", "a"]

    def __enter__(self) -> Qemu:
        self._process = subprocess.Popen(
            self._arguments, stdin=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True
        )
        self._qmp = socket.socket(socket.AF_UNIX)
        for _ in range(200):
            try:
                self._qmp.connect(str(self._socket_path))
                break
            except OSError:
                if self._process.poll() is not None:
                    raise RuntimeError(f"QEMU: {self._process.stderr.read()}") from None
                time.sleep(POLL_SECONDS)
        self._replies = self._qmp.makefile("r")
        json.loads(self._replies.readline())
        self._say("qmp_capabilities")
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._replies.close()
        self._qmp.close()
        self._process.kill()
        self._process.communicate()

    def _say(self, command: str, **arguments: object) -> Any:
        request = {"execute": command, "arguments": arguments}
        self._qmp.sendall(json.dumps(request).encode())
        while True:
            reply = json.loads(self._replies.readline())
            if "error" in reply:
                raise RuntimeError(f"QMP {command}: {reply['error']}")
            if "return" in reply:
                return reply["return"]

    def serial(self) -> str:
        """What the guest has sent, without terminal escapes."""
        text = self.serial_path.read_bytes().decode("latin-1") if self.serial_path.exists() else ""
        return re.sub(r"\x1b\[[0-9;=?]*[A-Za-z]", "", text)

    def screen(self) -> str:
        """The text screen, one line a row."""
        size = TEXT_COLUMNS * TEXT_ROWS * 2
        self._say("pmemsave", val=TEXT_SCREEN, size=size, filename=str(self._screen_path))
        text = self._screen_path.read_bytes()[::2].decode("cp437")
        rows = range(0, len(text), TEXT_COLUMNS)
        return "\n".join(text[row : row + TEXT_COLUMNS].rstrip() for row in rows)

    def press(self, key: str) -> None:
        """A key, by QEMU's name for it."""
        self._say("send-key", keys=[{"type": "qcode", "data": key}])

    def failed_reads(self) -> int:
        """Reads that the first disk has answered with an error."""
        return self._say("query-blockstats")[0]["stats"]["failed_rd_operations"]

    def wait_serial(self, pattern: str, *, timeout: float = 20) -> str:
        """The serial text up to the end of the first line that matches."""
        return self._wait(self.serial, rf"{pattern}[^\n]*\n", timeout)

    def wait_screen(self, pattern: str, *, timeout: float = 20) -> str:
        """The screen, as soon as it shows a match."""
        return self._wait(self.screen, pattern, timeout)

    def wait_end(self, *, timeout: float = 20) -> None:
        """A reset ends the machine (``-no-reboot``)."""
        self._process.wait(timeout)

    def _wait(self, look: object, pattern: str, timeout: float) -> str:
        deadline = time.monotonic() + timeout
        while True:
            ended = self._process.poll() is not None
            text = look() if not ended else self.serial()
            if re.search(pattern, text):
                return text
            if ended or time.monotonic() > deadline:
                raise AssertionError(
                    f"no {pattern!r} {'before QEMU ended' if ended else f'in {timeout} s'}; "
                    f"serial:\n{self.serial()}\nlast seen:\n{text}"
                )
            time.sleep(POLL_SECONDS)
