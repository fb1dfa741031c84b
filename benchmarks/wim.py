# SPDX-License-Identifier: GPL-3.0-or-later
"""The WIM benchmark: one table, one run, one machine; figures are ratios and counts.

``mediamaker wim verify``, ``split`` and ``optimize --images`` against what wimlib-imagex has for
it, with a WIM of this system's /usr/lib and /usr/share (two images, LZX), cold caches; the time
includes the flush to the disk. Whoever is compared takes turns, and the best of the rounds
counts. A split on XFS, where blocks are shared, and the plan of a WIM of 100,000 blobs are timed
inside of the process as well, without the start of the interpreter.

Needs root (loop mounts, dropping caches), and about 15 GiB of room.
"""

from __future__ import annotations

import argparse
import resource
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path

import create
from create import MEDIAMAKER, MIB, ROOT, Measure, machine, remove

INSIDE = Path(__file__).with_name("wim_inside.py")
TREES = (Path("/usr/lib"), Path("/usr/share"))
BLOB_COUNT = 100_000
ROUNDS = 2


@dataclass(frozen=True)
class Timed(Measure):
    cpu_seconds: float = 0.0


@dataclass(frozen=True)
class Row:
    measure: Timed
    payload_size: int
    baseline: Timed


def measure(name: str, *commands: list[str | Path]) -> Timed:
    """As create.py has it, and the processor time: it says more where others use the machine."""
    before = resource.getrusage(resource.RUSAGE_CHILDREN)
    found = create.measure(name, *commands)
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    cpu_seconds = after.ru_utime - before.ru_utime + after.ru_stime - before.ru_stime
    return Timed(**found.__dict__, cpu_seconds=cpu_seconds)


def best(rounds: int, *contenders: Callable[[], Timed]) -> tuple[Timed, ...]:
    """Each one's best time; they take turns, so that what else runs hits all of them."""
    runs = [[contender() for contender in contenders] for _ in range(rounds)]
    return tuple(min(column, key=lambda m: m.seconds) for column in zip(*runs, strict=True))


def make_wim(work: Path) -> Path:
    """Two images of this system; quick compression, which decodes no faster."""
    path = work / "usr.wim"
    if not path.exists():
        unfinished = path.with_suffix(".unfinished")
        remove(unfinished)
        first, second = map(str, TREES)
        options = ["--no-acls", "--norpfix"]
        wimlib("capture", first, unfinished, "lib", "--compress=LZX:20", *options)
        wimlib("append", second, unfinished, "share", *options)
        unfinished.rename(path)
    return path


def wimlib(*words: str | Path) -> None:
    subprocess.run(["wimlib-imagex", *words], check=True, stdout=subprocess.DEVNULL)


def verify_rows(wim: Path, rounds: int) -> list[Row]:
    size = wim.stat().st_size
    theirs, ours = best(
        rounds,
        lambda: measure("wimlib-imagex verify", ["wimlib-imagex", "verify", wim]),
        lambda: measure("mediamaker wim verify", [MEDIAMAKER, "wim", "verify", wim, "--json"]),
    )
    return [Row(theirs, size, theirs), Row(ours, size, theirs)]


def split_rows(wim: Path, work: Path, rounds: int) -> list[Row]:
    size = wim.stat().st_size
    part_mib = size // 3 // MIB + 10
    folder = work / "parts"

    def emptied() -> Path:
        remove(folder)
        folder.mkdir()
        return folder

    copy, theirs, ours = best(
        rounds,
        lambda: measure(
            "cp, fsync", ["cp", "--reflink=never", wim, emptied() / "a"], ["sync", folder / "a"]
        ),
        lambda: measure(
            "wimlib-imagex split, fsync",
            ["wimlib-imagex", "split", wim, emptied() / "a.swm", str(part_mib)],
            ["sh", "-c", f"sync {folder}/*"],
        ),
        lambda: measure("mediamaker wim split", split_command(wim, emptied(), part_mib)),
    )
    remove(folder)
    return [Row(copy, size, copy), Row(theirs, size, copy), Row(ours, size, copy)]


def split_command(wim: Path, folder: Path, part_mib: int) -> list[str | Path]:
    size = f"{part_mib}MiB"
    return [MEDIAMAKER, "wim", "split", wim, folder / "a.swm", "--size", size, "--json"]


def reflink_rows(wim: Path, work: Path, rounds: int) -> list[Row]:
    """On XFS: ``cp --reflink`` is the baseline."""
    size = wim.stat().st_size
    part_mib = size // 3 // MIB + 10
    with mounted_xfs(work, size * 3 + (1 << 30)) as root:
        source = root / "usr.wim"
        subprocess.run(["cp", wim, source], check=True)

        def emptied() -> Path:
            for path in root.glob("*.swm"):
                path.unlink()
            return root

        copy, ours, inside = best(
            rounds,
            lambda: measure(
                "xfs: cp --reflink, fsync",
                ["cp", "--reflink=always", source, emptied() / "c.swm"],
                ["sync", root / "c.swm"],
            ),
            lambda: measure(
                "xfs: mediamaker wim split", split_command(source, emptied(), part_mib)
            ),
            lambda: measure_inside(
                "xfs: of it the split itself, planned already",
                "split",
                work,
                source,
                emptied(),
                part_mib * MIB,
            ),
        )
    return [Row(copy, size, copy), Row(ours, size, copy), Row(inside, size, copy)]


@contextmanager
def mounted_xfs(work: Path, size: int) -> Iterator[Path]:
    image = work / "xfs.img"
    remove(image)
    with image.open("wb") as file:
        file.truncate(size)
    try:
        subprocess.run(["mkfs.xfs", "-q", "-m", "reflink=1", image], check=True)
        with tempfile.TemporaryDirectory(prefix="mediamaker-bench-") as root:
            subprocess.run(["mount", "-o", "loop", image, root], check=True)
            try:
                yield Path(root)
            finally:
                subprocess.run(["umount", root], check=True)
    finally:
        remove(image)


def ask_inside(what: str, *words: object) -> str:
    """What wim_inside.py prints; this process stays small, for a child's peak begins with it."""
    command = [sys.executable, INSIDE, what, *map(str, words)]
    return subprocess.run(command, check=True, capture_output=True, text=True).stdout.strip()


def measure_inside(name: str, what: str, work: Path, *words: object) -> Timed:
    """wim_inside.py in a process of its own, which times ``what`` itself."""
    answer = work / "seconds.txt"
    result = measure(name, [sys.executable, INSIDE, what, *map(str, words), answer])
    seconds = float(answer.read_text())
    remove(answer)
    return replace(result, seconds=seconds)


def plan_rows(work: Path) -> list[Row]:
    """The time of a plan alone; its baseline is itself, for nobody else has it apart."""
    path = work / "synthetic.wim"
    ask_inside("synthetic", path, BLOB_COUNT)
    size = path.stat().st_size
    row = measure_inside(f"plan of {BLOB_COUNT} blobs, best of 5", "plan", work, path)
    remove(path)
    return [Row(row, size, row)]


def export_rows(wim: Path, work: Path, rounds: int) -> list[Row]:
    """The first of two images; both copy its resources as they are."""
    out = work / "one.wim"

    def gone() -> Path:
        remove(out)
        return out

    theirs, ours = best(
        rounds,
        lambda: measure(
            "wimlib-imagex export 1, fsync",
            ["wimlib-imagex", "export", wim, "1", gone()],
            ["sync", out],
        ),
        lambda: measure(
            "mediamaker wim optimize --images 1",
            [MEDIAMAKER, "wim", "optimize", wim, gone(), "--images", "1", "--json"],
        ),
    )
    size = out.stat().st_size
    remove(out)
    return [Row(theirs, size, theirs), Row(ours, size, theirs)]


def show(rows: list[Row]) -> str:
    lines = [
        "| what | time | x first of its kind | cpu | read / payload | written / payload | peak |",
        "|---|---|---|---|---|---|---|",
    ]
    for row in rows:
        item = row.measure
        lines.append(
            f"| {item.name} | {item.seconds:.{1 if item.seconds >= 10 else 3}f} s "
            f"| {item.seconds / row.baseline.seconds:.2f} | {item.cpu_seconds:.1f} s "
            f"| {item.read_size / row.payload_size:.2f} "
            f"| {item.written_size / row.payload_size:.2f} | {item.peak_memory // MIB} MiB |"
        )
    return "\n".join(lines)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--work", type=Path, default=ROOT / "out" / "bench")
    parser.add_argument("--wim", type=Path, help="another WIM than the one made here")
    parser.add_argument("--rounds", type=int, default=ROUNDS)
    args = parser.parse_args()
    work: Path = args.work
    work.mkdir(parents=True, exist_ok=True)
    wim = args.wim or make_wim(work)
    print(f"machine: {machine()}")
    print(f"WIM: {ask_inside('describe', wim)}")
    print(flush=True)
    rows = [
        *plan_rows(work),
        *verify_rows(wim, args.rounds),
        *split_rows(wim, work, args.rounds),
        *reflink_rows(wim, work, args.rounds),
        *export_rows(wim, work, args.rounds),
    ]
    print(show(rows))
    print()
    by_name = {row.measure.name: row.measure.seconds for row in rows}
    ratio = by_name["wimlib-imagex verify"] / by_name["mediamaker wim verify"]
    print(f"wimlib-imagex verify takes {ratio:.2f} x mediamaker wim verify")


if __name__ == "__main__":
    main()
