# SPDX-License-Identifier: GPL-3.0-or-later
"""What is left of a machine: ``machine.json`` in its folder, beside its logs and screenshots.

A machine writes it when it ends, whoever started it: a verb, a test, another process. So the
report of a run is made from a folder alone.
"""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

RECORD_NAME = "machine.json"
FORMAT = 1


@dataclass(frozen=True, slots=True)
class Verdict:
    """Whether the guest said what was expected of it; ``words`` is a sentence for people.

    ``line`` is the whole line that held the expected text; ``is_refused`` tells that the firmware
    said that Secure Boot does not let the loader start.
    """

    is_proven: bool
    words: str
    line: str | None = None
    is_refused: bool = False


NOTHING_EXPECTED = Verdict(is_proven=False, words="not proven: nothing was expected of it")


@dataclass(frozen=True, slots=True)
class DiskRecord:
    """One disk of the machine; sizes in bytes, None where QEMU does not count."""

    name: str
    bus: str
    bytes_read: int | None = None
    bytes_written: int | None = None


@dataclass(frozen=True, slots=True)
class MachineRecord:
    """One machine, from its start to its end; names of files are relative to ``directory``."""

    name: str
    firmware: str
    accelerator: str
    verdict: Verdict
    disks: tuple[DiskRecord, ...]
    started_at: float
    """Seconds since the epoch."""
    seconds: float
    reset_count: int
    screenshots: tuple[str, ...]
    serial_log: str
    directory: Path = field(compare=False)

    def write(self) -> Path:
        """Keep it in its folder."""
        values = {"format": FORMAT, **asdict(self)}
        del values["directory"]
        path = self.directory / RECORD_NAME
        path.write_text(json.dumps(values, indent=1) + "\n")
        return path


def read_records(folder: Path) -> list[MachineRecord]:
    """The machines below ``folder``, in the order in which they were started.

    What is no record of ours is left out.
    """
    found = []
    for path in folder.rglob(RECORD_NAME):
        record = _read(path)
        if record is not None:
            found.append(record)
    return sorted(found, key=lambda record: record.started_at)


def _read(path: Path) -> MachineRecord | None:
    try:
        values: dict[str, Any] = json.loads(path.read_text())
        if values.pop("format") != FORMAT:
            return None
        values["verdict"] = Verdict(**values["verdict"])
        values["disks"] = tuple(DiskRecord(**disk) for disk in values["disks"])
        values["screenshots"] = tuple(values["screenshots"])
        return MachineRecord(**values, directory=path.parent)
    except (OSError, ValueError, KeyError, TypeError, AttributeError):
        return None
