# SPDX-License-Identifier: GPL-3.0-or-later
"""``install``: no room, a source that changes meanwhile, two runs at once, 4Kn disks."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path

from faults.kill import Killed, Point, count_calls, draw_points, kill_at, run_killed, run_meddled
from faults.matrix import Rig, Trial, Verdict, cell
from faults.outcomes import judge_refusal, last_line, run_plain, small_folder
from faults.windows_rig import (
    WindowsRig,
    copy_sparse,
    differences,
    is_same,
    loop_device,
    make_windows_rig,
    mediamaker,
    run,
)
from mediamaker.units import MIB

_SCRATCH_SIZES = (0.05, 0.1, 0.25, 0.5)
"""MiB; the boot files and hives that are made there first take more."""
_FILE_SIZES = (0.1, 1, 4, 12, 25, 40)
_CLOCK_WORDS_MAX = 4000


@cell("install", "4Kn: kill -9", points=12, short=0)
def kill_install_4kn(rig: Rig) -> Iterator[Trial]:
    """Sectors of 4096 bytes."""
    windows = make_windows_rig(rig.work_dir, sector_size=4096, has_recovery=True)
    disk = copy_sparse(windows.used, rig.work_dir / "disk.img")
    with loop_device(disk, sector_size=4096) as device:
        calls = count_calls(windows.install_words(device), rig.work_dir)

    def run_to(point: Point) -> Killed:
        copy_sparse(windows.used, disk)
        with loop_device(disk, sector_size=4096) as device:
            return run_killed(windows.install_words(device), point, rig.work_dir)

    points = draw_points(rig.rng, calls, rig.count)
    for index in range(len(points)):
        point, killed = kill_at(rig.rng, calls, points, index, run_to)
        verdict, said = windows.judge(disk)
        if killed.has_said("install") and verdict is not Verdict.COMPLETE:
            verdict = Verdict.FALSE_DONE
        yield Trial(verdict, point.name, said)


@cell("install", "no space left", points=16, short=0)
def no_space(rig: Rig) -> Iterator[Trial]:
    """Of an image file's file system, or of the scratch folder while a device is written.

    All rooms are smaller than what a run takes: none may end well.
    """
    windows = make_windows_rig(rig.work_dir)
    disk = copy_sparse(windows.used, rig.work_dir / "disk.img")
    for index in range(rig.count):
        size = int(MIB * rig.rng.choice((_SCRATCH_SIZES, _FILE_SIZES)[index % 2]))
        with small_folder(rig.work_dir / "small", size) as folder:
            if index % 2:
                ran = run_plain(_file_words(windows, folder / "disk.img"))
                left = [path.name for path in folder.iterdir()]
                verdict, said = Verdict.BLANK, "no file of that name"
                if left:
                    verdict, said = Verdict.HALF_VALID, f"left behind: {left}"
            else:
                copy_sparse(windows.used, disk)
                with loop_device(disk) as device:
                    ran = run_plain(windows.install_words(device, "--scratch", folder))
                verdict, said = windows.judge(disk)
        what = ("scratch folder", "image file")[index % 2]
        trouble = judge_refusal(ran, (4, 6), ("no space", "room", "free"))
        if ran.exit_code == 0 and verdict is not Verdict.COMPLETE:
            verdict = Verdict.FALSE_DONE
        elif trouble and verdict is not Verdict.HALF_VALID:
            verdict, said = Verdict.WRONG_WORDS, trouble
        yield Trial(verdict, f"{what}: {size} bytes", f"{said}; {last_line(ran.output)}")


@cell("install", "source altered meanwhile", points=24, short=0)
def source_altered(rig: Rig) -> Iterator[Trial]:
    """A bit flipped, cut short, or replaced, while the run is stopped at one of its writes."""
    windows = make_windows_rig(rig.work_dir)
    kept = rig.work_dir / "kept.wim"
    run("cp", windows.wim, kept)
    disk = copy_sparse(windows.used, rig.work_dir / "disk.img")
    with loop_device(disk) as device:
        count = len(count_calls(windows.install_words(device), rig.work_dir))
    for index in range(rig.count):
        copy_sparse(windows.used, disk)
        number = rig.rng.randrange(1, count + 1)
        what, meddle = ways_to_alter(rig, windows.wim)[index % 3]
        with loop_device(disk) as device:
            words = windows.install_words(device)
            ran = run_meddled(words, number, rig.work_dir, meddle)
        run("cp", kept, windows.wim)
        verdict, said = windows.judge(disk)
        if ran.exit_code == 0:
            if verdict is not Verdict.COMPLETE:
                verdict = Verdict.FALSE_DONE
        elif trouble := judge_refusal(ran, (3, 5), (windows.wim.name,)):
            verdict, said = Verdict.WRONG_WORDS, trouble
        yield Trial(verdict, f"{what} at call {number}", f"{said}; {last_line(ran.output)}")


def ways_to_alter(rig: Rig, wim: Path) -> tuple[tuple[str, Callable[[], None]], ...]:
    """Three: what it is, and what does it."""
    at = rig.rng.randrange(300, wim.stat().st_size - 64 * 1024)

    def flip() -> None:
        with wim.open("r+b") as file:
            file.seek(at)
            byte = file.read(1)[0]
            file.seek(at)
            file.write(bytes([byte ^ 0x10]))

    def cut() -> None:
        with wim.open("r+b") as file:
            file.truncate(at)

    def swap() -> None:
        fresh = wim.with_name("fresh")
        fresh.write_bytes(b"something else")
        fresh.replace(wim)

    return ((f"bit flipped at {at:#x}", flip), (f"cut at {at:#x}", cut), ("replaced", swap))


@cell("install", "two runs at once", points=10, short=0)
def two_runs(rig: Rig) -> Iterator[Trial]:
    """A second run while the first is stopped: refused, and the first one completes.

    A file's is refused from when the first has begun with it; before that the second wins.
    """
    windows = make_windows_rig(rig.work_dir)
    disk = copy_sparse(windows.used, rig.work_dir / "disk.img")
    with loop_device(disk) as device:
        calls = count_calls(windows.install_words(device), rig.work_dir)
    whole, clock_words = _whole_file(rig, windows)
    for index in range(rig.count):
        if index % 2:
            yield _two_files(rig, windows, whole, clock_words)
            continue
        copy_sparse(windows.used, disk)
        number = rig.rng.randrange(calls.find("W") + 1, len(calls) + 1)
        others: list[Killed] = []
        with loop_device(disk) as device:
            words = windows.install_words(device)
            ran = run_meddled(
                words, number, rig.work_dir, lambda w=words, o=others: o.append(run_plain(w))
            )
        verdict, said = windows.judge(disk)
        trouble = judge_refusal(others[0], (4,), ("in use", "busy", "another program"))
        if ran.exit_code == 0 and verdict is not Verdict.COMPLETE:
            verdict, said = Verdict.FALSE_DONE, f"{verdict.value}: {said}"
        elif ran.exit_code or ran.errors or trouble:
            verdict, said = Verdict.WRONG_WORDS, f"{ran.output[-200:]}; the second: {trouble}"
        elif verdict is Verdict.COMPLETE:
            verdict = Verdict.REFUSED
        yield Trial(
            verdict, f"device, call {number}", f"{said}; the second: {last_line(others[0].output)}"
        )


def _file_words(windows: WindowsRig, disk: Path) -> list[str]:
    options = (*windows.options, "--size", windows.size)
    return mediamaker("install", f"{windows.wim}:1", disk, *options)


def _whole_file(rig: Rig, windows: WindowsRig) -> tuple[Path, frozenset[int]]:
    """An image file that a run to the end made, and the words that are times."""
    whole, again = (rig.work_dir / f"{name}.img" for name in ("whole", "again"))
    for disk in (whole, again):
        run(*_file_words(windows, disk))
    clock_words = differences(again, whole)
    again.unlink()
    if len(clock_words) > _CLOCK_WORDS_MAX:
        raise RuntimeError(f"two runs differ in {len(clock_words)} words: more than times do")
    return whole, frozenset(clock_words)


def _two_files(rig: Rig, windows: WindowsRig, whole: Path, clock_words: frozenset[int]) -> Trial:
    folder = rig.work_dir / "files"
    folder.mkdir(exist_ok=True)
    disk = folder / "disk.img"
    disk.unlink(missing_ok=True)
    words = _file_words(windows, disk)
    number = rig.rng.randrange(40, 1500)
    others: list[Killed] = []
    ran = run_meddled(words, number, rig.work_dir, lambda: others.append(run_plain(words)))
    other = others[0]
    left = [path.name for path in folder.iterdir() if path != disk]
    point, exits = f"image file, call {number}", f"exits {ran.exit_code} and {other.exit_code}"
    if left or {ran.exit_code, other.exit_code} != {0, 4}:
        return Trial(Verdict.WRONG_WORDS, point, f"{exits}; left {left}")
    if not is_same(disk, whole, clock_words):
        return Trial(Verdict.FALSE_DONE, point, f"{exits}; differs from a run to the end")
    if other.exit_code:
        trouble = judge_refusal(other, (4,), ("another run of mediamaker",))
        verdict, said = Verdict.REFUSED, f"the first's, whole; {exits}: {last_line(other.output)}"
    else:
        trouble = judge_refusal(ran, (4,), ("exists already",))
        verdict, said = Verdict.COMPLETE, f"the second's, whole; {exits}"
    return Trial(Verdict.WRONG_WORDS, point, trouble) if trouble else Trial(verdict, point, said)
