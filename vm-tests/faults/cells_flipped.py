# SPDX-License-Identifier: GPL-3.0-or-later
"""Disks that keep other bytes than they were given, and say nothing: bad cells, and a false size.

``install`` and ``recovery add`` read back what they wrote, and must find and name it; of a WIM
that went bad later ``wim verify`` must.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from faults.cells_windows_io import GROUP_SIZE, Bad, run_group
from faults.commands import in_groups
from faults.disk import Faults
from faults.kill import Killed
from faults.matrix import Rig, Trial, Verdict, cell
from faults.outcomes import judge_refusal, last_line, run_plain
from faults.recovery_rig import make_recovery_rig
from faults.wim_rig import make_wim_rig
from faults.windows_rig import (
    WindowsRig,
    copy_sparse,
    data_inside,
    make_windows_rig,
    mediamaker,
    partitions_of,
    run,
)
from mediamaker.units import MIB

_SAMPLE_SIZE = 4096
_VERIFY_FAILED = 5
_FAILED = 6


@dataclass(frozen=True, slots=True)
class _Place:
    """A byte, what it is in, and what must be said of it."""

    what: str
    at: int
    words: str


@cell("install", "one bit flipped on the medium", points=9, short=0)
def flipped_in_install(rig: Rig) -> Iterator[Trial]:
    """In tables, boot files and contents of files that libwim wrote."""
    windows = make_windows_rig(rig.work_dir, source_dir=rig.out_dir)
    places = [*_planned_places(windows), *_file_places(rig, windows, rig.count)][: rig.count]
    words = f"install {windows.wim}:1 $dev {' '.join(map(str, windows.options))} --erase"
    for group in in_groups(places, GROUP_SIZE):
        disks = [copy_sparse(windows.used, rig.work_dir / f"d{n}.img") for n in range(len(group))]
        bad = [Bad(place.what, Faults(flipped=(place.at,))) for place in group]
        for place, ran in zip(group, run_group(rig, bad, disks, words), strict=True):
            point = f"{place.what}, byte {place.at:#x}"
            trouble = judge_refusal(ran, (_VERIFY_FAILED,), (place.words,))
            if ran.exit_code == 0:
                yield Trial(Verdict.FALSE_DONE, point, "not found")
            elif trouble is not None:
                yield Trial(Verdict.WRONG_WORDS, point, trouble)
            else:
                yield Trial(Verdict.NAMED, point, last_line(ran.output))


def _planned_places(windows: WindowsRig) -> list[_Place]:
    """Where the plan itself says what is written."""
    system_start, system_size = partitions_of(windows.expected)[0]
    inside = data_inside(windows.expected, system_start + 6 * MIB, system_start + system_size)
    return [
        _Place("GPT entries", 2 * windows.sector_size + 56, "[0x400,"),
        _Place("boot sector of the system volume", system_start + 3, f"at {system_start + 3:#x}"),
        _Place("a boot file", inside + 77, f"at {inside + 77:#x}"),
    ]


def _file_places(rig: Rig, windows: WindowsRig, count: int) -> list[_Place]:
    """In contents of files of the image, found by a part of them on the disk that is right."""
    tree = rig.work_dir / "tree"
    run("wimlib-imagex", "extract", windows.wim, "1", "--dest-dir", tree, "--no-acls")
    files = [
        path
        for path in sorted(tree.rglob("*"))
        if path.is_file() and path.stat().st_size >= 2 * _SAMPLE_SIZE
    ]
    start, size = partitions_of(windows.expected)[-1]
    with windows.expected.open("rb") as file:
        file.seek(start)
        volume = file.read(size)
    places = []
    for path in rig.rng.sample(files, min(count, len(files))):
        data = path.read_bytes()
        sample = rig.rng.randrange(len(data) // _SAMPLE_SIZE) * _SAMPLE_SIZE
        at = volume.find(data[sample : sample + _SAMPLE_SIZE])
        if at >= 0:
            at += start + rig.rng.randrange(_SAMPLE_SIZE)
            places.append(_Place(f"contents of {path.name}", at, path.name.lower()))
    return places


@cell("recovery add", "one bit flipped on the medium", points=6, short=0)
def flipped_in_recovery(rig: Rig) -> Iterator[Trial]:
    """In the new volume, in Windows' own, and in the table; then ``undo`` on a disk that works."""
    recovery = make_recovery_rig(rig.work_dir, source_dir=rig.out_dir)
    done = copy_sparse(recovery.before, rig.work_dir / "done.img")
    run(*recovery.add_words(done, rig.work_dir / "done.undo"))
    changed = _changed_sectors(recovery.before, done)
    table = [sector for sector in changed if sector < 34]
    sectors = [rig.rng.choice(table), *rig.rng.sample(changed, rig.count)][: rig.count]
    options = " ".join(map(str, recovery.options))
    words = f"recovery add $dev {options} --undo {rig.out_dir.resolve()}/undo$number"
    for group in in_groups(sectors, GROUP_SIZE):
        disks = [
            copy_sparse(recovery.before, rig.work_dir / f"gpt{n}.img") for n in range(len(group))
        ]
        for number in range(len(group)):
            (rig.out_dir / f"undo{number}").unlink(missing_ok=True)
        places = [sector * 512 + rig.rng.randrange(512) for sector in group]
        bad = [Bad("", Faults(flipped=(at,))) for at in places]
        rans = run_group(rig, bad, disks, words)
        for number, (at, disk, ran) in enumerate(zip(places, disks, rans, strict=True)):
            point = f"byte {at:#x}"
            undo = rig.out_dir / f"undo{number}"
            verdict, said = recovery.judge(
                disk, undo, is_done=ran.exit_code == 0, undo_options=("--force",)
            )
            trouble = judge_refusal(ran, (_VERIFY_FAILED,), ("does not hold what was written",))
            if trouble is None and not _is_in_range(at, last_line(ran.output)):
                trouble = f"another place is named: {last_line(ran.output)}"
            if verdict in {Verdict.COMPLETE, Verdict.PUT_BACK}:
                verdict = Verdict.NAMED if trouble is None else Verdict.WRONG_WORDS
                said = trouble or "undo --force gave back every byte"
            yield Trial(verdict, point, f"{last_line(ran.output)}; {said}")


def _changed_sectors(before: Path, after: Path) -> list[int]:
    """That differ, 512 bytes each."""
    old, new = before.read_bytes(), after.read_bytes()
    return [at // 512 for at in range(0, len(new), 512) if old[at : at + 512] != new[at : at + 512]]


def _is_in_range(at: int, words: str) -> bool:
    ranges = re.findall(r"\[0x([0-9a-f]+),0x([0-9a-f]+)\)", words)
    return any(int(start, 16) <= at < int(end, 16) for start, end in ranges)


@cell("wim optimize", "one bit flipped on the medium", points=60, short=3)
def flipped_in_wim(rig: Rig) -> Iterator[Trial]:
    """In what was made, later: ``wim verify`` finds it, as wimlib-imagex does.

    In a WIM without an integrity table nothing vouches for its header and its XML.
    """
    wims = make_wim_rig(rig.work_dir)
    made = []
    for number, way in enumerate(wims.ways):
        out = rig.work_dir / f"made{number}.wim"
        wims.prepare(way, out)
        run(*wims.words(way, out))
        made.append((way, out, out.read_bytes()))
    for number in range(rig.count):
        way, out, data = made[number % len(made)]
        at = rig.rng.randrange(208, _end_of_data(data))
        changed = bytearray(data)
        changed[at] ^= 1 << rig.rng.randrange(8)
        out.write_bytes(changed)
        ran = run_plain(mediamaker("wim", "verify", out, "--json"))
        out.write_bytes(data)
        point = f"{way.name}: byte {at:#x} of {len(data):#x}"
        trouble = judge_refusal(ran, (2, 3, _VERIFY_FAILED), ("",))
        if ran.exit_code == 0:
            yield Trial(Verdict.FALSE_DONE, point, "not found")
        elif trouble is not None:
            yield Trial(Verdict.WRONG_WORDS, point, trouble)
        else:
            yield Trial(Verdict.NAMED, point, last_line(ran.output))


def _end_of_data(data: bytes) -> int:
    """Where the lookup table begins: [208, that) are resources (WIM header, offset 0x30)."""
    return int.from_bytes(data[0x38:0x40], "little")


@cell("install", "fake capacity", points=6, short=0)
def fake_for_install(rig: Rig) -> Iterator[Trial]:
    """Found before anything is applied, called by its name, with the true size."""
    windows = make_windows_rig(rig.work_dir, source_dir=rig.out_dir)
    words = f"install {windows.wim}:1 $dev {' '.join(map(str, windows.options))} --erase"
    kinds = [(share, beyond) for beyond in ("wraps", "zeros") for share in (0.5, 0.34, 0.9)]
    for group in in_groups(kinds[: rig.count], GROUP_SIZE):
        bad, disks = [], []
        for number, (share, beyond) in enumerate(group):
            disk = copy_sparse(windows.used, rig.work_dir / f"d{number}.img")
            run("truncate", "--size", int(windows.size * share) // 512 * 512, disk)
            bad.append(Bad("", Faults(claimed_size=windows.size, beyond=beyond)))
            disks.append(disk)
        for (share, beyond), disk, ran in zip(
            group, disks, run_group(rig, bad, disks, words), strict=True
        ):
            yield _weigh_fake(windows, f"{share} of what it claims, then {beyond}", disk, ran)


def _weigh_fake(windows: WindowsRig, point: str, disk: Path, ran: Killed) -> Trial:
    verdict, said = windows.judge(disk)
    size = disk.stat().st_size
    trouble = judge_refusal(ran, (_FAILED,), (f"({windows.size} bytes), but holds",))
    if trouble is None and f"({size} bytes" not in last_line(ran.output):
        trouble = f"not {size} bytes: {last_line(ran.output)}"
    if trouble is None and '"phase": "apply"' in ran.output:
        trouble = "found when it was applying already"
    if ran.exit_code == 0:
        return Trial(Verdict.FALSE_DONE, point, said)
    if trouble is not None:
        return Trial(Verdict.WRONG_WORDS, point, trouble)
    return Trial(verdict, point, last_line(ran.output))
