# SPDX-License-Identifier: GPL-3.0-or-later
"""What one waits for at a machine, and what is told when it does not come."""

from __future__ import annotations

import time
from abc import ABC, abstractmethod
from collections.abc import Callable
from pathlib import Path

from mediamaker.errors import BootError
from mediamaker.vm.record import Verdict
from mediamaker.vm.screen import Picture, find_line

POLL_PERIOD = 0.25
LOG_TAIL_LINES = 15


class Waits(ABC):
    """The waiting part of a machine; each wait leaves its outcome as the machine's verdict."""

    name: str
    serial_log: Path
    is_off: bool
    verdict: Verdict

    @abstractmethod
    def poll(self) -> None:
        """Take in what happened; raises ToolError when QEMU is gone."""

    @abstractmethod
    def serial_text(self) -> str:
        """Everything the guest said on its first serial line."""

    @abstractmethod
    def screen_text(self) -> str:
        """The characters on a VGA text screen."""

    @abstractmethod
    def picture(self) -> Picture:
        """What the machine shows now."""

    @abstractmethod
    def has_content(self, picture: Picture) -> bool:
        """Whether the guest has shown something."""

    @abstractmethod
    def screenshot(self, label: str) -> Path:
        """Keep what the machine shows now."""

    def wait_for_serial(self, text: str, *, timeout: float) -> str:
        """Wait until a line on the serial port holds ``text``, and return the line.

        Raises:
            BootError: not within ``timeout`` seconds, or the machine went off; tells the last
                lines and where the logs are, and keeps a screenshot.
        """
        return self._wait_for_text(self.serial_text, text, "serial line", timeout)

    def wait_for_screen_text(self, text: str, *, timeout: float) -> str:
        """Wait until a VGA text screen shows ``text``, and return the row; as wait_for_serial."""
        return self._wait_for_text(self.screen_text, text, "text screen", timeout)

    def wait_for_still_screen(self, *, still_for: float, timeout: float) -> None:
        """Wait until the guest shows something that has not changed for ``still_for`` seconds.

        Raises:
            BootError: not within ``timeout`` seconds; keeps a screenshot.
        """
        deadline = time.monotonic() + timeout
        last, since = self.picture(), time.monotonic()
        while time.monotonic() < deadline:
            time.sleep(2 * POLL_PERIOD)
            self.poll()
            picture = self.picture()
            if not self.has_content(picture) or not picture.is_like(last):
                last, since = picture, time.monotonic()
            elif time.monotonic() - since >= still_for:
                return
        raise self._fail(f"the screen was not still within {timeout:g} s")

    def _wait_for_text(
        self, read: Callable[[], str], wanted: str, place: str, timeout: float
    ) -> str:
        deadline = time.monotonic() + timeout
        while True:
            self.poll()
            line = find_line(read(), wanted)
            if line is not None:
                words = f"proven: the {place} says {line!r}"
                self.verdict = Verdict(is_proven=True, words=words, line=line)
                return line
            if self.is_off:
                raise self._fail(f"the machine went off without {wanted!r} on its {place}")
            if time.monotonic() >= deadline:
                raise self._fail(f"{wanted!r} did not appear on the {place} within {timeout:g} s")
            time.sleep(POLL_PERIOD)

    def _fail(self, what: str) -> BootError:
        self.verdict = Verdict(is_proven=False, words=f"not proven: {what}")
        picture = self.screenshot("failed")
        tail = "\n".join(line[:200] for line in self.serial_text().splitlines()[-LOG_TAIL_LINES:])
        return BootError(
            f"machine {self.name}: {what}; its last words on the serial line:\n{tail}",
            hint=f"look at {picture} and {self.serial_log}",
        )
