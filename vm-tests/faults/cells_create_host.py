# SPDX-License-Identifier: GPL-3.0-or-later
"""``create`` and what happens around it: room, sources, other runs, other disks, odd sizes."""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from faults.commands import mediamaker, parse_ran, run, run_json, state_environment
from faults.matrix import Rig, Trial, Verdict, cell
from faults.media_rig import is_equal, loop_device, make_media_rig, make_tree, weigh
from faults.outcomes import short_environment
from mediamaker.units import MIB


@cell("create", "short writes", points=10, short=2)
def short_writes(rig: Rig) -> Iterator[Trial]:
    """A library ahead of libc gives back fewer bytes than were asked for."""
    media = make_media_rig(rig.work_dir / "rig")
    whole, log = rig.work_dir / "whole", rig.work_dir / "short.log"
    image_size = ("--size", media.used.stat().st_size)
    run(*mediamaker(*media.create_words(whole, *image_size)))
    for number in range(rig.count):
        seed = rig.rng.randrange(1 << 30)
        env = state_environment(rig.work_dir / "state") | short_environment(rig.work_dir, seed)
        stick = media.copy_used(rig.work_dir / "stick.img")
        with loop_device(stick) as device:
            target = (device, rig.work_dir / "image")[number % 2]
            size = () if target == device else image_size
            ran = run_json(*media.create_words(target, *size, "--confirm", device.name), env=env)
        count = log.stat().st_size
        point = f"seed {seed}, {target.name}, {count} short writes"
        if count == 0:
            raise RuntimeError(f"no write was short: {point}")
        if target == device:
            yield media.weigh(stick, ran, point, code=0)
            continue
        is_whole = target.exists() and is_equal(target, whole)
        verdict = Verdict.COMPLETE if is_whole else Verdict.HALF_VALID
        yield weigh(verdict, "compared with a run without", ran, point, code=0)
        target.unlink(missing_ok=True)


@cell("create", "no room for an image file", points=8, short=2)
def no_room(rig: Rig) -> Iterator[Trial]:
    """On a small tmpfs and a small ext4; nothing is left, or what --resumable asks for."""
    media = make_media_rig(rig.work_dir / "rig")
    for number in range(rig.count):
        kind, more = ("tmpfs", "ext4")[number % 2], (("--resumable",) if number % 4 > 1 else ())
        room = rig.rng.randrange(8 * MIB, 24 * MIB)
        with _small_mount(rig.work_dir, kind, room) as place:
            image = place / "stick.img"
            size = ("--size", media.used.stat().st_size)
            ran = run_json(*media.create_words(image, *size, *more))
            names = sorted(path.name for path in place.iterdir() if path.name != "lost+found")
        kept = {"stick.img.mediamaker-journal", "stick.img.mediamaker-partial"} if more else set()
        verdict = Verdict.BLANK if set(names) <= kept else Verdict.HALF_VALID
        words = ("no room on its file system", "free some space")
        point = f"{kind} of {room} bytes {' '.join(more)}"
        yield weigh(verdict, f"left: {names}", ran, point, code=6, words=words)


@contextmanager
def _small_mount(folder: Path, kind: str, size: int) -> Iterator[Path]:
    place, image = folder / "small", folder / "small.ext4"
    place.mkdir(exist_ok=True)
    if kind == "tmpfs":
        run("mount", "-t", "tmpfs", "-o", f"size={size}", "tmpfs", place)
    else:
        with image.open("wb") as file:
            file.truncate(size)
        run("mkfs.ext4", "-q", "-F", image)
        run("mount", "-o", "loop", image, place)
    try:
        yield place
    finally:
        run("umount", place)
        image.unlink(missing_ok=True)


@cell("create", "source altered while it is read", points=20, short=2)
def altered_source(rig: Rig) -> Iterator[Trial]:
    """Written to, cut short, replaced, removed, while the run is held still."""
    media = make_media_rig(rig.work_dir / "rig", filler_size=48 * MIB, has_own_tree=True)
    kinds = ("written to", "cut short", "replaced", "removed")
    for number in range(rig.count):
        kind = kinds[number % len(kinds)]
        file = media.source / "big.bin"
        kept = rig.work_dir / "kept.bin"
        run("cp", "--preserve=timestamps", file, kept)
        stick = media.copy_used(rig.work_dir / "stick.img")
        when = rig.rng.randrange(2, 12)
        with loop_device(stick) as device:
            words = media.create_words(device, "--confirm", device.name, "--json")
            with stopped_at_write(rig, device, when, words) as going:
                _alter(file, kind)
            ran = going.ran()
        point = f"{kind}, at write {when}"
        verdict, seen = media.judge(stick)
        yield weigh(verdict, seen, ran, point, code=3, words=("left blank", "big.bin"))
        file.unlink(missing_ok=True)
        run("cp", "--preserve=timestamps", kept, file)


def _alter(file: Path, kind: str) -> None:
    match kind:
        case "written to":
            with file.open("r+b") as opened:
                opened.seek(20 * MIB)
                opened.write(b"other bytes")
        case "cut short":
            os.truncate(file, MIB)
        case "replaced":
            fresh = file.with_name("fresh")
            shutil.copy2(file, fresh)
            fresh.rename(file)
        case "removed":
            file.unlink()


class _Going:
    """A command that was held still, and goes on."""

    def __init__(self, process: subprocess.Popen[str], pid: int) -> None:
        self._process = process
        self.pid = pid

    def ran(self):
        said, errors = self._process.communicate(timeout=300)
        return parse_ran(self._process.returncode, said, errors)


@contextmanager
def stopped_at_write(rig: Rig, device: Path, number: int, words: list[str]) -> Iterator[_Going]:
    """A run that strace stops at its Nth write to ``device``, for the length of the block."""
    inject = ["-e", "trace=pwrite64", "-e", f"inject=pwrite64:signal=STOP:when={number}"]
    strace = ["strace", "-f", "-qq", "-P", device, *inject, "-o", rig.work_dir / "stop.log"]
    command = [*map(str, strace), *mediamaker(*words)]
    process = subprocess.Popen(
        command, text=True, stdout=subprocess.PIPE, stderr=subprocess.PIPE,
        env=state_environment(rig.work_dir / "state"),
    )  # fmt: skip
    child = _wait_stopped(process)
    try:
        yield _Going(process, child)
    finally:
        os.kill(child, signal.SIGCONT)


def _wait_stopped(process: subprocess.Popen[str]) -> int:
    """The id of strace's child, once it is stopped."""
    deadline = time.monotonic() + 120
    while time.monotonic() < deadline:
        children = Path(f"/proc/{process.pid}/task/{process.pid}/children").read_text().split()
        for child in children:
            state = Path(f"/proc/{child}/stat").read_text().rpartition(")")[2].split()[0]
            if state in {"T", "t"} and _is_stopped(child):
                return int(child)
        if process.poll() is not None:
            said, errors = process.communicate()
            raise RuntimeError(f"it was not stopped: {said}{errors}")
        time.sleep(0.05)
    process.kill()
    raise RuntimeError("it was not stopped in time")


def _is_stopped(child: str) -> bool:
    """Not merely in one of strace's own stops, which last a moment."""
    for _ in range(5):
        time.sleep(0.05)
        state = Path(f"/proc/{child}/stat").read_text().rpartition(")")[2].split()[0]
        if state not in {"T", "t"}:
            return False
    return True


@cell("create", "two runs on one target", points=6, short=1)
def two_runs(rig: Rig) -> Iterator[Trial]:
    """The second is refused while the first is held still; the first completes."""
    media = make_media_rig(rig.work_dir / "rig")
    for _ in range(rig.count):
        stick = media.copy_used(rig.work_dir / "stick.img")
        when = rig.rng.randrange(1, 8)
        with loop_device(stick) as device:
            words = media.create_words(device, "--confirm", device.name)
            with stopped_at_write(rig, device, when, [*words, "--json"]) as going:
                second = run_json(*words, env=state_environment(rig.work_dir / "other"))
                # As the same person would, with the same state folder.
                third = run_json(*words, "--resume", env=state_environment(rig.work_dir / "state"))
            first = going.ran()
        point = f"first run at write {when}"
        for other in (second, third):
            # The guard sees the first one's descriptor, by the process that has it.
            is_named = f"process {going.pid}," in other.words
            if other.exit_code != 4 or not is_named or other.errors:
                yield Trial(Verdict.WRONG_WORDS, point, f"{other.exit_code}: {other.words}")
                break
        else:
            trial = media.weigh(stick, first, point, code=0)
            is_right = trial.verdict is Verdict.COMPLETE
            said = second.message
            yield (
                Trial(Verdict.REFUSED, point, f"{said}; the first completed") if is_right else trial
            )


_ANOTHER_RUN = ("another mediamaker", "another run of mediamaker")


@cell("create", "two runs to one image file", points=4, short=0)
def two_runs_to_file(rig: Rig) -> Iterator[Trial]:
    """With --resumable: they share names. The second is refused; the first completes."""
    media = make_media_rig(rig.work_dir / "rig")
    for number in range(rig.count):
        image = rig.work_dir / "images" / "stick.img"
        shutil.rmtree(image.parent, ignore_errors=True)
        image.parent.mkdir()
        size = ("--size", media.used.stat().st_size, "--resumable")
        partial = image.with_name("stick.img.mediamaker-partial")
        words = media.create_words(image, *size)
        when = rig.rng.randrange(1, 4)
        with stopped_at_write(rig, partial, when, [*words, "--json"]) as going:
            more = ("--resume",) if number % 2 else ()
            second = run_json(*words, *more)
        first = going.ran()
        verify = run_json("verify", image, media.source, *media.options)
        point = f"first run at write {when} {' '.join(more)}"
        is_named = any(name in second.message for name in _ANOTHER_RUN)
        if first.exit_code or verify.exit_code:
            yield Trial(Verdict.HALF_VALID, point, first.words + verify.words)
        elif second.exit_code != 4 or not is_named or second.errors:
            yield Trial(Verdict.WRONG_WORDS, point, f"{second.exit_code}: {second.words}")
        else:
            yield Trial(Verdict.REFUSED, point, second.message)


_SIZES = {
    # what is made odd of a size of so many MiB
    "512-byte sectors, whole MiB": (512, 96 * MIB),
    "whole cylinders of 255 x 63": (512, 255 * 63 * 512 * 13),
    "one sector more": (512, 96 * MIB + 512),
    "one sector less": (512, 96 * MIB - 512),
    "a prime number of sectors": (512, 196_613 * 512),
    "4096-byte sectors": (4096, 600 * MIB),
    "4096-byte sectors, one more": (4096, 600 * MIB + 4096),
    "4096-byte sectors, a prime number": (4096, 150_001 * 4096),
    "as small as it may be": (512, 0),
}


@cell("create", "sector sizes, odd sizes", points=18, short=2)
def odd_sizes(rig: Rig) -> Iterator[Trial]:
    """Both tables; judged by sgdisk or sfdisk, fsck.fat and mtools, and by ``verify``."""
    tree = make_tree(rig.work_dir / "tree", 12 * MIB)
    cases = [(name, layout) for layout in ("gpt-fat32", "mbr-fat32") for name in _SIZES]
    if rig.is_short:
        cases = [
            ("a prime number of sectors", "mbr-fat32"),
            ("4096-byte sectors, one more", "gpt-fat32"),
        ]
    for name, layout in cases[: rig.count]:
        sector_size, size = _SIZES[name]
        if size == 0:
            size = _smallest(rig, tree, layout)
        stick = rig.work_dir / "odd.img"
        stick.unlink(missing_ok=True)
        with stick.open("wb") as file:
            file.truncate(size)
        with loop_device(stick, sector_size=sector_size) as device:
            words = ("--confirm", device.name, "--layout", layout)
            env = state_environment(rig.work_dir / "state")
            ran = run_json("create", tree, device, *words, env=env)
            verify = run_json("verify", device, tree, "--layout", layout)
            troubles = [] if ran.exit_code else _judge_disk(device, tree, layout, sector_size)
        point = f"{name} ({size} bytes), {layout}"
        if ran.exit_code or ran.errors or verify.exit_code:
            yield Trial(Verdict.WRONG_WORDS, point, ran.words + ran.errors + verify.words)
        elif troubles:
            yield Trial(Verdict.FALSE_DONE, point, "; ".join(troubles))
        else:
            yield Trial(Verdict.COMPLETE, point, "table, volume and files, by foreign tools")


def _smallest(rig: Rig, tree: Path, layout: str) -> int:
    image = rig.work_dir / "smallest.img"
    run(*mediamaker("create", tree, image, "--layout", layout))
    size = image.stat().st_size
    image.unlink()
    return size


def _judge_disk(device: Path, tree: Path, layout: str, sector_size: int) -> list[str]:
    """What foreign tools find wrong."""
    troubles = []
    if layout == "gpt-fat32":
        said = run("sgdisk", "--verify", device)
        if "No problems found" not in said:
            troubles.append(said)
    dump = run("sfdisk", "--dump", device)
    (line,) = [line for line in dump.splitlines() if line.startswith(str(device))]
    start = int(line.split("start=")[1].split(",")[0]) * sector_size
    size = int(line.split("size=")[1].split(",")[0]) * sector_size
    volume = Path("/dev/shm") / f"mm-volume-{os.getpid()}"
    try:
        run("dd", f"if={device}", f"of={volume}", "bs=1M", "iflag=skip_bytes,count_bytes",
            f"skip={start}", f"count={size}", "conv=sparse")  # fmt: skip
        checked = subprocess.run(
            ["fsck.fat", "-n", volume], capture_output=True, text=True, check=False
        )
        if checked.returncode:
            troubles.append(checked.stdout)
        fresh = volume.with_suffix(".big")
        run("mcopy", "-n", "-i", volume, "::big.bin", fresh)
        if not is_equal(fresh, tree / "big.bin"):
            troubles.append("big.bin is not what it was")
        fresh.unlink()
    finally:
        volume.unlink(missing_ok=True)
    return troubles
