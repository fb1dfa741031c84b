# SPDX-License-Identifier: GPL-3.0-or-later
"""Start a disk in a virtual machine and judge what is seen.

A boot is proven by one thing: text that the caller expects and that the guest said, on its serial
line or on a VGA text screen. Nothing else proves it, neither a picture nor bytes that were read;
those are kept for people to look at, and the verdict says so.
"""

from __future__ import annotations

import re
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from mediamaker.errors import RunInterruptedError, UsageError
from mediamaker.units import MIB, format_size
from mediamaker.vm.accel import Accelerator
from mediamaker.vm.disk import Bus, Disk
from mediamaker.vm.firmware import Architecture, Firmware
from mediamaker.vm.machine import Machine, MachineEvent
from mediamaker.vm.nbd import NbdServer
from mediamaker.vm.record import Verdict
from mediamaker.vm.screen import find_line
from mediamaker.vm.secure_boot import SecureBootKeys

_POLL_PERIOD = 1.0
_MANY_RESETS = 3
# Debian's AAVMF 2022.11 reads nothing of them.
_ARM_DRIVERLESS = (Bus.AHCI, Bus.SD)
SECURE_BOOT_REFUSED = "Secure Boot refused the loader"
# Each is how a line starts in which firmware or a boot loader gives up. What follows needs a
# person, so waiting any longer is of no use. The banner of the UEFI shell is not among them, only
# its prompt: a startup.nsh on the disk may go on.
_FAILURES = tuple(
    (meaning, re.compile(rf"^[ \t]*(?:{pattern}).*", re.IGNORECASE | re.MULTILINE))
    for meaning, pattern in (
        (
            SECURE_BOOT_REFUSED,
            # Not the firmware's own shell, which it then tries: that is never signed.
            (
                r'BdsDxe: failed to (?:load|start) Boot[0-9A-F]{4} "(?!EFI Internal Shell")'
                r".*: (?:Access Denied|Security Violation)"
            ),
        ),
        ("the firmware found nothing to start", r"(?:BdsDxe: )?No bootable (?:device|option)"),
        ("the firmware could not start the disk", r"Boot failed\b"),
        ("the firmware found no loader and opened its shell", r"Shell>"),
        ("a boot record gave up", r"(?:BOOTMGR|NTLDR) is (?:missing|compressed)"),
        ("a boot record gave up", r"(?:A )?disk (?:read )?error|Error loading operating system"),
        ("a boot record gave up", r"(?:Missing|No) operating system|Operating system not found"),
        ("the MBR gave up", r"(?:Invalid|No active|No bootable) partition"),
        ("the disk says that it is not bootable", r"This is not a bootable disk|Non-system disk"),
        ("ISOLINUX or SYSLINUX gave up", r"(?:isolinux|syslinux):.*(?:error|fail|corrupt|missing)"),
        ("GRUB did not find its files", r"grub rescue>"),
        ("Windows Boot Manager reports an error", r"Status: 0x[0-9a-f]{8}"),
        ("the kernel panicked", r"(?:\[[ 0-9.]+\] )?Kernel panic - not syncing"),
    )
)
# The same in the middle of a line: shim draws a box around it.
_BOXED_FAILURES = (
    ("shim refused what it was to start", re.compile(r"Verification failed: \(0x1A\)[ A-Za-z]*")),
)


@dataclass(frozen=True, slots=True)
class BootResult:
    """What one start of a disk showed; ``words`` is the verdict as a sentence for people."""

    proven: bool
    words: str
    matched_line: str | None
    firmware: Firmware
    bus: Bus
    seconds: float
    bytes_read: int
    reset_count: int
    screenshots: tuple[Path, ...]
    serial_log: Path
    directory: Path
    architecture: Architecture = Architecture.X86_64
    is_refused: bool = False
    """The firmware said that Secure Boot does not let the loader start."""


def boot_target(
    path: Path,
    firmware: Firmware,
    *,
    bus: Bus = Bus.USB,
    expect: str | None = None,
    timeout: float = 120.0,
    still_for: float = 15.0,
    directory: Path,
    label: str | None = None,
    memory_size: int = 1024 * MIB,
    cpus: int = 1,
    logical_sector_size: int = 512,
    on_event: Callable[[MachineEvent], None] | None = None,
    server: NbdServer | None = None,
    accelerator: Accelerator | None = None,
    stop: threading.Event | None = None,
    architecture: Architecture = Architecture.X86_64,
    keys: SecureBootKeys | None = None,
) -> BootResult:
    """Start the bytes at ``path`` and watch until ``expect`` is seen, or nothing is left to see.

    With a ``server``, the disk is what that serves, and ``path`` only what it is called. The
    target is never written. The watch ends when ``expect`` appears; at a line in which firmware
    or a loader gives up; when the machine goes off or resets time and again; without ``expect``
    when the screen has been still and the disk idle for ``still_for`` seconds; and after
    ``timeout`` seconds. A screenshot is taken at the end. ``keys`` are for UEFI_SECURE. Another
    thread may end it all with ``stop``.

    Raises:
        RunInterruptedError: ``stop`` was set.
        TargetRefusedError: the target can't be read.
        MediaError: what ``server`` serves could not be read, so that nothing is proven.
        ToolError: QEMU or the firmware is missing, or QEMU failed.
    """
    check_expectation(expect)
    disk = Disk(path, bus, logical_sector_size=logical_sector_size, server=server)
    with Machine(
        label or f"boot-{firmware.value}-{bus.value}",
        [disk],
        firmware=firmware,
        directory=directory,
        memory_size=memory_size,
        cpus=cpus,
        architecture=architecture,
        keys=keys,
        on_event=on_event,
        accelerator=accelerator,
    ) as machine:
        sight = _watch(
            machine, expect, timeout=timeout, still_for=still_for, stop=stop or threading.Event()
        )
        machine.screenshot("end")
        if server is not None and server.error is not None and not sight.is_proven:
            raise server.error
        bytes_read = machine.block_stats().bytes_read
    return conclude(machine, sight, bus, bytes_read)


def check_expectation(expect: str | None) -> None:
    """Raise UsageError for a text that proves nothing."""
    if expect is not None and not expect.strip():
        raise UsageError("an empty text is on every screen", hint="name a text with --expect")


def conclude(machine: Machine, sight: Verdict, bus: Bus, bytes_read: int) -> BootResult:
    """The result of a boot from ``bus`` that ``sight`` ended."""
    # QEMU does not count what is read from its SD card.
    counted = "" if bus is Bus.SD else f"; {format_size(bytes_read)} were read from the disk"
    is_arm = machine.architecture is Architecture.AARCH64
    if is_arm and bus in _ARM_DRIVERLESS and not sight.is_proven:
        counted += f"; firmware for aarch64 often has no driver for {bus.value}, try usb"
    if machine.reset_count:
        counted += f"; the guest reset itself {machine.reset_count} times"
    return BootResult(
        proven=sight.is_proven,
        words=sight.words + counted,
        matched_line=sight.line,
        firmware=machine.firmware,
        bus=bus,
        seconds=machine.seconds,
        bytes_read=bytes_read,
        reset_count=machine.reset_count,
        screenshots=tuple(machine.screenshots),
        serial_log=machine.serial_log,
        directory=machine.directory,
        architecture=machine.architecture,
        is_refused=sight.is_refused,
    )


def _watch(
    machine: Machine,
    expect: str | None,
    *,
    timeout: float,
    still_for: float,
    stop: threading.Event,
) -> Verdict:
    """Look about each second until there is a verdict, which the machine keeps too."""
    deadline = time.monotonic() + timeout
    stillness = _Stillness(machine)
    while True:
        machine.poll()
        sight = _judge(machine, expect)
        if sight is not None:
            break
        if expect is None and stillness.measure() >= still_for:
            sight = _not_proven(
                "nothing to expect was named, and the screen has come to rest: "
                "look at the screenshot"
            )
            break
        left = deadline - time.monotonic()
        if left <= 0:
            missing = (
                "nothing to expect was named: look at the screenshot"
                if expect is None
                else f"{expect!r} did not appear within {timeout:g} s"
            )
            sight = _not_proven(missing)
            break
        if stop.wait(min(_POLL_PERIOD, left)):
            raise RunInterruptedError(f"machine {machine.name} was stopped")
    machine.verdict = sight
    return sight


def _not_proven(why: str, *, is_refused: bool = False) -> Verdict:
    return Verdict(is_proven=False, words=f"not proven: {why}", is_refused=is_refused)


Sayings = tuple[tuple[str, str], ...]
"""Pairs of a place, such as "the screen", and all that was said there."""


def find_expected(sayings: Sayings, expect: str) -> Verdict | None:
    """The proof, if it is among ``sayings``."""
    for place, text in sayings:
        line = find_line(text, expect)
        if line is not None:
            words = f"proven: {place} says {line!r}"
            return Verdict(is_proven=True, words=words, line=line)
    return None


def collect_sayings(machine: Machine) -> Sayings:
    """Where guests say something, and what this one has said there."""
    return ("the serial line", machine.serial_text()), ("the screen", machine.screen_text())


def _judge(machine: Machine, expect: str | None) -> Verdict | None:
    """The verdict on what there is to see now, if it allows one."""
    sayings = collect_sayings(machine)
    found = None if expect is None else find_expected(sayings, expect)
    if found is not None:
        return found
    for place, text in sayings:
        for meaning, pattern in (*_FAILURES, *_BOXED_FAILURES):
            match = pattern.search(text)
            if match is not None:
                return _not_proven(
                    f"{meaning}: {place} says {match[0].strip()!r}",
                    is_refused=meaning == SECURE_BOOT_REFUSED,
                )
    if machine.is_off:
        return _not_proven("the guest switched itself off")
    if machine.reset_count >= _MANY_RESETS:
        return _not_proven("the guest resets itself again and again")
    return None


class _Stillness:
    """How long neither the screen nor the disk has shown any activity."""

    def __init__(self, machine: Machine) -> None:
        self._machine = machine
        self._picture = machine.picture()
        self._reads = 0
        self._since = time.monotonic()

    def measure(self) -> float:
        picture, reads = self._machine.picture(), self._machine.block_stats().reads
        is_idle = reads == self._reads and picture.is_like(self._picture)
        if not (is_idle and self._machine.has_content(picture)):
            self._since = time.monotonic()
        self._picture, self._reads = picture, reads
        return time.monotonic() - self._since
