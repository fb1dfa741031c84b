# SPDX-License-Identifier: GPL-3.0-or-later
"""Start Debian's hybrid ISOs as disks, as far as their menu and one step beyond.

A menu is a picture, and a picture proves nothing by itself; so after the screenshot each medium
is made to say something that only a working one can say, and only in this run:

- Debian's ``mini.iso``: the menu entry is edited in the menu, and the kernel that it starts repeats
  the edited command line on the serial port;
- ``grub-rescue``: GRUB joins two halves of a token that was never typed in one piece;
- ``memtest86+``, which takes no input that it repeats, finds out how much memory the machine has,
  which is another amount in each run.
"""

import secrets
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from mediamaker.errors import BootError
from mediamaker.units import MIB
from mediamaker.vm.disk import Bus, Disk
from mediamaker.vm.firmware import Firmware
from mediamaker.vm.machine import Machine
from mediamaker.vm.record import Verdict
from mediamaker.vm.screen import Picture

MEMTEST86 = Path("/usr/lib/memtest86+/memtest86+x64.iso")
GRUB_RESCUE = Path("/usr/lib/grub-rescue/grub-rescue-cdrom.iso")
# The EFI memory map of OVMF takes its share; the rest is what memtest86+ counts.
FIRMWARE_MEMORY_MIB = 16


@dataclass(frozen=True)
class Medium:
    """How to tell that a hybrid medium works: returns the screenshot of its menu."""

    label: str
    prove: Callable[[Machine, Firmware, int], Path]


def boot_hybrid(
    medium: Medium, path: Path, firmware: Firmware, directory: Path, *, bus: Bus = Bus.USB
) -> Path:
    """Start the bytes at ``path`` as a disk and return the screenshot of the medium's menu.

    Raises:
        BootError: the medium did not do what only a working one does.
    """
    memory_mib = 512 + 32 * secrets.randbelow(16)
    with Machine(
        f"{medium.label}-{firmware.value}",
        [Disk(path, bus)],
        firmware=firmware,
        directory=directory,
        memory_size=memory_mib * MIB,
    ) as machine:
        return medium.prove(machine, firmware, memory_mib)


def _prove_mini_iso(machine: Machine, firmware: Firmware, _: int) -> Path:
    token = secrets.token_hex(8)
    menu = _see_menu(machine)
    if firmware is Firmware.BIOS:
        _press(machine, "tab")
    else:
        _press(machine, "e")
        machine.wait_for_still_screen(still_for=1, timeout=20)
        # setparams, a blank line, set background_color, and then linux.
        for _ in range(3):
            machine.send_keys("down")
        machine.send_keys("end")
    machine.type_text(f" console=ttyS0 loglevel=7 mediamaker={token}")
    machine.wait_for_still_screen(still_for=1, timeout=20)
    machine.screenshot("edited")
    if firmware is Firmware.BIOS:
        machine.send_keys("ret")
    else:
        machine.send_keys("ctrl", "x")
    line = machine.wait_for_serial(f"mediamaker={token}", timeout=180)
    if "ommand line:" not in line:
        raise BootError(f"the kernel did not say its command line, but {line!r} was said")
    return menu


def _prove_grub_rescue(machine: Machine, _firmware: Firmware, _: int) -> Path:
    halves = secrets.token_hex(4), secrets.token_hex(4)
    menu = _see_menu(machine)
    _press(machine, "c")
    machine.wait_for_screen_text("grub>", timeout=20)
    for line in (
        f"set first={halves[0]}",
        f"set second={halves[1]}",
        "serial",
        "terminal_output serial",
        "echo ${first}${second}",
    ):
        machine.type_text(line + "\n")
        time.sleep(0.5)
    machine.wait_for_serial("".join(halves), timeout=30)
    return menu


def _prove_memtest86(machine: Machine, firmware: Firmware, memory_mib: int) -> Path:
    font = _find_font()
    deadline = time.monotonic() + 150
    while time.monotonic() < deadline:
        time.sleep(1)
        machine.poll()
        if firmware is Firmware.BIOS:
            text = machine.screen_text()
        else:
            text = _read_framebuffer(machine.picture(), font)
        for line in text.splitlines():
            if "Memory" in line and "MB" in line:
                menu = machine.screenshot("menu")
                seen_mib = int(line.split(":")[1].split("MB")[0])
                if not memory_mib - FIRMWARE_MEMORY_MIB <= seen_mib <= memory_mib:
                    raise BootError(f"the machine has {memory_mib} MiB, memtest86+ says {line!r}")
                words = f"proven: memtest86+ found the {memory_mib} MiB of this run"
                machine.verdict = Verdict(is_proven=True, words=words, line=line.strip())
                return menu
    raise BootError(f"memtest86+ did not start: look at {machine.screenshot('failed')}")


def _see_menu(machine: Machine) -> Path:
    machine.wait_for_still_screen(still_for=3, timeout=90)
    return machine.screenshot("menu")


def _press(machine: Machine, key: str) -> None:
    """Press a key until the screen answers: GRUB plays a beep first, and a key pressed ends it."""
    before = machine.picture()
    for _ in range(3):
        machine.send_keys(key)
        deadline = time.monotonic() + 8
        while time.monotonic() < deadline:
            if not machine.picture().is_like(before):
                return
            time.sleep(0.25)
    raise BootError(f"the menu does not answer to {key!r}: look at {machine.screenshot('failed')}")


# memtest86+ under UEFI draws its text itself, 80 x 25 cells of 8 x 16 pixels in the middle of the
# screen, with the font that its program carries.


def _find_font() -> bytes:
    """The font inside the memtest86+ that Debian packages: 256 glyphs of 16 rows of 8 pixels."""
    program = Path("/boot/memtest86+x64.efi").read_bytes()
    # The glyph of a full block is found next to those of the halves: all rows set (219), then the
    # lower, left, right and upper half (220 to 223).
    blocks = (
        b"\xff" * 16
        + b"\0" * 7 + b"\xff" * 9
        + b"\xf0" * 16
        + b"\x0f" * 16
        + b"\xff" * 7 + b"\0" * 9
    )  # fmt: skip
    start = program.index(blocks) - 219 * 16
    return program[start : start + 256 * 16]


def _read_framebuffer(picture: Picture, font: bytes) -> str:
    """The text drawn on a screen, with a space for each cell that is no glyph."""
    top, left = (picture.height - 400) // 2, (picture.width - 640) // 2
    if top < 0 or left < 0 or picture.is_blank:
        return ""
    glyphs = {font[code * 16 : code * 16 + 16]: chr(code) for code in range(126, 31, -1)}
    return "\n".join(
        "".join(
            glyphs.get(_read_cell(picture, left + column * 8, top + row * 16), " ")
            for column in range(80)
        )
        for row in range(25)
    )


def _read_cell(picture: Picture, x: int, y: int) -> bytes:
    """The 16 bytes of a glyph: a bit is set where a pixel is not of the cell's background."""
    rows = []
    background = b""
    for line in range(y, y + 16):
        start = (line * picture.width + x) * 3
        pixels = [picture.pixels[start + at * 3 : start + at * 3 + 3] for at in range(8)]
        background = background or pixels[0]
        rows.append(sum(0x80 >> at for at in range(8) if pixels[at] != background))
    return bytes(rows)


MINI_ISO_MEDIUM = Medium("mini-iso", _prove_mini_iso)
GRUB_RESCUE_MEDIUM = Medium("grub-rescue", _prove_grub_rescue)
MEMTEST86_MEDIUM = Medium("memtest86", _prove_memtest86)
