# SPDX-License-Identifier: GPL-3.0-or-later
"""``wim optimize`` on a disk that can't be read, or that is unplugged meanwhile."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

from guest import Guest

from faults.disk import Failing, Faults, FaultyDisk
from faults.kill import Killed
from faults.matrix import Rig, Trial, Verdict, cell
from faults.outcomes import judge_refusal, last_line
from faults.unplug import unplug_at as pull_at
from faults.wim_rig import Way, WimRig, digest, make_wim_rig
from faults.windows_rig import copy_sparse, run, run_any
from mediamaker.units import MIB
from mediamaker.vm.disk import Bus


@cell("wim optimize", "disk fails or is unplugged", points=6, short=0)
def disk_fails(rig: Rig) -> Iterator[Trial]:
    """Source and output on ext4 on a USB disk; the old output outlives it, whole."""
    wim = make_wim_rig(rig.work_dir, size=6_000_000)
    tree = rig.work_dir / "tree"
    tree.mkdir()
    run("cp", wim.source, tree / "source.wim")
    run("cp", wim.old, tree / "out.wim")
    pristine, disk = rig.work_dir / "pristine.img", rig.work_dir / "disk.img"
    with pristine.open("wb") as file:
        file.truncate(96 * MIB)
    run("mkfs.ext4", "-q", "-F", "-d", tree, pristine)
    at = _find(pristine, wim.source) + wim.source.stat().st_size // 2
    read_fails = Faults(failing=(Failing("read", at, at + 4096),))
    trials: list[tuple[str, Faults, int | None]] = [
        ("EIO while reading the source", read_fails, None),
        ("dead after 64 KiB", Faults(dead_after_size=64 * 1024), None),
        ("unplugged after 512 KiB", Faults(), MIB // 2),
        ("unplugged after 1 MiB", Faults(), MIB),
        ("unplugged after 3 MiB", Faults(), 3 * MIB),
        ("dead after 3 MiB", Faults(dead_after_size=3 * MIB), None),
    ]
    for name, faults, unplug_at in trials[: rig.count]:
        copy_sparse(pristine, disk)
        ran = _run(rig, disk, faults, unplug_at)
        # What a reader of the disk finds when it works again: the journal is replayed.
        run_any("e2fsck", "-fy", disk)
        found = rig.work_dir / "found.wim"
        found.unlink(missing_ok=True)
        run("debugfs", "-R", f"dump /out.wim {found}", disk)
        yield _weigh(name, ran, found, wim.ways[1], wim)


def _weigh(name: str, ran: Killed, found: Path, way: Way, wim: WimRig) -> Trial:
    words = f"exit {ran.exit_code}: {last_line(ran.output)}"
    if not found.exists():
        return Trial(Verdict.LOST, name, f"the old output is gone; {words}")
    if digest(found) == digest(wim.old):
        if ran.exit_code == 0:
            return Trial(Verdict.FALSE_DONE, name, words)
        trouble = judge_refusal(ran, (3, 4, 6), ("input/output", "i/o", "error", "read-only"))
        if trouble:
            return Trial(Verdict.WRONG_WORDS, name, trouble)
        return Trial(Verdict.AS_BEFORE, name, words)
    trouble = wim.find_trouble(way, found)
    if trouble:
        return Trial(Verdict.HALF_VALID, name, f"{trouble}; {words}")
    return Trial(Verdict.COMPLETE, name, words)


def _run(rig: Rig, disk: Path, faults: Faults, unplug_at: int | None) -> Killed:
    script = """
modprobe ext4
mkdir -p /mnt/bad
mount -t ext4 /dev/sda /mnt/bad
code=0
python3 -m mediamaker wim optimize /mnt/bad/source.wim /mnt/bad/out.wim --force --for network \\
    --json > run.json 2> run.err || code=$?
echo $code > run.code
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
            if unplug_at is not None:
                pull_at(machine, faulty, unplug_at)
            result = machine.wait(timeout=1800)
    assert result.exit_code == 0, result.output
    texts = [(rig.out_dir / f"run.{ending}").read_text() for ending in ("code", "json", "err")]
    return Killed(int(texts[0]), texts[1], texts[2])


def _find(image: Path, wim: Path) -> int:
    """Where the file lies in the file system; it is in one piece on an empty one."""
    return image.read_bytes().find(wim.read_bytes()[:4096])
