# SPDX-License-Identifier: GPL-3.0-or-later
"""``create`` ended by SIGKILL at any moment: a device, an image file; then gone on with, or undone.

strace counts calls to the target and delivers the signal; some are killed by the clock.
"""

from __future__ import annotations

import random
import re
import shutil
import signal
import subprocess
import time
from collections import Counter
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path

from faults.commands import mediamaker, run, run_json, state_environment
from faults.kill import has_said
from faults.matrix import Rig, Trial, Verdict, cell
from faults.media_rig import MediaRig, is_equal, loop_device, make_media_rig, read_table
from mediamaker.units import MIB

_HIDDEN_RE = r"\.stick\.img\.mediamaker-[0-9a-f]{8}\.partial"
_CALLS = "pwrite64,copy_file_range,fsync,fdatasync,ftruncate,linkat,rename,renameat,unlink"


class Killer:
    """Kills a command at its Nth call to ``path`` (None: to anything), or after a while."""

    def __init__(self, command: list[str], path: Path | None, state: Path, log: Path) -> None:
        self._command = command
        self._env = state_environment(state)
        where = [] if path is None else ["-P", path]
        self._strace = ["strace", "-f", "-qq", *map(str, where), "-e", f"trace={_CALLS}"]
        began = time.monotonic()
        done = self._run([*self._strace, "-o", str(log), *command])
        self._seconds = time.monotonic() - began
        if done.returncode:
            raise RuntimeError(f"without a kill it ended with {done.returncode}: {done.stdout}")
        counts = Counter(re.findall(r"^\d+ +(\w+)\(", log.read_text(), re.MULTILINE))
        self._counts = sorted(counts.items())
        self._left = {call: list(range(1, count + 1)) for call, count in self._counts}

    def kill(self, rng: random.Random, reset: Callable[[], object]) -> tuple[str, bool]:
        """Run it, each time from what ``reset`` makes, until it is killed.

        Says where that was, at no call twice, and whether it had called itself done.
        """
        while True:
            reset()
            calls = [(call, count) for call, count in self._counts if self._left[call]]
            if not calls or rng.random() < 0.25:
                seconds = rng.uniform(0.1, 1) * self._seconds
                point = f"after {seconds:.4f} s"
                done = self._kill_after(seconds)
            else:
                # Not by count alone: there are few of those that matter most.
                weights = [count**0.5 for _, count in calls]
                ((call, count),) = rng.choices(calls, weights)
                number = self._left[call].pop(rng.randrange(len(self._left[call])))
                point = f"at {call} {number} of {count}"
                inject = ["-e", f"inject={call}:signal=KILL:when={number}"]
                done = self._run([*self._strace, *inject, "-o", "/dev/null", *self._command])
            if done.returncode == -signal.SIGKILL:
                return point, has_said(done.stdout, "create")
            if done.returncode:
                raise RuntimeError(f"{point}: ended with {done.returncode} and not by SIGKILL")

    def _kill_after(self, seconds: float) -> subprocess.CompletedProcess[str]:
        with subprocess.Popen(
            self._command, env=self._env, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL,
            text=True,
        ) as process:  # fmt: skip
            try:
                said, _ = process.communicate(timeout=seconds)
            except subprocess.TimeoutExpired:
                process.kill()
                said, _ = process.communicate()
        return subprocess.CompletedProcess(self._command, process.returncode, said)

    def _run(self, words: list[str]) -> subprocess.CompletedProcess[str]:
        return subprocess.run(words, env=self._env, capture_output=True, text=True, check=False)


@cell("create", "kill -9, onto a device", points=120, short=5)
def kill_onto_device(rig: Rig) -> Iterator[Trial]:
    """A third is gone on with, a third undone."""
    # A journal claims after 32 MiB for the first time.
    sizes = (24 * MIB, 96 * MIB) if rig.is_short else (80 * MIB, 160 * MIB)
    media = make_media_rig(rig.work_dir / "rig", filler_size=sizes[0], disk_size=sizes[1])
    stick, state = media.copy_used(rig.work_dir / "stick.img"), rig.work_dir / "state"
    with loop_device(stick) as device:
        command = mediamaker(*media.create_words(device, "--confirm", device.name, "--json"))
        killer = Killer(command, device, state, rig.work_dir / "strace.log")

        def reset() -> None:
            shutil.rmtree(state, ignore_errors=True)
            run("dd", f"if={media.used}", f"of={stick}", "conv=notrunc", "bs=4M")
            run("blockdev", "--flushbufs", device)

        for number in range(rig.count):
            point, is_done = killer.kill(rig.rng, reset)
            run("blockdev", "--flushbufs", device)
            verdict, words = media.judge(stick)
            if is_done and verdict is not Verdict.COMPLETE:
                yield Trial(Verdict.FALSE_DONE, point, f"it had called itself done; {words}")
            elif verdict is Verdict.HALF_VALID or number % 3 == 0:
                yield Trial(verdict, point, words)
            elif number % 3 == 1:
                yield _go_on(media, device, stick, state, Trial(verdict, point, words))
            else:
                yield _undo(media, device, stick, state, Trial(verdict, point, words))


def _go_on(media: MediaRig, device: Path, stick: Path, state: Path, left: Trial) -> Trial:
    has_begun = any(path.stat().st_size for path in state.glob("mediamaker/journals/*"))
    words = media.create_words(device, "--confirm", device.name, "--resume")
    ran = run_json(*words, env=state_environment(state))
    if not has_begun:
        is_told = ran.exit_code == 2 and "nothing to go on with" in ran.words
        return left if is_told else Trial(Verdict.WRONG_WORDS, left.point, ran.words)
    verdict, seen = media.judge(stick)
    if ran.exit_code or verdict is not Verdict.COMPLETE:
        bad = Verdict.WRONG_WORDS if ran.exit_code else Verdict.FALSE_DONE
        return Trial(bad, left.point, f"{seen}; {ran.words}{ran.errors}")
    return Trial(Verdict.RESUMED, left.point, f"at {ran.event('create')['resumed_at']} bytes")


def _undo(media: MediaRig, device: Path, stick: Path, state: Path, left: Trial) -> Trial:
    files = list(state.glob("mediamaker/undo/*.undo"))
    ran = run_json("undo", device, "--confirm", device.name, env=state_environment(state))
    if not files:
        is_right = ran.exit_code == 2 and left.verdict is Verdict.AS_BEFORE
        return left if is_right else Trial(Verdict.LOST, left.point, ran.words)
    if ran.exit_code:
        return Trial(Verdict.WRONG_WORDS, left.point, ran.words + ran.errors)
    run("blockdev", "--flushbufs", device)
    if read_table(stick) != media.used_table:
        return Trial(Verdict.LOST, left.point, "the old table is not back")
    lost_size = 0
    for partition in ran.event("undo")["partitions"]:
        position, end = partition["start"], partition["start"] + partition["size"]
        for low, high in [*partition["lost"], [end, end]]:
            if not is_equal(stick, media.used, position, low - position):
                return Trial(Verdict.LOST, left.point, f"not called lost, and is: {position:#x}")
            position, lost_size = high, lost_size + high - low
    return Trial(Verdict.PUT_BACK, left.point, f"but for {lost_size} bytes that it names")


@cell("create", "kill -9, onto an image file", points=100, short=4)
def kill_onto_file(rig: Rig) -> Iterator[Trial]:
    """New, in place of an old one, and one that is to be gone on with."""
    sizes = (24 * MIB, 96 * MIB) if rig.is_short else (80 * MIB, 160 * MIB)
    media = make_media_rig(rig.work_dir / "rig", filler_size=sizes[0], disk_size=sizes[1])
    folder, state = rig.work_dir / "images", rig.work_dir / "state"
    image, fresh = folder / "stick.img", rig.work_dir / "fresh.img"
    size = ("--size", sizes[1])
    run(*mediamaker(*media.create_words(fresh, *size)))
    kinds = {"new": (), "replacing": ("--force",), "resumable": ("--resumable",)}
    killers: dict[str, Killer] = {}
    for number in range(rig.count):
        kind = list(kinds)[number % 3]
        if kind not in killers:
            _empty(folder, kind)
            command = mediamaker(*media.create_words(image, *size, *kinds[kind], "--json"))
            killers[kind] = Killer(command, None, state, rig.work_dir / "strace.log")
        where, is_done = killers[kind].kill(rig.rng, partial(_empty, folder, kind))
        is_there = image.exists() and is_equal(image, fresh)
        trial = _judge_images(media, folder, kind, fresh, size, f"{kind}, {where}")
        if is_done and not is_there:
            words = f"it had called itself done; {trial.verdict}: {trial.words}"
            trial = Trial(Verdict.FALSE_DONE, trial.point, words)
        yield trial


def _empty(folder: Path, kind: str) -> None:
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir()
    if kind == "replacing":
        (folder / "stick.img").write_bytes(b"old")


def _judge_images(
    media: MediaRig, folder: Path, kind: str, fresh: Path, size: tuple[object, ...], point: str
) -> Trial:
    image = folder / "stick.img"
    names = {path.name for path in folder.iterdir()}
    if image.exists() and image.read_bytes() != b"old":
        verdict = Verdict.COMPLETE if is_equal(image, fresh) else Verdict.HALF_VALID
        if "stick.img.mediamaker-partial" in names and image.samefile(
            folder / "stick.img.mediamaker-partial"
        ):
            # Killed while it had both names; the next run takes the old one away.
            run_json(*media.create_words(image, *size, "--resume"))
            left = {path.name for path in folder.iterdir()}
            return Trial(Verdict.HALF_VALID if left != {"stick.img"} else verdict, point, "")
        others = names - {"stick.img", "stick.img.mediamaker-journal"}
        return Trial(Verdict.HALF_VALID if others else verdict, point, f"left: {sorted(names)}")
    hidden = {name for name in names if re.fullmatch(_HIDDEN_RE, name)}
    if kind == "replacing" and hidden:
        # Killed ahead of the name that replaces the old file; the next run takes it away.
        ran = run_json(*media.create_words(image, *size, "--force"))
        is_right = ran.exit_code == 0 and {path.name for path in folder.iterdir()} == {"stick.img"}
        verdict = Verdict.AS_BEFORE if is_right else Verdict.LOST
        return Trial(verdict, point, f"{sorted(names)}; after the next run all is right")
    if kind != "resumable":
        is_right = names == ({"stick.img"} if kind == "replacing" else set())
        return Trial(Verdict.AS_BEFORE if is_right else Verdict.LOST, point, f"{sorted(names)}")
    if not names <= {"stick.img.mediamaker-partial", "stick.img.mediamaker-journal"}:
        return Trial(Verdict.LOST, point, f"{sorted(names)}")
    journal = folder / "stick.img.mediamaker-journal"
    has_begun = journal.exists() and journal.stat().st_size > 0
    # Before the journal says whose it is there is nothing to go on with; a new run replaces it.
    ran = run_json(*media.create_words(image, *size, "--resume" if has_begun else "--resumable"))
    is_right = ran.exit_code == 0 and is_equal(image, fresh) and len(list(folder.iterdir())) == 1
    if not is_right:
        return Trial(Verdict.WRONG_WORDS, point, ran.words + ran.errors)
    return Trial(Verdict.RESUMED if has_begun else Verdict.BLANK, point, f"left: {sorted(names)}")
