# SPDX-License-Identifier: GPL-3.0-or-later
"""``create`` from an ISO whose install.wim is solid, and over 4 GiB once it no longer is.

``make solid-big``; not part of ``make test``: it needs 25 GiB of room and many minutes. What the
tests have of this, with small files and a lowered limit, is ``tests/cli/test_solid.py``.

Makes the ISO, lets ``mediamaker create`` find out by itself what to do, copies the parts out with
mcopy for wimlib-imagex to verify, boots both firmwares, and creates a second stick, whose
prepare stage must find everything done. Any judge that objects ends it with an exception.
"""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
import time
from dataclasses import dataclass
from pathlib import Path

from command import succeed
from standin.iso import new_token
from standin.solid import build_solid_iso

ROOT = Path(__file__).resolve().parents[1]
WORK = ROOT / "out" / "solid-big"
INSTALL_SIZE = 4500 << 20
FAT32_FILE_SIZE_MAX = 0xFFFFFFFF
INSTANT_SECONDS = 5.0


@dataclass(frozen=True, slots=True)
class Created:
    """Seconds of the whole, and until the first byte of the stick was written."""

    seconds: float
    prepare_seconds: float
    warnings: tuple[str, ...]


def say(words: str) -> None:
    print(f"{time.strftime('%H:%M:%S')}  {words}", flush=True)


def create(iso: Path, stick: Path, *words: str) -> Created:
    """``mediamaker create`` with the time at which its writing began."""
    command = [sys.executable, "-m", "mediamaker", "create", iso, stick, "--json", *words]
    started = time.monotonic()
    prepared: float | None = None
    last: dict[str, object] = {}
    warnings: list[str] = []
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        for line in process.stdout:
            last = json.loads(line)
            if last["event"] == "warning":
                warnings.append(str(last["message"]))
            if prepared is None and last["event"] == "progress" and last["phase"] != "prepare":
                prepared = time.monotonic() - started
    assert process.returncode == 0, last
    assert last["is_verified"] is ("--no-verify" not in words)
    assert prepared is not None
    return Created(time.monotonic() - started, prepared, tuple(warnings))


def check_parts(stick: Path, parts: Path) -> None:
    """Several parts, none too large for FAT32, whole to wimlib-imagex."""
    parts.mkdir()
    subprocess.run(["mcopy", "-i", f"{stick}@@1M", "::/sources/install*", parts], check=True)
    found = sorted(parts.iterdir())
    sizes = [path.stat().st_size for path in found]
    say(f"parts: {', '.join(f'{path.name} {path.stat().st_size}' for path in found)}")
    assert [path.name for path in found] == ["install.swm", "install2.swm"]
    assert max(sizes) <= FAT32_FILE_SIZE_MAX < sum(sizes)
    reference = f"--ref={parts}/install*.swm"
    subprocess.run(
        ["wimlib-imagex", "verify", found[0], reference], check=True, capture_output=True
    )
    shown = subprocess.run(
        ["wimlib-imagex", "info", found[0]], check=True, capture_output=True, text=True
    ).stdout
    assert "Windows 11 Home" in shown
    assert "Windows 11 Pro" in shown
    assert "Compression:    LZX" in shown, shown
    shutil.rmtree(parts)


def main() -> None:
    shutil.rmtree(WORK, ignore_errors=True)
    WORK.mkdir(parents=True)
    os.environ["XDG_CACHE_HOME"] = str(WORK / "cache")
    try:
        iso, stick = WORK / "solid.iso", WORK / "stick.img"
        token = new_token()
        started = time.monotonic()
        build_solid_iso(iso, token=token, install_size=INSTALL_SIZE)
        say(f"{iso.name}: {iso.stat().st_size} bytes, built in {time.monotonic() - started:.0f} s")
        first = create(iso, stick, "--seed", "solid")
        for warning in first.warnings:
            say(f"it said: {warning}")
        say(f"create: prepared in {first.prepare_seconds:.1f} s, {first.seconds:.1f} s in all")
        (cached,) = (WORK / "cache").rglob("*.wim")
        assert cached.stat().st_size > FAT32_FILE_SIZE_MAX
        check_parts(stick, WORK / "parts")
        say("parts verified by wimlib-imagex")
        for firmware in ("bios", "uefi"):
            result = succeed(
                "boot", stick, "--firmware", firmware, "--expect", f"token={token}",
                "--screenshot", WORK / "screenshots", "--timeout", "600",
            )  # fmt: skip
            assert result["proven"] is True
            say(f"{firmware}: {result['matched_line']}")
        stick.unlink()
        again = create(iso, stick, "--seed", "solid", "--no-verify")
        say(f"again: prepared in {again.prepare_seconds:.1f} s, {again.seconds:.1f} s in all")
        assert again.prepare_seconds < INSTANT_SECONDS
    finally:
        # Gigabytes: nothing of them stays, whatever happened.
        shutil.rmtree(WORK, ignore_errors=True)


if __name__ == "__main__":
    main()
