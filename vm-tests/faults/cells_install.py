# SPDX-License-Identifier: GPL-3.0-or-later
"""``install`` killed with SIGKILL: onto a disk with an older Windows, and onto an image file."""

from __future__ import annotations

import subprocess
from collections.abc import Iterator
from pathlib import Path

from faults.kill import Killed, Point, count_calls, draw_points, kill_at, run_killed
from faults.matrix import Rig, Trial, Verdict, cell
from faults.windows_rig import (
    WindowsRig,
    copy_sparse,
    differences,
    ext4_folder,
    find_strays,
    is_same,
    loop_device,
    make_windows_rig,
    mediamaker,
)
from mediamaker.units import GIB

_AGAIN_EVERY = 8


@cell("install", "kill -9", points=120, short=3)
def kill_install(rig: Rig) -> Iterator[Trial]:
    """A device: it looks blank, is as before, or is complete; the next run makes it complete."""
    windows = make_windows_rig(rig.work_dir, has_recovery=True)
    disk, scratch = rig.work_dir / "disk.img", rig.work_dir / "scratch"
    scratch.mkdir()
    copy_sparse(windows.used, disk)
    with loop_device(disk) as device:
        calls = count_calls(windows.install_words(device, "--scratch", scratch), rig.work_dir)

    def kill(point: Point) -> Killed:
        copy_sparse(windows.used, disk)
        with loop_device(disk) as device:
            words = windows.install_words(device, "--scratch", scratch)
            return run_killed(words, point, rig.work_dir)

    points = draw_points(rig.rng, calls, rig.count)
    for number in range(len(points)):
        point, killed = kill_at(rig.rng, calls, points, number, kill)
        verdict, said = windows.judge(disk)
        verdict, said = _weigh_words(verdict, said, killed)
        if strays := find_strays(rig.work_dir):
            verdict, said = Verdict.WRONG_WORDS, f"left behind: {'; '.join(strays)}"
        if number % _AGAIN_EVERY == 1 and verdict is not Verdict.COMPLETE:
            verdict, said = _install_again(windows, disk, scratch, verdict, said)
        yield Trial(verdict, point.name, said)


def _weigh_words(verdict: Verdict, said: str, killed: Killed) -> tuple[Verdict, str]:
    """Worse, if it had called itself done; or if it lived on, since a tool was killed, and lied."""
    last = killed.output.splitlines()[-1] if killed.output else ""
    if verdict is not Verdict.COMPLETE and (killed.has_said("install") or killed.exit_code == 0):
        return Verdict.FALSE_DONE, f"exit {killed.exit_code}: {last[:200]}; {said}"
    if killed.was_killed:
        return verdict, said
    if killed.exit_code != 0 and verdict is Verdict.COMPLETE:
        return Verdict.WRONG_WORDS, f"exit {killed.exit_code} though all is done: {last[:200]}"
    return verdict, f"exit {killed.exit_code}"


def _install_again(
    windows: WindowsRig, disk: Path, scratch: Path, verdict: Verdict, said: str
) -> tuple[Verdict, str]:
    with loop_device(disk) as device:
        words = windows.install_words(device, "--scratch", scratch)
        done = subprocess.run(words, capture_output=True, text=True, check=False)
    left = [path.name for path in scratch.iterdir()]
    if done.returncode or left:
        return Verdict.LOST, f"the next run: exit {done.returncode}, left {left}: {done.stdout}"
    again, what = windows.judge(disk)
    if again is not Verdict.COMPLETE:
        return again, f"after the next run: {what}"
    return verdict, f"{said}; the next run completes it"


@cell("install", "kill -9, image file", points=40, short=0)
def kill_install_file(rig: Rig) -> Iterator[Trial]:
    """On ext4: the name is not there until the file is complete, and the next run leaves no rest.

    What was there under that name (``--force``) stays until then.
    """
    windows = make_windows_rig(rig.work_dir)
    old = rig.work_dir / "old.img"
    with old.open("wb") as file:
        file.truncate(windows.size)
    with ext4_folder(rig.work_dir, size=2 * GIB) as folder:
        disk = folder / "disk.img"
        options = (*windows.options, "--size", windows.size, "--force")
        words = mediamaker("install", f"{windows.wim}:1", disk, *options)
        calls = count_calls(words, rig.work_dir)
        expected = copy_sparse(disk, rig.work_dir / "expected-file.img")
        disk.unlink()
        count_calls(words, rig.work_dir)
        allowed = frozenset(differences(disk, expected)) | windows.clock_words

        def kill(point: Point) -> Killed:
            disk.unlink(missing_ok=True)
            if has_old:
                copy_sparse(old, disk)
            return run_killed(words, point, rig.work_dir)

        points = draw_points(rig.rng, calls, rig.count)
        for number in range(len(points)):
            has_old = number % 2 == 1
            point, killed = kill_at(rig.rng, calls, points, number, kill)
            verdict, said = _judge_file(disk, old if has_old else None, expected, allowed)
            verdict, said = _weigh_words(verdict, said, killed)
            # Two calls apart from its name, a file that replaces another has an odd one.
            has_partial = any(
                ".mediamaker-" in p.name or " (deleted)" in p.name for p in folder.iterdir()
            )
            if number % _AGAIN_EVERY == 1 or has_partial:
                done = subprocess.run(words, capture_output=True, text=True, check=False)
                left = sorted(p.name for p in folder.iterdir() if p.name != "lost+found")
                is_complete = is_same(disk, expected, allowed)
                if done.returncode or left != ["disk.img"] or not is_complete:
                    verdict = Verdict.LOST
                    said = f"the next run: exit {done.returncode}, {left}: {done.stdout[-300:]}"
                else:
                    said += "; the next run completes it and takes away what was left"
            yield Trial(verdict, point.name, said)


def _judge_file(
    disk: Path, old: Path | None, expected: Path, allowed: frozenset[int]
) -> tuple[Verdict, str]:
    # What is hidden and says whose it is goes with the next run, which is looked at.
    names = [
        path.name
        for path in disk.parent.iterdir()
        if path.name not in {disk.name, "lost+found"}
        and not path.name.startswith((".mediamaker-scratch-", f".{disk.name}.mediamaker-"))
        and not path.name.endswith(" (deleted)")
    ]
    if names:
        return Verdict.HALF_VALID, f"left behind: {names}"
    if not disk.exists():
        if old is not None:
            return Verdict.LOST, "the file that was there is gone"
        return Verdict.BLANK, "no file of that name"
    if old is not None and is_same(disk, old):
        return Verdict.AS_BEFORE, "the file that was there"
    if not is_same(disk, expected, allowed):
        return Verdict.HALF_VALID, "the file is there, and is neither the old one nor the new one"
    return Verdict.COMPLETE, "every byte is as in a run to the end"
