# SPDX-License-Identifier: GPL-3.0-or-later
"""The install benchmark: one table, one run, one machine; figures are ratios.

``mediamaker install`` of a stand-in Windows (with this system's /usr/share in it, for the number
of files) against mkntfs and ``wimlib-imagex apply``, onto the same block device (a loop device)
and into image files, cold caches; times include the flush. What is compared with makes one NTFS
volume: no table, no ESP, no boot files, no store, no recovery partition, and it checks nothing.

Needs root (loop devices, dropping caches), and about 15 GiB of room.
"""

from __future__ import annotations

import argparse
import subprocess
from pathlib import Path

from create import MEDIAMAKER, MIB, ROOT, LoopDevice, machine, remove
from wim import Row, best, measure, show, wimlib

TREE = Path("/usr/share")
DISK_SIZE = 12 << 30
VOLUME_SIZE = 10 << 30
ROUNDS = 2


def make_wim(work: Path) -> Path:
    from standin.windows_image import make_windows_wim  # noqa: PLC0415 - create.py sets the path

    path = work / "windows.wim"
    if not path.exists():
        unfinished = path.with_suffix(".unfinished.wim")
        remove(unfinished)
        make_windows_wim(unfinished, token="bench", winre_token="bench-re", scale="big")
        command = f'add {TREE} "/Program Files/share"'
        wimlib("update", unfinished, "1", "--command", command)
        unfinished.rename(path)
    return path


def install_command(wim: Path, target: str | Path, *more: str) -> list[str | Path]:
    return [MEDIAMAKER, "install", f"{wim}:1", target, "--seed", "bench", "--json", *more]


def device_rows(wim: Path, work: Path, rounds: int) -> list[Row]:
    with LoopDevice(work / "loop.backing", DISK_SIZE) as device:
        sectors = str(VOLUME_SIZE // 512)
        confirm = ("--erase", "--confirm", Path(device).name)
        theirs, plain, verified = best(
            rounds,
            lambda: measure(
                "device: mkntfs, wimlib-imagex apply",
                ["mkntfs", "-q", "-f", "-F", "-s", "512", "-p", "2048", device, sectors],
                ["wimlib-imagex", "apply", wim, "1", device],
                ["blockdev", "--flushbufs", device],
            ),
            lambda: measure(
                "device: install, not verified",
                install_command(wim, device, *confirm, "--no-verify"),
            ),
            lambda: measure("device: install, verified", install_command(wim, device, *confirm)),
        )
    size = wim.stat().st_size
    return [Row(item, size, theirs) for item in (theirs, plain, verified)]


def file_rows(wim: Path, work: Path, rounds: int) -> list[Row]:
    volume, image = work / "volume.ntfs", work / "windows.img"

    def fresh(path: Path, size: int = 0) -> Path:
        remove(path)
        if size:
            with path.open("wb") as file:
                file.truncate(size)
        return path

    force = ("--size", f"{DISK_SIZE // MIB}MiB", "--force")
    theirs, plain, verified = best(
        rounds,
        lambda: measure(
            "file: mkntfs, wimlib-imagex apply",
            ["mkntfs", "-q", "-f", "-F", "-s", "512", "-p", "2048", fresh(volume, VOLUME_SIZE)],
            ["wimlib-imagex", "apply", wim, "1", volume],
            ["sync", volume],
        ),
        lambda: measure(
            "file: install, not verified",
            install_command(wim, fresh(image), *force, "--no-verify"),
        ),
        lambda: measure("file: install, verified", install_command(wim, fresh(image), *force)),
    )
    remove(volume)
    remove(image)
    size = wim.stat().st_size
    return [Row(item, size, theirs) for item in (theirs, plain, verified)]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--work", type=Path, default=ROOT / "out" / "bench")
    parser.add_argument("--rounds", type=int, default=ROUNDS)
    args = parser.parse_args()
    args.work.mkdir(parents=True, exist_ok=True)
    wim = make_wim(args.work)
    about = subprocess.run(
        ["wimlib-imagex", "info", wim, "1"], check=True, capture_output=True, text=True
    ).stdout
    counts = [line for line in about.splitlines() if line.startswith(("File Count", "Total Bytes"))]
    print(f"machine: {machine()}")
    print(f"WIM: {wim.stat().st_size / (1 << 30):.2f} GiB; {'; '.join(counts)}")
    print(flush=True)
    rows = [*device_rows(wim, args.work, args.rounds), *file_rows(wim, args.work, args.rounds)]
    print(show(rows))


if __name__ == "__main__":
    main()
