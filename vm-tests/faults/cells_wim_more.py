# SPDX-License-Identifier: GPL-3.0-or-later
"""``wim optimize``: no room, a source that changes meanwhile, two runs onto one output."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path

from faults.kill import Killed, count_calls, run_meddled
from faults.matrix import Rig, Trial, Verdict, cell
from faults.outcomes import judge_refusal, last_line, run_plain, small_folder
from faults.wim_rig import Way, WimRig, make_wim_rig
from faults.windows_rig import run
from mediamaker.units import KIB


@cell("wim optimize", "no space left", points=30, short=2)
def no_space(rig: Rig) -> Iterator[Trial]:
    """File systems from nothing to nearly enough: what was there stays, no rest is left."""
    wim = make_wim_rig(rig.work_dir)
    needed = [_measure(wim, way, rig.work_dir / "whole.wim") for way in wim.ways]
    for index in range(rig.count):
        way = wim.ways[index % len(wim.ways)]
        old_size = wim.old.stat().st_size if way.has_old else 0
        share = rig.rng.choice((0.0, 0.02, 0.3, 0.6, 0.9))
        size = old_size + max(8 * KIB, int(needed[index % len(wim.ways)] * share))
        with small_folder(rig.work_dir / "small", size) as folder:
            out = folder / "new.wim"
            wim.prepare(way, out)
            killed = run_plain(wim.words(way, out))
            verdict, said = wim.judge(way, out, is_done=killed.exit_code == 0)
            left = [path.name for path in folder.iterdir() if path != out]
        if killed.exit_code == 0 and verdict is Verdict.COMPLETE:
            raise RuntimeError(f"{way.name}: there was room enough in {size - old_size} bytes")
        trouble = None
        if killed.exit_code:
            trouble = judge_refusal(killed, (4, 6), ("no space", "room", "free"))
        if left:
            trouble = f"left behind: {left}"
        if trouble:
            verdict, said = Verdict.WRONG_WORDS, trouble
        yield Trial(verdict, f"{way.name}: {size - old_size} bytes free", said)


def _measure(wim: WimRig, way: Way, out: Path) -> int:
    """Bytes of what that way makes."""
    wim.prepare(way, out)
    run(*wim.words(way, out))
    size = out.stat().st_size
    out.unlink()
    return size


@cell("wim optimize", "source altered meanwhile", points=40, short=3)
def source_altered(rig: Rig) -> Iterator[Trial]:
    """A byte flipped, cut short, or replaced, while the run is stopped at one of its writes."""
    pristine = make_wim_rig(rig.work_dir)
    way_count = len(pristine.ways)
    out = rig.work_dir / "new.wim"
    kept = rig.work_dir / "kept.wim"
    run("cp", pristine.source, kept)
    counts: dict[int, int] = {}
    for index in range(rig.count):
        way = pristine.ways[index % way_count]
        if index % way_count not in counts:
            pristine.prepare(way, out)
            counts[index % way_count] = len(count_calls(pristine.words(way, out), rig.work_dir))
        pristine.prepare(way, out)
        number = rig.rng.randrange(1, counts[index % way_count] + 1)
        what, meddle = _meddle(rig, pristine, index)
        killed = run_meddled(pristine.words(way, out), number, rig.work_dir, meddle)
        run("cp", kept, pristine.source)
        yield _judge_altered(pristine, way, out, killed, f"{way.name}: {what} at call {number}")


def _meddle(rig: Rig, wim: WimRig, index: int) -> tuple[str, Callable[[], None]]:
    size = wim.source.stat().st_size
    at = rig.rng.randrange(300, size - 64 * KIB)

    def flip() -> None:
        with wim.source.open("r+b") as file:
            file.seek(at)
            byte = file.read(1)[0]
            file.seek(at)
            file.write(bytes([byte ^ 0x10]))

    def cut() -> None:
        with wim.source.open("r+b") as file:
            file.truncate(at)

    def swap() -> None:
        fresh = wim.source.with_name("fresh")
        run("cp", wim.old, fresh)
        fresh.replace(wim.source)

    return ((f"bit flipped at {at:#x}", flip), (f"cut at {at:#x}", cut), ("replaced", swap))[
        index % 3
    ]


def _judge_altered(wim: WimRig, way: Way, out: Path, killed: Killed, point: str) -> Trial:
    verdict, said = wim.judge(way, out, is_done=killed.exit_code == 0)
    if killed.exit_code == 0:
        return Trial(verdict, point, f"{said}; it had read all that it needed")
    trouble = judge_refusal(killed, (3, 4, 5), ("source.wim",))
    if trouble:
        return Trial(Verdict.WRONG_WORDS, point, trouble)
    return Trial(verdict, point, f"{said}; {last_line(killed.output)}")


@cell("wim optimize", "two runs at once", points=12, short=0)
def two_runs(rig: Rig) -> Iterator[Trial]:
    """A second run while the first is stopped: refused, and the first one's output is whole.

    One that comes before the first has begun with its output is the only one, and wins.
    """
    wim = make_wim_rig(rig.work_dir)
    folder = rig.work_dir / "out"
    folder.mkdir()
    out = folder / "new.wim"
    for index in range(rig.count):
        way = wim.ways[(0, 3)[index % 2]]
        wim.prepare(way, out)
        calls = count_calls(wim.words(way, out), rig.work_dir)
        wim.prepare(way, out)
        number = rig.rng.randrange(2, len(calls) - 2)
        seconds: list[Killed] = []
        killed = run_meddled(
            wim.words(way, out),
            number,
            rig.work_dir,
            lambda w=way, s=seconds: s.append(run_plain(wim.words(w, out))),
        )
        verdict, said = wim.judge(way, out, is_done=True)
        left = [path.name for path in folder.iterdir() if path != out]
        exits = (killed.exit_code, seconds[0].exit_code)
        said = f"{said}; {exits}: {last_line(seconds[0].output)}"
        allowed = [(0, 4), (0 if way.has_old else 4, 0)]
        trouble = exits[1] and judge_refusal(seconds[0], (4,), ("another run of mediamaker",))
        if left or trouble or exits not in allowed:
            verdict, said = Verdict.WRONG_WORDS, f"exits {exits}, left {left}: {killed.output}"
        elif exits[1] and verdict is Verdict.COMPLETE:
            verdict = Verdict.REFUSED
        yield Trial(verdict, f"{way.name}: the first stopped at call {number}", said)
