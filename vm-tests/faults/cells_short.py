# SPDX-License-Identifier: GPL-3.0-or-later
"""Writes that take fewer bytes than they were given, in all processes of a command.

Nobody may lose the rest: not we, nor ntfs-3g, libwim and the others that are run.
"""

from __future__ import annotations

from collections.abc import Iterator

from faults.kill import Killed
from faults.matrix import Rig, Trial, Verdict, cell
from faults.outcomes import last_line, run_plain, short_environment
from faults.recovery_rig import make_recovery_rig
from faults.wim_rig import make_wim_rig
from faults.windows_rig import copy_sparse, loop_device, make_windows_rig


@cell("install", "short writes", points=6, short=0)
def short_in_install(rig: Rig) -> Iterator[Trial]:
    """Onto a device."""
    windows = make_windows_rig(rig.work_dir)
    disk = rig.work_dir / "disk.img"
    for _ in range(rig.count):
        copy_sparse(windows.used, disk)
        seed = rig.rng.randrange(1 << 30)
        with loop_device(disk) as device:
            ran = run_plain([*_shortened(rig, seed), *windows.install_words(device)])
        yield _weigh(*windows.judge(disk), ran, rig, seed)


@cell("recovery add", "short writes", points=6, short=0)
def short_in_recovery(rig: Rig) -> Iterator[Trial]:
    """Onto an image file."""
    recovery = make_recovery_rig(rig.work_dir)
    disk, undo = rig.work_dir / "disk-gpt.img", rig.work_dir / "undo"
    for _ in range(rig.count):
        copy_sparse(recovery.before, disk)
        undo.unlink(missing_ok=True)
        seed = rig.rng.randrange(1 << 30)
        ran = run_plain([*_shortened(rig, seed), *recovery.add_words(disk, undo)])
        yield _weigh(*recovery.judge(disk, undo, is_done=ran.exit_code == 0), ran, rig, seed)


@cell("wim optimize", "short writes", points=12, short=2)
def short_in_wim(rig: Rig) -> Iterator[Trial]:
    """libwim's writes have no offset, and are shortened, too."""
    wims, out = make_wim_rig(rig.work_dir), rig.work_dir / "out.wim"
    # The last two make files that are written in pieces too small to be cut.
    ways = wims.ways[:4]
    for number in range(rig.count):
        way = ways[number % len(ways)]
        wims.prepare(way, out)
        seed = rig.rng.randrange(1 << 30)
        words = ["env", "MM_SHORT_ALL=1", *_shortened(rig, seed)[1:], *wims.words(way, out)]
        ran = run_plain(words)
        yield _weigh(*wims.judge(way, out, is_done=ran.exit_code == 0), ran, rig, seed)


def _shortened(rig: Rig, seed: int) -> list[str]:
    values = short_environment(rig.work_dir, seed)
    return ["env", *(f"{name}={value}" for name, value in values.items())]


def _weigh(verdict: Verdict, said: str, ran: Killed, rig: Rig, seed: int) -> Trial:
    """Short writes are no error: nothing but a whole run will do."""
    count = (rig.work_dir / "short.log").stat().st_size
    point = f"seed {seed}, {count} short writes"
    if count == 0:
        raise RuntimeError("no write was short")
    if ran.exit_code or ran.errors:
        said = f"{said}; exit {ran.exit_code}: {last_line(ran.output)} {ran.errors[-200:]}"
        return Trial(Verdict.WRONG_WORDS, point, said)
    if verdict is not Verdict.COMPLETE:
        return Trial(Verdict.FALSE_DONE, point, f"{verdict.value}: {said}")
    return Trial(verdict, point, said)
