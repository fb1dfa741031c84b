# SPDX-License-Identifier: GPL-3.0-or-later
"""One virtual machine: started, watched, typed at, and never left behind.

::

    with Machine("stick", [Disk(path)], firmware=Firmware.UEFI, directory=Path("out")) as machine:
        machine.wait_for_serial("token", timeout=60)
        machine.screenshot("menu")

Everything that a person needs to understand a failure stays in ``machine.directory``, also after
an exception: ``serial.log``, ``qemu.log``, ``command.txt``, each ``screenshot-*.png`` and
``machine.json``, the record that reports are made from.

The thread that enters a machine should be the one that leaves it: where ``setpriv`` (util-linux)
is installed QEMU is told to die with the thread that started it, so that even ``kill -9`` of
this process leaves no machine running.
"""

from __future__ import annotations

import contextlib
import os
import secrets
import shlex
import signal
import socket
import subprocess
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Any, Self

from mediamaker.errors import ToolError, UsageError
from mediamaker.units import MIB
from mediamaker.vm.accel import Accelerator
from mediamaker.vm.accel_probe import choose_accelerator
from mediamaker.vm.command import VARIABLES_NAME, pack_command, qemu_name
from mediamaker.vm.disk import Bus, Disk, open_disk
from mediamaker.vm.firmware import Architecture, Firmware, check_firmware
from mediamaker.vm.keys import find_chord
from mediamaker.vm.qmp import QmpClosedError, QmpConnection
from mediamaker.vm.record import NOTHING_EXPECTED, DiskRecord, MachineRecord
from mediamaker.vm.screen import (
    TEXT_ADDRESS,
    TEXT_SIZE,
    Picture,
    pack_png,
    parse_ppm,
    parse_serial,
    parse_text_screen,
)
from mediamaker.vm.secure_boot import MicrosoftKeys, SecureBootKeys, load_keys
from mediamaker.vm.waits import LOG_TAIL_LINES, POLL_PERIOD, Waits

_START_TIMEOUT = 60.0
_STOP_TIMEOUT = 10.0


@dataclass(frozen=True, slots=True)
class BlockStats:
    """What the guest did to one disk so far."""

    bytes_read: int
    bytes_written: int
    reads: int
    writes: int


@dataclass(frozen=True, slots=True)
class MachineEvent:
    """Something worth telling: ``kind`` is started, screenshot, keys, reset, off or stopped."""

    machine: str
    kind: str
    text: str
    seconds: float


class Machine(Waits):
    """A context manager around one QEMU process.

    Args:
        label: first part of the machine's name, which a random part makes unique.
        disks: in boot order.
        firmware: BIOS, UEFI, or UEFI with Secure Boot.
        directory: where the machine makes the directory of its own, by its name.
        memory_size: bytes.
        cpus: number of processors.
        extra_arguments: QEMU arguments put at the end.
        architecture: of the processor.
        keys: what Secure Boot starts with (default: Microsoft's of both generations).
        on_event: called with each MachineEvent, in the calling thread.
        accelerator: None for the one that a probe finds to work here (accel_probe).
        display: the value of QEMU's ``-display``; a person may look on.
    """

    def __init__(
        self,
        label: str,
        disks: Sequence[Disk],
        *,
        firmware: Firmware,
        directory: Path,
        memory_size: int = 512 * MIB,
        cpus: int = 1,
        extra_arguments: Sequence[str] = (),
        architecture: Architecture = Architecture.X86_64,
        keys: SecureBootKeys | None = None,
        on_event: Callable[[MachineEvent], None] | None = None,
        accelerator: Accelerator | None = None,
        display: str = "none",
    ) -> None:
        if memory_size < 16 * MIB or memory_size % MIB:
            raise UsageError(f"a machine needs whole MiB of memory, from 16, not {memory_size} B")
        if cpus < 1:
            raise UsageError(f"a machine needs at least one processor, not {cpus}")
        check_firmware(firmware, architecture)
        if firmware is Firmware.UEFI_SECURE and keys is None:
            keys = load_keys([MicrosoftKeys.BOTH])
        self.name = f"{label}-{secrets.token_hex(3)}"
        self.directory = directory / self.name
        self.serial_log = self.directory / "serial.log"
        self.qemu_log = self.directory / "qemu.log"
        self.screenshots: list[Path] = []
        self.reset_count = 0
        self.is_off = False
        self.verdict = NOTHING_EXPECTED
        self.accelerator = accelerator or choose_accelerator(qemu_name(architecture)).accelerator
        self._display = display
        self._disk_records = tuple(DiskRecord(disk.path.name, disk.bus.value) for disk in disks)
        self._disks = tuple(disks)
        self.firmware = firmware
        self.architecture = architecture
        self._keys = keys
        self._memory_size = memory_size
        self._cpus = cpus
        self._extra_arguments = tuple(extra_arguments)
        self._on_event = on_event
        self._started_at = 0.0
        self._started_at_epoch = 0.0
        self._process: subprocess.Popen[bytes] | None = None
        self._qmp: QmpConnection | None = None
        # What QEMU shows in place of a screen that the guest has not set up yet.
        self._unlit: Picture | None = None

    # Life

    def __enter__(self) -> Self:
        self.directory.mkdir(parents=True)
        self.serial_log.touch()
        try:
            self._start()
        except BaseException:
            self.kill()
            raise
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        if error is None or isinstance(error, Exception):
            self._take_last_look()
        self.kill()

    @property
    def seconds(self) -> float:
        """How long the machine has been running."""
        return time.monotonic() - self._started_at

    def kill(self) -> None:
        """End QEMU and everything it started, now, as a power cut; a second call does nothing."""
        process, self._process = self._process, None
        qmp, self._qmp = self._qmp, None
        if process is not None:
            with contextlib.suppress(ProcessLookupError):
                os.killpg(process.pid, signal.SIGKILL)
            process.wait()
            # 64 MiB for aarch64, and of no use without the machine.
            (self.directory / VARIABLES_NAME).unlink(missing_ok=True)
            self._write_record()
            self._tell("stopped", f"QEMU ended after {self.seconds:.1f} s")
        if qmp is not None:
            qmp.close()

    def powerdown(self, *, timeout: float) -> bool:
        """Press the power button, wait for the guest to obey, end QEMU; whether it obeyed."""
        self.execute("system_powerdown")
        deadline = time.monotonic() + timeout
        while not self.is_off and time.monotonic() < deadline:
            time.sleep(POLL_PERIOD)
            self.poll()
        self._take_last_look()
        self.kill()
        return self.is_off

    def _start(self) -> None:
        self._started_at, self._started_at_epoch = time.monotonic(), time.time()
        with contextlib.ExitStack() as inherited:
            ours, theirs = socket.socketpair()
            inherited.callback(theirs.close)
            inherited.callback(ours.close)
            opened = [inherited.enter_context(open_disk(disk)) for disk in self._disks]
            command = pack_command(
                self.name,
                opened,
                firmware=self.firmware,
                architecture=self.architecture,
                keys=self._keys,
                memory_size=self._memory_size,
                cpus=self._cpus,
                directory=self.directory,
                serial_log=self.serial_log,
                qmp_fd=theirs.fileno(),
                accelerator=self.accelerator,
                display=self._display,
            )
            command += self._extra_arguments
            (self.directory / "command.txt").write_text(shlex.join(command) + "\n")
            with self.qemu_log.open("wb") as log:
                self._process = subprocess.Popen(
                    command,
                    stdin=subprocess.DEVNULL,
                    stdout=log,
                    stderr=subprocess.STDOUT,
                    pass_fds=[theirs.fileno(), *(disk.fd for disk in opened)],
                    start_new_session=True,
                    # The overlays of snapshots are nameless files in TMPDIR.
                    env={**os.environ, "TMPDIR": str(self.directory.absolute())},
                )
            # QEMU holds the only other end now: if it ends, we hear of it.
            qmp_socket = ours.dup()
        try:
            self._qmp = QmpConnection(qmp_socket, self.name, timeout=_START_TIMEOUT)
            self._unlit = self.picture()
            self._qmp.execute("cont")
        except QmpClosedError as error:
            raise self._explain(error) from error
        self._tell("started", f"{self.firmware.value} machine, logs in {self.directory}")

    def _take_last_look(self) -> None:
        """Before the end: what the disks did, and a screenshot if nobody has taken one."""
        # QEMU may be gone or mute, which is what the caller wants to hear of, not of this.
        with contextlib.suppress(ToolError, OSError):
            if self._process is not None and self._process.poll() is None:
                self._count_disks()
                if not self.screenshots:
                    self.screenshot("end")

    def _count_disks(self) -> None:
        records = []
        for index, record in enumerate(self._disk_records):
            try:
                stats = self.block_stats(index)
            except UsageError:  # it was unplugged
                records.append(record)
                continue
            # QEMU does not count what is read from its SD card.
            is_counted = record.bus != Bus.SD
            records.append(
                DiskRecord(
                    record.name,
                    record.bus,
                    stats.bytes_read if is_counted else None,
                    stats.bytes_written if is_counted else None,
                )
            )
        self._disk_records = tuple(records)

    def _write_record(self) -> None:
        MachineRecord(
            name=self.name,
            firmware=self.firmware.value,
            accelerator=self.accelerator.value,
            verdict=self.verdict,
            disks=self._disk_records,
            started_at=self._started_at_epoch,
            seconds=round(self.seconds, 3),
            reset_count=self.reset_count,
            screenshots=tuple(path.name for path in self.screenshots),
            serial_log=self.serial_log.name,
            directory=self.directory,
        ).write()

    # Watching

    def execute(self, command: str, arguments: Mapping[str, object] | None = None) -> Any:
        """Run a QMP command; raises ToolError with the tail of QEMU's log if QEMU is gone."""
        if self._qmp is None:
            raise ToolError(f"machine {self.name} is not running")
        try:
            return self._qmp.execute(command, arguments)
        except QmpClosedError as error:
            raise self._explain(error) from error

    def poll(self) -> None:
        """Take in what happened: resets, power off, QEMU's own end (ToolError)."""
        if self._qmp is None or self._process is None:
            raise ToolError(f"machine {self.name} is not running")
        for event in self._qmp.take_events():
            match event["event"]:
                case "RESET" if event["data"].get("guest"):
                    self.reset_count += 1
                    self._tell("reset", f"the guest reset itself ({self.reset_count})")
                case "SHUTDOWN" if not self.is_off:
                    self.is_off = True
                    is_by_guest = bool(event["data"].get("guest"))
                    who = "the guest switched itself" if is_by_guest else "the machine was switched"
                    self._tell("off", f"{who} off")
                case _:
                    pass
        if self._process.poll() is not None:
            raise self._explain(None)

    def exit_code(self) -> int | None:
        """QEMU's own, if it has ended by itself."""
        return None if self._process is None else self._process.poll()

    def serial_text(self) -> str:
        """Everything the guest said on its first serial line."""
        return parse_serial(self.serial_log.read_bytes())

    def screen_text(self) -> str:
        """The characters on a VGA text screen; empty in a graphics mode.

        Only a text mode is looked at: in a planar graphics mode, reading the frame buffer would
        disturb the latches that the guest draws with.
        """
        if not self.picture().is_text_mode:
            return ""
        path = self.directory / "screen.bin"
        try:
            name = str(path.absolute())
            self.execute("pmemsave", {"val": TEXT_ADDRESS, "size": TEXT_SIZE, "filename": name})
            return parse_text_screen(path.read_bytes())
        finally:
            path.unlink(missing_ok=True)

    def picture(self) -> Picture:
        """What the machine shows now."""
        path = self.directory / "screen.ppm"
        try:
            self.execute("screendump", {"filename": str(path.absolute())})
            return parse_ppm(path.read_bytes())
        finally:
            path.unlink(missing_ok=True)

    def has_content(self, picture: Picture) -> bool:
        """Whether the guest has shown something: neither one colour nor QEMU's placeholder."""
        return not picture.is_blank and picture != self._unlit

    def screenshot(self, label: str) -> Path:
        """Keep what the machine shows now as ``screenshot-NN-LABEL.png``."""
        return self.keep_picture(self.picture(), label)

    def keep_picture(self, picture: Picture, label: str) -> Path:
        """Keep what the machine showed at some time; as :meth:`screenshot`."""
        path = self.directory / f"screenshot-{len(self.screenshots) + 1:02}-{label}.png"
        # PNG by our own hand: QEMU has it since 7.1 only, and only when built with libpng.
        path.write_bytes(pack_png(picture))
        self.screenshots.append(path)
        self._tell("screenshot", str(path))
        return path

    def block_stats(self, index: int = 0) -> BlockStats:
        """What the guest read and wrote on a disk."""
        for entry in self.execute("query-blockstats"):
            if entry.get("device") == f"disk{index}":
                stats = entry["stats"]
                return BlockStats(
                    bytes_read=stats["rd_bytes"],
                    bytes_written=stats["wr_bytes"],
                    reads=stats["rd_operations"],
                    writes=stats["wr_operations"],
                )
        raise UsageError(f"machine {self.name} has no disk {index}")

    # Typing

    def send_keys(self, *keys: str) -> None:
        """Press and release keys held together, by QMP names: ``send_keys("ctrl", "x")``."""
        chord = [{"type": "qcode", "data": key} for key in keys]
        self.execute("send-key", {"keys": chord, "hold-time": 20})
        # A PC keyboard holds 16 bytes, and a guest under TCG fetches them slowly.
        time.sleep(0.08)

    def type_text(self, text: str) -> None:
        """Type on a US keyboard; a newline is the Enter key."""
        chords = [find_chord(character) for character in text]
        for chord in chords:
            self.send_keys(*chord)
        self._tell("keys", f"typed {text!r}")

    # Telling

    def _explain(self, error: QmpClosedError | None) -> ToolError:
        """QEMU is gone or mute: say how, with its own last words."""
        code = None
        if self._process is not None:
            with contextlib.suppress(subprocess.TimeoutExpired):
                code = self._process.wait(timeout=_STOP_TIMEOUT if error is not None else 0)
        lines = self.qemu_log.read_text(errors="replace").splitlines()[-LOG_TAIL_LINES:]
        reason = str(error) if code is None else f"QEMU ended with code {code}"
        return ToolError(
            f"machine {self.name}: {reason}" + "".join(f"\n{line}" for line in lines),
            hint=f"QEMU's command and log are in {self.directory}",
        )

    def _tell(self, kind: str, text: str) -> None:
        if self._on_event is not None:
            self._on_event(MachineEvent(self.name, kind, text, self.seconds))
