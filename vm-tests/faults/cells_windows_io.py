# SPDX-License-Identifier: GPL-3.0-or-later
"""``install`` and ``recovery add`` onto disks that fail: EIO, dead, unplugged, or lying.

The disks fail below QEMU; what is judged is the medium, once the disk works again.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from guest import Guest, run_in_guest

from faults.cells_create_unplug import MOUNT_HOLDER, fill_holder, pull
from faults.commands import in_groups
from faults.disk import Failing, Faults, FaultyDisk
from faults.kill import Killed
from faults.matrix import BAD, Rig, Trial, Verdict, cell
from faults.outcomes import judge_refusal, last_line, run_plain
from faults.recovery_rig import make_recovery_rig
from faults.unplug import unplug_at
from faults.windows_rig import (
    copy_sparse,
    data_inside,
    make_windows_rig,
    mediamaker,
    partitions_of,
)
from mediamaker.units import KIB, MIB
from mediamaker.vm.disk import Bus

_FAILED = ("input/output error", "failed", "i/o error")
_NO_DISK = 3
_CHECK_FAILED = 5
GROUP_SIZE = 3
"""Disks of one guest."""


@dataclass(frozen=True, slots=True)
class Bad:
    """A disk and what it does wrong."""

    name: str
    faults: Faults


def _bad_disks(start: int, size: int, middle: int, disk_size: int, written: int) -> tuple[Bad, ...]:
    """``[start, start + size)`` and ``middle`` are written; ``written``: bytes of a whole run."""
    return (
        Bad("EIO on one LBA", Faults(failing=(Failing("write", middle, middle + 512),))),
        Bad("EIO on a range", Faults(failing=(Failing("write", start, start + size),))),
        Bad("EIO once", Faults(failing=(Failing("write", middle, middle + 4096, 1),))),
        Bad("EIO at the end", Faults(failing=(Failing("write", disk_size - 4096, disk_size),))),
        Bad("EIO on sector 0", Faults(failing=(Failing("write", 0, 512),))),
        Bad("EIO when read back", Faults(failing=(Failing("read", middle, middle + 4096),))),
        *(
            Bad(f"dead after {share} %", Faults(dead_after_size=written * share // 100))
            for share in (2, 50, 95)
        ),
    )


@cell("install", "EIO", points=9, short=0)
def install_eio(rig: Rig) -> Iterator[Trial]:
    """GPT on USB disks, three in a guest."""
    windows = make_windows_rig(rig.work_dir, source_dir=rig.out_dir)
    start, size = partitions_of(windows.expected)[-1]
    words = f"install {windows.wim}:1 $dev {' '.join(map(str, windows.options))} --erase"
    written = _written_size(rig, windows.used, words)
    # The first clusters of the Windows volume, and where libwim put contents of files.
    inside = data_inside(windows.expected, start + 4 * MIB, start + size - 4 * MIB)
    bad = _bad_disks(start, 64 * 1024, inside, windows.size, written)[: rig.count]
    for group in in_groups(bad, GROUP_SIZE):
        disks = [copy_sparse(windows.used, rig.work_dir / f"d{n}.img") for n in range(len(group))]
        rans = run_group(rig, group, disks, words)
        for one, disk, ran in zip(group, disks, rans, strict=True):
            verdict, said = windows.judge(disk)
            yield _weigh(one.name, ran, verdict, said)


@cell("recovery add", "EIO", points=9, short=0)
def recovery_eio(rig: Rig) -> Iterator[Trial]:
    """Of what was changed ``undo`` gives back every byte, once the disk works again."""
    recovery = make_recovery_rig(rig.work_dir, source_dir=rig.out_dir)
    size = recovery.before.stat().st_size
    # Where the new recovery volume will be: at the end of what Windows had.
    start, windows_size = partitions_of(recovery.before)[2]
    new = start + windows_size - 32 * MIB
    options = " ".join(map(str, recovery.options))
    words = f"recovery add $dev {options} --undo {rig.out_dir.resolve()}/undo$number"
    written = _written_size(rig, recovery.before, words)
    bad = _bad_disks(new, 64 * 1024, new + 32 * 1024, size, written)[: rig.count]
    for group in in_groups(bad, GROUP_SIZE):
        disks = [
            copy_sparse(recovery.before, rig.work_dir / f"gpt{n}.img") for n in range(len(group))
        ]
        for number in range(len(group)):
            (rig.out_dir / f"undo{number}").unlink(missing_ok=True)
        rans = run_group(rig, group, disks, words)
        for number, (one, disk, ran) in enumerate(zip(group, disks, rans, strict=True)):
            undo = rig.out_dir / f"undo{number}"
            verdict, said = recovery.judge(disk, undo, is_done=ran.exit_code == 0)
            yield _weigh(one.name, ran, verdict, said)


def _weigh(point: str, ran: Killed, verdict: Verdict, said: str) -> Trial:
    if ran.exit_code == 0:
        if verdict is not Verdict.COMPLETE:
            verdict = Verdict.FALSE_DONE
        return Trial(verdict, point, f"{said}; the command went on and ended well")
    trouble = judge_refusal(ran, (5, 6), _FAILED)
    if trouble is not None and verdict not in BAD:
        return Trial(Verdict.WRONG_WORDS, point, trouble)
    words = last_line(ran.output)
    if trouble is None and verdict is Verdict.HALF_VALID and "could not be blanked" in words:
        verdict = Verdict.NAMED
    return Trial(verdict, point, f"{said}; exit {ran.exit_code}: {words}")


def run_group(rig: Rig, group: Sequence[Bad], disks: list[Path], words: str) -> list[Killed]:
    """One guest, at most GROUP_SIZE disks; ``words`` may use each one's ``$dev``, ``$number``."""
    script = _script(range(len(group)), words)
    with contextlib.ExitStack() as stack:
        faulty = [
            stack.enter_context(FaultyDisk(disk, one.faults, folder=rig.out_dir / f"disk{number}"))
            for number, (one, disk) in enumerate(zip(group, disks, strict=True))
        ]
        ran = run_in_guest(
            script,
            disks=[disk.attach(Bus.USB, serial=f"BAD{n}") for n, disk in enumerate(faulty)],
            work_dir=rig.out_dir,
            timeout=2400,
            memory_size=2048 * MIB,
        )
    assert ran.exit_code == 0, ran.output
    return [_read_run(rig.out_dir, number) for number in range(len(group))]


def _script(numbers: Sequence[int] | range, words: str) -> str:
    return f"""
for number in {" ".join(map(str, numbers))}; do
    dev=$(lsblk --nodeps --noheadings --paths --output NAME,SERIAL | awk "\\$2==\\"BAD$number\\"{{print \\$1}}")
    code=0
    extra="--confirm BAD$number"
    case "{words}" in install*) extra="$extra --allow-fixed-disk";; esac
    python3 -m mediamaker {words} $extra > run$number.json 2> run$number.err || code=$?
    echo $code > run$number.code
done
"""  # noqa: E501 - a line of shell


def _read_run(folder: Path, number: int) -> Killed:
    texts = [(folder / f"run{number}.{ending}").read_text() for ending in ("code", "json", "err")]
    return Killed(int(texts[0]), texts[1], texts[2])


@cell("install", "unplugged", points=4, short=0)
def install_unplugged(rig: Rig) -> Iterator[Trial]:
    """A USB disk, at 1, 25, 50 and 99 % of what a whole run writes, which is measured first."""
    windows = make_windows_rig(rig.work_dir, source_dir=rig.out_dir)
    words = f"install {windows.wim}:1 $dev {' '.join(map(str, windows.options))} --erase"
    disk = rig.work_dir / "d0.img"
    for percent, ran, at in _pulled(rig, windows.used, disk, words):
        verdict, said = windows.judge(disk)
        yield _weigh(f"at {percent} %", ran, verdict, f"after {at} bytes: {said}")


@cell("install", "the source's stick is unplugged", points=3, short=0)
def unplug_source(rig: Rig) -> Iterator[Trial]:
    """The WIM lies on another USB stick's file system."""
    windows = make_windows_rig(rig.work_dir, source_dir=rig.out_dir.resolve())
    holder = rig.work_dir / "holder.img"
    options = " ".join(map(str, windows.options))
    words = f"install {windows.wim}:1 $dev {options} --erase"
    written = _written_size(rig, windows.used, words)
    for number, percent in enumerate((10, 50, 90)[: rig.count]):
        with holder.open("wb") as file:
            file.truncate(128 * MIB)
        file_system = ("vfat", "ext4")[number % 2]
        fill_holder(holder, windows.wim, file_system)
        disk = copy_sparse(windows.used, rig.work_dir / "disk.img")
        folder = rig.out_dir / f"source-at-{percent}"
        size = written * percent // 100
        with (
            FaultyDisk(disk, Faults(pauses_at_size=size), folder=folder / "disk") as target,
            FaultyDisk(holder, folder=folder / "holder") as source,
        ):
            disks = [
                target.attach(Bus.USB, serial="BAD0"),
                source.attach(Bus.USB, serial="HOLDER"),
            ]
            install = f"install /mnt/source.iso:1 /dev/$stick {options} --erase --confirm BAD0"
            script = f"{MOUNT_HOLDER}\nmm install {install}\n"
            pull(folder, script, disks, target, 1, memory_size=2048 * MIB)
        texts = [(folder / f"install.{ending}").read_text() for ending in ("code", "json", "err")]
        ran = Killed(int(texts[0]), texts[1], texts[2])
        verdict, said = windows.judge(disk)
        point = f"at {percent} %, on {file_system}"
        trouble = judge_refusal(ran, (3,), ("/mnt/source.iso",)) if ran.exit_code else None
        if ran.exit_code == 0 and verdict is not Verdict.COMPLETE:
            verdict = Verdict.FALSE_DONE
        if trouble is not None and verdict is not Verdict.HALF_VALID:
            verdict, said = Verdict.WRONG_WORDS, trouble
        yield Trial(verdict, point, f"{said}; exit {ran.exit_code}: {last_line(ran.output)}")


@cell("recovery add", "unplugged", points=4, short=0)
def recovery_unplugged(rig: Rig) -> Iterator[Trial]:
    """The same; plugged in again, ``undo`` gives back every byte."""
    recovery = make_recovery_rig(rig.work_dir, source_dir=rig.out_dir)
    undo = rig.out_dir.resolve() / "undo"
    words = f"recovery add $dev {' '.join(map(str, recovery.options))} --undo {undo}"
    disk = rig.work_dir / "gpt0.img"
    for percent, ran, at in _pulled(rig, recovery.before, disk, f"{words}$number"):
        path = undo.with_name("undo0")
        verdict, said = recovery.judge(disk, path, is_done=ran.exit_code == 0)
        path.unlink(missing_ok=True)
        yield _weigh(f"at {percent} %", ran, verdict, f"after {at} bytes: {said}")


def _pulled(rig: Rig, before: Path, disk: Path, words: str) -> Iterator[tuple[int, Killed, int]]:
    """For each share in percent: how it ended, and how many bytes came to ``disk``."""
    written = _written_size(rig, before, words)
    for percent in (1, 25, 50, 99)[: rig.count]:
        copy_sparse(before, disk)
        ran, at = _pull(rig, disk, words, written * percent // 100)
        yield percent, ran, at


def _written_size(rig: Rig, before: Path, words: str) -> int:
    """What a disk is given by a run to the end."""
    disk = copy_sparse(before, rig.work_dir / "whole.img")
    ran, size = _pull(rig, disk, words, None)
    if ran.exit_code:
        raise RuntimeError(f"without a fault: {ran}")
    disk.unlink()
    for leftover in rig.out_dir.glob("undo*"):
        leftover.unlink()
    return size


def _pull(rig: Rig, disk: Path, words: str, at: int | None) -> tuple[Killed, int]:
    """Run with the disk unplugged after ``at`` bytes; how it ended, and how much was written."""
    with FaultyDisk(disk, folder=rig.out_dir / "disk") as faulty:
        machine = Guest(
            _script([0], words),
            disks=[faulty.attach(Bus.USB, serial="BAD0")],
            work_dir=rig.out_dir,
            memory_size=2048 * MIB,
        )
        with machine:
            if at is not None and not unplug_at(machine, faulty, at):
                raise RuntimeError(f"ended ahead of {at} bytes: {faulty.told()}")
            result = machine.wait(timeout=2400)
        assert result.exit_code == 0, result.output
        return _read_run(rig.out_dir, 0), faulty.told().written_size


@cell("recovery add", "flush that lies, then power cut", points=3, short=0)
def recovery_lied_to(rig: Rig) -> Iterator[Trial]:
    """`recovery check` says that it is not there; ``undo`` gives back what was before."""
    recovery = make_recovery_rig(rig.work_dir, source_dir=rig.out_dir)
    options = " ".join(map(str, recovery.options))
    words = f"recovery add $dev {options} --undo {rig.out_dir.resolve()}/undo$number"
    written = _written_size(rig, recovery.before, words)
    sizes = (64 * KIB, written * 40 // 100, written * 95 // 100)[: rig.count]
    bad = [Bad(f"from {size} bytes on", Faults(lies_from_size=size)) for size in sizes]
    disks = [copy_sparse(recovery.before, rig.work_dir / f"gpt{n}.img") for n in range(len(bad))]
    for number, (one, disk, ran) in enumerate(
        zip(bad, disks, run_group(rig, bad, disks, words), strict=True)
    ):
        check = run_plain(mediamaker("recovery", "check", disk, "--json"))
        verdict, said = recovery.judge(disk, rig.out_dir / f"undo{number}", is_done=False)
        yield _weigh_lied_to(one, ran, check, verdict, said)


@cell("install", "flush that lies, then power cut", points=3, short=0)
def install_lied_to(rig: Rig) -> Iterator[Trial]:
    """The disk says that it has all and reads it back, and loses what came after a point.

    Nothing that reads through such a disk can tell; once the power has been off, `recovery check`
    does.
    """
    shares = [(20, None), (60, None), (90, None)]
    yield from _install_lied_to(rig, shares[: rig.count])


@cell("install", "flush that lies for a while, then power cut", points=3, short=0)
def install_lied_to_for_a_while(rig: Rig) -> Iterator[Trial]:
    """The table that comes last is there, and what the disk lost before it is not.

    `recovery check` looks at what starts WinRE: a loss elsewhere it can't name.
    """
    shares: list[tuple[int, int | None]] = [(20, 30), (45, 70), (94, 98)]
    yield from _install_lied_to(rig, shares[: rig.count])


def _install_lied_to(rig: Rig, shares: Sequence[tuple[int, int | None]]) -> Iterator[Trial]:
    windows = make_windows_rig(rig.work_dir, source_dir=rig.out_dir, has_recovery=True)
    words = f"install {windows.wim}:1 $dev {' '.join(map(str, windows.options))} --erase"
    written = _written_size(rig, windows.used, words)
    bad = []
    for start, end in shares:
        until = None if end is None else written * end // 100
        faults = Faults(lies_from_size=written * start // 100, lies_until_size=until)
        name = f"from {start} % on" if end is None else f"from {start} to {end} %"
        bad.append(Bad(f"{name} of {written} bytes", faults))
    disks = [copy_sparse(windows.used, rig.work_dir / f"d{n}.img") for n in range(len(bad))]
    for one, disk, ran in zip(bad, disks, run_group(rig, bad, disks, words), strict=True):
        verdict, said = windows.judge(disk)
        check = run_plain(mediamaker("recovery", "check", disk, "--json"))
        yield _weigh_lied_to(one, ran, check, verdict, said)


def _weigh_lied_to(bad: Bad, ran: Killed, check: Killed, verdict: Verdict, said: str) -> Trial:
    """What wrote can't know; what looks later must, where the disk lost what comes last as well."""
    point, is_for_a_while = bad.name, bad.faults.lies_until_size is not None
    said = f"{said}; recovery check: exit {check.exit_code}: {last_line(check.output)}"
    if ran.exit_code or ran.errors:
        words = f"exit {ran.exit_code}: {last_line(ran.output)} {ran.errors[-200:]}"
        return Trial(Verdict.WRONG_WORDS, point, words)
    if verdict is Verdict.COMPLETE:
        verdict = Verdict.COMPLETE if is_for_a_while else Verdict.WRONG_WORDS
        return Trial(verdict, point, f"what it lost was there from before: {said}")
    if verdict is Verdict.LOST:
        return Trial(verdict, point, said)
    is_bare = check.exit_code == _NO_DISK and "no partition table" in said
    if (check.exit_code == _CHECK_FAILED or is_bare) and not check.errors:
        return Trial(Verdict.NAMED, point, said)
    if check.exit_code or check.errors:
        return Trial(Verdict.WRONG_WORDS, point, said)
    # No verb compares an installed disk with its image later (docs/install.md).
    return Trial(Verdict.UNKNOWABLE if is_for_a_while else Verdict.FALSE_DONE, point, said)
