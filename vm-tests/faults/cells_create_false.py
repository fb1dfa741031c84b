# SPDX-License-Identifier: GPL-3.0-or-later
"""``create`` onto sticks that lie: about their size, about what they keep, about their bytes."""

from __future__ import annotations

import re
import shutil
from collections.abc import Iterator

from faults.cells_create_io import run_onto
from faults.commands import in_groups, read_ran, run, run_json
from faults.disk import Faults, FaultyDisk
from faults.matrix import Rig, Trial, Verdict, cell
from faults.media_rig import is_blank, loop_device, make_media_rig, weigh
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


@cell("create", "fake capacity", points=10, short=3)
def fake_capacity(rig: Rig) -> Iterator[Trial]:
    """Found before anything is streamed, called by its name, with the true size."""
    media = make_media_rig(rig.work_dir / "rig")
    claimed = media.used.stat().st_size
    cases = list(enumerate(_FAKE[: rig.count]))
    for few in in_groups(cases, 5):
        folder = rig.out_dir / f"guest-{few[0][0]}"
        disks = []
        for number, (share, beyond, cache_size) in few:
            stick = media.copy_used(rig.work_dir / f"stick{number}.img")
            run("truncate", "--size", int(claimed * share) // 512 * 512, stick)
            faults = Faults(claimed_size=claimed, beyond=beyond, cache_size=cache_size)
            disks.append(FaultyDisk(stick, faults, folder=folder / f"disk{number}"))
        run_onto(media, disks, folder)
        for at, (disk, (_, (share, beyond, _))) in enumerate(zip(disks, few, strict=True)):
            real_size = disk.image.stat().st_size
            ran = read_ran(folder, f"create{at}")
            verdict = Verdict.BLANK if is_blank(disk.image, disk.image) else Verdict.HALF_VALID
            words = ("fake capacity", f"({claimed} bytes)", f"({real_size} bytes", "left blank")
            point = f"{share:.3f} of what it claims, then {beyond}"
            trial = weigh(verdict, "", ran, point, code=6, words=words)
            if any(event.get("phase") == "write" for event in ran.events):
                trial = Trial(Verdict.WRONG_WORDS, point, "found when it was streaming already")
            yield trial


@cell("create", "a flush that lies, then the power cut", points=6, short=1)
def lying_flush(rig: Rig) -> Iterator[Trial]:
    """What create reads back comes from the disk's cache: it can't know. ``verify`` later does."""
    media = make_media_rig(rig.work_dir / "rig")
    sizes = [rig.rng.randrange(8 * MIB, media.written_size) for _ in range(rig.count)]
    for start, few in enumerate(in_groups(sizes, 3)):
        folder = rig.out_dir / f"guest-{start}"
        disks = [
            FaultyDisk(
                media.copy_used(rig.work_dir / f"stick{n}.img"),
                Faults(lies_from_size=size),
                folder=folder / f"disk{n}",
            )
            for n, size in enumerate(few)
        ]
        run_onto(media, disks, folder)
        for number, (disk, size) in enumerate(zip(disks, few, strict=True)):
            point = f"nothing kept after {size} bytes"
            ran = read_ran(folder, f"create{number}")
            if ran.exit_code:
                yield Trial(Verdict.WRONG_WORDS, point, ran.words)
                continue
            verdict, seen = media.judge(disk.image)
            if verdict is Verdict.COMPLETE:
                yield Trial(Verdict.WRONG_WORDS, point, "the disk did not lie")
                continue
            # Not called half valid: the plan was carried out, by all that could be seen.
            again = run_json("verify", disk.image, media.source, *media.options)
            is_found = again.exit_code == 5 and not again.errors
            yield Trial(
                Verdict.NAMED if is_found else Verdict.FALSE_DONE,
                point,
                f"{again.message or again.words} [{seen}]",
            )


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
