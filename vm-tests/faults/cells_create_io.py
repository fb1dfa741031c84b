# SPDX-License-Identifier: GPL-3.0-or-later
"""``create`` onto USB sticks that answer EIO: where, how often, and what is said of it."""

from __future__ import annotations

import contextlib
import json
import random
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from faults.commands import Ran, guest, in_groups, read_ran
from faults.disk import Failing, Faults, FaultyDisk
from faults.matrix import Rig, Trial, Verdict, cell
from faults.media_rig import MediaRig, make_media_rig, weigh
from mediamaker.units import MIB
from mediamaker.vm.disk import Bus

_AT_ONCE = 5
"""Disks of one guest: each takes a controller of its own."""


@dataclass(frozen=True, slots=True)
class Bad:
    """A disk that fails, and what must be said: exit code, and each of ``words``."""

    point: str
    faults: Faults
    code: int
    words: tuple[str, ...]
    may_keep_table: bool = False
    is_reading: bool = False


def run_bad(rig: Rig, media: MediaRig, bad: Sequence[Bad]) -> Iterator[Trial]:
    """A run onto each disk, a guest for a few of them."""
    for start, few in enumerate(in_groups(bad, _AT_ONCE)):
        folder = rig.out_dir / f"guest-{start}"
        disks = [
            FaultyDisk(
                media.copy_used(rig.work_dir / f"stick{n}.img"),
                item.faults,
                folder=folder / f"disk{n}",
            )
            for n, item in enumerate(few)
        ]  # fmt: skip
        run_onto(media, disks, folder)
        for number, (disk, item) in enumerate(zip(disks, few, strict=True)):
            yield judge_bad(media, disk.image, read_ran(folder, f"create{number}"), item)


def run_onto(media: MediaRig, disks: Sequence[FaultyDisk], folder: Path, *more: str) -> None:
    """``create`` onto each of these sticks, in one guest; their serials are BAD0, BAD1, ..."""
    folder.mkdir(parents=True, exist_ok=True)
    runs = [
        {
            "name": f"create{number}",
            "serial": f"BAD{number}",
            "words": [*media.create_words("@", "--confirm", f"BAD{number}", *more), "--json"],
        }
        for number in range(len(disks))
    ]
    (folder / "runs.json").write_text(json.dumps(runs))
    runner = Path(__file__).with_name("guest_runs.py")
    script = f"export XDG_STATE_HOME={folder.resolve()}/state\npython3 {runner} runs.json\n"
    with contextlib.ExitStack() as running:
        for disk in disks:
            running.enter_context(disk)
        attached = [
            disk.attach(Bus.USB, serial=f"BAD{n}", logical_sector_size=media.sector_size)
            for n, disk in enumerate(disks)
        ]
        guest(script, attached, folder)


def judge_bad(media: MediaRig, image: Path, ran: Ran, item: Bad) -> Trial:
    """By the bytes and words; what a dead disk keeps can't be helped, but must be called so."""
    verdict, seen = media.judge(image)
    if item.may_keep_table and verdict in {Verdict.HALF_VALID, Verdict.AS_BEFORE}:
        # The old table, perhaps torn, which nothing could be done about any more.
        is_told = "could not be blanked" in ran.words and "may look valid" in ran.words
        if is_told and ran.exit_code == item.code and not ran.errors:
            return Trial(Verdict.NAMED, item.point, f"{ran.message} [{seen}]")
        return Trial(Verdict.HALF_VALID, item.point, f"{seen}; said: {ran.words}")
    if "could not be blanked" in ran.words and is_equal_ends(media, image):
        return Trial(Verdict.WRONG_WORDS, item.point, f"it is blank: {ran.words}")
    trial = weigh(verdict, seen, ran, item.point, code=item.code, words=item.words)
    if item.is_reading and trial.verdict is Verdict.COMPLETE:
        return Trial(Verdict.NAMED, item.point, ran.message)
    return trial


def is_equal_ends(media: MediaRig, image: Path) -> bool:
    """Whether both ends are zeros, as far as tables reach."""
    zeros = bytes(MIB)
    with image.open("rb") as file:
        head = file.read(MIB)
        file.seek(media.used.stat().st_size - MIB)
        return head == zeros == file.read(MIB)


def _written(media: MediaRig, rng: random.Random) -> int:
    """The start of a sector that the stream writes."""
    extents = [
        extent
        for extent in media.extents
        if extent["source"]["kind"] != "unwritten" and extent["size"] >= 4096
        and MIB <= extent["start"] < media.used.stat().st_size - 2 * MIB
    ]  # fmt: skip
    extent = rng.choice(extents)
    return (extent["start"] + rng.randrange(extent["size"])) // 512 * 512


def one_lba(media: MediaRig, rng: random.Random) -> Bad:
    """One sector that can't be written."""
    at = _written(media, rng)
    words = (f"at {at:#x} (sector {at // 512})", "Input/output error", "left blank")
    return Bad(f"LBA {at // 512}", Faults(failing=(Failing("write", at, at + 512),)), 6, words)


def a_range(media: MediaRig, rng: random.Random) -> Bad:
    """Many that can't; the first is named."""
    at, size = _written(media, rng), rng.choice((4096, 64 * 1024, MIB))
    faults = Faults(failing=(Failing("write", at, at + size),))
    words = (f"at {at:#x} (sector {at // 512})", "left blank")
    return Bad(f"{size} bytes from LBA {at // 512}", faults, 6, words)


def once(media: MediaRig, rng: random.Random) -> Bad:
    """A write that fails some times and then goes well: also the kernel's own tries fail."""
    at, left = _written(media, rng), rng.choice((1, 2, 6))
    faults = Faults(failing=(Failing("write", at, at + 512, left),))
    return Bad(f"LBA {at // 512}, {left} times", faults, 0, ())


def at_end(media: MediaRig, rng: random.Random) -> Bad:
    """A sector of the tables at the end."""
    end = media.used.stat().st_size
    at = end - 512 * rng.choice((1, 2, 33, 2048))
    faults = Faults(failing=(Failing("write", at, at + 512),))
    return Bad(f"LBA {at // 512}", faults, 6, (f"{at:#x}",), may_keep_table=True)


def reading_back(media: MediaRig, rng: random.Random) -> Bad:
    """A sector that can be written and not read."""
    at = _written(media, rng)
    words = ("reading back failed", "not verified")
    faults = Faults(failing=(Failing("read", at, at + 512),))
    return Bad(f"LBA {at // 512}", faults, 6, words, is_reading=True)


def dead(media: MediaRig, rng: random.Random) -> Bad:
    """From a byte on no write goes well, so that the disk can't even be blanked."""
    after = rng.choice((0, 4096, MIB + 4096, 2 * MIB, rng.randrange(media.written_size)))
    return Bad(f"after {after} bytes", Faults(dead_after_size=after), 6, (), may_keep_table=True)


_KINDS = {
    "EIO on one LBA": one_lba,
    "EIO on a range": a_range,
    "EIO a few times only": once,
    "EIO at the end of the disk": at_end,
    "EIO on reading back": reading_back,
    "dead from some byte on": dead,
}


def _register(fault: str) -> None:
    @cell("create", fault, points=8, short=0)
    def run_kind(rig: Rig) -> Iterator[Trial]:
        media = make_media_rig(rig.work_dir / "rig")
        bad = [_KINDS[fault](media, rig.rng) for _ in range(rig.count)]
        yield from run_bad(rig, media, bad)


for _fault in _KINDS:
    _register(_fault)
