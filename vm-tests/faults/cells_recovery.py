# SPDX-License-Identifier: GPL-3.0-or-later
"""``recovery add``, and ``undo`` after it, killed with SIGKILL: the way back is always there."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import AbstractContextManager, nullcontext
from pathlib import Path

from faults.kill import Killed, Point, count_calls, draw_points, kill_at, run_killed
from faults.matrix import Rig, Trial, Verdict, cell
from faults.recovery_rig import RecoveryRig, make_recovery_rig
from faults.windows_rig import copy_sparse, find_strays, is_same, loop_device, mediamaker, run


@cell("recovery add", "kill -9", points=120, short=3)
def kill_add(rig: Rig) -> Iterator[Trial]:
    """GPT, on a device."""
    yield from _kill_add(rig, "gpt", is_device=True)


@cell("recovery add", "kill -9, MBR, image file", points=24, short=0)
def kill_add_mbr(rig: Rig) -> Iterator[Trial]:
    """MBR, on an image file."""
    yield from _kill_add(rig, "mbr", is_device=False)


@cell("recovery add", "4Kn: kill -9", points=12, short=0)
def kill_add_4kn(rig: Rig) -> Iterator[Trial]:
    """Sectors of 4096 bytes, on a device."""
    yield from _kill_add(rig, "gpt-4kn", is_device=True)


def _kill_add(rig: Rig, kind: str, *, is_device: bool) -> Iterator[Trial]:
    recovery = make_recovery_rig(rig.work_dir, kind=kind)
    disk, undo = rig.work_dir / f"disk-{kind}.img", rig.work_dir / "undo"

    def fresh() -> None:
        undo.unlink(missing_ok=True)
        copy_sparse(recovery.before, disk)

    def opened() -> AbstractContextManager[Path]:
        if not is_device:
            return nullcontext(disk)
        return loop_device(disk, sector_size=recovery.sector_size)

    fresh()
    with opened() as target:
        words = _add_words(recovery, target, undo, is_device)
        calls = count_calls(words, rig.work_dir, target=target)
    assert recovery.judge(disk, undo, is_done=True)[0] is Verdict.COMPLETE

    def run_to(point: Point) -> Killed:
        fresh()
        with opened() as target:
            words = _add_words(recovery, target, undo, is_device)
            return run_killed(words, point, rig.work_dir, target=target)

    points = draw_points(rig.rng, calls, rig.count)
    for index in range(len(points)):
        point, killed = kill_at(rig.rng, calls, points, index, run_to)
        verdict, said = recovery.judge(disk, undo, is_done=killed.has_said("recovery-add"))
        strays = find_strays(rig.work_dir)
        left = sorted(path.name for path in rig.work_dir.iterdir() if "undo" in path.name)
        if strays or left not in ([], ["undo"]):
            verdict, said = Verdict.WRONG_WORDS, f"left behind: {'; '.join([*strays, *left])}"
            _remove(rig.work_dir, left)
        yield Trial(verdict, point.name, said)
    fresh()
    with opened() as target:
        run(*_add_words(recovery, target, undo, is_device))
    verdict, said = recovery.judge(disk, undo, is_done=True)
    if verdict is not Verdict.COMPLETE:
        raise RuntimeError(f"a run to the end after all those: {verdict}, {said}")
    # Files of a few bytes there are Python's own, by which it tries the folder.
    if left := [path.name for path in recovery.scratch.iterdir() if path.is_dir()]:
        raise RuntimeError(f"{len(left)} scratch folders are left after all those: {left[:3]}")


def _add_words(recovery: RecoveryRig, target: Path, undo: Path, is_device: bool) -> list[str]:
    return recovery.add_words(target, undo, *(("--confirm", target.name) if is_device else ()))


def _remove(folder: Path, names: list[str]) -> None:
    for name in names:
        (folder / name).unlink()


@cell("undo", "kill -9", points=40, short=2)
def kill_undo(rig: Rig) -> Iterator[Trial]:
    """A second undo does what the first could not end."""
    recovery = make_recovery_rig(rig.work_dir)
    changed, disk, undo = (rig.work_dir / name for name in ("changed.img", "disk.img", "undo"))
    copy_sparse(recovery.before, changed)
    run(*recovery.add_words(changed, undo))
    copy_sparse(changed, disk)
    words = mediamaker("undo", undo, disk, "--json")
    calls = count_calls(words, rig.work_dir)
    assert is_same(disk, recovery.before)

    def run_to(point: Point) -> Killed:
        copy_sparse(changed, disk)
        return run_killed(words, point, rig.work_dir)

    points = draw_points(rig.rng, calls, rig.count)
    for index in range(len(points)):
        point, killed = kill_at(rig.rng, calls, points, index, run_to)
        kept = is_same(disk, changed)
        is_false = killed.has_said("undo") and not is_same(disk, recovery.before)
        verdict, said = recovery.judge(disk, undo, is_done=False)
        if is_false:
            verdict, said = Verdict.FALSE_DONE, "undo called it done, and bytes differ from before"
        elif kept:
            said = "killed before the first change; the next undo gave back every byte"
        yield Trial(verdict, point.name, said)
