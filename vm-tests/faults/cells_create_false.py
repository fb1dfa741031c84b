# SPDX-License-Identifier: GPL-3.0-or-later
"""``create`` onto sticks that lie: about their size, about what they keep, about their bytes."""

from __future__ import annotations

import re
import shutil
from collections.abc import Iterator
from pathlib import Path

from faults.cells_create_io import dead, judge_bad, once, run_onto
from faults.commands import Ran, in_groups, read_ran, run, run_json
from faults.disk import Faults, FaultyDisk
from faults.matrix import Rig, Trial, Verdict, cell
from faults.media_rig import MediaRig, is_blank, loop_device, make_media_rig, read_table, weigh
from mediamaker.units import MIB

_FAKE = (
    # (real size as a share of the claimed one, what lies beyond, cache)
    (1 / 2, "wraps", 0),
    (1 / 3, "zeros", MIB),
    (0.4711, "wraps", 0),
    (1 / 2, "ones", 0),
    (1 / 4, "wraps", MIB),
    (0.73, "zeros", 0),
    (0.9, "wraps", 0),
    (1 / 8, "ones", MIB),
    (0.99, "wraps", 0),
    (0.979, "zeros", MIB),
)

_LIE_SIZE = 4 * MIB


@cell("create", "fake capacity", points=10, short=0)
def fake_capacity(rig: Rig) -> Iterator[Trial]:
    """Found before anything is streamed, called by its name, with the true size."""
    media = make_media_rig(rig.work_dir / "rig")
    for few in in_groups(list(enumerate(_FAKE[: rig.count])), 5):
        folder = rig.out_dir / f"guest-{few[0][0]}"
        disks = [_fake_disk(media, rig, folder, f"disk{n}", case) for n, case in few]
        run_onto(media, disks, folder)
        for at, disk in enumerate(disks):
            yield _judge_fake(disk, read_ran(folder, f"create{at}"))


def _fake_disk(
    media: MediaRig, rig: Rig, folder: Path, name: str, case: tuple[float, str, int]
) -> FaultyDisk:
    share, beyond, cache_size = case
    claimed = media.used.stat().st_size
    stick = media.copy_used(rig.work_dir / f"{name}.img")
    run("truncate", "--size", int(claimed * share) // 512 * 512, stick)
    faults = Faults(claimed_size=claimed, beyond=beyond, cache_size=cache_size)
    return FaultyDisk(stick, faults, folder=folder / name)


def _judge_fake(disk: FaultyDisk, ran: Ran) -> Trial:
    real_size = disk.image.stat().st_size
    verdict = Verdict.BLANK if is_blank(disk.image, disk.image) else Verdict.HALF_VALID
    words = ("fake capacity", f"({disk.size} bytes)", f"({real_size} bytes", "left blank")
    point = f"{real_size / disk.size:.3f} of what it claims, then {disk.faults.beyond}"
    trial = weigh(verdict, "", ran, point, code=6, words=words)
    if any(event.get("phase") == "write" for event in ran.events):
        trial = Trial(Verdict.WRONG_WORDS, point, "found when it was streaming already")
    return trial


@cell("create", "a flush that lies, then the power cut", points=6, short=0)
def lying_flush(rig: Rig) -> Iterator[Trial]:
    """What create reads back comes from the disk's cache: it can't know. ``verify`` later does.

    Half of the disks keep again what comes later: their table is valid, and contents are lost.
    """
    media = make_media_rig(rig.work_dir / "rig")
    lies = [_lie(media, rig, is_for_a_while=number % 2 == 1) for number in range(rig.count)]
    for number, few in enumerate(in_groups(lies, 3)):
        folder = rig.out_dir / f"guest-{number}"
        disks = [_lying_disk(media, rig, folder, f"disk{n}", lie) for n, lie in enumerate(few)]
        run_onto(media, disks, folder)
        for at, disk in enumerate(disks):
            yield _judge_lying(media, disk, read_ran(folder, f"create{at}"))


def _lie(media: MediaRig, rig: Rig, *, is_for_a_while: bool) -> Faults:
    """From some byte on: to the end, or for a while, which ends ahead of the table."""
    if not is_for_a_while:
        return Faults(lies_from_size=rig.rng.randrange(8 * MIB, media.written_size))
    start = rig.rng.randrange(8 * MIB, media.written_size - 2 * _LIE_SIZE)
    return Faults(lies_from_size=start, lies_until_size=start + _LIE_SIZE)


def _lying_disk(media: MediaRig, rig: Rig, folder: Path, name: str, lie: Faults) -> FaultyDisk:
    return FaultyDisk(media.copy_used(rig.work_dir / f"{name}.img"), lie, folder=folder / name)


def _judge_lying(media: MediaRig, disk: FaultyDisk, ran: Ran) -> Trial:
    """What create left is not called half valid: by all that could be seen it was carried out."""
    start, end = disk.faults.lies_from_size, disk.faults.lies_until_size
    point = f"nothing kept after {start} bytes" + (f" until {end}" if end else "")
    if ran.exit_code or ran.errors:
        return Trial(Verdict.WRONG_WORDS, point, ran.words + ran.errors)
    verdict, seen = media.judge(disk.image)
    if verdict is Verdict.COMPLETE:
        return Trial(Verdict.WRONG_WORDS, point, "the disk did not lie")
    if end is not None and read_table(disk.image) != read_table(media.expected):
        raise RuntimeError(f"{point}: the table is not there: {seen}")
    again = run_json("verify", disk.image, media.source, *media.options)
    is_found = again.exit_code == 5 and not again.errors
    words = f"{again.message or again.words} [{seen}]"
    return Trial(Verdict.NAMED if is_found else Verdict.FALSE_DONE, point, words)


@cell("create", "sticks that fail or lie, one of each kind", points=4, short=4)
def one_of_each(rig: Rig) -> Iterator[Trial]:
    """A short form of the cells of EIO, of fake capacity and of lying flushes: one guest."""
    media = make_media_rig(rig.work_dir / "rig")
    folder = rig.out_dir / "guest"
    bad = [once(media, rig.rng), dead(media, rig.rng)]
    disks = [
        FaultyDisk(
            media.copy_used(rig.work_dir / f"bad{n}.img"), item.faults, folder=folder / f"bad{n}"
        )
        for n, item in enumerate(bad)
    ]
    disks.append(_fake_disk(media, rig, folder, "fake", rig.rng.choice(_FAKE)))
    disks.append(_lying_disk(media, rig, folder, "lying", _lie(media, rig, is_for_a_while=True)))
    run_onto(media, disks, folder)
    for number, item in enumerate(bad):
        yield judge_bad(media, disks[number].image, read_ran(folder, f"create{number}"), item)
    yield _judge_fake(disks[2], read_ran(folder, "create2"))
    yield _judge_lying(media, disks[3], read_ran(folder, "create3"))


@cell("verify", "one bit flipped on the medium", points=60, short=5)
def flipped_bit(rig: Rig) -> Iterator[Trial]:
    """In every kind of extent, of an image file and of a device; named to the byte."""
    media = make_media_rig(rig.work_dir / "rig", options=("--layout", "gpt-fat32"))
    image = rig.work_dir / "image"
    shutil.copyfile(media.expected, image)
    kinds = sorted({_kind(extent) for extent in media.extents} - {""})
    with loop_device(image) as device:
        for number in range(rig.count):
            kind = kinds[number % len(kinds)]
            extent = rig.rng.choice([e for e in media.extents if _kind(e) == kind])
            at = extent["start"] + rig.rng.randrange(extent["size"])
            bit = 1 << rig.rng.randrange(8)
            with image.open("r+b") as file:
                file.seek(at)
                value = file.read(1)[0]
                file.seek(at)
                file.write(bytes([value ^ bit]))
                file.flush()
                run("blockdev", "--flushbufs", device)
                target = (image, device)[number % 2]
                # What tells a disk's identities may be what was flipped.
                words = ("--seed", "fault", *media.options)
                ran = run_json("verify", target, media.source, *words)
                file.seek(at)
                file.write(bytes([value]))
                file.flush()
            point = f"{kind}: {extent['name']}, byte {at:#x}, {target.name}"
            is_named = f"at {at:#x}" in ran.message and f'"{extent["name"]}"' in ran.message
            is_right = ran.exit_code == 5 and is_named and not ran.errors
            yield Trial(
                Verdict.NAMED if is_right else Verdict.FALSE_DONE,
                point,
                ran.message or f"exit {ran.exit_code}: {ran.words}{ran.errors}",
            )


def _kind(extent: dict[str, object]) -> str:
    """Table, boot sector, FAT, directory, file, padding, zeros; empty where nothing is written."""
    kind, name = extent["source"]["kind"], extent["name"]
    if kind == "unwritten":
        return ""
    first = re.match(r"[A-Za-z]+", name)
    return f"{kind}, {first[0] if first else 'file'}"
