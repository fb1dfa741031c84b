# SPDX-License-Identifier: GPL-3.0-or-later
"""A disk for a guest that fails on purpose, below QEMU, where a real one would.

::

    with FaultyDisk(image, Faults(failing=(Failing("write", 8 * MIB, 8 * MIB + 512),))) as disk:
        run_in_guest(script, disks=[disk.attach(Bus.USB, serial="BAD1")], work_dir=out_dir)
        assert disk.told().error_count

Faults below the block layer meet the guest's real drivers: the kernel splits, retries and gives
up as it does with hardware. dm-flakey in the guest was rejected for them: mediamaker refuses
device-mapper volumes, as it should.

Debian packages: nbdkit, nbdkit-plugin-python.
"""

from __future__ import annotations

import contextlib
import json
import socket
import subprocess
import tempfile
import time
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Literal, Self

from mediamaker.vm.disk import Bus, Disk

_PLUGIN = Path(__file__).with_name("nbdkit_disk.py")
_START_TIMEOUT = 30.0


@dataclass(frozen=True, slots=True)
class Failing:
    """Requests that touch ``[start, end)`` fail with EIO: the first ``left``, or all (None)."""

    kind: Literal["read", "write"]
    start: int
    end: int
    left: int | None = None


@dataclass(frozen=True, slots=True)
class Faults:
    """What a disk does wrong; sizes are bytes.

    ``claimed_size``: what it says that it holds; past its image's size it wraps to the beginning,
    or drops what it is given and reads as zeros or as ones (``beyond``).
    ``cache_size``: so much of what it was given last is read from its cache, even what it drops.
    ``dead_after_size``: after that many bytes written, every write fails.
    ``lies_from_size``: after that many bytes written, nothing reaches the medium any more until
    the power goes, flushed or not; reads come from its cache and look right. From
    ``lies_until_size`` on it keeps again what it is given.
    ``flipped``: of a byte that is written at one of these offsets one bit always arrives changed.
    ``is_logging``: every write and flush is kept, for ``power_cut.py``; and what files are in
    ``watched_folder`` at the time, whenever they changed.
    ``pauses_at_size``: after that many bytes written it takes a second and a half, once, so that
    something can be done to it at that moment.
    """

    claimed_size: int | None = None
    beyond: Literal["wraps", "zeros", "ones"] = "wraps"
    cache_size: int = 0
    failing: tuple[Failing, ...] = ()
    dead_after_size: int | None = None
    lies_from_size: int | None = None
    lies_until_size: int | None = None
    flipped: tuple[int, ...] = ()
    is_logging: bool = False
    watched_folder: str | None = None
    pauses_at_size: int | None = None


@dataclass(frozen=True, slots=True)
class Told:
    """What the disk met so far."""

    written_size: int = 0
    flush_count: int = 0
    error_count: int = 0
    has_paused: bool = False


class FaultyDisk:
    """A context manager around one nbdkit; ``image`` is the medium, and is written.

    ``folder`` holds its log and what it tells, and stays.
    """

    def __init__(self, image: Path, faults: Faults | None = None, *, folder: Path) -> None:
        self.image = image
        self.faults = faults or Faults()
        self.folder = folder
        self.log = folder / "writes.log"
        real_size = image.stat().st_size
        self.size = self.faults.claimed_size or real_size
        asked = asdict(self.faults) | {
            "image": str(image.absolute()),
            "claimed_size": self.size,
            "real_size": real_size,
        }
        folder.mkdir(parents=True, exist_ok=True)
        self.log.unlink(missing_ok=True)
        (folder / "told.json").unlink(missing_ok=True)
        (folder / "faults.json").write_text(json.dumps(asked))
        self._process: subprocess.Popen[bytes] | None = None
        self._stack = contextlib.ExitStack()
        self._socket = Path()

    def __enter__(self) -> Self:
        # A socket's path may have 107 bytes, and a test's folder has more.
        place = self._stack.enter_context(tempfile.TemporaryDirectory(prefix="mm-nbd-"))
        self._socket = Path(place, "s")
        errors = self._stack.enter_context((self.folder / "nbdkit.log").open("wb"))
        words = ["nbdkit", "--foreground", "--exit-with-parent", "--unix", str(self._socket)]
        self._process = subprocess.Popen(
            [*words, "python", str(_PLUGIN), f"folder={self.folder.absolute()}"],
            stdin=subprocess.DEVNULL,
            stdout=errors,
            stderr=subprocess.STDOUT,
        )
        deadline = time.monotonic() + _START_TIMEOUT
        while not self._socket.exists():
            if self._process.poll() is not None or time.monotonic() > deadline:
                said = (self.folder / "nbdkit.log").read_text(errors="replace")
                self.__exit__()
                raise RuntimeError(f"nbdkit did not start: {said}")
            time.sleep(0.02)
        return self

    def __exit__(self, *error: object) -> None:
        if self._process is not None:
            self._process.kill()
            self._process.wait()
            self._process = None
        self._stack.close()

    def connect(self) -> socket.socket:
        """The client's end of a new connection; the caller closes it."""
        connection = socket.socket(socket.AF_UNIX)
        connection.connect(str(self._socket))
        return connection

    def attach(
        self, bus: Bus = Bus.USB, *, serial: str | None = None, logical_sector_size: int = 512
    ) -> Disk:
        """This disk for a machine, which writes it."""
        return Disk(
            self.image,
            bus,
            snapshot=False,
            logical_sector_size=logical_sector_size,
            serial=serial,
            server=self,
        )

    def told(self) -> Told:
        """What it met so far."""
        try:
            return Told(**json.loads((self.folder / "told.json").read_text()))
        except FileNotFoundError:
            return Told()
