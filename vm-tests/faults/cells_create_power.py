# SPDX-License-Identifier: GPL-3.0-or-later
"""``create`` onto a stick that already holds another one, with the power cut."""

from __future__ import annotations

import json
import random
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path

from guest import Guest

from faults.commands import SHELL, guest, read_ran, run
from faults.disk import Faults, FaultyDisk
from faults.matrix import Rig, Trial, Verdict, cell
from faults.media_rig import MediaRig, make_media_rig
from faults.power_cut import Recording
from mediamaker.units import MIB
from mediamaker.vm.disk import Bus

_SERIAL = "CUT1"
_RUN = "said/create"


@cell("create", "power cut", points=120, short=8)
def cut_create(rig: Rig) -> Iterator[Trial]:
    """One run in a guest onto a USB stick, recorded; then every state that a cut can leave."""
    size = 24 * MIB if rig.is_short else None
    yield from _cut(rig, make_media_rig(rig.work_dir / "rig", filler_size=size))


@cell("create", "power cut, GPT", points=100, short=0)
def cut_create_gpt(rig: Rig) -> Iterator[Trial]:
    """The same with tables at both ends."""
    options = ("--layout", "gpt-fat32")
    yield from _cut(rig, make_media_rig(rig.work_dir / "rig", options=options))


@cell("create", "power cut, 4096-byte sectors", points=100, short=0)
def cut_create_4kn(rig: Rig) -> Iterator[Trial]:
    """The same on a disk whose sectors are 4096 bytes."""
    media = make_media_rig(
        rig.work_dir / "rig",
        disk_size=600 * MIB,
        sector_size=4096,
        options=("--layout", "gpt-fat32"),
    )
    yield from _cut(rig, media)


def _cut(rig: Rig, media: MediaRig) -> Iterator[Trial]:
    said = rig.out_dir / "guest" / "said"
    recording, before = _record(rig, media, said)
    claim = recording.claimed_at(said / "create.json", "create")
    with recording.states(rig.rng, rig.count, claims=[claim]) as cuts:
        for cut in cuts:
            verdict, words = cut.weigh(claim, *media.judge(before))
            yield Trial(verdict, cut.describe(len(recording.requests)), words)
    (rig.out_dir / "disk" / "writes.log").unlink()


def _record(rig: Rig, media: MediaRig, watched: Path) -> tuple[Recording, Path]:
    stick, before = media.copy_used(rig.work_dir / "stick.img"), rig.work_dir / "before.img"
    subprocess.run(["cp", "--sparse=always", stick, before], check=True)
    folder = rig.out_dir / "guest"
    faults = Faults(is_logging=True, watched_folder=str(watched))
    with FaultyDisk(stick, faults, folder=rig.out_dir / "disk") as disk:
        guest(_script(media, folder), [_attach(disk, media)], folder)
    ran = read_ran(folder, _RUN)
    verdict, seen = media.judge(stick)
    if ran.exit_code or verdict is not Verdict.COMPLETE:
        said = f"{ran.words}{ran.errors}"
        raise RuntimeError(f"without a cut: {verdict}, {seen}: exit {ran.exit_code}: {said}")
    stick.unlink()
    return Recording(disk.log, before, sector_size=media.sector_size), before


def _script(media: MediaRig, folder: Path, *more: str) -> str:
    words = media.create_line("/dev/sda", "--confirm", _SERIAL, *more)
    return f"export XDG_STATE_HOME={folder.resolve()}/state\nmkdir said\nmm {_RUN} {words}\n"


def _attach(disk: FaultyDisk, media: MediaRig):
    return disk.attach(Bus.USB, serial=_SERIAL, logical_sector_size=media.sector_size)


@cell("create", "power cut, then --resume", points=3, short=0)
def cut_then_resume(rig: Rig) -> Iterator[Trial]:
    """Disk and journal as a cut leaves them, in another guest: gone on with."""
    media = make_media_rig(rig.work_dir / "rig", filler_size=110 * MIB, disk_size=192 * MIB)
    journals = rig.out_dir / "guest/state/mediamaker/journals"
    recording, before = _record(rig, media, journals)
    claims = [n for n in range(len(recording.requests)) if _claim(recording.files_at(n)) > 0]
    moments = sorted(rig.rng.sample(claims, max(1, rig.count - 1)))
    if rig.count > 1:  # once before anything is claimed, though a journal is there
        moments.insert(0, next(n for n in range(claims[0]) if recording.files_at(n)))
    for number, cut in enumerate(recording.states_at(moments, rig.rng)):
        stick, folder = rig.work_dir / "cut.img", rig.out_dir / f"resume-{number}"
        subprocess.run(["cp", "--sparse=always", before, stick], check=True)
        journals = folder / "state/mediamaker/journals"
        journals.mkdir(parents=True)
        for name, text in cut.files.items():
            (journals / name).write_text(text)
        left, seen = media.judge(stick)
        point = (
            f"request {cut.done_count} of {len(recording.requests)}, claimed {_claim(cut.files)}"
        )
        with FaultyDisk(stick, folder=folder / "disk") as disk:
            guest(_script(media, folder, "--resume"), [_attach(disk, media)], folder)
        ran = read_ran(folder, _RUN)
        if left is not Verdict.BLANK:
            yield Trial(left, point, seen)
            continue
        trial = media.weigh(stick, ran, point, code=0)
        if trial.verdict is Verdict.COMPLETE:
            at = ran.event("create")["resumed_at"]
            trial = Trial(Verdict.RESUMED, point, f"went on at {at} bytes")
        yield trial
    (rig.out_dir / "disk" / "writes.log").unlink()


def _claim(files: dict[str, str]) -> int:
    """What the journal among ``files`` claims."""
    ends = [json.loads(line[17:]).get("end", 0) for text in files.values()
            for line in text.splitlines()]  # fmt: skip
    return ends[-1] if ends else 0


@cell("create", "power cut, machines really stopped", points=3, short=0)
def stop_machines(rig: Rig) -> Iterator[Trial]:
    """QEMU and the disk end without notice; the disk keeps what it was given."""
    media = make_media_rig(rig.work_dir / "rig")
    sizes = _stop_sizes(rig.rng, rig.count, media.written_size)
    for number, size in enumerate(sizes):
        stick, folder = media.copy_used(rig.work_dir / "stick.img"), rig.out_dir / f"guest-{number}"
        with FaultyDisk(stick, Faults(pauses_at_size=size), folder=folder / "disk") as disk:
            script = SHELL + _script(media, folder)
            with Guest(
                script, disks=[_attach(disk, media)], work_dir=folder, memory_size=1024 * MIB
            ) as machine:
                deadline = time.monotonic() + 600
                while not disk.told().has_paused:
                    machine.machine.poll()
                    if machine.machine.is_off or time.monotonic() > deadline:
                        raise RuntimeError(f"it never came to {size} bytes")
                    time.sleep(0.02)
        run("sync", stick)
        verdict, words = media.judge(stick)
        yield Trial(verdict, f"{size} bytes written", words)


def _stop_sizes(rng: random.Random, count: int, written_size: int) -> list[int]:
    """From the first byte to just before the last, sector 0."""
    return sorted([1, written_size, *(rng.randrange(1, written_size) for _ in range(count - 2))])
