# SPDX-License-Identifier: GPL-3.0-or-later
"""``recovery add`` and ``undo`` on a disk in a guest, with the power cut.

The undo file lies on another disk, which the cut does not harm: it is flushed, with its name,
before the first change, and a cell of ``wim optimize`` cuts the power to a file system.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

from guest import run_in_guest

from faults.disk import Faults, FaultyDisk
from faults.matrix import Rig, Trial, Verdict, cell
from faults.power_cut import Recording
from faults.recovery_rig import RecoveryRig, make_recovery_rig
from faults.windows_rig import copy_sparse, is_same
from mediamaker.units import MIB
from mediamaker.vm.disk import Bus

_SERIAL = "CUT3"


@cell("recovery add", "power cut", points=110, short=0)
def cut_add(rig: Rig) -> Iterator[Trial]:
    """GPT on NVMe: every state leads back to the disk from before."""
    recovery = make_recovery_rig(rig.work_dir, source_dir=rig.out_dir)
    disk, undo, log = _record(rig, recovery, "gpt", Bus.NVME, "/dev/nvme0n1")
    assert recovery.judge(disk, undo, is_done=True)[0] is Verdict.COMPLETE
    yield from _judge_states(rig, recovery, log, recovery.before, undo, "recovery-add")


@cell("recovery add", "power cut, MBR on USB", points=24, short=0)
def cut_add_mbr(rig: Rig) -> Iterator[Trial]:
    """The same with an MBR and a boot store on NTFS."""
    recovery = make_recovery_rig(rig.work_dir, kind="mbr", source_dir=rig.out_dir)
    disk, undo, log = _record(rig, recovery, "mbr", Bus.USB, "/dev/sda")
    assert recovery.judge(disk, undo, is_done=True)[0] is Verdict.COMPLETE
    yield from _judge_states(rig, recovery, log, recovery.before, undo, "recovery-add")


@cell("undo", "power cut", points=40, short=0)
def cut_undo(rig: Rig) -> Iterator[Trial]:
    """The power goes during ``undo``: the next one ends it."""
    recovery = make_recovery_rig(rig.work_dir, source_dir=rig.out_dir)
    disk, undo, log = _record(rig, recovery, "gpt", Bus.NVME, "/dev/nvme0n1")
    changed = copy_sparse(disk, rig.work_dir / "changed.img")
    words = f"undo {undo} /dev/nvme0n1 --confirm {_SERIAL} --json"
    log = _run(rig, "undo", words, disk, Bus.NVME)
    assert is_same(disk, recovery.before)
    yield from _judge_states(rig, recovery, log, changed, undo, "undo")


def _record(
    rig: Rig, recovery: RecoveryRig, kind: str, bus: Bus, device: str
) -> tuple[Path, Path, Path]:
    """The disk after a run to the end, the undo file, and the log of its writes."""
    disk = copy_sparse(recovery.before, rig.work_dir / f"disk-{kind}.img")
    undo = rig.out_dir.resolve() / "undo"
    undo.unlink(missing_ok=True)
    options = " ".join(map(str, recovery.options))
    words = f"recovery add {device} {options} --undo {undo} --confirm {_SERIAL}"
    return disk, undo, _run(rig, "recovery-add", words, disk, bus)


def _run(rig: Rig, event: str, words: str, disk: Path, bus: Bus) -> Path:
    """The log; what the command says goes to a file by the name of its last event."""
    said = _said(rig)
    said.mkdir(exist_ok=True)
    faults = Faults(is_logging=True, watched_folder=str(said))
    with FaultyDisk(disk, faults, folder=rig.out_dir / "disk") as faulty:
        ran = run_in_guest(
            f"python3 -m mediamaker {words} > said/{event}",
            disks=[faulty.attach(bus, serial=_SERIAL)],
            work_dir=rig.out_dir,
            timeout=1800,
            memory_size=2048 * MIB,
        )
    assert ran.exit_code == 0, ran.output
    return faulty.log


def _said(rig: Rig) -> Path:
    return rig.out_dir / "said"


def _judge_states(
    rig: Rig, recovery: RecoveryRig, log: Path, first: Path, undo: Path, event: str
) -> Iterator[Trial]:
    """``event``: by which the command called itself done; all of it must be on the disk then."""
    recording = Recording(log, copy_sparse(first, rig.work_dir / "state.img"))
    claim = recording.claimed_at(_said(rig) / event, event)
    done = Verdict.AS_BEFORE if event == "undo" else Verdict.COMPLETE
    kind = "gpt" if "gpt" in recovery.before.name else "mbr"
    with recording.states(rig.rng, rig.count, claims=[claim]) as cuts:
        for cut in cuts:
            disk = copy_sparse(recording.image, rig.work_dir / f"judged-{kind}.img")
            verdict, said = cut.weigh(claim, *recovery.judge(disk, undo, is_done=False), done=done)
            yield Trial(verdict, cut.describe(len(recording.requests)), said)
    log.unlink()
    undo.unlink()
