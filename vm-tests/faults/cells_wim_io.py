# SPDX-License-Identifier: GPL-3.0-or-later
"""``wim optimize`` on a disk that fails, lies, or is unplugged meanwhile.

Source and output lie on ext4 on a USB disk of a guest; the old output outlives it, whole.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from guest import Guest

from faults.disk import Failing, Faults, FaultyDisk
from faults.kill import Killed
from faults.matrix import Rig, Trial, Verdict, cell
from faults.outcomes import judge_refusal, last_line
from faults.power_cut import Recording, Write
from faults.unplug import unplug_at
from faults.wim_rig import WimRig, digest, make_wim_rig
from faults.windows_rig import copy_sparse, mediamaker, run, run_any
from mediamaker.units import MIB
from mediamaker.vm.disk import Bus

_ENDED = "the command has ended"
_TIMEOUT_SECONDS = 1800.0


@dataclass(frozen=True, slots=True)
class _Holder:
    """The disk as it is before a run; in a whole run ``writes`` were made, of ``size`` bytes."""

    wims: WimRig
    pristine: Path
    source_offset: int
    writes: tuple[Write, ...]
    size: int


@cell("wim optimize", "EIO, or a flush that lies", points=10, short=0)
def disk_fails(rig: Rig) -> Iterator[Trial]:
    """While the source is read, and while the output is written."""
    holder = _make_holder(rig)
    for name, faults in list(_bad_disks(holder).items())[: rig.count]:
        ran, disk = _run(rig, holder, faults, None)
        yield _weigh(rig, holder, name, ran, disk)


@cell("wim optimize", "unplugged", points=4, short=0)
def unplugged(rig: Rig) -> Iterator[Trial]:
    """At 1, 25, 50 and 99 % of what a whole run writes."""
    holder = _make_holder(rig)
    for percent in (1, 25, 50, 99)[: rig.count]:
        at = max(1, holder.size * percent // 100)
        ran, disk = _run(rig, holder, Faults(), at)
        yield _weigh(rig, holder, f"at {percent} %", ran, disk)


def _bad_disks(holder: _Holder) -> dict[str, Faults]:
    data = max(holder.writes, key=lambda write: write.size)
    last = max(holder.writes, key=lambda write: write.offset)
    at = data.offset + data.size // 2 // 4096 * 4096
    source = holder.source_offset + holder.wims.source.stat().st_size // 2 // 4096 * 4096

    def failing(kind: str, start: int, size: int, left: int | None = None) -> Faults:
        return Faults(failing=(Failing(kind, start, start + size, left),))

    return {
        "EIO on one LBA of the source": failing("read", source, 512),
        "EIO on one LBA of the source, once": failing("read", source, 512, 1),
        "EIO on one LBA of the output": failing("write", at, 512),
        "EIO on a range of the output": failing("write", data.offset, data.size),
        "EIO on one LBA of the output, once": failing("write", at, 512, 1),
        "EIO at the last place that is written": failing("write", last.offset, last.size),
        "dead after 2 %": Faults(dead_after_size=holder.size * 2 // 100),
        "dead after 50 %": Faults(dead_after_size=holder.size // 2),
        "dead after 95 %": Faults(dead_after_size=holder.size * 95 // 100),
        "lies from 40 % on, then the power cut": Faults(lies_from_size=holder.size * 40 // 100),
    }


def _make_holder(rig: Rig) -> _Holder:
    wims = make_wim_rig(rig.work_dir, size=6_000_000)
    tree = rig.work_dir / "tree"
    tree.mkdir()
    run("cp", wims.source, tree / "source.wim")
    run("cp", wims.old, tree / "out.wim")
    pristine = rig.work_dir / "pristine.img"
    with pristine.open("wb") as file:
        file.truncate(96 * MIB)
    run("mkfs.ext4", "-q", "-F", "-d", tree, pristine)
    # In one piece on an empty file system.
    source_offset = pristine.read_bytes().find(wims.source.read_bytes()[:4096])
    holder = _Holder(wims, pristine, source_offset, (), 0)
    ran, disk = _run(rig, holder, Faults(is_logging=True), None)
    trial = _weigh(rig, holder, "", ran, disk)
    if trial.verdict is not Verdict.COMPLETE:
        raise RuntimeError(f"without a fault: {trial}")
    log = rig.out_dir / "disk" / "writes.log"
    writes = [write for write in Recording(log, disk).requests if isinstance(write, Write)]
    log.unlink()
    return _Holder(
        wims, pristine, source_offset, tuple(writes), sum(write.size for write in writes)
    )


def _run(rig: Rig, holder: _Holder, faults: Faults, pulled_at: int | None) -> tuple[Killed, Path]:
    disk = copy_sparse(holder.pristine, rig.work_dir / "disk.img")
    script = f"""
modprobe ext4
mkdir -p /mnt/bad
mount -t ext4 /dev/sda /mnt/bad
code=0
python3 -m mediamaker wim optimize /mnt/bad/source.wim /mnt/bad/out.wim --force --for network \\
    --json > run.json 2> run.err || code=$?
echo $code > run.code
echo "{_ENDED}" > /dev/ttyS0
umount -l /mnt/bad || true
"""
    with FaultyDisk(disk, faults, folder=rig.out_dir / "disk") as faulty:
        machine = Guest(
            script,
            disks=[faulty.attach(Bus.USB, serial="BAD0")],
            work_dir=rig.out_dir,
            memory_size=1024 * MIB,
        )
        with machine:
            if pulled_at is None:
                machine.machine.wait_for_serial(_ENDED, timeout=_TIMEOUT_SECONDS)
            else:
                unplug_at(machine, faulty, pulled_at)
            result = machine.wait(timeout=_TIMEOUT_SECONDS)
    assert result.exit_code == 0, result.output
    texts = [(rig.out_dir / f"run.{ending}").read_text() for ending in ("code", "json", "err")]
    return Killed(int(texts[0]), texts[1], texts[2]), disk


def _weigh(rig: Rig, holder: _Holder, name: str, ran: Killed, disk: Path) -> Trial:
    """What is found once the disk works again, and the file system's journal is replayed."""
    run_any("e2fsck", "-fy", disk)
    found = rig.work_dir / "found.wim"
    found.unlink(missing_ok=True)
    run("debugfs", "-R", f"dump /out.wim {found}", disk)
    words = f"exit {ran.exit_code}: {last_line(ran.output)}"
    wims = holder.wims
    if not found.exists():
        return Trial(Verdict.LOST, name, f"the old output is gone; {words}")
    if digest(found) == digest(wims.old):
        if ran.exit_code:
            trouble = judge_refusal(ran, (3, 4, 6), ("input/output", "i/o", "error", "read-only"))
            verdict = Verdict.AS_BEFORE if trouble is None else Verdict.WRONG_WORDS
            return Trial(verdict, name, trouble or words)
        # A disk that lied: nobody can know, and the old file is whole.
        verdict = Verdict.AS_BEFORE if "lies" in name else Verdict.FALSE_DONE
        return Trial(verdict, name, words)
    trouble = wims.find_trouble(wims.ways[1], found)
    if trouble is None:
        return Trial(Verdict.COMPLETE, name, words)
    verify = run_any(*mediamaker("wim", "verify", found, "--json"))
    if "lies" in name and verify.returncode:
        return Trial(Verdict.NAMED, name, f"{words}; wim verify: {last_line(verify.stdout)}")
    return Trial(Verdict.HALF_VALID, name, f"{trouble}; {words}")
