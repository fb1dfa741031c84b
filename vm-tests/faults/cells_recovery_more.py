# SPDX-License-Identifier: GPL-3.0-or-later
"""``recovery add``: no room for the undo file, two runs at once."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import nullcontext
from dataclasses import replace
from pathlib import Path

from faults.cells_install_more import ways_to_alter
from faults.kill import Killed, count_calls, run_disturbed, run_meddled
from faults.matrix import BAD, Rig, Trial, Verdict, cell
from faults.outcomes import judge_refusal, last_line, run_plain, small_folder
from faults.recovery_rig import find_troubles, make_recovery_rig
from faults.windows_rig import copy_sparse, is_same, loop_device, mediamaker, run
from mediamaker.units import KIB


@cell("recovery add", "no space for the undo file", points=12, short=1)
def no_space(rig: Rig) -> Iterator[Trial]:
    """Nothing is changed then, and no part of an undo file stays."""
    recovery = make_recovery_rig(rig.work_dir)
    disk = rig.work_dir / "disk-gpt.img"
    for _ in range(rig.count):
        copy_sparse(recovery.before, disk)
        size = rig.rng.choice((4, 8, 16, 64, 200)) * KIB
        with small_folder(rig.work_dir / "small", size) as folder:
            ran = run_plain(recovery.add_words(disk, folder / "undo"))
            left = [path.name for path in folder.iterdir()]
        verdict, said = Verdict.AS_BEFORE, last_line(ran.output)
        if not is_same(disk, recovery.before):
            verdict, said = Verdict.LOST, "the disk is changed"
        elif ran.exit_code == 0:
            verdict = Verdict.FALSE_DONE
        elif trouble := judge_refusal(ran, (4, 6), ("no space", "room")):
            verdict, said = Verdict.WRONG_WORDS, trouble
        elif left:
            verdict, said = Verdict.WRONG_WORDS, f"left behind: {left}"
        yield Trial(verdict, f"{size} bytes free", said)


@cell("recovery add", "source altered meanwhile", points=15, short=0)
def source_altered(rig: Rig) -> Iterator[Trial]:
    """The Winre.wim that was named: a bit flipped, cut short, or replaced."""
    recovery = make_recovery_rig(rig.work_dir)
    kept = rig.work_dir / "kept.wim"
    run("cp", recovery.winre, kept)
    disk, undo = rig.work_dir / "disk-gpt.img", rig.work_dir / "undo"
    copy_sparse(recovery.before, disk)
    calls = count_calls(recovery.add_words(disk, undo), rig.work_dir)
    for index in range(rig.count):
        copy_sparse(recovery.before, disk)
        undo.unlink(missing_ok=True)
        number = rig.rng.randrange(1, len(calls) + 1)
        what, meddle = ways_to_alter(rig, recovery.winre)[index % 3]
        ran = run_disturbed(recovery.add_words(disk, undo), number, rig.work_dir, meddle)
        run("cp", kept, recovery.winre)
        # Not by the bytes: the file on the disk has the times of the source, which has new ones.
        is_done = ran.exit_code == 0
        troubles = list(find_troubles(replace(recovery, expected=disk))) if is_done else []
        verdict, said = recovery.judge(disk, undo, is_done=False)
        if troubles:
            verdict, said = Verdict.FALSE_DONE, "; ".join(troubles)
        elif is_done and verdict is Verdict.PUT_BACK:
            verdict, said = Verdict.COMPLETE, f"all is there, by foreign tools; {said}"
        elif ran.exit_code and (trouble := judge_refusal(ran, (3, 4), (recovery.winre.name,))):
            verdict, said = Verdict.WRONG_WORDS, trouble
        yield Trial(verdict, f"{what} at call {number}", f"{said}; {last_line(ran.output)}")


@cell("recovery add", "two runs at once", points=12, short=0)
def two_runs(rig: Rig) -> Iterator[Trial]:
    """A second ``recovery add``, or an ``undo``, while the first run is stopped: refused.

    The first one then goes on to its end.
    """
    recovery = make_recovery_rig(rig.work_dir)
    disk, undo = rig.work_dir / "disk-gpt.img", rig.work_dir / "undo"
    for index in range(rig.count):
        copy_sparse(recovery.before, disk)
        undo.unlink(missing_ok=True)
        is_device, is_undo = index % 2 == 1, index // 2 % 2 == 1
        others: list[Killed] = []
        with loop_device(disk) if is_device else nullcontext(disk) as target:
            words = recovery.add_words(target, undo, *_confirm(target, is_device))
            calls = count_calls(words, rig.work_dir, target=target)
        copy_sparse(recovery.before, disk)
        undo.unlink()
        number = rig.rng.randrange(calls.find("W") + 1, len(calls) + 1)
        with loop_device(disk) if is_device else nullcontext(disk) as target:
            other = rig.work_dir / "other"
            words = recovery.add_words(target, undo, *_confirm(target, is_device))
            second = recovery.add_words(target, other, *_confirm(target, is_device))
            if is_undo:
                second = mediamaker("undo", undo, target, "--json", *_confirm(target, is_device))
            ran = run_meddled(
                words,
                number,
                rig.work_dir,
                lambda s=second, o=others: o.append(run_plain(s)),
                target=target,
            )
        verdict, said = recovery.judge(disk, undo, is_done=ran.exit_code == 0)
        trouble = judge_refusal(others[0], (4,), ("in use", "locked", "busy", "another program"))
        if verdict not in BAD and (trouble or ran.exit_code or other.exists()):
            verdict, said = Verdict.WRONG_WORDS, f"{ran.output[-200:]}; the second: {trouble}"
        elif verdict is Verdict.COMPLETE:
            verdict = Verdict.REFUSED
        what = f"{'device' if is_device else 'image file'}, {'undo' if is_undo else 'add'}"
        yield Trial(verdict, f"{what}, call {number}", f"{said}; {last_line(others[0].output)}")


def _confirm(target: Path, is_device: bool) -> tuple[str, ...]:
    return ("--confirm", target.name) if is_device else ()
