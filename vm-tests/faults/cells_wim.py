# SPDX-License-Identifier: GPL-3.0-or-later
"""``wim optimize`` killed with SIGKILL."""

from __future__ import annotations

import subprocess
from collections.abc import Iterator

from faults.kill import Killed, Point, count_calls, draw_points, kill_at, run_killed
from faults.matrix import Rig, Trial, Verdict, cell
from faults.wim_rig import Way, leftovers, make_wim_rig

_AGAIN_EVERY = 5


def _draw(rig: Rig, calls: str, count: int) -> list[Point]:
    """Without the first and the last call where there are few."""
    if count >= _AGAIN_EVERY:
        return draw_points(rig.rng, calls, count)
    return draw_points(rig.rng, calls, count + 2)[1:-1]


@cell("wim optimize", "kill -9", points=120, short=4)
def kill_optimize(rig: Rig) -> Iterator[Trial]:
    """Every way to call it in turn; what is left under other names goes with the next run."""
    wim = make_wim_rig(rig.work_dir)
    folder = rig.work_dir / "out"
    folder.mkdir()
    out = folder / "new.wim"
    for index, way in enumerate(wim.ways):
        count = len(range(index, rig.count, len(wim.ways)))
        if not count:
            continue
        wim.prepare(way, out)
        calls = count_calls(wim.words(way, out), rig.work_dir)
        assert wim.judge(way, out, is_done=True)[0] is Verdict.COMPLETE

        def kill(point: Point, way: Way = way) -> Killed:
            wim.prepare(way, out)
            return run_killed(wim.words(way, out), point, rig.work_dir)

        points = _draw(rig, calls, count)
        for number in range(len(points)):
            point, killed = kill_at(rig.rng, calls, points, number, kill)
            verdict, said = wim.judge(way, out, is_done=killed.has_said("wim-optimize"))
            if number % _AGAIN_EVERY == 0:
                wim.prepare(way, out)
                again = subprocess.run(
                    wim.words(way, out), capture_output=True, text=True, check=False
                )
                after, what = wim.judge(way, out, is_done=again.returncode == 0)
                left = [path.name for path in folder.iterdir() if path != out]
                if after is not Verdict.COMPLETE or left:
                    verdict, said = Verdict.LOST, f"the next run: {after}, {what}; left: {left}"
                else:
                    said += "; the next run takes away what was left"
            # A library's own partial file has a name made of ours.
            elif left := [n for n in leftovers(folder) if ".new.wim.mediamaker-" not in n]:
                verdict, said = Verdict.WRONG_WORDS, f"left behind under odd names: {left}"
            yield Trial(verdict, f"{way.name}: {point.name}", said)
